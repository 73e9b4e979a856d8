//! Finds what an image will contain: every node that a name leads to, once, with its count of links.

use crate::error::{EntryPath, NodeError, WriteError};
use crate::format::MAX_NAME;
use crate::tree::{Content, NodeId, Tree};

/// Links of a directory without subdirectories: its name, and its own `.`.
const DIRECTORY_LINKS: u32 = 2;

/// A node that a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    /// Which.
    pub(crate) id: NodeId,
    /// Position of the directory in which it was first found; the root's is its own.
    pub(crate) parent: usize,
    /// `st_nlink`.
    pub(crate) links: u32,
}

/// The reachable nodes, the root first and then breadth first, so that the children of a directory lie side by side.
#[derive(Debug)]
pub(crate) struct Walk<'t> {
    tree: &'t Tree,
    reached: Vec<Reached>,
    /// Position in `reached` by the node's index.
    positions: Vec<Option<u32>>,
    entries: u64,
}

// === impl Walk ===

impl<'t> Walk<'t> {
    /// Walks a tree. Memory is linear in the tree and nothing recurses, however deep it is.
    pub(crate) fn of(tree: &'t Tree, max_entries: u64) -> Result<Self, WriteError> {
        let mut walk = Self { tree, reached: Vec::new(), positions: vec![None; tree.len()], entries: 0 };
        if tree.children(Tree::ROOT).is_none() {
            return Err(walk.error(0, NodeError::RootNotDirectory));
        }
        walk.reach(Tree::ROOT, 0, DIRECTORY_LINKS);
        let mut next = 0;
        while let Some(directory) = walk.reached.get(next).copied() {
            walk.enter(next, directory.id, max_entries)?;
            next += 1;
        }
        Ok(walk)
    }

    /// The reachable nodes in order.
    pub(crate) fn reached(&self) -> &[Reached] {
        &self.reached
    }

    /// Where a node is among [`Self::reached`].
    pub(crate) fn position(&self, id: NodeId) -> Option<usize> {
        self.positions.get(id.index()).copied().flatten().map(|position| position as usize)
    }

    /// An error about the node at a position.
    pub(crate) fn error(&self, position: usize, source: NodeError) -> WriteError {
        WriteError::Node { path: self.path(position), source }
    }

    /// The path by which the node at a position was found. Costs a scan of each directory on it: for errors only.
    pub(crate) fn path(&self, position: usize) -> EntryPath {
        EntryPath::from_last(self.names_from(position))
    }

    /// The names from a node up to the root.
    fn names_from(&self, position: usize) -> impl Iterator<Item = &'t [u8]> {
        let mut position = position;
        std::iter::from_fn(move || {
            let child = self.reached.get(position).filter(|_| position > 0)?;
            let parent = self.reached.get(child.parent)?;
            position = child.parent;
            let (name, _) = self.tree.children(parent.id)?.iter().find(|(_, id)| **id == child.id)?;
            Some(name.as_slice())
        })
    }

    fn enter(&mut self, position: usize, id: NodeId, max_entries: u64) -> Result<(), WriteError> {
        for (name, child) in self.tree.children(id).into_iter().flatten() {
            self.entries += 1;
            if self.entries > max_entries {
                return Err(WriteError::TooManyEntries { max: max_entries });
            }
            check_name(name).and_then(|()| self.follow(position, *child)).map_err(|source| WriteError::Node {
                path: EntryPath::from_last([name.as_slice()].into_iter().chain(self.names_from(position))),
                source,
            })?;
        }
        Ok(())
    }

    /// Counts a name that leads from the directory at `parent` to a node.
    fn follow(&mut self, parent: usize, id: NodeId) -> Result<(), NodeError> {
        let node = self.tree.node(id).ok_or(NodeError::Dangling)?;
        let found = self.position(id);
        if matches!(node.content, Content::Directory(_)) {
            if found.is_some() {
                return Err(NodeError::LinkedDirectory);
            }
            self.add_link(parent);
            self.reach(id, parent, DIRECTORY_LINKS);
        } else if let Some(found) = found {
            self.add_link(found);
        } else {
            self.reach(id, parent, 1);
        }
        Ok(())
    }

    fn reach(&mut self, id: NodeId, parent: usize, links: u32) {
        let position = u32::try_from(self.reached.len()).ok();
        if let Some(slot) = self.positions.get_mut(id.index()) {
            *slot = position;
        }
        self.reached.push(Reached { id, parent, links });
    }

    fn add_link(&mut self, position: usize) {
        if let Some(reached) = self.reached.get_mut(position) {
            reached.links = reached.links.saturating_add(1);
        }
    }
}

fn check_name(name: &[u8]) -> Result<(), NodeError> {
    if matches!(name, b"" | b"." | b"..") {
        return Err(NodeError::ReservedName);
    }
    if name.len() > MAX_NAME {
        return Err(NodeError::LongName { length: name.len() });
    }
    let bad = name.iter().find(|byte| matches!(byte, b'/' | 0));
    bad.map_or(Ok(()), |byte| Err(NodeError::NameByte { byte: *byte }))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::tree::{Attributes, Node};

    fn node(content: Content) -> Node {
        Node { attributes: Attributes::default(), content }
    }

    fn directory() -> Node {
        node(Content::Directory(std::collections::BTreeMap::new()))
    }

    fn shown(error: &WriteError) -> (String, NodeError) {
        let WriteError::Node { path, source } = error else { panic!("{error:?}") };
        (path.to_string(), source.clone())
    }

    #[rstest]
    #[case::empty(b"", NodeError::ReservedName)]
    #[case::dot(b".", NodeError::ReservedName)]
    #[case::dot_dot(b"..", NodeError::ReservedName)]
    #[case::slash(b"a/b", NodeError::NameByte { byte: b'/' })]
    #[case::zero(b"a\0", NodeError::NameByte { byte: 0 })]
    #[case::long(&[b'n'; 256], NodeError::LongName { length: 256 })]
    fn refuses_name(#[case] name: &[u8], #[case] error: NodeError) {
        let mut tree = Tree::new(Attributes::default());
        let fifo = tree.add(node(Content::Fifo));
        tree.link(Tree::ROOT, name, fifo);
        let (path, source) = shown(&Walk::of(&tree, 9).unwrap_err());
        assert_eq!((path, source), (format!("/{}", name.escape_ascii()), error));
    }

    #[test]
    fn refuses_directory_with_two_names() {
        let mut tree = Tree::new(Attributes::default());
        let (a, b) = (tree.add(directory()), tree.add(directory()));
        tree.link(Tree::ROOT, b"a", a);
        tree.link(Tree::ROOT, b"b", b);
        tree.link(b, b"again", a);
        assert_eq!(shown(&Walk::of(&tree, 9).unwrap_err()), ("/b/again".into(), NodeError::LinkedDirectory));
    }

    #[test]
    fn refuses_directory_inside_itself() {
        let mut tree = Tree::new(Attributes::default());
        let a = tree.add(directory());
        tree.link(Tree::ROOT, b"a", a);
        tree.link(a, b"root", Tree::ROOT);
        assert_eq!(shown(&Walk::of(&tree, 9).unwrap_err()), ("/a/root".into(), NodeError::LinkedDirectory));
    }

    #[test]
    fn refuses_name_that_leads_nowhere() {
        let mut larger = Tree::new(Attributes::default());
        let foreign = larger.add(node(Content::Fifo));
        let mut tree = Tree::new(Attributes::default());
        tree.link(Tree::ROOT, b"x", foreign);
        assert_eq!(shown(&Walk::of(&tree, 9).unwrap_err()), ("/x".into(), NodeError::Dangling));
    }

    #[test]
    fn refuses_root_that_is_no_directory() {
        let mut tree = Tree::new(Attributes::default());
        tree.node_mut(Tree::ROOT).unwrap().content = Content::Fifo;
        assert_eq!(shown(&Walk::of(&tree, 9).unwrap_err()), ("/".into(), NodeError::RootNotDirectory));
    }

    #[test]
    fn counts_names_not_nodes() {
        let mut tree = Tree::new(Attributes::default());
        let fifo = tree.add(node(Content::Fifo));
        tree.link(Tree::ROOT, b"a", fifo);
        tree.link(Tree::ROOT, b"b", fifo);
        assert!(Walk::of(&tree, 2).is_ok());
        assert!(matches!(Walk::of(&tree, 1), Err(WriteError::TooManyEntries { max: 1 })));
    }

    #[test]
    fn counts_links_and_leaves_out_the_unreachable() {
        let mut tree = Tree::new(Attributes::default());
        let (a, fifo) = (tree.add(directory()), tree.add(node(Content::Fifo)));
        tree.add(node(Content::Socket));
        tree.link(Tree::ROOT, b"a", a);
        tree.link(Tree::ROOT, b"f", fifo);
        tree.link(a, b"f", fifo);
        let walk = Walk::of(&tree, 9).unwrap();
        let links: Vec<_> = walk.reached().iter().map(|reached| (reached.id, reached.links)).collect();
        assert_eq!(links, [(Tree::ROOT, 3), (a, 2), (fifo, 2)]);
    }
}
