//! Taking corrupt parts out of use.
//!
//! A corrupt file is renamed into `quarantine/`: what is mounted from it goes on reading its inode, and an operator can look at it. The
//! rows that lead to it go in the same transaction, so that the next use finds the image absent and fetches only what is missing. An
//! image's metadata file is made again at once, from its layers.
//!
//! Rows of holders stay as they are, bound to the image by its digest: what they have mounted is that image, and a daemon that starts
//! anew must neither unmount nor forget it. Which of them read a corrupt copy is a row of its own ([`Retired`]): no new mount is made
//! from theirs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use imagevol_api::oci::Digest;
use imagevol_base::Holder;
use serde::{Deserialize, Serialize};

use crate::commit::Built;
use crate::content::{Content, ContentKey};
use crate::durable::{self, entries};
use crate::hash::hash_file;
use crate::links::IMAGES_OF;
use crate::part::{Corrupt, Cure, Part, PartRow};
use crate::recovery::is_in_use;
use crate::rows::{CONTENT, IMAGES, REFERENCES, RETIRED, Write};
use crate::store::{Store, now};
use crate::{ImageRecord, Reference, Result, StoreError};

/// A file that no mount uses is kept this long for an operator to look at, as unfinished downloads are.
const KEPT_SECONDS: i64 = 24 * 60 * 60;

/// And no more than the newest of so many bytes together: a corrupt layer must not keep the good one from coming.
const KEPT_BYTES: u64 = 1 << 30;

/// What was taken out of use, and for whom that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// What was corrupt.
    pub part: Part,
    /// How, for people.
    pub problem: String,
    /// The images made of it.
    pub images: Vec<StaleImage>,
    /// What becomes of them.
    pub remedy: Remedy,
}

/// An image that was mounted, or may have been, from what is corrupt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleImage {
    /// The image.
    pub image: Digest,
    /// The names that led to it.
    pub names: Vec<String>,
    /// Those whose rows are bound to it.
    pub holders: Vec<Holder>,
}

/// How good files come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// The next use pulls what is missing.
    Pull,
    /// They are there already, made anew from the layers.
    Rebuilt,
}

/// Mounts of an image that were made from files which are not its files any more: nothing new is cloned from them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Retired {
    /// Keys of those who had it.
    holders: BTreeSet<String>,
    /// Whether the image may still be staged from such files.
    staging: Staging,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Staging {
    #[default]
    Suspect,
    Gone,
}

/// Of an image's mounts, those that must not be used for new ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StaleMounts {
    /// Those of these holders.
    pub holders: BTreeSet<Holder>,
    /// The one that others are cloned from.
    pub staging: bool,
}

/// A file in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Aside {
    path: PathBuf,
    /// When it came, seconds since 1970; the begin of its name.
    since: i64,
    bytes: u64,
    in_use: bool,
}

// === impl Retired ===

impl Retired {
    /// Whether the holder had the image.
    pub(crate) fn is_of(&self, holder: &Holder) -> bool {
        self.holders.contains(&holder.to_string())
    }
}

// === impl Quarantined ===

/// A sentence for a report.
impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remedy = match self.remedy {
            Remedy::Pull => "set aside, and pulled again when it is wanted",
            Remedy::Rebuilt => "set aside, and made again from its layers",
        };
        match &self.part {
            Part::Content(key) => write!(f, "{key}: {}: {remedy}", self.problem),
            Part::Image(manifest) => write!(f, "image {manifest}: {}: {remedy}", self.problem),
        }
    }
}

// === impl Store ===

impl Store {
    /// Takes a corrupt part out of use; `None` if it is not there any more, or came anew since it was looked at.
    ///
    /// The caller then unmounts what is staged of the images, and says so ([`Store::unstaged`]).
    pub fn quarantine(&self, corrupt: &Corrupt) -> Result<Option<Quarantined>> {
        let done = match &corrupt.part {
            Part::Content(key) => self.quarantine_content(key, corrupt)?,
            Part::Image(manifest) => self.quarantine_image(manifest, corrupt)?,
        };
        if let Some(done) = &done {
            done.images.iter().for_each(|stale| self.inner.verified.forget(&stale.image));
            tracing::error!(part = %done.part, problem = done.problem, "corrupt content is quarantined");
        }
        Ok(done)
    }

    fn quarantine_content(&self, key: &ContentKey, corrupt: &Corrupt) -> Result<Option<Quarantined>> {
        let write = self.rows().write()?;
        let Some(content) = write.get::<Content>(CONTENT, &key.to_string())? else { return Ok(None) };
        if !corrupt.row.is_same(&PartRow::Content(content.clone())) {
            return Ok(None);
        }
        let mut images = Vec::new();
        for manifest in write.linked(IMAGES_OF, &key.to_string())? {
            let Some(image) = write.get::<ImageRecord>(IMAGES, &manifest)? else { continue };
            images.push(write.retire(&image.manifest)?);
            write.remove_image(&image)?;
        }
        write.remove_content(key)?;
        // Nobody writes a row for these files meanwhile, for this transaction is the only one. Killed from here to the commit: rows whose
        // files are gone, which the next start drops in the same way.
        for (path, _) in self.inner.layout.files_of(key, &content) {
            self.set_aside(&path)?;
        }
        for stale in &images {
            durable::remove_file(&self.inner.layout.image(&stale.image))?;
        }
        write.commit()?;
        Ok(Some(Quarantined {
            part: corrupt.part.clone(),
            problem: corrupt.problem.clone(),
            images,
            remedy: Remedy::Pull,
        }))
    }

    fn quarantine_image(&self, manifest: &Digest, corrupt: &Corrupt) -> Result<Option<Quarantined>> {
        let Some(image) = self.same_image(manifest, corrupt)? else { return Ok(None) };
        let built = match corrupt.cure {
            Cure::Anew => self.rebuild(image),
            Cure::Pull => None,
        };
        let write = self.rows().write()?;
        let now: Option<ImageRecord> = write.get(IMAGES, &manifest.to_string())?;
        let Some(now) = now.filter(|now| corrupt.row.is_same(&PartRow::Image(Box::new(now.clone())))) else {
            return Ok(None);
        };
        let images = vec![write.retire(manifest)?];
        let path = self.inner.layout.image(manifest);
        // Killed from here to the commit: an image whose file is gone or another one, which the next start drops or the next check finds.
        self.set_aside(&path)?;
        let remedy = if built.is_some() { Remedy::Rebuilt } else { Remedy::Pull };
        match built {
            Some(built) => write.put_image(&put_back(built, now, &path)?)?,
            None => write.remove_image(&now)?,
        }
        write.commit()?;
        Ok(Some(Quarantined { part: corrupt.part.clone(), problem: corrupt.problem.clone(), images, remedy }))
    }

    fn same_image(&self, manifest: &Digest, corrupt: &Corrupt) -> Result<Option<ImageRecord>> {
        let image: Option<ImageRecord> = self.rows().get(IMAGES, &manifest.to_string())?;
        Ok(image.filter(|image| corrupt.row.is_same(&PartRow::Image(Box::new(image.clone())))))
    }

    /// The metadata file from the layers' indexes, if these are what they were. Killed here: a `.tmp` file, deleted at start.
    fn rebuild(&self, image: ImageRecord) -> Option<Built> {
        let manifest = image.manifest.clone();
        let built = self.check_layer_indexes(&image).and_then(|()| self.build(image));
        if let Err(error) = &built {
            let error: &dyn std::error::Error = error;
            tracing::warn!(image = %manifest, error, "cannot make an image again from its layers");
        }
        built.ok()
    }

    fn check_layer_indexes(&self, image: &ImageRecord) -> Result<()> {
        for key in image.content() {
            let content: Option<Content> = self.rows().get(CONTENT, &key.to_string())?;
            let content = content.ok_or_else(|| StoreError::MissingContent(key.to_string()))?;
            let (ContentKey::Layer(diff_id), Some(expected)) = (&key, content.index) else { continue };
            let path = self.inner.layout.layer_index(diff_id);
            let actual = hash_file(&path)?;
            if actual != expected {
                return Err(StoreError::Damaged { path, actual });
            }
        }
        Ok(())
    }

    /// Renames a file into quarantine; one that is not there is nowhere.
    fn set_aside(&self, path: &Path) -> Result<()> {
        let dir = self.inner.layout.quarantine_dir();
        durable::make_dir(&dir)?;
        let to = dir.join(aside_name(path, now()));
        match std::fs::rename(path, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(StoreError::io("rename", path))?,
        }
        durable::sync_parent(&to)?;
        durable::sync_parent(path)
    }

    /// Which mounts of an image must not be used for new ones.
    pub fn stale_mounts(&self, image: &Digest) -> Result<StaleMounts> {
        let retired: Option<Retired> = self.rows().get(RETIRED, &image.to_string())?;
        let Some(retired) = retired else { return Ok(StaleMounts::default()) };
        let holders = retired.holders.iter().filter_map(|key| key.parse().ok()).collect();
        Ok(StaleMounts { holders, staging: retired.staging == Staging::Suspect })
    }

    /// Nothing is staged of the image any more that was made from files which are not its files.
    pub fn unstaged(&self, image: &Digest) -> Result<()> {
        let write = self.rows().write()?;
        let Some(retired) = write.get::<Retired>(RETIRED, &image.to_string())? else { return Ok(()) };
        write.put(RETIRED, &image.to_string(), &Retired { staging: Staging::Gone, ..retired })?;
        write.forget_retired()?;
        write.commit()
    }

    /// Files in quarantine, and for how many bytes each.
    pub(crate) fn quarantined_files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let paths = entries(&self.inner.layout.quarantine_dir())?;
        paths.into_iter().map(|path| Ok((path.clone(), durable::length(&path)?.unwrap_or(0)))).collect()
    }

    /// Deletes what nobody uses and nobody will look at any more, and forgets who has given up what was retired. Killed in between: the
    /// next time does the rest.
    pub(crate) fn expire_quarantine(&self) -> Result<()> {
        let write = self.rows().write()?;
        if write.forget_retired()? {
            write.commit()?;
        } else {
            drop(write);
        }
        let files = self.quarantined_files()?.into_iter().map(|(path, bytes)| aside(path, bytes));
        for path in expired(files.collect(), now()) {
            tracing::info!(path = %path.display(), "deleting a quarantined file");
            durable::remove_file(&path)?;
        }
        Ok(())
    }
}

// === impl Write ===

impl Write<'_> {
    /// Writes that all who have the image mounted have it from files that are not its own any more.
    pub(crate) fn retire(&self, image: &Digest) -> Result<StaleImage> {
        let rows = self.all::<Reference>(REFERENCES)?;
        let bound: Vec<String> =
            rows.into_iter().filter(|(_, row)| row.image.as_ref() == Some(image)).map(|(key, _)| key).collect();
        let mut retired: Retired = self.get(RETIRED, &image.to_string())?.unwrap_or_default();
        retired.holders.extend(bound.iter().cloned());
        retired.staging = Staging::Suspect;
        self.put(RETIRED, &image.to_string(), &retired)?;
        let holders = bound.iter().filter_map(|key| key.parse().ok()).collect();
        Ok(StaleImage { image: image.clone(), names: self.names_of(image)?, holders })
    }

    /// Forgets holders that have let go, and images that nobody has any more; whether there was anything to forget.
    pub(crate) fn forget_retired(&self) -> Result<bool> {
        let mut changed = false;
        for (image, retired) in self.all::<Retired>(RETIRED)? {
            let mut holders = BTreeSet::new();
            for holder in &retired.holders {
                let row: Option<Reference> = self.get(REFERENCES, holder)?;
                if row.and_then(|row| row.image).is_some_and(|bound| bound.to_string() == image) {
                    holders.insert(holder.clone());
                }
            }
            let left = Retired { holders, ..retired.clone() };
            if left.holders.is_empty() && left.staging == Staging::Gone {
                self.remove(RETIRED, &image)?;
            } else if left != retired {
                self.put(RETIRED, &image, &left)?;
            } else {
                continue;
            }
            changed = true;
        }
        Ok(changed)
    }
}

/// Puts a metadata file in its place that was made again; the record that tells of it.
fn put_back(built: Built, record: ImageRecord, path: &Path) -> Result<ImageRecord> {
    let Built { image: ImageRecord { index_bytes, index_digest, .. }, file } = built;
    durable::persist(file, path)?;
    let size = record.size.saturating_sub(record.index_bytes).saturating_add(index_bytes);
    Ok(ImageRecord { size, index_bytes, index_digest, ..record })
}

/// `<seconds since 1970>-<family>-<algorithm>-<file>`: unique as long as nothing is quarantined twice within a second.
fn aside_name(path: &Path, now: i64) -> String {
    let parts: Vec<_> = path.iter().rev().take(3).map(|part| part.to_string_lossy()).collect();
    let name = parts.iter().rev().map(AsRef::as_ref).collect::<Vec<&str>>().join("-");
    format!("{now}-{name}")
}

fn aside(path: PathBuf, bytes: u64) -> Aside {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A name that is none of ours is old.
    let since = name.split_once('-').and_then(|(since, _)| since.parse().ok()).unwrap_or(i64::MIN);
    Aside { in_use: is_in_use(&path), path, since, bytes }
}

/// What goes: of the files that nobody uses, those that are old, and those beyond the newest that may be kept.
fn expired(mut files: Vec<Aside>, now: i64) -> Vec<PathBuf> {
    files.retain(|file| !file.in_use);
    files.sort_by_key(|file| std::cmp::Reverse(file.since));
    let mut kept = 0_u64;
    files.retain(|file| {
        kept = kept.saturating_add(file.bytes);
        // In the far future is old too: the clock was wrong then.
        let is_old = now.saturating_sub(file.since).saturating_abs() > KEPT_SECONDS;
        is_old || kept > KEPT_BYTES
    });
    files.into_iter().map(|file| file.path).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn file(name: &str, since: i64, mib: u64, in_use: bool) -> Aside {
        Aside { path: name.into(), since, bytes: mib << 20, in_use }
    }

    #[rstest]
    #[case::young(vec![file("a", 0, 1, false)], "")]
    #[case::old(vec![file("a", -86_401, 1, false)], "a")]
    #[case::old_and_mounted(vec![file("a", -86_401, 1, true)], "")]
    #[case::of_a_wrong_clock(vec![file("a", 900_000, 1, false)], "a")]
    #[case::newest_gibibyte(vec![file("old", -2, 600, false), file("new", -1, 600, false)], "old")]
    #[case::larger_than_all(vec![file("a", 0, 1025, false)], "a")]
    #[case::mounted_counts_not(vec![file("a", 0, 1025, true), file("b", -1, 1, false)], "")]
    fn unused_files_go_when_old_or_many(#[case] files: Vec<Aside>, #[case] goes: &str) {
        let now = 1_000_000_000;
        let files = files.into_iter().map(|file| Aside { since: now + file.since, ..file }).collect();
        let gone: Vec<_> = expired(files, now).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(gone.join(" "), goes);
    }

    #[test]
    fn names_say_when_and_what() {
        assert_eq!(aside_name(Path::new("/state/layers/sha256/ab.tar"), 7), "7-layers-sha256-ab.tar");
    }
}
