//! Bytes of a manifest into objects that can be used: decoded, defaulted, validated, with an identity. All of a file or nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use imagevol_api::core::static_pod::{self, IdentityError, Origin, SEEN_ANNOTATION};
use imagevol_api::core::{self, DecodeError, FieldError, Object};
use imagevol_api::corev1::{Pod, Secret};
use imagevol_api::metav1::ObjectMeta;
use imagevol_api::names::PodUid;
use imagevol_api::oci::Algorithm;
use imagevol_base::Digester;

use crate::clock::WallClock;

use super::snapshot::{ObjectKey, ObjectName};

/// Hexadecimal digits of a UID that is made here, as many as a UUID has.
const UID_DIGITS: usize = 32;

/// Who this node is.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) node_name: String,
    pub(crate) clock: WallClock,
}

/// An object of a file.
#[derive(Clone, PartialEq)]
pub(crate) enum Loaded {
    /// With its UID, which is safe as a directory name.
    Pod { uid: PodUid, pod: Arc<Pod> },
    /// With a UID.
    Secret(Arc<Secret>),
}

/// Why an object cannot be used. `Display` is one line.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It can have no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Validation found errors.
    #[error("{kind} {name:?} is invalid: {}", joined(errors))]
    Invalid { kind: &'static str, name: String, errors: Vec<FieldError> },
}

/// The objects of a manifest, or the first thing that is wrong with it. A manifest without objects is one that is being written.
pub(super) fn load(bytes: &[u8], path: &Path, host: &Host) -> Result<Vec<Loaded>, String> {
    let source = path.file_name().unwrap_or_default().to_string_lossy();
    let objects = core::decode(bytes, &source);
    if objects.is_empty() {
        return Err("manifest holds no object".to_owned());
    }
    objects.into_iter().map(|object| usable(object, path, host)).collect()
}

fn usable(object: Result<Object, DecodeError>, path: &Path, host: &Host) -> Result<Loaded, String> {
    let object = object.map_err(|error| with_causes(&error))?;
    prepare(object, Some((path, host))).and_then(Loaded::of).map_err(|refused| with_causes(&refused))
}

/// Defaults and validates, as the API server does; with the identity of a pod of the file, if one is given. Identity comes first, since the
/// UID is that of the manifest as written.
pub(crate) fn prepare(mut object: Object, of: Option<(&Path, &Host)>) -> Result<Object, Refused> {
    if let (Object::Pod(pod), Some((path, host))) = (&mut object, of) {
        identify(pod, path, host)?;
    }
    let errors = match &mut object {
        Object::Pod(pod) => {
            core::set_defaults_pod(pod);
            core::validate_pod(pod)
        }
        Object::Secret(secret) => {
            core::set_defaults_secret(secret);
            core::validate_secret(secret)
        }
    };
    if errors.is_empty() {
        return Ok(object);
    }
    Err(Refused::Invalid { kind: object.kind(), name: object.name().to_owned(), errors })
}

fn identify(pod: &mut Pod, path: &Path, host: &Host) -> Result<PodUid, IdentityError> {
    let path = path.to_string_lossy();
    let origin = Origin { source: "file", path: &path, node_name: &host.node_name, seen: host.clock.now() };
    static_pod::identify(pod, &origin)
}

/// Stable for the same name and content, so that pull records outlive a restart; another content is another secret.
fn secret_uid(secret: &Secret) -> String {
    let mut digester = Digester::new(Algorithm::Sha256);
    let (namespace, name) = object_name(&secret.metadata);
    let type_ = secret.type_.as_deref().unwrap_or_default();
    let data = secret.data.iter().flatten().flat_map(|(key, value)| [key.as_bytes(), &value.0]);
    for part in [namespace.as_bytes(), name.as_bytes(), type_.as_bytes()].into_iter().chain(data) {
        // Lengths keep the parts apart.
        digester.update(&part.len().to_le_bytes());
        digester.update(part);
    }
    digester.finish().hex().chars().take(UID_DIGITS).collect()
}

// === impl Loaded ===

impl Loaded {
    /// Of a prepared object with its identity.
    pub(crate) fn of(object: Object) -> Result<Self, Refused> {
        match object {
            Object::Pod(pod) => Self::of_pod(*pod),
            Object::Secret(mut secret) => {
                let uid = secret_uid(&secret);
                secret.metadata.uid.get_or_insert(uid);
                Ok(Self::Secret(Arc::from(secret)))
            }
        }
    }

    /// Of a pod that has its identity.
    pub(crate) fn of_pod(pod: Pod) -> Result<Self, Refused> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default().parse().map_err(IdentityError::from)?;
        Ok(Self::Pod { uid, pod: pod.into() })
    }

    /// Kind and name.
    pub(crate) fn key(&self) -> ObjectKey {
        match self {
            Self::Pod { pod, .. } => ("pod", object_name(&pod.metadata)),
            Self::Secret(secret) => ("secret", object_name(&secret.metadata)),
        }
    }

    /// Equal but for the time when it was first seen.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Pod { pod: one, .. }, Self::Pod { pod: other, .. }) => timeless(one) == timeless(other),
            (Self::Secret(one), Self::Secret(other)) => one == other,
            (Self::Pod { .. }, Self::Secret(_)) | (Self::Secret(_), Self::Pod { .. }) => false,
        }
    }
}

impl fmt::Debug for Loaded {
    /// Kind and name only: secrets never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

fn timeless(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.creation_timestamp = None;
    pod.metadata.annotations.iter_mut().for_each(|all| drop(all.remove(SEEN_ANNOTATION)));
    pod
}

fn object_name(metadata: &ObjectMeta) -> ObjectName {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

// === impl Refused ===

impl Refused {
    /// As kubectl prints it: several errors on several lines.
    pub(crate) fn block(&self) -> String {
        match self {
            Self::Identity(_) => with_causes(self),
            Self::Invalid { kind, name, errors } => core::invalid_object(kind, name, errors),
        }
    }
}

fn joined(errors: &[FieldError]) -> String {
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    errors.join("; ")
}

/// An error and what caused it, in one text.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
