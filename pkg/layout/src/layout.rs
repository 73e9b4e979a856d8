//! An OCI image layout (image spec, image-layout.md), read at one moment.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use bytes::Bytes;
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::Digester;
use imagevol_mount::SafeDir;
use imagevol_registry::{Descriptor, Document, Entry, Limits, Manifest, Platform, Walk, parse};
use serde::Deserialize;

use crate::archive::Archive;
use crate::blob::Blob;
use crate::docker::{self, Converted};
use crate::error::{LayoutError, Result};
use crate::name::Name;
use crate::place::Place;

/// The file that says that a directory is a layout.
const MARK: &str = "oci-layout";
/// The entry point.
const INDEX: &str = "index.json";
/// What the entry point is, whether it says so or not.
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// The mark holds one short object.
const MARK_MAX: u64 = 4096;
/// Versions of the layout that are known: `1.0.0`, and what stays compatible with it.
const MAJOR: &str = "1.";

/// A layout as its index was when it was opened. Blobs are read when they are asked for.
#[derive(Debug)]
pub struct Layout {
    place: Place,
    limits: Limits,
    entries: Vec<Entry>,
    /// What a docker archive holds under other names, or not at all.
    converted: Converted,
    stamp: Option<Stamp>,
}

/// What tells whether an index is still the same file with the same content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// An image of a layout, by all its names: the entries are the same image for different platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// References that lead to it; none for an image without a usable name.
    pub names: Vec<Reference>,
    /// At least one.
    pub entries: Vec<Entry>,
}

/// An image for one platform.
#[derive(Debug, Clone)]
pub struct Found {
    /// What the layout's index points at: the manifest, or the index above it.
    pub root_digest: Digest,
    /// The image's identity: the digest of its manifest.
    pub manifest_digest: Digest,
    /// The manifest as it lies there: these bytes have that digest.
    pub manifest_bytes: Bytes,
    /// The manifest, checked.
    pub manifest: Manifest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    image_layout_version: String,
}

// === impl Layout ===

impl Layout {
    /// Opens a layout in a directory that the administrator has chosen.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self> {
        let dir = open_dir(directory)?;
        let stamp = Some(stamp(&dir)?);
        Self::new(Place::Directory(dir), limits, stamp)
    }

    /// Opens what an archive holds: an OCI layout, else what `docker save` wrote before there was one.
    pub fn of_archive(archive: Archive, limits: Limits) -> Result<Self> {
        Self::new(Place::Archive(archive), limits, None)
    }

    /// The stamp of the index of a layout in a directory as it is now.
    pub fn stamp_of(directory: &Path) -> Result<Stamp> {
        stamp(&open_dir(directory)?)
    }

    /// The stamp that the index had when the layout was opened; none of an archive.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    fn new(place: Place, limits: Limits, stamp: Option<Stamp>) -> Result<Self> {
        match read_json::<Mark>(&place, MARK, MARK_MAX) {
            Ok(mark) => check_version(&mark)?,
            Err(error) if error.is_absent() => return Self::of_docker_archive(place, limits),
            Err(error) => return Err(error),
        }
        let bytes = read_all(&place, INDEX, limits.manifest)?;
        let document = parse(&bytes, Some(INDEX_TYPE), &limits);
        let entries = match document.map_err(|source| LayoutError::Manifest { what: INDEX.to_owned(), source })? {
            Document::Index(entries) => entries,
            Document::Manifest(_) => return Err(LayoutError::Unknown),
        };
        Ok(Self { place, limits, entries, converted: Converted::default(), stamp })
    }

    fn of_docker_archive(place: Place, limits: Limits) -> Result<Self> {
        let (entries, converted) = docker::convert(&place, &limits)?;
        Ok(Self { place, limits, entries, converted, stamp: None })
    }

    /// The images of the layout: entries of one name are one image for different platforms, and entries of one digest are one image
    /// with several names. `repository` completes names that are tags alone. What is no image, as an attestation, is left out.
    pub fn candidates(&self, repository: Option<&Reference>) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for entry in self.entries.iter().filter(|entry| !entry.is_attestation()) {
            let name = Name::of(&entry.descriptor.annotations).reference(repository);
            let same = |known: &&mut Candidate| name.as_ref().is_some_and(|name| known.names.contains(name));
            match candidates.iter_mut().find(same) {
                Some(known) => known.entries.push(entry.clone()),
                None => add(&mut candidates, name, entry),
            }
        }
        candidates
    }

    /// The image of a candidate for a platform. One that is there alone is taken for whatever platform it is, as a pull does. A layout need
    /// not hold what an index names for other platforms.
    pub fn resolve(&self, candidate: &Candidate, platform: &Platform) -> Result<Found> {
        let unusable = |source| LayoutError::Manifest { what: INDEX.to_owned(), source };
        let mut walk = Walk::default();
        let mut current = match candidate.entries.as_slice() {
            [only] => {
                walk = Walk::from(&only.descriptor.digest);
                only.descriptor.clone()
            }
            several => {
                walk.descend(several, platform).map_err(unusable)?;
                next(&mut walk, platform)?
            }
        };
        let root = (candidate.entries.len() == 1).then(|| current.digest.clone());
        loop {
            match self.document(&current) {
                Ok((bytes, Document::Manifest(manifest))) => {
                    let root_digest = root.unwrap_or_else(|| current.digest.clone());
                    let manifest = *manifest;
                    return Ok(Found { root_digest, manifest_digest: current.digest, manifest_bytes: bytes, manifest });
                }
                Ok((_, Document::Index(entries))) => {
                    let what = current.digest.to_string();
                    walk.descend(&entries, platform).map_err(|source| LayoutError::Manifest { what, source })?;
                    current = next(&mut walk, platform)?;
                }
                Err(error) if error.is_absent() => current = walk.next().ok_or(error)?,
                Err(error) => return Err(error),
            }
        }
    }

    /// A manifest or an index, whose bytes have the digest of the descriptor.
    pub fn document(&self, descriptor: &Descriptor) -> Result<(Bytes, Document)> {
        let bytes = self.small(descriptor, self.limits.manifest)?;
        let parsed = parse(&bytes, Some(&descriptor.media_type), &self.limits);
        let document =
            parsed.map_err(|source| LayoutError::Manifest { what: descriptor.digest.to_string(), source })?;
        Ok((bytes, document))
    }

    /// A whole blob of at most `cap` bytes, its size and digest checked: for documents and configs.
    pub fn small(&self, descriptor: &Descriptor, cap: u64) -> Result<Bytes> {
        let what = || descriptor.digest.to_string();
        if descriptor.size > cap {
            return Err(LayoutError::TooLarge { what: what(), size: descriptor.size, limit: cap });
        }
        let mut bytes = Vec::new();
        let mut blob = self.blob(&descriptor.digest, descriptor.size)?;
        blob.read_to_end(&mut bytes).map_err(|source| LayoutError::Read { what: what(), source })?;
        let actual = Digester::of(descriptor.digest.algorithm(), &bytes);
        if actual == descriptor.digest {
            return Ok(bytes.into());
        }
        Err(LayoutError::Digest { expected: descriptor.digest.clone(), actual })
    }

    /// The bytes of a blob, of which only the number is checked: whoever stores them holds them against the digest.
    pub fn blob(&self, digest: &Digest, size: u64) -> Result<Blob> {
        let blob = match self.converted.open(digest, &self.place)? {
            Some(blob) => blob,
            None => self.open_blob(digest)?,
        };
        if blob.size() == size {
            return Ok(blob);
        }
        Err(LayoutError::Size { digest: digest.clone(), expected: size, actual: blob.size() })
    }

    fn open_blob(&self, digest: &Digest) -> Result<Blob> {
        let path = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        let opened = self.place.open(&path);
        opened.map_err(
            |error| {
                if error.is_absent() { LayoutError::AbsentBlob { digest: digest.clone() } } else { error }
            },
        )
    }
}

fn open_dir(directory: &Path) -> Result<SafeDir> {
    SafeDir::open(directory).map_err(|source| LayoutError::Open { what: directory.display().to_string(), source })
}

fn stamp(dir: &SafeDir) -> Result<Stamp> {
    let file = dir.open_file(INDEX).map_err(|source| LayoutError::Open { what: INDEX.to_owned(), source })?;
    let file = file.metadata().map_err(|source| LayoutError::Read { what: INDEX.to_owned(), source })?;
    Ok(Stamp {
        file: (file.dev(), file.ino()),
        size: file.size(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

fn check_version(mark: &Mark) -> Result<()> {
    if mark.image_layout_version.starts_with(MAJOR) {
        return Ok(());
    }
    Err(LayoutError::Version { version: mark.image_layout_version.clone() })
}

/// An entry that is no candidate's yet by its name: one more name of an image that is known, or another image.
fn add(candidates: &mut Vec<Candidate>, name: Option<Reference>, entry: &Entry) {
    let same = |known: &&mut Candidate| matches!(known.entries.as_slice(), [only] if only.descriptor.digest == entry.descriptor.digest);
    match candidates.iter_mut().find(same) {
        Some(known) => known.names.extend(name),
        None => candidates.push(Candidate { names: name.into_iter().collect(), entries: vec![entry.clone()] }),
    }
}

fn next(walk: &mut Walk, platform: &Platform) -> Result<Descriptor> {
    if let Some(descriptor) = walk.next() {
        return Ok(descriptor);
    }
    let available = std::mem::take(walk).available();
    Err(LayoutError::Platform { wanted: platform.clone(), available })
}

/// A whole file of at most `cap` bytes.
pub(crate) fn read_all(place: &Place, path: &str, cap: u64) -> Result<Vec<u8>> {
    let mut blob = place.open(path)?;
    if blob.size() > cap {
        return Err(LayoutError::TooLarge { what: path.to_owned(), size: blob.size(), limit: cap });
    }
    let mut bytes = Vec::new();
    blob.read_to_end(&mut bytes).map_err(|source| LayoutError::Read { what: path.to_owned(), source })?;
    Ok(bytes)
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(place: &Place, path: &str, cap: u64) -> Result<T> {
    let bytes = read_all(place, path, cap)?;
    serde_json::from_slice(&bytes).map_err(|source| LayoutError::Json { what: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
