//! Downloads: one pass, exact checks, resume, and nothing left of what is wrong.

use std::io::{self, BufRead, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use imagevol_base::Digester;
use imagevol_store::{Compression, ContentKey, Form, Limits, StoreError};
use rstest::rstest;

use crate::support::{
    Piece, Scratch, alone, content_files, files_below, kind, layer_key, pack, sha512, small_tar, tar,
};

/// Bytes that come in small pieces, and perhaps stop.
struct Dripping<'a> {
    bytes: &'a [u8],
    piece: usize,
    breaks: bool,
}

impl Read for Dripping<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.len().min(out.len());
        out[..count].copy_from_slice(&self.bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Dripping<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && self.breaks {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "network"));
        }
        Ok(&self.bytes[..self.bytes.len().min(self.piece)])
    }

    fn consume(&mut self, amount: usize) {
        self.bytes = &self.bytes[amount..];
    }
}

#[rstest]
fn a_layer_is_kept_by_its_diff_id_however_it_came(
    #[values(Compression::None, Compression::Gzip, Compression::Zstd, Compression::Detect)] compression: Compression,
    #[values(1, 3, 1 << 20)] piece: usize,
) {
    let scratch = Scratch::new();
    let tar = small_tar("a");
    let layer = Piece::archive(&tar, compression);
    let ingest = scratch.store().begin(&layer.digest(), layer.size(), layer.form.clone()).unwrap();
    let stored = ingest.run(Dripping { bytes: &layer.bytes, piece, breaks: false }).unwrap();
    assert_eq!(*stored.lease.key(), layer_key(&tar));
    assert_eq!(stored.content.size, tar.len() as u64);
    let path = scratch.path(&format!("layers/sha256/{}.tar", Digester::sha256(&tar).hex()));
    let on_disk = std::fs::read(&path).unwrap();
    assert_eq!(on_disk.len() as u64, stored.content.size.next_multiple_of(4096));
    assert_eq!(on_disk[..tar.len()], tar[..]);
    assert!(on_disk[tar.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(files_below(&scratch.path("ingest")), Vec::<std::path::PathBuf>::new());
    assert!(scratch.store().find_layer(&layer.digest()).unwrap().is_some());
    scratch.assert_sound();
}

#[test]
fn bytes_after_the_archive_belong_to_the_layer() {
    let scratch = Scratch::new();
    let tar = [small_tar("a"), b"something after the end".to_vec()].concat();
    let stored = scratch.put(&Piece::layer(&tar, Compression::Gzip));
    assert_eq!(stored.content.size, tar.len() as u64);
    scratch.assert_sound();
}

#[test]
fn sha512_names_blobs_and_layers() {
    let scratch = Scratch::new();
    let tar = small_tar("a");
    let blob = scratch.store().begin(&sha512(b"blob"), 4, Form::Blob).unwrap().run(&b"blob"[..]).unwrap();
    let form = Form::Layer { compression: Compression::None, diff_id: Some(sha512(&tar)) };
    let layer = scratch.store().begin(&sha512(&tar), tar.len() as u64, form).unwrap().run(&tar[..]).unwrap();
    assert_eq!(*blob.lease.key(), ContentKey::Blob(sha512(b"blob")));
    assert_eq!(*layer.lease.key(), ContentKey::Layer(sha512(&tar)));
    assert_eq!(scratch.store().read_blob(&sha512(b"blob")).unwrap(), b"blob");
    scratch.assert_sound();
}

#[rstest]
#[case::nothing(0)]
#[case::a_page_less_one(4095)]
#[case::a_page(4096)]
#[case::a_page_and_one(4097)]
#[case::more_than_a_chunk((256 << 10) + 7)]
fn a_blob_is_padded_and_read_without_padding(#[case] size: usize) {
    let scratch = Scratch::new();
    let piece = Piece::blob(&vec![7; size]);
    drop(scratch.put(&piece));
    assert_eq!(scratch.store().read_blob(&piece.digest()).unwrap(), piece.bytes);
    scratch.assert_sound();
}

#[rstest]
#[case::blob_of_other_bytes(Piece::blob(b"bytes"), Some(0), 0, "DigestMismatch")]
#[case::blob_longer_than_promised(Piece::blob(b"bytes"), None, -1, "SizeMismatch")]
#[case::blob_shorter_than_promised(Piece::blob(b"bytes"), None, 1, "SizeMismatch")]
#[case::blob_promised_empty(Piece::blob(b"bytes"), None, -5, "SizeMismatch")]
#[case::blob_promised_endless(Piece::blob(b"bytes"), None, i64::MAX - 5, "SizeMismatch")]
#[case::tar_of_other_bytes(layer(Compression::None), Some(600), 0, "DigestMismatch")]
#[case::tar_longer_than_promised(layer(Compression::None), None, -1, "SizeMismatch")]
#[case::gzip_longer_than_promised(layer(Compression::Gzip), None, -1, "SizeMismatch")]
#[case::gzip_shorter_than_promised(layer(Compression::Gzip), None, 1, "SizeMismatch")]
#[case::zstd_longer_than_promised(layer(Compression::Zstd), None, -1, "SizeMismatch")]
#[case::zstd_shorter_than_promised(layer(Compression::Zstd), None, 1, "SizeMismatch")]
#[case::gzip_of_other_bytes(layer(Compression::Gzip), Some(30), 0, "DigestMismatch")]
#[case::zstd_of_other_bytes(layer(Compression::Zstd), Some(30), 0, "DigestMismatch")]
#[case::gzip_head_of_other_bytes(layer(Compression::Gzip), Some(0), 0, "DigestMismatch")]
#[case::gzip_that_is_none(named(b"<html>", Compression::Gzip), None, 0, "Inflate")]
#[case::zstd_that_is_gzip(named(&pack(b"x", Compression::Gzip), Compression::Zstd), None, 0, "Inflate")]
#[case::xz_that_nobody_named(named(b"\xfd7zXZ\0", Compression::Detect), None, 0, "Layer")]
#[case::tar_that_is_none(named(&[b'x'; 1024], Compression::None), None, 0, "Layer")]
#[case::empty_layer(named(b"", Compression::None), None, 0, "Layer")]
#[case::cut_tar(named(&small_tar("a")[..300], Compression::None), None, 0, "Layer")]
fn wrong_content_is_refused_and_leaves_nothing(
    #[case] piece: Piece,
    #[case] flipped: Option<usize>,
    #[case] size: i64,
    #[case] expected: &str,
) {
    let scratch = Scratch::new();
    let mut sent = piece.bytes.clone();
    if let Some(at) = flipped {
        sent[at] ^= 1;
    }
    let promised = piece.size().checked_add_signed(size).unwrap();
    let ingest = scratch.store().begin(&piece.digest(), promised, piece.form.clone()).unwrap();
    let error = ingest.run(&sent[..]).unwrap_err();
    assert_eq!(kind(&error), expected, "{error:?}");
    assert!(error.is_content());
    assert_eq!(files_below(&scratch.path("ingest")), Vec::<std::path::PathBuf>::new());
    assert!(content_files(scratch.dir.path()).is_empty());
}

fn layer(compression: Compression) -> Piece {
    Piece::archive(&small_tar("a"), compression)
}

fn named(bytes: &[u8], compression: Compression) -> Piece {
    Piece { bytes: bytes.to_vec(), form: Form::Layer { compression, diff_id: None }, title: None }
}

#[test]
fn a_wrong_diff_id_is_refused_though_the_blob_is_right() {
    let scratch = Scratch::new();
    let mut piece = layer(Compression::Gzip);
    piece.form = Form::Layer { compression: Compression::Gzip, diff_id: Some(Digester::sha256(b"other")) };
    let ingest = scratch.store().begin(&piece.digest(), piece.size(), piece.form.clone()).unwrap();
    assert_eq!(kind(&ingest.run(&piece.bytes[..]).unwrap_err()), "DiffIdMismatch");
    assert!(content_files(scratch.dir.path()).is_empty());
}

#[rstest]
fn a_bomb_is_refused_at_the_limit(#[values(Compression::Gzip, Compression::Zstd, Compression::None)] by: Compression) {
    let scratch = Scratch::with_limits(Limits { max_layer_bytes: 1 << 20, ..Limits::default() });
    let bomb = Piece::layer(&tar(&[("zeros", &vec![0; 32 << 20])]), by);
    let ingest = scratch.store().begin(&bomb.digest(), bomb.size(), bomb.form.clone()).unwrap();
    let error = ingest.run(&bomb.bytes[..]).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { limit } if limit == 1 << 20), "{error:?}");
    assert!(files_below(&scratch.path("ingest")).is_empty());
    let exact = tar(&[("zeros", &vec![0; (1 << 20) - 1536])]);
    assert_eq!(exact.len(), 1 << 20);
    drop(scratch.put(&Piece::layer(&exact, by)));
}

#[rstest]
fn goes_on_where_the_source_stopped(#[values(0, 1, 4096, 300_000)] at: usize, #[values(false, true)] as_layer: bool) {
    let mut scratch = Scratch::new();
    let bytes = tar(&[("file", &vec![9; 400_000])]);
    let piece = if as_layer { Piece::layer(&bytes, Compression::None) } else { Piece::blob(&bytes) };
    let begin = |scratch: &Scratch| scratch.store().begin(&piece.digest(), piece.size(), piece.form.clone()).unwrap();
    let error = begin(&scratch).run(Dripping { bytes: &bytes[..at], piece: 70_000, breaks: true }).unwrap_err();
    assert!(matches!(error, StoreError::Source { at: stopped, .. } if stopped == at as u64), "{error:?}");
    assert!(!error.is_content());
    scratch.reopen();
    let ingest = begin(&scratch);
    assert_eq!(ingest.offset(), at as u64);
    let stored = ingest.run(&bytes[at..]).unwrap();
    assert_eq!(stored.content.size, bytes.len() as u64);
    scratch.assert_sound();
}

#[rstest]
fn a_compressed_layer_begins_anew_and_leaves_nothing(
    #[values(Compression::Gzip, Compression::Zstd, Compression::Detect)] compression: Compression,
) {
    let scratch = Scratch::new();
    let noise: Vec<u8> =
        (0..300_000_u32).map(|number| Digester::sha256(&number.to_le_bytes()).hex().as_bytes()[0]).collect();
    let layer = Piece::layer(&tar(&[("noise", &noise)]), compression);
    let begin = || scratch.store().begin(&layer.digest(), layer.size(), layer.form.clone()).unwrap();
    let half = &layer.bytes[..layer.bytes.len() / 2];
    let error = begin().run(Dripping { bytes: half, piece: 1 << 16, breaks: true }).unwrap_err();
    assert_eq!(kind(&error), "Source");
    assert!(files_below(&scratch.path("ingest")).is_empty());
    let ingest = begin();
    assert_eq!(ingest.offset(), 0);
    ingest.run(&layer.bytes[..]).unwrap();
    scratch.assert_sound();
}

#[rstest]
fn wrong_bytes_of_an_earlier_try_are_not_blamed_on_the_image(#[values(false, true)] as_layer: bool) {
    let scratch = Scratch::new();
    let bytes = small_tar("a");
    let piece = if as_layer { Piece::layer(&bytes, Compression::None) } else { Piece::blob(&bytes) };
    let begin = || scratch.store().begin(&piece.digest(), piece.size(), piece.form.clone()).unwrap();
    begin().run(Dripping { bytes: &bytes[..600], piece: 600, breaks: true }).unwrap_err();
    let data = files_below(&scratch.path("ingest")).into_iter().find(|path| path.ends_with("data")).unwrap();
    let mut wrong = std::fs::read(&data).unwrap();
    wrong[550] ^= 1;
    std::fs::write(&data, wrong).unwrap();
    let ingest = begin();
    assert_eq!(ingest.offset(), 600);
    let error = ingest.run(&bytes[600..]).unwrap_err();
    assert!(matches!(error, StoreError::Resumed { at: 600, .. }) && !error.is_content(), "{error:?}");
    let ingest = begin();
    assert_eq!(ingest.offset(), 0);
    ingest.run(&bytes[..]).unwrap();
    scratch.assert_sound();
}

#[rstest]
#[case::all_of_it(1000, 1000)]
#[case::padded_before_the_rename(4096, 1000)]
#[case::longer_than_promised(1001, 0)]
#[case::much_longer(9000, 0)]
fn what_an_earlier_try_left_is_used_as_far_as_it_can_be(#[case] there: usize, #[case] offset: u64) {
    let scratch = Scratch::new();
    let piece = Piece::blob(&[3; 1000]);
    let begin = || scratch.store().begin(&piece.digest(), 1000, Form::Blob).unwrap();
    begin().run(Dripping { bytes: &piece.bytes[..1], piece: 1, breaks: true }).unwrap_err();
    let data = files_below(&scratch.path("ingest")).into_iter().find(|path| path.ends_with("data")).unwrap();
    let mut bytes = piece.bytes.clone();
    bytes.resize(there, 0);
    std::fs::write(&data, bytes).unwrap();
    let ingest = begin();
    assert_eq!(ingest.offset(), offset);
    ingest.run(&piece.bytes[usize::try_from(offset).unwrap()..]).unwrap();
    assert_eq!(scratch.store().read_blob(&piece.digest()).unwrap(), piece.bytes);
    scratch.assert_sound();
}

#[test]
fn a_download_that_never_began_leaves_nothing() {
    let scratch = Scratch::new();
    drop(scratch.store().begin(&Digester::sha256(b"x"), 1, Form::Blob).unwrap());
    assert!(files_below(&scratch.path("ingest")).is_empty());
    assert_eq!(std::fs::read_dir(scratch.path("ingest")).unwrap().count(), 0);
}

#[test]
fn the_same_layer_in_another_compression_keeps_the_file_that_is_there() {
    let scratch = Scratch::new();
    let tar = small_tar("a");
    let path = scratch.path(&format!("layers/sha256/{}.tar", Digester::sha256(&tar).hex()));
    let pieces = [Compression::Gzip, Compression::Zstd, Compression::None].map(|by| Piece::layer(&tar, by));
    let inodes = pieces.each_ref().map(|piece| {
        drop(scratch.put(piece));
        path.metadata().unwrap().ino()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]), "{inodes:?}");
    for piece in &pieces {
        assert_eq!(*scratch.store().find_layer(&piece.digest()).unwrap().unwrap().lease.key(), layer_key(&tar));
    }
    scratch.assert_sound();
}

#[test]
fn the_second_download_waits_for_the_first_and_spoils_nothing() {
    let scratch = Scratch::new();
    let piece = Piece::blob(&vec![5; 1 << 20]);
    let begin = || scratch.store().begin(&piece.digest(), piece.size(), Form::Blob).unwrap();
    let first = begin();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let ingest = begin();
            // The first has ended: its download is gone, and what it published is not ours to write to.
            assert_eq!(ingest.offset(), 0);
            ingest.run(&piece.bytes[..]).unwrap()
        });
        let stored = first.run(&piece.bytes[..]).unwrap();
        assert_eq!(second.join().unwrap().content.size, stored.content.size);
    });
    assert_eq!(scratch.store().read_blob(&piece.digest()).unwrap(), piece.bytes);
    scratch.assert_sound();
}

#[test]
fn bytes_at_hand_are_held_against_their_digest() {
    let scratch = Scratch::new();
    let error = scratch.store().put_blob(&Digester::sha256(b"a"), b"b").unwrap_err();
    assert_eq!(kind(&error), "DigestMismatch");
    assert!(content_files(scratch.dir.path()).is_empty());
    for _ in 0..2 {
        drop(scratch.store().put_blob(&Digester::sha256(b"a"), b"a").unwrap());
    }
    scratch.assert_sound();
}

#[test]
fn memory_does_not_grow_with_the_layer() {
    alone("downloads::memory_does_not_grow_with_the_layer", || {
        const SIZE: u64 = 192 << 20;
        let scratch = Scratch::new();
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_size(SIZE);
        header.set_mode(0o644);
        header.set_cksum();
        let tar = || header.as_bytes().chain(io::repeat(0).take(SIZE + 1024));
        let compressed = zstd::encode_all(tar(), 1).unwrap();
        let form = Form::Layer { compression: Compression::Zstd, diff_id: None };
        let before = peak_bytes();
        let ingest = scratch.store().begin(&Digester::sha256(&compressed), compressed.len() as u64, form).unwrap();
        let stored = ingest.run(&compressed[..]).unwrap();
        assert_eq!(stored.content.size, 512 + SIZE + 1024);
        let grown = peak_bytes() - before;
        assert!(grown < 24 << 20, "{grown} bytes for a layer of {SIZE}");
    });
}

/// `VmHWM` of proc_pid_status(5).
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
