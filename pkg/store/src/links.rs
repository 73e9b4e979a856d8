//! Rows that lead to each other, and the way back: from content to its images, from an image to its names, from a layer to its
//! blobs. The way back follows from the rows, is written with them, and is made anew at each start.

use std::collections::{BTreeMap, HashMap, HashSet};

use imagevol_api::oci::Digest;
use redb::MultimapTableDefinition;

use crate::content::{Content, ContentKey};
use crate::head::Head;
use crate::rows::{CONTENT, DIFF_IDS, HEADS, IMAGES, Links, NAMES, Snapshot, USES, Write};
use crate::{ImageRecord, Result};

/// [`ContentKey`] -> manifest digests of the images that are made of it.
pub(crate) const IMAGES_OF: Links = MultimapTableDefinition::new("images-of-content");
/// Manifest digest -> names that lead to it.
pub(crate) const NAMES_OF: Links = MultimapTableDefinition::new("names-of-image");
/// diffID -> digests of the blobs that it came in.
pub(crate) const BLOBS_OF: Links = MultimapTableDefinition::new("blobs-of-layer");

/// All tables of links.
pub(crate) const ALL: [Links; 3] = [IMAGES_OF, NAMES_OF, BLOBS_OF];

// === impl Write ===

impl Write<'_> {
    /// Writes an image with its head. Of what it is made never changes: that is what its digest says.
    pub(crate) fn put_image(&self, image: &ImageRecord) -> Result<()> {
        let manifest = image.manifest.to_string();
        for key in image.content() {
            self.link(IMAGES_OF, &key.to_string(), &manifest)?;
        }
        self.put(HEADS, &manifest, &Head::from(image))?;
        self.put(IMAGES, &manifest, image)
    }

    /// Deletes an image with its names, and what is known of its use.
    pub(crate) fn remove_image(&self, image: &ImageRecord) -> Result<()> {
        let manifest = image.manifest.to_string();
        for key in image.content() {
            self.unlink(IMAGES_OF, &key.to_string(), &manifest)?;
        }
        for name in self.names_of(&image.manifest)? {
            self.remove_name(&name)?;
        }
        self.remove(USES, &manifest)?;
        self.remove(HEADS, &manifest)?;
        self.remove(IMAGES, &manifest)
    }

    /// Lets a name lead to an image, and no more to another.
    pub(crate) fn put_name(&self, name: &str, image: &Digest) -> Result<()> {
        self.remove_name(name)?;
        self.link(NAMES_OF, &image.to_string(), name)?;
        self.put(NAMES, name, image)
    }

    /// Deletes a name; absent is deleted.
    pub(crate) fn remove_name(&self, name: &str) -> Result<()> {
        if let Some(image) = self.get::<Digest>(NAMES, name)? {
            self.unlink(NAMES_OF, &image.to_string(), name)?;
        }
        self.remove(NAMES, name)
    }

    /// The names that lead to an image.
    pub(crate) fn names_of(&self, image: &Digest) -> Result<Vec<String>> {
        self.linked(NAMES_OF, &image.to_string())
    }

    /// Writes that a blob holds the layer.
    pub(crate) fn put_diff_id(&self, blob: &Digest, diff_id: &Digest) -> Result<()> {
        self.link(BLOBS_OF, &diff_id.to_string(), &blob.to_string())?;
        self.put(DIFF_IDS, &blob.to_string(), diff_id)
    }

    /// Deletes the rows of a piece of content, and says what was known of it.
    pub(crate) fn remove_content(&self, key: &ContentKey) -> Result<Option<Content>> {
        let content = self.get(CONTENT, &key.to_string())?;
        self.remove(CONTENT, &key.to_string())?;
        if let ContentKey::Layer(diff_id) = key {
            for blob in self.linked(BLOBS_OF, &diff_id.to_string())? {
                self.unlink(BLOBS_OF, &diff_id.to_string(), &blob)?;
                self.remove(DIFF_IDS, &blob)?;
            }
        }
        Ok(content)
    }

    /// Makes all links, and the heads of images, what the rows say.
    pub(crate) fn relink(&self) -> Result<()> {
        let (mut images, mut heads) = (HashSet::new(), HashMap::new());
        for (manifest, image) in self.all::<ImageRecord>(IMAGES)? {
            images.extend(image.content().iter().map(|key| (key.to_string(), manifest.clone())));
            heads.insert(manifest, Head::from(&image));
        }
        self.set_heads(heads)?;
        self.set_links(IMAGES_OF, &images)?;
        for (from, links) in [(NAMES, NAMES_OF), (DIFF_IDS, BLOBS_OF)] {
            let rows = self.all::<Digest>(from)?.into_iter();
            self.set_links(links, &rows.map(|(key, digest)| (digest.to_string(), key)).collect())?;
        }
        Ok(())
    }
}

/// Names by the image that they lead to.
pub(crate) fn names_by_image(snapshot: &Snapshot) -> Result<BTreeMap<Digest, Vec<String>>> {
    let mut names: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
    for (name, image) in snapshot.all::<Digest>(NAMES)? {
        names.entry(image).or_default().push(name);
    }
    Ok(names)
}
