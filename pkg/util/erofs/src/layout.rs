//! Decides where everything lies: the header, then all inodes with what is stored behind them, then blocks of large
//! directories and links.
//!
//! Inode numbers count from the first block after the header, so that the root's fits the superblock's 16 bits however long the
//! device table is.

use crate::chunk::{self, Chunks};
use crate::device::Device;
use crate::directory;
use crate::error::{NodeError, WriteError};
use crate::format::{
    BLOCK_SIZE, CHUNK_INDEX_SIZE, DEVICE_SLOT_SIZE, DEVICE_TABLE_SLOT, INODE_SIZE, INODE_SLOT_SIZE, MAX_DEVICE_BLOCKS,
    MAX_DEVICES, SUPERBLOCK_OFFSET,
};
use crate::tree::{Attributes, Content, Node, Tree};
use crate::walk::Walk;
use crate::xattr;

/// Images are padded to this: direct reads of the backing file work in units of the disk's sectors, at most a page.
pub(crate) const IMAGE_ALIGNMENT: u64 = 4096;
/// Where the root lies after the header. Not at zero, because programs take inode number 0 for none.
const FIRST_INODE: u64 = INODE_SLOT_SIZE;
/// Permission bits, setuid, setgid and sticky.
const MODE_BITS: u16 = 0o7777;
/// First number that is no count of nanoseconds.
const SECOND: u32 = 1_000_000_000;
/// `PATH_MAX` with its terminator: the longest target that a link can be read back with.
const MAX_LINK: usize = 4095;
/// `new_encode_dev` of `include/linux/kdev_t.h` keeps 12 bits of the major number.
const MAX_MAJOR: u32 = 0xfff;
/// And 20 bits of the minor number.
const MAX_MINOR: u32 = 0xf_ffff;

/// Where a node's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// There is none.
    Nothing,
    /// Right behind the inode, in its block.
    Inline {
        /// Bytes.
        size: u64,
    },
    /// In blocks of the data area.
    Blocks {
        /// First block, counted from the start of the data area.
        first: u64,
        /// Bytes.
        size: u64,
    },
    /// On devices; chunk indexes are behind the inode.
    Chunks {
        /// How the file is cut.
        chunks: Chunks,
        /// Bytes of the file.
        size: u64,
    },
}

/// Where a node is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Bytes from the end of the header to the inode.
    pub(crate) offset: u64,
    /// Bytes of extended attributes behind it.
    pub(crate) xattrs: usize,
    /// Its content.
    pub(crate) body: Body,
}

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Layout<'t> {
    /// What is in the image, in the order of `places`.
    pub(crate) walk: Walk<'t>,
    /// Where.
    pub(crate) places: Vec<Place>,
    /// Bytes before the inodes, whole blocks.
    pub(crate) header: u64,
    /// Bytes after the header at which inodes end.
    inodes_end: u64,
    /// Blocks of the data area.
    data_blocks: u64,
}

// === impl Layout ===

impl<'t> Layout<'t> {
    /// Lays out a tree, checking every node. `max_bytes` bounds the image.
    pub(crate) fn of(tree: &'t Tree, devices: &[Device], max_bytes: u64, walk: Walk<'t>) -> Result<Self, WriteError> {
        check_devices(devices)?;
        let mut layout = Self {
            places: Vec::with_capacity(walk.reached().len()),
            walk,
            header: header_size(devices.len()),
            inodes_end: FIRST_INODE,
            data_blocks: 0,
        };
        let max = max_bytes.min(MAX_DEVICE_BLOCKS * BLOCK_SIZE);
        for position in 0..layout.walk.reached().len() {
            layout.add(tree, devices, position).map_err(|source| layout.walk.error(position, source))?;
            if layout.image_size() > max {
                return Err(WriteError::ImageTooLarge { max, path: layout.walk.path(position) });
            }
        }
        Ok(layout)
    }

    /// Bytes before the data area, whole blocks.
    pub(crate) fn data_start(&self) -> u64 {
        self.header.saturating_add(round_up(self.inodes_end, BLOCK_SIZE))
    }

    /// Bytes of the image. Saturates: a single sparse file can ask for more indexes than can be addressed.
    pub(crate) fn image_size(&self) -> u64 {
        let data = self.data_blocks.saturating_mul(BLOCK_SIZE);
        round_up(self.data_start().saturating_add(data), IMAGE_ALIGNMENT)
    }

    /// Number of the inode at a place.
    pub(crate) fn nid(place: &Place) -> u64 {
        place.offset / INODE_SLOT_SIZE
    }

    fn add(&mut self, tree: &Tree, devices: &[Device], position: usize) -> Result<(), NodeError> {
        let reached = self.walk.reached().get(position).ok_or(NodeError::Dangling)?;
        let node = tree.node(reached.id).ok_or(NodeError::Dangling)?;
        let xattrs = check_attributes(&node.attributes)?;
        check_content(node, devices)?;
        let place = self.place(&node.content, xattrs);
        self.inodes_end = round_up(end_of(&place), INODE_SLOT_SIZE);
        self.places.push(place);
        Ok(())
    }

    fn place(&mut self, content: &Content, xattrs: usize) -> Place {
        let offset = self.inodes_end;
        match content {
            Content::Directory(children) => self.place_data(xattrs, directory::size(children)),
            Content::Symlink(target) => self.place_data(xattrs, target.len() as u64),
            Content::File { size, extents } if *size > 0 => {
                Place { offset, xattrs, body: Body::Chunks { chunks: Chunks::of(*size, extents), size: *size } }
            }
            Content::File { .. }
            | Content::CharDevice { .. }
            | Content::BlockDevice { .. }
            | Content::Fifo
            | Content::Socket => Place { offset, xattrs, body: Body::Nothing },
        }
    }

    /// Places data that the image itself holds: behind its inode if both fit one block, as the kernel wants it
    /// (`erofs_fill_symlink` in `fs/erofs/inode.c`), else in blocks of its own.
    fn place_data(&mut self, xattrs: usize, size: u64) -> Place {
        let inline = INODE_SIZE + xattrs as u64 + size;
        let used = self.inodes_end % BLOCK_SIZE;
        let offset = match used + inline {
            end if end <= BLOCK_SIZE => Some(self.inodes_end),
            // Leaving the rest of this block empty costs less than the padding of a block of its own.
            _ if inline <= BLOCK_SIZE && used >= size => Some(self.inodes_end.next_multiple_of(BLOCK_SIZE)),
            _ => None,
        };
        if let Some(offset) = offset {
            return Place { offset, xattrs, body: Body::Inline { size } };
        }
        let first = self.data_blocks;
        self.data_blocks += size.div_ceil(BLOCK_SIZE);
        Place { offset: self.inodes_end, xattrs, body: Body::Blocks { first, size } }
    }
}

/// Where chunk indexes start: after the inode and its extended attributes, at a multiple of their size.
pub(crate) fn indexes_start(place: &Place) -> u64 {
    (place.offset + INODE_SIZE + place.xattrs as u64).next_multiple_of(CHUNK_INDEX_SIZE)
}

fn end_of(place: &Place) -> u64 {
    let inode = place.offset + INODE_SIZE + place.xattrs as u64;
    match place.body {
        Body::Nothing | Body::Blocks { .. } => inode,
        Body::Inline { size } => inode + size,
        Body::Chunks { chunks, .. } => indexes_start(place).saturating_add(chunks.index_bytes()),
    }
}

fn round_up(bytes: u64, to: u64) -> u64 {
    bytes.div_ceil(to).saturating_mul(to)
}

fn header_size(devices: usize) -> u64 {
    let table = (usize::from(DEVICE_TABLE_SLOT) + devices) * DEVICE_SLOT_SIZE;
    // The checksum covers a whole block from the superblock on.
    (table as u64).max(SUPERBLOCK_OFFSET as u64 + BLOCK_SIZE).next_multiple_of(BLOCK_SIZE)
}

fn check_devices(devices: &[Device]) -> Result<(), WriteError> {
    if devices.len() > MAX_DEVICES {
        return Err(WriteError::TooManyDevices { count: devices.len(), max: MAX_DEVICES });
    }
    for (index, device) in devices.iter().enumerate() {
        let (size, max) = (device.size, MAX_DEVICE_BLOCKS * BLOCK_SIZE);
        if !size.is_multiple_of(BLOCK_SIZE) {
            return Err(WriteError::DeviceUnaligned { index, size });
        }
        if size > max {
            return Err(WriteError::DeviceTooLarge { index, size, max });
        }
    }
    Ok(())
}

/// Checks attributes; gives the size of the extended ones.
fn check_attributes(attributes: &Attributes) -> Result<usize, NodeError> {
    if attributes.mode & !MODE_BITS != 0 {
        return Err(NodeError::Mode { mode: attributes.mode });
    }
    if attributes.mtime_nsec >= SECOND {
        return Err(NodeError::Nanoseconds { nsec: attributes.mtime_nsec });
    }
    xattr::stored_size(&attributes.xattrs)
}

fn check_content(node: &Node, devices: &[Device]) -> Result<(), NodeError> {
    match &node.content {
        Content::File { size, extents } => chunk::check(*size, extents, devices),
        Content::Symlink(target) if target.is_empty() || target.len() > MAX_LINK || target.contains(&0) => {
            Err(NodeError::LinkTarget { length: target.len() })
        }
        Content::CharDevice { major, minor } | Content::BlockDevice { major, minor }
            if *major > MAX_MAJOR || *minor > MAX_MINOR =>
        {
            Err(NodeError::DeviceNumber { major: *major, minor: *minor })
        }
        Content::Directory(_)
        | Content::Symlink(_)
        | Content::CharDevice { .. }
        | Content::BlockDevice { .. }
        | Content::Fifo
        | Content::Socket => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::NodeId;

    fn tree_with(children: usize, content: &Content) -> Tree {
        let mut tree = Tree::new(Attributes::default());
        for n in 0..children {
            let id = tree.add(Node { attributes: Attributes::default(), content: content.clone() });
            tree.link(Tree::ROOT, format!("{n:04}").as_bytes(), id);
        }
        tree
    }

    fn bodies(tree: &Tree) -> Vec<Body> {
        let layout = Layout::of(tree, &[], u64::MAX, Walk::of(tree, u64::MAX).unwrap()).unwrap();
        layout.places.iter().map(|place| place.body).collect()
    }

    /// The root with one entry ends at byte 160, and an inode takes 64 of the 352 that are left.
    #[test]
    fn content_is_inline_while_it_fits_the_block_of_its_inode() {
        let body = |length| bodies(&tree_with(1, &Content::Symlink(vec![b't'; length])))[1];
        assert_eq!(body(288), Body::Inline { size: 288 });
        assert_eq!(body(289), Body::Blocks { first: 0, size: 289 });
    }

    #[test]
    fn nearly_full_block_is_left_for_inline_content() {
        let tree = tree_with(2, &Content::Symlink(vec![b't'; 200]));
        let layout = Layout::of(&tree, &[], u64::MAX, Walk::of(&tree, u64::MAX).unwrap()).unwrap();
        assert_eq!(layout.places[2].offset, 512);
        assert_eq!(layout.places[2].body, Body::Inline { size: 200 });
    }

    #[test]
    fn inline_content_never_crosses_a_block() {
        for length in 1..450_u64 {
            let tree = tree_with(40, &Content::Symlink(vec![b't'; usize::try_from(length).unwrap()]));
            let layout = Layout::of(&tree, &[], u64::MAX, Walk::of(&tree, u64::MAX).unwrap()).unwrap();
            for place in layout.places.iter().filter(|place| matches!(place.body, Body::Inline { .. })) {
                assert_eq!(place.offset / BLOCK_SIZE, (end_of(place) - 1) / BLOCK_SIZE);
            }
        }
    }

    #[test]
    fn places_ascend_without_overlap() {
        let mut tree = tree_with(50, &Content::Symlink(vec![b't'; 200]));
        let file = Content::File { size: 1 << 20, extents: vec![] };
        for n in 0..50 {
            let id: NodeId = tree.add(Node { attributes: Attributes::default(), content: file.clone() });
            tree.link(Tree::ROOT, format!("f{n}").as_bytes(), id);
        }
        let layout = Layout::of(&tree, &[], u64::MAX, Walk::of(&tree, u64::MAX).unwrap()).unwrap();
        for pair in layout.places.windows(2) {
            assert!(end_of(&pair[0]) <= pair[1].offset);
            assert_eq!(pair[1].offset % INODE_SLOT_SIZE, 0);
        }
    }
}
