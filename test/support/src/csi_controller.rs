//! A controller for a driver that has none, so that a test-suite of CSI can make volumes: what it creates has the parameters of the
//! request as its attributes. The driver's own services are passed on.
#![expect(clippy::missing_panics_doc, reason = "every function of the double may panic, as the head says")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use imagevol_api::csi::controller_server::{Controller, ControllerServer};
use imagevol_api::csi::identity_client::IdentityClient;
use imagevol_api::csi::identity_server::{Identity, IdentityServer};
use imagevol_api::csi::node_client::NodeClient;
use imagevol_api::csi::node_server::{Node, NodeServer};
use imagevol_api::csi::{
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, ControllerServiceCapability,
    CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse, GetPluginCapabilitiesRequest,
    GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse, NodeExpandVolumeRequest,
    NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
    NodePublishVolumeResponse, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, PluginCapability, ProbeRequest,
    ProbeResponse, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume,
    controller_service_capability, plugin_capability, validate_volume_capabilities_response,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, async_trait};

use crate::kubelet::{Channel, Driver};

/// The driver's services, with a controller beside them.
#[derive(Clone)]
struct WithController {
    identity: IdentityClient<Channel>,
    node: NodeClient<Channel>,
}

/// The volumes that were made, by name.
#[derive(Debug, Default)]
struct Volumes(Mutex<BTreeMap<String, Volume>>);

/// Serves at `socket` what the driver serves, and a controller, until it is dropped.
#[expect(clippy::expect_used, reason = "a harness: whatever fails here fails the test that uses it")]
pub async fn serve(driver: &Driver, socket: &Path) {
    let listener = UnixListener::bind(socket).expect("bind the controller's socket");
    let dial = async || driver.dial().await.expect("reach the driver");
    let driver = WithController { identity: IdentityClient::new(dial().await), node: NodeClient::new(dial().await) };
    let services = Server::builder()
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(NodeServer::new(driver))
        .add_service(ControllerServer::new(Volumes::default()));
    services.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serve the controller");
}

#[async_trait]
impl Controller for Volumes {
    async fn create_volume(
        &self,
        call: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let CreateVolumeRequest { name, volume_capabilities, parameters, .. } = call.into_inner();
        if name.is_empty() || volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("name and volume_capabilities are required"));
        }
        let made = Volume { volume_id: format!("made-{name}"), volume_context: parameters, ..Volume::default() };
        let mut volumes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let volume = volumes.entry(name).or_insert(made).clone();
        Ok(Response::new(CreateVolumeResponse { volume: Some(volume) }))
    }

    async fn delete_volume(
        &self,
        call: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let DeleteVolumeRequest { volume_id, .. } = call.into_inner();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, volume| volume.volume_id != volume_id);
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        call: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let ValidateVolumeCapabilitiesRequest { volume_context, volume_capabilities, parameters, .. } =
            call.into_inner();
        let confirmed =
            validate_volume_capabilities_response::Confirmed { volume_context, volume_capabilities, parameters };
        let (confirmed, message) = (Some(confirmed), String::new());
        Ok(Response::new(ValidateVolumeCapabilitiesResponse { confirmed, message }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let made = controller_service_capability::rpc::Type::CreateDeleteVolume.into();
        let rpc = controller_service_capability::Rpc { r#type: made };
        let capability = ControllerServiceCapability { r#type: Some(controller_service_capability::Type::Rpc(rpc)) };
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities: vec![capability] }))
    }
}

#[async_trait]
impl Identity for WithController {
    async fn get_plugin_info(
        &self,
        call: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        self.identity.clone().get_plugin_info(call).await
    }

    /// What the driver has, and the controller.
    async fn get_plugin_capabilities(
        &self,
        call: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let mut answer = self.identity.clone().get_plugin_capabilities(call).await?;
        let controller = plugin_capability::service::Type::ControllerService.into();
        let service = plugin_capability::Service { r#type: controller };
        let capability = PluginCapability { r#type: Some(plugin_capability::Type::Service(service)) };
        answer.get_mut().capabilities.push(capability);
        Ok(answer)
    }

    async fn probe(&self, call: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        self.identity.clone().probe(call).await
    }
}

#[async_trait]
impl Node for WithController {
    async fn node_stage_volume(
        &self,
        call: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        self.node.clone().node_stage_volume(call).await
    }

    async fn node_unstage_volume(
        &self,
        call: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        self.node.clone().node_unstage_volume(call).await
    }

    async fn node_publish_volume(
        &self,
        call: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.node.clone().node_publish_volume(call).await
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.node.clone().node_unpublish_volume(call).await
    }

    async fn node_get_volume_stats(
        &self,
        call: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.node.clone().node_get_volume_stats(call).await
    }

    async fn node_expand_volume(
        &self,
        call: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        self.node.clone().node_expand_volume(call).await
    }

    async fn node_get_capabilities(
        &self,
        call: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        self.node.clone().node_get_capabilities(call).await
    }

    async fn node_get_info(&self, call: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        self.node.clone().node_get_info(call).await
    }
}
