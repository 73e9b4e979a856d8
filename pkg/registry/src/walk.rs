//! The way from an index down to the manifest for one platform. Pure: documents in, what to look at next out.

use std::collections::HashSet;

use imagevol_api::oci::Digest;

use crate::manifest::{Descriptor, Entry, ManifestError, MediaType};
use crate::platform::{Platform, candidates};

/// Indexes below each other; images in use have one, sometimes two.
const DEPTH_MAX: u32 = 4;
/// Documents looked at for one image, whatever they look like.
const DOCUMENTS_MAX: usize = 32;

/// Documents still to be looked at, best last, and those that were: best entry first, each document at most once.
#[derive(Debug, Default)]
pub struct Walk {
    waiting: Vec<(Descriptor, u32)>,
    seen: HashSet<Digest>,
    available: Vec<Platform>,
    /// Of the document that is looked at.
    depth: u32,
}

// === impl Walk ===

impl Walk {
    /// A walk that begins at the document of this digest.
    pub fn from(root: &Digest) -> Self {
        Self { seen: HashSet::from([root.clone()]), ..Self::default() }
    }

    /// Takes note of the entries of the index that is looked at.
    ///
    /// # Errors
    /// [`ManifestError::Depth`], if indexes lie too deep or are too many.
    pub fn descend(&mut self, entries: &[Entry], platform: &Platform) -> Result<(), ManifestError> {
        if self.depth == DEPTH_MAX || self.seen.len() >= DOCUMENTS_MAX {
            return Err(ManifestError::Depth);
        }
        let named = entries.iter().filter(|entry| !entry.is_attestation());
        self.available.extend(named.filter_map(|entry| entry.platform.clone()));
        let documents = |entry: &&Entry| MediaType::of(&entry.descriptor.media_type).is_some();
        let chosen = candidates(entries, platform).into_iter().filter(documents);
        self.waiting.extend(chosen.rev().map(|entry| (entry.descriptor.clone(), self.depth + 1)));
        Ok(())
    }

    /// The best document that was not looked at yet; it is looked at from now on.
    #[expect(
        clippy::should_implement_trait,
        reason = "what comes next depends on what is found, so that nobody iterates"
    )]
    pub fn next(&mut self) -> Option<Descriptor> {
        while let Some((descriptor, depth)) = self.waiting.pop() {
            if self.seen.insert(descriptor.digest.clone()) {
                self.depth = depth;
                return Some(descriptor);
            }
        }
        None
    }

    /// The platforms that were named on the way.
    pub fn available(self) -> Vec<Platform> {
        self.available
    }
}
