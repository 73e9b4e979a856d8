//! The Node service: a thin layer between calls of the kubelet and the volume manager.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::csi::node_service_capability::{Rpc, Type, rpc};
use imagevol_api::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, NodeUnstageVolumeRequest,
    NodeUnstageVolumeResponse, node_server,
};
use imagevol_base::Target;
use imagevol_base::blocking;
use imagevol_volumemanager::DoorState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use crate::driver::PodLookup;
use crate::publisher::Publisher;
use crate::refusal::Refusal;
use crate::request::{Publication, required};
use crate::{answer, deadline, stats};

/// The Node service.
pub(crate) struct Node {
    pub(crate) root_dir: PathBuf,
    pub(crate) id: String,
    pub(crate) hold: Duration,
    pub(crate) volumes: Arc<dyn Publisher>,
    pub(crate) pods: PodLookup,
    pub(crate) stop: CancellationToken,
}

// === impl Node ===

impl Node {
    async fn publish(&self, publication: Publication, until: Instant) -> Result<(), Status> {
        let Publication { target, mut request } = publication;
        // What the API server knows of the pod is more, and cannot be made up by anybody else.
        request.pod = (self.pods)(&target.pod).unwrap_or(request.pod);
        let reference = request.reference.clone();
        let ended = tokio::select! {
            biased;
            ended = self.volumes.publish(&target, request, until) => ended.map_err(|error| answer::to_publish(&error, &reference)),
            () = self.stop.cancelled() => Err(answer::stopping()),
        };
        match &ended {
            Ok(image) => tracing::info!(pod = %target.pod, volume = %target.volume, %image, "published"),
            Err(status) => note(&target, "not published", status),
        }
        ended.map(|_| ())
    }

    async fn unpublish(&self, target: Target) -> Result<(), Status> {
        let ended = tokio::select! {
            biased;
            ended = self.volumes.unpublish(&target) => ended.map_err(|error| answer::to_unpublish(&error)),
            () = self.stop.cancelled() => Err(answer::stopping()),
        };
        match &ended {
            Ok(()) => tracing::info!(pod = %target.pod, volume = %target.volume, "unpublished"),
            Err(status) => note(&target, "not unpublished", status),
        }
        ended
    }

    /// The path of a volume that is mounted.
    fn published(&self, path: &Path) -> Option<PathBuf> {
        let target = Target::parse(&self.root_dir, path).ok()?;
        let is_mounted = self
            .volumes
            .list()
            .into_iter()
            .any(|(other, volume)| other == target && matches!(volume.state, DoorState::Mounted(_)));
        is_mounted.then(|| target.below(&self.root_dir))
    }

    fn target_of(&self, call: &NodeUnpublishVolumeRequest) -> Result<Target, Refusal> {
        required("volume_id", &call.volume_id)?;
        required("target_path", &call.target_path)?;
        Ok(Target::parse(&self.root_dir, Path::new(&call.target_path))?)
    }
}

#[async_trait]
impl node_server::Node for Node {
    async fn node_publish_volume(
        &self,
        call: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let until = deadline::until(Instant::now(), self.hold, call.metadata());
        let publication = Publication::read(call.into_inner(), &self.root_dir)?;
        self.publish(publication, until).await?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        call: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let target = self.target_of(call.get_ref())?;
        self.unpublish(target).await?;
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        call: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let NodeGetVolumeStatsRequest { volume_id, volume_path, .. } = call.into_inner();
        required("volume_id", &volume_id)?;
        required("volume_path", &volume_path)?;
        let absent = || Status::not_found("no volume is published at this path");
        let path = self.published(Path::new(&volume_path)).ok_or_else(absent)?;
        let stats = blocking(move || stats::of(&path)).await.map_err(|error| Status::internal(error.to_string()))?;
        stats.map(Response::new).ok_or_else(absent)
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let stats = Rpc { r#type: rpc::Type::GetVolumeStats.into() };
        let capabilities = vec![NodeServiceCapability { r#type: Some(Type::Rpc(stats)) }];
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    /// No bound on the number of volumes, and no topology: an image is the same on each node.
    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse { node_id: self.id.clone(), ..NodeGetInfoResponse::default() }))
    }

    async fn node_stage_volume(
        &self,
        _: Request<NodeStageVolumeRequest>,
    ) -> Result<Response<NodeStageVolumeResponse>, Status> {
        Err(without("STAGE_UNSTAGE_VOLUME"))
    }

    async fn node_unstage_volume(
        &self,
        _: Request<NodeUnstageVolumeRequest>,
    ) -> Result<Response<NodeUnstageVolumeResponse>, Status> {
        Err(without("STAGE_UNSTAGE_VOLUME"))
    }

    async fn node_expand_volume(
        &self,
        _: Request<NodeExpandVolumeRequest>,
    ) -> Result<Response<NodeExpandVolumeResponse>, Status> {
        Err(without("EXPAND_VOLUME"))
    }
}

fn without(capability: &str) -> Status {
    Status::unimplemented(format!("the driver does not have the capability {capability}"))
}

/// The answer, for the node's log: the kubelet writes it into an event, too.
fn note(target: &Target, what: &'static str, status: &Status) {
    tracing::warn!(pod = %target.pod, volume = %target.volume, code = ?status.code(), message = status.message(), "{what}");
}
