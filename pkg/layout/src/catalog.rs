//! The images of a layout by everything that leads to them.

use std::collections::{BTreeMap, HashMap};

use imagevol_api::oci::{Digest, Reference};
use imagevol_registry::{Descriptor, Document, Entry};

use crate::error::Result;
use crate::layout::{Candidate, Layout};

/// Indexes that are read to know what they name.
const INDEXES_MAX: usize = 256;

/// Which image a name leads to. A digest leads to an image whatever that is called: it says what the content is.
#[derive(Debug)]
pub struct Catalog {
    names: BTreeMap<Reference, usize>,
    digests: HashMap<Digest, Candidate>,
    candidates: Vec<Candidate>,
}

// === impl Catalog ===

impl Catalog {
    /// Reads what a layout holds. `repository` completes names that are tags alone.
    ///
    /// # Errors
    /// An index that is there and cannot be read; one that is absent is nobody's here.
    pub fn new(layout: &Layout, repository: Option<&Reference>) -> Result<Self> {
        let candidates = layout.candidates(repository);
        let mut names = BTreeMap::new();
        for (position, candidate) in candidates.iter().enumerate() {
            names.extend(candidate.names.iter().map(|name| (name.clone(), position)));
        }
        let mut digests = HashMap::new();
        let mut waiting: Vec<Entry> = candidates.iter().flat_map(|candidate| candidate.entries.clone()).collect();
        let mut indexes = 0;
        while let Some(entry) = waiting.pop() {
            if digests.contains_key(&entry.descriptor.digest) {
                continue;
            }
            if is_index(&entry.descriptor) && indexes < INDEXES_MAX {
                indexes += 1;
                match layout.document(&entry.descriptor) {
                    Ok((_, Document::Index(entries))) => waiting.extend(entries),
                    Ok((_, Document::Manifest(_))) => {}
                    Err(error) if error.is_absent() => continue,
                    Err(error) => return Err(error),
                }
            }
            let candidate = Candidate { names: Vec::new(), entries: vec![entry.clone()] };
            digests.insert(entry.descriptor.digest, candidate);
        }
        Ok(Self { names, digests, candidates })
    }

    /// The image that a reference leads to. A digest decides over a tag beside it.
    pub fn find(&self, reference: &Reference) -> Option<&Candidate> {
        match reference.digest() {
            Some(digest) => self.digests.get(digest),
            None => self.names.get(reference).and_then(|position| self.candidates.get(*position)),
        }
    }
}

fn is_index(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list")
}
