//! The in-tree interface of volume plugins (Kubernetes, pkg/volume/plugins.go), less what images never need.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use imagevol_api::corev1::{Pod, Volume};
use imagevol_api::oci::Platform;
use imagevol_base::volumes::SubPathErrors;
use imagevol_cri::{ImageId, Progress};
use imagevol_images::Claims;
use tokio_util::sync::CancellationToken;

use crate::{Key, Result, SetUpFailed, VolumeError};

/// A volume of a pod.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Which one.
    pub key: Key,
    /// What it is.
    pub volume: Arc<Volume>,
    /// What is shown to registries for it, besides the pod's own pull secrets.
    pub claims: Arc<Claims>,
    /// The platform to choose from an index; by default the node's.
    pub platform: Option<Platform>,
}

/// What holds for all volumes of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Mounts are read-only whatever the pod says.
    pub read_only: bool,
    /// Whether owner and mode may be changed for `fsGroup`.
    pub managed: bool,
    /// Whether files may be given the pod's SELinux label.
    pub selinux_relabel: bool,
}

/// How far a set-up goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Goal {
    /// Its image is on the node, and tied to the volume.
    Present,
    /// The volume is mounted.
    #[default]
    Mounted,
}

/// How a set-up is to be done.
#[derive(Debug, Clone, Default)]
pub struct SetUp {
    /// How far it goes.
    pub goal: Goal,
    /// The image that was decided on, before a restart or in a try that failed: it is not decided again, and what is mounted
    /// already is of that image.
    pub decided: Option<ImageId>,
    /// Where bytes are counted.
    pub progress: Progress,
    /// Ends the wait for the image. A mount that has begun is finished, so that nothing appears behind the back of a later unmount.
    pub cancel: CancellationToken,
}

/// A volume that is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// What is mounted, or present.
    pub image: ImageId,
    /// Sub paths that are not.
    pub sub_path_errors: SubPathErrors,
}

/// A kind of volume.
#[async_trait]
pub trait VolumePlugin: Send + Sync {
    /// `kubernetes.io/...`.
    fn name(&self) -> &'static str;
    /// Whether the volume is of this kind.
    fn can_support(&self, spec: &Spec) -> bool;
    /// What tells the volume's source from others: for an image its reference.
    fn volume_name(&self, spec: &Spec) -> Result<String>;
    /// What holds for all volumes of this kind.
    fn attributes(&self) -> Attributes;
    /// Makes one volume of one pod ready to be mounted.
    fn new_mounter(&self, spec: &Spec, pod: Arc<Pod>) -> Result<Box<dyn Mounter>>;
    /// Takes one volume of one pod away; the pod may be long gone.
    fn new_unmounter(&self, key: &Key) -> Box<dyn Unmounter>;
}

/// Mounts one volume of one pod.
#[async_trait]
pub trait Mounter: Send + Sync {
    /// Where the volume is mounted.
    fn path(&self) -> &Path;
    /// Mounts it. Again with the image that was decided on is not an error: what is mounted stays. Without one, what is there
    /// is a leftover and goes.
    async fn set_up(&self, how: SetUp) -> Result<Mounted, SetUpFailed>;
}

/// Unmounts one volume of one pod.
#[async_trait]
pub trait Unmounter: Send + Sync {
    /// Unmounts it, removes its directories and gives its references up. Again is not an error.
    async fn tear_down(&self) -> Result<()>;
}

/// The plugins of this node.
#[derive(Clone)]
pub struct PluginManager {
    plugins: Arc<[Arc<dyn VolumePlugin>]>,
}

// === impl PluginManager ===

impl PluginManager {
    /// Plugins are asked in this order.
    pub fn new(plugins: Vec<Arc<dyn VolumePlugin>>) -> Self {
        Self { plugins: plugins.into() }
    }

    /// The plugin that takes a volume.
    pub fn find_by_spec(&self, spec: &Spec) -> Result<&Arc<dyn VolumePlugin>> {
        self.plugins.iter().find(|plugin| plugin.can_support(spec)).ok_or(VolumeError::NoPlugin)
    }

    /// The plugin of a name.
    pub fn find_by_name(&self, name: &str) -> Result<&Arc<dyn VolumePlugin>> {
        self.plugins.iter().find(|plugin| plugin.name() == name).ok_or(VolumeError::NoPlugin)
    }
}

impl std::fmt::Debug for PluginManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.plugins.iter().map(|plugin| plugin.name())).finish()
    }
}
