//! An image of every odd file type, name, owner and time, in layers that three different hands wrote.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;

use rustix::fs::{FileType, Mode, XattrFlags, makedev};
use tar::EntryType;

use imagevol_test_support::image::{Compression, Entry, Image, ImageBuilder, Layer, LayerBuilder};

use crate::tools::{run, scratch};

/// Files in the one big directory.
const CROWD: u32 = 100_000;

/// Extended attributes of one file that no image volume shows.
pub const DROPPED: [(&str, &[u8]); 2] =
    [("security.selinux", b"system_u:object_r:bin_t:s0\0"), ("trusted.overlay.opaque", b"y")];

/// `struct vfs_cap_data`, revision 2 (uapi/linux/capability.h): cap_net_bind_service, permitted and effective.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The layers as plain tars.
#[derive(Debug)]
pub struct Layers {
    /// As they are mounted.
    pub mounted: Vec<Layer>,
    /// The same content for umoci 0.4, which does not know the old GNU type of sparse files.
    pub for_umoci: Vec<Layer>,
}

/// Makes them. Needs root, GNU tar and a disk.
pub fn layers() -> Layers {
    let (by_hand, crowd) = (by_hand(), crowd());
    let disk = scratch();
    let [gnu, posix] = ["gnu", "posix"].map(|format| {
        populate(&disk.path().join(format));
        gnu_tar(disk.path(), format, "--sparse")
    });
    let whole = gnu_tar(disk.path(), "gnu", "--sort=name");
    Layers {
        mounted: vec![by_hand.clone(), gnu, posix.clone(), crowd.clone()],
        for_umoci: vec![by_hand, whole, posix, crowd],
    }
}

/// The image of these layers, all compressed in one way.
pub fn image(layers: &[Layer], compression: Compression) -> Image {
    let compressed = layers.iter().map(|layer| Layer::from_tar(layer.tar.clone(), compression));
    compressed.fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

/// What GNU tar does not write, or not on every machine.
fn by_hand() -> Layer {
    let tar = LayerBuilder::new().dir_with("./", Entry::mode(0o751).mtime(1_000_000_000));
    let tar = owners_and_times(names(nodes(tar.dir("hand")))).dir("hand/shared");
    let tar = (0..500).fold(tar.file("hand/shared/0", "one inode"), |tar, name| {
        tar.hardlink(&format!("hand/shared/more-{name}"), "hand/shared/0")
    });
    let (tar, deep) = (0..60).fold((xattrs(tar), "hand".to_owned()), |(tar, path), level| {
        let path = format!("{path}/level-{level}-of-a-deep-tree");
        (tar.dir_with(&path, Entry::mode(0o700).mtime(level)), path)
    });
    tar.file(&format!("{deep}/file"), "deep").plain()
}

fn nodes(tar: LayerBuilder) -> LayerBuilder {
    tar.node("hand/char", EntryType::Char, 1, 3)
        .node("hand/block", EntryType::Block, 8, 17)
        .node("hand/big-minor", EntryType::Char, 511, 1_048_575)
        .node("hand/looks-like-an-overlay-whiteout", EntryType::Char, 0, 0)
        .node("hand/fifo", EntryType::Fifo, 0, 0)
        .symlink("hand/absolute", "/etc/passwd")
        .symlink("hand/up", "../../../../../../etc/passwd")
        .symlink("hand/loop", "loop")
        .symlink("hand/long", &"target/".repeat(500))
        .file("hand/empty", "")
        .file_with("hand/setuid", "s", Entry::mode(0o6755))
        .file_with("hand/no-mode", "n", Entry::mode(0))
        .dir_with("hand/sticky", Entry::mode(0o3777))
}

fn names(tar: LayerBuilder) -> LayerBuilder {
    let longest = "n".repeat(255);
    tar.raw_name(b"hand/not-utf8-\xff\xfe\xc3", EntryType::Regular, b"bytes")
        .raw_name(b"hand/new\nline", EntryType::Regular, b"newline")
        .raw_name(b"hand/esc\x1b[31m", EntryType::Regular, b"colour")
        .file("hand/ trailing space ", "space")
        .file("hand/back\\slash", "backslash")
        .file("hand/Case", "upper")
        .file("hand/case", "lower")
        .file("hand/n\u{e9}", "composed")
        .file("hand/ne\u{301}", "decomposed")
        .file("hand/\u{202e}txt.exe", "right to left")
        .file("hand/...", "dots")
        .file("hand/wh.not-a-whiteout", "w")
        .file("hand/manifest.json", "{}")
        .file(&format!("hand/{longest}"), "longest name")
}

fn owners_and_times(tar: LayerBuilder) -> LayerBuilder {
    let tar = tar
        .file_with("hand/octal-edge", "", Entry::mode(0o644).owner((1 << 21) - 1, 1 << 21))
        .file_with("hand/big-ids", "", Entry::mode(0o644).owner((1 << 31) + 7, (1 << 32) - 2))
        .file_with("hand/year-2200", "", Entry::mode(0o644).mtime(7_258_118_400));
    [
        ("hand/year-1910", "-1893456000"),
        ("hand/before-1970", "-1.25"),
        ("hand/nanoseconds", "1234567890.123456789"),
        ("hand/more-digits", "1234567890.1234567899999"),
        ("hand/year-2100", "4102444800.5"),
    ]
    .into_iter()
    .fold(tar, |tar, (path, time)| tar.pax(&[("mtime", time.as_bytes())]).file(path, ""))
}

fn xattrs(tar: LayerBuilder) -> LayerBuilder {
    let big = vec![b'v'; 2000];
    let mut records: Vec<(&str, &[u8])> = vec![
        ("SCHILY.xattr.user.plain", b"value"),
        ("SCHILY.xattr.user.binary", b"\x00\xff\n="),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.user.big", &big),
        ("SCHILY.xattr.security.capability", CAPABILITY),
    ];
    let dropped: Vec<_> = DROPPED.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)).into();
    records.extend(dropped.iter().map(|(name, value)| (name.as_str(), *value)));
    let tar = tar.pax(&records).file("hand/xattrs", "x");
    tar.pax(&[("SCHILY.xattr.user.of-a-directory", b"d")]).dir("hand/xattrs-directory")
}

/// The directory `format` in `disk` as GNU tar packs it in that format.
fn gnu_tar(disk: &Path, format: &str, sparse: &str) -> Layer {
    let archive = disk.join("layer.tar");
    let flags = format!("--format={format} {sparse} --sort=name --numeric-owner --no-acls --no-selinux");
    let xattrs = if format == "posix" { " --xattrs --xattrs-include=*" } else { "" };
    let words = format!("{flags}{xattrs} -C {} -cf {} {format}", disk.display(), archive.display());
    run("tar", words.split(' '));
    Layer::from_tar(fs::read(&archive).expect("read the archive"), Compression::None)
}

/// Makes a directory of odd files.
fn populate(root: &Path) {
    fs::create_dir(root).expect("make a directory");
    let write = |name: &[u8], content: &[u8]| fs::write(root.join(OsStr::from_bytes(name)), content).expect("write");
    write(b"bytes-\x80\x81", b"not utf-8");
    write(b"new\nline", b"newline");
    write(&[b'l'; 255], b"longest");
    write(b"xattrs", b"x");
    write(b"linked", b"two names");
    fs::hard_link(root.join("linked"), root.join("other-name")).expect("link");
    symlink("t".repeat(3000), root.join("long-target")).expect("symlink");
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, Mode::from_raw_mode(0o640), device).expect("mknod");
    };
    node("char", FileType::CharacterDevice, makedev(5, 1));
    node("block", FileType::BlockDevice, makedev(259, 70_000));
    node("fifo", FileType::Fifo, 0);
    let set = |name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join("xattrs"), name, value, XattrFlags::empty()).expect("setxattr");
    };
    set("user.from-disk", b"kept");
    set("security.capability", CAPABILITY);
    let long = (0..12).fold(root.to_owned(), |path, level| path.join(format!("{level}{}", "d".repeat(60))));
    fs::create_dir_all(&long).expect("make directories");
    fs::write(long.join("file"), "long path").expect("write");
    sparse(root);
}

/// Holes at the start, in between and at the end; one file that is nothing but a hole.
fn sparse(root: &Path) {
    let hole = File::create(root.join("hole")).expect("create");
    hole.set_len(1 << 20).expect("grow");
    let file = File::create(root.join("sparse")).expect("create");
    for run in 1..40_u64 {
        let content = vec![b'a'; 4096];
        file.write_all_at(&content, run * 65_536).expect("write");
    }
    file.set_len(41 * 65_536).expect("grow");
}

fn crowd() -> Layer {
    let tar =
        (0..CROWD).fold(LayerBuilder::new().dir("crowd"), |tar, file| tar.file(&format!("crowd/file-{file}"), ""));
    tar.plain()
}
