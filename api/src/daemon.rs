//! The daemon's local API: JSON over its unix socket. Kubernetes objects travel as themselves; what Kubernetes has no kind for is here.
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /healthz`, `/livez`, `/readyz` | `ok`, or 503 and the reasons as text |
//! | `GET /version`, `GET /status` | [`Version`], [`NodeStatus`] |
//! | `POST /apply?dryRun=All&source=NAME&namespace=NS` | body: manifests; [`ApplyResponse`] |
//! | `GET /api/v1/pods`, `GET /api/v1/namespaces/NS/pods` | `PodList` |
//! | `GET`, `DELETE /api/v1/namespaces/NS/pods/NAME` | `Pod`; `Status` |
//! | `DELETE /api/v1/namespaces/NS/secrets/NAME` | `Status` |
//! | `POST /api/v1/namespaces/NS/pods/NAME/retry` | `Status` |
//! | `GET /api/v1/namespaces/NS/pods/NAME/volumes` | [`PodVolumes`] |
//! | `GET /api/v1/events`, `GET /api/v1/namespaces/NS/events` | `EventList` |
//! | `GET /images`, `GET /images/inspect?reference=REF` | [`ImageList`], [`ImageDetail`] |
//! | `DELETE /images?reference=REF` | [`RemovedImage`]; 409 and a `Status` that names the holders |
//! | `POST /images/pull` | body: [`PullRequest`]; one [`PullEvent`] a line until the pull ends |
//! | `POST /images/import?name=REF&repository=NAME` | body: a tar; one [`ImportEvent`] a line until the import ends |
//! | `GET /images/export?reference=REF&reference=...` | a tar |
//! | `GET /images/why?name=NAME` | [`WhyReport`] |
//! | `POST /gc` | body: [`GcRequest`]; [`GcReport`] |
//! | `GET /df` | [`DiskUsage`] |
//! | `GET /pins`, `PUT /pins?pattern=P`, `DELETE /pins?pattern=P` | [`PinList`], [`Pin`], `Status` |
//! | `GET /prefetch` | [`PrefetchList`] |
//! | `POST /prefetch` | body: [`PrefetchRequest`]; one [`PullEvent`] a line until the pull ends |
//! | `DELETE /prefetch?reference=REF` | `Status`; gives up what was fetched ahead by command |
//! | `GET /references` | [`ReferenceList`] |
//! | `PUT /references/OWNER/NAME` | body: [`ReferenceRequest`]; [`HeldReference`] |
//! | `DELETE /references/OWNER/NAME` | `Status` |
//! | `GET /fsck`, `POST /fsck` | [`FsckReport`]; `POST` repairs |
//!
//! Errors are a `metav1.Status` with the HTTP code that Kubernetes gives the same condition.

mod lifetime;
mod supply;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;
use crate::text::{count, human_size, line};

pub use lifetime::{
    DiskUsage, DiskUsageItem, GcImage, GcReport, GcRequest, GcStayed, HeldReference, HolderState, Pin, PinList,
    ReferenceList, ReferenceRequest, WhyContent, WhyHolder, WhyImage, WhyReport, used_percent,
};
pub use supply::{
    EXPORTED_IMAGES, ExportedImage, ImportEvent, PrefetchList, PrefetchPhase, PrefetchRequest, Prefetched,
};

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Version of imagevol.
    pub version: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
}

/// What the node agent stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// What runs.
    pub version: Version,
    /// Name of the node.
    pub node_name: String,
    /// How images are mounted: `erofs` or `erofs-loop`.
    pub image_backend: String,
    /// The store.
    pub state_dir: String,
    /// The kubelet-shaped root.
    pub root_dir: String,
    /// Where manifests are read from.
    pub manifest_dir: String,
    /// Pods known.
    pub pods: u64,
    /// Volumes mounted.
    pub mounted_volumes: u64,
    /// Images present.
    pub images: u64,
    /// Bytes that images take on disk.
    pub used_bytes: u64,
    /// Bytes free on the store's file system.
    pub available_bytes: u64,
    /// Pulls under way.
    pub pulls: Vec<RunningPull>,
    /// Why the daemon is not ready; empty when it is.
    pub not_ready: Vec<String>,
    /// Manifests that cannot be used, a sentence each.
    #[serde(default)]
    pub manifest_problems: Vec<String>,
    /// Images that prefetch lists keep present.
    #[serde(default)]
    pub prefetch: PrefetchCount,
    /// Prefetch lists that cannot be used, a sentence each.
    #[serde(default)]
    pub prefetch_problems: Vec<String>,
}

/// How far prefetch lists are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrefetchCount {
    /// Images that lists want.
    pub wanted: u64,
    /// Those of them that are here.
    pub present: u64,
}

/// A pull under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningPull {
    /// The reference.
    pub reference: String,
    /// How far each blob has come.
    pub blobs: Vec<BlobProgress>,
}

/// How far one blob has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobProgress {
    /// The blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Bytes that are here.
    pub done: u64,
}

/// What became of each object of an apply.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyResponse {
    /// In the order of the documents.
    pub results: Vec<ApplyResult>,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyResult {
    /// `pod` or `secret`, as kubectl's `TYPE/NAME` writes it; empty where the document could not be read.
    pub kind: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// What was done; absent on an error.
    pub outcome: Option<ApplyOutcome>,
    /// The error block as kubectl prints it; absent on success.
    pub error: Option<String>,
    /// The object with its defaults; secrets without their data.
    pub object: Option<serde_json::Value>,
}

/// What apply did to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApplyOutcome {
    /// It was not there.
    Created,
    /// It was there and is different now.
    Configured,
    /// It was there just so.
    Unchanged,
}

/// Where a pod's image volumes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodVolumes {
    /// In the order of the spec.
    pub volumes: Vec<PodVolume>,
}

/// One image volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodVolume {
    /// Name of the volume.
    pub name: String,
    /// The directory where it is, or will be, mounted.
    pub path: String,
    /// Whether it is mounted now.
    pub mounted: bool,
    /// The manifest digest that is mounted.
    pub image: Option<Digest>,
    /// Mounts of sub paths, by container.
    pub sub_paths: Vec<PodSubPath>,
}

/// One sub path of a volume, as one container mounts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSubPath {
    /// The container.
    pub container: String,
    /// Position in the container's `volumeMounts`.
    pub index: u32,
    /// The path inside the image.
    pub sub_path: String,
    /// The directory or file where it is mounted.
    pub path: String,
}

/// The volumes that the kubelet of this node has asked for, or will.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsiVolumeList {
    /// By pod and volume.
    pub items: Vec<CsiVolume>,
}

/// A CSI volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CsiVolume {
    /// Namespace of the pod; empty while only its UID is known.
    pub namespace: String,
    /// Name of the pod; empty while only its UID is known.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the volume in the pod, or of the persistent volume.
    pub volume: String,
    /// The directory where the kubelet wants it.
    pub path: String,
    /// The reference as it was asked for.
    pub reference: String,
    /// How far it is.
    pub state: CsiVolumeState,
    /// The reason of a failure, as in a pod's status; why the volume is still there, if nobody wants it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// More about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The manifest digest of what is mounted, or ready for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// How far each blob of a pull under way has come.
    pub blobs: Vec<BlobProgress>,
}

/// How far a CSI volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CsiVolumeState {
    /// Nothing is decided yet.
    Waiting,
    /// Its image is being looked up or pulled.
    Pulling,
    /// Its image is here, and the kubelet has not asked for the mount yet.
    Present,
    /// It is mounted.
    Mounted,
    /// The last attempt failed; there will be another.
    Failed,
    /// It is being unmounted.
    Leaving,
}

/// All images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageList {
    /// Newest pull first.
    pub items: Vec<ImageSummary>,
}

/// One image, for a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// Manifest digest.
    pub id: Digest,
    /// `name:tag` references.
    pub repo_tags: Vec<String>,
    /// `name@digest` references.
    pub repo_digests: Vec<String>,
    /// `Image` or `Artifact`.
    pub kind: String,
    /// Bytes on disk, shared layers included.
    pub size: u64,
    /// When it was pulled last, RFC 3339.
    pub pulled_at: String,
    /// Who uses it, or waits for it.
    pub used_by: Vec<ImageUser>,
    /// The pins that keep it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<String>,
}

/// A holder of an image, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageUser {
    /// `pod NS/NAME volume V`, or `pull command`.
    pub name: String,
}

/// One image, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetail {
    /// What the table shows.
    pub summary: ImageSummary,
    /// Media type of the manifest.
    pub media_type: String,
    /// `artifactType`, or the config's media type for an artifact without one.
    pub artifact_type: Option<String>,
    /// Annotations of the manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// In the manifest's order.
    pub layers: Vec<LayerDetail>,
    /// The manifest as the registry sent it.
    pub manifest: serde_json::Value,
}

/// One layer of an image, or one file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerDetail {
    /// The blob's digest in the registry.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes in the registry.
    pub size: u64,
    /// The digest that names its content on disk.
    pub stored_as: Digest,
    /// Its bytes on disk.
    pub stored_size: u64,
    /// The file's name, for a file of an artifact.
    pub title: Option<String>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedImage {
    /// References that lead nowhere now.
    pub untagged: Vec<String>,
    /// Images that went with their last reference.
    pub deleted: Vec<Digest>,
    /// Bytes freed on disk.
    pub freed_bytes: u64,
}

/// A pull by command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullRequest {
    /// What to pull.
    pub reference: String,
}

/// A line of a pull's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum PullEvent {
    /// How far each blob has come; sent while the pull runs.
    Progress {
        /// In the order in which they were started.
        blobs: Vec<BlobProgress>,
    },
    /// The pull ended well; the last line.
    #[serde(rename_all = "camelCase")]
    Pulled {
        /// The reference with its default tag.
        reference: String,
        /// The manifest digest.
        id: Digest,
        /// Bytes on disk.
        size: u64,
    },
    /// The pull failed; the last line.
    Failed {
        /// For the user.
        message: String,
    },
}

/// What fsck saw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FsckReport {
    /// Images whose rows, files and digests were checked.
    pub images: u64,
    /// Layers and blobs whose content was hashed.
    pub blobs: u64,
    /// Bytes hashed.
    pub bytes: u64,
    /// Mounts that were held against rows.
    pub mounts: u64,
    /// Downloads under way or waiting to be resumed: no error.
    pub unfinished: Vec<String>,
    /// What is wrong, a sentence each; empty when all is well.
    pub problems: Vec<String>,
    /// What a repair has done about it, a sentence each.
    #[serde(default)]
    pub repaired: Vec<String>,
}

// === impl FsckReport ===

/// The report for people, every line ended; foreign text is escaped.
impl fmt::Display for FsckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (images, blobs) = (count(self.images, "image"), count(self.blobs, "blob"));
        let (bytes, mounts) = (human_size(self.bytes), count(self.mounts, "mount"));
        writeln!(f, "Checked {images}, {blobs} with {bytes}, and {mounts}.")?;
        list(f, "Unfinished, which is no error:", &self.unfinished)?;
        list(f, "Problems:", &self.problems)?;
        list(f, "Repaired:", &self.repaired)?;
        match (self.problems.is_empty(), self.repaired.is_empty()) {
            (true, true) => writeln!(f, "No problems found."),
            (true, false) => writeln!(f, "No problems left."),
            (false, _) => Ok(()),
        }
    }
}

/// A heading and its lines; nothing where there are none.
fn list(f: &mut fmt::Formatter<'_>, heading: &str, lines: &[String]) -> fmt::Result {
    if !lines.is_empty() {
        writeln!(f, "{heading}")?;
    }
    lines.iter().try_for_each(|each| writeln!(f, "  {}", line(each)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fsck_counts_in_the_right_number() {
        let report = FsckReport { images: 1, blobs: 2, bytes: 1500, mounts: 0, ..FsckReport::default() };
        assert_eq!(report.to_string(), "Checked 1 image, 2 blobs with 1.5kB, and 0 mounts.\nNo problems found.\n");
    }

    #[test]
    fn fsck_lists_what_it_saw_and_escapes_it() {
        let report = FsckReport {
            images: 2,
            blobs: 1,
            bytes: 0,
            mounts: 1,
            unfinished: vec!["sha256:1".to_owned()],
            problems: vec!["layer \u{1b}x is damaged".to_owned()],
            repaired: vec!["layer sha256:1 is fetched again at its next use".to_owned()],
        };
        let text = "Checked 2 images, 1 blob with 0B, and 1 mount.\nUnfinished, which is no error:\n  sha256:1\n\
                    Problems:\n  layer \\u{1b}x is damaged\n\
                    Repaired:\n  layer sha256:1 is fetched again at its next use\n";
        assert_eq!(report.to_string(), text);
    }
}
