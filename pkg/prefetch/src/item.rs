//! What lists ask for, one image after the other.

use imagevol_api::names::PrefetchName;
use imagevol_api::oci::Digest;
use imagevol_api::prefetch::{CheckedImage, CheckedList};
use imagevol_base::{Digester, Holder};

/// An image of a list: the key of its row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The list.
    pub list: PrefetchName,
    /// SHA-256 of the reference as it is written there.
    pub reference: Digest,
}

/// An image of a list, and what the list asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Whose it is.
    pub key: Key,
    /// What is asked for.
    pub image: CheckedImage,
}

/// What the files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// In the order of the files, and of each list.
    pub items: Vec<Item>,
    /// Files that cannot be used, a sentence each.
    pub problems: Vec<String>,
    /// Whether this is all: every file has been read, or is known from before. Without it nothing is given up.
    pub complete: Completeness,
}

/// Whether all lists are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Completeness {
    /// There may be more: a file has never been good since the daemon started.
    #[default]
    Partial,
    /// These are all.
    Complete,
}

// === impl Key ===

impl Key {
    /// The key of an image as it is written in a list.
    pub fn new(list: PrefetchName, written: &str) -> Self {
        Self { list, reference: Digester::sha256(written.as_bytes()) }
    }

    /// The key of a row; `None` if it is no list's.
    pub fn of(holder: &Holder) -> Option<Self> {
        match holder {
            Holder::Prefetch { list, .. } if list.as_str() == Holder::PREFETCH_COMMAND => None,
            Holder::Prefetch { list, reference } => Some(Self { list: list.clone(), reference: reference.clone() }),
            Holder::Volume { .. } | Holder::Csi(_) | Holder::Command { .. } | Holder::External { .. } => None,
        }
    }

    /// Whose row keeps the image.
    pub fn holder(&self) -> Holder {
        Holder::Prefetch { list: self.list.clone(), reference: self.reference.clone() }
    }
}

// === impl Item ===

impl Item {
    /// The images of a list.
    pub fn of(list: &CheckedList) -> impl Iterator<Item = Self> {
        let item =
            |image: &CheckedImage| Self { key: Key::new(list.name.clone(), &image.written), image: image.clone() };
        list.images.iter().map(item)
    }

    /// The reference as rows have it.
    pub fn reference(&self) -> String {
        self.image.reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_commands_is_no_lists() {
        assert_eq!(imagevol_api::prefetch::RESERVED_NAME, Holder::PREFETCH_COMMAND);
        let key = Key::new("models".parse().unwrap(), "a:1");
        assert_eq!(Key::of(&key.holder()), Some(key.clone()));
        let command = Key { list: Holder::PREFETCH_COMMAND.parse().unwrap(), ..key };
        assert_eq!(Key::of(&command.holder()), None);
    }
}
