//! Reference rows: who wants which image, from the moment that it is wanted until it is given up.

use imagevol_api::oci::{Digest, Reference as ImageReference};
use imagevol_base::Holder;
use serde::{Deserialize, Serialize};

use crate::links::NAMES_OF;
use crate::rows::{IMAGES, NAMES, REFERENCES, name};
use crate::store::{Store, now};
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
}

// === impl Reference ===

impl Reference {
    /// Whether it keeps `image`: bound to it, or waiting for a name that leads to it.
    pub(crate) fn keeps(&self, image: &ImageRecord, names: &[String]) -> bool {
        if let Some(bound) = &self.image {
            return *bound == image.manifest;
        }
        let manifest = image.manifest.to_string();
        candidates(&self.reference).iter().any(|name| names.contains(name) || *name == manifest)
    }
}

// === impl Store ===

impl Store {
    /// Writes that `holder` wants `reference`. A row that is bound to an image stays bound while the reference is the same.
    pub fn hold(&self, holder: &Holder, reference: &str) -> Result<()> {
        let key = holder.to_string();
        let write = self.rows().write()?;
        let known: Option<Reference> = write.get(REFERENCES, &key)?;
        if known.is_some_and(|known| known.reference == reference) {
            return Ok(());
        }
        write.put(REFERENCES, &key, &Reference { reference: reference.to_owned(), image: None, since: now() })?;
        write.commit()
    }

    /// Ties the holder's row to an image, if both are there in the same transaction; else `false`. A holder that has given its row
    /// up meanwhile gets none back: nobody would take it away again.
    pub fn bind(&self, holder: &Holder, image: &Digest) -> Result<bool> {
        let key = holder.to_string();
        let write = self.rows().write()?;
        if write.get::<ImageRecord>(IMAGES, &image.to_string())?.is_none() {
            return Ok(false);
        }
        let Some(row) = write.get::<Reference>(REFERENCES, &key)? else { return Ok(false) };
        if row.image.as_ref() != Some(image) {
            write.put(REFERENCES, &key, &Reference { image: Some(image.clone()), ..row })?;
            write.commit()?;
        }
        Ok(true)
    }

    /// Gives the row up, and says which image it was bound to.
    pub fn release(&self, holder: &Holder) -> Result<Option<Digest>> {
        let key = holder.to_string();
        let write = self.rows().write()?;
        let Some(row) = write.get::<Reference>(REFERENCES, &key)? else { return Ok(None) };
        write.remove(REFERENCES, &key)?;
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

    /// Who keeps an image: the rows' keys.
    pub fn holders_of(&self, image: &ImageRecord) -> Result<Vec<Holder>> {
        let names = self.names_of(&image.manifest)?;
        let keeps = |(holder, row): (Holder, Reference)| row.keeps(image, &names).then_some(holder);
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

fn normalized(reference: ImageReference) -> String {
    match reference.digest() {
        Some(digest) => reference.at_digest(digest).to_string(),
        None => reference.with_default_tag().to_string(),
    }
}

fn holder(key: &str) -> Result<Holder> {
    key.parse().map_err(|_| StoreError::Key { table: name(REFERENCES), key: key.to_owned() })
}
