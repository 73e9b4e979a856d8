//! Reading with the kernel: file-backed mounts that nobody else sees.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use imagevol_erofs::{Content, Extent, Tree};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags, lgetxattr, llistxattr, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};
use tempfile::TempDir;

use crate::model::{Listing, Sample, Seen, What, assert_same, file, image, noise, slots, with_first_paths};
use crate::{hard, random};

/// A disk, because tmpfs cannot back EROFS files.
const DISK: &str = "/var/tmp";
const GIB: u64 = 1 << 30;

/// A detached mount, which goes with its descriptor; and the directory of its backing files.
struct Mounted {
    root: OwnedFd,
    _files: TempDir,
}

impl Mounted {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// Whether this process can mount, or else an explanation, once, why the tests do nothing.
fn can_mount() -> bool {
    static REFUSED: OnceLock<Option<String>> = OnceLock::new();
    let refused = REFUSED.get_or_init(|| {
        let refused = try_mount().err()?;
        eprintln!(
            "SKIPPED: tests with the kernel need root, EROFS on files (Linux 6.12) and a disk at {DISK}: {refused}"
        );
        Some(refused)
    });
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!in_ci || refused.is_none(), "CI skips nothing: {refused:?}");
    refused.is_none()
}

/// A refusal that says nothing of our images: not allowed, not known, or no file system that can back them.
fn try_mount() -> Result<(), String> {
    fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| format!("fsopen: {error}"))?;
    match mount_with(directory(), &Sample::new().image(), &[]) {
        Err((error @ (Errno::NOTBLK | Errno::PERM), log)) => Err(format!("mount: {error}: {log}")),
        Err(_) | Ok(_) => Ok(()),
    }
}

fn mount(image: &[u8], devices: &[Vec<u8>]) -> Mounted {
    let files = directory();
    let paths = devices.iter().enumerate().map(|(n, bytes)| {
        let path = files.path().join(n.to_string());
        fs::write(&path, bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len((bytes.len() as u64).next_multiple_of(4096)).unwrap();
        path
    });
    let paths: Vec<_> = paths.collect();
    mount_with(files, image, &paths).unwrap()
}

fn directory() -> TempDir {
    tempfile::Builder::new().prefix("imagevol-erofs-").tempdir_in(DISK).unwrap()
}

fn mount_with(files: TempDir, image: &[u8], devices: &[PathBuf]) -> Result<Mounted, (Errno, String)> {
    let path = files.path().join("image");
    fs::write(&path, image).unwrap();
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "source", &path).unwrap();
    for device in devices {
        fsconfig_set_string(&context, "device", device).unwrap();
    }
    fsconfig_set_flag(&context, "ro").unwrap();
    fsconfig_create(&context).map_err(|error| (error, log(&context)))?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY).unwrap();
    Ok(Mounted { root, _files: files })
}

/// What the kernel says of a failed mount: one message per read.
fn log(context: &OwnedFd) -> String {
    let mut messages = String::new();
    let mut buffer = [0; 512];
    let mut context = File::from(context.try_clone().unwrap());
    while let Ok(length) = context.read(&mut buffer) {
        messages += &String::from_utf8_lossy(&buffer[..length]);
    }
    messages
}

/// Everything under a directory.
fn list(root: &Path) -> Listing {
    let mut found = Vec::new();
    let mut pending = vec![Vec::new()];
    while let Some(path) = pending.pop() {
        let full = PathBuf::from(OsString::from_vec([root.as_os_str().as_bytes(), b"/.", &path].concat()));
        let metadata = full.symlink_metadata().unwrap();
        if metadata.is_dir() {
            for entry in full.read_dir().unwrap() {
                let entry = entry.unwrap();
                let child = [path.as_slice(), b"/", entry.file_name().as_bytes()].concat();
                assert_eq!(entry.ino(), entry.metadata().unwrap().ino());
                assert_eq!(entry.file_type().unwrap(), entry.metadata().unwrap().file_type());
                pending.push(child);
            }
        }
        found.push((path, metadata.ino(), seen(&full, &metadata)));
    }
    with_first_paths(found.into_iter())
}

fn seen(path: &Path, metadata: &fs::Metadata) -> Seen {
    let what = what(path, metadata.file_type(), metadata.rdev());
    if let What::File(bytes) | What::Symlink(bytes) = &what {
        assert_eq!(bytes.len() as u64, metadata.len());
    }
    Seen {
        what,
        mode: u16::try_from(metadata.mode() & 0o7777).unwrap(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap()),
        links: u32::try_from(metadata.nlink()).unwrap(),
        xattrs: xattrs(path),
        first_path: Vec::new(),
    }
}

fn what(path: &Path, kind: FileType, device: u64) -> What {
    let number = (rustix::fs::major(device), rustix::fs::minor(device));
    match kind {
        _ if kind.is_dir() => What::Directory,
        _ if kind.is_file() => What::File(fs::read(path).unwrap()),
        _ if kind.is_symlink() => What::Symlink(fs::read_link(path).unwrap().into_os_string().into_vec()),
        _ if kind.is_char_device() => What::CharDevice(number.0, number.1),
        _ if kind.is_block_device() => What::BlockDevice(number.0, number.1),
        _ if kind.is_fifo() => What::Fifo,
        _ => What::Socket,
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let length = llistxattr(path, buffer.as_mut_slice()).unwrap();
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let length = lgetxattr(path, OsStr::from_bytes(name), value.as_mut_slice()).unwrap();
        value.truncate(length);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

fn check(sample: &Sample) {
    let mounted = mount(&sample.image(), &sample.devices);
    assert_same(&list(&mounted.path()), &sample.expected());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn random_trees_are_read_back(sample in random::sample()) {
        if can_mount() {
            check(&sample);
        }
    }
}

#[test]
fn hard_trees_are_read_back() {
    if !can_mount() {
        return;
    }
    for (name, sample) in hard::samples() {
        eprintln!("{name}");
        check(&sample);
    }
}

#[test]
fn large_directory_is_listed_and_searched() {
    const COUNT: usize = 100_000;
    if !can_mount() {
        return;
    }
    let mut sample = Sample::new();
    for n in 0..COUNT {
        sample.add(Tree::ROOT, format!("entry-{n:x}").as_bytes(), Content::Fifo);
    }
    let mounted = mount(&sample.image(), &[]);
    let mut names: Vec<_> = mounted.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected = sample.tree.children(Tree::ROOT).unwrap().keys().map(|name| OsString::from_vec(name.clone()));
    assert!(names.into_iter().eq(expected));
    for n in (0..COUNT).step_by(97) {
        assert!(mounted.join(&format!("entry-{n:x}")).symlink_metadata().unwrap().file_type().is_fifo());
        assert!(!mounted.join(&format!("entry-{n:x}!")).exists());
    }
}

#[test]
fn deep_tree_is_walked_to_its_end() {
    const DEPTH: usize = 10_000;
    if !can_mount() {
        return;
    }
    let mut sample = Sample::new();
    let mut parent = Tree::ROOT;
    for _ in 0..DEPTH {
        parent = sample.add_directory(parent, b"d");
    }
    sample.add(parent, b"end", Content::Symlink(b"found".to_vec()));
    let mounted = mount(&sample.image(), &[]);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = openat(&mounted.root, ".", flags, Mode::empty()).unwrap();
    for _ in 0..DEPTH {
        directory = openat(&directory, "d", flags, Mode::empty()).unwrap();
    }
    let end = rustix::fs::readlinkat(&directory, "end", Vec::new()).unwrap();
    assert_eq!(end.as_bytes(), b"found");
    for _ in 0..DEPTH {
        directory = openat(&directory, "..", flags, Mode::empty()).unwrap();
    }
    assert!(rustix::fs::statat(&directory, "d", rustix::fs::AtFlags::empty()).is_ok());
}

/// A device of 1.5 TiB, nearly all of it a hole, with marks to be found again.
fn large_device(files: &TempDir, marks: &[u64]) -> PathBuf {
    let path = files.path().join("large");
    let device = File::create(&path).unwrap();
    device.set_len(1536 * GIB).unwrap();
    for at in marks {
        device.write_all_at(&at.to_le_bytes(), *at).unwrap();
    }
    path
}

fn mark(file: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn files_above_every_32_bit_limit_are_read() {
    if !can_mount() {
        return;
    }
    let marks = [0, 4 * GIB - 512, 4 * GIB, 1024 * GIB - 8, 1024 * GIB, 1536 * GIB - 8];
    let files = directory();
    let device = large_device(&files, &marks);
    let mut sample = Sample::new();
    sample.add(Tree::ROOT, b"whole", file(1536 * GIB, 0, 0));
    // The end of the device in the middle of a sparse file, behind a hole of more than 4 GiB.
    let extent = Extent { file_offset: 8 * GIB, device: 0, device_offset: 1024 * GIB, length: 512 * GIB };
    sample.add(Tree::ROOT, b"sparse", Content::File { size: 1000 * GIB, extents: vec![extent] });
    let image = image(&sample.tree, &slots(&[1536 * GIB]));
    let mounted = mount_with(files, &image, &[device]).unwrap();
    let whole = File::open(mounted.join("whole")).unwrap();
    for at in marks {
        assert_eq!(mark(&whole, at), at);
    }
    assert_eq!(mark(&whole, 2 * GIB), 0);
    let sparse = File::open(mounted.join("sparse")).unwrap();
    assert_eq!(sparse.metadata().unwrap().len(), 1000 * GIB);
    assert_eq!(mark(&sparse, 8 * GIB), 1024 * GIB);
    assert_eq!(mark(&sparse, 520 * GIB - 8), 1536 * GIB - 8);
    for hole in [0, 8 * GIB - 8, 520 * GIB, 1000 * GIB - 8] {
        assert_eq!(mark(&sparse, hole), 0);
    }
}

#[test]
fn root_is_found_behind_the_longest_device_table() {
    if !can_mount() {
        return;
    }
    let mut sample = Sample::new();
    sample.add(Tree::ROOT, b"here", Content::Symlink(b"target".to_vec()));
    let image = image(&sample.tree, &slots(&vec![512; 65535]));
    let mounted = mount(&image, &[]);
    assert_same(&list(&mounted.path()), &sample.expected());
}

/// The kernel mounts an image without its devices. Its files must fail then, never show bytes of the image itself.
#[test]
fn files_of_missing_devices_cannot_be_read() {
    if !can_mount() {
        return;
    }
    let mut sample = Sample { devices: vec![noise(0, 8192), noise(1, 8192)], ..Sample::new() };
    sample.add(Tree::ROOT, b"first", file(4096, 0, 0));
    sample.add(Tree::ROOT, b"second", file(4096, 1, 512));
    let mounted = mount(&sample.image(), &[]);
    for name in ["first", "second"] {
        let error = fs::read(mounted.join(name)).unwrap_err();
        assert_eq!(io::Error::from(Errno::IO).kind(), error.kind(), "{error}");
    }
}

#[test]
fn kernel_checks_our_checksum() {
    if !can_mount() {
        return;
    }
    let mut image = Sample::new().image();
    // The count of inodes, which nothing else would notice.
    image[1024 + 16] ^= 1;
    let Err((error, log)) = mount_with(directory(), &image, &[]) else { panic!("mounted") };
    assert_eq!(error, Errno::BADMSG, "{log}");
}
