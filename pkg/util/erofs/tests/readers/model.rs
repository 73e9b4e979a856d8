//! What a reader should see, in a form that is the same for all readers.

use std::collections::BTreeMap;

use imagevol_erofs::{Attributes, Content, Device, Extent, Limits, Node, NodeId, Tree, Written, write};

/// Everything under a root by its path, the root itself by the empty path.
pub(crate) type Listing = BTreeMap<Vec<u8>, Seen>;

/// A node as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) what: What,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first of all paths that lead to the same inode.
    pub(crate) first_path: Vec<u8>,
}

/// Type and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

/// A tree with the content of its devices.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) tree: Tree,
    pub(crate) devices: Vec<Vec<u8>>,
}

impl Sample {
    pub(crate) fn new() -> Self {
        Self { tree: Tree::new(attributes(0o755)), devices: Vec::new() }
    }

    pub(crate) fn slots(&self) -> Vec<Device> {
        slots(&self.devices.iter().map(|bytes| bytes.len() as u64).collect::<Vec<_>>())
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        image(&self.tree, &self.slots())
    }

    /// Adds a node under a name in a directory.
    pub(crate) fn add(&mut self, parent: NodeId, name: &[u8], content: Content) -> NodeId {
        let id = self.tree.add(Node { attributes: attributes(0o644), content });
        assert!(self.tree.link(parent, name, id));
        id
    }

    pub(crate) fn add_directory(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        self.add(parent, name, Content::Directory(BTreeMap::new()))
    }

    pub(crate) fn attributes(&mut self, id: NodeId) -> &mut Attributes {
        &mut self.tree.node_mut(id).unwrap().attributes
    }

    /// What a reader should list.
    pub(crate) fn expected(&self) -> Listing {
        let mut found = Vec::new();
        let mut pending = vec![(Vec::new(), Tree::ROOT)];
        while let Some((path, id)) = pending.pop() {
            let subdirectories = self.tree.children(id).into_iter().flatten().map(|(name, child)| {
                pending.push(([path.as_slice(), b"/", name].concat(), *child));
                u32::from(self.tree.children(*child).is_some())
            });
            let links = 2 + subdirectories.sum::<u32>();
            found.push((path, id, links));
        }
        with_first_paths(found.into_iter().map(|(path, id, links)| (path, id, self.seen(id, links))))
    }

    fn seen(&self, id: NodeId, directory_links: u32) -> Seen {
        let Node { attributes, content } = self.tree.node(id).unwrap();
        let what = match content {
            Content::Directory(_) => What::Directory,
            Content::File { size, extents } => What::File(self.read(*size, extents)),
            Content::Symlink(target) => What::Symlink(target.clone()),
            Content::CharDevice { major, minor } => What::CharDevice(*major, *minor),
            Content::BlockDevice { major, minor } => What::BlockDevice(*major, *minor),
            Content::Fifo => What::Fifo,
            Content::Socket => What::Socket,
        };
        // `with_first_paths` counts the names of everything else.
        let links = if what == What::Directory { directory_links } else { 0 };
        Seen {
            what,
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime: (attributes.mtime, attributes.mtime_nsec),
            links,
            xattrs: attributes.xattrs.clone(),
            first_path: Vec::new(),
        }
    }

    fn read(&self, size: u64, extents: &[Extent]) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        let index = |n: u64| usize::try_from(n).unwrap();
        for extent in extents {
            let from = &self.devices[usize::from(extent.device)][index(extent.device_offset)..][..index(extent.length)];
            bytes[index(extent.file_offset)..][..from.len()].copy_from_slice(from);
        }
        bytes
    }
}

/// Joins the paths of an inode. Names are counted where a reader gave no count of links.
pub(crate) fn with_first_paths<I: Ord + Copy>(found: impl Iterator<Item = (Vec<u8>, I, Seen)>) -> Listing {
    let found: BTreeMap<_, _> = found.map(|(path, inode, seen)| (path, (inode, seen))).collect();
    let mut firsts: BTreeMap<I, (Vec<u8>, u32)> = BTreeMap::new();
    for (path, (inode, _)) in &found {
        firsts.entry(*inode).or_insert_with(|| (path.clone(), 0)).1 += 1;
    }
    let joined = found.into_iter().map(|(path, (inode, seen))| {
        let (first_path, names) = firsts[&inode].clone();
        let links = if seen.links == 0 { names } else { seen.links };
        (path, Seen { links, first_path, ..seen })
    });
    joined.collect()
}

pub(crate) fn attributes(mode: u16) -> Attributes {
    Attributes { mode, mtime: 1_700_000_000, ..Attributes::default() }
}

pub(crate) fn slots(sizes: &[u64]) -> Vec<Device> {
    sizes.iter().enumerate().map(|(n, size)| Device::new(&format!("sha256:{n:064x}"), *size).unwrap()).collect()
}

pub(crate) fn image(tree: &Tree, devices: &[Device]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let Written { bytes: count, .. } = write(tree, devices, &Limits::default(), &mut bytes).unwrap();
    assert_eq!(count, bytes.len() as u64);
    assert_eq!(count % 4096, 0);
    bytes
}

/// Bytes that differ between devices and between blocks.
pub(crate) fn noise(device: u16, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(device) + 1;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// A file that is one run.
pub(crate) fn file(size: u64, device: u16, device_offset: u64) -> Content {
    Content::File { size, extents: vec![Extent { file_offset: 0, device, device_offset, length: size }] }
}

/// Compares without printing a whole image's worth of differences.
pub(crate) fn assert_same(found: &Listing, expected: &Listing) {
    let shown = |path: &[u8]| path.escape_ascii().to_string();
    let paths = |listing: &Listing| listing.keys().map(|path| shown(path)).collect::<Vec<_>>();
    assert_eq!(paths(found), paths(expected));
    for (path, seen) in expected {
        assert_eq!(&found[path], seen, "{}", shown(path));
    }
}
