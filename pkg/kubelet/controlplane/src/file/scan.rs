//! Reads the manifest directory: every file that changed, and nothing twice. Blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::text::{one_line, shown_name};

use super::load::{Host, Loaded, load};
use super::read::{Fingerprint, ReadError, read};
use super::snapshot::{FileContent, Manifests, ObjectKey, Problem, merge};

/// Bytes of a problem's text: a parser may quote the file.
const MAX_PROBLEM: usize = 4096;

/// What is known of a manifest directory.
#[derive(Debug)]
pub(crate) struct Scanner {
    directory: PathBuf,
    host: Host,
    files: BTreeMap<OsString, KnownFile>,
    /// The directory's own problem.
    unreadable: Option<String>,
    ready: bool,
    /// Whether a file was so young that it is looked at again soon.
    young: bool,
}

/// Which changed files are known to be complete.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Complete<'a> {
    /// All: nothing better is known.
    All,
    /// These; another that changed just now may still be written.
    Only(&'a BTreeSet<OsString>),
}

#[derive(Debug)]
struct KnownFile {
    /// Safe to show.
    shown: Arc<str>,
    /// Version that was read last; `None` if it has to be read again.
    read: Option<Fingerprint>,
    /// What it held when it was last good.
    good: Vec<Loaded>,
    problem: Option<String>,
}

// === impl Scanner ===

impl Scanner {
    /// Knows nothing but what was remembered: what each file held in the last run, for files that are not good now.
    pub(crate) fn new(directory: PathBuf, host: Host, remembered: BTreeMap<OsString, Vec<Loaded>>) -> Self {
        let known = |(name, good): (OsString, Vec<Loaded>)| {
            let known = KnownFile { good, ..KnownFile::new(&name) };
            (name, known)
        };
        let files = remembered.into_iter().map(known).collect();
        Self { directory, host, files, unreadable: None, ready: false, young: false }
    }

    /// Where the files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether a file is to be looked at again soon.
    pub(crate) fn has_young_files(&self) -> bool {
        self.young
    }

    /// Looks at every file and reads those that changed. An unreadable directory changes nothing but [`Manifests::problems`].
    pub(crate) fn scan(&mut self, complete: Complete<'_>) {
        let names = match list(&self.directory) {
            Ok(names) => names,
            Err(error) => {
                self.unreadable = Some(format!("cannot read the manifest directory: {error}"));
                return;
            }
        };
        self.unreadable = None;
        self.files.retain(|name, _| names.contains(name));
        self.young = false;
        let complete = if self.ready { complete } else { Complete::All };
        for name in names {
            self.look_at(name, complete);
        }
        self.ready = true;
    }

    /// Reads one file again, because it was just written.
    pub(crate) fn reload(&mut self, name: &OsStr) {
        self.load(name.to_owned(), Timestamp::now());
    }

    /// Everything as one set.
    pub(crate) fn manifests(&self) -> Manifests {
        let mut merged = merge(self.files.values().map(|file| FileContent {
            name: Arc::clone(&file.shown),
            objects: &file.good,
            problem: file.problem.as_deref(),
        }));
        merged.problems.extend(self.unreadable.clone().map(|message| Problem { file: String::new(), message }));
        merged.ready = self.ready;
        merged
    }

    /// The files that hold an object, with all that they hold.
    pub(crate) fn holders<'a>(&'a self, key: &'a ObjectKey) -> impl Iterator<Item = (&'a OsStr, &'a [Loaded])> {
        let all = self.files.iter().filter(move |(_, file)| file.good.iter().any(|object| object.key() == *key));
        all.map(|(name, file)| (name.as_os_str(), file.good.as_slice()))
    }

    /// Whether a file is as good as what is known of it.
    pub(crate) fn is_good(&self, name: &OsStr) -> bool {
        self.files.get(name).is_some_and(|file| file.problem.is_none())
    }

    /// Who reads.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    fn look_at(&mut self, name: OsString, complete: Complete<'_>) {
        let now = Timestamp::now();
        let version = Fingerprint::of(&self.directory.join(&name)).ok();
        let known = self.files.get(&name).and_then(|known| known.read);
        if version.is_some() && version == known {
            return;
        }
        let may_grow = match complete {
            Complete::All => false,
            Complete::Only(names) => !names.contains(&name) && version.is_some_and(|version| version.is_young(now)),
        };
        if may_grow {
            self.young = true;
            return;
        }
        self.load(name, now);
    }

    /// A file that cannot be used keeps what it held: one that is half written must not tear down a pod.
    fn load(&mut self, name: OsString, now: Timestamp) {
        let path = self.directory.join(&name);
        let content = match read(&path) {
            Ok(content) => Ok(content),
            Err(ReadError::Gone) => {
                self.files.remove(&name);
                return;
            }
            Err(error) => Err(error.to_string()),
        };
        let mut known = self.files.remove(&name).unwrap_or_else(|| KnownFile::new(&name));
        // A version so young that a change could hide behind the same times is read again.
        let settled = |version: Fingerprint| Some(version).filter(|version| !version.is_young(now));
        known.read = content.as_ref().map_or_else(|_| Fingerprint::of(&path).ok(), |(version, _)| Some(*version));
        known.read = known.read.and_then(settled);
        known.take(content.and_then(|(_, bytes)| load(&bytes, &path, &self.host)));
        self.files.insert(name, known);
    }
}

// === impl KnownFile ===

impl KnownFile {
    fn new(name: &OsStr) -> Self {
        Self { shown: shown_name(name).into(), read: None, good: Vec::new(), problem: None }
    }

    fn take(&mut self, loaded: Result<Vec<Loaded>, String>) {
        match loaded {
            Ok(objects) => {
                self.good = objects.into_iter().map(|object| self.same_or(object)).collect();
                self.problem = None;
            }
            Err(problem) => self.problem = Some(one_line(&problem, MAX_PROBLEM)),
        }
    }

    /// An object that is as before stays the same value, with the time when it was first seen.
    fn same_or(&self, object: Loaded) -> Loaded {
        self.good.iter().find(|old| old.is_same_as(&object)).cloned().unwrap_or(object)
    }
}

/// Names that a kubelet would read: all but those that begin with a dot.
fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !name.as_bytes().starts_with(b".") {
            names.insert(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
