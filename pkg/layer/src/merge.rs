//! Many layers to one tree, as the OCI image-spec says (layer.md, "Applying Changesets"), without a file system.
//!
//! Where layer.md is silent, it does what umoci and containerd do when they unpack: parents that are symlinks are followed inside the
//! image, parents that are missing are made, and nothing is made below a file. In one point it is stricter than both: whiteouts hide lower
//! layers only, wherever in their layer they stand, as layer.md demands.

mod upper;
mod walk;

use imagevol_erofs::{Attributes, Content, Node, NodeId, Tree};

use crate::error::{LayerError, Result};
use crate::index::LayerIndex;
use crate::limits::Limits;
use crate::path::EntryPath;
use upper::Upper;
pub(crate) use walk::Place;

/// Most symlinks on the way to one parent: Linux's `MAXSYMLINKS`.
pub const MAX_SYMLINKS: usize = 40;

/// Most directories above a node: what a path of `PATH_MAX` bytes can have.
pub const MAX_DEPTH: usize = 2048;

/// Stacks layers, lowest first. Time is linear in the entries of all layers, memory in the nodes of the tree.
#[derive(Debug)]
pub struct Merger {
    tree: Tree,
    limits: Limits,
    symlink_steps: u64,
}

/// Merges layers, lowest first; the first is device 0 of the tree's extents, and so on.
///
/// # Errors
/// The first entry that cannot be applied, or a limit.
pub fn merge<'l>(layers: impl IntoIterator<Item = &'l LayerIndex>, limits: Limits) -> Result<Tree> {
    let mut merger = Merger::new(limits);
    for (number, layer) in layers.into_iter().enumerate() {
        merger.add(u16::try_from(number).map_err(|_| LayerError::TooManyLayers)?, layer)?;
    }
    Ok(merger.finish())
}

// === impl Merger ===

impl Merger {
    /// An empty image: a root directory of mode 0755, owned by root, from 1970.
    pub fn new(limits: Limits) -> Self {
        Self { tree: Tree::new(implicit()), limits, symlink_steps: 0 }
    }

    /// Puts a layer on top, whose data is on `device`.
    ///
    /// # Errors
    /// The first entry that cannot be applied, or a limit. The merger is of no use after it.
    pub fn add(&mut self, device: u16, layer: &LayerIndex) -> Result<()> {
        self.add_below(Tree::ROOT, device, layer)
    }

    /// The tree. Nodes that later layers hid are still in it; no name leads to them.
    pub fn finish(self) -> Tree {
        self.tree
    }

    /// Puts a layer on top of what is below a directory, which is the root that the layer cannot leave.
    pub(crate) fn add_below(&mut self, root: NodeId, device: u16, layer: &LayerIndex) -> Result<()> {
        let mut upper = Upper::new(self, root, device);
        for entry in layer.entries() {
            upper.apply(entry?)?;
        }
        Ok(())
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Links a new node at `name`, in place of what was there.
    pub(crate) fn place(&mut self, parent: NodeId, name: &[u8], node: Node, path: &EntryPath) -> Result<NodeId> {
        if u64::try_from(self.tree.len()).unwrap_or(u64::MAX) >= self.limits.max_entries {
            return Err(LayerError::TooManyEntries { limit: self.limits.max_entries });
        }
        let id = self.tree.add(node);
        self.link(parent, name, id, path)?;
        Ok(id)
    }

    fn link(&mut self, parent: NodeId, name: &[u8], child: NodeId, path: &EntryPath) -> Result<()> {
        if self.tree.link(parent, name, child) {
            return Ok(());
        }
        Err(LayerError::ParentNotDirectory { path: path.shown() })
    }
}

/// Attributes of a directory that no entry describes: what mkdir with the usual umask gives, and a time that does not change from merge to merge.
pub(crate) fn implicit() -> Attributes {
    Attributes { mode: 0o755, ..Attributes::default() }
}

pub(crate) fn directory(attributes: Attributes) -> Node {
    Node { attributes, content: Content::Directory(std::collections::BTreeMap::new()) }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
