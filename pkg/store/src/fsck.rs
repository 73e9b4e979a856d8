//! Proves the whole tree: rows against each other, files against rows, and every byte against its digest. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::str::FromStr;

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_base::Holder;
use serde::de::DeserializeOwned;

use crate::content::{Content, ContentKey};
use crate::durable::entries;
use crate::expiry::Download;
use crate::hash::{hash, hash_file};
use crate::links::{BLOBS_OF, IMAGES_OF, NAMES_OF};
use crate::pins::Pin;
use crate::recovery::files_without_rows;
use crate::rows::{CONTENT, DIFF_IDS, DOWNLOADS, IMAGES, Links, NAMES, PINS, REFERENCES, Snapshot, Table, USES, name};
use crate::store::Store;
use crate::{ImageRecord, Reference, Result, Use, durable};

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Images checked.
    pub images: u64,
    /// Pieces of content checked.
    pub blobs: u64,
    /// Bytes that are what their digests say.
    pub bytes: u64,
    /// Downloads, content and files that wait for a pull to go on or for the next start: no error.
    pub unfinished: Vec<String>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

/// All rows that can be read, as they were at one moment.
struct Rows {
    images: BTreeMap<Digest, ImageRecord>,
    names: BTreeMap<String, Digest>,
    content: BTreeMap<ContentKey, Content>,
    diff_ids: BTreeMap<Digest, Digest>,
    references: BTreeMap<Holder, Reference>,
}

/// What is wrong with one thing.
type Finding<T = ()> = Result<T, String>;

// === impl Store ===

impl Store {
    /// Checks everything. What appears or goes while it runs is judged as it was when it began, or is left out. Images and content
    /// that are being read cannot be removed for the moment.
    pub fn fsck(&self) -> Result<Report> {
        let (rows, mut report) = self.rows().read(|snapshot| {
            let mut report = Report::default();
            let rows = Rows::read(snapshot, &mut report)?;
            rows.check(&mut report);
            rows.check_links(snapshot, &mut report)?;
            self.check_files(snapshot, &mut report)?;
            Ok((rows, report))
        })?;
        for (key, content) in &rows.content {
            self.check_content(key, content, &mut report)?;
        }
        for (digest, image) in &rows.images {
            self.check_image(digest, image, &mut report)?;
        }
        self.list_downloads(&mut report)?;
        Ok(report)
    }

    /// A finding about a row that is gone by now is none.
    fn check_content(&self, key: &ContentKey, content: &Content, report: &mut Report) -> Result<()> {
        let text = key.to_string();
        report.blobs += 1;
        match self.hash_content(key, content) {
            Ok(bytes) => report.bytes += bytes,
            Err(problem) if self.rows().get(CONTENT, &text)?.as_ref() == Some(content) => {
                report.problems.push(format!("{text}: {problem}"));
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn hash_content(&self, key: &ContentKey, content: &Content) -> Finding<u64> {
        for (path, length) in self.inner.layout.files_of(key, content) {
            check_length(&path, length)?;
        }
        let path = self.inner.layout.content(key);
        let file = File::open(&path).map_err(|error| format!("cannot be opened: {error}"))?;
        let actual = hash(key.digest().algorithm(), file.take(content.size), &path);
        same("content", key.digest(), &actual.map_err(|error| chain(&error))?)?;
        let ContentKey::Layer(diff_id) = key else { return Ok(content.size) };
        let expected = content.index.as_ref().ok_or("has no digest of its index")?;
        let actual = hash_file(&self.inner.layout.layer_index(diff_id));
        same("index", expected, &actual.map_err(|error| chain(&error))?)?;
        Ok(content.size + content.index_bytes)
    }

    fn check_image(&self, digest: &Digest, image: &ImageRecord, report: &mut Report) -> Result<()> {
        report.images += 1;
        match self.hash_image(digest, image) {
            Ok(bytes) => report.bytes += bytes,
            Err(problem) if self.rows().get::<ImageRecord>(IMAGES, &digest.to_string())?.is_some() => {
                report.problems.push(format!("image {digest}: {problem}"));
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn hash_image(&self, digest: &Digest, image: &ImageRecord) -> Finding<u64> {
        let path = self.inner.layout.image(digest);
        check_length(&path, image.index_bytes)?;
        let expected = image.index_digest.as_ref().ok_or("has no digest of its metadata file")?;
        let actual = hash_file(&path).map_err(|error| chain(&error))?;
        same("metadata file", expected, &actual)?;
        let file = File::open(&path).map_err(|error| format!("cannot be opened: {error}"))?;
        let devices = imagevol_erofs::read_devices(file).map_err(|error| chain(&error))?;
        let expected = image.devices().table().map_err(|error| chain(&error))?;
        if devices == expected {
            Ok(image.index_bytes)
        } else {
            Err("its device table does not name its layers".into())
        }
    }

    /// While the daemon runs, a file whose row is about to be written is no error, and after a kill start deletes it.
    fn check_files(&self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        for path in files_without_rows(&self.inner.layout, snapshot)? {
            report.unfinished.push(format!("{}: no row names it", path.display()));
        }
        Ok(())
    }

    fn list_downloads(&self, report: &mut Report) -> Result<()> {
        for dir in entries(&self.inner.layout.ingest_dir())? {
            let length = durable::length(&dir.join("data"))?.unwrap_or(0);
            report.unfinished.push(format!("{}: download of which {length} bytes are here", dir.display()));
        }
        Ok(())
    }
}

// === impl Rows ===

impl Rows {
    fn read(snapshot: &Snapshot, report: &mut Report) -> Result<Self> {
        let _uses: BTreeMap<Digest, Use> = read(snapshot, USES, report)?;
        let _pins: BTreeMap<ImagePattern, Pin> = read(snapshot, PINS, report)?;
        let _downloads: BTreeMap<String, Download> = read(snapshot, DOWNLOADS, report)?;
        Ok(Self {
            images: read(snapshot, IMAGES, report)?,
            names: read(snapshot, NAMES, report)?,
            content: read(snapshot, CONTENT, report)?,
            diff_ids: read(snapshot, DIFF_IDS, report)?,
            references: read(snapshot, REFERENCES, report)?,
        })
    }

    fn check(&self, report: &mut Report) {
        let used: BTreeSet<ContentKey> = self.images.values().flat_map(ImageRecord::content).collect();
        let unused = self.content.keys().filter(|key| !used.contains(key));
        report.unfinished.extend(unused.map(|key| format!("{key}: no image names it yet")));
        for (digest, image) in &self.images {
            let problems = self.problems_of(digest, image).into_iter();
            report.problems.extend(problems.map(|problem| format!("image {digest}: {problem}")));
        }
        for (name, digest) in self.names.iter().filter(|(_, digest)| !self.images.contains_key(digest)) {
            report.problems.push(format!("name {name}: leads to {digest}, which is no image"));
        }
        for (blob, diff_id) in &self.diff_ids {
            if !self.content.contains_key(&ContentKey::Layer(diff_id.clone())) {
                report.problems.push(format!("blob {blob}: leads to layer {diff_id}, which is not here"));
            }
        }
        for (holder, row) in &self.references {
            if let Some(digest) = row.image.as_ref().filter(|digest| !self.images.contains_key(digest)) {
                report.problems.push(format!("reference of {holder}: bound to {digest}, which is no image"));
            }
        }
    }

    fn problems_of(&self, digest: &Digest, image: &ImageRecord) -> Vec<String> {
        let mut problems = Vec::new();
        if image.manifest != *digest {
            problems.push(format!("its record is that of {}", image.manifest));
        }
        let content = image.content();
        problems.extend(
            content.iter().filter(|key| !self.content.contains_key(key)).map(|key| format!("{key} is missing")),
        );
        for layer in &image.layers {
            let stored = self.content.get(&layer.content).map(|content| content.size);
            if let Some(size) = stored.filter(|size| *size != layer.stored_size) {
                problems.push(format!("{} has {size} bytes, not {}", layer.content, layer.stored_size));
            }
        }
        let bytes: u64 = content.iter().filter_map(|key| self.content.get(key)).map(Content::bytes_on_disk).sum();
        if problems.is_empty() && image.size != bytes + image.index_bytes {
            problems.push(format!("takes {} bytes on disk, not {}", bytes + image.index_bytes, image.size));
        }
        problems
    }

    /// The ways back must be those that the rows say.
    fn check_links(&self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        let pair = |key: &dyn ToString, linked: &dyn ToString| (key.to_string(), linked.to_string());
        let images = self
            .images
            .iter()
            .flat_map(|(digest, image)| image.content().into_iter().map(move |key| pair(&key, digest)));
        let expected: [(Links, BTreeSet<(String, String)>); 3] = [
            (IMAGES_OF, images.collect()),
            (NAMES_OF, self.names.iter().map(|(name, digest)| pair(digest, name)).collect()),
            (BLOBS_OF, self.diff_ids.iter().map(|(blob, diff_id)| pair(diff_id, blob)).collect()),
        ];
        for (links, expected) in expected {
            let actual: BTreeSet<_> = snapshot.all_links(links)?.into_iter().collect();
            for (key, linked) in expected.symmetric_difference(&actual) {
                report.problems.push(format!("link from {key} to {linked} does not agree with the rows"));
            }
        }
        Ok(())
    }
}

/// The rows of a table; those that cannot be read are problems.
fn read<K, V>(snapshot: &Snapshot, table: Table, report: &mut Report) -> Result<BTreeMap<K, V>>
where
    K: FromStr + Ord,
    V: DeserializeOwned,
{
    let mut rows = BTreeMap::new();
    for (key, row) in snapshot.scan::<V>(table)? {
        match (key.parse(), row) {
            (Ok(key), Ok(row)) => drop(rows.insert(key, row)),
            (_, Err(error)) => report.problems.push(chain(&error)),
            (Err(_), Ok(_)) => {
                report.problems.push(format!("row {key:?} of table {} has a key that cannot be read", name(table)));
            }
        }
    }
    Ok(rows)
}

fn check_length(path: &std::path::Path, expected: u64) -> Finding {
    match durable::length(path).map_err(|error| chain(&error))? {
        None => Err(format!("{} is missing", path.display())),
        Some(length) if length != expected => {
            Err(format!("{} is {length} bytes long, expected {expected}", path.display()))
        }
        Some(_) => Ok(()),
    }
}

fn same(what: &str, expected: &Digest, actual: &Digest) -> Finding {
    if expected == actual { Ok(()) } else { Err(format!("{what} is corrupt: expected {expected}, got {actual}")) }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
