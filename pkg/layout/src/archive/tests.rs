use std::io::{Read as _, Write as _};

use rstest::rstest;
use tar::{Builder, EntryType, Header};

use super::*;

const LIMITS: ArchiveLimits = ArchiveLimits { max_bytes: 1 << 20 };

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn file(tar: &mut Builder<Vec<u8>>, path: &str, content: &str) {
    tar.append_data(&mut header(EntryType::Regular, content.len() as u64), path, content.as_bytes()).unwrap();
}

fn link(tar: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, target: &str) {
    tar.append_link(&mut header(kind, 0), path, target).unwrap();
}

fn open(bytes: &[u8]) -> Result<Archive> {
    let file = tempfile::tempfile().unwrap();
    Archive::keep(bytes, &mut file.try_clone().unwrap(), file, LIMITS)
}

fn read(archive: &Archive, path: &str) -> Result<String> {
    let mut text = String::new();
    archive.open(path)?.read_to_string(&mut text).unwrap();
    Ok(text)
}

fn sample() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "./index.json", "index");
    file(&mut tar, &format!("blobs/sha512/{}", "a".repeat(128)), "long name");
    file(&mut tar, "empty", "");
    tar.append_data(&mut header(EntryType::Directory, 0), "layer", &b""[..]).unwrap();
    link(&mut tar, EntryType::Symlink, "layer/layer.tar", "../index.json");
    link(&mut tar, EntryType::Link, "hard", "./index.json");
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[rstest]
#[case::plain(sample())]
#[case::gzip(gzip(&sample()))]
#[case::zstd(zstd::encode_all(&sample()[..], 1).unwrap())]
fn members_are_read_where_they_lie(#[case] bytes: Vec<u8>) {
    let archive = open(&bytes).unwrap();
    assert_eq!(read(&archive, "index.json").unwrap(), "index");
    assert_eq!(read(&archive, &format!("blobs/sha512/{}", "a".repeat(128))).unwrap(), "long name");
    assert_eq!(read(&archive, "empty").unwrap(), "");
    assert_eq!(read(&archive, "layer/layer.tar").unwrap(), "index", "a link inside the archive");
    assert_eq!(read(&archive, "hard").unwrap(), "index");
    assert!(matches!(read(&archive, "none"), Err(LayoutError::Absent { .. })));
    assert!(matches!(read(&archive, "layer"), Err(LayoutError::Absent { .. })), "a directory is no file");
}

#[rstest]
#[case::xz(
    b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F",
    "archive is compressed with xz, and only gzip and zstd can be read: send it through `xz -dc` first"
)]
#[case::bzip2(
    b"BZh91AY&SY\x9d\x80",
    "archive is compressed with bzip2, and only gzip and zstd can be read: send it through `bzip2 -dc` first"
)]
#[case::lz4(
    b"\x04\x22\x4d\x18\x64\x40\xa7",
    "archive is compressed with lz4, and only gzip and zstd can be read: send it through `lz4 -dc` first"
)]
fn another_compression_is_named(#[case] bytes: &[u8], #[case] message: &str) {
    assert_eq!(open(bytes).unwrap_err().to_string(), message);
}

#[test]
fn a_file_may_be_called_as_a_compression_begins() {
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "BZh9", "content");
    assert_eq!(read(&open(&tar.into_inner().unwrap()).unwrap(), "BZh9").unwrap(), "content");
}

#[test]
fn links_lead_nowhere_else() {
    let mut tar = Builder::new(Vec::new());
    link(&mut tar, EntryType::Symlink, "up", "../../etc/passwd");
    link(&mut tar, EntryType::Symlink, "absolute", "/etc/passwd");
    link(&mut tar, EntryType::Symlink, "a", "b");
    link(&mut tar, EntryType::Symlink, "b", "a");
    tar.append_data(&mut header(EntryType::Fifo, 0), "pipe", &b""[..]).unwrap();
    let archive = open(&tar.into_inner().unwrap()).unwrap();
    for path in ["up", "absolute", "a", "pipe"] {
        assert!(matches!(read(&archive, path), Err(LayoutError::NotAFile { .. })), "{path}");
    }
}

#[test]
fn two_members_of_one_name_are_refused() {
    let mut tar = Builder::new(Vec::new());
    file(&mut tar, "index.json", "one");
    file(&mut tar, "./index.json", "two");
    assert!(matches!(open(&tar.into_inner().unwrap()), Err(LayoutError::Twice { what }) if what == "index.json"));
}

#[test]
fn a_bomb_is_stopped() {
    for bytes in [gzip(&vec![0; 64 << 20]), zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap()] {
        assert!(bytes.len() < 1 << 20);
        assert!(matches!(open(&bytes), Err(LayoutError::ArchiveTooLarge { limit }) if limit == LIMITS.max_bytes));
    }
}

#[test]
fn an_archive_that_is_cut_short_anywhere_is_refused() {
    let bytes = sample();
    let content = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for length in 0..content {
        // At the end of a member nobody can tell.
        let Ok(archive) = open(&bytes[..length]) else { continue };
        assert!(archive.open("hard").is_err(), "{length}");
    }
    let packed = gzip(&bytes);
    for length in 1..packed.len() {
        assert!(open(&packed[..length]).is_err(), "{length}");
    }
}

proptest::proptest! {
    /// Whatever comes, the answer is an archive or an error.
    #[test]
    fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
        drop(open(&bytes));
    }
}
