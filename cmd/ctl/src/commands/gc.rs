//! `gc`: what went, and why the rest stays.

use bytes::Bytes;
use imagevol_api::daemon::{DiskUsage, GcImage, GcReport, GcRequest, GcStayed};
use imagevol_api::oci::Digest;
use jiff::SignedDuration;

use super::df::unfinished;
use crate::cli::{Gc, ReportFormat};
use crate::error::{CommandError, Result};
use crate::output::DataFormat;
use crate::session::{self, Failures, Session};
use crate::table::Table;
use crate::text::{human_duration, human_size};

/// What stays is told below.
const BELOW: Pointer = Pointer { reason: "", rest: "" };
/// What stays is told elsewhere.
const ELSEWHERE: Pointer = Pointer { reason: ", as -o wide tells", rest: "; -o wide tells what stays" };

/// Where to read what stays.
#[derive(Debug, Clone, Copy)]
struct Pointer {
    /// Behind the reason why nothing goes.
    reason: &'static str,
    /// Behind how much is lacking.
    rest: &'static str,
}

/// Fails where an image should have gone and did not.
pub(super) async fn run(session: &Session, arguments: &Gc) -> Result<()> {
    let request = GcRequest { dry_run: arguments.dry_run, all: arguments.all };
    let body = serde_json::to_vec(&request).map_err(CommandError::Json)?;
    let report: GcReport = session.client.post("/gc", Bytes::from(body)).await?;
    let text = match arguments.output {
        Some(ReportFormat::Json) => DataFormat::Json.render(&report)?,
        Some(ReportFormat::Yaml) => DataFormat::Yaml.render(&report)?,
        Some(ReportFormat::Wide) => shown(&report, request.all, BELOW) + &stayed(&report.stayed),
        None => shown(&report, request.all, ELSEWHERE),
    };
    session::print(&text)?;
    let mut failures = failed(&report);
    let is_read = matches!(arguments.output, None | Some(ReportFormat::Wide));
    if is_read && (request.all || report.wanted_bytes.is_some()) {
        failures.sort(tell_unfinished(session).await);
    }
    failures.result()
}

/// Whoever wants space sees what else takes it.
async fn tell_unfinished(session: &Session) -> Result<()> {
    let usage: DiskUsage = session.client.get("/df").await?;
    session::print(&unfinished(&usage))
}

fn failed(report: &GcReport) -> Failures {
    let mut failures = Failures::default();
    for image in &report.failed {
        failures.sort::<()>(Err(CommandError::NotCollected { image: image.clone() }));
    }
    failures
}

fn shown(report: &GcReport, all: bool, pointer: Pointer) -> String {
    if report.gone.is_empty() {
        return nothing(report, all, pointer) + "\n";
    }
    let mut table = Table::new(&["IMAGE", "REASON", "UNUSED FOR", "FREED"]);
    for image in &report.gone {
        table.row(&row(image));
    }
    let verb = if report.dry_run { "Would free" } else { "Freed" };
    let freed = human_size(report.freed_bytes);
    let wanted = report.wanted_bytes.filter(|wanted| *wanted > report.freed_bytes);
    let lacking = wanted.map(|wanted| format!(" of {} wanted{}", human_size(wanted), pointer.rest));
    format!("{}{verb} {freed}{}.\n", table.render(), lacking.unwrap_or_default())
}

fn row(image: &GcImage) -> [String; 4] {
    let unused = SignedDuration::from_secs(i64::try_from(image.unused_seconds).unwrap_or(i64::MAX));
    [name(&image.names, &image.id), image.reason.clone(), human_duration(unused), human_size(image.freed_bytes)]
}

/// The first name with a tag, else the first, else the digest.
fn name(names: &[String], id: &Digest) -> String {
    let tagged = names.iter().find(|name| !name.contains('@')).or_else(|| names.first());
    tagged.cloned().unwrap_or_else(|| id.to_string())
}

/// Why nothing went.
fn nothing(report: &GcReport, all: bool, pointer: Pointer) -> String {
    let (used, high) = (report.used_percent, report.high_threshold_percent);
    let full = format!("the file system is {used}% full");
    let stays = if report.stayed.is_empty() && report.failed.is_empty() {
        "there are no images.".to_owned()
    } else {
        format!("every image is needed or too young{}.", pointer.reason)
    };
    match report.wanted_bytes {
        _ if all => format!("Nothing to do: {stays}"),
        Some(wanted) => format!("Nothing could go: {full} and {} were wanted, but {stays}", human_size(wanted)),
        None if high >= 100 => {
            format!("Nothing to do: {full}, and collection by space is off. Use --all to remove every unused image.")
        }
        None => format!("Nothing to do: {full}, collection begins at {high}%. Use --all to remove every unused image."),
    }
}

fn stayed(images: &[GcStayed]) -> String {
    if images.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["STAYS", "BECAUSE"]);
    for image in images {
        table.row(&[name(&image.names, &image.id), image.because.clone()]);
    }
    format!("\n{}", table.render())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn report(gone: bool, wanted: Option<u64>, high: u8) -> GcReport {
        let id = format!("sha256:{}", "ab".repeat(32));
        let image = json!({"id": id, "names": ["quay.io/a@sha256:1", "quay.io/\u{1b}a:1"], "reason": "space", "freedBytes": 1_200_000_000, "unusedSeconds": 300});
        serde_json::from_value(json!({
            "dryRun": false, "usedPercent": 41, "highThresholdPercent": high, "lowThresholdPercent": 80, "wantedBytes": wanted,
            "gone": if gone { vec![image] } else { vec![] }, "stayed": [{"id": id, "names": [], "because": "pinned by quay.io/*"}],
            "failed": [], "freedBytes": if gone { 1_200_000_000 } else { 0 },
        }))
        .unwrap()
    }

    #[test]
    fn a_table_and_the_sum() {
        let text = "\
IMAGE               REASON   UNUSED FOR   FREED
quay.io/\\u{1b}a:1   space    5m           1.2GB
";
        assert_eq!(shown(&report(true, None, 85), false, ELSEWHERE), format!("{text}Freed 1.2GB.\n"));
        let dry = GcReport { dry_run: true, ..report(true, Some(2_000_000_000), 85) };
        assert_eq!(shown(&dry, false, BELOW), format!("{text}Would free 1.2GB of 2GB wanted.\n"));
        assert_eq!(
            shown(&dry, false, ELSEWHERE),
            format!("{text}Would free 1.2GB of 2GB wanted; -o wide tells what stays.\n")
        );
        let digest = format!("sha256:{}", "ab".repeat(32));
        let stays = stayed(&dry.stayed);
        assert!(
            stays.starts_with("\nSTAYS") && stays.ends_with(&format!("{digest}   pinned by quay.io/*\n")),
            "{stays}"
        );
    }

    #[rstest]
    #[case(
        None,
        85,
        false,
        "Nothing to do: the file system is 41% full, collection begins at 85%. Use --all to remove every unused image.\n"
    )]
    #[case(
        None,
        100,
        false,
        "Nothing to do: the file system is 41% full, and collection by space is off. Use --all to remove every unused image.\n"
    )]
    #[case(
        Some(5000),
        30,
        false,
        "Nothing could go: the file system is 41% full and 5kB were wanted, but every image is needed or too young, as -o wide tells.\n"
    )]
    #[case(None, 85, true, "Nothing to do: every image is needed or too young, as -o wide tells.\n")]
    fn nothing_has_a_reason(#[case] wanted: Option<u64>, #[case] high: u8, #[case] all: bool, #[case] text: &str) {
        assert_eq!(shown(&report(false, wanted, high), all, ELSEWHERE), text);
        assert_eq!(shown(&report(false, wanted, high), all, BELOW), text.replace(", as -o wide tells", ""));
        let empty = GcReport { stayed: Vec::new(), ..report(false, wanted, high) };
        let none = text.replace("every image is needed or too young, as -o wide tells", "there are no images");
        assert_eq!(shown(&empty, all, ELSEWHERE), none);
    }
}
