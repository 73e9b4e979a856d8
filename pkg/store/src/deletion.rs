//! Deletion, exact to the layer: rows first, then the files that no row names any more.

use std::collections::HashMap;
use std::fs::File;

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_base::collection::NodeTime;

use crate::content::ContentKey;
use crate::durable;
use crate::links::IMAGES_OF;
use crate::pins::Pins;
use crate::references::{Reference, candidates};
use crate::rows::{IMAGES, NAMES, REFERENCES, USES, Write};
use crate::store::Store;
use crate::{ImageRecord, Result, StoreError, Use};

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

/// What is to go when somebody removes a name.
#[derive(Debug, PartialEq, Eq)]
enum Going {
    /// Names; others lead to the image still.
    Names(Vec<String>),
    /// The image with all names.
    Image,
}

// === impl Store ===

impl Store {
    /// Removes a name, and the image with its last one; or an image with all its names, if its digest is given. As Docker does, the
    /// last tag of a repository takes the repository's `name@digest` along.
    ///
    /// An image that somebody holds, that is pinned, or that is mounted anywhere on the node, stays and is an error. (So is one whose
    /// metadata file is open for a mount that is being made.) A name goes only if the image stays pinned without it.
    pub fn remove(&self, name: &str) -> Result<Removed> {
        self.inner.freeing(|| self.remove_once(name))
    }

    fn remove_once(&self, name: &str) -> Result<Removed> {
        // Held throughout: content that a pull has just found stays, and content that goes is not found.
        let leases = self.inner.leases.lock();
        let write = self.rows().write()?;
        let (image, name) = find(&write, name)?;
        let names = write.names_of(&image.manifest)?;
        let mut removed = Removed::default();
        match going(&names, name.as_deref()) {
            Going::Names(going) => {
                refuse_if_unpinned(&write, &image.manifest, &names, &going)?;
                removed.names = going;
            }
            Going::Image => self.take_unneeded(&write, &image, &leases, &mut removed)?,
        }
        for name in &removed.names {
            write.remove_name(name)?;
        }
        // Killed before this: nothing has happened. After it: files without rows, deleted at start.
        write.commit()?;
        self.unlink(&removed)?;
        Ok(removed)
    }

    /// Removes an image that a census has found to be needed by nobody, with all its names, if that is so still: nobody holds it or
    /// has used it since `seen` ([`crate::Census::taken`]), nobody has pinned it, and it is mounted nowhere.
    pub fn remove_unneeded(&self, image: &Digest, seen: NodeTime) -> Result<Removed> {
        self.inner.freeing(|| self.remove_unneeded_once(image, seen))
    }

    fn remove_unneeded_once(&self, image: &Digest, seen: NodeTime) -> Result<Removed> {
        // Held throughout, as in `remove`.
        let leases = self.inner.leases.lock();
        let write = self.rows().write()?;
        let record: Option<ImageRecord> = write.get(IMAGES, &image.to_string())?;
        let record = record.ok_or_else(|| StoreError::NoImage(image.to_string()))?;
        let used: Option<Use> = write.get(USES, &image.to_string())?;
        let mut removed = Removed::default();
        self.take_unneeded(&write, &record, &leases, &mut removed)?;
        refuse_if_used_since(image, used, seen)?;
        // Killed before this: nothing has happened. After it: files without rows, deleted at start.
        write.commit()?;
        self.unlink(&removed)?;
        Ok(removed)
    }

    /// Takes the rows of an image that nobody uses, and of what goes with it.
    fn take_unneeded(
        &self,
        write: &Write<'_>,
        image: &ImageRecord,
        leases: &HashMap<ContentKey, usize>,
        removed: &mut Removed,
    ) -> Result<()> {
        let names = write.names_of(&image.manifest)?;
        self.refuse_if_used(write, image, &names)?;
        take_image(write, image, leases, removed)?;
        removed.names = names;
        Ok(())
    }

    fn refuse_if_used(&self, write: &Write<'_>, image: &ImageRecord, names: &[String]) -> Result<()> {
        let rows = write.all::<Reference>(REFERENCES)?;
        refuse_if_needed((&image.manifest, names), &rows, &Pins::in_write(write)?, self.now())?;
        self.refuse_if_mounted(&image.manifest)
    }

    /// The last check before an unlink: a superblock in any mount namespace that uses the file denies a write lease. Every mount of
    /// the image has its EROFS file open; of content that others share nothing is deleted.
    pub(crate) fn refuse_if_mounted(&self, manifest: &Digest) -> Result<()> {
        let path = self.inner.layout.image(manifest);
        // What checks it has it open for a moment, which is no mount.
        let _no_reader = self.inner.reading();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StoreError::io("open", &path)(error)),
        };
        let used = imagevol_mount::in_use(&file).map_err(|source| StoreError::InUseTest { path, source })?;
        if used { Err(StoreError::Mounted(manifest.clone())) } else { Ok(()) }
    }

    /// Deletes files whose rows are gone: all that it can, then the first error. What stays is deleted at start.
    pub(crate) fn unlink(&self, removed: &Removed) -> Result<()> {
        let layout = &self.inner.layout;
        let mut files: Vec<_> = removed.images.iter().map(|image| layout.image(image)).collect();
        for key in &removed.content {
            files.push(layout.content(key));
            if let ContentKey::Layer(diff_id) = key {
                files.push(layout.layer_index(diff_id));
            }
        }
        let results: Vec<Result<()>> = files.iter().map(|path| durable::remove_file(path)).collect();
        results.into_iter().collect()
    }
}

/// The image of a name, and the name as it is known; none for a digest, which is the image itself.
fn find(write: &Write<'_>, name: &str) -> Result<(ImageRecord, Option<String>)> {
    for candidate in candidates(name) {
        let known: Option<Digest> = write.get(NAMES, &candidate)?;
        let digest = known.as_ref().map_or(candidate.clone(), ToString::to_string);
        if let Some(image) = write.get(IMAGES, &digest)? {
            return Ok((image, known.map(|_| candidate)));
        }
    }
    Err(StoreError::NoImage(name.to_owned()))
}

/// By rows and pins at one moment, nobody needs an image that these names lead to.
pub(crate) fn refuse_if_needed(
    (image, names): (&Digest, &[String]),
    rows: &[(String, Reference)],
    pins: &Pins,
    now: NodeTime,
) -> Result<()> {
    let keeps = |row: &Reference| !row.is_over(now) && row.keeps(image, names);
    let holders: Vec<String> = rows.iter().filter(|(_, row)| keeps(row)).map(|(holder, _)| holder.clone()).collect();
    if holders.is_empty() { refuse_if_pinned(&pins.covering(image, names)) } else { Err(StoreError::InUse(holders)) }
}

/// What a census has seen of an image holds no more if it was used, or came, since.
pub(crate) fn refuse_if_used_since(image: &Digest, used: Option<Use>, seen: NodeTime) -> Result<()> {
    let since = used.is_none_or(|used| used.last().max(used.first_seen.time) >= seen);
    if since { Err(StoreError::UsedSince(image.clone())) } else { Ok(()) }
}

fn refuse_if_pinned(pins: &[ImagePattern]) -> Result<()> {
    if pins.is_empty() { Ok(()) } else { Err(StoreError::Pinned(pins.iter().map(ToString::to_string).collect())) }
}

/// Names go, and the image stays: if it is pinned, then still.
fn refuse_if_unpinned(write: &Write<'_>, manifest: &Digest, names: &[String], going: &[String]) -> Result<()> {
    let pins = Pins::in_write(write)?;
    let staying: Vec<String> = names.iter().filter(|name| !going.contains(name)).cloned().collect();
    if pins.covering(manifest, &staying).is_empty() {
        refuse_if_pinned(&pins.covering(manifest, names))
    } else {
        Ok(())
    }
}

fn take_image(
    write: &Write<'_>,
    image: &ImageRecord,
    leases: &HashMap<ContentKey, usize>,
    removed: &mut Removed,
) -> Result<()> {
    write.remove_image(image)?;
    for key in image.content().into_iter().filter(|key| !leases.contains_key(key)) {
        if write.linked(IMAGES_OF, &key.to_string())?.is_empty() {
            take_content(write, &key, removed)?;
        }
    }
    removed.images.push(image.manifest.clone());
    removed.freed_bytes += image.index_bytes;
    Ok(())
}

/// Takes the rows of a piece of content.
pub(crate) fn take_content(write: &Write<'_>, key: &ContentKey, removed: &mut Removed) -> Result<()> {
    if let Some(content) = write.remove_content(key)? {
        removed.freed_bytes += content.bytes_on_disk();
        removed.content.push(key.clone());
    }
    Ok(())
}

/// What goes with a name. `names` are all that lead to the image; no name means the image itself.
fn going(names: &[String], name: Option<&str>) -> Going {
    let Some(name) = name else { return Going::Image };
    let same_repository = |other: &&String| repository(other) == repository(name);
    let other_tags = names.iter().filter(same_repository).any(|other| is_tag(other) && other != name);
    let goes = |other: &String| {
        let with_it = !is_tag(other) && (!is_tag(name) || !other_tags);
        other == name || (same_repository(&other) && with_it)
    };
    let going: Vec<String> = names.iter().filter(|other| goes(other)).cloned().collect();
    if going.len() == names.len() { Going::Image } else { Going::Names(going) }
}

fn is_tag(name: &str) -> bool {
    !name.contains('@')
}

/// The repository of `name:tag` or `name@digest`.
fn repository(name: &str) -> &str {
    name.split_once('@').or_else(|| name.rsplit_once(':')).map_or(name, |(repository, _)| repository)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::last_tag("a:1 a@d", "a:1", None)]
    #[case::one_of_two_tags("a:1 a:2 a@d", "a:1", Some("a:1"))]
    #[case::last_tag_of_its_repository("a:1 a@d b:1 b@d", "a:1", Some("a:1 a@d"))]
    #[case::digest_beside_a_tag("a:1 a@d", "a@d", Some("a@d"))]
    #[case::digest_alone("a@d", "a@d", None)]
    #[case::digests_of_index_and_manifest("a@d a@i", "a@i", None)]
    #[case::digest_in_two_repositories("a@d b@d", "a@d", Some("a@d"))]
    #[case::last_tag_beside_another_repositorys_digest("a:1 a@d b@d", "a:1", Some("a:1 a@d"))]
    #[case::port_is_no_tag("r:5000/a:1 r:5000/a@d r:5000/b:1", "r:5000/a:1", Some("r:5000/a:1 r:5000/a@d"))]
    fn names_go_as_docker_lets_them_go(#[case] names: &str, #[case] name: &str, #[case] expected: Option<&str>) {
        let list = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let expected = expected.map_or(Going::Image, |names| Going::Names(list(names)));
        assert_eq!(going(&list(names), Some(name)), expected);
    }

    #[test]
    fn a_digest_takes_all_names() {
        assert_eq!(going(&["a:1".to_owned(), "b:1".to_owned()], None), Going::Image);
    }
}
