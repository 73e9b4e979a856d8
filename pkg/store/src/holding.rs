//! Who keeps which image, for all images at once.

use std::collections::{BTreeMap, HashMap};

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_base::Holder;
use imagevol_base::collection::NodeTime;

use crate::head::Head;
use crate::pins::Pins;
use crate::references::{candidates, holder, without_platform};
use crate::rows::{HEADS, IMAGES, REFERENCES, Snapshot};
use crate::store::Store;
use crate::{ImageKind, ImageRecord, Reference, Result, StoreError, links};

/// An image with all that leads to it and keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageState {
    /// What it is made of.
    pub image: ImageRecord,
    /// The names that lead to it.
    pub names: Vec<String>,
    /// The rows that keep it: bound to it, or waiting for a name of it.
    pub holders: Vec<(Holder, Reference)>,
    /// The pins that keep it.
    pub pins: Vec<ImagePattern>,
}

/// An image as lists show it. Its layers are left out: to read them takes longer than all else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// What its layers are.
    pub kind: ImageKind,
    /// Bytes of its files on disk, shared content included.
    pub size: u64,
    /// When it was pulled last, seconds since 1970.
    pub pulled_at: i64,
    /// The names that lead to it.
    pub names: Vec<String>,
    /// The rows that keep it.
    pub holders: Vec<(Holder, Reference)>,
    /// The pins that keep it.
    pub pins: Vec<ImagePattern>,
}

/// What leads to images and keeps them, by image.
#[derive(Debug)]
pub(crate) struct Holding {
    names: BTreeMap<Digest, Vec<String>>,
    holders: HashMap<Digest, Vec<(Holder, Reference)>>,
    pins: Pins,
}

// === impl Holding ===

impl Holding {
    /// Rows that have come to their end before `now` keep nothing.
    pub(crate) fn read(snapshot: &Snapshot, now: NodeTime) -> Result<Self> {
        let names = links::names_by_image(snapshot)?;
        let rows = snapshot.all::<Reference>(REFERENCES)?.into_iter();
        let rows: Vec<(Holder, Reference)> = rows
            .filter(|(_, row)| !row.is_over(now))
            .map(|(key, row)| Ok((holder(&key)?, row)))
            .collect::<Result<_>>()?;
        let holders = by_image(&names, rows);
        Ok(Self { names, holders, pins: Pins::of(snapshot)? })
    }

    /// Takes what is known of an image.
    pub(crate) fn take(&mut self, image: &Digest) -> (Vec<String>, Vec<(Holder, Reference)>, Vec<ImagePattern>) {
        let names = self.names.remove(image).unwrap_or_default();
        let pins = self.pins.covering(image, &names);
        (names, self.holders.remove(image).unwrap_or_default(), pins)
    }
}

// === impl Store ===

impl Store {
    /// All images with what leads to them and keeps them, as they are at one moment.
    pub fn image_states(&self) -> Result<Vec<ImageState>> {
        let now = self.now();
        self.rows().read(|snapshot| {
            let mut holding = Holding::read(snapshot, now)?;
            let states = snapshot.all::<ImageRecord>(IMAGES)?.into_iter().map(|(_, image)| {
                let (names, holders, pins) = holding.take(&image.manifest);
                ImageState { image, names, holders, pins }
            });
            Ok(states.collect())
        })
    }

    /// All images as lists show them, as they are at one moment.
    pub fn image_summaries(&self) -> Result<Vec<ImageSummary>> {
        let now = self.now();
        self.rows().read(|snapshot| {
            let mut holding = Holding::read(snapshot, now)?;
            let summaries = snapshot.all::<Head>(HEADS)?.into_iter().map(|(key, head)| {
                let manifest: Digest = key.parse().map_err(|_| StoreError::Key { table: "heads", key })?;
                let Head { kind, size, pulled_at, index_bytes: _ } = head;
                let (names, holders, pins) = holding.take(&manifest);
                Ok(ImageSummary { manifest, kind, size, pulled_at, names, holders, pins })
            });
            summaries.collect()
        })
    }
}

/// A row keeps what [`Reference::keeps`] says.
pub(crate) fn by_image(
    names: &BTreeMap<Digest, Vec<String>>,
    rows: Vec<(Holder, Reference)>,
) -> HashMap<Digest, Vec<(Holder, Reference)>> {
    let mut known: HashMap<&str, Vec<&Digest>> = HashMap::new();
    for (image, names) in names {
        for name in names {
            known.entry(without_platform(name)).or_default().push(image);
        }
    }
    let mut holders: HashMap<Digest, Vec<(Holder, Reference)>> = HashMap::new();
    for (holder, row) in rows {
        for image in kept(&known, &row) {
            holders.entry(image).or_default().push((holder.clone(), row.clone()));
        }
    }
    holders
}

fn kept(known: &HashMap<&str, Vec<&Digest>>, row: &Reference) -> Vec<Digest> {
    if let Some(bound) = &row.image {
        return vec![bound.clone()];
    }
    let mut images = Vec::new();
    for name in candidates(&row.reference) {
        images.extend(known.get(name.as_str()).into_iter().flatten().copied().cloned());
        images.extend(name.parse::<Digest>());
    }
    images.sort();
    images.dedup();
    images
}
