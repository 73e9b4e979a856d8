//! Keeps the images of lists present on the node, ahead of the pods that need them.
//!
//! In: files of kind `ImagePrefetch`, and what the node has. Out: rows that keep images, and pulls, a few at a time, so that those of
//! pods do not wait. It reads files and asks for images; it never talks to a registry, and never removes an image.
//! Floor 4: imports `images`, `cri`, `base`, `api`.

#![forbid(unsafe_code)]

mod images;
mod item;
mod keeper;
mod metrics;
mod plan;
mod scan;
mod source;
mod started;

pub use images::{NodeImages, Present, PullFailed, Row, Wanted};
pub use item::{Item, Key, Lists};
pub use keeper::{Keeper, Overview, Parts, Shown, Wall};
pub use metrics::Metrics;
pub use plan::{Action, Known, Phase, next_change, plan};
pub use source::ListSource;
