//! What happens at start: everything that a kill can have left is either gone on with or cleared away.
//!
//! Killed at any point of it: rows are mended in one transaction, files are deleted in any order, and the next start does it again.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_base::Holder;
use serde::de::DeserializeOwned;

use crate::content::{Content, ContentKey};
use crate::durable::{self, entries};
use crate::expiry::{Download, Downloads};
use crate::layout::Layout;
use crate::pins::Pin;
use crate::quarantine::Retired;
use crate::references::Reference;
use crate::rows::{
    CONTENT, DIFF_IDS, DOWNLOADS, IMAGES, NAMES, PINS, REFERENCES, RETIRED, Snapshot, Table, USES, Write, name,
};
use crate::store::{Inner, Store};
use crate::{ImageRecord, Result, Use};

/// Clears what a kill left. Runs before anything else sees the store.
pub(crate) fn run(store: &Store) -> Result<()> {
    let write = store.rows().write()?;
    mend(&store.inner, &write)?;
    drop_rows_of_commands(&write)?;
    write.forget_retired()?;
    // Killed before this: nothing has happened.
    write.commit()?;
    store.drop_expired_rows()?;
    store.expire_content()?;
    store.expire_quarantine()?;
    drop_files_without_rows(store)?;
    store.drop_downloads(Downloads::Useless)
}

/// Makes the rows true: each can be read, and what it leads to is there.
pub(crate) fn mend(inner: &Inner, write: &Write<'_>) -> Result<()> {
    drop_unreadable(write)?;
    drop_content_without_files(inner, write)?;
    write.relink()?;
    drop_broken_images(inner, write)?;
    drop_dangling(write)?;
    match_uses(inner, write)?;
    inner.clock.keep(write, Duration::ZERO)
}

/// A row that cannot be read protects nothing and stops everything: it goes, loudly. Images are pulled again, and whoever wants one
/// says so again.
fn drop_unreadable(write: &Write<'_>) -> Result<()> {
    drop_unreadable_in::<ImageRecord, Digest>(write, IMAGES)?;
    drop_unreadable_in::<Content, ContentKey>(write, CONTENT)?;
    drop_unreadable_in::<Reference, Holder>(write, REFERENCES)?;
    drop_unreadable_in::<Retired, Digest>(write, RETIRED)?;
    drop_unreadable_in::<Digest, Digest>(write, DIFF_IDS)?;
    drop_unreadable_in::<Use, Digest>(write, USES)?;
    drop_unreadable_in::<Pin, ImagePattern>(write, PINS)?;
    drop_unreadable_in::<Download, String>(write, DOWNLOADS)?;
    drop_unreadable_in::<Digest, String>(write, NAMES)
}

fn drop_unreadable_in<T: DeserializeOwned, K: std::str::FromStr>(write: &Write<'_>, table: Table) -> Result<()> {
    for (key, row) in write.scan::<T>(table)? {
        if row.is_err() || key.parse::<K>().is_err() {
            let cause = row.err().map(|error| error.to_string()).unwrap_or_default();
            tracing::error!(table = name(table), key = ?key, cause, "a row that cannot be read is dropped");
            write.remove(table, &key)?;
        }
    }
    Ok(())
}

/// Holders that live in the process died with it.
fn drop_rows_of_commands(write: &Write<'_>) -> Result<()> {
    for (key, _) in write.all::<Reference>(REFERENCES)? {
        if !key.parse::<Holder>().is_ok_and(|holder| holder.outlives_process()) {
            write.remove(REFERENCES, &key)?;
        }
    }
    Ok(())
}

/// Files that somebody deleted, or that the file system lost.
fn drop_content_without_files(inner: &Inner, write: &Write<'_>) -> Result<()> {
    for (key, content) in write.all::<Content>(CONTENT)? {
        let whole = match key.parse::<ContentKey>() {
            Ok(parsed) => inner.has_files(&parsed, &content)?,
            Err(_) => false,
        };
        if !whole {
            tracing::warn!(content = key, "content is missing on disk, its row is dropped");
            write.remove(CONTENT, &key)?;
        }
    }
    Ok(())
}

/// An image whose files are gone cannot be mounted: its row goes, so that it is pulled again. Who has it mounted keeps it.
fn drop_broken_images(inner: &Inner, write: &Write<'_>) -> Result<()> {
    let content = write.keys(CONTENT)?;
    for (digest, image) in write.all::<ImageRecord>(IMAGES)? {
        let whole = durable::length(&inner.layout.image(&image.manifest))? == Some(image.index_bytes);
        if !whole || !image.content().iter().all(|key| content.contains(&key.to_string())) {
            tracing::warn!(image = digest, "image is incomplete on disk, its row is dropped");
            write.retire(&image.manifest)?;
            write.remove_image(&image)?;
        }
    }
    Ok(())
}

/// Names and layers that lead to what has just been dropped.
fn drop_dangling(write: &Write<'_>) -> Result<()> {
    let images = write.keys(IMAGES)?;
    for (name, digest) in write.all::<Digest>(NAMES)? {
        if !images.contains(&digest.to_string()) {
            write.remove_name(&name)?;
        }
    }
    // A reference stays bound: what its holder has mounted is that image still, and would else be unmounted under a pod that reads it.
    let bound = write.all::<Reference>(REFERENCES)?.into_iter().filter_map(|(_, row)| row.image);
    for gone in bound.filter(|image| !images.contains(&image.to_string())).collect::<BTreeSet<_>>() {
        write.retire(&gone)?;
    }
    let content = write.keys(CONTENT)?;
    for (_, diff_id) in write.all::<Digest>(DIFF_IDS)? {
        let layer = ContentKey::Layer(diff_id);
        if !content.contains(&layer.to_string()) {
            write.remove_content(&layer)?;
        }
    }
    Ok(())
}

/// Each image was seen once, and nothing else was.
fn match_uses(inner: &Inner, write: &Write<'_>) -> Result<()> {
    let (images, seen) = (write.keys(IMAGES)?, write.keys(USES)?);
    for key in seen.difference(&images) {
        write.remove(USES, key)?;
    }
    for image in images.difference(&seen) {
        // Its key was read when rows that cannot be read were dropped.
        if let Ok(digest) = image.parse() {
            write.see(&inner.clock, &digest)?;
        }
    }
    Ok(())
}

fn drop_files_without_rows(store: &Store) -> Result<()> {
    let inner = &store.inner;
    for path in inner.rows.read(|snapshot| files_without_rows(&inner.layout, snapshot))? {
        if path.symlink_metadata().is_ok_and(|file| file.is_dir()) {
            // None of ours: somebody else may have mounted something there.
            tracing::warn!(path = %path.display(), "a directory that does not belong here stays");
            continue;
        }
        if is_in_use(&path) {
            tracing::warn!(path = %path.display(), "a file that no row names is mounted, and stays until the next start");
            continue;
        }
        tracing::info!(path = %path.display(), "deleting a file that no row names");
        durable::remove_file(&path)?;
    }
    Ok(())
}

/// Whether a mounted file system anywhere on the node reads it, or somebody else: its row is lost, and those who read it are not to be.
pub(crate) fn is_in_use(path: &Path) -> bool {
    // Pipes and the like are none of ours, and opening one may wait for ever.
    if !path.symlink_metadata().is_ok_and(|file| file.is_file()) {
        return false;
    }
    let used = File::open(path).map_err(|error| error.to_string());
    let used = used.and_then(|file| imagevol_mount::in_use(&file).map_err(|error| error.to_string()));
    used.unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), error, "nobody can say whether a file is in use");
        true
    })
}

/// Files of content and images that no row names.
pub(crate) fn files_without_rows(layout: &Layout, snapshot: &Snapshot) -> Result<Vec<PathBuf>> {
    // As bytes: paths compare and hash component by component.
    let mut named = HashSet::new();
    for (key, content) in snapshot.scan::<Content>(CONTENT)? {
        if let (Ok(key), Ok(content)) = (key.parse::<ContentKey>(), content) {
            named.extend(layout.files_of(&key, &content).into_iter().map(|(path, _)| path.into_os_string()));
        }
    }
    let images = snapshot.keys(IMAGES)?.into_iter();
    named.extend(images.filter_map(|digest| Some(layout.image(&digest.parse().ok()?).into_os_string())));
    let mut found = Vec::new();
    for dir in layout.content_dirs() {
        found.extend(entries(&dir)?.into_iter().filter(|path| !named.contains(path.as_os_str())));
    }
    Ok(found)
}
