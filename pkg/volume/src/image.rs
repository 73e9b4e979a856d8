//! The plugin `kubernetes.io/image`. Upstream registers the name and leaves the rest to the runtime; here it mounts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use imagevol_api::core::pod_ref;
use imagevol_api::corev1::Pod;
use imagevol_api::oci::{Platform, Reference};
use imagevol_base::volumes::{SubPathError, SubPathErrors};
use imagevol_cri::{ImageId, ImageMounts, ImageReferences, ImageService, ImageServiceError, MountRequest};
use imagevol_images::{Claims, EnsureImage, ImageManager, PullPolicy};
use imagevol_mount::{DetachedMount, Exec, MountPoint, SubPath};

use crate::plugin::{Attributes, Goal, Mounted, Mounter, SetUp, Spec, Unmounter, VolumePlugin};
use crate::sub_path::{SubPathMount, sub_path_mounts};
use crate::{Door, Host, Key, Place, Result, SetUpFailed, VolumeError};

/// The plugin's name.
pub const IMAGE_PLUGIN: &str = "kubernetes.io/image";
/// Waiting reason of a container that a runtime refused to create (kuberuntime_container.go, `ErrCreateContainer`).
const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";

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
    key: Key,
    reference: String,
    policy: PullPolicy,
    claims: Arc<Claims>,
    platform: Option<Platform>,
    path: PathBuf,
}

struct ImageUnmounter<S> {
    shared: Arc<Shared<S>>,
    key: Key,
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
        let (key, claims, platform) = (spec.key.clone(), Arc::clone(&spec.claims), spec.platform.clone());
        let path = self.shared.host.path(&key);
        let reference = image.reference.clone().unwrap_or_default();
        let policy = policy_of(image.pull_policy.as_deref(), &reference);
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(ImageMounter { shared, pod, key, reference, policy, claims, platform, path }))
    }

    fn new_unmounter(&self, key: &Key) -> Box<dyn Unmounter> {
        Box::new(ImageUnmounter { shared: Arc::clone(&self.shared), key: key.clone() })
    }
}

// === impl Shared ===

impl<S> Shared<S> {
    async fn on_host<T: Send + 'static>(&self, call: impl FnOnce(&Host) -> Result<T> + Send + 'static) -> Result<T> {
        let host = self.host.clone();
        tokio::task::spawn_blocking(move || call(&host)).await?
    }
}

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

    async fn set_up(&self, how: SetUp) -> Result<Mounted, SetUpFailed> {
        let held = self.shared.service.hold(&self.key.holder(), &self.reference).await;
        if let Err(error) = held {
            return Err(SetUpFailed { error: error.into(), decided: how.decided });
        }
        let image = match &how.decided {
            Some(image) if self.stands(image).await? => image.clone(),
            Some(_) | None => self.decide(&how).await?,
        };
        if how.goal == Goal::Present {
            return Ok(Mounted { image, sub_path_errors: SubPathErrors::new() });
        }
        match self.mount(&image).await {
            Ok(sub_path_errors) => Ok(Mounted { image, sub_path_errors }),
            Err(error) => Err(SetUpFailed { error, decided: self.still_present(image).await }),
        }
    }
}

impl<S> ImageMounter<S>
where
    S: ImageService + ImageReferences + ImageMounts + 'static,
{
    /// Leftovers go first. Killed between a new decision, which is a row, and the removal of an old mount, the next start would
    /// take that mount for what the row says.
    async fn decide(&self, how: &SetUp) -> Result<ImageId> {
        let key = self.key.clone();
        self.shared.on_host(move |host| host.remove_volume(&key)).await?;
        let about = pod_ref(&self.pod);
        let request = EnsureImage {
            pod: &self.pod,
            holder: self.key.holder(),
            reference: &self.reference,
            platform: self.platform.as_ref(),
            policy: self.policy,
            about: &about,
            claims: &self.claims,
            progress: &how.progress,
        };
        tokio::select! {
            () = how.cancel.cancelled() => Err(VolumeError::Cancelled),
            image = self.shared.images.ensure_image_exists(request) => Ok(image?),
        }
    }

    /// Whether a decision of before still holds: what is mounted stays, also if the image has gone from the node since, as one does that
    /// is corrupt on disk; containers may read it. What is not mounted needs an image that is here.
    async fn stands(&self, image: &ImageId) -> Result<bool> {
        Ok(self.mounted(Place::of(&self.key)).await?.is_some() || self.still_present(image.clone()).await.is_some())
    }

    /// The decision stands for the next try unless the image has gone from the node meanwhile.
    async fn still_present(&self, image: ImageId) -> Option<ImageId> {
        match self.shared.service.bind(&self.key.holder(), &image).await {
            Ok(bound) => bound,
            Err(error) => {
                tracing::warn!(%image, %error, "cannot tell whether the image is still present");
                Some(image)
            }
        }
    }

    /// Mounts what is not mounted yet. A kubelet makes sub paths of a CSI volume itself.
    async fn mount(&self, image: &ImageId) -> Result<SubPathErrors> {
        let place = Place::of(&self.key);
        if self.mounted(place.clone()).await?.is_none() {
            let mount = self.shared.service.mount(self.request(image, None)).await?;
            self.shared.on_host(move |host| host.attach(mount, &place)).await?;
        }
        match self.key.door {
            Door::Pod => self.mount_sub_paths(image).await,
            Door::Csi { .. } => Ok(SubPathErrors::new()),
        }
    }

    async fn mount_sub_paths(&self, image: &ImageId) -> Result<SubPathErrors> {
        let wanted = sub_path_mounts(&self.pod, &self.key.volume);
        self.remove_other_sub_paths(&wanted).await?;
        let mut errors = SubPathErrors::new();
        for SubPathMount { container, index, sub_path } in wanted {
            let place = Place::sub_path(&self.key.pod, &self.key.volume, &container, index);
            if let Err(error) = self.mount_sub_path(image, sub_path, place).await? {
                errors.insert((container, index), error);
            }
        }
        Ok(errors)
    }

    async fn remove_other_sub_paths(&self, wanted: &[SubPathMount]) -> Result<()> {
        let (uid, volume) = (self.key.pod.clone(), self.key.volume.clone());
        let place = |mount: &SubPathMount| Place::sub_path(&uid, &volume, &mount.container, mount.index);
        let wanted: BTreeSet<Place> = wanted.iter().filter(|mount| mount.sub_path.is_ok()).map(place).collect();
        self.shared.on_host(move |host| host.remove_sub_paths(&uid, &volume, |place| wanted.contains(place))).await
    }

    /// The container's own errors are values: the volume is mounted all the same.
    async fn mount_sub_path(
        &self,
        image: &ImageId,
        sub_path: Result<SubPath, SubPathError>,
        place: Place,
    ) -> Result<Result<(), SubPathError>> {
        let sub_path = match sub_path {
            Ok(sub_path) => sub_path,
            Err(error) => return Ok(Err(error)),
        };
        let there = self.mounted(place.clone()).await?;
        if there.as_ref().is_some_and(|mount| mount.root == Path::new("/").join(sub_path.as_path())) {
            return Ok(Ok(()));
        }
        match self.shared.service.mount(self.request(image, Some(&sub_path))).await {
            Ok(mount) => self.attach_sub_path(mount, place).await.map(Ok),
            Err(ImageServiceError::SubPath { message }) => {
                let message = format!("failed to mount image volume {:?}: {message}", self.key.volume.as_str());
                Ok(Err(SubPathError { reason: CREATE_CONTAINER_ERROR, message }))
            }
            // Of an image that has gone from the node there is nothing else to mount.
            Err(ImageServiceError::NotFound { .. }) if there.is_some() => Ok(Ok(())),
            Err(error) => Err(error.into()),
        }
    }

    /// What is mounted there may be the same by way of a symlink in the image, or what another spec wanted.
    async fn attach_sub_path(&self, mount: DetachedMount, place: Place) -> Result<()> {
        let (uid, volume) = (self.key.pod.clone(), self.key.volume.clone());
        let attach = move |host: &Host| {
            if host.mounted(&place)?.is_some() && host.is_same(&place, &mount)? {
                return Ok(());
            }
            host.remove_sub_paths(&uid, &volume, |other| *other != place)?;
            host.attach(mount, &place)
        };
        self.shared.on_host(attach).await
    }

    async fn mounted(&self, place: Place) -> Result<Option<MountPoint>> {
        self.shared.on_host(move |host| host.mounted(&place)).await
    }

    fn request<'a>(&self, image: &'a ImageId, sub_path: Option<&'a SubPath>) -> MountRequest<'a> {
        MountRequest { image, sub_path, exec: self.shared.exec }
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
        let key = self.key.clone();
        self.shared.on_host(move |host| host.remove_volume(&key)).await?;
        self.shared.images.forget(&self.key.pod);
        Ok(self.shared.service.release(&self.key.holder()).await?)
    }
}

/// The pod's policy; defaulting has set it, and what it would have set counts for a pod that came another way.
fn policy_of(written: Option<&str>, reference: &str) -> PullPolicy {
    let moves = Reference::parse(reference).is_ok_and(|reference| reference.moves());
    let default = if moves { PullPolicy::Always } else { PullPolicy::IfNotPresent };
    written.and_then(|policy| policy.parse().ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests;
