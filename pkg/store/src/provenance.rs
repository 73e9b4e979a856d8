//! Where content came from: whoever wants what is here already must be able to get it from where he pulls.

use imagevol_api::oci::{Digest, Reference};

use crate::content::{Content, ContentKey};
use crate::ingest::{Ingest, Stored};
use crate::links::{IMAGES_OF, NAMES_OF};
use crate::rows::IMAGES;
use crate::store::Store;
use crate::{ImageRecord, Result};

/// What is known of content that is here, to one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// An image of that repository is made of it.
    InRepository,
    /// The repository's registry has given it, for some repository.
    ToRegistry,
    /// Nothing: that registry has never shown that it has it.
    Nowhere,
}

// === impl Store ===

impl Store {
    /// What is known of content that came as `blob` to the repository of `reference`.
    pub fn known_to(&self, stored: &Stored, blob: &Digest, reference: &Reference) -> Result<Known> {
        if self.is_part_of_image(stored.lease.key(), blob, reference)? {
            return Ok(Known::InRepository);
        }
        let given = stored.content.given_by.contains(reference.domain());
        Ok(if given { Known::ToRegistry } else { Known::Nowhere })
    }

    /// Whether an image has a name in the repository of `reference`.
    pub fn is_named_in(&self, image: &Digest, reference: &Reference) -> Result<bool> {
        let names = self.rows().linked(NAMES_OF, &image.to_string())?;
        let repository = reference.repository();
        Ok(names.iter().any(|name| is_name_in(name, &repository)))
    }

    fn is_part_of_image(&self, key: &ContentKey, blob: &Digest, reference: &Reference) -> Result<bool> {
        for image in self.rows().linked(IMAGES_OF, &key.to_string())? {
            let record: Option<ImageRecord> = self.rows().get(IMAGES, &image)?;
            let Some(record) = record.filter(|record| is_made_of(record, key, blob)) else { continue };
            if self.is_named_in(&record.manifest, reference)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

// === impl Ingest ===

impl Ingest {
    /// Says which registry gives the bytes. What comes in, and is what it should be, is known to that registry from then on.
    #[must_use]
    pub fn given_by(mut self, registry: &str) -> Self {
        self.giver = Some(registry.to_owned());
        self
    }
}

// === impl Content ===

impl Content {
    pub(crate) fn given(mut self, giver: Option<&str>) -> Self {
        self.given_by.extend(giver.map(str::to_owned));
        self
    }
}

/// Whether the image has it as this blob: a layer may have come in several, of which each is a question of its own.
fn is_made_of(image: &ImageRecord, key: &ContentKey, blob: &Digest) -> bool {
    let own = [&image.manifest, &image.config];
    let is_own = matches!(key, ContentKey::Blob(digest) if digest == blob && own.contains(&blob));
    is_own || image.layers.iter().any(|layer| layer.digest == *blob && layer.content == *key)
}

/// Whether `domain/path:tag` or `domain/path@digest`, for whatever platform, is of a repository.
fn is_name_in(name: &str, repository: &str) -> bool {
    name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("r.io:5000/team/a:1", true)]
    #[case("r.io:5000/team/a@sha256:0", true)]
    #[case("r.io:5000/team/a:1 linux/arm64", true)]
    #[case("r.io:5000/team/a/b:1", false)]
    #[case("r.io:5000/team/ab:1", false)]
    #[case("r.io:5001/team/a:1", false)]
    #[case("r.io:5000/team/a", false)]
    fn names_are_of_one_repository(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_name_in(name, "r.io:5000/team/a"), expected);
    }
}
