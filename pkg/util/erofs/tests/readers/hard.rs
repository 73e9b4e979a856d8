//! Trees at the edges of the format, each small enough to be compared whole.

use std::collections::BTreeMap;

use imagevol_erofs::{Attributes, Content, Extent, Tree};

use crate::model::{Sample, file, noise};

pub(crate) fn samples() -> Vec<(&'static str, Sample)> {
    vec![
        ("names", names()),
        ("links", links()),
        ("directories", directories()),
        ("hard links", hard_links()),
        ("times and owners", times_and_owners()),
        ("special files", special_files()),
        ("attributes", xattrs()),
        ("holes", holes()),
        ("device order", device_order()),
    ]
}

/// Every byte that a name can have, and the longest name.
fn names() -> Sample {
    let mut sample = Sample::new();
    for byte in (1..=255).filter(|byte| *byte != b'/') {
        if byte != b'.' {
            sample.add(Tree::ROOT, &[byte], Content::Fifo);
        }
        sample.add(Tree::ROOT, &[b'.', byte, b'.'], Content::Socket);
    }
    sample.add(Tree::ROOT, &[b'n'; 255], Content::Fifo);
    sample.add_directory(Tree::ROOT, &[0xff; 255]);
    sample
}

/// Targets of every length near a block, so that inodes with their targets meet block ends at every distance.
fn links() -> Sample {
    let mut sample = Sample::new();
    for length in (1..=1100).chain([2047, 2048, 4094, 4095]) {
        let id = sample.add(Tree::ROOT, format!("{length:04}").as_bytes(), Content::Symlink(vec![b't'; length]));
        if length % 3 == 0 {
            sample.attributes(id).xattrs = BTreeMap::from([(b"trusted.x".to_vec(), vec![1; length % 37])]);
        }
    }
    sample
}

/// Directories whose data has every size from the smallest to some blocks.
fn directories() -> Sample {
    let mut sample = Sample::new();
    for size in 1_usize..400 {
        let parent = sample.add_directory(Tree::ROOT, format!("d{size}").as_bytes());
        for n in 0..size / 40 {
            sample.add(parent, format!("{n:03}").as_bytes(), Content::Fifo);
        }
        sample.add(parent, &vec![b'z'; size % 255 + 1], Content::Fifo);
    }
    sample
}

fn hard_links() -> Sample {
    let mut sample = Sample { devices: vec![noise(0, 1024)], ..Sample::new() };
    let one = sample.add_directory(Tree::ROOT, b"one");
    let two = sample.add_directory(one, b"two");
    let nodes = [file(1000, 0, 0), Content::Symlink(b"x".to_vec()), Content::Fifo]
        .map(|content| sample.tree.add(node(content)));
    for (n, id) in nodes.into_iter().enumerate() {
        for parent in [two, Tree::ROOT, one] {
            sample.tree.link(parent, format!("z{n}").as_bytes(), id);
            sample.tree.link(parent, format!("a{n}").as_bytes(), id);
        }
    }
    // Never reached: no name leads there.
    sample.tree.add(node(Content::Socket));
    sample
}

fn node(content: Content) -> imagevol_erofs::Node {
    imagevol_erofs::Node { attributes: Attributes::default(), content }
}

fn times_and_owners() -> Sample {
    let mut sample = Sample::new();
    let times =
        [i64::MIN, -(1 << 32), -2_147_483_649, -1, 0, 1, 2_147_483_648, 4_294_967_296, 253_402_300_800, i64::MAX];
    for (n, mtime) in (1..).zip(times) {
        let id = sample.add(Tree::ROOT, mtime.to_string().as_bytes(), Content::Fifo);
        let (uid, gid) = (u32::MAX - n, (1 << 31) + n);
        let attributes = Attributes { mode: 0o7777, uid, gid, mtime, mtime_nsec: 999_999_999, xattrs: BTreeMap::new() };
        *sample.attributes(id) = attributes;
    }
    sample
}

fn special_files() -> Sample {
    let mut sample = Sample::new();
    for (major, minor) in [(0, 0), (1, 3), (8, 0xff), (0xfff, 0xf_ffff), (259, 0x100)] {
        sample.add(Tree::ROOT, format!("c{major}-{minor}").as_bytes(), Content::CharDevice { major, minor });
        sample.add(Tree::ROOT, format!("b{major}-{minor}").as_bytes(), Content::BlockDevice { major, minor });
    }
    sample.add(Tree::ROOT, b"fifo", Content::Fifo);
    sample.add(Tree::ROOT, b"socket", Content::Socket);
    sample
}

/// Attributes from none to as many as an inode holds, behind every type of node.
fn xattrs() -> Sample {
    let mut sample = Sample { devices: vec![noise(0, 4096)], ..Sample::new() };
    let largest = (0..4).map(|n| (format!("user.{n}").into_bytes(), vec![n; 65527])).collect();
    let many = (0..250).map(|n| (format!("trusted.{n:0>240}").into_bytes(), vec![n; usize::from(n)])).collect();
    let odd = BTreeMap::from([
        (b"user.\xff\xfe".to_vec(), b"\0\0".to_vec()),
        (b"security.capability".to_vec(), vec![0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ([b"security.".as_slice(), &[b'n'; 246]].concat(), Vec::new()),
    ]);
    for (name, attributes) in [("largest", largest), ("many", many), ("odd", odd)] {
        let id = sample.add(Tree::ROOT, name.as_bytes(), file(3000, 0, 512));
        sample.attributes(id).xattrs = attributes;
    }
    for size in 0..600 {
        let parent = sample.add_directory(Tree::ROOT, format!("{size}").as_bytes());
        sample.add(parent, b"entry", Content::Fifo);
        sample.attributes(parent).xattrs = BTreeMap::from([(b"user.size".to_vec(), vec![7; size])]);
    }
    sample
}

fn holes() -> Sample {
    let mut sample = Sample { devices: vec![noise(0, 8192)], ..Sample::new() };
    let extent = |file_offset, device_offset, length| Extent { file_offset, device: 0, device_offset, length };
    let files = [
        (0, vec![]),
        (0, vec![extent(0, 512, 0)]),
        (1, vec![]),
        (100_000, vec![]),
        (100_000, vec![extent(99_840, 0, 160)]),
        (100_000, vec![extent(0, 512, 512)]),
        (5000, vec![extent(512, 1024, 512), extent(2048, 512, 1024), extent(4608, 0, 392)]),
        (4096, vec![extent(0, 4096, 2048), extent(2048, 0, 2048)]),
        (4097, vec![extent(0, 0, 2048), extent(2048, 2048, 2049)]),
    ];
    for (n, (size, extents)) in files.into_iter().enumerate() {
        sample.add(Tree::ROOT, format!("{n}").as_bytes(), Content::File { size, extents });
    }
    sample
}

/// Five hundred devices, each with a file of its own and a file across all of them.
fn device_order() -> Sample {
    let mut sample = Sample { devices: (0..500).map(|n| noise(n, 4096)).collect(), ..Sample::new() };
    for device in 0..500 {
        sample.add(Tree::ROOT, format!("{device}").as_bytes(), file(4000 - u64::from(device), device, 0));
    }
    let across = (0..500).map(|device| Extent {
        file_offset: u64::from(device) * 512,
        device,
        device_offset: u64::from(device % 8) * 512,
        length: 512,
    });
    let across = across.collect();
    sample.add(Tree::ROOT, b"across", Content::File { size: 500 * 512, extents: across });
    sample
}
