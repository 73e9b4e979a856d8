//! A node: a kubelet's root, volumes, and the driver in this process.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::csi::identity_client::IdentityClient;
use imagevol_api::csi::identity_server::IdentityServer;
use imagevol_api::csi::node_client::NodeClient;
use imagevol_api::csi::node_server::NodeServer;
use imagevol_base::Supervisor;
use imagevol_csi::{Metrics, Parts};
use imagevol_test_support::kubelet::{Channel, Driver, Kubelet};
use tempfile::TempDir;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Service, ServiceExt as _};

use crate::volumes::FakeVolumes;

pub(crate) const HOLD: Duration = Duration::from_secs(110);

pub(crate) struct Node {
    pub(crate) root: TempDir,
    pub(crate) volumes: FakeVolumes,
    pub(crate) metrics: Metrics,
}

/// One run of the driver.
pub(crate) struct Run {
    pub(crate) supervisor: Supervisor,
    channel: Channel,
    identity: Channel,
}

impl Node {
    pub(crate) fn new() -> Self {
        let root = TempDir::with_prefix("csi-").unwrap();
        let volumes = FakeVolumes::new(root.path());
        Self { root, volumes, metrics: Metrics::default() }
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            root_dir: self.root.path().to_owned(),
            endpoint: self.root.path().join("plugins/csi.imagevol.dev/csi.sock"),
            registration_dir: self.root.path().join("plugins_registry"),
            publish_timeout: HOLD,
            node_id: "node-1".to_owned(),
            version: "1.2.3",
            volumes: Arc::new(self.volumes.clone()),
            pods: Arc::new(|_| None),
            metrics: self.metrics.clone(),
        }
    }

    /// Runs the driver without sockets.
    pub(crate) fn run(&self) -> Run {
        let supervisor = Supervisor::new("test");
        let (identity, node) = imagevol_csi::services(self.parts(), &supervisor);
        let (node, identity) = (here(NodeServer::new(node)), here(IdentityServer::new(identity)));
        Run { supervisor, channel: node, identity }
    }

    /// A kubelet that has registered this run.
    pub(crate) fn kubelet(&self, run: &Run) -> Kubelet {
        Kubelet::new(self.root.path(), run.driver())
    }
}

/// A service that is called without a transport.
fn here<S>(service: S) -> Channel
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Channel::new(service.map_err(|never| match never {}))
}

impl Run {
    pub(crate) fn driver(&self) -> Driver {
        Driver::Here(self.channel.clone())
    }

    pub(crate) fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone())
    }

    pub(crate) fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.identity.clone())
    }
}
