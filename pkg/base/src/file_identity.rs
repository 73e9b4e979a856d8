//! What tells a file from another, and from itself after a write.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// The identity of a file and of its content (inode(7)): a change of bytes changes the change time, which no program can set. Changes
/// within one tick of the kernel's clock (jiffies, 10 ms at most) are not told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

// === impl FileIdentity ===

impl FileIdentity {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The change time: seconds since 1970, and nanoseconds.
    pub fn changed(&self) -> (i64, i64) {
        self.changed
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
