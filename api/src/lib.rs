//! What crosses the edges of the process: Kubernetes objects, OCI names, configuration, record files and the local API.
//!
//! In: bytes that somebody else wrote. Out: closed types that are safe to put into a path, a URL, a log or an event.
//! Nothing here does I/O or knows a clock. Floor 0: imports no crate of this workspace.

#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
pub mod core;
pub mod credentialprovider;
pub mod cron;
pub mod csi;
pub mod daemon;
pub mod duration;
mod hex;
pub mod names;
pub mod oci;
pub mod pluginregistration;
pub mod prefetch;
pub mod records;
pub mod tar;
pub mod text;

pub use k8s_openapi::api::core::v1 as corev1;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1 as metav1;
