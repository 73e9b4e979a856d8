//! Holding a part against its digests, in steps: between two of them nothing is open, so that whoever checks slowly keeps nobody
//! from removing.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::{Digester, FileIdentity};
use imagevol_mount::{UncachedBuffer, UncachedFile};

use crate::content::{Content, ContentKey};
use crate::part::{Corrupt, Cure, Part, PartRow};
use crate::rows::{CONTENT, IMAGES};
use crate::store::{Inner, Store};
use crate::{Result, StoreError, durable};

/// Bytes of one step: enough that calls do not count, and few enough that nobody waits for them.
const STEP: usize = 1 << 20;

/// A check of one part under way.
#[derive(Debug)]
pub struct Check {
    store: Arc<Inner>,
    part: Part,
    row: PartRow,
    /// What is still to be read, the next one last.
    files: Vec<Expected>,
    /// How far the next one has come.
    progress: Option<Progress>,
    buffer: UncachedBuffer,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// So many bytes were read, and there is more.
    Some(u64),
    /// This was all; what is wrong, if anything is.
    All(Option<Corrupt>),
}

/// A file, and what it must be.
#[derive(Debug)]
struct Expected {
    what: &'static str,
    path: PathBuf,
    length: u64,
    /// Bytes without padding: those that the digest is of.
    size: u64,
    digest: Option<Digest>,
}

#[derive(Debug)]
struct Progress {
    identity: FileIdentity,
    digester: Digester,
    at: u64,
}

/// What is wrong, and what helps.
struct Finding(String, Cure);

/// How one read of a file went.
enum Read {
    Some(u64),
    Whole(u64),
    Wrong(Finding),
}

// === impl Store ===

impl Store {
    /// Every part that there is, in order.
    pub fn parts(&self) -> Result<Vec<Part>> {
        self.rows().read(|snapshot| {
            let content = snapshot.keys(CONTENT)?.into_iter();
            let mut parts: Vec<Part> = content.filter_map(|key| Some(Part::Content(key.parse().ok()?))).collect();
            let images = snapshot.keys(IMAGES)?.into_iter();
            parts.extend(images.filter_map(|manifest| Some(Part::Image(manifest.parse().ok()?))));
            parts.sort();
            Ok(parts)
        })
    }

    /// Begins to hold a part against its row and its digests; `None` if it is not there (any more).
    pub fn check(&self, part: &Part) -> Result<Option<Check>> {
        let Some(row) = self.row_of(part)? else { return Ok(None) };
        let mut files = self.inner.expected(part, &row);
        files.reverse();
        let buffer = UncachedBuffer::new(STEP);
        Ok(Some(Check { store: Arc::clone(&self.inner), part: part.clone(), row, files, progress: None, buffer }))
    }

    pub(crate) fn row_of(&self, part: &Part) -> Result<Option<PartRow>> {
        self.inner.row_of(part)
    }
}

// === impl Inner ===

impl Inner {
    fn row_of(&self, part: &Part) -> Result<Option<PartRow>> {
        Ok(match part {
            Part::Content(key) => self.rows.get(CONTENT, &key.to_string())?.map(PartRow::Content),
            Part::Image(manifest) => {
                self.rows.get(IMAGES, &manifest.to_string())?.map(|image| PartRow::Image(Box::new(image)))
            }
        })
    }

    fn expected(&self, part: &Part, row: &PartRow) -> Vec<Expected> {
        match (part, row) {
            (Part::Content(key), PartRow::Content(content)) => self.expected_of_content(key, content),
            (Part::Image(manifest), PartRow::Image(image)) => vec![Expected {
                what: "metadata file",
                path: self.layout.image(manifest),
                length: image.index_bytes,
                size: image.index_bytes,
                digest: image.index_digest.clone(),
            }],
            // A row is read for its part.
            (Part::Content(_), PartRow::Image(_)) | (Part::Image(_), PartRow::Content(_)) => Vec::new(),
        }
    }

    fn expected_of_content(&self, key: &ContentKey, content: &Content) -> Vec<Expected> {
        let mut files = vec![Expected {
            what: "content",
            path: self.layout.content(key),
            length: durable::padded(content.size),
            size: content.size,
            digest: Some(key.digest().clone()),
        }];
        if let ContentKey::Layer(diff_id) = key {
            files.push(Expected {
                what: "index",
                path: self.layout.layer_index(diff_id),
                length: content.index_bytes,
                size: content.index_bytes,
                digest: content.index.clone(),
            });
        }
        files
    }
}

// === impl Check ===

impl Check {
    /// Reads on, past the page cache: what counts is what the disk holds. Blocks for a moment.
    pub fn step(&mut self) -> Result<Checked> {
        let Some(expected) = self.files.pop() else { return self.last() };
        // Whoever wants to know whether a mount uses the file waits for this step, and not for the whole check.
        let store = Arc::clone(&self.store);
        let _reading = store.reading();
        match expected.read(&mut self.progress, &mut self.buffer)? {
            Read::Some(bytes) => {
                self.files.push(expected);
                Ok(Checked::Some(bytes))
            }
            Read::Whole(bytes) => {
                self.progress = None;
                Ok(Checked::Some(bytes))
            }
            Read::Wrong(finding) => self.wrong(finding),
        }
    }

    /// All steps at once; the bytes that were read, and what is wrong.
    pub fn run(mut self) -> Result<(u64, Option<Corrupt>)> {
        let mut bytes = 0;
        loop {
            match self.step()? {
                Checked::Some(more) => bytes += more,
                Checked::All(corrupt) => return Ok((bytes, corrupt)),
            }
        }
    }

    /// After the bytes, what they say.
    fn last(&self) -> Result<Checked> {
        let (Part::Image(manifest), PartRow::Image(image)) = (&self.part, &self.row) else {
            return Ok(Checked::All(None));
        };
        let _reading = self.store.reading();
        let path = self.store.layout.image(manifest);
        let found = File::open(&path).map(imagevol_erofs::read_devices);
        let expected = image.devices().table()?;
        match found {
            Ok(Ok(devices)) if devices == expected => Ok(Checked::All(None)),
            Ok(_) => self.wrong(Finding("its device table does not name its layers".to_owned(), Cure::Pull)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.wrong(Finding(format!("{} is missing", path.display()), Cure::Anew))
            }
            Err(error) => Err(StoreError::io("open", &path)(error)),
        }
    }

    /// A finding about a row that has changed by now is none.
    fn wrong(&self, Finding(problem, cure): Finding) -> Result<Checked> {
        let now = self.store.row_of(&self.part)?;
        let stands = now.is_some_and(|now| now.is_same(&self.row));
        let corrupt = || Corrupt { part: self.part.clone(), problem, row: self.row.clone(), cure };
        Ok(Checked::All(stands.then(corrupt)))
    }
}

// === impl Expected ===

impl Expected {
    fn read(&self, progress: &mut Option<Progress>, buffer: &mut UncachedBuffer) -> Result<Read> {
        let opened = UncachedFile::open(&self.path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(self.missing()),
            opened => opened.map_err(StoreError::io("open", &self.path))?,
        };
        let identity =
            file.file().metadata().map(|file| FileIdentity::from(&file)).map_err(StoreError::io("stat", &self.path))?;
        if identity.size() != self.length {
            let (path, actual) = (self.path.display(), identity.size());
            return Ok(wrong(format!("{path} is {actual} bytes long, expected {}", self.length)));
        }
        let algorithm = self.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let begin = || Progress { identity, digester: Digester::new(algorithm), at: 0 };
        let now = progress.get_or_insert_with(begin);
        if now.identity != identity {
            return Ok(wrong(format!("{} was written to while it was read", self.path.display())));
        }
        match file.read_at(buffer, now.at) {
            Ok(bytes) => Ok(self.take(now, bytes)),
            Err(error) if is_lost(&error) => Ok(wrong(format!("{} cannot be read: {error}", self.what))),
            Err(error) => Err(StoreError::io("read", &self.path)(error)),
        }
    }

    fn take(&self, progress: &mut Progress, bytes: &[u8]) -> Read {
        let left = usize::try_from(self.size - progress.at).unwrap_or(usize::MAX);
        let bytes = bytes.get(..left).unwrap_or(bytes);
        progress.digester.update(bytes);
        let count = bytes.len() as u64;
        progress.at += count;
        if progress.at < self.size && count > 0 {
            return Read::Some(count);
        }
        let algorithm = self.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let actual = std::mem::replace(&mut progress.digester, Digester::new(algorithm)).finish();
        match &self.digest {
            None => wrong(format!("has no digest of its {}", self.what)),
            Some(expected) if *expected != actual => {
                wrong(format!("{} is corrupt: expected {expected}, got {actual}", self.what))
            }
            Some(_) => Read::Whole(count),
        }
    }

    fn missing(&self) -> Read {
        wrong(format!("{} is missing", self.path.display()))
    }
}

fn wrong(problem: String) -> Read {
    Read::Wrong(Finding(problem, Cure::Anew))
}

/// Whether the bytes are lost, and not the call: the disk's error, or a file system's own checksum that is wrong (`EBADMSG`, `EUCLEAN`,
/// `EILSEQ`: the names under which ext4, XFS and btrfs say so).
fn is_lost(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    const EBADMSG: i32 = 74;
    const EILSEQ: i32 = 84;
    const EUCLEAN: i32 = 117;
    matches!(error.raw_os_error(), Some(EIO | EBADMSG | EILSEQ | EUCLEAN))
}

/// The length that a file must have.
pub(crate) fn check_length(path: &Path, expected: u64) -> Result<Option<String>> {
    Ok(match durable::length(path)? {
        None => Some(format!("{} is missing", path.display())),
        Some(length) if length != expected => {
            Some(format!("{} is {length} bytes long, expected {expected}", path.display()))
        }
        Some(_) => None,
    })
}
