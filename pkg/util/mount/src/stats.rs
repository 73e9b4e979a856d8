//! How full a file system is.

use std::path::Path;

use crate::error::{MountError, Result};

/// Sizes of the file system that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsStats {
    /// Size in bytes.
    pub capacity: u64,
    /// Unused bytes, with those reserved for root.
    pub free: u64,
    /// Unused bytes for anybody else.
    pub available: u64,
    /// Number of inodes; 0 where the file system makes them as needed.
    pub inodes: u64,
    /// Number of unused inodes.
    pub inodes_free: u64,
}

// === impl FsStats ===

impl FsStats {
    /// Used bytes.
    pub fn used(&self) -> u64 {
        self.capacity.saturating_sub(self.free)
    }

    /// Used inodes.
    pub fn inodes_used(&self) -> u64 {
        self.inodes.saturating_sub(self.inodes_free)
    }
}

/// The sizes of the file system that `path` is on, by statvfs(3).
pub fn filesystem(path: &Path) -> Result<FsStats> {
    let stats = nix::sys::statvfs::statvfs(path).map_err(|error| MountError::call("statvfs", path, error))?;
    let unit = stats.fragment_size();
    Ok(FsStats {
        capacity: stats.blocks().saturating_mul(unit),
        free: stats.blocks_free().saturating_mul(unit),
        available: stats.blocks_available().saturating_mul(unit),
        inodes: stats.files(),
        inodes_free: stats.files_free(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_size() {
        let stats = filesystem(Path::new("/")).unwrap();
        assert!(stats.capacity > 0 && stats.available <= stats.free && stats.free <= stats.capacity);
        assert_eq!(stats.used(), stats.capacity - stats.free);
    }

    #[test]
    fn missing_path_is_named() {
        let error = filesystem(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "statvfs failed for /nowhere");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
