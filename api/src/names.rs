//! Names of Kubernetes objects as closed types that are safe as one path component.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest file name that Linux takes (`NAME_MAX`, limits.h).
const NAME_MAX: usize = 255;

/// Why a string cannot name a directory of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be used as a directory name")]
pub struct NameError(String);

macro_rules! path_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as Kubernetes writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_path_component(text) { Ok(Self(text.into())) } else { Err(NameError(text.to_owned())) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

path_name! {
    /// `metadata.uid` of a pod: the name of its directory under `<root-dir>/pods`.
    PodUid
}
path_name! {
    /// `spec.volumes[].name`: the name of the volume's directory in the pod's.
    VolumeName
}
path_name! {
    /// The last part of the path at which a kubelet wants a CSI volume; kubelets call it `mount`.
    LeafName
}
path_name! {
    /// `metadata.name` of an `ImagePrefetch`: whose list keeps an image.
    PrefetchName
}
path_name! {
    /// A component of the node that keeps images: part of its references' rows.
    OwnerName
}
path_name! {
    /// What a component calls one of its references.
    ReferenceName
}
path_name! {
    /// `spec.containers[].name`: the name of a container's directory of sub paths.
    ContainerName
}

/// What Kubernetes' DNS labels and UIDs are made of, a superset of both: letters, digits, `-`, `_`, `.`; neither `.` nor `..`.
fn is_path_component(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= NAME_MAX && text != "." && text != ".." && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_kubernetes_names() {
        for text in ["volume", "my-pod.v1", "0b5a7bd0-3b0b-4b5e-9d3c-5d4f6b0e8a11"] {
            assert_eq!(text.parse::<PodUid>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_whatever_walks_or_breaks_a_path() {
        for text in ["", ".", "..", "a/b", "../x", "a\0b", "a b", "ü", &"x".repeat(256)] {
            assert!(text.parse::<VolumeName>().is_err(), "{text:?}");
        }
    }
}
