//! The few fields of an EROFS superblock (`struct erofs_super_block` in `fs/erofs/erofs_fs.h`) that decide whether
//! the kernel would mount something else than was meant.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Where the superblock lies in the image, in bytes (`EROFS_SUPER_OFFSET`).
pub(crate) const OFFSET: u64 = 1024;
/// Length of the superblock in bytes.
pub(crate) const LENGTH: usize = 128;
/// `EROFS_SUPER_MAGIC_V1`.
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`: without it the number of devices means nothing.
pub(crate) const DEVICE_TABLE: u32 = 0x8;

/// Offset of `blkszbits`, `u8`.
pub(crate) const BLOCK_BITS: usize = 12;
/// Offset of `feature_incompat`, `le32`.
pub(crate) const FEATURE_INCOMPAT: usize = 80;
/// Offset of `extra_devices`, `le16`.
pub(crate) const EXTRA_DEVICES: usize = 86;

/// What is needed of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Size of a block in bytes.
    pub(crate) block_size: u64,
    /// How many devices the image refers to besides itself.
    pub(crate) devices: u16,
}

/// Reads the superblock of an image. `None`: it has none.
pub(crate) fn read(image: &File) -> io::Result<Option<Superblock>> {
    let mut bytes = [0; LENGTH];
    match image.read_exact_at(&mut bytes, OFFSET) {
        Ok(()) => Ok(parse(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8; LENGTH]) -> Option<Superblock> {
    let block_bits = *bytes.get(BLOCK_BITS)?;
    // 512 bytes is the least the kernel takes, 64 KiB the largest page that it could equal.
    if u32_at(bytes, 0)? != MAGIC || !(9..=16).contains(&block_bits) {
        return None;
    }
    let has_table = u32_at(bytes, FEATURE_INCOMPAT)? & DEVICE_TABLE != 0;
    let devices = u16::from_le_bytes(*bytes.get(EXTRA_DEVICES..)?.first_chunk()?);
    Some(Superblock { block_size: 1 << block_bits, devices: if has_table { devices } else { 0 } })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn superblock(magic: u32, block_bits: u8, features: u32, devices: u16) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&magic.to_le_bytes());
        bytes[12] = block_bits;
        bytes[80..84].copy_from_slice(&features.to_le_bytes());
        bytes[86..88].copy_from_slice(&devices.to_le_bytes());
        bytes
    }

    #[rstest]
    #[case::devices(superblock(MAGIC, 9, 0xC, 300), Some((512, 300)))]
    #[case::no_table(superblock(MAGIC, 12, 0x4, 300), Some((4096, 0)))]
    #[case::other_magic(superblock(MAGIC + 1, 9, 0xC, 1), None)]
    #[case::tiny_blocks(superblock(MAGIC, 8, 0xC, 1), None)]
    #[case::huge_blocks(superblock(MAGIC, 200, 0xC, 1), None)]
    fn parses(#[case] bytes: [u8; LENGTH], #[case] expected: Option<(u64, u16)>) {
        assert_eq!(parse(&bytes).map(|found| (found.block_size, found.devices)), expected);
    }

    #[test]
    fn short_file_has_no_superblock() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(OFFSET + 100).unwrap();
        assert_eq!(read(&file).unwrap(), None);
    }
}
