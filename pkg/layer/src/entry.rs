//! One entry of a layer, with everything it claims already checked.

use imagevol_erofs::Attributes;

use crate::error::{LayerError, Result, SparseProblem};
use crate::path::{EntryPath, Meaning};

/// Blocks of a tar, and the unit in which an image points into it.
pub const BLOCK: u64 = 512;

/// Highest owner or group: `(uid_t) -1` means "leave it" in chown(2).
pub const MAX_ID: u32 = u32::MAX - 1;

/// Highest major number: 12 bits (`MAJOR` in the kernel's kdev_t.h, as the 32-bit on-disk form of `new_encode_dev` holds it).
pub const MAX_MAJOR: u32 = (1 << 12) - 1;

/// Highest minor number: 20 bits (`MINORBITS` in the kernel's kdev_t.h).
pub const MAX_MINOR: u32 = (1 << 20) - 1;

/// Longest symlink target: `PATH_MAX` without its NUL.
pub const MAX_TARGET_BYTES: usize = 4095;

/// Longest value of an extended attribute: `e_value_size` of EROFS is 16 bits wide (Linux itself allows one byte more).
pub const MAX_XATTR_VALUE: usize = 65_535;

/// Names and values of all extended attributes of one inode, with 16 bytes for each one's own header and padding. Half of what
/// the 16-bit count of 4-byte units in an EROFS inode can hold.
pub const MAX_XATTR_BYTES: usize = 128 * 1024;

/// Largest file: `loff_t` is signed.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// A run of a file's bytes in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file, a multiple of 512.
    pub file_offset: u64,
    /// Where it starts in the archive, a multiple of 512.
    pub tar_offset: u64,
    /// Bytes; a multiple of 512 unless it ends the file.
    pub length: u64,
}

/// What an entry does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory; over a directory of a lower layer it replaces the attributes and keeps the children.
    Directory(Attributes),
    /// A regular file. What no segment covers reads as zeros.
    File {
        /// Owner, mode, times, extended attributes.
        attributes: Attributes,
        /// Bytes.
        size: u64,
        /// Where its bytes lie, ascending.
        segments: Vec<Segment>,
    },
    /// A symbolic link; the target is any text, never followed outside the image.
    Symlink {
        /// Owner, mode, times, extended attributes.
        attributes: Attributes,
        /// Its target as written.
        target: Vec<u8>,
    },
    /// A second name for what is at `target`; attributes belong to the inode and are not repeated.
    HardLink {
        /// A path from the root of the image.
        target: EntryPath,
    },
    /// A character device. 0:0 is kept as the inert node it is in a tar: it hides nothing (only `.wh.` names do).
    CharDevice {
        /// Owner, mode, times, extended attributes.
        attributes: Attributes,
        /// At most [`MAX_MAJOR`].
        major: u32,
        /// At most [`MAX_MINOR`].
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Owner, mode, times, extended attributes.
        attributes: Attributes,
        /// At most [`MAX_MAJOR`].
        major: u32,
        /// At most [`MAX_MINOR`].
        minor: u32,
    },
    /// A named pipe.
    Fifo(Attributes),
    /// Hides the path, and what is below it, in lower layers.
    Whiteout,
    /// Hides what is below the path in lower layers.
    Opaque,
}

/// One entry of a layer, in the order of its archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is about: the entry itself, or for a whiteout what it hides.
    pub path: EntryPath,
    /// What it does there.
    pub kind: Kind,
}

// === impl Kind ===

impl Kind {
    /// Owner, mode, times, extended attributes, where the kind has some.
    pub fn attributes(&self) -> Option<&Attributes> {
        match self {
            Self::Directory(attributes)
            | Self::Fifo(attributes)
            | Self::File { attributes, .. }
            | Self::Symlink { attributes, .. }
            | Self::CharDevice { attributes, .. }
            | Self::BlockDevice { attributes, .. } => Some(attributes),
            Self::HardLink { .. } | Self::Whiteout | Self::Opaque => None,
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Whether an archive of `tar_size` bytes could have led to this entry: what the parser guarantees and stored bytes must prove.
    pub(crate) fn is_sound(&self, tar_size: u64) -> bool {
        let attributes = self.kind.attributes().is_none_or(sound_attributes);
        attributes && self.is_sound_name() && self.is_sound_content(tar_size)
    }

    fn is_sound_name(&self) -> bool {
        let is_root = self.path.is_root();
        match self.kind {
            Kind::Directory(_) if is_root => true,
            Kind::Opaque => true,
            Kind::Whiteout => !is_root,
            Kind::Directory(_)
            | Kind::File { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. }
            | Kind::Fifo(_) => !is_root && matches!(Meaning::of(self.path.clone()), Ok(Meaning::Present(_))),
        }
    }

    fn is_sound_content(&self, tar_size: u64) -> bool {
        match &self.kind {
            Kind::File { size, segments, .. } => sound_segments(*size, segments, tar_size),
            Kind::Symlink { target, .. } => is_sound_target(target),
            Kind::HardLink { target } => !target.is_root(),
            Kind::CharDevice { major, minor, .. } | Kind::BlockDevice { major, minor, .. } => {
                *major <= MAX_MAJOR && *minor <= MAX_MINOR
            }
            Kind::Directory(_) | Kind::Fifo(_) | Kind::Whiteout | Kind::Opaque => true,
        }
    }
}

/// Whether a symlink can have this target.
pub(crate) fn is_sound_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= MAX_TARGET_BYTES && !target.contains(&0)
}

/// Whether an extended attribute of a tar reaches the image: `user.*` and file capabilities (inert under nosuid) do. The rest would act on the
/// node (SELinux labels, IMA, ACLs) or on an overlay above the mount (`trusted.overlay.*`, `user.overlay.*`: redirect and metacopy can name other files).
pub(crate) fn keeps_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// Whether the attributes fit an inode.
pub(crate) fn fits_xattrs<'a>(xattrs: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> bool {
    let mut total = 0_usize;
    for (name, value) in xattrs {
        // `XATTR_NAME_MAX` is 255; a bare prefix is no name.
        if name.len() > 255 || name == b"user." || value.len() > MAX_XATTR_VALUE {
            return false;
        }
        total = total.saturating_add(name.len() + value.len() + 16);
    }
    total <= MAX_XATTR_BYTES
}

fn sound_attributes(attributes: &Attributes) -> bool {
    attributes.mode <= 0o7777
        && attributes.uid <= MAX_ID
        && attributes.gid <= MAX_ID
        && attributes.mtime_nsec < 1_000_000_000
        && attributes.xattrs.keys().all(|name| keeps_xattr(name) && !name.contains(&0))
        && fits_xattrs(attributes.xattrs.iter())
}

fn sound_segments(size: u64, segments: &[Segment], tar_size: u64) -> bool {
    let mut file_end = 0;
    let ordered = segments.iter().all(|segment| {
        let ascending = segment.file_offset >= file_end;
        file_end = segment.file_offset.saturating_add(segment.length);
        let aligned = segment.file_offset % BLOCK == 0 && segment.tar_offset % BLOCK == 0;
        let inside = segment.tar_offset.checked_add(segment.length).is_some_and(|end| end <= tar_size);
        let whole = segment.length % BLOCK == 0 || file_end == size;
        segment.length > 0 && ascending && aligned && inside && whole && file_end <= size
    });
    ordered && size <= MAX_FILE_BYTES
}

/// Lays runs of a sparse file (offset, length; ascending) onto the archive, where their bytes follow each other from `tar_offset`.
pub(crate) fn lay_out(
    path: &EntryPath,
    size: u64,
    runs: &[(u64, u64)],
    data: (u64, u64),
) -> Result<Vec<Segment>, LayerError> {
    let (mut tar_offset, stored) = data;
    let refuse = |problem| LayerError::Sparse { path: path.shown(), problem };
    let end_of_data = tar_offset.saturating_add(stored);
    let mut segments: Vec<Segment> = Vec::new();
    let mut file_end = 0;
    for &(file_offset, length) in runs {
        let end = file_offset.checked_add(length).filter(|end| *end <= size && file_offset >= file_end);
        file_end = end.ok_or_else(|| refuse(SparseProblem::Runs))?;
        if length == 0 {
            continue;
        }
        let whole = length % BLOCK == 0 || file_end == size;
        if file_offset % BLOCK != 0 || tar_offset % BLOCK != 0 || !whole {
            return Err(refuse(SparseProblem::Unaligned));
        }
        append(&mut segments, Segment { file_offset, tar_offset, length });
        tar_offset = tar_offset.checked_add(length).ok_or_else(|| refuse(SparseProblem::Length))?;
    }
    if tar_offset != end_of_data {
        return Err(refuse(SparseProblem::Length));
    }
    Ok(segments)
}

/// Adds a segment, joined to the last one where both files' and archives' bytes go on.
fn append(segments: &mut Vec<Segment>, next: Segment) {
    match segments.last_mut() {
        Some(last) if last.file_offset + last.length == next.file_offset => last.length += next.length,
        _ => segments.push(next),
    }
}
