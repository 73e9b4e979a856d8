//! PAX extended headers (POSIX.1-2001 pax, "pax Extended Header"), with the xattrs of star and the sparse maps of GNU tar.

use std::collections::BTreeMap;

use crate::entry;
use crate::error::{LayerError, Result, Shown};
use crate::number::{self, Time};

/// star's namespace of extended attributes, which Go, GNU tar and libarchive write.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// GNU tar's namespace of sparse maps (GNU tar manual, "Sparse Formats").
const SPARSE: &[u8] = b"GNU.sparse.";

/// What extended headers say about one entry, or about all later ones. `None`: nothing, the header's own field counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<Time>,
    /// Those that an image keeps.
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sparse: SparseRecords,
}

/// A sparse map in extended headers (versions 0.0 and 0.1), or word of one in the data (1.0).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) count: Option<u64>,
    /// Offsets and lengths in turn.
    pub(crate) map: Option<Vec<u64>>,
}

/// Which extended header is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `x`.
    OneEntry,
    /// `g`.
    AllLater,
}

// === impl Records ===

impl Records {
    /// Lays the records in `bytes` over these. `at` is for errors.
    pub(crate) fn apply(&mut self, mut bytes: &[u8], scope: Scope, at: u64) -> Result<()> {
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or(LayerError::PaxRecord { at })?;
            if scope == Scope::AllLater && belongs_to_one(key) {
                return Err(LayerError::PaxGlobal { at, key: Shown::new(key) });
            }
            self.set(key, value).ok_or_else(|| LayerError::PaxValue { at, key: Shown::new(key) })?;
            bytes = rest;
        }
        Ok(())
    }

    /// An empty value takes back what a global header said (POSIX). `None` if the value is none for its key.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"path" => store(&mut self.path, value, name)?,
            b"linkpath" => store(&mut self.link_path, value, name)?,
            b"size" => store(&mut self.size, value, number::decimal)?,
            b"uid" => store(&mut self.uid, value, id)?,
            b"gid" => store(&mut self.gid, value, id)?,
            b"mtime" => store(&mut self.mtime, value, number::time)?,
            _ => {
                if let Some(attribute) = key.strip_prefix(XATTR) {
                    self.set_xattr(attribute, value);
                } else if let Some(key) = key.strip_prefix(SPARSE) {
                    return self.sparse.set(key, value);
                }
            }
        }
        Some(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) {
        if entry::keeps_xattr(name) {
            self.xattrs.insert(name.to_vec(), value.to_vec());
        }
    }
}

// === impl SparseRecords ===

impl SparseRecords {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => store(&mut self.major, value, number::decimal)?,
            b"minor" => store(&mut self.minor, value, number::decimal)?,
            b"name" => store(&mut self.name, value, name)?,
            b"size" | b"realsize" => store(&mut self.size, value, number::decimal)?,
            b"numblocks" => store(&mut self.count, value, number::decimal)?,
            b"map" => self.map = Some(value.split(|byte| *byte == b',').map(number::decimal).collect::<Option<_>>()?),
            b"offset" => return self.push(value, 0),
            b"numbytes" => return self.push(value, 1),
            _ => {}
        }
        Some(())
    }

    /// Version 0.0: offsets and lengths must take turns.
    fn push(&mut self, value: &[u8], turn: usize) -> Option<()> {
        let map = self.map.get_or_insert_default();
        if map.len() % 2 != turn {
            return None;
        }
        map.push(number::decimal(value)?);
        Some(())
    }
}

/// What sets one entry's name or framing, which no global header may.
fn belongs_to_one(key: &[u8]) -> bool {
    matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(XATTR) || key.starts_with(SPARSE)
}

/// Key, value and rest of `<length> <key>=<value>\n`, where the length counts itself.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = bytes.iter().take(21).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number::decimal(bytes.get(..blank)?)?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (pair.get(..equals)?, pair.get(equals + 1..)?);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn store<T>(slot: &mut Option<T>, value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<()> {
    *slot = if value.is_empty() { None } else { Some(parse(value)?) };
    Some(())
}

fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.contains(&0)).then(|| value.to_vec())
}

/// An owner with its sign, so that what is out of range is refused with the entry's name.
fn id(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::archive::record;

    fn parse(bytes: &[u8], scope: Scope) -> Result<Records> {
        let mut records = Records::default();
        records.apply(bytes, scope, 0).map(|()| records)
    }

    #[test]
    fn reads_keys_and_ignores_others() {
        let pairs: [(&str, &[u8]); 4] =
            [("path", b"a=b"), ("comment", b"hey"), ("uid", b"7"), ("SCHILY.xattr.user.a", b"x\ny")];
        let bytes: Vec<u8> = pairs.iter().flat_map(|(key, value)| record(key, value)).collect();
        let records = parse(&bytes, Scope::OneEntry).unwrap();
        assert_eq!(records.path.as_deref(), Some(b"a=b".as_slice()));
        assert_eq!(records.uid, Some(7));
        assert_eq!(records.xattrs.get(b"user.a".as_slice()).unwrap(), b"x\ny");
    }

    #[test]
    fn empty_value_takes_back_a_global_one() {
        let mut records = parse(&record("uid", b"7"), Scope::AllLater).unwrap();
        records.apply(&record("uid", b""), Scope::OneEntry, 0).unwrap();
        assert_eq!(records, Records::default());
    }

    #[rstest]
    #[case::no_newline(b"8 uid=7x")]
    #[case::length_too_long(b"99 uid=7\n")]
    #[case::length_too_short(b"3 uid=7\n")]
    #[case::no_length(b"uid=7\n")]
    #[case::no_equals(b"7 uid7\n")]
    #[case::no_key(b"5 =7\n")]
    #[case::nul_in_key(b"8 u\0d=7\n")]
    #[case::padding_inside(b"8 uid=7\n\0\0\0")]
    fn refuses_malformed_records(#[case] bytes: &[u8]) {
        assert_eq!(parse(bytes, Scope::OneEntry), Err(LayerError::PaxRecord { at: 0 }));
    }

    #[rstest]
    #[case::negative_size("size", b"-1")]
    #[case::size_of_65_bits("size", b"18446744073709551616")]
    #[case::plus("size", b"+1")]
    #[case::nan("mtime", b"NaN")]
    #[case::nul_in_path("path", b"a\0b")]
    #[case::uid_is_no_number("uid", b"1x")]
    #[case::length_before_offset("GNU.sparse.numbytes", b"1")]
    fn refuses_values_that_are_none(#[case] key: &str, #[case] value: &[u8]) {
        let refused = LayerError::PaxValue { at: 0, key: Shown::new(key.as_bytes()) };
        assert_eq!(parse(&record(key, value), Scope::OneEntry), Err(refused));
    }

    #[rstest]
    #[case("path")]
    #[case("size")]
    #[case("linkpath")]
    #[case("SCHILY.xattr.user.a")]
    #[case("GNU.sparse.map")]
    fn global_headers_cannot_name_or_frame_entries(#[case] key: &str) {
        let refused = LayerError::PaxGlobal { at: 0, key: Shown::new(key.as_bytes()) };
        assert_eq!(parse(&record(key, b"1"), Scope::AllLater), Err(refused));
    }
}
