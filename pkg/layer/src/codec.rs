//! Entries as bytes: little numbers short, nothing shared between records, so that bytes in bound what is allocated.
//!
//! A record is a tag, the path, the attributes (unless the kind has none), then what the kind needs. Numbers are LEB128, signed ones
//! zigzag first; byte strings have their length before them.

use std::collections::BTreeMap;

use imagevol_erofs::Attributes;

use crate::entry::{Entry, Kind, Segment};
use crate::path::EntryPath;

/// Appends one entry.
pub(crate) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    out.push(tag(&entry.kind));
    put_bytes(entry.path.as_bytes(), out);
    if let Some(attributes) = entry.kind.attributes() {
        put_attributes(attributes, out);
    }
    match &entry.kind {
        Kind::File { size, segments, .. } => put_content(*size, segments, out),
        Kind::Symlink { target, .. } => put_bytes(target, out),
        Kind::HardLink { target } => put_bytes(target.as_bytes(), out),
        Kind::CharDevice { major, minor, .. } | Kind::BlockDevice { major, minor, .. } => {
            put_number(u64::from(*major), out);
            put_number(u64::from(*minor), out);
        }
        Kind::Directory(_) | Kind::Fifo(_) | Kind::Whiteout | Kind::Opaque => {}
    }
}

/// Takes one entry off the front; `None` if the bytes are no record. What the values claim is not checked here ([`Entry::is_sound`] does).
pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Entry> {
    let tag = take_byte(bytes)?;
    let path = take_path(bytes)?;
    let kind = match tag {
        0 => Kind::Directory(take_attributes(bytes)?),
        1 => {
            let attributes = take_attributes(bytes)?;
            let (size, segments) = take_content(bytes)?;
            Kind::File { attributes, size, segments }
        }
        2 => Kind::Symlink { attributes: take_attributes(bytes)?, target: take_bytes(bytes)?.to_vec() },
        3 => Kind::HardLink { target: take_path(bytes)? },
        4 => Kind::CharDevice { attributes: take_attributes(bytes)?, major: take_u32(bytes)?, minor: take_u32(bytes)? },
        5 => {
            Kind::BlockDevice { attributes: take_attributes(bytes)?, major: take_u32(bytes)?, minor: take_u32(bytes)? }
        }
        6 => Kind::Fifo(take_attributes(bytes)?),
        7 => Kind::Whiteout,
        8 => Kind::Opaque,
        _ => return None,
    };
    Some(Entry { path, kind })
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): each step is a bijection, so any single changed byte shows. It guards against rot, not
/// against an author: what is read is checked value by value all the same.
pub(crate) fn checksum(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn tag(kind: &Kind) -> u8 {
    match kind {
        Kind::Directory(_) => 0,
        Kind::File { .. } => 1,
        Kind::Symlink { .. } => 2,
        Kind::HardLink { .. } => 3,
        Kind::CharDevice { .. } => 4,
        Kind::BlockDevice { .. } => 5,
        Kind::Fifo(_) => 6,
        Kind::Whiteout => 7,
        Kind::Opaque => 8,
    }
}

fn put_number(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // usize is at most 64 bits wide on every target.
    put_number(u64::try_from(bytes.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(bytes);
}

fn put_attributes(attributes: &Attributes, out: &mut Vec<u8>) {
    put_number(u64::from(attributes.mode), out);
    put_number(u64::from(attributes.uid), out);
    put_number(u64::from(attributes.gid), out);
    put_number(((attributes.mtime << 1) ^ (attributes.mtime >> 63)).cast_unsigned(), out);
    put_number(u64::from(attributes.mtime_nsec), out);
    put_number(u64::try_from(attributes.xattrs.len()).unwrap_or(u64::MAX), out);
    for (name, value) in &attributes.xattrs {
        put_bytes(name, out);
        put_bytes(value, out);
    }
}

fn put_content(size: u64, segments: &[Segment], out: &mut Vec<u8>) {
    put_number(size, out);
    put_number(u64::try_from(segments.len()).unwrap_or(u64::MAX), out);
    for segment in segments {
        put_number(segment.file_offset, out);
        put_number(segment.tar_offset, out);
        put_number(segment.length, out);
    }
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

/// The shortest form only, so that equal indexes have equal bytes.
fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(bytes)?;
        let low = u64::from(byte & 0x7f);
        if (low << shift) >> shift != low || (byte == 0 && shift > 0) {
            return None;
        }
        value |= low << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take_number(bytes).and_then(|value| u32::try_from(value).ok())
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Only paths that are written as [`EntryPath`] writes them.
fn take_path(bytes: &mut &[u8]) -> Option<EntryPath> {
    let raw = take_bytes(bytes)?;
    EntryPath::parse(raw).ok().filter(|path| path.as_bytes() == raw)
}

fn take_attributes(bytes: &mut &[u8]) -> Option<Attributes> {
    let mode = take_number(bytes).and_then(|mode| u16::try_from(mode).ok())?;
    let (uid, gid) = (take_u32(bytes)?, take_u32(bytes)?);
    let zigzag = take_number(bytes)?;
    let mtime = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
    let mtime_nsec = take_u32(bytes)?;
    let mut xattrs = BTreeMap::new();
    for _ in 0..take_number(bytes)? {
        let (name, value) = (take_bytes(bytes)?, take_bytes(bytes)?);
        if xattrs.last_key_value().is_some_and(|(last, _): (&Vec<u8>, _)| last.as_slice() >= name) {
            return None;
        }
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    Some(Attributes { mode, uid, gid, mtime, mtime_nsec, xattrs })
}

fn take_content(bytes: &mut &[u8]) -> Option<(u64, Vec<Segment>)> {
    let size = take_number(bytes)?;
    let mut segments = Vec::new();
    for _ in 0..take_number(bytes)? {
        let (file_offset, tar_offset) = (take_number(bytes)?, take_number(bytes)?);
        segments.push(Segment { file_offset, tar_offset, length: take_number(bytes)? });
    }
    Some((size, segments))
}
