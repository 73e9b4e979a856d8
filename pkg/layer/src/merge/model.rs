//! What merging means, said as simply as possible: a map from paths to inodes, changed one entry at a time. Slow, and used as a reference.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_erofs::{Content, NodeId, Tree};

use crate::entry::{Entry, Kind};
use crate::path::EntryPath;

/// A path; empty for the root.
pub(super) type Names = Vec<String>;

/// What is at a path: mode, and type with content, or the content alone for what is no directory.
pub(super) type Flat = BTreeMap<Names, (u16, String)>;

#[derive(Debug, Clone)]
pub(super) struct Model {
    names: BTreeMap<Names, Name>,
    inodes: Vec<(u16, String)>,
    layer: usize,
}

#[derive(Debug, Clone)]
struct Name {
    inode: usize,
    /// The layer that gave the name.
    layer: usize,
    /// The layer that described the directory.
    described: usize,
}

#[derive(Debug)]
pub(super) struct Refused;

impl Model {
    pub(super) fn new() -> Self {
        let root = Name { inode: 0, layer: 0, described: 0 };
        Self { names: BTreeMap::from([(Names::new(), root)]), inodes: vec![(0o755, "dir".into())], layer: 0 }
    }

    pub(super) fn next_layer(&mut self) {
        self.layer += 1;
    }

    pub(super) fn apply(&mut self, entry: &Entry) -> Result<(), Refused> {
        let path = split(&entry.path);
        let (parent, name) = match path.split_last() {
            Some((name, parent)) => (parent.to_vec(), name.clone()),
            None => (Names::new(), String::new()),
        };
        match &entry.kind {
            Kind::Whiteout => {
                if let Some(mut target) = self.existing(&parent)? {
                    target.push(name);
                    self.hide(&target, true);
                }
            }
            Kind::Opaque => {
                if let Some(target) = self.existing(&path)? {
                    self.hide(&target, false);
                }
            }
            Kind::Directory(attributes) if path.is_empty() => self.describe(&path, attributes.mode),
            Kind::Directory(_)
            | Kind::File { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. }
            | Kind::Fifo(_) => {
                let mut target = self.resolve(&parent)?.ok_or(Refused)?;
                self.imply(&target);
                target.push(name);
                self.put(&entry.path, target, &entry.kind)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, written: &EntryPath, path: Names, kind: &Kind) -> Result<(), Refused> {
        if let (Kind::Directory(attributes), Some("dir")) = (kind, self.content(&path)) {
            self.describe(&path, attributes.mode);
            return Ok(());
        }
        self.names.retain(|name, _| !name.starts_with(&path));
        let inode = match kind {
            Kind::HardLink { target } => {
                if target == written {
                    return Err(Refused);
                }
                let target = split(target);
                let (name, above) = target.split_last().ok_or(Refused)?;
                let mut target = self.existing(above)?.ok_or(Refused)?;
                target.push(name.clone());
                if self.content(&target).is_none_or(|content| content == "dir") {
                    return Err(Refused);
                }
                self.names[&target].inode
            }
            Kind::Directory(attributes) => self.inode(attributes.mode, "dir".into()),
            Kind::Symlink { target, .. } => self.inode(0o777, format!("link {}", String::from_utf8_lossy(target))),
            Kind::File { attributes, size, .. } => {
                self.inode(attributes.mode, format!("file {} {size}", self.layer - 1))
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo(_) | Kind::Whiteout | Kind::Opaque => {
                panic!("{kind:?}")
            }
        };
        self.names.insert(path, Name { inode, layer: self.layer, described: self.layer });
        Ok(())
    }

    fn inode(&mut self, mode: u16, content: String) -> usize {
        self.inodes.push((mode, content));
        self.inodes.len() - 1
    }

    fn content(&self, path: &Names) -> Option<&str> {
        self.names.get(path).map(|name| self.inodes[name.inode].1.as_str())
    }

    fn describe(&mut self, path: &Names, mode: u16) {
        let name = self.names.get_mut(path).unwrap();
        name.described = self.layer;
        self.inodes[name.inode].0 = mode;
        self.touch(path);
    }

    /// A path and those above it have something of this layer.
    fn touch(&mut self, path: &Names) {
        for length in 0..=path.len() {
            self.names.get_mut(&path[..length]).unwrap().layer = self.layer;
        }
    }

    fn imply(&mut self, path: &Names) {
        for length in 1..=path.len() {
            if !self.names.contains_key(&path[..length]) {
                let inode = self.inode(0o755, "dir".into());
                self.names.insert(path[..length].to_vec(), Name { inode, layer: self.layer, described: 0 });
            }
        }
        self.touch(path);
    }

    /// Names of lower layers at (if `itself`) or below a path go; directories that stay because of this layer are as if implied by it.
    fn hide(&mut self, path: &Names, itself: bool) {
        let layer = self.layer;
        let hidden = |name: &Names| name.starts_with(path) && (itself || name != path) && !name.is_empty();
        self.names.retain(|name, item| !hidden(name) || item.layer == layer);
        let kept: Vec<usize> = self
            .names
            .iter()
            .filter(|(name, item)| hidden(name) && item.described != layer && self.inodes[item.inode].1 == "dir")
            .map(|(_, item)| item.inode)
            .collect();
        for inode in kept {
            self.inodes[inode].0 = 0o755;
        }
    }

    /// A directory that exists.
    fn existing(&self, directory: &[String]) -> Result<Option<Names>, Refused> {
        Ok(self.resolve(directory)?.filter(|path| self.content(path) == Some("dir")))
    }

    /// Where a directory is or would be; `None` below what is none.
    fn resolve(&self, directory: &[String]) -> Result<Option<Names>, Refused> {
        let mut todo: Vec<String> = directory.iter().rev().cloned().collect();
        let mut here = Names::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(name),
            }
            match self.content(&here) {
                None | Some("dir") => {}
                Some(link) if link.starts_with("link ") => {
                    links += 1;
                    if links > 40 {
                        return Err(Refused);
                    }
                    let target = &link[5..];
                    here.pop();
                    if target.starts_with('/') {
                        here.clear();
                    }
                    todo.extend(target.split('/').rev().map(String::from));
                }
                Some(_) => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    pub(super) fn flat(&self) -> Flat {
        self.names.iter().map(|(path, name)| (path.clone(), self.inodes[name.inode].clone())).collect()
    }

    /// The names of each inode.
    pub(super) fn groups(&self) -> BTreeSet<BTreeSet<Names>> {
        group(self.names.iter().map(|(path, name)| (path.clone(), name.inode)))
    }
}

fn split(path: &EntryPath) -> Names {
    path.components().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn group<K: Ord>(names: impl Iterator<Item = (Names, K)>) -> BTreeSet<BTreeSet<Names>> {
    let mut groups: BTreeMap<K, BTreeSet<Names>> = BTreeMap::new();
    for (path, inode) in names {
        groups.entry(inode).or_default().insert(path);
    }
    groups.into_values().collect()
}

/// Every path of a tree with its node.
pub(super) fn walk(tree: &Tree) -> BTreeMap<Names, NodeId> {
    let mut paths = BTreeMap::new();
    let mut todo = vec![(Names::new(), Tree::ROOT)];
    while let Some((path, id)) = todo.pop() {
        for (name, child) in tree.children(id).into_iter().flatten() {
            let below = [path.as_slice(), &[String::from_utf8_lossy(name).into_owned()]].concat();
            todo.push((below, *child));
        }
        paths.insert(path, id);
    }
    paths
}

pub(super) fn flat(tree: &Tree) -> Flat {
    let show = |id| {
        let node = tree.node(id).unwrap();
        let content = match &node.content {
            Content::Directory(_) => "dir".into(),
            Content::File { size, extents } => {
                format!("file {} {size}", extents.first().map_or(usize::MAX, |extent| usize::from(extent.device)))
            }
            Content::Symlink(target) => format!("link {}", String::from_utf8_lossy(target)),
            Content::CharDevice { major, minor } => format!("char {major}:{minor}"),
            Content::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            Content::Fifo => "fifo".into(),
            Content::Socket => "socket".into(),
        };
        (node.attributes.mode, content)
    };
    walk(tree).into_iter().map(|(path, id)| (path, show(id))).collect()
}

pub(super) fn groups(tree: &Tree) -> BTreeSet<BTreeSet<Names>> {
    group(walk(tree).into_iter())
}
