//! A service whose calls are counted.

use imagevol_api::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse,
    ProbeRequest, ProbeResponse, identity_server, node_server,
};
use tonic::{Request, Response, Status, async_trait};

use crate::metrics::Metrics;

/// Counts the calls of a service, once they are answered.
pub(crate) struct Counted<S> {
    pub(crate) service: S,
    pub(crate) metrics: Metrics,
}

// === impl Counted ===

#[async_trait]
impl<S: node_server::Node> node_server::Node for Counted<S> {
    async fn node_publish_volume(
        &self,
        call: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodePublishVolume", self.service.node_publish_volume(call).await)
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeUnpublishVolume", self.service.node_unpublish_volume(call).await)
    }

    async fn node_get_volume_stats(
        &self,
        call: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeGetVolumeStats", self.service.node_get_volume_stats(call).await)
    }

    async fn node_get_capabilities(
        &self,
        call: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeGetCapabilities", self.service.node_get_capabilities(call).await)
    }

    async fn node_get_info(&self, call: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeGetInfo", self.service.node_get_info(call).await)
    }

    async fn node_stage_volume(
        &self,
        call: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeStageVolume", self.service.node_stage_volume(call).await)
    }

    async fn node_unstage_volume(
        &self,
        call: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeUnstageVolume", self.service.node_unstage_volume(call).await)
    }

    async fn node_expand_volume(
        &self,
        call: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        self.metrics.counted("/csi.v1.Node/NodeExpandVolume", self.service.node_expand_volume(call).await)
    }
}

#[async_trait]
impl<S: identity_server::Identity> identity_server::Identity for Counted<S> {
    async fn get_plugin_info(
        &self,
        call: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        self.metrics.counted("/csi.v1.Identity/GetPluginInfo", self.service.get_plugin_info(call).await)
    }

    async fn get_plugin_capabilities(
        &self,
        call: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        self.metrics.counted("/csi.v1.Identity/GetPluginCapabilities", self.service.get_plugin_capabilities(call).await)
    }

    async fn probe(&self, call: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        self.metrics.counted("/csi.v1.Identity/Probe", self.service.probe(call).await)
    }
}
