//! A download under way, in a directory of its own until it is whole and verified.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imagevol_api::oci::{Algorithm, Digest};

use crate::content::{Content, ContentKey, Lease};
use crate::durable;
use crate::inflate::{Compression, Inflate};
use crate::source::Hashed;
use crate::store::Inner;
use crate::tar_sink::{TarSink, Written};
use crate::{Result, StoreError};

/// Version of an ingest directory; one of another version is deleted at start.
pub(crate) const FORMAT: &str = "1";

/// Bytes that are taken from a decoder at once: large enough that calls do not count, small enough for the second-level cache.
const CHUNK: usize = 256 * 1024;

/// Files of the store are for root only.
const FILE_MODE: u32 = 0o600;

/// What the bytes are and how they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// A download that may begin, or go on where it was left.
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
}

/// Content that is present, and kept by a lease until an image names it.
#[derive(Debug)]
pub struct Stored {
    /// Its row.
    pub content: Content,
    /// Keeps it; names it.
    pub lease: Lease,
}

// === impl Ingest ===

impl Ingest {
    pub(crate) fn begin(store: Arc<Inner>, digest: &Digest, size: u64, form: Form) -> Result<Self> {
        let kind = if form == Form::Blob { "blob" } else { "layer" };
        let dir = store.layout.ingest(&format!("{kind}-{}-{}", digest.algorithm().as_str(), digest.hex()));
        durable::make_dir(&dir)?;
        // Killed here: an ingest directory without `format`, deleted at start.
        durable::write_file(&dir.join("format"), FORMAT.as_bytes())?;
        let data = dir.join("data");
        let file = open_data(&data)?;
        // A cancelled try may still be writing for a moment: it ends as soon as its source does.
        file.lock().map_err(StoreError::io("lock", &data))?;
        let mut ingest = Self { store, digest: digest.clone(), size, form, dir, data, file, resume_at: 0 };
        ingest.resume_at = ingest.usable_prefix()?;
        Ok(ingest)
    }

    /// How many bytes are here already: the source must begin after them.
    pub fn offset(&self) -> u64 {
        self.resume_at
    }

    /// Bytes that are stored as they come can be gone on with; a decoder's state is not kept.
    fn usable_prefix(&self) -> Result<u64> {
        let resumable = matches!(self.form, Form::Blob | Form::Layer { compression: Compression::None, .. });
        let length = self.file.metadata().map_err(StoreError::io("stat", &self.data))?.len();
        if resumable && length <= self.size {
            return Ok(length);
        }
        self.file.set_len(0).map_err(StoreError::io("truncate", &self.data))?;
        Ok(0)
    }

    /// Reads the source to its end, verifies everything, and makes the content visible.
    ///
    /// When the source fails, what came in stays for the next try; when the content is wrong, it is deleted.
    pub fn run(mut self, source: impl BufRead) -> Result<Stored> {
        let result = self.run_form(source);
        if result.as_ref().err().is_some_and(StoreError::is_content) {
            durable::remove_dir(&self.dir)?;
        }
        result
    }

    fn run_form(&mut self, source: impl BufRead) -> Result<Stored> {
        match self.form.clone() {
            Form::Blob => self.blob(source),
            Form::Layer { compression, diff_id } => self.layer(compression, diff_id.as_ref(), source),
        }
    }

    fn blob(&mut self, source: impl BufRead) -> Result<Stored> {
        let prefix = BufReader::with_capacity(CHUNK, self.prefix()?);
        let mut hashed = Hashed::new(self.digest.algorithm(), prefix.chain(source));
        self.seek_to_end_of_prefix()?;
        self.copy(&mut hashed)?;
        hashed.verify(&self.digest, self.size)?;
        durable::pad_and_sync(&self.file, self.size, &self.data)?;
        self.publish(&ContentKey::Blob(self.digest.clone()), self.size, None)
    }

    fn layer(&mut self, compression: Compression, promised: Option<&Digest>, source: impl BufRead) -> Result<Stored> {
        let prefix = BufReader::with_capacity(CHUNK, self.prefix()?);
        let hashed = Hashed::new(self.digest.algorithm(), prefix.chain(source));
        self.seek_to_end_of_prefix()?;
        let limit = self.store.limits.max_layer_bytes;
        let algorithm = promised.map_or(Algorithm::Sha256, Digest::algorithm);
        let mut sink = TarSink::new(&self.file, &self.data, algorithm, limit);
        let hashed = inflate_into(&mut sink, compression, hashed, self.resume_at)?;
        hashed.verify(&self.digest, self.size)?;
        let written = sink.finish()?;
        check_diff_id(promised, &written.diff_id)?;
        self.publish_layer(&written)
    }

    fn seek_to_end_of_prefix(&mut self) -> Result<()> {
        self.file.seek(SeekFrom::Start(self.resume_at)).map(drop).map_err(StoreError::io("seek", &self.data))
    }

    /// Writes what comes after the prefix, and never more than was promised.
    fn copy<R: BufRead>(&mut self, hashed: &mut Hashed<R>) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while hashed.count() <= self.size {
            let left = usize::try_from(self.resume_at.saturating_sub(hashed.count())).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..if left > 0 { left } else { CHUNK }).unwrap_or_default();
            let at = hashed.count();
            let count = hashed.read(chunk).map_err(|source| StoreError::Source { at, source })?;
            if count == 0 {
                return Ok(());
            }
            if left == 0 {
                // Killed here: the prefix is longer; the next try hashes it again and goes on.
                let bytes = chunk.get(..count).unwrap_or_default();
                self.file.write_all(bytes).map_err(StoreError::io("write", &self.data))?;
            }
        }
        Err(StoreError::SizeMismatch { expected: self.size, actual: hashed.count() })
    }

    fn publish_layer(&self, written: &Written) -> Result<Stored> {
        let index = written.index.to_bytes();
        let index_digest = imagevol_base::Digester::sha256(&index);
        // Killed after this: an index that no row names, deleted at start.
        durable::write_file(&self.store.layout.layer_index(&written.diff_id), &index)?;
        self.publish(&ContentKey::Layer(written.diff_id.clone()), written.size, Some(index_digest))
    }

    /// Killed between the rename and the row: a file that no row names, deleted at start.
    fn publish(&self, key: &ContentKey, size: u64, index: Option<Digest>) -> Result<Stored> {
        durable::publish(&self.data, &self.store.layout.content(key))?;
        let stored =
            self.store.add_content(key, &self.digest, Content { size, stored_at: crate::store::now(), index })?;
        durable::remove_dir(&self.dir)?;
        Ok(stored)
    }

    /// What an earlier try left, read again for its hash.
    fn prefix(&self) -> Result<std::io::Take<File>> {
        let file = File::open(&self.data).map_err(StoreError::io("open", &self.data))?;
        Ok(file.take(self.resume_at))
    }
}

fn open_data(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(FILE_MODE);
    options.open(path).map_err(StoreError::io("open", path))
}

fn check_diff_id(promised: Option<&Digest>, actual: &Digest) -> Result<()> {
    match promised {
        Some(expected) if expected != actual => {
            Err(StoreError::DiffIdMismatch { expected: expected.clone(), actual: actual.clone() })
        }
        _ => Ok(()),
    }
}

/// Reads the source through the decoder into the sink; the first `on_disk` bytes are there already.
fn inflate_into<R: BufRead>(
    sink: &mut TarSink<'_>,
    compression: Compression,
    source: Hashed<R>,
    on_disk: u64,
) -> Result<Hashed<R>> {
    let broken = |source| StoreError::Inflate { compression: compression.as_str(), source };
    let mut inflate = Inflate::new(compression, source).map_err(broken)?;
    let mut buffer = vec![0; CHUNK];
    let mut replayed = 0;
    loop {
        // Bytes on disk and new ones are not mixed in one chunk.
        let left = usize::try_from(on_disk.saturating_sub(replayed)).unwrap_or(CHUNK).min(CHUNK);
        let room = if left > 0 { left } else { CHUNK };
        let chunk = buffer.get_mut(..room).unwrap_or_default();
        let count = inflate.read(chunk).map_err(broken)?;
        let bytes = chunk.get(..count).unwrap_or_default();
        if count == 0 {
            break;
        }
        if left > 0 {
            sink.replay(bytes)?;
        } else {
            sink.write(bytes)?;
        }
        replayed += count as u64;
    }
    inflate.into_source().ok_or_else(|| broken(std::io::Error::other("decoder lost its source")))
}
