//! The layers of an OCI artifact as one directory tree: blobs as files under their titles, tars unpacked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use imagevol_erofs::{Attributes, Content, Extent, Node, NodeId, Tree};

use crate::error::{LayerError, PathProblem, Result, Shown};
use crate::index::LayerIndex;
use crate::limits::Limits;
use crate::merge::{Merger, Place};
use crate::path::EntryPath;

/// Annotations that name a layer's file, first come first: OCI image-spec (annotations.md), and those of the model specification by its two owners.
const TITLE_KEYS: [&str; 3] = ["org.opencontainers.image.title", "org.cncf.model.filepath", "org.cnai.model.filepath"];

/// ORAS' mark on a layer that is a directory packed as a tar, whose entries already begin with the title.
const UNPACK_KEY: &str = "io.deis.oras.content.unpack";

/// The type that ORAS gives a file whose type its user does not name, whatever is in it (oras-go, `content/file/file.go`,
/// `defaultBlobMediaType`).
const UNTYPED_FILE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Mode of a blob's file: artifacts have no modes, and what is mounted is read-only.
const FILE_MODE: u16 = 0o444;

/// A relative file name of an artifact: at least one component, each 1 to 255 bytes, none of them `.` or `..`, no control characters.
/// A leading `./` and a trailing `/` are dropped. A backslash is a character like any other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Title(EntryPath);

/// One layer of an artifact.
#[derive(Debug, Clone)]
pub enum Item<'l> {
    /// A blob as a file.
    File {
        /// Its name.
        title: Title,
        /// Bytes; they start at offset 0 of the device.
        size: u64,
        /// The device that is the blob.
        device: u16,
    },
    /// A tar as what it contains, with whiteouts as in a layer.
    Archive {
        /// Its entries.
        index: &'l LayerIndex,
        /// The device that is the tar.
        device: u16,
        /// The directory to unpack it in, which it cannot leave; the root if `None`.
        under: Option<Title>,
    },
}

/// Puts the layers of an artifact together, in their order: of two files of one name the later wins, archives go on top of what is
/// there as layers do. Blobs become files of mode 0444, the directories in titles have 0755; all are root's, from 1970.
///
/// # Errors
/// [`LayerError::TitleConflict`] if a title needs a directory where a file is, or the reverse; else what merging layers can end in.
pub fn assemble<'l>(items: impl IntoIterator<Item = Item<'l>>, limits: Limits) -> Result<Tree> {
    let mut merger = Merger::new(limits);
    for item in items {
        match item {
            Item::File { title, size, device } => add_file(&mut merger, &title, size, device)?,
            Item::Archive { index, device, under: None } => merger.add(device, index)?,
            Item::Archive { index, device, under: Some(title) } => {
                let root = make_directory(&mut merger, title.0.as_bytes(), &title)?;
                merger.add_below(root, device, index)?;
            }
        }
    }
    Ok(merger.finish())
}

/// The file name of a layer: the first of its annotations that gives one, else its digest as written (`sha256:<hex>`).
///
/// # Errors
/// [`LayerError::Title`]: a name that is given and bad is refused, never replaced.
pub fn title_for(annotations: &BTreeMap<String, String>, digest: &str) -> Result<Title> {
    let given = TITLE_KEYS.into_iter().filter_map(|key| annotations.get(key)).find(|title| !title.is_empty());
    Title::parse(given.map_or(digest, String::as_str))
}

/// Whether ORAS marked the layer as a packed directory, to be unpacked at the root.
pub fn is_marked_for_unpacking(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(UNPACK_KEY).is_some_and(|value| value == "true")
}

/// Whether a layer, not marked for unpacking, is a file that has a tar's type only since ORAS calls every file so. One whose name ends in
/// `.tar` is taken at its word.
pub fn is_untyped_file(media_type: &str, annotations: &BTreeMap<String, String>) -> bool {
    let [title, ..] = TITLE_KEYS;
    media_type == UNTYPED_FILE && annotations.get(title).is_some_and(|title| !title.is_empty() && !is_tar_name(title))
}

/// Whether a media type says that the blob is a tar, plain or compressed: OCI and Docker layers, model-spec layers, `application/x-tar`
/// and the like. It says nothing about what the bytes are.
pub fn is_tar_media_type(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((_, subtype)) = essence.split_once('/') else { return false };
    let compressions = ["+gzip", "+zstd", ".gzip", ".zstd", ".gz"];
    let bare = compressions.into_iter().find_map(|suffix| subtype.strip_suffix(suffix)).unwrap_or(subtype);
    let last = bare.rsplit(['.', '+']).next().unwrap_or_default();
    matches!(last, "tar" | "x-tar" | "x-gtar")
}

// === impl Title ===

impl Title {
    /// Reads an untrusted title.
    ///
    /// # Errors
    /// [`LayerError::Title`]: empty, absolute, with a `..`, NUL or control character, or longer than Linux's names and paths are.
    pub fn parse(raw: &str) -> Result<Self> {
        let refuse = |problem| LayerError::Title { title: Shown::new(raw.as_bytes()), problem };
        if raw.starts_with('/') {
            return Err(refuse(PathProblem::Absolute));
        }
        let path = EntryPath::parse(raw.as_bytes()).map_err(refuse)?;
        if raw.chars().any(char::is_control) {
            return Err(refuse(PathProblem::Control));
        }
        if path.is_root() {
            return Err(refuse(PathProblem::Root));
        }
        Ok(Self(path))
    }

    /// The path below the root of the artifact.
    pub fn path(&self) -> &EntryPath {
        &self.0
    }
}

impl fmt::Debug for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Title {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.shown(), f)
    }
}

fn is_tar_name(title: &str) -> bool {
    Path::new(title).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

fn add_file(merger: &mut Merger, title: &Title, size: u64, device: u16) -> Result<()> {
    let (above, name) = title.0.split().unwrap_or_default();
    let parent = make_directory(merger, above, title)?;
    let there = merger.tree().lookup(parent, name);
    if there.is_some_and(|id| merger.tree().children(id).is_some()) {
        return Err(LayerError::TitleConflict { title: title.0.shown() });
    }
    let extent = Extent { file_offset: 0, device, device_offset: 0, length: size };
    let extents = if size == 0 { Vec::new() } else { vec![extent] };
    let attributes = Attributes { mode: FILE_MODE, ..Attributes::default() };
    merger.place(parent, name, Node { attributes, content: Content::File { size, extents } }, &title.0)?;
    Ok(())
}

/// The directory of a title, made as far as it is missing. Symlinks that an archive brought are followed inside the artifact.
fn make_directory(merger: &mut Merger, directory: &[u8], title: &Title) -> Result<NodeId> {
    match merger.walk(Tree::ROOT, directory, &title.0)? {
        Place::NotDirectory => Err(LayerError::TitleConflict { title: title.0.shown() }),
        Place::Found { mut above, missing } => merger.make(&mut above, missing, &title.0),
    }
}

#[cfg(test)]
mod tests;
