//! The tree that [`crate::write`] lays out: plain data, no I/O.

use std::collections::BTreeMap;

/// Index of a node in its [`Tree`]; the root is [`Tree::ROOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// Owner, mode bits, times and extended attributes of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: the low twelve bits of `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, seconds since 1970; negative before.
    pub mtime: i64,
    /// Nanoseconds of the modification time, below 1e9.
    pub mtime_nsec: u32,
    /// Extended attributes by full name (`user.x`, `security.capability`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A run of file content on one device. What no extent covers is a hole and reads as zeros; an extent of no bytes is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where the run starts in the file, bytes, a multiple of the block size.
    pub file_offset: u64,
    /// Which device holds it, counted from zero in the order of the image's device table.
    pub device: u16,
    /// Where it starts on that device, bytes, a multiple of the block size (512).
    pub device_offset: u64,
    /// Bytes: a multiple of the block size, except where the file ends. The last block is read whole from the device.
    pub length: u64,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory; its children are linked with [`Tree::link`].
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// A regular file whose bytes lie on devices; extents ascend and do not overlap.
    File {
        /// Bytes.
        size: u64,
        /// Where the bytes lie.
        extents: Vec<Extent>,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One inode. Several directory entries may name it (hard links).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Owner, mode, times, extended attributes.
    pub attributes: Attributes,
    /// Type and content.
    pub content: Content,
}

/// Inodes and the names that lead to them. Nodes that no name leads to are not written.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: Vec<Node>,
}

// === impl Tree ===

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// An empty tree with a root directory of these attributes.
    pub fn new(root: Attributes) -> Self {
        Self { nodes: vec![Node { attributes: root, content: Content::Directory(BTreeMap::new()) }] }
    }

    /// Adds a node that no name leads to yet. Identifiers repeat past `u32::MAX` nodes, which callers' limits exclude.
    pub fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        id
    }

    /// Makes `name` in the directory `parent` lead to `child`, in place of what it led to before. `false` if `parent` is no directory.
    pub fn link(&mut self, parent: NodeId, name: &[u8], child: NodeId) -> bool {
        let Some(children) = self.children_mut(parent) else { return false };
        children.insert(name.to_vec(), child);
        true
    }

    /// Removes a name; what it led to stays as a node.
    pub fn unlink(&mut self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children_mut(parent)?.remove(name)
    }

    /// What a name in a directory leads to.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children(parent)?.get(name).copied()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())
    }

    /// A node, to change.
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id.index())
    }

    /// The entries of a directory by name; `None` for anything else.
    pub fn children(&self, id: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        let Content::Directory(children) = &self.node(id)?.content else { return None };
        Some(children)
    }

    /// The entries of a directory, to change.
    pub fn children_mut(&mut self, id: NodeId) -> Option<&mut BTreeMap<Vec<u8>, NodeId>> {
        let Content::Directory(children) = &mut self.node_mut(id)?.content else { return None };
        Some(children)
    }

    /// How many nodes were added, the root and unreachable ones included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never true: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

// === impl NodeId ===

impl NodeId {
    /// Position in order of [`Tree::add`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
