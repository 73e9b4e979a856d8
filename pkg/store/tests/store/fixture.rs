//! A store with one image that a volume holds, where its files lie, and damage to them.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use imagevol_api::oci::Digest;
use imagevol_base::Digester;
use imagevol_store::Compression;

use crate::support::{Held as _, Piece, Scratch, manifest_of, pull, small_tar, tag, volume};

/// Image `i` of [`pieces`], bound to the volume `v`.
pub(crate) fn with_image() -> Scratch {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &pieces());
    scratch.store().hold(&volume("v"), &tag("i")).unwrap();
    assert!(scratch.store().bind_held(&volume("v"), &image.manifest).unwrap());
    scratch
}

/// A layer and a file.
pub(crate) fn pieces() -> Vec<Piece> {
    vec![Piece::archive(&small_tar("layer"), Compression::Gzip), Piece::blob(b"file")]
}

pub(crate) fn diff_id() -> Digest {
    Digester::sha256(&small_tar("layer"))
}

pub(crate) fn tar_file(dir: &Path) -> PathBuf {
    dir.join(format!("layers/sha256/{}.tar", diff_id().hex()))
}

pub(crate) fn idx_file(dir: &Path) -> PathBuf {
    dir.join(format!("layers/sha256/{}.idx", diff_id().hex()))
}

pub(crate) fn erofs_file(dir: &Path) -> PathBuf {
    dir.join(format!("images/sha256/{}.erofs", manifest_of("i").hex()))
}

pub(crate) fn blob_file(dir: &Path) -> PathBuf {
    dir.join(format!("blobs/sha256/{}", Digester::sha256(b"file").hex()))
}

pub(crate) fn manifest_file(dir: &Path) -> PathBuf {
    dir.join(format!("blobs/sha256/{}", manifest_of("i").hex()))
}

/// Another bit at a place in a file.
pub(crate) fn flip(path: &Path, at: u64) {
    let byte = fs::read(path).unwrap()[usize::try_from(at).unwrap()] ^ 1;
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte]).unwrap();
}

/// Another length.
pub(crate) fn resize(path: &Path, bytes: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}
