//! Tells the kubelet that the driver is there (Kubernetes, pkg/kubelet/pluginmanager). It asks once, when a socket appears in its
//! directory, and never looks again: so a registration that failed is tried again by letting the socket appear anew.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::pluginregistration::{
    CSI_PLUGIN, InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse, registration_server,
};
use tokio::sync::{Notify, watch};
use tonic::{Request, Response, Status, async_trait};

use crate::shown::Shown;

/// Versions of CSI that are spoken: kubelets know 1.x (csi_plugin.go, `highestSupportedVersion`).
const VERSIONS: [&str; 1] = ["1.12.0"];
/// Before the first new try; doubled for each further one.
const PAUSE: Duration = Duration::from_secs(5);
/// At most: no longer than a kubelet makes a pod wait for its next try (goroutinemap/exponentialbackoff, two minutes).
const PAUSE_MAX: Duration = Duration::from_mins(2);

/// The Registration service.
#[derive(Debug)]
pub(crate) struct Registration {
    info: PluginInfo,
    /// How often in a row the kubelet has refused the driver.
    refusals: watch::Sender<u32>,
}

// === impl Registration ===

impl Registration {
    /// For the driver at `endpoint`, a path that the kubelet sees as we do.
    pub(crate) fn new(endpoint: &Path) -> Self {
        let info = PluginInfo {
            r#type: CSI_PLUGIN.to_owned(),
            name: CSI_DRIVER.to_owned(),
            endpoint: endpoint.to_string_lossy().into_owned(),
            supported_versions: VERSIONS.map(str::to_owned).to_vec(),
        };
        Self { info, refusals: watch::channel(0).0 }
    }

    /// Lets the socket appear anew after each refusal, later and later.
    pub(crate) fn retry(&self, renew: Arc<Notify>) -> impl Future<Output = ()> + Send + 'static {
        let mut refusals = self.refusals.subscribe();
        async move {
            while refusals.changed().await.is_ok() {
                let count = *refusals.borrow_and_update();
                if let Some(pause) = pause(count) {
                    tokio::time::sleep(pause).await;
                    renew.notify_one();
                }
            }
        }
    }
}

#[async_trait]
impl registration_server::Registration for Registration {
    /// The kubelet waits for one second.
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = status.into_inner();
        if plugin_registered {
            tracing::info!("registered with the kubelet");
            self.refusals.send_replace(0);
        } else {
            tracing::error!(error = %Shown(&error), "the kubelet did not register the driver; trying again");
            self.refusals.send_modify(|count| *count = count.saturating_add(1));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

fn pause(refusals: u32) -> Option<Duration> {
    let doubled = 2_u32.saturating_pow(refusals.checked_sub(1)?);
    Some(PAUSE.saturating_mul(doubled).min(PAUSE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_two_minutes() {
        let pauses: Vec<_> = (0..8).map(|count| pause(count).map(|pause| pause.as_secs())).collect();
        let expected = [None, Some(5), Some(10), Some(20), Some(40), Some(80), Some(120), Some(120)];
        assert_eq!(pauses, expected);
        assert_eq!(pause(u32::MAX), Some(PAUSE_MAX));
    }
}
