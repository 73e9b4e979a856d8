//! Collections by command, and what takes space.

use http::StatusCode;
use hyper::body::Incoming;
use imagevol_api::daemon::{DiskUsage, DiskUsageItem, GcImage, GcReport, GcRequest, GcStayed};
use imagevol_base::collection::{Collected, Execution, Stay, Stayed};
use imagevol_cri::ImageService as _;
use imagevol_images::{GcError, GcOutcome, GcReason, GcScope};
use imagevol_store::Usage;

use super::holders::Holders;
use super::images::{failure, store};
use super::read_body;
use crate::http::{Answer, Failure, json};
use crate::node::Node;

/// `POST /gc`. No body is an empty request.
pub(super) async fn collect(node: &Node, body: Incoming) -> Result<Answer, Failure> {
    let body = read_body(body).await?;
    let request: GcRequest = match &*body {
        b"" => GcRequest::default(),
        bytes => serde_json::from_slice(bytes).map_err(|error| Failure::bad_request(error.to_string()))?,
    };
    let wanted = imagevol_images::GcRequest {
        scope: if request.all { GcScope::Everything } else { GcScope::Policy },
        execution: if request.dry_run { Execution::DryRun } else { Execution::Delete },
    };
    let outcome = node.gc.collect(wanted).await.map_err(|error| not_collected(&error))?;
    Ok(json(&report(node, &request, &outcome)))
}

fn not_collected(error: &GcError) -> Failure {
    let message = error.message();
    if error.is_not_yet() {
        let message = format!("{message}; try again in a moment");
        return Failure::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
    }
    Failure::internal(message)
}

/// `GET /df`.
pub(super) async fn disk_usage(node: &Node) -> Result<Answer, Failure> {
    let file_system = node.service.fs_info().await.map_err(|error| failure(&error))?;
    let items = store(node, imagevol_store::Store::disk_usage).await?;
    let limit = node.config.limits.max_store_bytes.get();
    Ok(json(&DiskUsage {
        state_dir: node.config.state_dir.display().to_string(),
        capacity_bytes: file_system.capacity_bytes,
        available_bytes: file_system.available_bytes,
        used_bytes: file_system.used_bytes,
        high_threshold_percent: node.config.image_gc_high_threshold_percent,
        low_threshold_percent: node.config.image_gc_low_threshold_percent,
        limit_bytes: (limit > 0).then_some(limit),
        items: items.into_iter().map(usage).collect(),
    }))
}

fn usage(usage: Usage) -> DiskUsageItem {
    DiskUsageItem {
        kind: usage.kind.as_str().to_owned(),
        count: usage.count,
        active: usage.active,
        bytes: usage.bytes,
        reclaimable_bytes: usage.reclaimable,
    }
}

fn report(node: &Node, request: &GcRequest, outcome: &GcOutcome) -> GcReport {
    let holders = Holders::of(node);
    GcReport {
        dry_run: request.dry_run,
        used_percent: outcome.used_percent,
        high_threshold_percent: node.config.image_gc_high_threshold_percent,
        low_threshold_percent: node.config.image_gc_low_threshold_percent,
        wanted_bytes: outcome.wanted_bytes,
        gone: outcome.gone().map(gone).collect(),
        stayed: outcome.stayed().iter().map(|image| stayed(image, &holders)).collect(),
        failed: outcome.failed().into_iter().map(|(image, why)| format!("{image}: {why}")).collect(),
        freed_bytes: outcome.freed_bytes(),
    }
}

fn gone((reason, image): (GcReason, &Collected)) -> GcImage {
    GcImage {
        id: image.image.clone(),
        names: image.names.clone(),
        reason: reason.as_str().to_owned(),
        freed_bytes: image.freed_bytes,
        unused_seconds: image.unused_for.as_secs(),
    }
}

fn stayed(image: &Stayed, holders: &Holders) -> GcStayed {
    GcStayed { id: image.image.clone(), names: image.names.clone(), because: because(&image.because, holders) }
}

fn because(stay: &Stay, holders: &Holders) -> String {
    match stay {
        Stay::Held(by) => {
            let names: Vec<_> = by.iter().map(|holder| holders.name(holder)).collect();
            format!("used by {}", names.join(", "))
        }
        Stay::Pinned(by) => format!("pinned by {}", by.join(", ")),
        Stay::Mounted => "mounted".to_owned(),
        Stay::Young(left) => {
            format!("too young for another {}", imagevol_api::duration::Duration::from_secs(left.as_secs()))
        }
        Stay::NotNeeded => "enough is free without it".to_owned(),
    }
}
