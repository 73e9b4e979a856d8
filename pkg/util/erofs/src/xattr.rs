//! Extended attributes, all of them stored behind their inode.

use std::collections::BTreeMap;
use std::io::Write;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use crate::error::{NodeError, WriteError, XattrError};
use crate::format::{XATTR_HEADER_SIZE, XATTR_UNIT, XattrEntry};
use crate::output::Output;

/// `XATTR_NAME_MAX` of `include/uapi/linux/limits.h`.
const MAX_FULL_NAME: usize = 255;
/// `XATTR_LIST_MAX`: longer lists of names cannot be read by anyone.
const MAX_LIST: usize = 65536;
/// `i_xattr_icount` is 16 bits wide: the header and 65,534 units.
const MAX_BODY: usize = XATTR_HEADER_SIZE + XATTR_UNIT * 65534;
/// `EROFS_XATTR_INDEX_*` of the prefixes that are followed by a name.
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
/// Those that are whole names.
const WHOLE_NAMES: [(&[u8], u8); 2] = [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3)];

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Bytes that the attributes take behind an inode: a multiple of four, zero without any.
pub(crate) fn stored_size(xattrs: &Xattrs) -> Result<usize, NodeError> {
    if xattrs.is_empty() {
        return Ok(0);
    }
    let mut bytes = XATTR_HEADER_SIZE;
    let mut names = 0;
    for (name, value) in xattrs {
        let entry = entry(name, value).map_err(|source| NodeError::Xattr { name: name.clone(), source })?;
        bytes += entry.stored_size();
        names += name.len() + 1;
    }
    if bytes > MAX_BODY || names > MAX_LIST {
        return Err(NodeError::XattrsTooLarge { bytes, names });
    }
    Ok(bytes)
}

/// Puts out the attributes as stored. They must have passed [`stored_size`], and the position be a multiple of four.
pub(crate) fn put<W: Write>(xattrs: &Xattrs, out: &mut Output<W>) -> Result<(), WriteError> {
    if xattrs.is_empty() {
        return Ok(());
    }
    out.put(&[0; XATTR_HEADER_SIZE])?;
    xattrs.iter().filter_map(|(name, value)| entry(name, value).ok()).try_for_each(|entry| entry.put(out))
}

/// The inode's count of units for a body of this size: the header counts as one.
pub(crate) fn units(stored_size: usize) -> u16 {
    let after_header = stored_size.checked_sub(XATTR_HEADER_SIZE);
    after_header.map_or(0, |bytes| u16::try_from(bytes / XATTR_UNIT + 1).unwrap_or(u16::MAX))
}

struct Entry<'x> {
    head: XattrEntry,
    name: &'x [u8],
    value: &'x [u8],
}

// === impl Entry ===

impl Entry<'_> {
    fn stored_size(&self) -> usize {
        (XATTR_UNIT + self.name.len() + self.value.len()).next_multiple_of(XATTR_UNIT)
    }

    fn put<W: Write>(&self, out: &mut Output<W>) -> Result<(), WriteError> {
        out.put(self.head.as_bytes())?;
        out.put(self.name)?;
        out.put(self.value)?;
        out.align(XATTR_UNIT as u64)
    }
}

fn entry<'x>(full_name: &'x [u8], value: &'x [u8]) -> Result<Entry<'x>, XattrError> {
    let (name_index, name) = split(full_name).ok_or(XattrError::Namespace)?;
    if full_name.len() > MAX_FULL_NAME || name.contains(&0) {
        return Err(XattrError::Name);
    }
    let name_length = u8::try_from(name.len()).map_err(|_| XattrError::Name)?;
    let value_length = u16::try_from(value.len()).map_err(|_| XattrError::Value { length: value.len() })?;
    Ok(Entry { head: XattrEntry { name_length, name_index, value_length: U16::new(value_length) }, name, value })
}

/// The index of a name's prefix, and what follows it.
fn split(full_name: &[u8]) -> Option<(u8, &[u8])> {
    let whole = WHOLE_NAMES.iter().find(|(name, _)| *name == full_name).map(|(_, index)| (*index, &[][..]));
    let rest = |prefix: &[u8]| full_name.strip_prefix(prefix).filter(|rest| !rest.is_empty());
    whole.or_else(|| PREFIXES.iter().find_map(|(prefix, index)| rest(prefix).map(|rest| (*index, rest))))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::output::tests::collect;

    fn one(name: &[u8], value: &[u8]) -> Xattrs {
        BTreeMap::from([(name.to_vec(), value.to_vec())])
    }

    #[rstest]
    #[case::none(BTreeMap::new(), 0, 0)]
    #[case::exact(one(b"user.ab", b"cd"), 12 + 8, 3)]
    #[case::padded(one(b"trusted.a", b""), 12 + 8, 3)]
    #[case::acl(one(b"system.posix_acl_access", b"1234"), 12 + 8, 3)]
    #[case::longest_value(one(b"security.ab", &vec![1; 65535]), 12 + 4 + 65540, 16387)]
    fn size_counts_padding(#[case] xattrs: Xattrs, #[case] bytes: usize, #[case] count: u16) {
        let stored = collect(|out| put(&xattrs, out));
        assert_eq!(stored_size(&xattrs), Ok(bytes));
        assert_eq!(stored.len(), bytes);
        assert_eq!(units(bytes), count);
    }

    #[rstest]
    #[case::namespace(b"system.other", 1, XattrError::Namespace)]
    #[case::no_namespace(b"plain", 1, XattrError::Namespace)]
    #[case::nothing_after_prefix(b"user.", 1, XattrError::Namespace)]
    #[case::zero_byte(b"user.a\0b", 1, XattrError::Name)]
    #[case::long_name(&[b"user.".as_slice(), &[b'n'; 251]].concat(), 1, XattrError::Name)]
    #[case::long_value(b"user.a", 65536, XattrError::Value { length: 65536 })]
    fn refuses_one(#[case] name: &[u8], #[case] length: usize, #[case] source: XattrError) {
        let found = stored_size(&one(name, &vec![0; length]));
        assert_eq!(found, Err(NodeError::Xattr { name: name.to_vec(), source }));
    }

    #[test]
    fn refuses_more_than_an_inode_holds() {
        let full: Xattrs = (0..4).map(|n| (format!("user.{n}").into_bytes(), vec![0; 65527])).collect();
        assert_eq!(stored_size(&full), Ok(MAX_BODY - 8));
        let over: Xattrs = (0..4).map(|n| (format!("user.{n}").into_bytes(), vec![0; 65535])).collect();
        assert!(matches!(stored_size(&over), Err(NodeError::XattrsTooLarge { bytes: 262_172, .. })));
    }

    #[test]
    fn refuses_names_that_no_list_holds() {
        let many: Xattrs = (0..300).map(|n| (format!("user.{n:0>245}").into_bytes(), vec![])).collect();
        assert!(matches!(stored_size(&many), Err(NodeError::XattrsTooLarge { names: 75_300, .. })));
    }
}
