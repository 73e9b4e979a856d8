//! Who keeps an image alive.

use std::fmt;
use std::str::FromStr;

use imagevol_api::names::{OwnerName, PodUid, PrefetchName, ReferenceName, VolumeName};
use imagevol_api::oci::Digest;

use crate::Target;

/// Somebody for whose sake an image stays on the node: the key of a reference row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// A volume of a pod, from the moment that the pod is known until the volume is torn down.
    Volume {
        /// The pod.
        pod: PodUid,
        /// Its volume.
        volume: VolumeName,
    },
    /// A volume that a kubelet asks for through CSI, or will: from the moment that its pod is known until it is unpublished.
    Csi(Target),
    /// A pull by command, while it runs.
    Command {
        /// Tells concurrent commands apart; unique within a run of the daemon.
        id: u64,
    },
    /// A list of images that are kept present, or the command that fetched one ahead of its pods.
    Prefetch {
        /// The list; [`Holder::PREFETCH_COMMAND`] for the command.
        list: PrefetchName,
        /// SHA-256 of the reference as it is written in the list, which may hold what no row's key can.
        reference: Digest,
    },
    /// Another component of the node, for as long as it renews its reference.
    External {
        /// The component.
        owner: OwnerName,
        /// What it calls this reference.
        name: ReferenceName,
    },
}

/// Why a row's key names no holder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no holder")]
pub struct HolderError(String);

// === impl Holder ===

impl Holder {
    /// The list of those that were fetched ahead by command. No file can have this name.
    pub const PREFETCH_COMMAND: &str = "imagevol-prefetch";

    /// Whether the holder outlives the daemon's process. Others' rows are dropped at start.
    pub fn outlives_process(&self) -> bool {
        match self {
            Self::Volume { .. } | Self::Csi(_) | Self::Prefetch { .. } | Self::External { .. } => true,
            Self::Command { .. } => false,
        }
    }
}

/// The row's key: `volume/<pod uid>/<volume>`, `csi/<pod uid>/<volume>/<leaf>`, `command/<id>`, `prefetch/<list>/<digest>` or
/// `external/<owner>/<name>`. No part can hold a `/`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume { pod, volume } => write!(f, "volume/{pod}/{volume}"),
            Self::Csi(Target { pod, volume, leaf }) => write!(f, "csi/{pod}/{volume}/{leaf}"),
            Self::Command { id } => write!(f, "command/{id}"),
            Self::Prefetch { list, reference } => write!(f, "prefetch/{list}/{reference}"),
            Self::External { owner, name } => write!(f, "external/{owner}/{name}"),
        }
    }
}

impl FromStr for Holder {
    type Err = HolderError;

    fn from_str(text: &str) -> Result<Self, HolderError> {
        let wrong = || HolderError(text.to_owned());
        let parts: Vec<_> = text.split('/').collect();
        Ok(match parts.as_slice() {
            ["volume", pod, volume] => {
                Self::Volume { pod: pod.parse().map_err(|_| wrong())?, volume: volume.parse().map_err(|_| wrong())? }
            }
            ["csi", pod, volume, leaf] => Self::Csi(Target {
                pod: pod.parse().map_err(|_| wrong())?,
                volume: volume.parse().map_err(|_| wrong())?,
                leaf: leaf.parse().map_err(|_| wrong())?,
            }),
            ["prefetch", list, reference] => Self::Prefetch {
                list: list.parse().map_err(|_| wrong())?,
                reference: reference.parse().map_err(|_| wrong())?,
            },
            ["external", owner, name] => {
                Self::External { owner: owner.parse().map_err(|_| wrong())?, name: name.parse().map_err(|_| wrong())? }
            }
            ["command", id] => Self::Command { id: id.parse().map_err(|_| wrong())? },
            _ => return Err(wrong()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip() {
        let prefetch = format!("prefetch/models/sha256:{}", "a".repeat(64));
        for key in [
            "volume/0b5a7bd0-3b0b/models",
            "csi/0b5a7bd0-3b0b/pv.models/mount",
            "command/7",
            &prefetch,
            "external/backup/nightly.1",
        ] {
            assert_eq!(key.parse::<Holder>().unwrap().to_string(), key);
        }
    }

    #[test]
    fn refuses_other_keys() {
        for key in [
            "",
            "volume/a",
            "volume/a/b/c",
            "volume/../x",
            "csi/a/b",
            "csi/a/b/..",
            "command/x",
            "pin/a",
            "prefetch/a/b",
            "external/a/..",
        ] {
            assert!(key.parse::<Holder>().is_err(), "{key}");
        }
    }
}
