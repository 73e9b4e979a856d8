//! The last look at an image's files before they are mounted.
//!
//! The metadata file is hashed once for each state that its inode has been in: as long as device, inode, size and times are those of the
//! file that was hashed, it is taken for that file, so that a mount costs some stats. This catches a file that was written to, replaced
//! or cut since, and whatever was wrong on disk when it was hashed. It does not catch bits that the disk loses later without a write, nor
//! who writes to the disk beneath the file system, nor two writes within one tick of the file system's clock; and of layers it sees the
//! lengths alone. Those are for [`Store::check`] to find.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::FileIdentity;

use crate::check::check_length;
use crate::content::Content;
use crate::hash::hash;
use crate::part::{Corrupt, Cure, Part, PartRow};
use crate::rows::{CONTENT, IMAGES};
use crate::store::Store;
use crate::{ImageRecord, Result, StoreError, durable};

/// Metadata files that were right when they were hashed, and as what.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<HashMap<Digest, (FileIdentity, Digest)>>);

// === impl Verified ===

impl Verified {
    fn knows(&self, manifest: &Digest, identity: FileIdentity, digest: &Digest) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(manifest).is_some_and(|(seen, hashed)| *seen == identity && hashed == digest)
    }

    fn learn(&self, manifest: &Digest, identity: FileIdentity, digest: Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(manifest.clone(), (identity, digest));
    }

    pub(crate) fn forget(&self, manifest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(manifest);
    }
}

// === impl Store ===

impl Store {
    /// What is wrong with the files of an image, so that it must not be mounted; `None` if nothing is seen.
    pub fn verify_for_mount(&self, manifest: &Digest) -> Result<Option<Corrupt>> {
        let (image, content) = self.rows().read(|snapshot| {
            let image: Option<ImageRecord> = snapshot.get(IMAGES, &manifest.to_string())?;
            let image = image.ok_or_else(|| StoreError::NoImage(manifest.to_string()))?;
            let devices = image.devices();
            let row = |key: &crate::ContentKey| Ok((key.clone(), snapshot.get::<Content>(CONTENT, &key.to_string())?));
            let content = devices.keys().map(row).collect::<Result<Vec<_>>>()?;
            Ok((image, content))
        })?;
        for (key, content) in content {
            let Some(content) = content else {
                return Ok(Some(of_image(&image, format!("{key} is missing"), Cure::Pull)));
            };
            if let Some(problem) = check_length(&self.inner.layout.content(&key), durable::padded(content.size))? {
                let (part, row) = (Part::Content(key), PartRow::Content(content));
                return Ok(Some(Corrupt { part, problem, row, cure: Cure::Anew }));
            }
        }
        let problem = self.verify_index(&image)?;
        Ok(problem.map(|problem| of_image(&image, problem, Cure::Anew)))
    }

    fn verify_index(&self, image: &ImageRecord) -> Result<Option<String>> {
        let (manifest, path) = (&image.manifest, self.inner.layout.image(&image.manifest));
        let _reading = self.inner.reading();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(format!("{} is missing", path.display())));
            }
            file => file.map_err(StoreError::io("open", &path))?,
        };
        let identity = file.metadata().map(|file| FileIdentity::from(&file)).map_err(StoreError::io("stat", &path))?;
        let Some(expected) = &image.index_digest else { return Ok(Some("has no digest of its metadata file".into())) };
        if self.inner.verified.knows(manifest, identity, expected) {
            return Ok(None);
        }
        if identity.size() != image.index_bytes {
            let (actual, expected) = (identity.size(), image.index_bytes);
            return Ok(Some(format!("{} is {actual} bytes long, expected {expected}", path.display())));
        }
        let actual = hash(Algorithm::Sha256, file, &path)?;
        if actual != *expected {
            return Ok(Some(format!("metadata file is corrupt: expected {expected}, got {actual}")));
        }
        self.inner.verified.learn(manifest, identity, actual);
        Ok(None)
    }
}

fn of_image(image: &ImageRecord, problem: String, cure: Cure) -> Corrupt {
    let row = PartRow::Image(Box::new(image.clone()));
    Corrupt { part: Part::Image(image.manifest.clone()), problem, row, cure }
}
