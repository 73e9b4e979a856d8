//! Pins: images that nobody collects, whoever needs them.

use imagevol_api::oci::{Digest, ImagePattern};
use serde::{Deserialize, Serialize};

use crate::links::NAMES_OF;
use crate::references::without_platform;
use crate::rows::{PINS, Snapshot, Write};
use crate::store::{Store, now};
use crate::{Result, StoreError, links};

/// A pin, and what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Since when, seconds since 1970.
    pub since: i64,
    /// The images that it covers now.
    pub images: Vec<Digest>,
}

/// The row of a pin, by its pattern.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pin {
    since: i64,
}

/// The patterns of all pins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(pub(crate) Vec<ImagePattern>);

// === impl Pins ===

impl Pins {
    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self> {
        Self::parse(snapshot.all(PINS)?)
    }

    pub(crate) fn in_write(write: &Write<'_>) -> Result<Self> {
        Self::parse(write.all(PINS)?)
    }

    fn parse(rows: Vec<(String, Pin)>) -> Result<Self> {
        let patterns = rows.into_iter().map(|(key, _)| pattern(&key));
        Ok(Self(patterns.collect::<Result<_>>()?))
    }

    /// Those that keep an image which these names lead to.
    pub(crate) fn covering(&self, manifest: &Digest, names: &[String]) -> Vec<ImagePattern> {
        let covers = |pattern: &&ImagePattern| covers(pattern, manifest, names);
        self.0.iter().filter(covers).cloned().collect()
    }
}

// === impl Store ===

impl Store {
    /// Pins the images that a pattern covers, those too that come later. Again is no change.
    pub fn pin(&self, pattern: &ImagePattern) -> Result<()> {
        let key = pattern.to_string();
        let write = self.rows().write()?;
        if write.get::<Pin>(PINS, &key)?.is_some() {
            return Ok(());
        }
        write.put(PINS, &key, &Pin { since: now() })?;
        // Killed before this: nothing is pinned.
        write.commit()
    }

    /// Takes a pin back; `false` if there was none.
    pub fn unpin(&self, pattern: &ImagePattern) -> Result<bool> {
        let key = pattern.to_string();
        let write = self.rows().write()?;
        if write.get::<Pin>(PINS, &key)?.is_none() {
            return Ok(false);
        }
        write.remove(PINS, &key)?;
        write.commit()?;
        Ok(true)
    }

    /// The pins that keep an image.
    pub fn pins_of(&self, image: &Digest) -> Result<Vec<ImagePattern>> {
        self.rows().read(|snapshot| {
            let names = snapshot.linked(NAMES_OF, &image.to_string())?;
            Ok(Pins::of(snapshot)?.covering(image, &names))
        })
    }

    /// All pins, with the images that each of them keeps now.
    pub fn pins(&self) -> Result<Vec<(ImagePattern, Pinned)>> {
        self.rows().read(|snapshot| {
            let names = links::names_by_image(snapshot)?;
            let images = snapshot.digests_of_images()?;
            let pinned = snapshot.all::<Pin>(PINS)?.into_iter().map(|(key, pin)| {
                let pattern = pattern(&key)?;
                let covered = images
                    .iter()
                    .filter(|image| covers(&pattern, image, names.get(image).map_or(&[][..], Vec::as_slice)));
                let images = covered.cloned().collect();
                Ok((pattern, Pinned { since: pin.since, images }))
            });
            pinned.collect()
        })
    }
}

/// Names of other platforms lead to other images of the same reference, which is what is pinned.
fn covers(pattern: &ImagePattern, manifest: &Digest, names: &[String]) -> bool {
    pattern.matches(manifest, names.iter().map(|name| without_platform(name)))
}

fn pattern(key: &str) -> Result<ImagePattern> {
    key.parse().map_err(|_| StoreError::Key { table: "pins", key: key.to_owned() })
}
