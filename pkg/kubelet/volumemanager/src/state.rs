//! What should be mounted, what is, and what is being done about it: plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

use imagevol_api::core::image_volumes;
use imagevol_api::corev1::{Pod, Volume};
use imagevol_api::names::PodUid;
use imagevol_api::oci::{Platform, Reference};
use imagevol_base::PodSet;
use imagevol_cri::ImageId;
use imagevol_images::Claims;
use imagevol_volume::{Door, Goal, Key};
use tokio::time::Instant;

/// What a pod asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The volume in its spec, or one that says the same.
    pub volume: Arc<Volume>,
    /// What is shown to registries besides the pod's own pull secrets.
    pub claims: Arc<Claims>,
    /// The platform to choose from an index; by default the node's.
    pub platform: Option<Platform>,
    /// Whether it is to be mounted, or only to be ready for it.
    pub goal: Goal,
    /// Whether its reference alone is known, from a row of an earlier run.
    pub adopted: bool,
}

/// The volumes that should be mounted.
#[derive(Debug, Clone, Default)]
pub struct DesiredStateOfWorld {
    /// By pod and volume.
    pub volumes: BTreeMap<Key, Wanted>,
    /// Whether each source of pods has been read: until then a volume that nobody wants may still be wanted.
    pub all_sources_ready: bool,
}

/// What is known of a volume on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Have {
    /// It is mounted, whole.
    Mounted(ImageId),
    /// Something may be there: found after a restart, or left by an attempt that failed.
    Uncertain {
        /// What was decided: whatever is mounted is of that image.
        decided: Option<Decided>,
    },
}

/// The image that was decided on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The image.
    pub image: ImageId,
    /// The reference that led to it.
    pub reference: String,
}

/// The volumes that are, or may be, mounted.
#[derive(Debug, Clone, Default)]
pub struct ActualStateOfWorld {
    /// By pod and volume.
    pub volumes: BTreeMap<Key, Have>,
}

/// What is being done to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// It is being mounted.
    Mount,
    /// It is being unmounted.
    Unmount,
}

/// What is being done, and what must wait.
#[derive(Debug, Clone, Default)]
pub struct Operations {
    /// One operation a volume at most.
    pub pending: BTreeMap<Key, Operation>,
    /// Volumes that must not be tried before.
    pub not_before: BTreeMap<Key, Instant>,
}

// === impl DesiredStateOfWorld ===

impl DesiredStateOfWorld {
    /// The image volumes of all pods. A name that cannot be a directory is left out: validation lets no such pod through.
    pub fn of(pods: &PodSet) -> Self {
        let volumes = pods.pods.iter().flat_map(|(uid, pod)| wanted_of(uid, pod)).collect();
        Self { volumes, all_sources_ready: pods.all_sources_ready }
    }

    /// Whether nobody wants the volume, for certain. Doors always know what they want.
    pub fn is_unwanted(&self, key: &Key) -> bool {
        let known = match key.door {
            Door::Pod => self.all_sources_ready,
            Door::Csi { .. } => true,
        };
        known && !self.volumes.contains_key(key)
    }
}

fn wanted_of(uid: &PodUid, pod: &Arc<Pod>) -> Vec<(Key, Wanted)> {
    let wanted = |volume: &Volume| {
        let key = Key::of_pod(uid.clone(), volume.name.parse().ok()?);
        let (pod, volume) = (Arc::clone(pod), Arc::new(volume.clone()));
        Some((key, Wanted { pod, volume, claims: Arc::default(), platform: None, goal: Goal::Mounted, adopted: false }))
    };
    image_volumes(pod).filter_map(|(volume, _)| wanted(volume)).collect()
}

// === impl Wanted ===

impl Wanted {
    /// Whether what was done for the one is right for the other.
    pub(crate) fn is_same(&self, key: &Key, other: &Self) -> bool {
        match key.door {
            Door::Pod => Arc::ptr_eq(&self.pod, &other.pod) || self.pod.spec == other.pod.spec,
            Door::Csi { .. } => self.is_same_volume(other) && self.goal == other.goal,
        }
    }

    /// Whether both are volumes of one image by one policy, as far as that is known.
    pub(crate) fn is_same_volume(&self, other: &Self) -> bool {
        let policy = |wanted: &Self| wanted.volume.image.as_ref().and_then(|image| image.pull_policy.clone());
        let is_same = (policy(self), &self.platform) == (policy(other), &other.platform);
        full(&self.reference()) == full(&other.reference()) && (self.adopted || other.adopted || is_same)
    }

    /// The image as the pod's author wrote it.
    pub(crate) fn reference(&self) -> String {
        self.volume.image.as_ref().and_then(|image| image.reference.clone()).unwrap_or_default()
    }

    /// Whether the decision was for the image that is wanted. Rows hold references in their full form.
    pub(crate) fn agrees_with(&self, decided: &Decided) -> bool {
        full(&decided.reference) == full(&self.reference())
    }
}

fn full(reference: &str) -> String {
    Reference::parse(reference).map_or_else(|_| reference.to_owned(), |parsed| parsed.with_default_tag().to_string())
}

// === impl Have ===

impl Have {
    /// Whether it is as far as it is wanted.
    pub(crate) fn reaches(&self, goal: Goal) -> bool {
        match (self, goal) {
            (Self::Mounted(_), _) | (Self::Uncertain { decided: Some(_) }, Goal::Present) => true,
            (Self::Uncertain { .. }, _) => false,
        }
    }

    /// What was decided for `wanted`, which it was made for.
    pub(crate) fn decided(&self, wanted: &Wanted) -> Option<Decided> {
        match self {
            Self::Mounted(image) => Some(Decided { image: image.clone(), reference: wanted.reference() }),
            Self::Uncertain { decided } => decided.clone(),
        }
    }
}

// === impl Operations ===

impl Operations {
    /// Whether the volume must be left alone at `now`.
    pub fn is_busy(&self, key: &Key, now: Instant) -> bool {
        self.pending.contains_key(key) || self.not_before.get(key).is_some_and(|not_before| now < *not_before)
    }

    /// When the next volume that waits may be tried.
    pub fn next_due(&self) -> Option<Instant> {
        self.not_before.iter().filter(|(key, _)| !self.pending.contains_key(*key)).map(|(_, due)| *due).min()
    }
}
