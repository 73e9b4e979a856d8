//! Reading with `erofs-rs`.

use std::io::Read;

use erofs_rs::backend::SliceImage;
use erofs_rs::types::{DirentFileType, Inode};
use erofs_rs::{DirEntry, EroFS};
use proptest::prelude::*;

use crate::model::{Listing, Sample, Seen, What, assert_same, with_first_paths};
use crate::random;

type Reader<'i> = EroFS<SliceImage<'i>>;

/// Everything that `erofs-rs` finds in an image.
pub(crate) fn list(image: &[u8], devices: &[Vec<u8>]) -> Listing {
    let devices = devices.iter().map(|bytes| SliceImage::new(bytes)).collect();
    let reader = Reader::new_with_devices(SliceImage::new(image), devices).unwrap();
    let root = reader.get_inode(reader.super_block().root_inode_id()).unwrap();
    let below = reader.walk_dir("/").unwrap().map(|entry| {
        let entry = entry.unwrap();
        check_type(&entry.dir_entry, entry.inode);
        (entry.dir_entry.path().into_vec(), entry.inode.id(), seen(&reader, entry.inode))
    });
    with_first_paths([(Vec::new(), root.id(), seen(&reader, root))].into_iter().chain(below))
}

fn check_type(entry: &DirEntry, inode: Inode) {
    let expected = match inode.device() {
        _ if inode.is_dir() => DirentFileType::Directory,
        _ if inode.is_file() => DirentFileType::RegularFile,
        _ if inode.is_symlink() => DirentFileType::Symlink,
        Some(_) if inode.file_type().is_char_device() => DirentFileType::CharacterDevice,
        Some(_) => DirentFileType::BlockDevice,
        None if inode.file_type().is_fifo() => DirentFileType::Fifo,
        None => DirentFileType::Socket,
    };
    assert_eq!(entry.file_type(), expected);
}

fn seen(reader: &Reader<'_>, inode: Inode) -> Seen {
    Seen {
        what: what(reader, inode),
        mode: u16::try_from(std::os::unix::fs::PermissionsExt::mode(&inode.permissions())).unwrap(),
        uid: inode.uid(),
        gid: inode.gid(),
        mtime: inode.modified_unix(),
        links: inode.nlink(),
        xattrs: reader.xattrs_inode(inode).unwrap(),
        first_path: Vec::new(),
    }
}

fn what(reader: &Reader<'_>, inode: Inode) -> What {
    if inode.is_dir() {
        return What::Directory;
    }
    if inode.is_symlink() {
        return What::Symlink(reader.read_link_inode(inode).unwrap().into_vec());
    }
    if inode.is_file() {
        let mut content = Vec::new();
        reader.open_inode_file(inode).unwrap().read_to_end(&mut content).unwrap();
        return What::File(content);
    }
    match inode.device() {
        Some((major, minor)) if inode.file_type().is_char_device() => What::CharDevice(major, minor),
        Some((major, minor)) => What::BlockDevice(major, minor),
        None if inode.file_type().is_fifo() => What::Fifo,
        None => What::Socket,
    }
}

fn check(sample: &Sample) {
    assert_same(&list(&sample.image(), &sample.devices), &sample.expected());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_trees_are_read_back(sample in random::sample()) {
        check(&sample);
    }
}

#[test]
fn empty_tree_is_read_back() {
    check(&Sample::new());
}

#[test]
fn hard_trees_are_read_back() {
    for (_, sample) in crate::hard::samples() {
        check(&sample);
    }
}
