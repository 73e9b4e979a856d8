//! A census: every image with who needs it, when it was used, and what its removal would free.

use std::collections::{HashMap, HashSet};

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_base::Holder;
use imagevol_base::collection::NodeTime;

use crate::content::{Content, ContentKey};
use crate::holding::Holding;
use crate::rows::{CONTENT, IMAGES, Snapshot, USES};
use crate::store::Store;
use crate::uses::SLACK;
use crate::{ImageKind, ImageRecord, Moment, Reference, Result, StoreError, Use};

/// What is on the node, and who needs it.
#[derive(Debug, Clone)]
pub struct Census {
    /// When it began: later than every use before it.
    pub taken: NodeTime,
    /// By digest.
    pub images: Vec<Counted>,
    /// What images are made of, each once.
    pub(crate) content: Vec<Piece>,
}

/// An image in a census.
#[derive(Debug, Clone)]
pub struct Counted {
    /// Its manifest digest.
    pub image: Digest,
    /// The names that lead to it.
    pub names: Vec<String>,
    /// What its layers are.
    pub kind: ImageKind,
    /// Bytes of its files on disk, shared content included.
    pub size: u64,
    /// Bytes that its removal would free now, if nobody needed it.
    pub freed_bytes: u64,
    /// When it came to the node.
    pub first_seen: Moment,
    /// When somebody held it last: now, if somebody does.
    pub last_used: Option<Moment>,
    /// The rows that keep it.
    pub holders: Vec<(Holder, Reference)>,
    /// The pins that keep it.
    pub pins: Vec<ImagePattern>,
    /// Whether its files are part of a mounted file system somewhere on the node.
    pub mounted: bool,
    /// Bytes of its EROFS file.
    pub(crate) index_bytes: u64,
    /// Positions in [`Census::content`].
    pub(crate) content: Vec<usize>,
}

/// A piece of content in a census.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) key: ContentKey,
    pub(crate) bytes: u64,
    /// How many images are made of it.
    pub(crate) images: usize,
    /// Whether a pull under way counts on it: it stays, whatever goes.
    pub(crate) leased: bool,
    /// Whether it is a file of an artifact.
    pub(crate) is_file: bool,
}

// === impl Counted ===

impl Counted {
    /// Whether somebody needs it, so that no collection takes it.
    pub fn is_needed(&self) -> bool {
        !self.holders.is_empty() || !self.pins.is_empty() || self.mounted
    }

    /// What orders images by how long nobody has used them: the last use, or of one that was never used, when it came.
    pub(crate) fn last(&self) -> NodeTime {
        self.last_used.unwrap_or(self.first_seen).time
    }
}

// === impl Store ===

impl Store {
    /// Counts everything, as it is at one moment. Rows that have come to their end are dropped before, and images that somebody holds
    /// are used at that moment.
    pub fn census(&self) -> Result<Census> {
        self.inner.freeing(|| self.take_census())
    }

    fn take_census(&self) -> Result<Census> {
        self.drop_expired_rows()?;
        let taken = self.inner.clock.begin_census();
        let mut census = self.rows().read(|snapshot| Census::read(snapshot, taken))?;
        census.mark_leased(&self.inner.leases.lock().keys().cloned().collect());
        census.count_freed();
        for image in &mut census.images {
            image.mounted = self.is_mounted(&image.image)?;
        }
        self.stamp_held(&mut census)?;
        self.keep_time()?;
        Ok(census)
    }

    /// Rows that say so are not written each time: an image that is held was used a moment ago, and goes on to be.
    fn stamp_held(&self, census: &mut Census) -> Result<()> {
        let held = census.images.iter_mut().filter(|image| !image.holders.is_empty());
        let due: Vec<&mut Counted> =
            held.filter(|image| image.last_used.is_none_or(|used| census.taken.since(used.time) >= SLACK)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let write = self.rows().write()?;
        let moment = write.stamp_used(&self.inner.clock, due.iter().map(|image| &image.image))?;
        // Killed before this: they look unused since the last time.
        write.commit()?;
        for image in due {
            image.last_used = Some(moment);
        }
        Ok(())
    }

    /// Whether files of an image are in use somewhere on the node; where nobody can say, they are.
    fn is_mounted(&self, image: &Digest) -> Result<bool> {
        match self.refuse_if_mounted(image) {
            Ok(()) => Ok(false),
            Err(StoreError::Mounted(_)) => Ok(true),
            Err(error @ StoreError::InUseTest { .. }) => {
                tracing::warn!(%image, %error, "nobody can say whether an image is mounted");
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

// === impl Census ===

impl Census {
    fn read(snapshot: &Snapshot, taken: NodeTime) -> Result<Self> {
        let mut content = Vec::new();
        let mut positions = HashMap::new();
        for (key, row) in snapshot.all::<Content>(CONTENT)? {
            let key: ContentKey = key.parse().map_err(|_| StoreError::Key { table: "content", key: key.clone() })?;
            positions.insert(key.clone(), content.len());
            content.push(Piece { key, bytes: row.bytes_on_disk(), images: 0, leased: false, is_file: false });
        }
        let mut census = Self { taken, images: Vec::new(), content };
        let uses: HashMap<String, Use> = snapshot.all(USES)?.into_iter().collect();
        let mut holding = Holding::read(snapshot, taken)?;
        for (key, image) in snapshot.all::<ImageRecord>(IMAGES)? {
            // One that was never seen is as young as can be.
            let unseen = Use { first_seen: Moment { time: taken, at: image.pulled_at }, last_used: None };
            let row = uses.get(&key).copied().unwrap_or(unseen);
            census.count(&image, row, &positions, &mut holding);
        }
        Ok(census)
    }

    fn count(&mut self, image: &ImageRecord, used: Use, positions: &HashMap<ContentKey, usize>, holding: &mut Holding) {
        let keys = image.content();
        let made_of: Vec<usize> = keys.iter().filter_map(|key| positions.get(key).copied()).collect();
        for position in &made_of {
            if let Some(piece) = self.content.get_mut(*position) {
                piece.images += 1;
            }
        }
        for layer in &image.layers {
            if let Some(piece) = positions.get(&layer.content).and_then(|position| self.content.get_mut(*position)) {
                piece.is_file = matches!(layer.content, ContentKey::Blob(_));
            }
        }
        let (names, holders, pins) = holding.take(&image.manifest);
        self.images.push(Counted {
            image: image.manifest.clone(),
            names,
            kind: image.kind,
            size: image.size,
            freed_bytes: 0,
            first_seen: used.first_seen,
            last_used: used.last_used,
            holders,
            pins,
            mounted: false,
            index_bytes: image.index_bytes,
            content: made_of,
        });
    }

    fn mark_leased(&mut self, leased: &HashSet<ContentKey>) {
        for piece in &mut self.content {
            piece.leased = leased.contains(&piece.key);
        }
    }

    fn count_freed(&mut self) {
        for image in &mut self.images {
            let pieces = image.content.iter().filter_map(|position| self.content.get(*position));
            let own = pieces.filter(|piece| piece.images == 1 && !piece.leased);
            image.freed_bytes = image.index_bytes + own.map(|piece| piece.bytes).sum::<u64>();
        }
    }
}
