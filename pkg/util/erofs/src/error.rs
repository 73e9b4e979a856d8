//! What can be wrong with a tree, and with an image.

use std::fmt;
use std::io;

use crate::device::TagError;

/// Bytes of a path that an error shows; of longer ones the end.
const SHOWN_PATH: usize = 4096;

/// Where in a tree something is wrong: absolute, in raw bytes. Shown with everything but printable ASCII escaped.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryPath {
    bytes: Vec<u8>,
    cut: bool,
}

/// Why no image was written. What the output holds by then is no image.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// More devices than the device table can count.
    #[error("{count} devices are more than the {max} that an image can name")]
    TooManyDevices {
        /// How many.
        count: usize,
        /// How many are possible.
        max: usize,
    },
    /// A device's size is no multiple of the block size.
    #[error("size {size} of device {index} is no multiple of 512")]
    DeviceUnaligned {
        /// Position of the device.
        index: usize,
        /// Bytes.
        size: u64,
    },
    /// A device is larger than 32-bit block addresses reach.
    #[error("size {size} of device {index} is above {max}")]
    DeviceTooLarge {
        /// Position of the device.
        index: usize,
        /// Bytes.
        size: u64,
        /// Bytes possible.
        max: u64,
    },
    /// More names than [`crate::Limits::max_entries`].
    #[error("more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u64,
    },
    /// The image would pass [`crate::Limits::max_image_bytes`] or what the format can address.
    #[error("image grows above {max} bytes at \"{path}\"")]
    ImageTooLarge {
        /// The limit.
        max: u64,
        /// The first node that does not fit.
        path: EntryPath,
    },
    /// A node cannot be stored.
    #[error("cannot store \"{path}\"")]
    Node {
        /// Which.
        path: EntryPath,
        /// Why.
        source: NodeError,
    },
    /// The output refused bytes.
    #[error("cannot write the image")]
    Output {
        /// Why.
        source: io::Error,
    },
}

/// Why a node cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The name is empty, `.` or `..`.
    #[error("name is empty, a dot or two dots")]
    ReservedName,
    /// The name is longer than 255 bytes.
    #[error("name of {length} bytes is longer than 255")]
    LongName {
        /// Bytes of the name.
        length: usize,
    },
    /// The name contains a slash or a zero byte.
    #[error("name contains byte {byte:#04x}")]
    NameByte {
        /// Which.
        byte: u8,
    },
    /// The name leads to no node of this tree.
    #[error("name leads nowhere")]
    Dangling,
    /// Two names lead to one directory, or a directory is inside itself.
    #[error("directory has more than one name")]
    LinkedDirectory,
    /// The root is no directory.
    #[error("root is no directory")]
    RootNotDirectory,
    /// Mode bits above the low twelve.
    #[error("mode {mode:#o} has more than permission bits")]
    Mode {
        /// The mode.
        mode: u16,
    },
    /// Nanoseconds of a second or more.
    #[error("{nsec} nanoseconds are a second or more")]
    Nanoseconds {
        /// The nanoseconds.
        nsec: u32,
    },
    /// A device number that the kernel cannot hold (12 bits major, 20 bits minor).
    #[error("device number {major}:{minor} is out of range")]
    DeviceNumber {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A symbolic link's target is empty, longer than 4095 bytes or contains a zero byte.
    #[error("link target of {length} bytes is empty, too long or contains a zero byte")]
    LinkTarget {
        /// Bytes of the target.
        length: usize,
    },
    /// A file is larger than the kernel's `loff_t`.
    #[error("file of {size} bytes is too large")]
    FileTooLarge {
        /// Bytes.
        size: u64,
    },
    /// An extent is wrong.
    #[error("bad extent at {file_offset}")]
    Extent {
        /// Where the extent starts in the file.
        file_offset: u64,
        /// What is wrong.
        source: ExtentError,
    },
    /// An extended attribute is wrong.
    #[error("bad extended attribute \"{}\"", name.escape_ascii())]
    Xattr {
        /// Its full name.
        name: Vec<u8>,
        /// What is wrong.
        source: XattrError,
    },
    /// The extended attributes together do not fit an inode (262,148 bytes), or their names a `listxattr` (64 KiB).
    #[error("extended attributes of {bytes} bytes, {names} of them names, are too large")]
    XattrsTooLarge {
        /// Bytes as stored.
        bytes: usize,
        /// Bytes of the list of names.
        names: usize,
    },
}

/// Why an extent cannot be pointed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// No such device.
    #[error("there is no device {device}")]
    Device {
        /// Position of the device.
        device: u16,
    },
    /// It starts between blocks, or ends between blocks before the end of the file.
    #[error("does not lie on block boundaries")]
    Unaligned,
    /// It starts before the end of the one before.
    #[error("overlaps the extent before or comes out of order")]
    Order,
    /// It ends after the end of the file.
    #[error("passes the end of the file")]
    PastFile,
    /// Its last block ends after the end of the device.
    #[error("passes the end of its device")]
    PastDevice,
}

/// Why an extended attribute cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// The name has no prefix that EROFS knows, or nothing after it.
    #[error("namespace is not supported")]
    Namespace,
    /// The name is longer than 255 bytes or contains a zero byte.
    #[error("name is too long or contains a zero byte")]
    Name,
    /// The value is longer than 65,535 bytes.
    #[error("value of {length} bytes is too long")]
    Value {
        /// Bytes of the value.
        length: usize,
    },
}

/// Why bytes are no image of ours.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Reading failed, or the image ends inside its header.
    #[error("cannot read the image's header")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// No EROFS image.
    #[error("magic number {found:#010x} is not that of EROFS")]
    Magic {
        /// What is in its place.
        found: u32,
    },
    /// The header is damaged.
    #[error("checksum of the superblock is {computed:#010x}, not {stored:#010x}")]
    Checksum {
        /// What the superblock says.
        stored: u32,
        /// What its bytes say.
        computed: u32,
    },
    /// An EROFS image, but not of the shape that this crate writes.
    #[error("superblock field {field} has the value {value:#x}, which this program does not write")]
    Foreign {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A device's tag is no digest.
    #[error("bad tag of device {index}")]
    Tag {
        /// Position of the device.
        index: usize,
        /// Why.
        source: TagError,
    },
}

// === impl EntryPath ===

impl EntryPath {
    /// The path of these names, given from the last to the first.
    pub(crate) fn from_last<'n>(names: impl Iterator<Item = &'n [u8]>) -> Self {
        let mut reversed = Vec::new();
        let mut cut = false;
        for name in names {
            if reversed.len() + name.len() >= SHOWN_PATH {
                cut = true;
                break;
            }
            reversed.extend(name.iter().rev());
            reversed.push(b'/');
        }
        if reversed.is_empty() && !cut {
            reversed.push(b'/');
        }
        reversed.reverse();
        Self { bytes: reversed, cut }
    }

    /// The path in raw bytes; of a path above 4096 bytes only the last names.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = if self.cut { "..." } else { "" };
        write!(f, "{start}{}", self.bytes.escape_ascii())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::root(&[], "/")]
    #[case::plain(&[b"b".as_slice(), b"a"], "/a/b")]
    #[case::escaped(&[b"\xff\n\"".as_slice()], "/\\xff\\n\\\"")]
    fn path_is_shown_escaped(#[case] names: &[&[u8]], #[case] shown: &str) {
        assert_eq!(EntryPath::from_last(names.iter().copied()).to_string(), shown);
    }

    #[test]
    fn long_path_keeps_its_end() {
        let path =
            EntryPath::from_last(std::iter::once(b"last".as_slice()).chain(std::iter::repeat_n(&[b'd'; 200][..], 99)));
        assert!(path.as_bytes().len() <= SHOWN_PATH);
        assert!(path.to_string().starts_with(".../ddd"));
        assert!(path.as_bytes().ends_with(b"/last"));
    }
}
