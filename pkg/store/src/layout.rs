//! Where things lie below the state directory. Every path is made of closed types.

use std::path::{Path, PathBuf};

use imagevol_api::oci::{Algorithm, Digest};

use crate::content::{Content, ContentKey};
use crate::durable;

/// The paths of one state directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

// === impl Layout ===

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("db.redb")
    }

    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn ingest(&self, key: &str) -> PathBuf {
        self.ingest_dir().join(key)
    }

    /// Where corrupt files go.
    pub(crate) fn quarantine_dir(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// The directories that hold files by digest, one for each algorithm.
    pub(crate) fn content_dirs(&self) -> Vec<PathBuf> {
        let algorithms = [Algorithm::Sha256, Algorithm::Sha512];
        let families = ["blobs", "layers", "images"];
        families.iter().flat_map(|family| algorithms.map(|algorithm| self.family(family, algorithm))).collect()
    }

    /// The files of a piece of content, and how long they must be.
    pub(crate) fn files_of(&self, key: &ContentKey, content: &Content) -> Vec<(PathBuf, u64)> {
        let mut files = vec![(self.content(key), durable::padded(content.size))];
        if let ContentKey::Layer(diff_id) = key {
            files.push((self.layer_index(diff_id), content.index_bytes));
        }
        files
    }

    pub(crate) fn content(&self, key: &ContentKey) -> PathBuf {
        match key {
            ContentKey::Blob(digest) => self.family("blobs", digest.algorithm()).join(digest.hex()),
            ContentKey::Layer(diff_id) => self.with_suffix("layers", diff_id, "tar"),
        }
    }

    pub(crate) fn layer_index(&self, diff_id: &Digest) -> PathBuf {
        self.with_suffix("layers", diff_id, "idx")
    }

    pub(crate) fn image(&self, manifest: &Digest) -> PathBuf {
        self.with_suffix("images", manifest, "erofs")
    }

    fn with_suffix(&self, family: &str, digest: &Digest, suffix: &str) -> PathBuf {
        self.family(family, digest.algorithm()).join(format!("{}.{suffix}", digest.hex()))
    }

    fn family(&self, family: &str, algorithm: Algorithm) -> PathBuf {
        self.root.join(family).join(algorithm.as_str())
    }
}
