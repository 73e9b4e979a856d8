//! `df`: what takes space, as docker's `system df`.

use imagevol_api::daemon::{DiskUsage, DiskUsageItem, used_percent};

use crate::cli::Report;
use crate::error::Result;
use crate::session::{self, Session};
use crate::table::Table;
use crate::text::{self, human_size, line};

/// What pulls have left, and those under way have fetched (the store's `UsageKind::UnfinishedDownloads`).
const UNFINISHED: &str = "Unfinished downloads";

/// `df`.
pub(super) async fn run(session: &Session, arguments: &Report) -> Result<()> {
    let usage: DiskUsage = session.client.get("/df").await?;
    match arguments.output {
        Some(format) => session::print(&format.render(&usage)?),
        None => session::print(&shown(&usage)),
    }
}

fn shown(usage: &DiskUsage) -> String {
    let mut table = Table::new(&["TYPE", "COUNT", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    for item in &usage.items {
        table.row(&row(item));
    }
    format!("{}\n{}{}", table.render(), file_system(usage), unfinished(usage))
}

/// What no image needs and no collection takes; nothing if there is none. A day is the store's `UNFINISHED_TTL`.
pub(super) fn unfinished(usage: &DiskUsage) -> String {
    let bytes: u64 = usage.items.iter().filter(|item| item.kind == UNFINISHED).map(|item| item.bytes).sum();
    if bytes == 0 {
        return String::new();
    }
    format!(
        "{UNFINISHED} take {}: they are kept for up to a day, so that pulls can go on with them.\n",
        human_size(bytes)
    )
}

/// What can be had back, with its part of the whole, as docker has it.
fn row(item: &DiskUsageItem) -> [String; 5] {
    let part =
        if item.bytes == 0 { String::new() } else { format!(" ({}%)", percent(item.reclaimable_bytes, item.bytes)) };
    [
        item.kind.clone(),
        item.count.to_string(),
        item.active.to_string(),
        human_size(item.bytes),
        human_size(item.reclaimable_bytes) + &part,
    ]
}

fn file_system(usage: &DiskUsage) -> String {
    let used = usage.capacity_bytes.saturating_sub(usage.available_bytes);
    let collection = match usage.high_threshold_percent {
        100.. => "collection by space is off".to_owned(),
        high => format!("collection begins at {high}% and ends at {}%", usage.low_threshold_percent),
    };
    let mut text = format!(
        "{}: {} of {} used ({}%), {} free; {collection}.\n",
        line(&usage.state_dir),
        human_size(used),
        human_size(usage.capacity_bytes),
        used_percent(usage.capacity_bytes, usage.available_bytes).unwrap_or(0),
        human_size(usage.available_bytes),
    );
    if let Some(limit) = usage.limit_bytes {
        let (size, share) = (human_size(usage.used_bytes), percent(usage.used_bytes, limit));
        text::append(&mut text, format_args!("Images take {size} of {} ({share}%).\n", human_size(limit)));
    }
    text
}

fn percent(part: u64, whole: u64) -> u128 {
    u128::from(part) * 100 / u128::from(whole.max(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_and_the_file_system() {
        let usage: DiskUsage = serde_json::from_value(json!({
            "stateDir": "/s", "capacityBytes": 50_000_000_000_u64, "availableBytes": 38_000_000_000_u64, "highThresholdPercent": 85,
            "lowThresholdPercent": 80, "limitBytes": 4_000_000_000_u64, "usedBytes": 2_000_000_000, "items": [
                {"kind": "Layers", "count": 3, "active": 1, "bytes": 2_000_000_000, "reclaimableBytes": 500_000_000},
                {"kind": "Unfinished downloads", "count": 2, "active": 0, "bytes": 5_000_000, "reclaimableBytes": 0},
                {"kind": "Quarantine", "count": 0, "active": 0, "bytes": 0, "reclaimableBytes": 0},
                {"kind": "Database", "count": 1, "active": 1, "bytes": 1_000_000_000, "reclaimableBytes": 0},
            ],
        }))
        .unwrap();
        let text = "\
TYPE                   COUNT   ACTIVE   SIZE   RECLAIMABLE
Layers                 3       1        2GB    500MB (25%)
Unfinished downloads   2       0        5MB    0B (0%)
Quarantine             0       0        0B     0B
Database               1       1        1GB    0B (0%)

/s: 12GB of 50GB used (24%), 38GB free; collection begins at 85% and ends at 80%.
Images take 2GB of 4GB (50%).
Unfinished downloads take 5MB: they are kept for up to a day, so that pulls can go on with them.
";
        assert_eq!(shown(&usage), text);
    }
}
