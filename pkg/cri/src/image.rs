//! Images, in the CRI's words (`runtime/v1/api.proto`: `ImageSpec`, `Image`, `FilesystemUsage`).

use std::collections::BTreeMap;
use std::fmt;

use imagevol_api::oci::{Digest, Platform};

/// Identity of an image in its service. The embedded service uses the manifest's digest, never the config's: all artifacts
/// with the empty config share one config digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(Digest);

/// Which image is meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSpec {
    /// The reference with its default tag appended, or an image id.
    pub image: String,
    /// The reference as the pod's author wrote it.
    pub user_specified_image: String,
    /// The pod's annotations, for services that look at them.
    pub annotations: BTreeMap<String, String>,
    /// For which platform, if not for the service's own. CRI has no such field.
    pub platform: Option<Platform>,
}

/// An image that is present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its identity.
    pub id: ImageId,
    /// `name:tag` references that lead to it.
    pub repo_tags: Vec<String>,
    /// `name@digest` references that lead to it.
    pub repo_digests: Vec<String>,
    /// Bytes of its content on disk, shared layers included.
    pub size: u64,
    /// Whether garbage collection must keep it.
    pub pinned: bool,
}

/// How full the file system of images is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilesystemUsage {
    /// Bytes that images take.
    pub used_bytes: u64,
    /// Files that images take.
    pub inodes_used: u64,
    /// Bytes of the whole file system.
    pub capacity_bytes: u64,
    /// Bytes that are free for us.
    pub available_bytes: u64,
}

// === impl ImageId ===

impl ImageId {
    /// The identity that is this manifest digest.
    pub fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest that identifies the image.
    pub fn digest(&self) -> &Digest {
        &self.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
