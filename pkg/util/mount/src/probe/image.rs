//! The image that the probe mounts.

use crate::superblock::{BLOCK_BITS, DEVICE_TABLE, EXTRA_DEVICES, FEATURE_INCOMPAT, MAGIC, OFFSET};

/// Length of the image in bytes: a multiple of any sector size in use.
const IMAGE_LENGTH: usize = 4096;
/// Length of the device in bytes: whole sectors as well.
const DEVICE_LENGTH: usize = 12_288;
/// log2 of the block size: the 512 bytes that are a tar archive's unit.
const BITS: u8 = 9;
/// Where the test file's bytes start on the device: the third block, a multiple of no sector size but 512.
const CONTENT_BLOCK: u32 = 3;
/// Length of the test file: over a page's end, and no multiple of a block.
const CONTENT_LENGTH: usize = 5000;

/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const CHUNKED: u32 = 0x4;
/// Where the device table starts: right after the superblock, in units of 128 bytes.
const DEVICE_SLOT: usize = 9;
/// Inode numbers: byte offset in units of 32 bytes, with `meta_blkaddr` 0.
const ROOT_NID: usize = 48;
const FILE_NID: usize = 50;
/// Block with the root directory's entries.
const ROOT_BLOCK: u32 = 4;
/// `i_format` of an extended inode with flat, plain data (`EROFS_INODE_FLAT_PLAIN`).
const PLAIN: u16 = 1;
/// `i_format` of an extended inode with chunks (`EROFS_INODE_CHUNK_BASED`).
const CHUNKS: u16 = 1 | (4 << 1);
/// `EROFS_CHUNK_FORMAT_INDEXES`, with the largest chunk size that there is: one index covers the file.
const ONE_CHUNK: u32 = 0x20 | 31;

/// A tiny image whose only file lies on a second device, at an odd multiple of 512 bytes. By what it asks of a kernel
/// it stands for all images of this project.
#[derive(Debug, Clone)]
pub struct ProbeImage {
    /// The index.
    pub image: Vec<u8>,
    /// Device 1.
    pub device: Vec<u8>,
}

/// The fields of an inode that differ.
struct Inode {
    nid: usize,
    format: u16,
    mode: u16,
    size: usize,
    /// `i_u`: where the data is, or how chunks are.
    data: u32,
    links: u32,
}

// === impl ProbeImage ===

impl ProbeImage {
    /// Name of the file in the image's root.
    pub const NAME: &'static str = "probe";

    /// Makes the image.
    pub fn new() -> Self {
        let mut image = vec![0; IMAGE_LENGTH];
        let entries = directory();
        superblock(&mut image);
        let root =
            Inode { nid: ROOT_NID, format: PLAIN, mode: 0o040_555, size: entries.len(), data: ROOT_BLOCK, links: 2 };
        let file =
            Inode { nid: FILE_NID, format: CHUNKS, mode: 0o100_444, size: CONTENT_LENGTH, data: ONE_CHUNK, links: 1 };
        root.write(&mut image);
        file.write(&mut image);
        // The chunk index behind the inode: high part of the block, device 1, block.
        let index = FILE_NID * 32 + 64;
        put(&mut image, index + 2, &1u16.to_le_bytes());
        put(&mut image, index + 4, &CONTENT_BLOCK.to_le_bytes());
        put(&mut image, block_offset(ROOT_BLOCK), &entries);
        let mut device = vec![0; DEVICE_LENGTH];
        put(&mut device, block_offset(CONTENT_BLOCK), &Self::content());
        Self { image, device }
    }

    /// What the file holds: no two blocks alike, so that a misplaced read shows.
    pub fn content() -> Vec<u8> {
        (0u8..=250).cycle().take(CONTENT_LENGTH).collect()
    }
}

impl Default for ProbeImage {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Inode ===

impl Inode {
    /// `struct erofs_inode_extended`.
    fn write(&self, image: &mut [u8]) {
        let at = self.nid * 32;
        put(image, at, &self.format.to_le_bytes());
        put(image, at + 4, &self.mode.to_le_bytes());
        put(image, at + 8, &little(self.size));
        put(image, at + 16, &self.data.to_le_bytes());
        put(image, at + 44, &self.links.to_le_bytes());
    }
}

/// `struct erofs_super_block`, and behind it one `struct erofs_deviceslot`.
fn superblock(image: &mut [u8]) {
    // 1024, as an index.
    let at = DEVICE_SLOT * 128 - crate::superblock::LENGTH;
    debug_assert_eq!(u64::try_from(at), Ok(OFFSET));
    put(image, at, &MAGIC.to_le_bytes());
    put(image, at + BLOCK_BITS, &[BITS]);
    put(image, at + 14, little(ROOT_NID).get(..2).unwrap_or_default());
    put(image, at + 16, &2u64.to_le_bytes());
    put(image, at + 36, little(IMAGE_LENGTH >> BITS).get(..4).unwrap_or_default());
    put(image, at + FEATURE_INCOMPAT, &(CHUNKED | DEVICE_TABLE).to_le_bytes());
    put(image, at + EXTRA_DEVICES, &1u16.to_le_bytes());
    put(image, at + 88, little(DEVICE_SLOT).get(..2).unwrap_or_default());
    put(image, DEVICE_SLOT * 128 + 64, little(DEVICE_LENGTH >> BITS).get(..4).unwrap_or_default());
}

/// `struct erofs_dirent` for each name, sorted, and then the names.
fn directory() -> Vec<u8> {
    /// `EROFS_FT_DIR` and `EROFS_FT_REG_FILE`.
    const DIR: u8 = 2;
    const FILE: u8 = 1;
    let entries = [(".", ROOT_NID, DIR), ("..", ROOT_NID, DIR), (ProbeImage::NAME, FILE_NID, FILE)];
    let mut names: Vec<u8> = Vec::new();
    let mut bytes = Vec::new();
    for (name, nid, kind) in entries {
        bytes.extend(little(nid));
        bytes.extend(little(entries.len() * 12 + names.len()).iter().take(2));
        bytes.extend([kind, 0]);
        names.extend(name.as_bytes());
    }
    bytes.extend(names);
    bytes
}

fn block_offset(block: u32) -> usize {
    usize::try_from(block << BITS).unwrap_or(usize::MAX)
}

fn little(number: usize) -> [u8; 8] {
    u64::try_from(number).unwrap_or(u64::MAX).to_le_bytes()
}

/// All offsets are constants within the image; one that is not would show in the first mount of the tests.
fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    for (place, byte) in image.iter_mut().skip(offset).zip(bytes) {
        *place = *byte;
    }
}
