//! A tar as a place of files: kept as it comes, decompressed, and read where its files lie. Nothing is unpacked, so that no name, link or
//! device in it can do anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, Cursor, Read as _, Write};
use std::sync::Arc;

use imagevol_layer::{Entry, Kind, LayerIndex, Limits, Parser};
use imagevol_store::{Compression, Inflate};

use crate::blob::Blob;
use crate::error::{LayoutError, Result};

/// Bytes that are read and written at once.
const CHUNK: usize = 256 * 1024;
/// Bytes at the start that tell every compression that is known here by name: bzip2's take the most.
const HEAD_BYTES: u64 = 10;
/// Links that are followed from one to the next; `docker save` of old wrote one for a layer that two images share.
const LINKS_MAX: usize = 8;
/// Members of an archive: some for each layer of each image in it.
const MEMBERS_MAX: u64 = 100_000;
/// Bytes that describe them.
const INDEX_MAX: u64 = 64 << 20;

/// What an archive may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Bytes of the tar, decompressed.
    pub max_bytes: u64,
}

/// A tar that lies in a file.
#[derive(Debug)]
pub struct Archive {
    file: Arc<File>,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File {
        at: u64,
        size: u64,
    },
    /// To a path from the top.
    Link(String),
    /// Nothing that can be read: a device, a sparse file, a link to nowhere.
    Other,
}

// === impl Archive ===

impl Archive {
    /// Reads a tar, plain or compressed with gzip or zstd, to its end into `out`, and finds its members. What `out` is written to must
    /// be `file`.
    pub fn keep(source: impl BufRead, out: &mut impl Write, file: File, limits: ArchiveLimits) -> Result<Self> {
        let index = keep(source, out, limits)?;
        let mut members = BTreeMap::new();
        for entry in index.entries() {
            let Some((path, member)) = member(&entry?) else { continue };
            // Readers differ in which of two they take.
            if members.insert(path.clone(), member).is_some() {
                return Err(LayoutError::Twice { what: path });
            }
        }
        Ok(Self { file: Arc::new(file), members })
    }

    /// Opens a member, through links inside the archive.
    pub(crate) fn open(&self, path: &str) -> Result<Blob> {
        let mut current = path;
        for _ in 0..LINKS_MAX {
            match self.members.get(current) {
                None => return Err(LayoutError::Absent { what: path.to_owned() }),
                Some(Member::File { at, size }) => return Ok(Blob::of_file(Arc::clone(&self.file), *at, *size)),
                Some(Member::Link(target)) => current = target,
                Some(Member::Other) => break,
            }
        }
        Err(LayoutError::NotAFile { what: path.to_owned() })
    }
}

fn keep(mut source: impl BufRead, out: &mut impl Write, limits: ArchiveLimits) -> Result<LayerIndex> {
    // A source's first piece may be shorter than what tells the compression.
    let mut head = Vec::new();
    source.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(LayoutError::Source)?;
    if let Some(by) = other_compression(&head) {
        return Err(LayoutError::Compression { by });
    }
    let whole = Cursor::new(head).chain(source);
    let mut tar = Inflate::new(Compression::Detect, whole).map_err(LayoutError::Source)?;
    let mut parser = Parser::new(Limits { max_entries: MEMBERS_MAX, max_index_bytes: INDEX_MAX, ..Limits::default() });
    let (mut buffer, mut total) = (vec![0; CHUNK], 0_u64);
    loop {
        let count = match tar.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(LayoutError::Source)?,
        };
        let piece = buffer.get(..count).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        total = total.saturating_add(count as u64);
        if total > limits.max_bytes {
            return Err(LayoutError::ArchiveTooLarge { limit: limits.max_bytes });
        }
        parser.feed(piece)?;
        out.write_all(piece).map_err(LayoutError::Keep)?;
    }
    out.flush().map_err(LayoutError::Keep)?;
    Ok(parser.finish()?)
}

/// What `docker load` and `podman load` read besides, and this does not; named after the program that decompresses it. No tar begins so:
/// the xz file format, 2.1.1.1; bzip2's header and first block; the LZ4 frame format, "Magic Number".
fn other_compression(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"\xfd7zXZ\0") {
        Some("xz")
    } else if head.starts_with(b"BZh") && head.get(4..10) == Some(b"1AY&SY") {
        Some("bzip2")
    } else if head.starts_with(b"\x04\x22\x4d\x18") {
        Some("lz4")
    } else {
        None
    }
}

/// A member that has a name that can be asked for.
fn member(entry: &Entry) -> Option<(String, Member)> {
    let path = String::from_utf8(entry.path.as_bytes().to_vec()).ok()?;
    let member = match &entry.kind {
        Kind::Directory(_) | Kind::Whiteout | Kind::Opaque => return None,
        Kind::File { size, segments, .. } => match segments.as_slice() {
            [] if *size == 0 => Member::File { at: 0, size: 0 },
            [only] if only.file_offset == 0 && only.length == *size => {
                Member::File { at: only.tar_offset, size: *size }
            }
            _ => Member::Other,
        },
        Kind::Symlink { target, .. } => target_of(&path, target).map_or(Member::Other, Member::Link),
        Kind::HardLink { target } => String::from_utf8(target.as_bytes().to_vec()).map_or(Member::Other, Member::Link),
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo(_) => Member::Other,
    };
    Some((path, member))
}

/// The path from the top that a symlink at `path` leads to, if that is inside.
fn target_of(path: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    let mut components: Vec<&str> = path.split('/').collect();
    components.pop();
    if target.starts_with('/') {
        return None;
    }
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()?),
            name => components.push(name),
        }
    }
    Some(components.join("/"))
}

#[cfg(test)]
mod tests;
