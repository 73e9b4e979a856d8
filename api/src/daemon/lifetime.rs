//! Why images are on the node, for how long, and what went: reasons, collections, pins, references, disk usage.

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// Why images are on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyReport {
    /// The piece of content that the name was the digest of; absent if it was an image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<WhyContent>,
    /// The image that the name leads to, or all that are made of the content.
    pub images: Vec<WhyImage>,
    /// Who waits for an image of this name that is not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<WhyHolder>,
}

/// A layer or blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyContent {
    /// `layer` or `blob`.
    pub kind: String,
    /// The digest that names it on disk.
    pub digest: Digest,
    /// Its bytes on disk.
    pub size: u64,
    /// Whether a pull under way needs it.
    pub leased: bool,
}

/// Why one image is on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyImage {
    /// Manifest digest.
    pub id: Digest,
    /// References that lead to it.
    pub names: Vec<String>,
    /// Bytes on disk, shared layers included.
    pub size: u64,
    /// Bytes that its removal would free now.
    pub freed_bytes: u64,
    /// When it was first seen, RFC 3339.
    pub first_seen: String,
    /// When somebody held it last, RFC 3339; absent if nobody ever has. Now, if somebody does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
    /// Who keeps it.
    pub holders: Vec<WhyHolder>,
    /// The pins that keep it.
    pub pins: Vec<String>,
    /// Whether its files are part of a mounted file system somewhere on the node.
    pub mounted: bool,
    /// When it may go at the earliest, RFC 3339; absent while somebody keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
}

/// One that keeps an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyHolder {
    /// `pod NS/NAME volume V`, `prefetch list NAME`, ...
    pub name: String,
    /// The reference as it was asked for, normalized.
    pub reference: String,
    /// How far it is.
    pub state: HolderState,
    /// Since when, RFC 3339.
    pub since: String,
    /// When it ends unless it is renewed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// How far a holder is with its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HolderState {
    /// It waits for the image.
    Wanted,
    /// The image is being pulled for it.
    Pulling,
    /// The image is here and kept for it.
    Held,
    /// The image is mounted for it.
    Mounted,
}

/// A collection by command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcRequest {
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Every image that nobody needs, and not only as many as the thresholds ask for.
    #[serde(default)]
    pub all: bool,
}

/// What a collection by command did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// How full the file system was, in percent.
    pub used_percent: u8,
    /// `imageGCHighThresholdPercent`.
    pub high_threshold_percent: u8,
    /// `imageGCLowThresholdPercent`.
    pub low_threshold_percent: u8,
    /// Bytes that were to be freed; absent if the file system is not full enough, or all was to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted_bytes: Option<u64>,
    /// What went, in this order.
    pub gone: Vec<GcImage>,
    /// What stays.
    pub stayed: Vec<GcStayed>,
    /// What should have gone and did not, a sentence each.
    pub failed: Vec<String>,
    /// Bytes freed on disk.
    pub freed_bytes: u64,
}

/// An image that a collection removes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcImage {
    /// Manifest digest.
    pub id: Digest,
    /// References that led to it.
    pub names: Vec<String>,
    /// `age`, `space` or `unused`.
    pub reason: String,
    /// Bytes freed on disk.
    pub freed_bytes: u64,
    /// How long nobody has used it, seconds.
    pub unused_seconds: u64,
}

/// An image that a collection leaves alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcStayed {
    /// Manifest digest.
    pub id: Digest,
    /// References that lead to it.
    pub names: Vec<String>,
    /// Why, for people: `used by pod default/web volume models`, `pinned by ...`, `first seen 40s ago`.
    pub because: String,
}

/// What takes space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsage {
    /// The store.
    pub state_dir: String,
    /// Bytes of its file system.
    pub capacity_bytes: u64,
    /// Bytes free on it.
    pub available_bytes: u64,
    /// Bytes of content and images, which `limits.maxStoreBytes` bounds: no downloads, no quarantine, no database.
    #[serde(default)]
    pub used_bytes: u64,
    /// `imageGCHighThresholdPercent`.
    pub high_threshold_percent: u8,
    /// `imageGCLowThresholdPercent`.
    pub low_threshold_percent: u8,
    /// `limits.maxStoreBytes`; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What there is, by kind.
    pub items: Vec<DiskUsageItem>,
}

/// One kind of what takes space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskUsageItem {
    /// `Layers`, `Artifact files`, `Image indexes`, `Manifests and configs`, `Unfinished downloads`, `Quarantine` or `Database`.
    pub kind: String,
    /// How many there are.
    pub count: u64,
    /// How many of them somebody needs.
    pub active: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Bytes that `imagevol gc --all` would free.
    pub reclaimable_bytes: u64,
}

/// All pins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinList {
    /// By pattern.
    pub items: Vec<Pin>,
}

/// Images that garbage collection never takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// A reference, a digest, or a glob over references.
    pub pattern: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Images that it keeps now.
    pub images: Vec<Digest>,
}

/// All reference rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceList {
    /// By holder.
    pub items: Vec<HeldReference>,
}

/// A row that keeps an image on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldReference {
    /// Key of the holder, as `external/OWNER/NAME`.
    pub holder: String,
    /// The holder as [`WhyHolder::name`] says it; empty from a daemon that does not.
    #[serde(default)]
    pub name: String,
    /// What is wanted, normalized.
    pub reference: String,
    /// The image, once it is present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Since when, RFC 3339.
    pub since: String,
    /// When it ends unless it is renewed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// A reference of another component of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceRequest {
    /// The image, present or not: a reference or a manifest digest.
    pub reference: String,
    /// How long it holds unless it is put again, seconds; at most a day.
    pub lease_duration_seconds: u64,
}

/// How full a file system is, in the percent that thresholds of garbage collection are compared with: the kubelet's integers
/// (pkg/kubelet/images, image_gc_manager.go). What is available is rounded down, so what is used is rounded up; no more is available
/// than there is. `None` without capacity.
pub fn used_percent(capacity_bytes: u64, available_bytes: u64) -> Option<u8> {
    let available = (u128::from(available_bytes) * 100).checked_div(capacity_bytes.into())?;
    Some(u8::try_from(100_u128.saturating_sub(available)).unwrap_or(100))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty(1000, 1000, Some(0))]
    #[case::full(1000, 0, Some(100))]
    #[case::rounds_up(1000, 159, Some(85))]
    #[case::at_the_border(1000, 160, Some(84))]
    #[case::more_available_than_there_is(1000, 2000, Some(0))]
    #[case::huge(u64::MAX, u64::MAX / 2, Some(51))]
    #[case::no_capacity(0, 0, None)]
    fn percent_is_counted_as_the_kubelet_does(#[case] capacity: u64, #[case] available: u64, #[case] used: Option<u8>) {
        assert_eq!(used_percent(capacity, available), used);
    }
}
