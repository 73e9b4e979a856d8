//! Reference rows: who wants which image, from the moment that it is wanted until it is given up.

use imagevol_api::oci::Digest;
use imagevol_base::Holder;
use serde::{Deserialize, Serialize};

use crate::rows::{IMAGES, NAMES, REFERENCES};
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
        match &self.image {
            Some(digest) => *digest == image.manifest,
            None => names.contains(&self.reference),
        }
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

    /// Ties the holder's row to an image, if that is present in the same transaction. `false` if it is not.
    pub fn bind(&self, holder: &Holder, image: &Digest) -> Result<bool> {
        let key = holder.to_string();
        let write = self.rows().write()?;
        if write.get::<ImageRecord>(IMAGES, &image.to_string())?.is_none() {
            return Ok(false);
        }
        let row: Option<Reference> = write.get(REFERENCES, &key)?;
        let row = row.unwrap_or_else(|| Reference { reference: image.to_string(), image: None, since: now() });
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
        let row: Option<Reference> = write.get(REFERENCES, &key)?;
        write.remove(REFERENCES, &key)?;
        write.commit()?;
        Ok(row.and_then(|row| row.image))
    }

    /// All rows.
    pub fn references(&self) -> Result<Vec<(Holder, Reference)>> {
        let rows = self.rows().all::<Reference>(REFERENCES)?;
        Ok(rows.into_iter().filter_map(|(key, row)| Some((key.parse().ok()?, row))).collect())
    }

    /// The image that a name leads to: `name:tag`, `name@digest`, or the manifest digest itself.
    pub fn resolve(&self, name: &str) -> Result<Option<ImageRecord>> {
        let digest = match self.rows().get::<Digest>(NAMES, name)? {
            Some(digest) => digest.to_string(),
            None => name.to_owned(),
        };
        self.rows().get(IMAGES, &digest)
    }

    /// Who keeps an image: the rows' keys.
    pub fn holders_of(&self, image: &ImageRecord) -> Result<Vec<Holder>> {
        let names = self.names_of(&image.manifest)?;
        let keeps = |(holder, row): (Holder, Reference)| row.keeps(image, &names).then_some(holder);
        Ok(self.references()?.into_iter().filter_map(keeps).collect())
    }

    /// The names that lead to an image.
    pub fn names_of(&self, image: &Digest) -> Result<Vec<String>> {
        let names = self.rows().all::<Digest>(NAMES)?;
        Ok(names.into_iter().filter_map(|(name, digest)| (digest == *image).then_some(name)).collect())
    }

    /// The image of a digest, or why there is none.
    pub(crate) fn image(&self, digest: &Digest) -> Result<ImageRecord> {
        let record = self.rows().get(IMAGES, &digest.to_string())?;
        record.ok_or_else(|| StoreError::NoImage(digest.to_string()))
    }
}
