//! Names inside an image, as a closed type, and what a layer means by them.

use std::fmt;

use crate::error::{PathProblem, Shown};

/// Longest path: Linux's `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4096;

/// Longest file name: Linux's `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 255;

/// Prefix of a whiteout (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// Prefix of aufs' own files, of which only the opaque marker means anything (layer.md, "Opaque Whiteout").
const WHITEOUT_META: &[u8] = b".wh..wh.";

/// The opaque marker.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// A path below the root of an image: components joined by `/`, each 1 to 255 bytes without NUL and none of them `.` or `..`;
/// empty for the root itself. Bytes, not text: any other byte may be in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryPath(Box<[u8]>);

/// What an entry of a layer does with its path, going by the name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It is there.
    Present(EntryPath),
    /// This path is hidden in lower layers.
    Whiteout(EntryPath),
    /// Everything below this directory is hidden in lower layers.
    Opaque(EntryPath),
    /// aufs' bookkeeping: means nothing.
    Nothing,
}

// === impl EntryPath ===

impl EntryPath {
    /// Normalises a name: leading and doubled slashes and `.` components go; `..` is refused wherever it stands, since readers differ in what they make of it.
    pub fn parse(raw: &[u8]) -> Result<Self, PathProblem> {
        if raw.contains(&0) {
            return Err(PathProblem::Nul);
        }
        let mut path = Vec::with_capacity(raw.len().min(MAX_PATH_BYTES));
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathProblem::Parent),
                long if long.len() > MAX_NAME_BYTES => return Err(PathProblem::NameTooLong),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            if path.len() > MAX_PATH_BYTES {
                return Err(PathProblem::TooLong);
            }
        }
        Ok(Self(path.into_boxed_slice()))
    }

    /// The components from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
    }

    /// The directory it is in (empty for the root's own children) and its name there; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => Some((self.0.get(..slash)?, self.0.get(slash + 1..)?)),
            None => Some((&[], &self.0)),
        }
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Components joined by `/`, without a leading one.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For an error or a log line.
    pub fn shown(&self) -> Shown {
        Shown::new(&self.0)
    }

    /// The path of a sibling. The caller knows that the name is valid and not longer than its own.
    fn with_name(&self, name: &[u8]) -> Self {
        let (parent, _) = self.split().unwrap_or_default();
        let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
        Self([parent, slash, name].concat().into_boxed_slice())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shown(), f)
    }
}

// === impl Meaning ===

impl Meaning {
    /// Reads a path as layer.md says. A whiteout's type, size and content mean nothing.
    pub(crate) fn of(path: EntryPath) -> Result<Self, PathProblem> {
        let Some((parent, name)) = path.split() else { return Ok(Self::Present(path)) };
        if parent.split(|&byte| byte == b'/').any(|component| component.starts_with(WHITEOUT_META)) {
            return Ok(Self::Nothing);
        }
        if name == OPAQUE {
            return Ok(Self::Opaque(EntryPath(parent.into())));
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(Self::Nothing);
        }
        match name.strip_prefix(WHITEOUT) {
            None => Ok(Self::Present(path)),
            Some(b"" | b"." | b"..") => Err(PathProblem::Whiteout),
            Some(hidden) => Ok(Self::Whiteout(path.with_name(hidden))),
        }
    }
}

#[cfg(test)]
mod tests;
