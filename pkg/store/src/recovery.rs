//! What happens at start: everything that a kill can have left is either gone on with or cleared away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use imagevol_base::Holder;

use crate::content::{Content, ContentKey};
use crate::deletion::{Removed, take_content};
use crate::ingest;
use crate::references::Reference;
use crate::rows::{CONTENT, IMAGES, NAMES, REFERENCES};
use crate::store::{Store, now};
use crate::{ImageRecord, Result, StoreError, durable};

/// Content that no image names, and downloads that nobody goes on with, are kept this long: a node that was down over night
/// resumes, a pod that never comes back does not fill the disk.
pub(crate) const UNFINISHED_TTL_SECONDS: i64 = 24 * 60 * 60;

/// Clears what a kill left. Runs before anything else sees the store.
pub(crate) fn run(store: &Store) -> Result<()> {
    drop_rows_of_commands(store)?;
    drop_broken_images(store)?;
    drop_unfinished(store)?;
    drop_files_without_rows(store)?;
    drop_stale_ingest(store)
}

/// Holders that live in the process died with it.
fn drop_rows_of_commands(store: &Store) -> Result<()> {
    let write = store.rows().write()?;
    for (key, _) in write.all::<Reference>(REFERENCES)? {
        if !key.parse::<Holder>().is_ok_and(|holder| holder.outlives_process()) {
            write.remove(REFERENCES, &key)?;
        }
    }
    write.commit()
}

/// An image whose files are gone cannot be mounted: its row goes, so that it is pulled again.
fn drop_broken_images(store: &Store) -> Result<()> {
    let write = store.rows().write()?;
    let mut gone = BTreeSet::new();
    for (key, _) in write.all::<Content>(CONTENT)? {
        if !key.parse::<ContentKey>().is_ok_and(|content| has_files(store, &content)) {
            tracing::warn!(content = key, "content is missing on disk, its row is dropped");
            write.remove(CONTENT, &key)?;
            gone.insert(key);
        }
    }
    for (digest, image) in write.all::<ImageRecord>(IMAGES)? {
        let whole = store.inner.layout.image(&image.manifest).exists();
        if !whole || image.content().iter().any(|key| gone.contains(&key.to_string())) {
            tracing::warn!(image = digest, "image is incomplete on disk, its row is dropped");
            drop_image_row(&write, &image)?;
        }
    }
    write.commit()
}

fn drop_image_row(write: &crate::rows::Write, image: &ImageRecord) -> Result<()> {
    write.remove(IMAGES, &image.manifest.to_string())?;
    for (name, digest) in write.all::<imagevol_api::oci::Digest>(NAMES)? {
        if digest == image.manifest {
            write.remove(NAMES, &name)?;
        }
    }
    for (holder, row) in write.all::<Reference>(REFERENCES)? {
        if row.image.as_ref() == Some(&image.manifest) {
            write.put(REFERENCES, &holder, &Reference { image: None, ..row })?;
        }
    }
    Ok(())
}

fn has_files(store: &Store, key: &ContentKey) -> bool {
    let layout = &store.inner.layout;
    let index_there = match key {
        ContentKey::Layer(diff_id) => layout.layer_index(diff_id).exists(),
        ContentKey::Blob(_) => true,
    };
    index_there && layout.content(key).exists()
}

/// Content that no image names and no pull came back for.
fn drop_unfinished(store: &Store) -> Result<()> {
    let write = store.rows().write()?;
    let used = content_in_use(&write.all::<ImageRecord>(IMAGES)?);
    let mut removed = Removed::default();
    for (key, content) in write.all::<Content>(CONTENT)? {
        let expired = now().saturating_sub(content.stored_at) > UNFINISHED_TTL_SECONDS;
        match key.parse::<ContentKey>() {
            Ok(key) if expired && !used.contains(&key) => take_content(&write, &key, &mut removed)?,
            _ => {}
        }
    }
    // Killed between the two: files without rows, which the next step of the next start deletes.
    write.commit()?;
    store.unlink(&removed)
}

pub(crate) fn content_in_use(images: &[(String, ImageRecord)]) -> BTreeSet<ContentKey> {
    images.iter().flat_map(|(_, image)| image.content()).collect()
}

fn drop_files_without_rows(store: &Store) -> Result<()> {
    for path in files_without_rows(store)? {
        tracing::info!(path = %path.display(), "deleting a file that no row names");
        durable::remove_file(&path)?;
    }
    Ok(())
}

/// Files of content and images that no row names.
pub(crate) fn files_without_rows(store: &Store) -> Result<Vec<PathBuf>> {
    let layout = &store.inner.layout;
    let mut named = BTreeSet::new();
    for (key, _) in store.rows().all::<Content>(CONTENT)? {
        let Ok(key) = key.parse::<ContentKey>() else { continue };
        named.insert(layout.content(&key));
        if let ContentKey::Layer(diff_id) = &key {
            named.insert(layout.layer_index(diff_id));
        }
    }
    named.extend(store.images()?.iter().map(|image| layout.image(&image.manifest)));
    let mut found = Vec::new();
    for dir in layout.content_dirs() {
        found.extend(entries(&dir)?.into_iter().filter(|path| !named.contains(path)));
    }
    Ok(found)
}

/// A download of another version, without a version, or too old to be gone on with.
fn drop_stale_ingest(store: &Store) -> Result<()> {
    for dir in entries(&store.inner.layout.ingest_dir())? {
        let known = std::fs::read_to_string(dir.join("format")).is_ok_and(|format| format == ingest::FORMAT);
        if !known || is_expired(&dir) {
            tracing::info!(path = %dir.display(), "deleting an unfinished download");
            durable::remove_dir(&dir)?;
        }
    }
    Ok(())
}

fn is_expired(dir: &Path) -> bool {
    let modified = std::fs::metadata(dir.join("data")).and_then(|data| data.modified());
    let age = modified.ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX) > UNFINISHED_TTL_SECONDS)
}

/// The entries of a directory of the store, in order.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let listing = std::fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let paths = listing.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.map_err(StoreError::io("list", dir))?;
    paths.sort();
    Ok(paths)
}
