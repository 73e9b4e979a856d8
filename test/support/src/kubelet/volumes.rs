//! One call of the kubelet to set up a volume or to tear it down, and the files that it keeps beside the mount.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use aws_lc_rs::digest;
use imagevol_api::csi::node_client::NodeClient;
use imagevol_api::csi::volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode};
use imagevol_api::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability};
use serde_json::{Value, json};
use tonic::{Request, Status};

use super::pods::target;
use super::{CSI_TIMEOUT, Known, Kubelet, KubeletPod, KubeletVolume, Lifecycle, is_final, within};

/// What the kubelet remembers of a volume over its own restart (pkg/volume/csi/csi_plugin.go, `volDataFileName`).
const VOL_DATA: &str = "vol_data.json";

#[expect(clippy::expect_used, clippy::panic, reason = "a harness: whatever fails here fails the test that uses it")]
impl Kubelet {
    /// One call to publish (csi_mounter.go, `SetUpAt`).
    pub async fn set_up(&self, pod: &KubeletPod, volume: &KubeletVolume) -> Result<(), Status> {
        let book = self.book(&pod.uid, &volume.name);
        let _turn = book.turn.lock().await;
        let target = volume.target(self.root(), pod);
        let dir = target.parent().expect("a target has a parent");
        DirBuilder::new().recursive(true).mode(0o750).create(dir).expect("make the volume's directory");
        let data = vol_data(pod, volume).to_string();
        fs::write(dir.join(VOL_DATA), data).expect("write down the volume");
        // As known before: a driver that is not there has left nothing that was not there before.
        self.shared.driver.capabilities().await?;
        // Without a file a restarted kubelet knows nothing; with one, and until the call ends, everything is possible.
        let ended = self.publish(pod, volume).await;
        let was_mounted = book.known.is_some();
        match &ended {
            Ok(()) => self.set_known(&pod.uid, &volume.name, Some(Known::Mounted)),
            Err(failure) if !is_final(failure) => self.set_known(&pod.uid, &volume.name, Some(Known::Uncertain)),
            Err(_) if was_mounted => {}
            Err(failure) => remove_mount_dir(&target).unwrap_or_else(|error| {
                panic!("after a final error ({failure:?}) something is left at {}: {error}", target.display())
            }),
        }
        ended
    }

    /// The call alone: no directory is made, and nothing is noted down.
    pub async fn publish(&self, pod: &KubeletPod, volume: &KubeletVolume) -> Result<(), Status> {
        let mut volume_context = volume.attributes.clone();
        volume_context.extend(pod.info(volume.lifecycle));
        let capability = VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: access_mode(volume.lifecycle).into() }),
        };
        let call = NodePublishVolumeRequest {
            volume_id: volume_handle(&pod.uid, volume),
            target_path: volume.target(self.root(), pod).display().to_string(),
            volume_capability: Some(capability),
            readonly: volume.read_only,
            secrets: volume.secrets.clone(),
            volume_context,
            ..NodePublishVolumeRequest::default()
        };
        let mut call = Request::new(call);
        call.set_timeout(CSI_TIMEOUT);
        let mut node = NodeClient::new(self.shared.driver.dial().await?);
        within(CSI_TIMEOUT, node.node_publish_volume(call)).await.map(drop)
    }

    /// One call to unpublish (csi_mounter.go, `TearDownAt`).
    pub(super) async fn tear_down(&self, pod: &str, volume: &str) -> Result<(), Status> {
        let target = target(self.root(), pod, volume);
        self.unpublish(pod, volume).await?;
        assert!(!target.exists(), "the driver has to remove {}", target.display());
        remove_mount_dir(&target).expect("remove the volume's directory");
        self.set_known(pod, volume, None);
        Ok(())
    }

    /// The call alone: nothing is noted down.
    pub async fn unpublish(&self, pod: &str, volume: &str) -> Result<(), Status> {
        let target = target(self.root(), pod, volume);
        let mut call = Request::new(NodeUnpublishVolumeRequest {
            volume_id: remembered_handle(&target).unwrap_or_else(|| format!("forgotten-{pod}-{volume}")),
            target_path: target.display().to_string(),
        });
        call.set_timeout(CSI_TIMEOUT);
        let mut node = NodeClient::new(self.shared.driver.dial().await?);
        within(CSI_TIMEOUT, node.node_unpublish_volume(call)).await.map(drop)
    }
}

/// Every volume that files tell of, as pod UID and volume.
pub(super) fn on_disk(root: &Path) -> Vec<(String, String)> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let of_pod = |pod: String| {
        let dir = root.join("pods").join(&pod).join("volumes/kubernetes.io~csi");
        let volumes = names(&dir).into_iter().filter(move |volume| dir.join(volume).join(VOL_DATA).is_file());
        volumes.map(move |volume| (pod.clone(), volume)).collect::<Vec<_>>()
    };
    names(&root.join("pods")).into_iter().flat_map(of_pod).collect()
}

/// Removes the directory of a pod whose volumes are all gone; one that still has some stays (kubelet_volumes.go).
#[expect(clippy::expect_used, reason = "a harness: whatever fails here fails the test that uses it")]
pub(super) fn remove_pod(root: &Path, pod: &str) {
    let dir = root.join("pods").join(pod);
    let volumes = fs::read_dir(dir.join("volumes/kubernetes.io~csi"));
    if volumes.is_ok_and(|mut volumes| volumes.next().is_some()) {
        return;
    }
    for dir in [dir.join("volumes/kubernetes.io~csi"), dir.join("volumes"), dir] {
        absent_is_fine(fs::remove_dir(dir)).expect("remove the pod's directory");
    }
}

/// Removes what is no mount (csi_mounter.go, `removeMountDir`): never recursively.
fn remove_mount_dir(target: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir(target))?;
    let Some(dir) = target.parent() else { return Ok(()) };
    absent_is_fine(fs::remove_file(dir.join(VOL_DATA)))?;
    absent_is_fine(fs::remove_dir(dir))
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn vol_data(pod: &KubeletPod, volume: &KubeletVolume) -> Value {
    json!({
        "attachmentID": "csi-none",
        "driverName": "csi.imagevol.dev",
        "nodeName": "node",
        "specVolID": volume.name,
        "volumeHandle": volume_handle(&pod.uid, volume),
        "volumeLifecycleMode": format!("{:?}", volume.lifecycle),
    })
}

fn remembered_handle(target: &Path) -> Option<String> {
    let text = fs::read_to_string(target.parent()?.join(VOL_DATA)).ok()?;
    serde_json::from_str::<Value>(&text).ok()?.get("volumeHandle")?.as_str().map(str::to_owned)
}

/// `csi-` and a hash of the pod and the volume for an inline volume (csi_mounter.go, `makeVolumeHandle`).
fn volume_handle(pod: &str, volume: &KubeletVolume) -> String {
    match volume.lifecycle {
        Lifecycle::Persistent => format!("handle-{}", volume.name),
        Lifecycle::Ephemeral => {
            let hash = digest::digest(&digest::SHA256, format!("{pod}{}", volume.name).as_bytes());
            let hex: Vec<_> = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("csi-{}", hex.concat())
        }
    }
}

/// Of an inline volume, and of a persistent one that is `ReadOnlyMany` (csi_client.go, `asCSIAccessModeV1`).
fn access_mode(lifecycle: Lifecycle) -> Mode {
    match lifecycle {
        Lifecycle::Ephemeral => Mode::SingleNodeWriter,
        Lifecycle::Persistent => Mode::MultiNodeReaderOnly,
    }
}
