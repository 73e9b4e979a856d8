//! What has bytes of its own and a digest to hold them against, and what is wrong with it.

use std::fmt;
use std::str::FromStr;

use imagevol_api::oci::{Digest, DigestError};

use crate::content::{Content, ContentKey};
use crate::{ImageRecord, Result};

/// A part of the store that can be corrupt by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A blob, or a layer with its index.
    Content(ContentKey),
    /// The metadata file of an image, which is made of its layers' indexes.
    Image(Digest),
}

/// A part that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// Which.
    pub part: Part,
    /// What is wrong, for people.
    pub problem: String,
    /// The row that it was held against: a part that came anew meanwhile has another.
    pub(crate) row: PartRow,
    pub(crate) cure: Cure,
}

/// The row of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PartRow {
    Content(Content),
    Image(Box<ImageRecord>),
}

/// What makes it good again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cure {
    /// Its bytes are wrong: of content the registry has others, and an image's are made again from its layers.
    Anew,
    /// Its row is wrong: only a pull knows what is right.
    Pull,
}

// === impl Part ===

impl Part {
    /// What it is, in a word: `blob`, `layer` or `image`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Content(ContentKey::Blob(_)) => "blob",
            Self::Content(ContentKey::Layer(_)) => "layer",
            Self::Image(_) => "image",
        }
    }

    /// By which it is known.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Content(key) => key.digest(),
            Self::Image(manifest) => manifest,
        }
    }
}

/// `blob/<digest>`, `layer/<diffID>` or `image/<manifest digest>`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.digest())
    }
}

impl FromStr for Part {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        match text.strip_prefix("image/") {
            Some(manifest) => Ok(Self::Image(manifest.parse()?)),
            None => Ok(Self::Content(text.parse()?)),
        }
    }
}

// === impl PartRow ===

impl PartRow {
    /// Whether both tell of the same bytes. When an image was pulled last says nothing of them.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Content(one), Self::Content(other)) => one == other,
            (Self::Image(one), Self::Image(other)) => {
                ImageRecord { pulled_at: 0, ..(**one).clone() } == ImageRecord { pulled_at: 0, ..(**other).clone() }
            }
            (Self::Content(_), Self::Image(_)) | (Self::Image(_), Self::Content(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let hex = "a".repeat(64);
        for key in [format!("blob/sha256:{hex}"), format!("layer/sha256:{hex}"), format!("image/sha256:{hex}")] {
            assert_eq!(key.parse::<Part>().unwrap().to_string(), key);
        }
        assert!("image/../x".parse::<Part>().is_err() && "x".parse::<Part>().is_err());
    }
}
