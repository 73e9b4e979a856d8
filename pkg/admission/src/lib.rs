//! Admission: `volumes[].image` becomes the CSI volume of this driver, in pods and in the templates of workloads.
//!
//! In: AdmissionReviews of the API server. Out: JSON patches, and the certificate that the API server trusts us by.
//! Never looks into registries, and changes no object but its own Secret and the `caBundle` of its own configuration.
//! Floor 5: imports `controlplane` and below.

#![forbid(unsafe_code)]

pub mod patch;
pub mod review;
mod template;
pub mod translate;
pub mod webhook;

#[cfg(test)]
mod test_support;

pub use template::{GroupVersionKind, Malformed};
