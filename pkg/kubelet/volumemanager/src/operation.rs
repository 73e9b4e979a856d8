//! Operations as tasks. Each reports its end exactly once, a panic too: a volume never stays busy for ever.

use std::future::Future;
use std::sync::Arc;

use imagevol_volume::{IMAGE_PLUGIN, Key, Mounted, PluginManager, SetUp, SetUpFailed, Spec, VolumeError};
use tokio::sync::mpsc::UnboundedSender;

use crate::state::Wanted;

/// The end of an operation.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) key: Key,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Mount(Result<Mounted, SetUpFailed>),
    Unmount(Result<(), VolumeError>),
}

/// Sends the end when it is dropped.
struct AtEnd {
    key: Key,
    /// Until another is known, the operation has panicked.
    outcome: Option<Outcome>,
    to: UnboundedSender<Ended>,
}

// === impl AtEnd ===

impl AtEnd {
    fn with(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            // The manager is gone only at shutdown.
            drop(self.to.send(Ended { key: self.key.clone(), outcome }));
        }
    }
}

/// Mounts a volume.
pub(crate) fn mount(
    plugins: PluginManager,
    key: Key,
    wanted: Wanted,
    how: SetUp,
    to: UnboundedSender<Ended>,
) -> impl Future<Output = ()> + Send {
    let end = AtEnd { key, outcome: Some(Outcome::Mount(Err(VolumeError::Panicked.into()))), to };
    async move {
        let result = set_up(&plugins, &end.key, &wanted, how).await;
        end.with(Outcome::Mount(result));
    }
}

/// Unmounts a volume.
pub(crate) fn unmount(plugins: PluginManager, key: Key, to: UnboundedSender<Ended>) -> impl Future<Output = ()> + Send {
    let end = AtEnd { key: key.clone(), outcome: Some(Outcome::Unmount(Err(VolumeError::Panicked))), to };
    async move { end.with(Outcome::Unmount(tear_down(&plugins, &key).await)) }
}

async fn set_up(plugins: &PluginManager, key: &Key, wanted: &Wanted, how: SetUp) -> Result<Mounted, SetUpFailed> {
    let Wanted { volume, claims, platform, .. } = wanted;
    let (volume, claims) = (Arc::clone(volume), Arc::clone(claims));
    let spec = Spec { key: key.clone(), volume, claims, platform: platform.clone() };
    let mounter = plugins.find_by_spec(&spec)?.new_mounter(&spec, Arc::clone(&wanted.pod))?;
    mounter.set_up(how).await
}

async fn tear_down(plugins: &PluginManager, key: &Key) -> Result<(), VolumeError> {
    plugins.find_by_name(IMAGE_PLUGIN)?.new_unmounter(key).tear_down().await
}
