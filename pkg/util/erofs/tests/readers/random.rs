//! Random trees.

use std::collections::BTreeMap;

use imagevol_erofs::{Attributes, Content, Extent, Node, NodeId, Tree};
use proptest::prelude::*;

use crate::model::{Sample, noise};

/// Bytes of every device.
const DEVICE: usize = 64 * 512;

#[derive(Debug, Clone)]
enum Step {
    /// A new node in one of the directories so far.
    Add { parent: prop::sample::Index, name: Vec<u8>, attributes: Attributes, content: Content },
    /// Another name for one of the nodes so far.
    Link { parent: prop::sample::Index, name: Vec<u8>, node: prop::sample::Index },
}

/// Trees of every type of node, with hard links, holes and attributes of any value that the format has.
pub(crate) fn sample() -> impl Strategy<Value = Sample> {
    (attributes(true), prop::collection::vec(step(), 0..60)).prop_map(|(root, steps)| {
        let mut sample = Sample { tree: Tree::new(root), devices: (0..3).map(|n| noise(n, DEVICE)).collect() };
        let mut directories = vec![Tree::ROOT];
        let mut others: Vec<NodeId> = Vec::new();
        for step in steps {
            apply(&mut sample.tree, step, &mut directories, &mut others);
        }
        sample
    })
}

fn apply(tree: &mut Tree, step: Step, directories: &mut Vec<NodeId>, others: &mut Vec<NodeId>) {
    match step {
        Step::Add { parent, name, attributes, content } => {
            let parent = *parent.get(directories);
            if tree.lookup(parent, &name).is_some() {
                return;
            }
            let known = if matches!(content, Content::Directory(_)) { directories } else { others };
            let id = tree.add(Node { attributes, content });
            assert!(tree.link(parent, &name, id));
            known.push(id);
        }
        Step::Link { parent, name, node } => {
            let parent = *parent.get(directories);
            if !others.is_empty() && tree.lookup(parent, &name).is_none() {
                tree.link(parent, &name, *node.get(others));
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let add =
        content().prop_flat_map(move |content| {
            // Linux has no user attributes on links and special files.
            let user = matches!(content, Content::Directory(_) | Content::File { .. });
            (index(), name(), attributes(user), Just(content))
                .prop_map(|(parent, name, attributes, content)| Step::Add { parent, name, attributes, content })
        });
    let link = (index(), name(), index()).prop_map(|(parent, name, node)| Step::Link { parent, name, node });
    prop_oneof![6 => add, 1 => link]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'.'), Just(b'-'), Just(b'a'), 1_u8..=46, 48_u8..=255];
    let names =
        prop_oneof![9 => prop::collection::vec(byte.clone(), 1..20), 1 => prop::collection::vec(byte, 200..=255)];
    names.prop_filter("names of every directory", |name| name != b"." && name != b"..")
}

fn content() -> impl Strategy<Value = Content> {
    let target = |length| prop::collection::vec(1_u8..=255, length);
    let link = prop_oneof![target(1..80), target(380..520), target(4000..4096)];
    prop_oneof![
        3 => Just(Content::Directory(BTreeMap::new())),
        4 => file(),
        2 => link.prop_map(Content::Symlink),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Content::CharDevice { major, minor }),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| Content::BlockDevice { major, minor }),
        1 => Just(Content::Fifo),
        1 => Just(Content::Socket),
    ]
}

/// Runs and holes of whole blocks, cut at the end of the file.
fn file() -> impl Strategy<Value = Content> {
    let piece = (1_u64..9, prop::option::weighted(0.8, (0_u16..3, 0_u64..50)));
    (prop::collection::vec(piece, 0..6), 0_u64..512).prop_map(|(pieces, cut)| {
        let mut size = 0;
        let mut extents: Vec<Extent> = Vec::new();
        for (blocks, place) in pieces {
            if let Some((device, block)) = place {
                extents.push(Extent { file_offset: size, device, device_offset: block * 512, length: blocks * 512 });
            }
            size += blocks * 512;
        }
        size = size.saturating_sub(cut);
        if let Some(last) = extents.last_mut() {
            last.length = last.length.min(size - last.file_offset);
        }
        Content::File { size, extents }
    })
}

fn attributes(user: bool) -> impl Strategy<Value = Attributes> {
    let time = prop_oneof![any::<i64>(), -5_000_000_000_i64..5_000_000_000];
    // The highest number stands for no user at all.
    let owner = || 0..u32::MAX;
    (0_u16..=0o7777, owner(), owner(), time, 0_u32..1_000_000_000, xattrs(user)).prop_map(
        |(mode, uid, gid, mtime, mtime_nsec, xattrs)| Attributes { mode, uid, gid, mtime, mtime_nsec, xattrs },
    )
}

fn xattrs(user: bool) -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<u8>>> {
    let prefixes: &[&[u8]] = if user { &[b"user.", b"trusted.", b"security.t"] } else { &[b"trusted.", b"security.t"] };
    let name = (prop::sample::select(prefixes), prop::collection::vec(33_u8..=255, 1..40));
    let bytes = |length| prop::collection::vec(any::<u8>(), length);
    let value = prop_oneof![8 => bytes(0..40), 1 => bytes(300..2000)];
    let some = prop::collection::btree_map(name.prop_map(|(prefix, rest)| [prefix, &rest].concat()), value, 1..4);
    prop_oneof![3 => Just(BTreeMap::new()), 1 => some]
}
