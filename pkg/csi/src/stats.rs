//! How full a published volume is. An image cannot be written to: it is always full.

use std::path::Path;

use imagevol_api::csi::{NodeGetVolumeStatsResponse, VolumeUsage, volume_usage::Unit};
use imagevol_mount::{FsStats, MountError};

/// The usage of the volume that is mounted at `path`; `None` if nothing is. Blocks.
pub(crate) fn of(path: &Path) -> Result<Option<NodeGetVolumeStatsResponse>, MountError> {
    if !imagevol_mount::is_mounted_at(path)? {
        return Ok(None);
    }
    imagevol_mount::filesystem(path).map(|stats| Some(usage(&stats)))
}

fn usage(stats: &FsStats) -> NodeGetVolumeStatsResponse {
    // EROFS says that it has 2^64-1 inodes, of which all that an image does not have are free (fs/erofs/super.c, erofs_statfs). What is
    // not there cannot be used: the total is what the image has.
    let inodes = [0, stats.inodes_used(), stats.inodes_used()];
    let bytes = [stats.available, stats.capacity, stats.used()];
    let one = |[available, total, used]: [u64; 3], unit: Unit| {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        VolumeUsage { available: signed(available), total: signed(total), used: signed(used), unit: unit.into() }
    };
    NodeGetVolumeStatsResponse {
        usage: vec![one(bytes, Unit::Bytes), one(inodes, Unit::Inodes)],
        volume_condition: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_full() {
        let stats = FsStats { capacity: 4096, free: 0, available: 0, inodes: u64::MAX, inodes_free: u64::MAX - 7 };
        let expected = [
            VolumeUsage { available: 0, total: 4096, used: 4096, unit: Unit::Bytes.into() },
            VolumeUsage { available: 0, total: 7, used: 7, unit: Unit::Inodes.into() },
        ];
        assert_eq!(usage(&stats).usage, expected);
    }

    #[test]
    fn a_directory_is_no_volume() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(of(dir.path()).unwrap(), None);
        assert_eq!(of(&dir.path().join("absent")).unwrap(), None);
    }
}
