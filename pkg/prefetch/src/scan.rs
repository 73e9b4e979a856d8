//! Reads the directory of lists. Blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use imagevol_api::names::PrefetchName;
use imagevol_api::prefetch::{CheckedList, MAX_BYTES, PrefetchError};

use crate::item::{Completeness, Item, Lists};

/// The files that are read, as those of manifests.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// A file that changed so recently, and of which nobody said that it is complete, may still be written.
const SETTLE: Duration = Duration::from_secs(1);
/// Characters of a problem's text: a parser may quote the file.
const MAX_PROBLEM: usize = 2048;

/// What is known of the directory.
#[derive(Debug)]
pub(crate) struct Scanner {
    directory: PathBuf,
    files: BTreeMap<OsString, KnownFile>,
    unreadable: Option<String>,
    ready: bool,
    young: bool,
}

/// Which changed files are known to be complete.
#[derive(Debug)]
pub(crate) enum Complete {
    /// All: nothing better is known.
    All,
    /// These.
    Only(BTreeSet<OsString>),
}

#[derive(Debug, Default)]
struct KnownFile {
    /// What it held when it was last good.
    good: Option<Vec<CheckedList>>,
    problem: Option<String>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read file")]
    Read(#[source] io::Error),
    #[error("not a regular file")]
    NotAFile,
    #[error("file is no UTF-8")]
    Encoding(#[source] std::string::FromUtf8Error),
    #[error(transparent)]
    Content(#[from] PrefetchError),
}

// === impl Scanner ===

impl Scanner {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, files: BTreeMap::new(), unreadable: None, ready: false, young: false }
    }

    /// Reads every file. A directory that is not there holds no lists; one that cannot be read changes nothing.
    pub(crate) fn scan(&mut self, complete: &Complete) {
        let names = match list(&self.directory) {
            Ok(names) => names,
            Err(error) => {
                self.unreadable = Some(format!("cannot read directory {}: {error}", self.directory.display()));
                return;
            }
        };
        self.unreadable = None;
        self.young = false;
        self.files.retain(|name, _| names.contains(name));
        for name in names {
            self.look_at(name, complete);
        }
        self.ready = true;
    }

    /// Whether a file is to be looked at again soon.
    pub(crate) fn has_young_files(&self) -> bool {
        self.young
    }

    /// All files together. Of two lists of one name the first counts, by the names of their files.
    pub(crate) fn lists(&self) -> Lists {
        let mut lists = Lists::default();
        let mut owners: BTreeMap<&PrefetchName, &OsStr> = BTreeMap::new();
        for (file, known) in &self.files {
            lists.problems.extend(known.problem.iter().map(|problem| told(file, problem)));
            for list in known.good.iter().flatten() {
                if let Some(owner) = owners.get(&list.name) {
                    let owner = owner.to_string_lossy();
                    let problem = format!("ImagePrefetch {} is already defined in {owner}", list.name);
                    lists.problems.push(told(file, &problem));
                    continue;
                }
                owners.insert(&list.name, file);
                lists.items.extend(Item::of(list));
            }
        }
        lists.problems.extend(self.unreadable.clone());
        if self.ready && self.files.values().all(|file| file.good.is_some()) {
            lists.complete = Completeness::Complete;
        }
        lists
    }

    fn look_at(&mut self, name: OsString, complete: &Complete) {
        let path = self.directory.join(&name);
        let may_grow = match complete {
            Complete::All => false,
            Complete::Only(names) => !names.contains(&name) && is_young(&path),
        };
        let known = self.files.entry(name).or_default();
        if may_grow {
            self.young = true;
            return;
        }
        match load(&path) {
            Ok(lists) => *known = KnownFile { good: Some(lists), problem: None },
            Err(error) => known.problem = Some(with_causes(&error)),
        }
    }
}

/// Names that end as lists do and do not begin with a dot.
fn list(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name();
        let extension = Path::new(&name).extension().and_then(OsStr::to_str);
        if extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
            && !name.as_encoded_bytes().starts_with(b".")
        {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The lists of a file. Links are followed: the files of a mounted ConfigMap are links.
fn load(path: &Path) -> Result<Vec<CheckedList>, FileError> {
    // Looked at before it is opened: opening a fifo waits.
    if !path.metadata().map_err(FileError::Read)?.is_file() {
        return Err(FileError::NotAFile);
    }
    let file = File::open(path).map_err(FileError::Read)?;
    // One byte more than allowed, so that a file that is too long is found out.
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(FileError::Read)?;
    let text = String::from_utf8(bytes).map_err(FileError::Encoding)?;
    Ok(CheckedList::parse_file(&text)?)
}

/// Whether a file has just changed; one whose time lies ahead, as after a clock was set back, is none.
fn is_young(path: &Path) -> bool {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age < SETTLE))
}

fn told(file: &OsStr, problem: &str) -> String {
    format!("{}: {problem}", file.to_string_lossy())
}

/// The error and its causes on one line, of bounded length.
fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_PROBLEM).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn list(name: &str, references: &[&str]) -> String {
        let images: Vec<_> = references.iter().map(|reference| format!("{{reference: '{reference}'}}")).collect();
        let images = images.join(", ");
        format!(
            "apiVersion: imagevol.dev/v1alpha1\nkind: ImagePrefetch\nmetadata: {{name: {name}}}\nspec: {{images: [{images}]}}\n"
        )
    }

    fn written(lists: &Lists) -> Vec<String> {
        lists.items.iter().map(|item| format!("{}/{}", item.key.list, item.image.written)).collect()
    }

    #[test]
    fn files_make_lists() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path().to_owned());
        assert_eq!(scanner.lists().complete, Completeness::Partial);
        scanner.scan(&Complete::All);
        assert_eq!((scanner.lists().complete, scanner.lists().items.len()), (Completeness::Complete, 0));
        fs::write(dir.path().join("b.yaml"), list("b", &["b:1", "b:2"])).unwrap();
        fs::write(dir.path().join("a.json"), list("a", &["a:1"])).unwrap();
        for other in [".hidden.yaml", "notes.txt", "yaml"] {
            fs::write(dir.path().join(other), "no list").unwrap();
        }
        scanner.scan(&Complete::All);
        assert_eq!(written(&scanner.lists()), ["a/a:1", "b/b:1", "b/b:2"]);
        assert_eq!(scanner.lists().problems, Vec::<String>::new());
        fs::remove_file(dir.path().join("b.yaml")).unwrap();
        scanner.scan(&Complete::All);
        assert_eq!(written(&scanner.lists()), ["a/a:1"]);
    }

    #[test]
    fn a_directory_that_is_not_there_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path().join("none"));
        scanner.scan(&Complete::All);
        assert_eq!(scanner.lists(), Lists { complete: Completeness::Complete, ..Lists::default() });
    }

    #[test]
    fn a_directory_that_cannot_be_read_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("lists");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.yaml"), list("a", &["a:1"])).unwrap();
        let mut scanner = Scanner::new(inner.clone());
        scanner.scan(&Complete::All);
        fs::rename(&inner, dir.path().join("away")).unwrap();
        fs::write(&inner, "a file").unwrap();
        scanner.scan(&Complete::All);
        let lists = scanner.lists();
        assert_eq!((written(&lists).len(), lists.complete), (1, Completeness::Complete));
        assert!(lists.problems[0].starts_with("cannot read directory "), "{:?}", lists.problems);
    }

    #[test]
    fn a_bad_file_keeps_what_it_held_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path().to_owned());
        fs::write(dir.path().join("a.yaml"), list("a", &["a:1"])).unwrap();
        scanner.scan(&Complete::All);
        fs::write(dir.path().join("a.yaml"), list("a", &["a:1", "A:2"])).unwrap();
        scanner.scan(&Complete::All);
        let lists = scanner.lists();
        assert_eq!((written(&lists), lists.complete), (vec!["a/a:1".to_owned()], Completeness::Complete));
        let expected = "a.yaml: ImagePrefetch \"a\" is invalid: spec.images[1].reference: Invalid value: \"A:2\": invalid reference format: \
             repository name (library/A) must be lowercase";
        assert_eq!(lists.problems, [expected]);
        fs::write(dir.path().join("a.yaml"), list("a", &["a:2"])).unwrap();
        scanner.scan(&Complete::All);
        assert_eq!((written(&scanner.lists()), scanner.lists().problems.len()), (vec!["a/a:2".to_owned()], 0));
    }

    #[test]
    fn a_file_that_was_never_good_leaves_the_lists_partial() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "kind: Pod").unwrap();
        fs::create_dir(dir.path().join("b.yaml")).unwrap();
        fs::write(dir.path().join("c.yaml"), [0xff]).unwrap();
        fs::write(dir.path().join("d.yaml"), list("d", &["d:1"])).unwrap();
        let mut scanner = Scanner::new(dir.path().to_owned());
        scanner.scan(&Complete::All);
        let lists = scanner.lists();
        assert_eq!((written(&lists), lists.complete), (vec!["d/d:1".to_owned()], Completeness::Partial));
        assert_eq!(lists.problems.len(), 3, "{:?}", lists.problems);
        assert_eq!(lists.problems[1], "b.yaml: not a regular file");
    }

    #[test]
    fn of_two_lists_of_one_name_the_first_counts() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), list("x", &["a:1"])).unwrap();
        fs::write(dir.path().join("b.yaml"), list("x", &["b:1"])).unwrap();
        let mut scanner = Scanner::new(dir.path().to_owned());
        scanner.scan(&Complete::All);
        assert_eq!(written(&scanner.lists()), ["x/a:1"]);
        assert_eq!(scanner.lists().problems, ["b.yaml: ImagePrefetch x is already defined in a.yaml"]);
    }

    #[test]
    fn a_file_that_may_still_be_written_waits() {
        let dir = tempfile::tempdir().unwrap();
        let mut scanner = Scanner::new(dir.path().to_owned());
        scanner.scan(&Complete::All);
        let name = OsString::from("a.yaml");
        fs::write(dir.path().join(&name), list("a", &["a:1"])).unwrap();
        scanner.scan(&Complete::Only(BTreeSet::new()));
        assert!(scanner.has_young_files());
        assert_eq!((scanner.lists().items.len(), scanner.lists().complete), (0, Completeness::Partial));
        scanner.scan(&Complete::Only(BTreeSet::from([name])));
        assert!(!scanner.has_young_files());
        assert_eq!((scanner.lists().items.len(), scanner.lists().complete), (1, Completeness::Complete));
    }

    #[test]
    fn links_are_followed_as_a_config_map_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..data");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a.yaml"), list("a", &["a:1"])).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        let mut scanner = Scanner::new(dir.path().to_owned());
        scanner.scan(&Complete::All);
        assert_eq!(written(&scanner.lists()), ["a/a:1"]);
    }
}
