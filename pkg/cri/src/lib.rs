//! What an image service is: the contract that the embedded service meets, and that a runtime's CRI socket can meet.
//!
//! In: requests in the words of the CRI (`ImageSpec`, `Image`), with the holder that an image is wanted for. Out: images by id.
//! It holds no policy: whether to pull, when and with which credential is decided above. Floor 2: imports `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod error;
mod image;
mod mounts;
pub mod progress;
mod service;

pub use error::{ImageServiceError, Result};
pub use image::{FilesystemUsage, Image, ImageId, ImageSpec};
pub use imagevol_base::{Holder, HolderError};
pub use mounts::{ImageMounts, MountRequest};
pub use progress::Progress;
pub use service::{ImageCollector, ImageReferences, ImageService};
