//! Where a file's bytes lie, as chunks: equal pieces of the file, each a hole or a run on one device.

use zerocopy::little_endian::{U16, U32};

use crate::device::Device;
use crate::error::{ExtentError, NodeError};
use crate::format::{BLOCK_BITS, BLOCK_SIZE, CHUNK_INDEX_SIZE, ChunkIndex, HOLE, MAX_CHUNK_BITS};
use crate::tree::Extent;

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    /// Blocks of a chunk, as a power of two.
    pub(crate) bits: u8,
    /// How many there are.
    count: u64,
}

// === impl Chunks ===

impl Chunks {
    /// The largest chunks that no boundary between runs and holes falls into: one alone for a contiguous file.
    pub(crate) fn of(size: u64, extents: &[Extent]) -> Self {
        let whole = size.div_ceil(BLOCK_SIZE).next_power_of_two().trailing_zeros();
        let bits = runs(extents)
            .flat_map(|run| [run.file_offset, end(&run)])
            .filter(|boundary| *boundary > 0 && *boundary < size)
            .map(|boundary| (boundary >> BLOCK_BITS).trailing_zeros())
            .fold(whole.min(u32::from(MAX_CHUNK_BITS)), u32::min);
        let bits = u8::try_from(bits).unwrap_or(MAX_CHUNK_BITS);
        Self { bits, count: size.div_ceil(chunk_bytes(bits)) }
    }

    /// Bytes of the indexes.
    pub(crate) fn index_bytes(self) -> u64 {
        self.count.saturating_mul(CHUNK_INDEX_SIZE)
    }

    /// The indexes in order. `extents` must have passed [`check`].
    pub(crate) fn indexes(self, extents: &[Extent]) -> impl Iterator<Item = ChunkIndex> {
        let mut runs = runs(extents).peekable();
        (0..self.count).map(move |chunk| {
            let offset = chunk * chunk_bytes(self.bits);
            while runs.next_if(|run| end(run) <= offset).is_some() {}
            index(offset, runs.peek())
        })
    }
}

/// Checks what the tree promises of a file's extents, against the devices they lie on.
pub(crate) fn check(size: u64, extents: &[Extent], devices: &[Device]) -> Result<(), NodeError> {
    if i64::try_from(size).is_err() {
        return Err(NodeError::FileTooLarge { size });
    }
    let mut before = 0;
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        before = check_extent(extent, before, size, devices)
            .map_err(|source| NodeError::Extent { file_offset: extent.file_offset, source })?;
    }
    Ok(())
}

/// Checks one extent; gives its end in the file.
fn check_extent(extent: &Extent, before: u64, size: u64, devices: &[Device]) -> Result<u64, ExtentError> {
    let device = devices.get(usize::from(extent.device)).ok_or(ExtentError::Device { device: extent.device })?;
    let end = extent.file_offset.checked_add(extent.length).ok_or(ExtentError::PastFile)?;
    if extent.file_offset < before {
        return Err(ExtentError::Order);
    }
    if end > size {
        return Err(ExtentError::PastFile);
    }
    // Only the file's own end may lie inside a block: the kernel hides what follows it, but nothing else.
    let loose_end = !aligned(end) && end != size;
    if !aligned(extent.file_offset) || !aligned(extent.device_offset) || loose_end {
        return Err(ExtentError::Unaligned);
    }
    // The kernel reads whole blocks.
    let last =
        extent.length.checked_next_multiple_of(BLOCK_SIZE).and_then(|length| length.checked_add(extent.device_offset));
    match last {
        Some(last) if last <= device.size => Ok(end),
        Some(_) | None => Err(ExtentError::PastDevice),
    }
}

/// Extents with neighbours joined where file and device go on together; empty ones are left out.
fn runs(extents: &[Extent]) -> impl Iterator<Item = Extent> {
    let mut extents = extents.iter().filter(|extent| extent.length > 0).copied().peekable();
    std::iter::from_fn(move || {
        let mut run = extents.next()?;
        while let Some(next) = extents.next_if(|next| continues(&run, next)) {
            run.length += next.length;
        }
        Some(run)
    })
}

fn continues(run: &Extent, next: &Extent) -> bool {
    next.device == run.device && next.file_offset == end(run) && next.device_offset == run.device_offset + run.length
}

fn end(run: &Extent) -> u64 {
    run.file_offset + run.length
}

fn aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(BLOCK_SIZE)
}

fn chunk_bytes(bits: u8) -> u64 {
    BLOCK_SIZE << bits
}

/// The index of the chunk at `offset`, given the first run that ends after it.
fn index(offset: u64, run: Option<&Extent>) -> ChunkIndex {
    let place = run.filter(|run| run.file_offset <= offset).and_then(|run| {
        let block = (run.device_offset + (offset - run.file_offset)) >> BLOCK_BITS;
        // `check` and the limits on devices keep both in range; the image itself is device 0.
        Some((run.device.checked_add(1)?, u32::try_from(block).ok()?))
    });
    let (device, block) = place.unwrap_or((0, HOLE));
    ChunkIndex { reserved: U16::ZERO, device: U16::new(device), block: U32::new(block) }
}

#[cfg(test)]
mod tests;
