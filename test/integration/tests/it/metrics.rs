//! `/metrics`, `/readyz` and the log, as monitoring meets them.

use serde_json::Value;

use crate::lab::{Lab, image};
use crate::manifest::{documents, pod};

/// The value of a sample, by its name with labels as it is printed.
fn sample(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{page}")).trim().parse().unwrap()
}

#[test]
fn metrics_count_what_happened() {
    let Some(lab) = Lab::started("metrics", "") else { return };
    let registry = lab.registry();
    let reference = registry.push("data", "1", &image("name", "content"));
    lab.daemon.apply(&pod("first", &reference, "IfNotPresent").json());
    lab.daemon.wait_mounted("first");
    lab.daemon.apply(&documents(&[
        pod("second", &reference, "IfNotPresent").value(),
        pod("third", &reference, "Always").value(),
        pod("never", &registry.reference("data", "none"), "Never").value(),
    ]));
    lab.daemon.wait_mounted("second");
    lab.daemon.wait_mounted("third");
    lab.wait_failed("never");
    let page = lab.metrics();
    let requests =
        |labels: &str| sample(&page, &format!("kubelet_image_manager_ensure_image_requests_total{{{labels}}}"));
    let labels = |policy: &str, present: &str, required: &str| {
        format!("pull_policy=\"{policy}\",present_locally=\"{present}\",pull_required=\"{required}\"")
    };
    assert_eq!(requests(&labels("ifnotpresent", "false", "true")), 1);
    assert_eq!(requests(&labels("ifnotpresent", "true", "false")), 1);
    assert_eq!(requests(&labels("always", "unknown", "true")), 1);
    assert_eq!(requests(&labels("never", "false", "unknown")), 1);
    assert_eq!(sample(&page, "kubelet_image_volume_requested_total"), 4);
    assert_eq!(sample(&page, "kubelet_image_volume_mounted_succeed_total"), 3);
    assert_eq!(sample(&page, "kubelet_image_volume_mounted_errors_total"), 0);
    assert_eq!(sample(&page, "imagevol_mounted_volumes"), 3);
    assert!(sample(&page, "imagevol_store_bytes{kind=\"database\"}") > 0);
    assert_eq!(sample(&page, "kubelet_image_pull_duration_seconds_count{image_size_in_bytes=\"0-10MB\"}"), 2);
    assert_eq!(sample(&page, "kubelet_imagemanager_ondisk_pulledrecords"), 1);
    assert_eq!(sample(&page, "kubelet_imagemanager_ondisk_pullintents"), 0);
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert!(!page.contains("data:1") && !page.contains("first"), "no names of tenants:\n{page}");
}

#[test]
fn readiness_follows_the_daemon() {
    let Some(mut lab) = Lab::started("readiness", "") else { return };
    lab.until("readiness", || (lab.get("/readyz").0 == 200).then_some(()));
    assert_eq!(lab.get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(lab.get("/nothing").0, 404);
    assert!(lab.daemon.terminate());
    assert!(!lab.daemon.ctl(["status"]).ok);
}

#[test]
fn logs_are_json_where_machines_read_them() {
    let Some(lab) = Lab::started("json_logs", "logging: {format: json, verbosity: 4}") else { return };
    let registry = lab.registry();
    let reference = registry.push("data", "1", &image("name", "content"));
    lab.daemon.apply(&pod("web", &reference, "IfNotPresent").json());
    lab.daemon.wait_mounted("web");
    let log = lab.daemon.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mounted = lines.iter().find(|line| line["fields"]["message"] == "volume mounted");
    assert_eq!(mounted.unwrap_or_else(|| panic!("{log}"))["fields"]["volume"], "volume");
    assert!(lines.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
}
