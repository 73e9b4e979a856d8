//! The Identity service: who the driver is.

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    ProbeRequest, ProbeResponse, identity_server,
};
use tonic::{Request, Response, Status, async_trait};

/// The Identity service.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) version: &'static str,
}

#[async_trait]
impl identity_server::Identity for Identity {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        let (name, vendor_version) = (CSI_DRIVER.to_owned(), self.version.to_owned());
        Ok(Response::new(GetPluginInfoResponse { name, vendor_version, ..GetPluginInfoResponse::default() }))
    }

    /// No other service: an image is made elsewhere, and is the same on each node.
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse::default()))
    }

    /// A daemon that cannot mount serves no driver.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}
