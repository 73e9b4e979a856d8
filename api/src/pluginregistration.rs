//! How a plugin tells the kubelet that it is there (`pluginregistration`): messages, client and server, made from
//! `proto/pluginregistration/api.proto`.

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "made from the protocol by tonic and prost"
)]
mod generated {
    tonic::include_proto!("pluginregistration");
}

pub use generated::*;

/// [`PluginInfo::type`](PluginInfo#structfield.type) of a CSI driver (k8s.io/kubelet, pluginregistration/v1, constants.go).
pub const CSI_PLUGIN: &str = "CSIPlugin";
