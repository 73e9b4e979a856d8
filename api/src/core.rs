//! Kubernetes' core objects as imagevol reads them: decoding, defaulting, validation, identity.
//!
//! No API server stands in front of a node's manifest directory, so what it would do to a pod is done here, with its
//! rules, its order and its texts (Kubernetes 1.36: `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation`).

pub mod decode;
pub mod defaults;
pub mod field;
pub mod pod;
pub(crate) mod quantity;
pub mod quote;
pub mod static_pod;
pub mod validation;

pub use decode::{DecodeError, Object, decode};
pub use defaults::{prepare_for_create, set_defaults_pod, set_defaults_secret};
pub use field::{FieldError, invalid_object};
pub use pod::{QosClass, container_ref, image_volumes, is_over, pod_ref, qos_class};
pub use quote::{GoQuoted, JsonQuoted};
pub use validation::{ErrorList, validate_pod, validate_secret};
