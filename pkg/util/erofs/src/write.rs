//! Puts out an image as its layout says: one pass, in order, nothing but bytes.

use std::io::Write;

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

use crate::device::Device;
use crate::directory::{self, Link, Target};
use crate::error::{NodeError, WriteError};
use crate::format::{
    BLOCK, BLOCK_BITS, BLOCK_SIZE, CHUNK_INDEXES, COMPAT_CHECKSUM, COMPAT_MTIME, DEVICE_TABLE_SLOT, DeviceSlot,
    INCOMPAT_CHUNKED_FILE, INCOMPAT_DEVICE_TABLE, INODE_EXTENDED, Inode, LAYOUT_CHUNKS, LAYOUT_INLINE, LAYOUT_PLAIN,
    MAGIC, SUPERBLOCK_OFFSET, Superblock, checksum,
};
use crate::layout::{self, Body, IMAGE_ALIGNMENT, Layout, Place};
use crate::output::Output;
use crate::tree::{Content, Extent, Node, Tree};
use crate::walk::{Reached, Walk};
use crate::xattr;

/// How large an image may become. An image is held in the kernel's page cache and its tree in this process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the image.
    pub max_image_bytes: u64,
    /// Names in all directories together.
    pub max_entries: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the image, a multiple of 4096.
    pub bytes: u64,
    /// Inodes in it, the root included.
    pub inodes: u64,
}

/// Writes the image of a tree whose files lie on `devices`, in the order in which a mount must be given them.
///
/// The same tree and devices give the same bytes. Everything is checked before the first byte is written. After an error the output
/// holds no image; publishing a whole one (fsync, rename) is the caller's.
pub fn write<W: Write>(tree: &Tree, devices: &[Device], limits: &Limits, out: W) -> Result<Written, WriteError> {
    let walk = Walk::of(tree, limits.max_entries)?;
    let layout = Layout::of(tree, devices, limits.max_image_bytes, walk)?;
    let image = Image { tree, layout };
    let mut out = Output::new(out);
    image.put_header(devices, &mut out)?;
    image.put_inodes(&mut out)?;
    image.put_data(&mut out)?;
    out.align(IMAGE_ALIGNMENT)?;
    Ok(Written { bytes: out.finish()?, inodes: image.layout.places.len() as u64 })
}

struct Image<'t> {
    tree: &'t Tree,
    layout: Layout<'t>,
}

/// One node with all that is known of it.
#[derive(Clone, Copy)]
struct Item<'i> {
    position: usize,
    node: &'i Node,
    reached: &'i Reached,
    place: &'i Place,
}

// === impl Limits ===

impl Default for Limits {
    /// 1 GiB and 20 million entries: several times the largest images in use, and still a bounded cost.
    fn default() -> Self {
        Self { max_image_bytes: 1 << 30, max_entries: 20_000_000 }
    }
}

// === impl Image ===

impl Image<'_> {
    fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let placed = self.layout.walk.reached().iter().zip(&self.layout.places).enumerate();
        placed.filter_map(|(position, (reached, place))| {
            Some(Item { position, node: self.tree.node(reached.id)?, reached, place })
        })
    }

    fn put_header<W: Write>(&self, devices: &[Device], out: &mut Output<W>) -> Result<(), WriteError> {
        let mut superblock = self.superblock(devices.len())?;
        let mut block = superblock.as_bytes().to_vec();
        let slots = device_slots(devices, self.blocks(self.layout.image_size())?);
        block.extend(slots.flat_map(|slot| slot.as_bytes().to_vec()));
        block.resize(block.len().max(BLOCK), 0);
        superblock.checksum = U32::new(checksum(block.get(..BLOCK).unwrap_or_default()));
        let table = block.get(size_of::<Superblock>()..).unwrap_or_default();
        out.pad_to(SUPERBLOCK_OFFSET as u64)?;
        out.put(superblock.as_bytes())?;
        out.put(table)?;
        out.pad_to(self.layout.header)
    }

    fn superblock(&self, devices: usize) -> Result<Superblock, WriteError> {
        let root = self.layout.places.first().map_or(0, Layout::nid);
        let device_table = if devices > 0 { INCOMPAT_DEVICE_TABLE } else { 0 };
        Ok(Superblock {
            magic: U32::new(MAGIC),
            feature_compat: U32::new(COMPAT_CHECKSUM | COMPAT_MTIME),
            block_bits: BLOCK_BITS,
            root_nid: U16::new(u16::try_from(root).map_err(|_| self.too_large())?),
            inodes: U64::new(self.layout.places.len() as u64),
            blocks: U32::new(self.blocks(self.layout.image_size())?),
            meta_block: U32::new(self.blocks(self.layout.header)?),
            feature_incompat: U32::new(INCOMPAT_CHUNKED_FILE | device_table),
            // Checked with the layout.
            extra_devices: U16::new(u16::try_from(devices).unwrap_or(u16::MAX)),
            device_table_slot: U16::new(DEVICE_TABLE_SLOT),
            ..Superblock::new_zeroed()
        })
    }

    fn put_inodes<W: Write>(&self, out: &mut Output<W>) -> Result<(), WriteError> {
        for item in self.items() {
            out.pad_to(self.layout.header + item.place.offset)?;
            out.put(self.inode(item)?.as_bytes())?;
            xattr::put(&item.node.attributes.xattrs, out)?;
            match item.place.body {
                Body::Nothing | Body::Blocks { .. } => {}
                Body::Inline { .. } => self.put_content(item, out)?,
                Body::Chunks { chunks, .. } => {
                    out.pad_to(self.layout.header + layout::indexes_start(item.place))?;
                    chunks.indexes(extents(item.node)).try_for_each(|index| out.put(index.as_bytes()))?;
                }
            }
        }
        out.pad_to(self.layout.data_start())
    }

    fn put_data<W: Write>(&self, out: &mut Output<W>) -> Result<(), WriteError> {
        for item in self.items().filter(|item| matches!(item.place.body, Body::Blocks { .. })) {
            self.put_content(item, out)?;
            out.align(BLOCK_SIZE)?;
        }
        Ok(())
    }

    fn put_content<W: Write>(&self, item: Item<'_>, out: &mut Output<W>) -> Result<(), WriteError> {
        match &item.node.content {
            Content::Directory(children) => directory::put(children, |target| self.link(item, target), out),
            Content::Symlink(target) => out.put(target),
            Content::File { .. }
            | Content::CharDevice { .. }
            | Content::BlockDevice { .. }
            | Content::Fifo
            | Content::Socket => Ok(()),
        }
    }

    /// Where an entry of the directory `item` leads.
    fn link(&self, item: Item<'_>, target: Target) -> Result<Link, WriteError> {
        let position = match target {
            Target::This => Some(item.position),
            Target::Parent => Some(item.reached.parent),
            Target::Child(id) => self.layout.walk.position(id),
        };
        let found = position.and_then(|position| {
            let node = self.tree.node(self.layout.walk.reached().get(position)?.id)?;
            let nid = Layout::nid(self.layout.places.get(position)?);
            Some(Link { nid, file_type: kind(&node.content).entry_type })
        });
        found.ok_or_else(|| self.layout.walk.error(item.position, NodeError::Dangling))
    }

    fn inode(&self, item: Item<'_>) -> Result<Inode, WriteError> {
        let attributes = &item.node.attributes;
        let (data_layout, size, payload) = self.stored(item)?;
        Ok(Inode {
            format: U16::new(INODE_EXTENDED | (data_layout << 1)),
            xattr_units: U16::new(xattr::units(item.place.xattrs)),
            mode: U16::new(kind(&item.node.content).mode | attributes.mode),
            reserved: U16::ZERO,
            size: U64::new(size),
            payload: U32::new(payload),
            // Unused by the kernel but for 32-bit programs, which see the number of the inode otherwise.
            number: U32::new(u32::try_from(item.position).unwrap_or(u32::MAX)),
            uid: U32::new(attributes.uid),
            gid: U32::new(attributes.gid),
            mtime: I64::new(attributes.mtime),
            mtime_nsec: U32::new(attributes.mtime_nsec),
            links: U32::new(item.reached.links),
            reserved2: [0; 16],
        })
    }

    /// Layout, size and payload of an inode.
    fn stored(&self, item: Item<'_>) -> Result<(u16, u64, u32), WriteError> {
        Ok(match item.place.body {
            Body::Nothing => (LAYOUT_PLAIN, 0, device_number(&item.node.content)),
            Body::Inline { size } => (LAYOUT_INLINE, size, 0),
            Body::Blocks { first, size } => {
                (LAYOUT_PLAIN, size, self.blocks(self.layout.data_start() + first * BLOCK_SIZE)?)
            }
            Body::Chunks { chunks, size } => (LAYOUT_CHUNKS, size, CHUNK_INDEXES | u32::from(chunks.bits)),
        })
    }

    fn blocks(&self, bytes: u64) -> Result<u32, WriteError> {
        u32::try_from(bytes / BLOCK_SIZE).map_err(|_| self.too_large())
    }

    fn too_large(&self) -> WriteError {
        let last = self.layout.places.len().saturating_sub(1);
        WriteError::ImageTooLarge { max: u64::from(u32::MAX) * BLOCK_SIZE, path: self.layout.walk.path(last) }
    }
}

/// Type bits of a mode (`S_IFMT`) and type of a directory entry (`FT_*` of `include/linux/fs_types.h`).
struct Kind {
    mode: u16,
    entry_type: u8,
}

fn extents(node: &Node) -> &[Extent] {
    match &node.content {
        Content::File { extents, .. } => extents,
        Content::Directory(_)
        | Content::Symlink(_)
        | Content::CharDevice { .. }
        | Content::BlockDevice { .. }
        | Content::Fifo
        | Content::Socket => &[],
    }
}

fn kind(content: &Content) -> Kind {
    let (mode, entry_type) = match content {
        Content::File { .. } => (0o100_000, 1),
        Content::Directory(_) => (0o040_000, 2),
        Content::CharDevice { .. } => (0o020_000, 3),
        Content::BlockDevice { .. } => (0o060_000, 4),
        Content::Fifo => (0o010_000, 5),
        Content::Socket => (0o140_000, 6),
        Content::Symlink(_) => (0o120_000, 7),
    };
    Kind { mode, entry_type }
}

/// `new_encode_dev` of `include/linux/kdev_t.h`; zero for what is no device.
fn device_number(content: &Content) -> u32 {
    match content {
        Content::CharDevice { major, minor } | Content::BlockDevice { major, minor } => {
            (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
        }
        Content::Directory(_) | Content::File { .. } | Content::Symlink(_) | Content::Fifo | Content::Socket => 0,
    }
}

/// Slots of the device table. Each device is given a place behind the image and the devices before it, as if all were
/// concatenated: nothing is there, so that a mount without its devices fails to read instead of reading from the image.
fn device_slots(devices: &[Device], image_blocks: u32) -> impl Iterator<Item = DeviceSlot> {
    devices.iter().scan(image_blocks, |next, device| {
        // Checked with the layout.
        let blocks = u32::try_from(device.size / BLOCK_SIZE).unwrap_or(u32::MAX);
        let slot = DeviceSlot {
            tag: *device.tag.as_bytes(),
            blocks: U32::new(blocks),
            unified_block: U32::new(*next),
            reserved: [0; 56],
        };
        // Devices past 2 TiB share the last address, which is behind every image all the same.
        *next = next.saturating_add(blocks);
        Some(slot)
    })
}

#[cfg(test)]
mod tests;
