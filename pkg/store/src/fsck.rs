//! Proves the whole tree: rows against files, files against rows, and every byte against its digest. Reads only.

use std::fs::File;
use std::io::Read as _;

use imagevol_api::oci::Digest;

use crate::content::{Content, ContentKey};
use crate::image::{device_table, hash, hash_file};
use crate::recovery::{content_in_use, entries, files_without_rows};
use crate::rows::{CONTENT, IMAGES, NAMES, REFERENCES};
use crate::store::Store;
use crate::{ImageRecord, Reference, Result, durable};

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Images checked.
    pub images: u64,
    /// Pieces of content hashed.
    pub blobs: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Downloads and content that wait for a pull to go on: no error.
    pub unfinished: Vec<String>,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
}

// === impl Store ===

impl Store {
    /// Checks everything. Content that appears or goes while it runs may be reported as missing: ask again.
    pub fn fsck(&self) -> Result<Report> {
        let mut report = Report::default();
        let images = self.rows().all::<ImageRecord>(IMAGES)?;
        let used = content_in_use(&images);
        for (key, content) in self.rows().all::<Content>(CONTENT)? {
            self.check_content(&key, &content, &mut report);
            if !key.parse().is_ok_and(|key: ContentKey| used.contains(&key)) {
                report.unfinished.push(format!("{key}: no image names it yet"));
            }
        }
        for (_, image) in &images {
            self.check_image(image, &mut report)?;
        }
        self.check_names_and_references(&mut report)?;
        self.check_files(&mut report)?;
        Ok(report)
    }

    fn check_content(&self, key: &str, content: &Content, report: &mut Report) {
        let Ok(parsed) = key.parse::<ContentKey>() else {
            return report.problems.push(format!("{key}: the row's key names no content"));
        };
        report.blobs += 1;
        report.bytes += content.size;
        if let Err(problem) = self.content_problem(&parsed, content) {
            report.problems.push(format!("{key}: {problem}"));
        }
    }

    fn content_problem(&self, key: &ContentKey, content: &Content) -> Result<(), String> {
        let path = self.inner.layout.content(key);
        let file = File::open(&path).map_err(|error| format!("cannot be opened: {error}"))?;
        let length = file.metadata().map_err(|error| format!("cannot be read: {error}"))?.len();
        if length != durable::padded(content.size) {
            return Err(format!("is {length} bytes long, expected {}", durable::padded(content.size)));
        }
        let actual =
            hash(key.digest().algorithm(), file.take(content.size), &path).map_err(|error| error.to_string())?;
        same("content", key.digest(), &actual)?;
        self.index_problem(key, content)
    }

    fn index_problem(&self, key: &ContentKey, content: &Content) -> Result<(), String> {
        let ContentKey::Layer(diff_id) = key else { return Ok(()) };
        let expected = content.index.as_ref().ok_or("has no digest of its index")?;
        let actual = hash_file(&self.inner.layout.layer_index(diff_id)).map_err(|error| error.to_string())?;
        same("index", expected, &actual)
    }

    fn check_image(&self, image: &ImageRecord, report: &mut Report) -> Result<()> {
        report.images += 1;
        for key in image.content() {
            if self.rows().get::<Content>(CONTENT, &key.to_string())?.is_none() {
                report.problems.push(format!("image {}: {key} is missing", image.manifest));
            }
        }
        if let Err(problem) = self.image_problem(image) {
            report.problems.push(format!("image {}: {problem}", image.manifest));
        }
        Ok(())
    }

    fn image_problem(&self, image: &ImageRecord) -> Result<(), String> {
        let path = self.inner.layout.image(&image.manifest);
        let expected = image.index_digest.as_ref().ok_or("has no digest of its metadata file")?;
        let actual = hash_file(&path).map_err(|error| error.to_string())?;
        same("metadata file", expected, &actual)?;
        let file = File::open(&path).map_err(|error| error.to_string())?;
        let devices = imagevol_erofs::read_devices(file).map_err(|error| error.to_string())?;
        let expected = device_table(image).map_err(|error| error.to_string())?;
        if devices == expected { Ok(()) } else { Err("its device table does not name its layers".to_owned()) }
    }

    fn check_names_and_references(&self, report: &mut Report) -> Result<()> {
        for (name, digest) in self.rows().all::<Digest>(NAMES)? {
            if self.rows().get::<ImageRecord>(IMAGES, &digest.to_string())?.is_none() {
                report.problems.push(format!("name {name}: leads to {digest}, which is no image"));
            }
        }
        for (holder, row) in self.rows().all::<Reference>(REFERENCES)? {
            let Some(digest) = row.image else { continue };
            if self.rows().get::<ImageRecord>(IMAGES, &digest.to_string())?.is_none() {
                report.problems.push(format!("reference of {holder}: bound to {digest}, which is no image"));
            }
        }
        Ok(())
    }

    /// While the daemon runs, a file whose row is about to be written is no error: such files are only told of when they are old.
    fn check_files(&self, report: &mut Report) -> Result<()> {
        for path in files_without_rows(self)? {
            report.unfinished.push(format!("{}: no row names it", path.display()));
        }
        for dir in entries(&self.inner.layout.ingest_dir())? {
            let length = std::fs::metadata(dir.join("data")).map_or(0, |data| data.len());
            report.unfinished.push(format!("{}: download of which {length} bytes are here", dir.display()));
        }
        Ok(())
    }
}

fn same(what: &str, expected: &Digest, actual: &Digest) -> Result<(), String> {
    if expected == actual { Ok(()) } else { Err(format!("{what} is corrupt: expected {expected}, got {actual}")) }
}
