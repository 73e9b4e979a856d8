//! Reads back what the header of an image says, for whoever has to give a mount its devices.

use std::io::Read;

use zerocopy::{FromBytes, IntoBytes};

use crate::device::{Device, DeviceTag};
use crate::error::HeaderError;
use crate::format::{
    BLOCK, BLOCK_BITS, BLOCK_SIZE, COMPAT_CHECKSUM, COMPAT_MTIME, DEVICE_SLOT_SIZE, DEVICE_TABLE_SLOT, DeviceSlot,
    INCOMPAT_CHUNKED_FILE, INCOMPAT_DEVICE_TABLE, MAGIC, SUPERBLOCK_OFFSET, Superblock, checksum,
};

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the image. A file that is shorter is damaged.
    pub bytes: u64,
    /// Inodes in it.
    pub inodes: u64,
    /// The devices it points into, in the order in which a mount must be given them. The kernel mounts an image without them, and
    /// fails later.
    pub devices: Vec<Device>,
}

/// The devices of an image that [`crate::write`] wrote: [`read_header`] without the rest.
pub fn read_devices<R: Read>(image: R) -> Result<Vec<Device>, HeaderError> {
    read_header(image).map(|header| header.devices)
}

/// Reads and checks the header of an image that [`crate::write`] wrote, from its first byte on.
///
/// The checksum finds damage, not malice, and covers the superblock and three devices.
pub fn read_header<R: Read>(mut image: R) -> Result<Header, HeaderError> {
    let mut start = [0; SUPERBLOCK_OFFSET + BLOCK];
    image.read_exact(&mut start).map_err(|source| HeaderError::Read { source })?;
    let (_, block) = start.split_at(SUPERBLOCK_OFFSET);
    let (superblock, slots) = Superblock::read_from_prefix(block).map_err(|_| HeaderError::Magic { found: 0 })?;
    check(&superblock, slots)?;
    let table = read_table(superblock.extra_devices.get(), slots, image)?;
    let (slots, _) = table.as_chunks::<DEVICE_SLOT_SIZE>();
    Ok(Header {
        bytes: u64::from(superblock.blocks.get()) * BLOCK_SIZE,
        inodes: superblock.inodes.get(),
        devices: slots.iter().enumerate().map(|(index, slot)| device(index, slot)).collect::<Result<_, _>>()?,
    })
}

/// Checks the superblock, given what follows it in its block.
fn check(superblock: &Superblock, rest: &[u8]) -> Result<(), HeaderError> {
    if superblock.magic.get() != MAGIC {
        return Err(HeaderError::Magic { found: superblock.magic.get() });
    }
    let unsigned = Superblock { checksum: 0.into(), ..*superblock };
    let computed = checksum(&[unsigned.as_bytes(), rest].concat());
    if superblock.checksum.get() != computed {
        return Err(HeaderError::Checksum { stored: superblock.checksum.get(), computed });
    }
    let device_table = if superblock.extra_devices.get() > 0 { INCOMPAT_DEVICE_TABLE } else { 0 };
    let expected = [
        ("blkszbits", u64::from(superblock.block_bits), u64::from(BLOCK_BITS)),
        ("feature_compat", superblock.feature_compat.get().into(), (COMPAT_CHECKSUM | COMPAT_MTIME).into()),
        ("feature_incompat", superblock.feature_incompat.get().into(), (INCOMPAT_CHUNKED_FILE | device_table).into()),
        ("devt_slotoff", superblock.device_table_slot.get().into(), DEVICE_TABLE_SLOT.into()),
    ];
    let foreign = expected.into_iter().find(|(_, value, expected)| value != expected);
    foreign.map_or(Ok(()), |(field, value, _)| Err(HeaderError::Foreign { field, value }))
}

/// The device table, of which `start` was read already.
fn read_table<R: Read>(devices: u16, start: &[u8], mut image: R) -> Result<Vec<u8>, HeaderError> {
    let size = usize::from(devices) * DEVICE_SLOT_SIZE;
    let mut table = start.to_vec();
    table.resize(size, 0);
    if let Some(rest) = table.get_mut(start.len()..) {
        image.read_exact(rest).map_err(|source| HeaderError::Read { source })?;
    }
    Ok(table)
}

fn device(index: usize, slot: &[u8; DEVICE_SLOT_SIZE]) -> Result<Device, HeaderError> {
    let DeviceSlot { tag, blocks, .. } = zerocopy::transmute!(*slot);
    let tag = DeviceTag::from_slot(tag).map_err(|source| HeaderError::Tag { index, source })?;
    Ok(Device { tag, size: u64::from(blocks.get()) * BLOCK_SIZE })
}

#[cfg(test)]
mod tests;
