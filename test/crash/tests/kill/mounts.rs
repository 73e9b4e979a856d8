//! The mount table, and what is read through a mount.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use imagevol_base::Digester;

use crate::catalog::Tree;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Another mount at the same place has another one.
    pub(crate) id: u64,
    /// `major:minor` of its superblock.
    pub(crate) device: String,
}

/// The mounts below a directory, in this thread's namespace. Two at one place are a failure.
pub(crate) fn table(below: &Path) -> BTreeMap<PathBuf, Mount> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let mut mounts = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let at = PathBuf::from(fields[4]);
        if at.starts_with(below) {
            let mount = Mount { id: fields[0].parse().unwrap(), device: fields[2].to_owned() };
            assert!(mounts.insert(at, mount).is_none(), "two mounts at one place:\n{text}");
        }
    }
    mounts
}

/// The regular files below a directory. None may be reached over a mount in it, since there are none.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                tree.insert(path, Digester::sha256(&std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    tree
}
