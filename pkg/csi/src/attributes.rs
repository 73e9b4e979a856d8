//! `volumeAttributes` of a volume: strings of a pod's author, and of the kubelet, made into closed types.
//!
//! A key that nobody knows is an error: a typo in `pullPolicy` must not be a volume that is pulled in another way than was meant.

use std::collections::BTreeMap;

use imagevol_api::oci::Platform;
use imagevol_images::PullPolicy;

use crate::shown::Shown;

/// What the keys of the kubelet begin with (Kubernetes, pkg/volume/csi/csi_plugin.go).
pub(crate) const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";
/// What a pod's author may write.
const KNOWN: &str = "reference (or image), pullPolicy (or pullAlways), platform";
const REFERENCE: Alias = Alias { name: "reference", other: "image" };
const PULL_POLICY: Alias = Alias { name: "pullPolicy", other: "pullAlways" };
const PLATFORM: &str = "platform";

/// What is to be mounted, as the pod's author wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// As it is written. Whether it is a reference is for the image manager to say: in the events that a kubelet has for it.
    pub(crate) reference: String,
    /// When the registry is asked; by default as for `volumes[].image`.
    pub(crate) policy: Option<PullPolicy>,
    /// `os/architecture[/variant]`; by default the node's.
    pub(crate) platform: Option<Platform>,
}

/// What is wrong with the attributes. The messages go to the pod's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttributeError {
    #[error("unknown volume attribute {}; known are {KNOWN}", Shown(.0))]
    Unknown(String),
    #[error("volume attributes {0} and {1} mean the same: give one of them")]
    Twice(&'static str, &'static str),
    #[error("volume attribute reference is required: the image to mount")]
    NoReference,
    #[error("volume attribute pullPolicy {}: must be Always, IfNotPresent or Never", Shown(.0))]
    PullPolicy(String),
    #[error("volume attribute pullAlways {}: must be \"true\" or \"false\"", Shown(.0))]
    PullAlways(String),
    #[error("volume attribute platform {}: must be os/architecture or os/architecture/variant, in lower case", Shown(.0))]
    Platform(String),
}

/// Two keys for one value.
#[derive(Clone, Copy)]
struct Alias {
    name: &'static str,
    other: &'static str,
}

// === impl Attributes ===

impl Attributes {
    /// Reads the attributes that are not the kubelet's. One that is empty is one that is absent.
    pub(crate) fn parse(context: &BTreeMap<String, String>) -> Result<Self, AttributeError> {
        let mine = context.iter().filter(|(key, _)| !key.starts_with(KUBELET_PREFIX));
        let mine: BTreeMap<&str, &str> = mine.map(|(key, value)| (&**key, &**value)).collect();
        if let Some(key) = mine.keys().find(|key| !is_known(key)) {
            return Err(AttributeError::Unknown((*key).to_owned()));
        }
        let written = mine.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        Ok(Self {
            reference: reference(&written)?,
            policy: policy(&written)?,
            platform: written.get(PLATFORM).map(|text| platform(text)).transpose()?,
        })
    }
}

// === impl Alias ===

impl Alias {
    /// The key that is written, with its value.
    fn find<'a>(self, written: &BTreeMap<&str, &'a str>) -> Result<Option<(&'static str, &'a str)>, AttributeError> {
        match (written.get(self.name), written.get(self.other)) {
            (Some(_), Some(_)) => Err(AttributeError::Twice(self.name, self.other)),
            (Some(value), None) => Ok(Some((self.name, value))),
            (None, Some(value)) => Ok(Some((self.other, value))),
            (None, None) => Ok(None),
        }
    }
}

fn is_known(key: &str) -> bool {
    [REFERENCE.name, REFERENCE.other, PULL_POLICY.name, PULL_POLICY.other, PLATFORM].contains(&key)
}

fn reference(written: &BTreeMap<&str, &str>) -> Result<String, AttributeError> {
    let (_, text) = REFERENCE.find(written)?.ok_or(AttributeError::NoReference)?;
    Ok(text.to_owned())
}

fn policy(written: &BTreeMap<&str, &str>) -> Result<Option<PullPolicy>, AttributeError> {
    let Some((key, value)) = PULL_POLICY.find(written)? else { return Ok(None) };
    let policy = match (key == PULL_POLICY.other, value) {
        (false, _) => value.parse().map_err(|_| AttributeError::PullPolicy(value.to_owned()))?,
        (true, "true") => PullPolicy::Always,
        (true, "false") => PullPolicy::IfNotPresent,
        (true, _) => return Err(AttributeError::PullAlways(value.to_owned())),
    };
    Ok(Some(policy))
}

fn platform(text: &str) -> Result<Platform, AttributeError> {
    text.parse().map_err(|_| AttributeError::Platform(text.to_owned()))
}

#[cfg(test)]
mod tests;
