//! Deletion, exact to the layer: rows first, then the files that no row names any more.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;

use imagevol_api::oci::Digest;

use crate::content::{Content, ContentKey};
use crate::durable;
use crate::references::Reference;
use crate::rows::{CONTENT, DIFF_IDS, IMAGES, NAMES, REFERENCES, Write};
use crate::store::Store;
use crate::{ImageRecord, Result, StoreError};

/// What a deletion took away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that lead nowhere now.
    pub names: Vec<String>,
    /// Images that went.
    pub images: Vec<Digest>,
    /// Content that went with them.
    pub content: Vec<ContentKey>,
    /// Bytes freed on disk.
    pub freed_bytes: u64,
}

// === impl Store ===

impl Store {
    /// Removes a name, and the image with its last tag; or an image with all its names, if its digest is given.
    ///
    /// An image that somebody holds, or that is mounted anywhere on the node, stays and is an error.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let image = self.resolve(name)?.ok_or_else(|| StoreError::NoImage(name.to_owned()))?;
        // Held throughout: content that a pull has just found stays, and content that goes is not found.
        let leases = self.inner.leases.lock();
        let write = self.rows().write()?;
        let names = names_of(&write, &image.manifest)?;
        let going = names_that_go(&names, name);
        let goes_whole = names.iter().all(|(_, kept)| going.contains(kept)) || !tags_left(&names, &going);
        let mut removed = Removed::default();
        if goes_whole {
            self.refuse_if_used(&write, &image, &names)?;
            take_image(&write, &image, &leases, &mut removed)?;
        }
        for (_, name) in names.into_iter().filter(|(_, name)| goes_whole || going.contains(name)) {
            write.remove(NAMES, &name)?;
            removed.names.push(name);
        }
        // Killed before this: nothing has happened. After it: files without rows, deleted at start.
        write.commit()?;
        self.unlink(&removed)?;
        Ok(removed)
    }

    fn refuse_if_used(&self, write: &Write, image: &ImageRecord, names: &[(Digest, String)]) -> Result<()> {
        let names: Vec<String> = names.iter().map(|(_, name)| name.clone()).collect();
        let rows = write.all::<Reference>(REFERENCES)?;
        let holders: Vec<String> =
            rows.into_iter().filter_map(|(holder, row)| row.keeps(image, &names).then_some(holder)).collect();
        if !holders.is_empty() {
            return Err(StoreError::InUse(holders));
        }
        self.refuse_if_mounted(&image.manifest)
    }

    /// The last check before an unlink: a superblock in any mount namespace that uses the file denies a write lease.
    fn refuse_if_mounted(&self, manifest: &Digest) -> Result<()> {
        let path = self.inner.layout.image(manifest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let used = imagevol_mount::in_use(&file).map_err(|source| StoreError::InUseTest { path, source })?;
        if used { Err(StoreError::Mounted(manifest.clone())) } else { Ok(()) }
    }

    /// Deletes files whose rows are gone.
    pub(crate) fn unlink(&self, removed: &Removed) -> Result<()> {
        for image in &removed.images {
            durable::remove_file(&self.inner.layout.image(image))?;
        }
        for key in &removed.content {
            durable::remove_file(&self.inner.layout.content(key))?;
            if let ContentKey::Layer(diff_id) = key {
                durable::remove_file(&self.inner.layout.layer_index(diff_id))?;
            }
        }
        Ok(())
    }
}

fn take_image(
    write: &Write,
    image: &ImageRecord,
    leases: &HashMap<ContentKey, usize>,
    removed: &mut Removed,
) -> Result<()> {
    write.remove(IMAGES, &image.manifest.to_string())?;
    let kept: BTreeSet<ContentKey> =
        write.all::<ImageRecord>(IMAGES)?.iter().flat_map(|(_, other)| other.content()).collect();
    for key in image.content().into_iter().filter(|key| !kept.contains(key) && !leases.contains_key(key)) {
        take_content(write, &key, removed)?;
    }
    removed.images.push(image.manifest.clone());
    removed.freed_bytes += image.index_bytes;
    Ok(())
}

/// Takes the rows of a piece of content.
pub(crate) fn take_content(write: &Write, key: &ContentKey, removed: &mut Removed) -> Result<()> {
    let content: Option<Content> = write.get(CONTENT, &key.to_string())?;
    write.remove(CONTENT, &key.to_string())?;
    if let ContentKey::Layer(gone) = key {
        for (blob, diff_id) in write.all::<Digest>(DIFF_IDS)? {
            if diff_id == *gone {
                write.remove(DIFF_IDS, &blob)?;
            }
        }
    }
    removed.freed_bytes += content.map_or(0, |content| durable::padded(content.size));
    removed.content.push(key.clone());
    Ok(())
}

fn names_of(write: &Write, image: &Digest) -> Result<Vec<(Digest, String)>> {
    let names = write.all::<Digest>(NAMES)?;
    Ok(names.into_iter().filter(|(_, digest)| digest == image).map(|(name, digest)| (digest, name)).collect())
}

/// A name goes alone; a bare digest means every name.
fn names_that_go(names: &[(Digest, String)], name: &str) -> BTreeSet<String> {
    let all = names.iter().map(|(_, name)| name.clone());
    if names.iter().any(|(_, known)| known == name) { BTreeSet::from([name.to_owned()]) } else { all.collect() }
}

/// Whether a tag still leads to the image: `name@digest` alone does not keep it.
fn tags_left(names: &[(Digest, String)], going: &BTreeSet<String>) -> bool {
    let had_tags = names.iter().any(|(_, name)| !name.contains('@'));
    names.iter().filter(|(_, name)| !going.contains(name)).any(|(_, name)| !name.contains('@') || !had_tags)
}
