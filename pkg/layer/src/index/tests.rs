use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::archive::{Archive, RawHeader};

fn sample() -> LayerIndex {
    Archive::default()
        .dir("./", 0o755)
        .file("d/f", [1; 700])
        .pax(b'x', &[("SCHILY.xattr.user.a", b"b"), ("mtime", b"-7.5"), ("uid", b"4000000000")])
        .file("g", "")
        .symlink("s", "../x")
        .hard_link("h", "d/f")
        .header(RawHeader::new("c", b'3').with(329, b"0000001\0"))
        .header(RawHeader::new("p", b'6'))
        .file("d/.wh.x", "")
        .file(".wh..wh..opq", "")
        .index()
}

/// A stored index of these records, sealed as if it were right.
fn sealed(tar_size: u64, entries: u64, records: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(tar_size.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend((records.len() as u64).to_le_bytes());
    bytes.extend(records);
    let checksum = codec::checksum(&[&bytes]);
    bytes.extend(checksum.to_le_bytes());
    bytes
}

#[test]
fn survives_storing() {
    let index = sample();
    let bytes = index.to_bytes();
    let read = LayerIndex::from_bytes(&bytes).unwrap();
    assert_eq!(read, index);
    assert_eq!(read.to_bytes(), bytes);
    assert_eq!(read.entries().count(), 9);
}

#[test]
fn an_entry_takes_a_few_dozen_bytes() {
    let mut archive = Archive::default();
    for number in 0..1000 {
        archive = archive.file(format!("usr/share/doc/package/file-{number}"), [0; 2000]);
    }
    assert!(archive.index().to_bytes().len() < 60 * 1000);
}

#[test]
fn every_changed_byte_and_every_cut_shows() {
    let bytes = sample().to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(LayerIndex::from_bytes(&changed).is_err(), "byte {at}");
        assert!(LayerIndex::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(LayerIndex::from_bytes(&[bytes, vec![0]].concat()).is_err());
}

#[rstest]
#[case::not_ours(b"\x7fELF", IndexProblem::Magic)]
#[case::other_version(b"imgvlidx\x02\0\0\0", IndexProblem::Version(2))]
#[case::cut(b"imgvlidx\x01\0\0\0", IndexProblem::Length)]
fn says_what_is_wrong(#[case] bytes: &[u8], #[case] problem: IndexProblem) {
    assert_eq!(LayerIndex::from_bytes(bytes), Err(LayerError::Index { problem }));
}

/// Records that no tar leads to, sealed with a right checksum: an author, not rot.
#[rstest]
#[case::empty_but_counted(0, 1, b"")]
#[case::unknown_tag(0, 1, b"\x09\x01a")]
#[case::path_goes_up(0, 1, b"\x07\x04a/..")]
#[case::path_not_normal(0, 1, b"\x07\x02/a")]
#[case::whiteout_of_root(0, 1, b"\x07\x00")]
#[case::fifo_named_as_a_whiteout(0, 1, b"\x06\x05.wh.a\0\0\0\0\0\0")]
#[case::mode_too_large(0, 1, b"\x06\x01a\x80\x20\0\0\0\0\0")]
#[case::uid_minus_one(0, 1, b"\x06\x01a\0\xff\xff\xff\xff\x0f\0\0\0\0")]
#[case::number_not_shortest(0, 1, b"\x06\x01a\x80\0\0\0\0\0\0")]
#[case::overlay_xattr(0, 1, b"\x06\x01a\0\0\0\0\0\x01\x0euser.overlay.x\0")]
#[case::endless_xattrs(0, 1, b"\x06\x01a\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x7f")]
#[case::endless_path(0, 1, b"\x07\xff\xff\xff\xff\xff\xff\xff\xff\x7f")]
#[case::data_outside_the_tar(1024, 1, b"\x01\x01a\0\0\0\0\0\0\x80\x08\x01\0\x80\x04\x80\x08")]
#[case::data_unaligned(4096, 1, b"\x01\x01a\0\0\0\0\0\0\x01\x01\0\x01\x01")]
#[case::data_beyond_the_file(4096, 1, b"\x01\x01a\0\0\0\0\0\0\x01\x01\0\x80\x04\x02")]
#[case::symlink_without_target(0, 1, b"\x02\x01a\0\0\0\0\0\0\0")]
#[case::hard_link_to_root(0, 1, b"\x03\x01a\0")]
#[case::device_too_large(0, 1, b"\x04\x01a\0\0\0\0\0\0\x80\x20\0")]
fn refuses_records_that_no_tar_leads_to(#[case] tar_size: u64, #[case] entries: u64, #[case] records: &[u8]) {
    let read = LayerIndex::from_bytes(&sealed(tar_size, entries, records));
    assert_eq!(read, Err(LayerError::Index { problem: IndexProblem::Record }));
}

#[test]
fn the_same_records_done_right_are_taken() {
    let read =
        LayerIndex::from_bytes(&sealed(1024, 1, b"\x01\x01a\0\0\0\0\0\0\x80\x04\x01\0\x80\x04\x80\x04")).unwrap();
    assert_eq!(read.counts().file_bytes, 512);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(LayerIndex::from_bytes(&bytes).is_err());
    }

    #[test]
    fn arbitrary_records_are_sound_or_refused(records in prop::collection::vec(any::<u8>(), 0..60), entries in 0_u64..3) {
        if let Ok(index) = LayerIndex::from_bytes(&sealed(1 << 20, entries, &records)) {
            for entry in index.entries() {
                prop_assert!(entry.unwrap().is_sound(1 << 20));
            }
        }
    }

    /// Changed bytes of a real index, sealed anew: deeper than arbitrary ones get.
    #[test]
    fn changed_records_are_sound_or_refused(at: prop::sample::Index, byte: u8) {
        let index = sample();
        let mut records = index.records.clone();
        let at = at.index(records.len());
        records[at] = byte;
        if let Ok(changed) = LayerIndex::from_bytes(&sealed(index.tar_size, index.counts.entries(), &records)) {
            prop_assert_eq!(changed.entries().flatten().count(), 9);
        }
    }
}
