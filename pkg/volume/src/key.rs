//! Which volume is meant, whichever way it is wanted.

use imagevol_api::names::{LeafName, PodUid, VolumeName};
use imagevol_base::{Holder, Target};

/// One volume of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The pod.
    pub pod: PodUid,
    /// Its volume.
    pub volume: VolumeName,
    /// Who asks for it, and so where it is mounted.
    pub door: Door,
}

/// The way by which a volume is wanted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// `volumes[].image` of a pod that this agent serves itself.
    Pod,
    /// A CSI volume of a pod that a kubelet serves.
    Csi {
        /// The directory that the kubelet wants it in.
        leaf: LeafName,
    },
}

// === impl Key ===

impl Key {
    /// An image volume of a pod that this agent serves.
    pub fn of_pod(pod: PodUid, volume: VolumeName) -> Self {
        Self { pod, volume, door: Door::Pod }
    }

    /// The volume that a reference row is for; `None` if it is not for a volume.
    pub fn of_holder(holder: Holder) -> Option<Self> {
        match holder {
            Holder::Volume { pod, volume } => Some(Self::of_pod(pod, volume)),
            Holder::Csi(target) => Some(target.into()),
            Holder::Command { .. } | Holder::Prefetch { .. } | Holder::External { .. } => None,
        }
    }

    /// For whom the volume's image is kept.
    pub fn holder(&self) -> Holder {
        match self.target() {
            Some(target) => Holder::Csi(target),
            None => Holder::Volume { pod: self.pod.clone(), volume: self.volume.clone() },
        }
    }

    /// Where a kubelet wants it, if one does.
    pub fn target(&self) -> Option<Target> {
        let Self { pod, volume, door } = self.clone();
        match door {
            Door::Pod => None,
            Door::Csi { leaf } => Some(Target { pod, volume, leaf }),
        }
    }
}

impl From<Target> for Key {
    fn from(Target { pod, volume, leaf }: Target) -> Self {
        Self { pod, volume, door: Door::Csi { leaf } }
    }
}
