//! What a volume plugin is, and the plugin `kubernetes.io/image` that really mounts.
//!
//! In: a pod and one of its volumes. Out: mounts below the pod's directory, or an error with the kubelet's reason.
//! It keeps no state of its own: what is mounted is read from the mount table, what is wanted from rows.
//! Floor 4: imports `images`, `cri`, `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod error;
mod host;
mod image;
mod key;
mod plugin;
pub mod sub_path;

pub use error::{Result, SetUpFailed, VolumeError};
pub use host::{Host, Place};
pub use image::{IMAGE_PLUGIN, ImagePlugin};
pub use key::{Door, Key};
pub use plugin::{Attributes, Goal, Mounted, Mounter, PluginManager, SetUp, Spec, Unmounter, VolumePlugin};
