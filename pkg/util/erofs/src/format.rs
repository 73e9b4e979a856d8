//! The on-disk format, as `fs/erofs/erofs_fs.h` defines it: little endian, no padding. Only what this crate writes.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a block. Tar archives align members to 512 bytes, so file data can be pointed at where it lies only with blocks of
/// that size (Linux 6.4 and later mount them).
pub(crate) const BLOCK_SIZE: u64 = 1 << BLOCK_BITS;
/// The same, for sizes in memory.
pub(crate) const BLOCK: usize = 1 << BLOCK_BITS;
/// `blkszbits`.
pub(crate) const BLOCK_BITS: u8 = 9;
/// `EROFS_SUPER_OFFSET`: room for a boot sector before the superblock.
pub(crate) const SUPERBLOCK_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`.
pub(crate) const COMPAT_CHECKSUM: u32 = 0x1;
/// `EROFS_FEATURE_COMPAT_MTIME`: the time in an inode is its mtime.
pub(crate) const COMPAT_MTIME: u32 = 0x2;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
pub(crate) const INCOMPAT_CHUNKED_FILE: u32 = 0x4;
/// `EROFS_FEATURE_INCOMPAT_DEVICE_TABLE`.
pub(crate) const INCOMPAT_DEVICE_TABLE: u32 = 0x8;
/// `EROFS_DEVT_SLOT_SIZE`.
pub(crate) const DEVICE_SLOT_SIZE: usize = size_of::<DeviceSlot>();
/// Where our device table starts, in slots: right after the superblock, (1024 + 128) / 128.
pub(crate) const DEVICE_TABLE_SLOT: u16 = 9;
/// `extra_devices` is 16 bits wide.
pub(crate) const MAX_DEVICES: usize = u16::MAX as usize;
/// Inode numbers count units of the compact inode's size (`sbi->islotbits` in `fs/erofs/super.c`).
pub(crate) const INODE_SLOT_SIZE: u64 = 32;
/// Size of the extended inode, the only form we write: the compact one has no time and 16-bit owners.
pub(crate) const INODE_SIZE: u64 = size_of::<Inode>() as u64;
/// `EROFS_INODE_LAYOUT_EXTENDED`, bit 0 of `i_format`; the data layout starts at bit 1.
pub(crate) const INODE_EXTENDED: u16 = 1;
/// `EROFS_INODE_FLAT_PLAIN`: data in consecutive blocks.
pub(crate) const LAYOUT_PLAIN: u16 = 0;
/// `EROFS_INODE_FLAT_INLINE`: the last, partial block follows the inode.
pub(crate) const LAYOUT_INLINE: u16 = 2;
/// `EROFS_INODE_CHUNK_BASED`.
pub(crate) const LAYOUT_CHUNKS: u16 = 4;
/// `EROFS_CHUNK_FORMAT_INDEXES`: 8-byte indexes, which can name a device.
pub(crate) const CHUNK_INDEXES: u32 = 0x20;
/// `EROFS_CHUNK_FORMAT_BLKBITS_MASK`: a chunk is at most 2^31 blocks.
pub(crate) const MAX_CHUNK_BITS: u8 = 0x1f;
/// Size of a chunk index.
pub(crate) const CHUNK_INDEX_SIZE: u64 = size_of::<ChunkIndex>() as u64;
/// `EROFS_NULL_ADDR`: the chunk is a hole.
pub(crate) const HOLE: u32 = u32::MAX;
/// Blocks of a device that an index can name: every 32-bit address but [`HOLE`].
pub(crate) const MAX_DEVICE_BLOCKS: u64 = HOLE as u64;
/// `EROFS_NAME_LEN`.
pub(crate) const MAX_NAME: usize = 255;
/// Size of a directory entry without its name.
pub(crate) const DIRENT_SIZE: usize = size_of::<Dirent>();
/// Size of `erofs_xattr_ibody_header`, of which we fill nothing: no name filter, no shared attributes.
pub(crate) const XATTR_HEADER_SIZE: usize = 12;
/// Extended attributes are counted and aligned in units of this many bytes (`EROFS_XATTR_ALIGN`).
pub(crate) const XATTR_UNIT: usize = size_of::<XattrEntry>();
/// Initial value of the superblock's checksum (`erofs_superblock_csum_verify` in `fs/erofs/super.c`).
const CHECKSUM_SEED: u32 = u32::MAX;
/// The Castagnoli polynomial, bits reversed (RFC 3720, 12.1).
const CASTAGNOLI: u32 = 0x82f6_3b78;

/// `struct erofs_super_block`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Superblock {
    pub(crate) magic: U32,
    pub(crate) checksum: U32,
    pub(crate) feature_compat: U32,
    pub(crate) block_bits: u8,
    pub(crate) extension_slots: u8,
    pub(crate) root_nid: U16,
    pub(crate) inodes: U64,
    pub(crate) build_time: U64,
    pub(crate) build_time_nsec: U32,
    pub(crate) blocks: U32,
    pub(crate) meta_block: U32,
    pub(crate) xattr_block: U32,
    pub(crate) uuid: [u8; 16],
    pub(crate) volume_name: [u8; 16],
    pub(crate) feature_incompat: U32,
    pub(crate) compression: U16,
    pub(crate) extra_devices: U16,
    pub(crate) device_table_slot: U16,
    pub(crate) directory_block_bits: u8,
    pub(crate) xattr_prefixes: u8,
    pub(crate) xattr_prefix_start: U32,
    pub(crate) packed_nid: U64,
    pub(crate) reserved: [u8; 24],
}

/// `struct erofs_deviceslot`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DeviceSlot {
    pub(crate) tag: [u8; 64],
    pub(crate) blocks: U32,
    /// Where the device lies when all are concatenated behind the image: a mount without any `device=` option reads there.
    pub(crate) unified_block: U32,
    pub(crate) reserved: [u8; 56],
}

/// `struct erofs_inode_extended`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Inode {
    pub(crate) format: U16,
    pub(crate) xattr_units: U16,
    pub(crate) mode: U16,
    pub(crate) reserved: U16,
    pub(crate) size: U64,
    /// Start block, chunk format or device number, by type and layout.
    pub(crate) payload: U32,
    pub(crate) number: U32,
    pub(crate) uid: U32,
    pub(crate) gid: U32,
    /// Unsigned in the header, but stored to and read from a signed `time64_t`.
    pub(crate) mtime: I64,
    pub(crate) mtime_nsec: U32,
    pub(crate) links: U32,
    pub(crate) reserved2: [u8; 16],
}

/// `struct erofs_inode_chunk_index`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ChunkIndex {
    pub(crate) reserved: U16,
    /// One-based; zero is the image itself.
    pub(crate) device: U16,
    pub(crate) block: U32,
}

/// `struct erofs_dirent`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Dirent {
    pub(crate) nid: U64,
    pub(crate) name_offset: U16,
    pub(crate) file_type: u8,
    pub(crate) reserved: u8,
}

/// `struct erofs_xattr_entry`.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct XattrEntry {
    pub(crate) name_length: u8,
    pub(crate) name_index: u8,
    pub(crate) value_length: U16,
}

/// The superblock's checksum: CRC-32C without the final inversion, over the block that starts with the superblock, its own field
/// zero.
pub(crate) fn checksum(block: &[u8]) -> u32 {
    block.iter().fold(CHECKSUM_SEED, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (CASTAGNOLI & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel_header() {
        assert_eq!(size_of::<Superblock>(), 128);
        assert_eq!(size_of::<DeviceSlot>(), 128);
        assert_eq!(size_of::<Inode>(), 64);
        assert_eq!(size_of::<ChunkIndex>(), 8);
        assert_eq!(size_of::<Dirent>(), 12);
        assert_eq!(size_of::<XattrEntry>(), 4);
        assert_eq!(usize::from(DEVICE_TABLE_SLOT) * DEVICE_SLOT_SIZE, SUPERBLOCK_OFFSET + size_of::<Superblock>());
    }

    /// RFC 3720, B.4: the CRC of "32 bytes of zeroes" is 0x8a9136aa after inversion.
    #[test]
    fn checksum_is_castagnoli_without_the_final_inversion() {
        assert_eq!(!checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(!checksum(b"123456789"), 0xe306_9283);
    }
}
