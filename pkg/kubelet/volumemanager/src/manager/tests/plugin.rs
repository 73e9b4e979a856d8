//! A plugin whose mounts are a table, and which does as it is told. It checks what no manager may do.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::MutexGuard;

use async_trait::async_trait;
use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::volumes::SubPathErrors;
use imagevol_cri::progress::Blob;
use imagevol_volume::{Attributes, IMAGE_PLUGIN, Mounter, Spec, Unmounter, VolumePlugin};

use super::*;

/// Clones share everything.
#[derive(Clone, Default)]
pub(super) struct FakePlugin(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    mounted: BTreeMap<Key, ImageId>,
    busy: BTreeSet<Key>,
    mounts: BTreeMap<Key, VecDeque<Do>>,
    unmounts: BTreeMap<Key, VecDeque<Do>>,
    calls: Vec<String>,
    wrongs: Vec<String>,
    forbids_unmounts: bool,
}

/// What an operation does. Without a word it succeeds at once.
#[derive(Debug, Clone)]
pub(super) enum Do {
    /// Succeeds after this long, deaf to cancellation.
    Take(Duration),
    /// Waits until it is cancelled, as for a pull.
    Wait,
    /// Fails as the node does; of a mount the decision stands.
    Fail,
    /// Bytes come in, then the registry goes away after this long.
    Bring(u64, Duration),
    /// Pulls a byte each second until all are here.
    Pull(u64),
    /// Succeeds but for these sub paths.
    Spoil(SubPathErrors),
    Panic,
}

/// One volume of one pod, for both directions.
struct Volume {
    plugin: FakePlugin,
    key: Key,
    reference: String,
}

/// While it lives, an operation is under way.
struct Running<'a>(&'a Volume);

impl FakePlugin {
    /// What the next mount does that has no earlier word.
    pub(super) fn next_mount(&self, key: Key, what: Do) {
        self.state().mounts.entry(key).or_default().push_back(what);
    }

    pub(super) fn next_unmount(&self, key: Key, what: Do) {
        self.state().unmounts.entry(key).or_default().push_back(what);
    }

    /// An earlier run has mounted it.
    pub(super) fn left(&self, key: Key) {
        self.state().mounted.insert(key, image_of(IMAGE));
    }

    pub(super) fn mounted(&self) -> Vec<String> {
        self.state().mounted.keys().map(|key| format!("{}/{}", key.pod, key.volume)).collect()
    }

    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    pub(super) fn forbid_unmounts(&self, forbidden: bool) {
        self.state().forbids_unmounts = forbidden;
    }

    /// What the manager did that it may never do.
    pub(super) fn wrongs(&self) -> Vec<String> {
        self.state().wrongs.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.plugin.state().busy.remove(&self.0.key);
    }
}

impl Volume {
    fn begin(&self, call: String) -> Running<'_> {
        let mut state = self.plugin.state();
        if !state.busy.insert(self.key.clone()) {
            state.wrongs.push(format!("{call} during another operation"));
        }
        state.calls.push(call);
        Running(self)
    }

    async fn work(&self, what: Option<Do>, how: SetUp) -> Result<SubPathErrors, SetUpFailed> {
        let mut spoilt = SubPathErrors::new();
        match what {
            None => {}
            Some(Do::Take(time)) => tokio::time::sleep(time).await,
            Some(Do::Spoil(errors)) => spoilt = errors,
            Some(Do::Panic) => panic!("as the test wants"),
            Some(Do::Wait) => {
                how.cancel.cancelled().await;
                return Err(VolumeError::Cancelled.into());
            }
            Some(Do::Fail) => {
                let decided = Some(how.decided.unwrap_or_else(|| image_of(&self.reference)));
                return Err(SetUpFailed { error: node_error(), decided });
            }
            Some(Do::Pull(bytes)) => {
                let blob = Blob::new(image_of("blob").digest(), bytes);
                how.progress.show(&blob);
                for _ in 0..bytes {
                    tokio::time::sleep(SECOND).await;
                    blob.add(1);
                }
            }
            Some(Do::Bring(bytes, time)) => {
                let blob = Blob::new(image_of("blob").digest(), 1000);
                blob.set(bytes);
                how.progress.show(&blob);
                tokio::select! {
                    () = tokio::time::sleep(time) => return Err(node_error().into()),
                    () = how.cancel.cancelled() => return Err(VolumeError::Cancelled.into()),
                }
            }
        }
        Ok(spoilt)
    }
}

#[async_trait]
impl Mounter for Volume {
    fn path(&self) -> &Path {
        Path::new("/")
    }

    async fn set_up(&self, how: SetUp) -> Result<Mounted, SetUpFailed> {
        let how_decided = if how.decided.is_some() { " decided" } else { "" };
        let what = if how.goal == Goal::Present { "prepare" } else { "mount" };
        let call = format!("{what} {}/{}{how_decided}", self.key.pod, self.key.volume);
        let goal = how.goal;
        let _running = self.begin(call);
        let what = self.plugin.state().mounts.get_mut(&self.key).and_then(VecDeque::pop_front);
        let image = how.decided.clone().unwrap_or_else(|| image_of(&self.reference));
        let sub_path_errors = self.work(what, how).await?;
        if goal == Goal::Mounted {
            self.plugin.state().mounted.insert(self.key.clone(), image.clone());
        }
        Ok(Mounted { image, sub_path_errors })
    }
}

#[async_trait]
impl Unmounter for Volume {
    async fn tear_down(&self) -> Result<(), VolumeError> {
        let call = format!("unmount {}/{}", self.key.pod, self.key.volume);
        let _running = self.begin(call);
        let what = self.plugin.state().unmounts.get_mut(&self.key).and_then(VecDeque::pop_front);
        if self.plugin.state().forbids_unmounts {
            self.plugin.state().wrongs.push(format!("{} unmounted too early", self.key.volume));
        }
        self.work(what, SetUp::default()).await.map_err(|failed| failed.error)?;
        self.plugin.state().mounted.remove(&self.key);
        Ok(())
    }
}

impl VolumePlugin for FakePlugin {
    fn name(&self) -> &'static str {
        IMAGE_PLUGIN
    }

    fn can_support(&self, _: &Spec) -> bool {
        true
    }

    fn volume_name(&self, spec: &Spec) -> Result<String, VolumeError> {
        Ok(spec.volume.name.clone())
    }

    fn attributes(&self) -> Attributes {
        Attributes { read_only: true, managed: false, selinux_relabel: false }
    }

    fn new_mounter(&self, spec: &Spec, pod: Arc<Pod>) -> Result<Box<dyn Mounter>, VolumeError> {
        assert_eq!(pod.metadata.uid.as_deref(), Some(spec.key.pod.as_str()));
        let key = spec.key.clone();
        let reference = spec.volume.image.as_ref().and_then(|image| image.reference.clone()).unwrap_or_default();
        Ok(Box::new(Volume { plugin: self.clone(), key, reference }))
    }

    fn new_unmounter(&self, key: &Key) -> Box<dyn Unmounter> {
        Box::new(Volume { plugin: self.clone(), key: key.clone(), reference: String::new() })
    }
}

pub(super) fn image_of(reference: &str) -> ImageId {
    let mut bytes = [0; 32];
    reference.bytes().enumerate().for_each(|(at, byte)| bytes[at % 32] ^= byte);
    ImageId::new(Digest::from_bytes(Algorithm::Sha256, &bytes).unwrap())
}

fn node_error() -> VolumeError {
    imagevol_cri::ImageServiceError::Node { message: "no loop device".to_owned() }.into()
}
