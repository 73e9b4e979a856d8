//! What takes space, by kind, and what of it nobody needs.

use std::path::Path;

use imagevol_api::oci::Digest;

use crate::census::{Census, Piece};
use crate::content::{Content, ContentKey};
use crate::durable::{self, entries};
use crate::links::IMAGES_OF;
use crate::rows::{CONTENT, DIFF_IDS, Snapshot};
use crate::store::Store;
use crate::{Result, StoreError};

/// What takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKind {
    /// Uncompressed layers with their indexes.
    Layers,
    /// Files of artifacts.
    ArtifactFiles,
    /// EROFS files of images.
    ImageIndexes,
    /// Manifests and configs.
    ManifestsAndConfigs,
    /// Downloads under way or left, and content that no image names yet.
    UnfinishedDownloads,
    /// Files that were damaged.
    Quarantine,
    /// The database, and what is put aside for it.
    Database,
}

/// One kind of what takes space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Which.
    pub kind: UsageKind,
    /// How many there are.
    pub count: u64,
    /// How many of them images need that are held, pinned or mounted, or pulls under way.
    pub active: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Bytes that would be free if all images went that nobody needs.
    pub reclaimable: u64,
}

/// A piece of content that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundContent {
    /// What names it on disk.
    pub key: ContentKey,
    /// Its row.
    pub content: Content,
    /// The images that are made of it.
    pub images: Vec<Digest>,
    /// Whether a pull under way counts on it.
    pub leased: bool,
}

// === impl UsageKind ===

impl UsageKind {
    /// The kind as people read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Layers => "Layers",
            Self::ArtifactFiles => "Artifact files",
            Self::ImageIndexes => "Image indexes",
            Self::ManifestsAndConfigs => "Manifests and configs",
            Self::UnfinishedDownloads => "Unfinished downloads",
            Self::Quarantine => "Quarantine",
            Self::Database => "Database",
        }
    }
}

// === impl Usage ===

impl Usage {
    fn of(kind: UsageKind) -> Self {
        Self { kind, count: 0, active: 0, bytes: 0, reclaimable: 0 }
    }

    fn add(&mut self, bytes: u64, needed: bool) {
        self.count += 1;
        self.bytes += bytes;
        if needed {
            self.active += 1;
        } else {
            self.reclaimable += bytes;
        }
    }
}

// === impl Store ===

impl Store {
    /// What takes space, a row for each kind.
    pub fn disk_usage(&self) -> Result<Vec<Usage>> {
        let mut rows = of_images(&self.census()?);
        let layout = &self.inner.layout;
        let mut unfinished = Usage::of(UsageKind::UnfinishedDownloads);
        for dir in entries(&layout.ingest_dir())? {
            // Nobody collects it before it is old.
            unfinished.add(bytes_below(&dir)?, true);
        }
        unfinished.active = self.inner.claims.count();
        let waiting = rows.iter_mut().find(|row| row.kind == UsageKind::UnfinishedDownloads);
        if let Some(row) = waiting {
            row.count += unfinished.count;
            row.active += unfinished.active;
            row.bytes += unfinished.bytes;
        }
        let mut quarantine = Usage::of(UsageKind::Quarantine);
        for path in files_below(&layout.root().join("quarantine"))? {
            quarantine.add(length(&path)?, true);
        }
        quarantine.active = 0;
        let mut database = Usage::of(UsageKind::Database);
        // With what is put aside for it when the disk is full.
        database.add(length(&layout.database())? + length(&layout.reserve())?, true);
        rows.extend([quarantine, database]);
        Ok(rows)
    }

    /// Content by a digest of it: that of a blob, that of a compressed layer, or a diffID.
    pub fn find_content(&self, digest: &Digest) -> Result<Vec<FoundContent>> {
        let mut found = self.rows().read(|snapshot| find(snapshot, digest))?;
        let leases = self.inner.leases.lock();
        for content in &mut found {
            content.leased = leases.contains_key(&content.key);
        }
        Ok(found)
    }
}

fn find(snapshot: &Snapshot, digest: &Digest) -> Result<Vec<FoundContent>> {
    let layer: Option<Digest> = snapshot.get(DIFF_IDS, &digest.to_string())?;
    let keys =
        [Some(ContentKey::Blob(digest.clone())), Some(ContentKey::Layer(digest.clone())), layer.map(ContentKey::Layer)];
    let mut found: Vec<FoundContent> = Vec::new();
    for key in keys.into_iter().flatten() {
        // An uncompressed layer is a blob with its own diffID.
        let Some(content) = snapshot.get::<Content>(CONTENT, &key.to_string())? else { continue };
        if found.iter().any(|known| known.key == key) {
            continue;
        }
        let images = snapshot.linked(IMAGES_OF, &key.to_string())?.into_iter();
        let wrong = |text: String| StoreError::Key { table: "images-of-content", key: text };
        let images = images.map(|text| text.parse().map_err(|_| wrong(text))).collect::<Result<_>>()?;
        found.push(FoundContent { key, content, images, leased: false });
    }
    Ok(found)
}

fn of_images(census: &Census) -> Vec<Usage> {
    let mut layers = Usage::of(UsageKind::Layers);
    let mut files = Usage::of(UsageKind::ArtifactFiles);
    let mut indexes = Usage::of(UsageKind::ImageIndexes);
    let mut metadata = Usage::of(UsageKind::ManifestsAndConfigs);
    let mut unfinished = Usage::of(UsageKind::UnfinishedDownloads);
    let mut needed = vec![false; census.content.len()];
    for image in &census.images {
        indexes.add(image.index_bytes, image.is_needed());
        for position in image.content.iter().filter(|_| image.is_needed()) {
            if let Some(needed) = needed.get_mut(*position) {
                *needed = true;
            }
        }
    }
    for (piece, needed) in census.content.iter().zip(needed) {
        let Piece { key, bytes, images, leased, is_file } = piece;
        match key {
            _ if *images == 0 => {
                unfinished.add(*bytes, true);
                unfinished.active -= u64::from(!leased);
            }
            ContentKey::Layer(_) => layers.add(*bytes, needed || *leased),
            ContentKey::Blob(_) if *is_file => files.add(*bytes, needed || *leased),
            ContentKey::Blob(_) => metadata.add(*bytes, needed || *leased),
        }
    }
    vec![layers, files, indexes, metadata, unfinished]
}

/// Bytes of a directory's files, or of the file itself.
fn bytes_below(path: &Path) -> Result<u64> {
    files_below(path)?.iter().map(|path| length(path)).sum()
}

fn files_below(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    if !path.symlink_metadata().is_ok_and(|file| file.is_dir()) {
        return Ok(if durable::length(path)?.is_some() { vec![path.to_owned()] } else { Vec::new() });
    }
    let mut files = Vec::new();
    for entry in entries(path)? {
        files.extend(files_below(&entry)?);
    }
    Ok(files)
}

/// What has gone meanwhile has no bytes.
fn length(path: &Path) -> Result<u64> {
    Ok(durable::length(path)?.unwrap_or(0))
}
