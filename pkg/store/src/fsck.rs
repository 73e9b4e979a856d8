//! Proves the whole tree: rows against each other, files against rows, and every byte against its digest. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_api::text::chain;
use imagevol_base::Holder;
use serde::de::DeserializeOwned;

use crate::check::Check;
use crate::content::{Content, ContentKey};
use crate::durable::entries;
use crate::expiry::Download;
use crate::head::Head;
use crate::layout::Layout;
use crate::links::{BLOBS_OF, IMAGES_OF, NAMES_OF};
use crate::part::{Corrupt, Cure, Part, PartRow};
use crate::pins::Pin;
use crate::quarantine::Retired;
use crate::recovery::files_without_rows;
use crate::rows::{
    CONTENT, DIFF_IDS, DOWNLOADS, HEADS, IMAGES, Links, NAMES, PINS, REFERENCES, RETIRED, Snapshot, Table, USES, name,
};
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
    /// What a repair has done about it, a sentence each.
    pub repaired: Vec<String>,
}

/// All rows that can be read, as they were at one moment.
pub(crate) struct Rows {
    images: BTreeMap<Digest, ImageRecord>,
    /// `None` in a store of a version that did not have them.
    heads: Option<BTreeMap<Digest, Head>>,
    names: BTreeMap<String, Digest>,
    content: BTreeMap<ContentKey, Content>,
    diff_ids: BTreeMap<Digest, Digest>,
    references: BTreeMap<Holder, Reference>,
    retired: BTreeMap<Digest, Retired>,
}

// === impl Store ===

impl Store {
    /// Checks everything, past the page cache. What appears or goes while it runs is judged as it was when it began, or is left out.
    pub fn fsck(&self) -> Result<Report> {
        let (rows, mut report) = self.check_rows()?;
        let corrupt = self.check_bytes(&rows, &mut report)?;
        report.problems.extend(corrupt.iter().map(|corrupt| problem_of(&corrupt.part, &corrupt.problem)));
        self.list_unfinished(&mut report)?;
        Ok(report)
    }

    /// The rows against each other, and the files' names against the rows. Quick.
    pub(crate) fn check_rows(&self) -> Result<(Rows, Report)> {
        self.rows().read(|snapshot| {
            let mut report = Report::default();
            let rows = Rows::read(snapshot, &mut report)?;
            rows.check(&mut report);
            rows.check_links(snapshot, &mut report)?;
            self.check_files(snapshot, &mut report)?;
            Ok((rows, report))
        })
    }

    /// Every byte against its digest: what is wrong with that, and is no more to be relied on.
    pub(crate) fn check_bytes(&self, rows: &Rows, report: &mut Report) -> Result<Vec<Corrupt>> {
        let mut found = Vec::new();
        for part in rows.parts() {
            match part {
                Part::Content(_) => report.blobs += 1,
                Part::Image(_) => report.images += 1,
            }
            match self.check(&part)?.map_or(Ok((0, None)), Check::run) {
                Ok((bytes, None)) => report.bytes += bytes,
                Ok((_, Some(corrupt))) => found.push(corrupt),
                // A finding about a row that is gone by now is none.
                Err(error) if self.row_of(&part)?.is_some() => {
                    report.problems.push(problem_of(&part, &chain(&error)));
                }
                Err(_) => {}
            }
        }
        Ok(found)
    }

    /// While the daemon runs, a file whose row is about to be written is no error, and after a kill start deletes it.
    fn check_files(&self, snapshot: &Snapshot, report: &mut Report) -> Result<()> {
        for path in files_without_rows(&self.inner.layout, snapshot)? {
            report.unfinished.push(format!("{}: no row names it", path.display()));
        }
        Ok(())
    }

    /// What is neither content nor wrong.
    pub(crate) fn list_unfinished(&self, report: &mut Report) -> Result<()> {
        for dir in entries(&self.inner.layout.ingest_dir())? {
            let length = durable::length(&dir.join("data"))?.unwrap_or(0);
            report.unfinished.push(format!("{}: download of which {length} bytes are here", dir.display()));
        }
        for (path, length) in self.quarantined_files()? {
            report.unfinished.push(format!("{}: {length} bytes in quarantine", path.display()));
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
            heads: if snapshot.has(HEADS)? { Some(read(snapshot, HEADS, report)?) } else { None },
            names: read(snapshot, NAMES, report)?,
            content: read(snapshot, CONTENT, report)?,
            diff_ids: read(snapshot, DIFF_IDS, report)?,
            references: read(snapshot, REFERENCES, report)?,
            retired: read(snapshot, RETIRED, report)?,
        })
    }

    /// Content and images.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let content = self.content.keys().cloned().map(Part::Content);
        content.chain(self.images.keys().cloned().map(Part::Image))
    }

    /// The images whose records are wrong: only a pull knows what is right.
    pub(crate) fn wrong_images(&self) -> impl Iterator<Item = Corrupt> {
        self.images.iter().filter_map(|(digest, image)| {
            let problem = self.problems_of(digest, image).into_iter().next()?;
            let row = PartRow::Image(Box::new(image.clone()));
            Some(Corrupt { part: Part::Image(digest.clone()), problem, row, cure: Cure::Pull })
        })
    }

    /// The files of content and images, and how long they must be.
    pub(crate) fn files(&self, layout: &Layout) -> Vec<(Part, PathBuf, u64)> {
        let of_content = |(key, content): (&ContentKey, &Content)| {
            let part = Part::Content(key.clone());
            layout.files_of(key, content).into_iter().map(move |(path, length)| (part.clone(), path, length))
        };
        let of_image = |(digest, image): (&Digest, &ImageRecord)| {
            (Part::Image(digest.clone()), layout.image(digest), image.index_bytes)
        };
        self.content.iter().flat_map(of_content).chain(self.images.iter().map(of_image)).collect()
    }

    fn check(&self, report: &mut Report) {
        let used: BTreeSet<ContentKey> = self.images.values().flat_map(ImageRecord::content).collect();
        let unused = self.content.keys().filter(|key| !used.contains(key));
        report.unfinished.extend(unused.map(|key| format!("{key}: no image names it yet")));
        for (digest, image) in &self.images {
            let problems = self.problems_of(digest, image).into_iter();
            report.problems.extend(problems.map(|problem| format!("image {digest}: {problem}")));
        }
        self.check_heads(report);
        for (name, digest) in self.names.iter().filter(|(_, digest)| !self.images.contains_key(digest)) {
            report.problems.push(format!("name {name}: leads to {digest}, which is no image"));
        }
        for (blob, diff_id) in &self.diff_ids {
            if !self.content.contains_key(&ContentKey::Layer(diff_id.clone())) {
                report.problems.push(format!("blob {blob}: leads to layer {diff_id}, which is not here"));
            }
        }
        for (holder, row) in &self.references {
            // What a holder has mounted of an image that was quarantined is that image still.
            let retired = |digest: &Digest| self.retired.get(digest).is_some_and(|retired| retired.is_of(holder));
            let gone = |digest: &&Digest| !self.images.contains_key(*digest) && !retired(digest);
            if let Some(digest) = row.image.as_ref().filter(gone) {
                report.problems.push(format!("reference of {holder}: bound to {digest}, which is no image"));
            }
        }
    }

    fn check_heads(&self, report: &mut Report) {
        let Some(heads) = &self.heads else { return };
        for (digest, image) in &self.images {
            if heads.get(digest) != Some(&Head::from(image)) {
                report.problems.push(format!("image {digest}: its row for lists does not agree with its record"));
            }
        }
        for digest in heads.keys().filter(|digest| !self.images.contains_key(digest)) {
            report.problems.push(format!("row for lists of {digest}: there is no such image"));
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

/// A problem with a part, as a report says it.
pub(crate) fn problem_of(part: &Part, problem: &str) -> String {
    match part {
        Part::Content(key) => format!("{key}: {problem}"),
        Part::Image(manifest) => format!("image {manifest}: {problem}"),
    }
}
