//! The plugin `kubernetes.io/image`. Upstream registers the name and leaves the rest to the runtime; here it mounts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use imagevol_api::core::pod_ref;
use imagevol_api::corev1::Pod;
use imagevol_api::names::{PodUid, VolumeName};
use imagevol_api::oci::Reference;
use imagevol_base::Holder;
use imagevol_cri::{ImageId, ImageMounts, ImageReferences, ImageService, ImageServiceError, MountRequest};
use imagevol_images::{EnsureImage, ImageManager, PullPolicy};
use imagevol_mount::{DetachedMount, Exec, SubPath};

use crate::plugin::{Attributes, Mounted, Mounter, SetUp, Spec, SubPathError, Unmounter, VolumePlugin};
use crate::sub_path::{SubPathMount, sub_path_mounts};
use crate::{Host, Result, VolumeError};

/// The plugin's name.
pub const IMAGE_PLUGIN: &str = "kubernetes.io/image";

/// Volumes that are images.
#[derive(Debug)]
pub struct ImagePlugin<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    images: Arc<ImageManager<S>>,
    service: Arc<S>,
    host: Host,
    exec: Exec,
}

struct ImageMounter<S> {
    shared: Arc<Shared<S>>,
    pod: Arc<Pod>,
    uid: PodUid,
    volume: VolumeName,
    reference: String,
    policy: PullPolicy,
    path: PathBuf,
}

struct ImageUnmounter<S> {
    shared: Arc<Shared<S>>,
    uid: PodUid,
    volume: VolumeName,
}

// === impl ImagePlugin ===

impl<S> ImagePlugin<S> {
    /// `images` decides about pulls; `service` holds references and makes mounts; `exec` holds for every mount.
    pub fn new(images: Arc<ImageManager<S>>, service: Arc<S>, host: Host, exec: Exec) -> Self {
        Self { shared: Arc::new(Shared { images, service, host, exec }) }
    }
}

impl<S> VolumePlugin for ImagePlugin<S>
where
    S: ImageService + ImageReferences + ImageMounts + 'static,
{
    fn name(&self) -> &'static str {
        IMAGE_PLUGIN
    }

    fn can_support(&self, spec: &Spec) -> bool {
        spec.volume.image.is_some()
    }

    fn volume_name(&self, spec: &Spec) -> Result<String> {
        let image = spec.volume.image.as_ref().ok_or(VolumeError::NotAnImage)?;
        Ok(image.reference.clone().unwrap_or_default())
    }

    fn attributes(&self) -> Attributes {
        Attributes { read_only: true, managed: false, selinux_relabel: false }
    }

    fn new_mounter(&self, spec: &Spec, pod: Arc<Pod>) -> Result<Box<dyn Mounter>> {
        let image = spec.volume.image.as_ref().ok_or(VolumeError::NotAnImage)?;
        let uid: PodUid = pod.metadata.uid.as_deref().unwrap_or_default().parse()?;
        let volume: VolumeName = spec.volume.name.parse()?;
        let path = self.shared.host.volume_path(&uid, &volume);
        let reference = image.reference.clone().unwrap_or_default();
        let policy = policy_of(image.pull_policy.as_deref(), &reference);
        Ok(Box::new(ImageMounter { shared: Arc::clone(&self.shared), pod, uid, volume, reference, policy, path }))
    }

    fn new_unmounter(&self, volume: &VolumeName, pod: &PodUid) -> Box<dyn Unmounter> {
        Box::new(ImageUnmounter { shared: Arc::clone(&self.shared), uid: pod.clone(), volume: volume.clone() })
    }
}

// === impl Shared ===

impl<S> std::fmt::Debug for Shared<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("host", &self.host).field("exec", &self.exec).finish_non_exhaustive()
    }
}

// === impl ImageMounter ===

#[async_trait]
impl<S> Mounter for ImageMounter<S>
where
    S: ImageService + ImageReferences + ImageMounts + 'static,
{
    fn path(&self) -> &Path {
        &self.path
    }

    async fn set_up(&self, how: SetUp) -> Result<Mounted> {
        self.shared.service.hold(&self.holder(), &self.reference).await?;
        let decided = how.decided.is_some();
        let image = match &how.decided {
            Some(image) => image.clone(),
            None => self.ensure(&how).await?,
        };
        self.mount_whole(&image, decided).await?;
        let sub_path_errors = self.mount_sub_paths(&image).await?;
        Ok(Mounted { image, sub_path_errors })
    }
}

impl<S> ImageMounter<S>
where
    S: ImageService + ImageReferences + ImageMounts + 'static,
{
    fn holder(&self) -> Holder {
        Holder::Volume { pod: self.uid.clone(), volume: self.volume.clone() }
    }

    async fn ensure(&self, how: &SetUp) -> Result<ImageId> {
        let about = pod_ref(&self.pod);
        let request = EnsureImage {
            pod: &self.pod,
            holder: self.holder(),
            reference: &self.reference,
            policy: self.policy,
            about: &about,
            progress: &how.progress,
        };
        tokio::select! {
            () = how.cancel.cancelled() => Err(VolumeError::Cancelled),
            image = self.shared.images.ensure_image_exists(request) => Ok(image?),
        }
    }

    /// What is mounted from before a restart is what was decided then. Otherwise a mount that is there is a leftover.
    async fn mount_whole(&self, image: &ImageId, decided: bool) -> Result<()> {
        let (host, path) = (self.shared.host.clone(), self.path.clone());
        if blocking(move || host.is_mounted(&path)).await? {
            if decided {
                return Ok(());
            }
            let (host, uid, volume) = (self.shared.host.clone(), self.uid.clone(), self.volume.clone());
            blocking(move || host.remove_volume(&uid, &volume)).await?;
        }
        let mount = self.shared.service.mount(self.request(image, None)).await?;
        self.attach(mount, self.path.clone()).await
    }

    async fn mount_sub_paths(
        &self,
        image: &ImageId,
    ) -> Result<BTreeMap<(imagevol_api::names::ContainerName, u32), SubPathError>> {
        let mut errors = BTreeMap::new();
        for wanted in sub_path_mounts(&self.pod, &self.volume) {
            let key = (wanted.container.clone(), wanted.index);
            if let Some(error) = self.mount_sub_path(image, wanted).await? {
                errors.insert(key, error);
            }
        }
        Ok(errors)
    }

    /// The container's own errors are values: the volume is mounted all the same.
    async fn mount_sub_path(&self, image: &ImageId, wanted: SubPathMount) -> Result<Option<SubPathError>> {
        let sub_path = match wanted.sub_path {
            Ok(sub_path) => sub_path,
            Err(error) => return Ok(Some(error)),
        };
        let at = self.shared.host.sub_path_path(&self.uid, &self.volume, &wanted.container, wanted.index);
        let (host, place) = (self.shared.host.clone(), at.clone());
        if blocking(move || host.is_mounted(&place)).await? {
            return Ok(None);
        }
        match self.shared.service.mount(self.request(image, Some(&sub_path))).await {
            Ok(mount) => self.attach(mount, at).await.map(|()| None),
            Err(ImageServiceError::SubPath { message }) => {
                let message = format!("failed to mount image volume {:?}: {message}", self.volume.as_str());
                Ok(Some(SubPathError { reason: "CreateContainerError", message }))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn request<'a>(&self, image: &'a ImageId, sub_path: Option<&'a SubPath>) -> MountRequest<'a> {
        MountRequest { image, sub_path, exec: self.shared.exec }
    }

    async fn attach(&self, mount: DetachedMount, at: PathBuf) -> Result<()> {
        let host = self.shared.host.clone();
        blocking(move || host.attach(mount, &at)).await
    }
}

// === impl ImageUnmounter ===

#[async_trait]
impl<S> Unmounter for ImageUnmounter<S>
where
    S: ImageService + ImageReferences + ImageMounts + 'static,
{
    /// The row goes last: until then the image is kept, and a kill leaves a row that the next start takes up.
    async fn tear_down(&self) -> Result<()> {
        let (host, uid, volume) = (self.shared.host.clone(), self.uid.clone(), self.volume.clone());
        blocking(move || host.remove_volume(&uid, &volume)).await?;
        let holder = Holder::Volume { pod: self.uid.clone(), volume: self.volume.clone() };
        Ok(self.shared.service.release(&holder).await?)
    }
}

/// The pod's policy; defaulting has set it, and what it would have set counts for a pod that came another way.
fn policy_of(written: Option<&str>, reference: &str) -> PullPolicy {
    let moves = Reference::parse(reference).is_ok_and(|reference| reference.moves());
    let default = if moves { PullPolicy::Always } else { PullPolicy::IfNotPresent };
    written.and_then(|policy| policy.parse().ok()).unwrap_or(default)
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(|error| VolumeError::Task(error.to_string()))?
}
