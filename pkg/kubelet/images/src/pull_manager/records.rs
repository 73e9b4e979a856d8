//! The two folders of record files. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use imagevol_api::records::{self, ImagePullIntent, ImagePulledRecord, MAX_RECORD_BYTES, Record, file_name};

/// Folder of the records below the state directory (Kubernetes, `pkg/kubelet/kubelet.go`).
const MANAGER_DIR: &str = "image_manager";
/// Folder of intents (Kubernetes, `pkg/kubelet/images/pullmanager/fs_pullrecords.go`, like all names here).
const PULLING_DIR: &str = "pulling";
/// Folder of pulled records.
const PULLED_DIR: &str = "pulled";
/// What the name of every record begins with.
const RECORD_PREFIX: &str = "sha256-";
/// What the name of a half-written record ends with.
const TEMPORARY_SUFFIX: &str = ".tmp";
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Why a record could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The folders could not be made ready.
    #[error("failed to prepare {}", .path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record could not be written.
    #[error("failed to write record")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// A record, or the list of them, could not be read.
    #[error("failed to read record")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// A record could not be deleted.
    #[error("failed to delete record")]
    Delete {
        /// Why.
        source: io::Error,
    },
    /// A record could not be put into its form.
    #[error("failed to encode record")]
    Encode {
        /// Why.
        source: records::RecordError,
    },
}

/// What there is in place of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Stored {
    /// No file.
    Absent,
    /// A file that cannot be read, or is no such record: that it is there still counts.
    Unreadable,
    /// The record.
    Present(ImagePulledRecord),
}

/// The folders.
#[derive(Debug)]
pub(crate) struct Records {
    pulling: PathBuf,
    pulled: PathBuf,
}

// === impl Records ===

impl Records {
    /// The folders below `state_dir`, made if they are absent, and without what a killed process left half-written.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, RecordError> {
        let root = state_dir.join(MANAGER_DIR);
        let records = Self { pulling: root.join(PULLING_DIR), pulled: root.join(PULLED_DIR) };
        for path in [&root, &records.pulling, &records.pulled] {
            prepare(path).map_err(|source| RecordError::Directory { path: path.clone(), source })?;
        }
        Ok(records)
    }

    pub(crate) fn write_intent(&self, image: &str) -> Result<(), RecordError> {
        write(&self.pulling, &ImagePullIntent::new(image))
    }

    pub(crate) fn delete_intent(&self, image: &str) -> Result<(), RecordError> {
        delete(&self.pulling.join(file_name(image)))
    }

    /// The images of all intents. Files that are no intents are logged and left.
    pub(crate) fn intents(&self) -> Result<Vec<String>, RecordError> {
        Ok(list(&self.pulling)?.iter().filter_map(|path| readable::<ImagePullIntent>(path)).map(|i| i.image).collect())
    }

    pub(crate) fn write_pulled(&self, record: &ImagePulledRecord) -> Result<(), RecordError> {
        write(&self.pulled, record)
    }

    pub(crate) fn delete_pulled(&self, image_ref: &str) -> Result<(), RecordError> {
        delete(&self.pulled.join(file_name(image_ref)))
    }

    pub(crate) fn pulled(&self, image_ref: &str) -> Stored {
        let path = self.pulled.join(file_name(image_ref));
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Stored::Absent,
            // Anything else is there, readable or not.
            Ok(_) | Err(_) => match readable::<ImagePulledRecord>(&path) {
                Some(record) if record.image_ref == image_ref => Stored::Present(record),
                Some(_) | None => Stored::Unreadable,
            },
        }
    }

    /// All pulled records. Files that are no records are logged and left.
    pub(crate) fn all_pulled(&self) -> Result<Vec<ImagePulledRecord>, RecordError> {
        Ok(list(&self.pulled)?.iter().filter_map(|path| readable(path)).collect())
    }

    pub(crate) fn count_pulled(&self) -> Result<usize, RecordError> {
        Ok(list(&self.pulled)?.len())
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    // It may have been there with another mode.
    fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write<R: Record>(dir: &Path, record: &R) -> Result<(), RecordError> {
    let bytes = record.encode().map_err(|source| RecordError::Encode { source })?;
    replace(dir, &record.file_name(), &bytes).map_err(|source| RecordError::Write { source })
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let (temporary, path) = (dir.join(format!("{name}{TEMPORARY_SUFFIX}")), dir.join(name));
    // Killed here: a temporary file, whole or not, beside the old record. The next start deletes it (`prepare`), the next
    // write of this record overwrites it.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // Killed between these two: the old record or the new one, each whole. Losing power may bring the old one back.
    fs::rename(&temporary, &path)?;
    File::open(dir)?.sync_all()
}

/// Absent is as good as deleted.
fn delete(path: &Path) -> Result<(), RecordError> {
    // A deletion that power loss undoes leaves an intent or a record too many: who meets it has to prove his right once more.
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordError::Delete { source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let failed = |source| RecordError::Read { source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(RECORD_PREFIX.as_bytes()) && !name.ends_with(TEMPORARY_SUFFIX.as_bytes()) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// The record in a file; `None`, and a line in the log, if there is none.
fn readable<R: Record>(path: &Path) -> Option<R> {
    let record = read(path)
        .map_err(|error| crate::text::with_causes(&error))
        .and_then(|bytes| R::decode(&bytes).map_err(|error| crate::text::with_causes(&error)));
    record.inspect_err(|error| tracing::warn!(path = %path.display(), error, "pull record is not used")).ok()
}

/// Looks at the file's type first: opening a FIFO would wait for a writer.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more than a record may have, so that the decoder sees that it is too long.
    let limit = u64::try_from(MAX_RECORD_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use imagevol_api::metav1::Time;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn record(image_ref: &str) -> ImagePulledRecord {
        ImagePulledRecord::new(image_ref, Time(jiff::Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn lies_on_disk_as_the_kubelet_has_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("image_manager")).unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.write_intent("busybox").unwrap();
        records.write_pulled(&record("sha256:aa")).unwrap();
        let root = dir.path().join("image_manager");
        // printf busybox | sha256sum
        let intent = "sha256-9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91";
        assert_eq!(names(&root.join("pulling")), [intent]);
        for dir in [&root, &root.join("pulling"), &root.join("pulled")] {
            assert_eq!(mode(dir), 0o700);
        }
        assert_eq!(mode(&root.join("pulled").join(file_name("sha256:aa"))), 0o600);
        assert_eq!((records.intents().unwrap(), records.count_pulled().unwrap()), (vec!["busybox".to_owned()], 1));
        assert_eq!(records.pulled("sha256:aa"), Stored::Present(record("sha256:aa")));
        assert_eq!(records.pulled("sha256:bb"), Stored::Absent);
    }

    #[test]
    fn deletes_what_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.write_intent("a").unwrap();
        records.write_intent("a").unwrap();
        records.delete_intent("a").unwrap();
        records.delete_intent("a").unwrap();
        records.delete_pulled("b").unwrap();
        assert!(records.intents().unwrap().is_empty());
    }

    #[test]
    fn a_start_sweeps_what_was_half_written_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.write_intent("a").unwrap();
        let pulling = dir.path().join("image_manager/pulling");
        fs::write(pulling.join("sha256-00.tmp"), "{\"kind").unwrap();
        fs::write(pulling.join("README"), "").unwrap();
        Records::open(dir.path()).unwrap();
        assert_eq!(names(&pulling), ["README".to_owned(), file_name("a")]);
    }

    #[test]
    fn what_is_no_record_is_unreadable_not_absent() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let pulled = dir.path().join("image_manager/pulled");
        fs::write(pulled.join(file_name("broken")), "{").unwrap();
        fs::write(pulled.join(file_name("other")), record("another").encode().unwrap()).unwrap();
        fs::write(pulled.join(file_name("long")), vec![b' '; MAX_RECORD_BYTES + 1]).unwrap();
        fs::create_dir(pulled.join(file_name("dir"))).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", pulled.join(file_name("link"))).unwrap();
        for image_ref in ["broken", "other", "long", "dir", "link"] {
            assert_eq!(records.pulled(image_ref), Stored::Unreadable, "{image_ref}");
        }
        assert_eq!(records.all_pulled().unwrap().len(), 1, "the one that is a record of another image");
    }

    #[test]
    fn says_what_it_could_not_do() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        fs::remove_dir(dir.path().join("image_manager/pulling")).unwrap();
        assert!(matches!(records.write_intent("a"), Err(RecordError::Write { .. })));
        assert!(matches!(records.intents(), Err(RecordError::Read { .. })));
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(matches!(Records::open(&dir.path().join("file")), Err(RecordError::Directory { .. })));
    }
}
