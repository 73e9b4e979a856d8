//! A directory tree as a value: everything that a container could see of it, and how two of them differ.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;

/// Differences that a failure shows; one slip often makes thousands.
const SHOWN: usize = 25;

/// Characters of one difference that it shows.
const WIDTH: usize = 500;

/// What is at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its type, and what only that type has.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Names of the inode, as the file system counts them.
    pub links: u64,
    /// The first path, in byte order, of the same inode.
    pub first_name: Vec<u8>,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A file's type, and what only that type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// SHA-256 of the content.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Its target as written.
        target: Vec<u8>,
    },
    /// A character device.
    Char(u64),
    /// A block device.
    Block(u64),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Everything below a directory, by path relative to it; the directory itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(BTreeMap<Vec<u8>, Item>);

/// What is known to differ, so that everything else must not.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    times: BTreeSet<Vec<u8>>,
}

struct Walk<'r> {
    root: &'r Path,
    items: BTreeMap<Vec<u8>, Item>,
    inodes: HashMap<(u64, u64), Vec<Vec<u8>>>,
    buffer: Vec<u8>,
}

// === impl Tree ===

impl Tree {
    /// Reads everything below `root`, without following a symlink.
    pub fn of(root: &Path) -> Self {
        let mut walk = Walk { root, items: BTreeMap::new(), inodes: HashMap::new(), buffer: vec![0; 1 << 16] };
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            if walk.visit(&path) {
                todo.extend(names(&root.join(&path)).into_iter().map(|name| path.join(name)));
            }
        }
        walk.finish()
    }

    /// How many entries there are, the root included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is not even a root.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is at a path.
    pub fn get(&self, path: impl AsRef<[u8]>) -> Option<&Item> {
        self.0.get(path.as_ref())
    }

    /// All paths, in byte order.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    /// All entries.
    pub fn items(&self) -> impl Iterator<Item = (&[u8], &Item)> {
        self.0.iter().map(|(path, item)| (path.as_slice(), item))
    }

    /// Changes every entry: for what the other side is known to do differently.
    pub fn for_each(&mut self, mut change: impl FnMut(&[u8], &mut Item)) {
        self.0.iter_mut().for_each(|(path, item)| change(path, item));
    }

    /// Leaves out the extended attributes that no image volume shows: labels and signatures belong to the node that made
    /// them, `trusted.*` to whoever mounts, and ACLs name users of another machine.
    pub fn drop_node_xattrs(&mut self) {
        let kept = |name: &[u8]| name.starts_with(b"user.") || name == b"security.capability";
        self.for_each(|_, item| item.xattrs.retain(|name, _| kept(name)));
    }

    /// Fails with the differences, path by path, unless both trees are the same but for what is allowed.
    pub fn assert_same(&self, expected: &Self, allowed: &Allowed) {
        let paths: BTreeSet<&Vec<u8>> = self.0.keys().chain(expected.0.keys()).collect();
        let differences: Vec<String> = paths
            .into_iter()
            .filter_map(|path| differ(path, expected.0.get(path), self.0.get(path), allowed))
            .collect();
        assert!(
            differences.is_empty(),
            "{} of {} paths differ, such as\n{}",
            differences.len(),
            expected.len(),
            differences.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n")
        );
    }
}

// === impl Allowed ===

impl Allowed {
    /// The times of these paths may differ.
    #[must_use]
    pub fn times<P: AsRef<[u8]>>(mut self, paths: impl IntoIterator<Item = P>) -> Self {
        self.times.extend(paths.into_iter().map(|path| path.as_ref().to_vec()));
        self
    }
}

// === impl Walk ===

impl Walk<'_> {
    /// Reads one entry; whether it is a directory.
    fn visit(&mut self, path: &Path) -> bool {
        let full = self.root.join(path);
        let metadata = full.symlink_metadata().unwrap_or_else(|error| panic!("{}: {error}", full.display()));
        let name = path.as_os_str().as_bytes().to_vec();
        self.inodes.entry((metadata.dev(), metadata.ino())).or_default().push(name.clone());
        let item = Item {
            kind: self.kind(&full, &metadata),
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            links: metadata.nlink(),
            first_name: name.clone(),
            xattrs: xattrs(&full),
        };
        self.items.insert(name, item);
        metadata.is_dir()
    }

    fn kind(&mut self, full: &Path, metadata: &Metadata) -> Kind {
        let file_type = metadata.file_type();
        match () {
            () if file_type.is_dir() => Kind::Directory,
            () if file_type.is_file() => Kind::File { size: metadata.len(), digest: self.digest(full) },
            () if file_type.is_symlink() => {
                Kind::Symlink { target: fs::read_link(full).expect("read a symlink").into_os_string().into_vec() }
            }
            () if file_type.is_char_device() => Kind::Char(metadata.rdev()),
            () if file_type.is_block_device() => Kind::Block(metadata.rdev()),
            () if file_type.is_fifo() => Kind::Fifo,
            () => Kind::Socket,
        }
    }

    fn digest(&mut self, full: &Path) -> Digest {
        let mut file = File::open(full).unwrap_or_else(|error| panic!("open {}: {error}", full.display()));
        let mut digester = Digester::new(Algorithm::Sha256);
        loop {
            let read = file.read(&mut self.buffer).unwrap_or_else(|error| panic!("read {}: {error}", full.display()));
            if read == 0 {
                return digester.finish();
            }
            digester.update(self.buffer.get(..read).unwrap_or_default());
        }
    }

    fn finish(mut self) -> Tree {
        for names in self.inodes.values() {
            let first = names.iter().min().expect("an inode has a name");
            for name in names {
                self.items.get_mut(name).expect("visited").first_name.clone_from(first);
            }
        }
        Tree(self.items)
    }
}

fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("list {}: {error}", directory.display()));
    entries.map(|entry| entry.expect("an entry").file_name()).collect()
}

fn xattrs(full: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let size = rustix::fs::llistxattr_query(full).expect("list extended attributes");
    let mut list = vec![0_u8; size];
    if size > 0 {
        rustix::fs::llistxattr(full, list.as_mut_slice()).expect("list extended attributes");
    }
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| (name.to_vec(), xattr(full, name))).collect()
}

fn xattr(full: &Path, name: &[u8]) -> Vec<u8> {
    // The kernel's XATTR_SIZE_MAX (uapi/linux/limits.h).
    let mut value = vec![0_u8; 65_536];
    let length = rustix::fs::lgetxattr(full, name, value.as_mut_slice()).expect("read an extended attribute");
    value.truncate(length);
    value
}

/// What differs at one path, in one line.
fn differ(path: &[u8], expected: Option<&Item>, actual: Option<&Item>, allowed: &Allowed) -> Option<String> {
    let shown = path.escape_ascii();
    let (expected, actual) = match (expected, actual) {
        (Some(expected), Some(actual)) => (expected, actual),
        (Some(expected), None) => return Some(format!("{shown}: missing, should be {:?}", expected.kind)),
        (None, actual) => return Some(format!("{shown}: should not be: {:?}", actual.map(|actual| &actual.kind))),
    };
    let mut fields = Vec::new();
    let mut field = |name: &str, same: bool, values: String| {
        if !same {
            fields.push(format!("{name}: {values}"));
        }
    };
    let free_time = allowed.times.contains(path);
    field("kind", expected.kind == actual.kind, format!("{:?} became {:?}", expected.kind, actual.kind));
    field("mode", expected.mode == actual.mode, format!("{:o} became {:o}", expected.mode, actual.mode));
    field("owner", expected.owner == actual.owner, format!("{:?} became {:?}", expected.owner, actual.owner));
    field(
        "mtime",
        free_time || expected.mtime == actual.mtime,
        format!("{:?} became {:?}", expected.mtime, actual.mtime),
    );
    field("links", expected.links == actual.links, format!("{} became {}", expected.links, actual.links));
    let (before, after) = (expected.first_name.escape_ascii(), actual.first_name.escape_ascii());
    field("first name", expected.first_name == actual.first_name, format!("{before} became {after}"));
    field("xattrs", expected.xattrs == actual.xattrs, xattr_names(expected, actual));
    (!fields.is_empty()).then(|| format!("{shown}: {}", fields.join("; ")).chars().take(WIDTH).collect())
}

/// The names of the extended attributes that differ, with the length of their values.
fn xattr_names(expected: &Item, actual: &Item) -> String {
    let names: BTreeSet<&Vec<u8>> = expected.xattrs.keys().chain(actual.xattrs.keys()).collect();
    let differ = names.into_iter().filter(|name| expected.xattrs.get(*name) != actual.xattrs.get(*name));
    let length = |item: &Item, name: &Vec<u8>| item.xattrs.get(name).map(Vec::len);
    let told = |name: &Vec<u8>| {
        format!("{} of {:?} bytes became {:?}", name.escape_ascii(), length(expected, name), length(actual, name))
    };
    differ.map(told).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "1").unwrap();
        fs::hard_link(dir.path().join("d/f"), dir.path().join("d/e")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("s")).unwrap();
        let tree = Tree::of(dir.path());
        (dir, tree)
    }

    #[test]
    fn reads_types_and_hard_links() {
        let (_dir, tree) = tree();
        assert_eq!(tree.paths().collect::<Vec<_>>(), [&b""[..], b"d", b"d/e", b"d/f", b"s"]);
        assert_eq!(tree.get("d/f").unwrap().first_name, b"d/e");
        assert_eq!(tree.get("d/f").unwrap().links, 2);
        assert_eq!(tree.get("s").unwrap().kind, Kind::Symlink { target: b"/nowhere".to_vec() });
    }

    #[test]
    fn equals_itself() {
        let (_dir, tree) = tree();
        tree.assert_same(&tree.clone(), &Allowed::default());
    }

    #[test]
    #[should_panic(expected = "d/e: first name")]
    fn sees_a_broken_hard_link() {
        let (_dir, tree) = tree();
        let mut other = tree.clone();
        other.for_each(|path, item| {
            if path == b"d/e" {
                item.first_name = b"d/f".to_vec();
            }
        });
        tree.assert_same(&other, &Allowed::default());
    }

    #[test]
    #[should_panic(expected = "d/f: mtime")]
    fn sees_another_nanosecond_where_it_is_not_allowed() {
        let (_dir, tree) = tree();
        let mut other = tree.clone();
        other.for_each(|_, item| item.mtime.1 = (item.mtime.1 + 1) % 1_000_000_000);
        tree.assert_same(&other, &Allowed::default().times(["", "d", "d/e", "s"]));
    }
}
