//! Finding the directory that a path means, inside the image.

use std::borrow::Cow;

use imagevol_erofs::{Content, NodeId, Tree};

use super::{MAX_DEPTH, MAX_SYMLINKS, Merger, directory, implicit};
use crate::error::{LayerError, Result};
use crate::path::EntryPath;

/// Where a directory is, or would be.
#[derive(Debug)]
pub(crate) enum Place {
    /// Directories from the root down to the last that exists, and the names below it that do not.
    Found { above: Vec<NodeId>, missing: Vec<Vec<u8>> },
    /// Something on the way is neither a directory nor a symlink.
    NotDirectory,
}

/// How far a walk has come.
struct Walk {
    above: Vec<NodeId>,
    missing: Vec<Vec<u8>>,
    symlinks: usize,
}

/// What one name did to a walk.
enum Step<'t> {
    Went,
    Follow(&'t [u8]),
    Blocked,
}

/// The names still to go: those of the path, and on top those of symlinks met on the way.
struct Route<'p> {
    legs: Vec<(Cow<'p, [u8]>, usize)>,
}

// === impl Merger ===

impl Merger {
    /// Follows `directory`, symlinks included, from `root`, which `..` and absolute targets cannot leave. `path` is for errors.
    ///
    /// A name that does not exist is taken as a directory to be, so that `missing/..` is nothing: unpackers resolve it lexically too.
    pub(crate) fn walk(&mut self, root: NodeId, directory: &[u8], path: &EntryPath) -> Result<Place> {
        let mut route = Route { legs: vec![(Cow::Borrowed(directory), 0)] };
        let mut walk = Walk { above: vec![root], missing: Vec::new(), symlinks: 0 };
        while let Some(name) = route.next() {
            match walk.step(&self.tree, name) {
                Step::Went => {}
                Step::Follow(target) => route.legs.push((Cow::Owned(target.to_vec()), 0)),
                Step::Blocked => return Ok(Place::NotDirectory),
            }
            walk.check(path)?;
            self.pay(&route, path)?;
        }
        Ok(Place::Found { above: walk.above, missing: walk.missing })
    }

    /// Makes the missing directories of a place. `above` is then complete, the directory itself last.
    pub(crate) fn make(&mut self, above: &mut Vec<NodeId>, missing: Vec<Vec<u8>>, path: &EntryPath) -> Result<NodeId> {
        for name in missing {
            let parent = above.last().copied().unwrap_or(Tree::ROOT);
            above.push(self.place(parent, &name, directory(implicit()), path)?);
        }
        Ok(above.last().copied().unwrap_or(Tree::ROOT))
    }

    /// Counts a step through a symlink's target: the archive pays for those of paths with its own bytes, but a short name can lead
    /// through forty long targets again and again.
    fn pay(&mut self, route: &Route<'_>, path: &EntryPath) -> Result<()> {
        if route.legs.len() > 1 {
            self.symlink_steps += 1;
        }
        if self.symlink_steps > self.limits.max_symlink_steps {
            return Err(LayerError::SymlinkSteps { path: path.shown() });
        }
        Ok(())
    }
}

// === impl Walk ===

impl Walk {
    fn step<'t>(&mut self, tree: &'t Tree, name: &[u8]) -> Step<'t> {
        match name {
            b"" | b"." => Step::Went,
            b".." => self.up(),
            _ => self.down(tree, name),
        }
    }

    fn up(&mut self) -> Step<'static> {
        if self.missing.pop().is_none() && self.above.len() > 1 {
            self.above.pop();
        }
        Step::Went
    }

    fn down<'t>(&mut self, tree: &'t Tree, name: &[u8]) -> Step<'t> {
        let here = self.above.last().copied().filter(|_| self.missing.is_empty());
        let Some((id, node)) = here.and_then(|here| tree.lookup(here, name)).and_then(|id| Some((id, tree.node(id)?)))
        else {
            self.missing.push(name.to_vec());
            return Step::Went;
        };
        match &node.content {
            Content::Directory(_) => self.above.push(id),
            Content::Symlink(target) => {
                self.symlinks += 1;
                if target.starts_with(b"/") {
                    self.above.truncate(1);
                }
                return Step::Follow(target);
            }
            Content::File { .. }
            | Content::CharDevice { .. }
            | Content::BlockDevice { .. }
            | Content::Fifo
            | Content::Socket => return Step::Blocked,
        }
        Step::Went
    }

    fn check(&self, path: &EntryPath) -> Result<()> {
        if self.symlinks > MAX_SYMLINKS {
            return Err(LayerError::SymlinkLoop { path: path.shown() });
        }
        if self.above.len() + self.missing.len() > MAX_DEPTH {
            return Err(LayerError::TooDeep { path: path.shown() });
        }
        Ok(())
    }
}

// === impl Route ===

impl Route<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        while self.legs.last().is_some_and(|(names, at)| *at > names.len()) {
            self.legs.pop();
        }
        let (names, at) = self.legs.last_mut()?;
        let rest = names.get(*at..)?;
        let name = rest.split(|byte| *byte == b'/').next()?;
        *at += name.len() + 1;
        Some(name)
    }
}
