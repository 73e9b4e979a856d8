//! What is kept of a layer next to its tar: its entries, in order, in a few dozen bytes each.

use crate::codec;
use crate::entry::{Entry, Kind};
use crate::error::{IndexProblem, LayerError, Result};
use crate::limits::Limits;

/// Beginning of every stored index.
const MAGIC: &[u8; 8] = b"imgvlidx";

/// Version of the records. Another version is refused: the layer's tar is at hand to parse again.
const VERSION: u32 = 1;

/// Magic, version, size of the tar, number of entries, length of the records.
const HEAD: usize = 8 + 4 + 8 + 8 + 8;

/// Bytes of a stored index that [`LayerIndex::entries_of_head`] reads.
pub const INDEX_HEAD: u64 = HEAD as u64;

/// The entries of one layer, in the order of its tar. Held encoded: twenty million entries fit in the default limit of 1 GiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIndex {
    tar_size: u64,
    counts: Counts,
    records: Vec<u8>,
}

/// How many entries of which kind a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Directories.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes of all regular files, holes included, hard links counted once.
    pub file_bytes: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links.
    pub hard_links: u64,
    /// Devices and pipes.
    pub special: u64,
    /// Whiteouts and opaque markers.
    pub whiteouts: u64,
}

/// Collects entries into an index.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    counts: Counts,
    records: Vec<u8>,
}

// === impl LayerIndex ===

impl LayerIndex {
    /// Bytes of the archive that was parsed, its end and whatever followed included.
    pub fn tar_size(&self) -> u64 {
        self.tar_size
    }

    /// How many entries of which kind.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The entries in archive order. They were checked when the index was made, so an error means a bug, not an input.
    pub fn entries(&self) -> impl Iterator<Item = Result<Entry>> {
        let mut rest = self.records.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let entry = codec::decode(&mut rest);
            if entry.is_none() {
                rest = &[];
            }
            Some(entry.ok_or(LayerError::Index { problem: IndexProblem::Record }))
        })
    }

    /// The index as it is stored: equal indexes give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.records.len() + 8);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.tar_size.to_le_bytes());
        bytes.extend_from_slice(&self.counts.entries().to_le_bytes());
        bytes.extend_from_slice(&u64::try_from(self.records.len()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend_from_slice(&self.records);
        let checksum = codec::checksum(&[&bytes]);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a stored index. Every value is checked again, so that bytes that rotted, or that somebody wrote, lead to nothing that a
    /// tar of that size could not have led to. Allocates no more than a small multiple of `bytes`.
    ///
    /// # Errors
    /// [`LayerError::Index`]: parse the layer again.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).map_err(|problem| LayerError::Index { problem })
    }

    /// How many entries a stored index says that it has, from its first [`INDEX_HEAD`] bytes.
    pub fn entries_of_head(head: &[u8]) -> Result<u64> {
        let read = || {
            let mut rest = head.strip_prefix(MAGIC).ok_or(IndexProblem::Magic)?;
            let version = u32::from_le_bytes(take(&mut rest)?);
            if version != VERSION {
                return Err(IndexProblem::Version(version));
            }
            let _tar_size = u64::from_le_bytes(take(&mut rest)?);
            Ok(u64::from_le_bytes(take(&mut rest)?))
        };
        read().map_err(|problem| LayerError::Index { problem })
    }

    fn read(bytes: &[u8]) -> Result<Self, IndexProblem> {
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(IndexProblem::Magic)?;
        let version = u32::from_le_bytes(take(&mut rest)?);
        if version != VERSION {
            return Err(IndexProblem::Version(version));
        }
        let tar_size = u64::from_le_bytes(take(&mut rest)?);
        let entries = u64::from_le_bytes(take(&mut rest)?);
        let length = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).map_err(|_| IndexProblem::Length)?;
        let (records, mut rest) = rest.split_at_checked(length).ok_or(IndexProblem::Length)?;
        let stored = u64::from_le_bytes(take(&mut rest)?);
        if !rest.is_empty() {
            return Err(IndexProblem::Length);
        }
        let head = bytes.get(..HEAD).ok_or(IndexProblem::Length)?;
        if codec::checksum(&[head, records]) != stored {
            return Err(IndexProblem::Checksum);
        }
        let counts = count(records, tar_size).ok_or(IndexProblem::Record)?;
        if counts.entries() != entries {
            return Err(IndexProblem::Record);
        }
        Ok(Self { tar_size, counts, records: records.to_vec() })
    }
}

// === impl Counts ===

impl Counts {
    /// Entries of all kinds.
    pub fn entries(&self) -> u64 {
        self.directories + self.files + self.symlinks + self.hard_links + self.special + self.whiteouts
    }

    fn add(&mut self, kind: &Kind) {
        match kind {
            Kind::Directory(_) => self.directories += 1,
            Kind::File { size, .. } => {
                self.files += 1;
                self.file_bytes = self.file_bytes.saturating_add(*size);
            }
            Kind::Symlink { .. } => self.symlinks += 1,
            Kind::HardLink { .. } => self.hard_links += 1,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo(_) => self.special += 1,
            Kind::Whiteout | Kind::Opaque => self.whiteouts += 1,
        }
    }
}

// === impl IndexBuilder ===

impl IndexBuilder {
    pub(crate) fn push(&mut self, entry: &Entry, limits: &Limits) -> Result<()> {
        if self.counts.entries() >= limits.max_entries {
            return Err(LayerError::TooManyEntries { limit: limits.max_entries });
        }
        codec::encode(entry, &mut self.records);
        self.counts.add(&entry.kind);
        if u64::try_from(self.records.len()).is_ok_and(|length| length <= limits.max_index_bytes) {
            return Ok(());
        }
        Err(LayerError::IndexTooLarge { limit: limits.max_index_bytes })
    }

    pub(crate) fn finish(self, tar_size: u64) -> LayerIndex {
        LayerIndex { tar_size, counts: self.counts, records: self.records }
    }
}

/// Counts records after checking each; `None` if one could not come from a tar of that size.
fn count(mut records: &[u8], tar_size: u64) -> Option<Counts> {
    let mut counts = Counts::default();
    while !records.is_empty() {
        let entry = codec::decode(&mut records).filter(|entry| entry.is_sound(tar_size))?;
        counts.add(&entry.kind);
    }
    Some(counts)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], IndexProblem> {
    let (taken, rest) = bytes.split_first_chunk::<N>().ok_or(IndexProblem::Length)?;
    *bytes = rest;
    Ok(*taken)
}

#[cfg(test)]
mod tests;
