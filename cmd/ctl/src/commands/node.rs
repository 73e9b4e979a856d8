//! `status` and `fsck`.

use bytes::Bytes;
use imagevol_api::daemon::{FsckReport, NodeStatus, PrefetchCount, RunningPull};

use crate::cli::{Fsck, Report};
use crate::error::{CommandError, Result};
use crate::session::{self, Session};
use crate::table::{self, DESCRIBE};
use crate::text::{self, count, human_size};

/// `status`.
pub(super) async fn status(session: &Session, arguments: &Report) -> Result<()> {
    let status: NodeStatus = session.client.get("/status").await?;
    match arguments.output {
        Some(format) => session::print(&format.render(&status)?),
        None => session::print(&status_text(&status)),
    }
}

/// `fsck`: fails where something is wrong, and stays so.
pub(super) async fn fsck(session: &Session, arguments: &Fsck) -> Result<()> {
    let report: FsckReport = if arguments.repair {
        session.client.post("/fsck", Bytes::new()).await?
    } else {
        session.client.get("/fsck").await?
    };
    match arguments.report.output {
        Some(format) => session::print(&format.render(&report)?)?,
        None => session::print(&report.to_string())?,
    }
    match u64::try_from(report.problems.len()) {
        Ok(0) => Ok(()),
        problems if arguments.repair => Err(CommandError::Unrepaired { problems: problems.unwrap_or(u64::MAX) }),
        problems => Err(CommandError::Damaged { problems: problems.unwrap_or(u64::MAX) }),
    }
}

fn status_text(status: &NodeStatus) -> String {
    let ready = if status.not_ready.is_empty() { "True" } else { "False" };
    let fields = [
        ("Node", status.node_name.clone()),
        ("Version", status.version.version.clone()),
        ("Kernel", status.version.kernel.clone()),
        ("Ready", ready.to_owned()),
        ("Image Backend", status.image_backend.clone()),
        ("State Dir", status.state_dir.clone()),
        ("Root Dir", status.root_dir.clone()),
        ("Manifest Dir", status.manifest_dir.clone()),
        ("Pods", count(status.pods, "pod")),
        ("Volumes", format!("{} mounted", count(status.mounted_volumes, "volume"))),
        ("Images", format!("{}, {}", count(status.images, "image"), human_size(status.used_bytes))),
        ("Free", human_size(status.available_bytes)),
    ];
    let mut text = String::new();
    for (label, value) in fields {
        text::append(&mut text, format_args!("{label}:\t{}\n", text::line(&value)));
    }
    if status.prefetch.wanted > 0 {
        text::append(&mut text, format_args!("Prefetch:\t{}\n", prefetch(status.prefetch)));
    }
    if status.pulls.is_empty() {
        text.push_str("Pulls:\t<none>\n");
    }
    let mut text = table::align(&text, DESCRIBE);
    text.push_str(&listed("Pulls:", status.pulls.iter().map(pull_line)));
    text.push_str(&listed("Not ready because:", status.not_ready.iter().cloned()));
    text.push_str(&listed("Manifests not used:", status.manifest_problems.iter().cloned()));
    text.push_str(&listed("Prefetch lists not used:", status.prefetch_problems.iter().cloned()));
    text
}

fn prefetch(PrefetchCount { wanted, present }: PrefetchCount) -> String {
    format!("{present} of {} present", count(wanted, "image"))
}

/// Before the manifest is there nothing is known of what comes.
fn pull_line(pull: &RunningPull) -> String {
    if pull.blobs.is_empty() {
        return format!("{}: no blobs yet", pull.reference);
    }
    let (done, size) = pull
        .blobs
        .iter()
        .fold((0_u64, 0_u64), |(done, size), blob| (done.saturating_add(blob.done), size.saturating_add(blob.size)));
    let blobs = count(u64::try_from(pull.blobs.len()).unwrap_or(u64::MAX), "blob");
    format!("{}: {} of {} in {blobs}", pull.reference, human_size(done), human_size(size))
}

/// A heading and its lines; nothing where there are none.
fn listed(heading: &str, lines: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for line in lines {
        if text.is_empty() {
            text::append(&mut text, format_args!("{heading}\n"));
        }
        text::append(&mut text, format_args!("  {}\n", text::line(&line)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_is_a_block() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let status: NodeStatus = serde_json::from_value(json!({
            "version": {"version": "0.1.0", "kernel": "6.12.0"}, "nodeName": "n1", "imageBackend": "erofs", "stateDir": "/s", "rootDir": "/r",
            "manifestDir": "/m", "pods": 1, "mountedVolumes": 2, "images": 1, "usedBytes": 2_000_000, "availableBytes": 5_000_000_000_u64,
            "pulls": [{"reference": "a:1", "blobs": [{"digest": digest, "size": 2000, "done": 1000}]}, {"reference": "b:1", "blobs": []}], "notReady": ["pods not read"],
            "manifestProblems": ["a.yaml: no \u{1b} object"], "prefetch": {"wanted": 2, "present": 1},
            "prefetchProblems": ["lists.yaml: file holds no object"],
        }))
        .unwrap();
        let text = "\
Node:           n1
Version:        0.1.0
Kernel:         6.12.0
Ready:          False
Image Backend:  erofs
State Dir:      /s
Root Dir:       /r
Manifest Dir:   /m
Pods:           1 pod
Volumes:        2 volumes mounted
Images:         1 image, 2MB
Free:           5GB
Prefetch:       1 of 2 images present
Pulls:
  a:1: 1kB of 2kB in 1 blob
  b:1: no blobs yet
Not ready because:
  pods not read
Manifests not used:
  a.yaml: no \\u{1b} object
Prefetch lists not used:
  lists.yaml: file holds no object
";
        assert_eq!(status_text(&status), text);
    }
}
