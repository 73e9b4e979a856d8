//! One layer going on top of those below it.

use std::collections::{HashMap, HashSet};

use imagevol_erofs::{Attributes, Content, Extent, Node, NodeId};

use super::walk::Place;
use super::{Merger, directory, implicit};
use crate::entry::{Entry, Kind, Segment};
use crate::error::{LayerError, Result};
use crate::path::EntryPath;

/// The layer being applied: which names are its own, since a whiteout hides only what is not.
pub(crate) struct Upper<'m> {
    merger: &'m mut Merger,
    root: NodeId,
    device: u16,
    /// Nodes from here on are this layer's, with every name they have.
    first_own: usize,
    /// Directories of lower layers that this layer did something in.
    directories: HashMap<NodeId, Touched>,
    /// Names that this layer gave to nodes of lower layers (hard links).
    links: HashMap<NodeId, HashSet<Vec<u8>>>,
}

/// What this layer did to a directory of a lower layer.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    /// It put something below it, or described it.
    kept: bool,
    /// It described it: its attributes are this layer's.
    described: bool,
    /// It hid what lower layers have in it. Done once, there is nothing left to hide: any number of markers costs no more than one.
    cleared: bool,
}

// === impl Upper ===

impl<'m> Upper<'m> {
    pub(crate) fn new(merger: &'m mut Merger, root: NodeId, device: u16) -> Self {
        let first_own = merger.tree.len();
        Self { merger, root, device, first_own, directories: HashMap::new(), links: HashMap::new() }
    }

    pub(crate) fn apply(&mut self, entry: Entry) -> Result<()> {
        let Entry { path, kind } = entry;
        match kind {
            Kind::Whiteout => self.whiteout(&path),
            Kind::Opaque => self.opaque(&path),
            Kind::HardLink { target } => self.hard_link(&path, &target),
            Kind::Directory(attributes) => self.directory(&path, attributes),
            Kind::File { attributes, size, segments } => {
                let extents = self.extents(&segments);
                self.node(&path, attributes, Content::File { size, extents })
            }
            // A symlink's own mode is always 0777 on Linux, whatever an archive says.
            Kind::Symlink { attributes, target } => {
                self.node(&path, Attributes { mode: 0o777, ..attributes }, Content::Symlink(target))
            }
            Kind::CharDevice { attributes, major, minor } => {
                self.node(&path, attributes, Content::CharDevice { major, minor })
            }
            Kind::BlockDevice { attributes, major, minor } => {
                self.node(&path, attributes, Content::BlockDevice { major, minor })
            }
            Kind::Fifo(attributes) => self.node(&path, attributes, Content::Fifo),
        }
    }

    fn node(&mut self, path: &EntryPath, attributes: Attributes, content: Content) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        self.merger.place(parent, name, Node { attributes, content }, path)?;
        Ok(())
    }

    /// Over a directory, new attributes and the old children; over anything else, and a symlink to a directory is that, a new directory.
    fn directory(&mut self, path: &EntryPath, attributes: Attributes) -> Result<()> {
        if path.is_root() {
            self.describe(self.root, attributes);
            return Ok(());
        }
        let (parent, name) = self.parent(path)?;
        match self.merger.tree.lookup(parent, name).filter(|id| self.merger.tree.children(*id).is_some()) {
            Some(existing) => self.describe(existing, attributes),
            None => {
                self.merger.place(parent, name, directory(attributes), path)?;
            }
        }
        Ok(())
    }

    /// The name goes first, then the target is looked up, as unpackers do: a link that replaces its own target links to nothing.
    fn hard_link(&mut self, path: &EntryPath, target: &EntryPath) -> Result<()> {
        if path == target {
            return Err(LayerError::HardLinkToSelf { path: path.shown() });
        }
        let (parent, name) = self.parent(path)?;
        self.merger.tree.unlink(parent, name);
        let (above, target_name) = target.split().unwrap_or_default();
        let found = match self.merger.walk(self.root, above, path)? {
            Place::Found { above, missing } if missing.is_empty() => {
                above.last().and_then(|above| self.merger.tree.lookup(*above, target_name))
            }
            Place::Found { .. } | Place::NotDirectory => None,
        };
        let shown = || (path.shown(), target.shown());
        let Some(id) = found else {
            let (path, target) = shown();
            return Err(LayerError::HardLinkMissing { path, target });
        };
        if self.merger.tree.children(id).is_some() {
            let (path, target) = shown();
            return Err(LayerError::HardLinkToDirectory { path, target });
        }
        if id.index() < self.first_own {
            self.links.entry(parent).or_default().insert(name.to_vec());
        }
        self.merger.link(parent, name, id, path)
    }

    /// The directory that an entry goes into, made if missing, and its name there.
    fn parent<'p>(&mut self, path: &'p EntryPath) -> Result<(NodeId, &'p [u8])> {
        let (above, name) = path.split().unwrap_or_default();
        match self.merger.walk(self.root, above, path)? {
            Place::NotDirectory => Err(LayerError::ParentNotDirectory { path: path.shown() }),
            Place::Found { mut above, missing } => {
                self.keep(&above);
                let parent = self.merger.make(&mut above, missing, path)?;
                Ok((parent, name))
            }
        }
    }

    /// Marks directories, root first, as having something of this layer below them.
    fn keep(&mut self, above: &[NodeId]) {
        for id in above.iter().rev() {
            // Its parents were marked when it was, or when it was made.
            if id.index() >= self.first_own
                || std::mem::replace(&mut self.directories.entry(*id).or_default().kept, true)
            {
                return;
            }
        }
    }

    fn describe(&mut self, id: NodeId, attributes: Attributes) {
        if id.index() < self.first_own {
            let touched = self.directories.entry(id).or_default();
            touched.kept = true;
            touched.described = true;
        }
        if let Some(node) = self.merger.tree.node_mut(id) {
            node.attributes = attributes;
        }
    }

    /// Hides a path of lower layers. A path that they do not have is already hidden.
    fn whiteout(&mut self, path: &EntryPath) -> Result<()> {
        let (above, name) = path.split().unwrap_or_default();
        let Place::Found { above, missing } = self.merger.walk(self.root, above, path)? else { return Ok(()) };
        let Some(parent) = above.last().filter(|_| missing.is_empty()) else { return Ok(()) };
        let Some(id) = self.merger.tree.lookup(*parent, name) else { return Ok(()) };
        if !self.is_own(*parent, name, id) {
            self.merger.tree.unlink(*parent, name);
            return Ok(());
        }
        self.clear(id, Hidden::WithItself);
        Ok(())
    }

    /// Hides what lower layers have below a directory.
    fn opaque(&mut self, path: &EntryPath) -> Result<()> {
        let Place::Found { above, missing } = self.merger.walk(self.root, path.as_bytes(), path)? else {
            return Ok(());
        };
        if let Some(id) = above.last().filter(|_| missing.is_empty()) {
            self.clear(*id, Hidden::Below);
        }
        Ok(())
    }

    /// Takes the names of lower layers out of a directory and those below it. Each directory is looked through once per layer.
    fn clear(&mut self, top: NodeId, hidden: Hidden) {
        let mut todo = vec![(top, hidden)];
        while let Some((id, hidden)) = todo.pop() {
            // What this layer made has nothing of lower layers in it.
            if id.index() >= self.first_own || self.merger.tree.children(id).is_none() {
                continue;
            }
            let touched = self.directories.entry(id).or_default();
            if hidden == Hidden::WithItself && !touched.described {
                self.undescribe(id);
            }
            if self.is_cleared(id) {
                continue;
            }
            let own = self.own_children(id);
            if let Some(children) = self.merger.tree.children_mut(id) {
                children.retain(|name, _| own.contains_key(name));
            }
            todo.extend(own.into_values().map(|child| (child, Hidden::WithItself)));
        }
    }

    /// A directory of a lower layer that is hidden, but has something of this layer below it, is as if this layer had implied it.
    fn undescribe(&mut self, id: NodeId) {
        if let Some(node) = self.merger.tree.node_mut(id) {
            node.attributes = implicit();
        }
    }

    /// Whether it was cleared before; from now on it was.
    fn is_cleared(&mut self, id: NodeId) -> bool {
        std::mem::replace(&mut self.directories.entry(id).or_default().cleared, true)
    }

    fn own_children(&self, id: NodeId) -> HashMap<Vec<u8>, NodeId> {
        let children = self.merger.tree.children(id).into_iter().flatten();
        children
            .filter(|(name, child)| self.is_own(id, name, **child))
            .map(|(name, child)| (name.clone(), *child))
            .collect()
    }

    /// Whether this layer gave the name, or something below it.
    fn is_own(&self, parent: NodeId, name: &[u8], id: NodeId) -> bool {
        id.index() >= self.first_own
            || self.directories.get(&id).is_some_and(|touched| touched.kept)
            || self.links.get(&parent).is_some_and(|names| names.contains(name))
    }

    fn extents(&self, segments: &[Segment]) -> Vec<Extent> {
        let extent = |segment: &Segment| Extent {
            file_offset: segment.file_offset,
            device: self.device,
            device_offset: segment.tar_offset,
            length: segment.length,
        };
        segments.iter().map(extent).collect()
    }
}

/// How much of a directory a marker hides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// What is below it.
    Below,
    /// And it itself.
    WithItself,
}
