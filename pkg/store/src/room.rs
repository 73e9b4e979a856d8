//! Room on the disk, and within the quota.

use std::fs::File;
use std::io::Read as _;
use std::ops::Deref;
use std::path::Path;

use imagevol_api::oci::Digest;

use crate::content::{Content, ContentKey};
use crate::head::Head;
use crate::ingest::Form;
use crate::rows::{CONTENT, HEADS};
use crate::store::{Inner, Limits, Store};
use crate::{Result, StoreError, durable};

/// How full the disk is looked at each time that so much was written. Eight downloads at once, the default, are then at most half of
/// the default `limits.minFreeBytes` beyond it.
const LOOK_EVERY: u64 = 4 << 20;

/// Of so many looks one is at the quota too, which reads all rows: each 16 MiB.
const LOOKS_AT_QUOTA: u64 = 4;

/// How the disk and the quota stand, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free for us on the file system of the state directory.
    pub available: u64,
    /// What content and images take. Downloads under way are not in it.
    pub stored: u64,
}

/// Who asks whether there is room, again and again while something is written.
#[derive(Debug)]
pub(crate) struct Lookout<S> {
    store: S,
    /// How often he has asked.
    looks: u64,
    /// After how many more bytes he asks again.
    left: u64,
}

// === impl Store ===

impl Store {
    /// How disk and quota stand now.
    pub fn space(&self) -> Result<Space> {
        Ok(Space { available: self.inner.available()?, stored: self.inner.stored_bytes()? })
    }

    /// What it was opened with.
    pub fn limits(&self) -> Limits {
        self.inner.limits
    }

    /// Bytes of a download that are here from an earlier try, and that the next one goes on from.
    pub fn downloaded(&self, digest: &Digest, size: u64, form: &Form) -> Result<u64> {
        let data = self.inner.layout.ingest(&form.dir_name(digest)).join("data");
        Ok(durable::length(&data)?.map_or(0, |length| form.usable(length, size)))
    }

    /// Files, directories and links of a layer; a blob is one file.
    pub fn entries(&self, key: &ContentKey) -> Result<u64> {
        let ContentKey::Layer(diff_id) = key else { return Ok(1) };
        let path = self.inner.layout.layer_index(diff_id);
        let mut head = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(imagevol_layer::INDEX_HEAD).read_to_end(&mut head));
        read.map_err(StoreError::io("read", &path))?;
        let entries = imagevol_layer::LayerIndex::entries_of_head(&head);
        entries.map_err(|source| StoreError::Index { path, source })
    }
}

// === impl Inner ===

impl Inner {
    fn available(&self) -> Result<u64> {
        let root: &Path = self.layout.root();
        let stats = imagevol_mount::filesystem(root);
        stats.map(|stats| stats.available).map_err(|source| StoreError::Space { path: root.to_owned(), source })
    }

    fn stored_bytes(&self) -> Result<u64> {
        let content = self.rows.all::<Content>(CONTENT)?.into_iter().map(|(_, content)| content.bytes_on_disk());
        let images = self.rows.all::<Head>(HEADS)?.into_iter().map(|(_, image)| image.index_bytes);
        Ok(content.chain(images).fold(0, u64::saturating_add))
    }

    /// For a download that has unpacked more than anybody could know before: the rest of the node needs the disk too. `look` counts
    /// how often it has asked: what all images take is added up more seldom. `unpacked` is what it has come to.
    fn check_room(&self, look: u64, unpacked: u64) -> Result<()> {
        let Limits { min_free_bytes: kept, max_store_bytes: limit, .. } = self.limits;
        let free = if kept > 0 { self.available()? } else { u64::MAX };
        if free < kept {
            return Err(StoreError::NoRoom { free, kept, unpacked });
        }
        if limit > 0
            && look.is_multiple_of(LOOKS_AT_QUOTA)
            && self.stored_bytes()?.saturating_add(self.bytes_of_downloads()?) > limit
        {
            return Err(StoreError::OverQuota { limit, unpacked });
        }
        Ok(())
    }

    fn bytes_of_downloads(&self) -> Result<u64> {
        let downloads = durable::entries(&self.layout.ingest_dir())?;
        let lengths = downloads.iter().map(|dir| Ok(durable::length(&dir.join("data"))?.unwrap_or(0)));
        lengths.sum()
    }
}

// === impl Lookout ===

impl<S: Deref<Target = Inner>> Lookout<S> {
    /// Asks for the first time before the first byte.
    pub(crate) fn of(store: S) -> Self {
        Self { store, looks: 0, left: 0 }
    }

    /// Is told of each write before it is done; `size` is what will have been written then.
    pub(crate) fn before(&mut self, coming: u64, size: u64) -> Result<()> {
        if self.left < coming {
            self.store.check_room(self.looks, size)?;
            self.looks += 1;
            self.left = LOOK_EVERY;
        }
        self.left = self.left.saturating_sub(coming);
        Ok(())
    }
}
