//! The CSI door: Identity and Node services of the driver `csi.imagevol.dev`, and its registration with the kubelet.

#![forbid(unsafe_code)]
