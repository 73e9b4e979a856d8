//! Reference rows: who wants which image, from the moment that it is wanted until it is given up.

use imagevol_api::oci::{Digest, Reference as ImageReference};
use imagevol_base::Holder;
use imagevol_base::collection::NodeTime;
use serde::{Deserialize, Serialize};

use crate::links::NAMES_OF;
use crate::rows::{IMAGES, NAMES, REFERENCES, Write, name};
use crate::store::{Store, now};
use crate::terms::{Terms, Until};
use crate::uses::SLACK;
use crate::{ImageRecord, Result, StoreError};

/// The row of a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reference {
    /// What is wanted, normalized.
    pub reference: String,
    /// The image, once it is known and present.
    pub image: Option<Digest>,
    /// Since when, seconds since 1970.
    pub since: i64,
    /// When it ends unless it is renewed, in the node's own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<NodeTime>,
    /// What else ends it.
    #[serde(default)]
    pub until: Until,
}

/// What leads to an image: a normalized reference, and where that stands for several images, for which platform.
///
/// A name without a platform is of the node's own. The key of its row: no reference has a space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName(String);

// === impl ImageName ===

impl ImageName {
    /// The name of the image that `reference` stands for on the node's own platform, or on any.
    pub fn new(reference: &ImageReference) -> Self {
        Self(reference.to_string())
    }

    /// The name of the image that it stands for on another platform.
    pub fn on(reference: &ImageReference, platform: &str) -> Self {
        Self(on(&reference.to_string(), platform))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Reference ===

impl Reference {
    /// The row of one that waits for an image.
    pub(crate) fn new(reference: &str, terms: Terms, now: NodeTime) -> Self {
        let (expires, until) = (terms.expires(now), terms.until);
        Self { reference: reference.to_owned(), image: None, since: 0, expires, until }
    }

    /// What is written where a row is already: while the reference is the same, it stays bound.
    pub(crate) fn in_place_of(self, known: Option<&Self>) -> Self {
        match known {
            Some(known) if known.reference == self.reference => {
                Self { image: known.image.clone(), since: known.since, ..self }
            }
            Some(_) | None => self,
        }
    }

    /// Whether it keeps `image`: bound to it, or waiting for a name that leads to it.
    pub(crate) fn keeps(&self, image: &Digest, names: &[String]) -> bool {
        if let Some(bound) = &self.image {
            return bound == image;
        }
        let manifest = image.to_string();
        // Its platform is not known before it is bound: until then it keeps the image of each.
        let leads = |name: &String| names.iter().any(|known| without_platform(known) == name);
        candidates(&self.reference).iter().any(|name| leads(name) || *name == manifest)
    }
}

// === impl Store ===

impl Store {
    /// Writes that `holder` wants `reference`, until it is released. A row that is bound to an image stays bound while the reference
    /// is the same.
    pub fn hold(&self, holder: &Holder, reference: &str) -> Result<()> {
        self.hold_for(holder, reference, Terms::default())
    }

    /// The same on these terms, which begin anew each time.
    pub fn hold_for(&self, holder: &Holder, reference: &str, terms: Terms) -> Result<()> {
        let (key, clock) = (holder.to_string(), &self.inner.clock);
        let write = self.rows().write()?;
        let known: Option<Reference> = write.get(REFERENCES, &key)?;
        let wanted = Reference { since: now(), ..Reference::new(reference, terms, clock.now()) };
        let row = wanted.in_place_of(known.as_ref());
        if known.as_ref() == Some(&row) {
            return Ok(());
        }
        if let Some(known) = known.filter(|known| known.reference != reference) {
            write.stamp_kept(clock, &known)?;
        }
        write.put(REFERENCES, &key, &row)?;
        // Time must not fall behind what was just promised.
        clock.keep(&write, SLACK)?;
        // Killed before this: nothing is held, and the caller has not been told that it is.
        write.commit()
    }

    /// Ties the holder's row to an image, if both are there in the same transaction; else `false`. A holder that has given its row
    /// up meanwhile gets none back: nobody would take it away again.
    pub fn bind(&self, holder: &Holder, image: &Digest) -> Result<bool> {
        let key = holder.to_string();
        let write = self.rows().write()?;
        let Some(record) = write.get::<ImageRecord>(IMAGES, &image.to_string())? else { return Ok(false) };
        let Some(row) = write.get::<Reference>(REFERENCES, &key)? else { return Ok(false) };
        if row.image.as_ref() != Some(image) {
            write.stamp_kept(&self.inner.clock, &row)?;
            write.put(REFERENCES, &key, &Reference { image: Some(image.clone()), ..row })?;
            write.drop_used_up(holder, &record)?;
            write.commit()?;
        }
        Ok(true)
    }

    /// Gives the row up, and says which image it was bound to. Whatever it kept was used until now.
    pub fn release(&self, holder: &Holder) -> Result<Option<Digest>> {
        self.inner.freeing(|| self.release_once(holder))
    }

    fn release_once(&self, holder: &Holder) -> Result<Option<Digest>> {
        let key = holder.to_string();
        let write = self.rows().write()?;
        let Some(row) = write.get::<Reference>(REFERENCES, &key)? else { return Ok(None) };
        write.stamp_kept(&self.inner.clock, &row)?;
        write.remove(REFERENCES, &key)?;
        // Killed before this: the row is there still.
        write.commit()?;
        Ok(row.image)
    }

    /// All rows.
    pub fn references(&self) -> Result<Vec<(Holder, Reference)>> {
        self.rows().all::<Reference>(REFERENCES)?.into_iter().map(|(key, row)| Ok((holder(&key)?, row))).collect()
    }

    /// The image that a name leads to: `name:tag`, `name@digest`, or the manifest digest itself. A digest decides over a tag beside
    /// it, as everywhere; a name that is not normalized is.
    pub fn resolve(&self, name: &str) -> Result<Option<ImageRecord>> {
        self.rows().read(|snapshot| {
            for name in candidates(name) {
                let digest = snapshot.get::<Digest>(NAMES, &name)?.map_or(name, |digest| digest.to_string());
                if let Some(image) = snapshot.get(IMAGES, &digest)? {
                    return Ok(Some(image));
                }
            }
            Ok(None)
        })
    }

    /// The same on another platform than the node's own. A digest may be the image's own; of a name without a platform, nothing else
    /// is taken.
    pub fn resolve_on(&self, name: &str, platform: &str) -> Result<Option<ImageRecord>> {
        if name.parse::<Digest>().is_ok() {
            return self.resolve(name);
        }
        self.rows().read(|snapshot| {
            for name in candidates(name) {
                let known = snapshot.get::<Digest>(NAMES, &on(&name, platform))?;
                let own =
                    || snapshot.get::<Digest>(NAMES, &name).map(|known| known.filter(|digest| is_of(&name, digest)));
                let Some(digest) = known.map_or_else(own, |digest| Ok(Some(digest)))? else { continue };
                if let Some(image) = snapshot.get(IMAGES, &digest.to_string())? {
                    return Ok(Some(image));
                }
            }
            Ok(None)
        })
    }

    /// Who keeps an image: the rows' keys.
    pub fn holders_of(&self, image: &ImageRecord) -> Result<Vec<Holder>> {
        let (names, now) = (self.names_of(&image.manifest)?, self.now());
        let keeps = |(holder, row): (Holder, Reference)| {
            (!row.is_over(now) && row.keeps(&image.manifest, &names)).then_some(holder)
        };
        Ok(self.references()?.into_iter().filter_map(keeps).collect())
    }

    /// The names that lead to an image.
    pub fn names_of(&self, image: &Digest) -> Result<Vec<String>> {
        self.rows().linked(NAMES_OF, &image.to_string())
    }
}

/// What a name may be known as: itself, and then its normalized form.
pub(crate) fn candidates(name: &str) -> Vec<String> {
    let mut candidates = vec![name.to_owned()];
    // A digest alone is an image, and not the tag of a repository that is called `sha256`.
    if name.parse::<Digest>().is_err() {
        candidates.extend(ImageReference::parse(name).ok().map(normalized).filter(|other| other != name));
    }
    candidates
}

/// The images that a row keeps.
pub(crate) fn kept_by(write: &Write<'_>, row: &Reference) -> Result<Vec<Digest>> {
    if let Some(bound) = &row.image {
        return Ok(vec![bound.clone()]);
    }
    let mut images = Vec::new();
    for name in candidates(&row.reference) {
        images.extend(write.get::<Digest>(NAMES, &name)?);
        images.extend(write.all_below::<Digest>(NAMES, &on(&name, ""))?.into_iter().map(|(_, image)| image));
        images.extend(name.parse::<Digest>());
    }
    Ok(images)
}

/// What a name leads to on any platform.
pub(crate) fn without_platform(name: &str) -> &str {
    name.split_once(' ').map_or(name, |(reference, _)| reference)
}

fn on(name: &str, platform: &str) -> String {
    format!("{name} {platform}")
}

/// Whether a name is an image's by its own digest, and not by that of an index.
fn is_of(name: &str, image: &Digest) -> bool {
    name.split_once('@').is_some_and(|(_, digest)| digest == image.to_string())
}

fn normalized(reference: ImageReference) -> String {
    match reference.digest() {
        Some(digest) => reference.at_digest(digest).to_string(),
        None => reference.with_default_tag().to_string(),
    }
}

pub(crate) fn holder(key: &str) -> Result<Holder> {
    key.parse().map_err(|_| StoreError::Key { table: name(REFERENCES), key: key.to_owned() })
}
