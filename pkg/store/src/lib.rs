//! Content, layers, images and references on disk, and what may be deleted.
//!
//! In: verified streams of bytes from a registry, and holders that want images. Out: files to mount, rows to list.
//! It knows no registry, no pod and no mount point. Floor 2: imports `layer`, `erofs`, `mount`, `base`, `api`.
//!
//! # On disk
//!
//! ```text
//! db.redb                          rows: images with their use, names, content, references, pins, and the ways back between them
//! blobs/<algorithm>/<hex>          manifests, configs, files of artifacts; zero-padded to 4 KiB, true size in the row
//! layers/<algorithm>/<hex>.tar     an uncompressed layer by its diffID, zero-padded to 4 KiB
//! layers/<algorithm>/<hex>.idx     what the layer's tar holds
//! images/<algorithm>/<hex>.erofs   an image by its manifest digest: metadata only, its bytes lie in layers and blobs
//! quarantine/<seconds>-<family>-... a file whose bytes went wrong, until no mount uses it and it is a day old
//! reserve                          1 MiB that is given up when the disk is too full to remove anything, and made again after that
//! ingest/<kind>-<algorithm>-<hex>/ a download under way: `format` (version), `data` (bytes so far); `blob` and `tar` are gone on
//!                                  with, `packed` begins anew
//! ```
//!
//! A file becomes visible by rename after fsync, and then its row is written: a file that no row names is what a kill left
//! between the two, and is deleted at start. Rows go before files when something is deleted, for the same reason.
//! Content that no image names yet belongs to a pull that will be resumed; it expires.

#![forbid(unsafe_code)]

mod census;
mod check;
mod claims;
mod clock;
mod commit;
mod content;
mod database;
mod deletion;
mod disk_usage;
mod durable;
mod error;
mod expiry;
mod format;
mod fsck;
mod generate;
mod hash;
mod head;
mod holding;
mod image;
mod inflate;
mod ingest;
mod layout;
mod links;
mod part;
mod pins;
mod pipe;
mod plan;
mod provenance;
mod quarantine;
mod reading;
mod recovery;
mod references;
mod repair;
mod reserve;
mod room;
mod rows;
mod scrub;
mod sink;
mod source;
mod spool;
mod store;
mod terms;
mod uses;
mod verify;

pub use census::{Census, Counted};
pub use check::{Check, Checked};
pub use clock::{KernelClock, ManualClock, NodeClock, Reading};
pub use content::{Content, ContentKey, Lease};
pub use deletion::Removed;
pub use disk_usage::{FoundContent, Usage, UsageKind};
pub use error::{Result, StoreError};
pub use fsck::Report;
pub use holding::{ImageState, ImageSummary};
pub use image::{ImageFiles, ImageKind, ImageRecord, LayerRecord};
pub use inflate::{Compression, Inflate, MAGIC_BYTES};
pub use ingest::{Form, Ingest, Stored};
pub use part::{Corrupt, Part};
pub use pins::Pinned;
pub use plan::plan;
pub use provenance::Known;
pub use quarantine::{Quarantined, Remedy, StaleImage, StaleMounts};
pub use references::{ImageName, Reference};
pub use room::Space;
pub use scrub::ScrubPosition;
pub use spool::{Spool, SpoolFile};
pub use store::{Limits, Store};
pub use terms::{Terms, Until};
pub use uses::{Moment, Use};
