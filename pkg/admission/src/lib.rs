//! Admission: `volumes[].image` becomes the CSI volume of this driver, in pods and in the templates of workloads.

#![forbid(unsafe_code)]
