//! A download under way, in a directory of its own until it is whole and verified.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Cursor, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;
use imagevol_layer::LayerIndex;

use crate::claims::Claim;
use crate::content::{Content, ContentKey, Lease};
use crate::durable;
use crate::inflate::{Compression, Inflate, MAGIC_BYTES};
use crate::pipe::{self, CHUNK};
use crate::sink::{DiffId, Sink};
use crate::source::{Hashed, of_read};
use crate::store::Inner;
use crate::{Result, StoreError};

/// Version of an ingest directory; one of another version is deleted at start.
pub(crate) const FORMAT: &str = "1";

/// How the names of downloads begin that cannot be gone on with: a decoder's state is not kept.
pub(crate) const PACKED: &str = "packed-";

/// Files of the store are for root only.
const FILE_MODE: u32 = 0o600;

/// What the bytes are and how they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Form {
    /// Kept as they come: a manifest, a config, a file of an artifact.
    Blob,
    /// A tar: decompressed, indexed, and kept by its diffID.
    Layer {
        /// How it comes.
        compression: Compression,
        /// What the image's configuration says of it; an artifact says nothing.
        diff_id: Option<Digest>,
    },
}

/// A download that may begin, or go on where it was left. Dropped before anything came in, it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    store: Arc<Inner>,
    digest: Digest,
    size: u64,
    form: Form,
    dir: PathBuf,
    data: PathBuf,
    file: File,
    resume_at: u64,
    /// Which registry the bytes come from.
    pub(crate) giver: Option<String>,
    /// Nobody else writes to the directory while this is held.
    _claim: Claim,
}

/// Content that is present, and kept by a lease until an image names it.
#[derive(Debug)]
pub struct Stored {
    /// Its row.
    pub content: Content,
    /// Keeps it; names it.
    pub lease: Lease,
}

/// Bytes that are all here and are what was promised.
struct Received {
    key: ContentKey,
    size: u64,
    index: Option<LayerIndex>,
}

/// Whether what is on disk can be trusted after a step has failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Sound,
    Lost,
}

// === impl Form ===

impl Form {
    /// Bytes that are stored as they come can be gone on with.
    fn resumes(&self) -> bool {
        matches!(self, Self::Blob | Self::Layer { compression: Compression::None, .. })
    }

    /// How much of a file of `length` bytes can be gone on with, of a download of `size`.
    pub(crate) fn usable(&self, length: u64, size: u64) -> u64 {
        match length {
            _ if !self.resumes() => 0,
            length if length <= size => length,
            // All bytes and their padding: the last try was killed just before the rename.
            length if length == durable::padded(size) => size,
            _ => 0,
        }
    }

    fn compression(&self) -> Compression {
        match self {
            Self::Blob => Compression::None,
            Self::Layer { compression, .. } => *compression,
        }
    }

    /// The directory of a download: the same blob may be wanted as a file and as a layer.
    pub(crate) fn dir_name(&self, digest: &Digest) -> String {
        let kind = match self {
            Self::Blob => "blob-",
            Self::Layer { .. } if self.resumes() => "tar-",
            Self::Layer { .. } => PACKED,
        };
        format!("{kind}{}-{}", digest.algorithm().as_str(), digest.hex())
    }
}

// === impl Ingest ===

impl Ingest {
    /// Waits for another that writes to the same download.
    pub(crate) fn begin(store: Arc<Inner>, digest: &Digest, size: u64, form: Form) -> Result<Self> {
        let name = form.dir_name(digest);
        let claim = store.claims.wait_for(&name);
        let dir = store.layout.ingest(&name);
        durable::make_dir(&dir)?;
        // Killed before this is whole: a download of no known version, deleted at start.
        let format = dir.join("format");
        std::fs::write(&format, FORMAT).map_err(StoreError::io("write", &format))?;
        let data = dir.join("data");
        let file = open_data(&data)?;
        let mut ingest = Self {
            store,
            digest: digest.clone(),
            size,
            form,
            dir,
            data,
            file,
            resume_at: 0,
            giver: None,
            _claim: claim,
        };
        ingest.resume_at = ingest.usable_prefix()?;
        Ok(ingest)
    }

    /// How many bytes are here already: the source must begin after them.
    pub fn offset(&self) -> u64 {
        self.resume_at
    }

    fn usable_prefix(&self) -> Result<u64> {
        let length = self.file.metadata().map_err(StoreError::io("stat", &self.data))?.len();
        let usable = self.form.usable(length, self.size);
        self.file.set_len(usable).map_err(StoreError::io("truncate", &self.data))?;
        Ok(usable)
    }

    /// Reads the source to its end, verifies everything, and makes the content visible.
    ///
    /// When the source fails, what came in stays for the next try if that can go on from it; else, and when the disk is full, it is
    /// deleted.
    pub fn run(self, source: impl BufRead) -> Result<Stored> {
        let received = self.receive(source).map_err(|error| self.fail(error, Progress::Sound))?;
        // After a failed sync nobody knows what is on disk, and a second sync would say that all is well (fsync(2)).
        self.seal(&received).map_err(|error| self.fail(error, Progress::Lost))?;
        self.publish(&received).map_err(|error| self.fail(error, Progress::Sound))
    }

    fn receive(&self, mut source: impl BufRead) -> Result<Received> {
        let compression = self.form.compression();
        let head = head(compression, &mut source).map_err(|source| StoreError::Source { at: 0, source })?;
        let prefix = BufReader::with_capacity(CHUNK, self.prefix()?);
        let bytes = prefix.chain(Cursor::new(head).chain(source));
        let hashed = Hashed::new(self.digest.algorithm(), bytes, self.size);
        (&self.file).seek(SeekFrom::Start(self.resume_at)).map_err(StoreError::io("seek", &self.data))?;
        let mut sink = self.sink();
        inflate_into(&mut sink, compression, hashed, self.resume_at, (&self.digest, self.size))?;
        self.received(sink)
    }

    fn sink(&self) -> Sink<'_> {
        match &self.form {
            Form::Blob => Sink::blob(&self.file, &self.data).looking(&self.store),
            Form::Layer { compression, diff_id } => {
                let algorithm = diff_id.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
                let diff_id = self.diff_id(*compression, algorithm);
                Sink::layer(&self.file, &self.data, diff_id, self.store.limits).looking(&self.store)
            }
        }
    }

    fn diff_id(&self, compression: Compression, algorithm: Algorithm) -> DiffId {
        match compression {
            Compression::None if algorithm == self.digest.algorithm() => DiffId::Blob(self.digest.clone()),
            Compression::None | Compression::Gzip | Compression::Zstd | Compression::Detect => {
                DiffId::Hashed(Digester::new(algorithm))
            }
        }
    }

    fn received(&self, sink: Sink<'_>) -> Result<Received> {
        let (size, layer) = sink.finish()?;
        let Some(layer) = layer else {
            return Ok(Received { key: ContentKey::Blob(self.digest.clone()), size, index: None });
        };
        check_diff_id(&self.form, &layer.diff_id)?;
        Ok(Received { key: ContentKey::Layer(layer.diff_id), size, index: Some(layer.index) })
    }

    /// Killed here: all bytes are there, the padding perhaps; the next try takes it off and hashes them again.
    fn seal(&self, received: &Received) -> Result<()> {
        durable::pad_and_sync(&self.file, received.size, &self.data)
    }

    fn publish(&self, received: &Received) -> Result<Stored> {
        // Taken before anything is visible: nobody deletes a file whose row is about to be written.
        let lease = self.store.leases.take(&received.key);
        let content = match self.store.whole(&received.key)? {
            // The same layer in another compression. The file that is there may be mounted.
            Some(known) => known,
            None => self.make_visible(received)?,
        };
        let stored = self.store.add_content(lease, &self.digest, content.given(self.giver.as_deref()))?;
        // Killed before this: a download without bytes, deleted when it is old.
        self.discard();
        Ok(stored)
    }

    fn make_visible(&self, received: &Received) -> Result<Content> {
        let layout = &self.store.layout;
        let mut content = Content::of(received.size);
        if let (ContentKey::Layer(diff_id), Some(index)) = (&received.key, &received.index) {
            let index = index.to_bytes();
            content.index = Some(Digester::sha256(&index));
            content.index_bytes = index.len() as u64;
            // Killed after this: an index that no row names, deleted at start.
            durable::write_file(&layout.layer_index(diff_id), &index, content.index_bytes)?;
        }
        // Killed after this: a file that no row names, deleted at start.
        durable::publish(&self.data, &layout.content(&received.key))?;
        Ok(content)
    }

    /// Clears up after a failure, and says whose it was. A full disk gets back what the download has taken: kept for the next try, it
    /// would keep the disk full for all others until then.
    fn fail(&self, error: StoreError, progress: Progress) -> StoreError {
        if !self.form.resumes() || progress == Progress::Lost || error.is_content() || error.is_no_space() {
            self.discard();
        }
        match error {
            error if self.resume_at > 0 && error.is_content() => {
                StoreError::Resumed { at: self.resume_at, source: Box::new(error) }
            }
            error => error,
        }
    }

    /// Killed here: a part of the directory, gone on with or deleted like the whole.
    fn discard(&self) {
        if let Err(error) = durable::remove_dir(&self.dir) {
            // Truncated by the next try, or deleted when it is old.
            tracing::warn!(%error, dir = %self.dir.display(), "a download's directory stays");
        }
    }

    /// What an earlier try left, read again for its hash.
    fn prefix(&self) -> Result<std::io::Take<File>> {
        let file = File::open(&self.data).map_err(StoreError::io("open", &self.data))?;
        Ok(file.take(self.resume_at))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.file.metadata().is_ok_and(|data| data.len() == 0) {
            self.discard();
        }
    }
}

fn open_data(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(FILE_MODE);
    options.open(path).map_err(StoreError::io("open", path))
}

/// As many bytes as tell the compression, where they must: the first chunk of a source may be shorter.
fn head(compression: Compression, source: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let wanted = if compression == Compression::Detect { MAGIC_BYTES } else { 0 };
    let mut head = Vec::new();
    source.take(wanted).read_to_end(&mut head)?;
    Ok(head)
}

fn check_diff_id(form: &Form, actual: &Digest) -> Result<()> {
    match form {
        Form::Layer { diff_id: Some(expected), .. } if expected != actual => {
            Err(StoreError::DiffIdMismatch { expected: expected.clone(), actual: actual.clone() })
        }
        Form::Blob | Form::Layer { .. } => Ok(()),
    }
}

/// Reads the source through the decoder into the sink, the first `on_disk` bytes of which are there already, and verifies it.
fn inflate_into<R: BufRead>(
    sink: &mut Sink<'_>,
    compression: Compression,
    source: Hashed<R>,
    on_disk: u64,
    (digest, size): (&Digest, u64),
) -> Result<()> {
    let failed = |error| of_read(error, compression.as_str(), size);
    let mut inflate = Inflate::new(compression, source).map_err(failed)?;
    let pumped = pipe::pump(&mut inflate, sink, on_disk, failed);
    match (pumped, inflate.into_source()) {
        (Err(error), Some(source)) if error.is_content() => Err(blame(error, source.verify(digest))),
        (Err(error), _) => Err(error),
        (Ok(()), Some(source)) => source.verify(digest),
        (Ok(()), None) => Err(failed(std::io::Error::other("decoder lost its source"))),
    }
}

/// Where the bytes are not those that were promised, they are to blame, whatever they were taken for: another host may have the
/// right ones.
fn blame(error: StoreError, verified: Result<()>) -> StoreError {
    match verified {
        Err(mismatch @ (StoreError::DigestMismatch { .. } | StoreError::SizeMismatch { .. })) => mismatch,
        Ok(()) | Err(_) => error,
    }
}
