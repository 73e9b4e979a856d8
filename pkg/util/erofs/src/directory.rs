//! Directories: sorted entries, packed in blocks, each block with its table of entries first and the names after it.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Bound;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U64};

use crate::error::WriteError;
use crate::format::{BLOCK, BLOCK_SIZE, DIRENT_SIZE, Dirent};
use crate::output::Output;
use crate::tree::NodeId;

const DOT: &[u8] = b".";
const DOT_DOT: &[u8] = b"..";

/// What an entry of a directory leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// `.`
    This,
    /// `..`
    Parent,
    /// A child.
    Child(NodeId),
}

/// Where an entry leads, as stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Number of the inode.
    pub(crate) nid: u64,
    /// `FT_*` of `include/linux/fs_types.h`.
    pub(crate) file_type: u8,
}

/// Counts how entries fill blocks.
#[derive(Debug, Default)]
struct Packing {
    full_blocks: u64,
    used: usize,
}

/// How an entry joined the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    ThisBlock,
    NextBlock,
}

/// A block under construction.
#[derive(Debug, Default)]
struct Block<'n> {
    entries: Vec<(Link, &'n [u8])>,
}

/// The entries of a directory with `.` and `..`, in the order of their bytes that the kernel's binary search needs. Names below
/// `.` exist (`-`), and between `.` and `..` too.
pub(crate) fn entries(children: &BTreeMap<Vec<u8>, NodeId>) -> impl Iterator<Item = (&[u8], Target)> {
    let part = |from: Bound<&[u8]>, to: Bound<&[u8]>| {
        children.range::<[u8], _>((from, to)).map(|(name, id)| (name.as_slice(), Target::Child(*id)))
    };
    part(Bound::Unbounded, Bound::Excluded(DOT))
        .chain([(DOT, Target::This)])
        .chain(part(Bound::Excluded(DOT), Bound::Excluded(DOT_DOT)))
        .chain([(DOT_DOT, Target::Parent)])
        .chain(part(Bound::Excluded(DOT_DOT), Bound::Unbounded))
}

/// Bytes of a directory's data: whole blocks, and what is used of the last one.
pub(crate) fn size(children: &BTreeMap<Vec<u8>, NodeId>) -> u64 {
    let mut packing = Packing::default();
    for (name, _) in entries(children) {
        packing.add(name);
    }
    packing.full_blocks * BLOCK_SIZE + packing.used as u64
}

/// Puts out a directory's data, the last block without padding. `link` says where an entry leads.
pub(crate) fn put<W: Write>(
    children: &BTreeMap<Vec<u8>, NodeId>,
    mut link: impl FnMut(Target) -> Result<Link, WriteError>,
    out: &mut Output<W>,
) -> Result<(), WriteError> {
    let mut packing = Packing::default();
    let mut block = Block::default();
    for (name, target) in entries(children) {
        if packing.add(name) == Fit::NextBlock {
            block.put_padded(out)?;
        }
        block.entries.push((link(target)?, name));
    }
    block.put(out)
}

// === impl Packing ===

impl Packing {
    fn add(&mut self, name: &[u8]) -> Fit {
        let bytes = DIRENT_SIZE + name.len();
        if self.used + bytes <= BLOCK {
            self.used += bytes;
            return Fit::ThisBlock;
        }
        self.full_blocks += 1;
        self.used = bytes;
        Fit::NextBlock
    }
}

// === impl Block ===

impl Block<'_> {
    /// Puts out a block that another follows, and empties it.
    fn put_padded<W: Write>(&mut self, out: &mut Output<W>) -> Result<(), WriteError> {
        let end = out.position() + BLOCK_SIZE;
        self.put(out)?;
        self.entries.clear();
        out.pad_to(end)
    }

    fn put<W: Write>(&self, out: &mut Output<W>) -> Result<(), WriteError> {
        let mut name_offset = self.entries.len() * DIRENT_SIZE;
        for (link, name) in &self.entries {
            let dirent = Dirent {
                nid: U64::new(link.nid),
                // Below the block size.
                name_offset: U16::new(u16::try_from(name_offset).unwrap_or(u16::MAX)),
                file_type: link.file_type,
                reserved: 0,
            };
            out.put(dirent.as_bytes())?;
            name_offset += name.len();
        }
        self.entries.iter().try_for_each(|(_, name)| out.put(name))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::output::tests::collect;
    use crate::tree::Tree;

    fn directory(names: impl IntoIterator<Item = Vec<u8>>) -> BTreeMap<Vec<u8>, NodeId> {
        names.into_iter().map(|name| (name, Tree::ROOT)).collect()
    }

    #[test]
    fn dots_are_sorted_among_the_names() {
        let children = directory([b"-".to_vec(), b".\x01".to_vec(), b"...".to_vec(), b".a".to_vec(), b"a".to_vec()]);
        let names: Vec<_> = entries(&children).map(|(name, _)| name).collect();
        assert_eq!(names, [b"-".as_slice(), b".", b".\x01", b"..", b"...", b".a", b"a"]);
    }

    #[test]
    fn empty_directory_is_two_entries() {
        let data = collect(|out| put(&directory([]), |_| Ok(Link { nid: 7, file_type: 2 }), out));
        assert_eq!(data.len(), 2 * DIRENT_SIZE + 3);
        assert_eq!(size(&directory([])), data.len() as u64);
        assert!(data.ends_with(b"..."));
    }

    proptest! {
        #[test]
        fn size_is_what_is_appended(names in prop::collection::btree_set(prop::collection::vec(b'a'..=b'c', 1..=255), 0..40)) {
            let children = directory(names);
            let data = collect(|out| put(&children, |_| Ok(Link { nid: 1, file_type: 1 }), out));
            prop_assert_eq!(data.len() as u64, size(&children));
        }
    }
}
