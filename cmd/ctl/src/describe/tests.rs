//! What kubectl printed for the same objects. `testdata/*.txt` are kubectl 1.32's words, but for the two lines of a projected
//! volume that newer releases changed; the recorded cluster's are kubectl 1.36's.

use imagevol_api::corev1::{Event, Pod};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::text::Clock;

/// Pods, their events and what `kubectl describe pod` said from `Volumes:` on, recorded on a real cluster.
const RECORDED: &str = include_str!("../../../../test/data/oracle/events.json");

fn clock() -> Clock {
    Clock { now: "2026-11-22T04:00:00Z".parse().unwrap(), zone: TimeZone::UTC }
}

fn described(pod: &str, events: &str) -> String {
    let pod: Pod = serde_json::from_str(pod).unwrap();
    let events: Vec<Event> = serde_json::from_str(events).unwrap();
    super::pod(&pod, &events, &clock())
}

#[test]
fn a_pod_with_everything_is_as_kubectl_prints_it() {
    let text = described(include_str!("testdata/full.json"), include_str!("testdata/events.json"));
    assert_eq!(text, include_str!("testdata/full.txt"));
}

#[test]
fn a_pod_with_nothing_is_as_kubectl_prints_it() {
    assert_eq!(described(include_str!("testdata/bare.json"), "[]"), include_str!("testdata/bare.txt"));
}

#[test]
fn recorded_pods_are_as_kubectl_printed_them() {
    let cases: Vec<Value> = serde_json::from_str(RECORDED).unwrap();
    assert_eq!(cases.len(), 24);
    for case in &cases {
        let recorded = case["describe"].as_str().unwrap();
        let text = super::pod(&pod_of(case), &events_of(case, recorded), &clock());
        let from_volumes = text.get(text.find("Volumes:").unwrap()..).unwrap();
        // Four recordings end before the events.
        let length = if recorded.contains("Events:") { from_volumes.len() } else { recorded.len() };
        assert_eq!(from_volumes.get(..length).unwrap(), recorded, "{}", case["case"]);
    }
}

#[test]
fn foreign_text_cannot_add_lines_or_commands() {
    let pod = json!({"metadata": {"name": "a\nStatus:\tRunning\u{1b}[2J"}, "spec": {"containers": []}});
    let text = described(&pod.to_string(), "[]");
    assert!(text.starts_with("Name:         a\\nStatus:\\tRunning\\u{1b}[2J\n"), "{text}");
}

#[test]
fn types_that_no_node_mounts_by_itself_are_named() {
    let volumes = json!([{"name": "a", "rbd": {"image": "i", "monitors": []}}, {"name": "b"}]);
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [], "volumes": volumes}});
    let text = described(&pod.to_string(), "[]");
    assert!(text.contains("  a:\n    Type:  Rbd\n  b:\n  <unknown>\n"), "{text}");
}

/// The recorded pods tolerate everything and ask for nothing.
fn pod_of(case: &Value) -> Pod {
    let mut volumes = case["spec"]["volumes"].clone();
    for image in volumes.as_array_mut().unwrap().iter_mut().map(|volume| &mut volume["image"]) {
        // The API server's default, which the recording left to it in two cases.
        let moves = image["reference"].as_str().unwrap().ends_with(":latest");
        let policy = json!(if moves { "Always" } else { "IfNotPresent" });
        image.as_object_mut().unwrap().entry("pullPolicy").or_insert(policy);
    }
    serde_json::from_value(json!({
        "metadata": {"name": "x", "namespace": "default"},
        "spec": {"containers": [], "volumes": volumes, "tolerations": [{"operator": "Exists"}]},
    }))
    .unwrap()
}

/// The recorded events, at the ages that the description gives them.
fn events_of(case: &Value, recorded: &str) -> Vec<Event> {
    let events = case["events"].as_array().unwrap();
    let rows: Vec<&str> = recorded.lines().skip_while(|line| !line.starts_with("Events:")).skip(3).collect();
    events.iter().filter_map(|event| Some(event_of(event, row_of(event, &rows)?))).collect()
}

fn row_of<'a>(event: &Value, rows: &[&'a str]) -> Option<&'a str> {
    let (message, path) = (event["message"].as_str().unwrap().trim(), event["fieldPath"].as_str());
    let shown = path.map_or_else(|| format!("  {message}"), |path| format!("  {path}: {message}"));
    rows.iter().find(|row| row.ends_with(&shown)).copied()
}

fn event_of(event: &Value, row: &str) -> Event {
    let mut cells = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    let age = cells.nth(2).unwrap();
    let (last, first) = match age.split_once(" (x") {
        Some((last, over)) => (last, over.split_once(" over ").unwrap().1.trim_end_matches(')')),
        None => (age, age),
    };
    serde_json::from_value(json!({
        "metadata": {}, "involvedObject": {"kind": "Pod", "fieldPath": event["fieldPath"]},
        "type": event["type"], "reason": event["reason"], "message": event["message"], "count": event["count"],
        "source": {"component": event["component"]}, "firstTimestamp": before(first), "lastTimestamp": before(last),
    }))
    .unwrap()
}

fn before(age: &str) -> Timestamp {
    let seconds: i64 = age.strip_suffix('s').unwrap().parse().unwrap();
    clock().now - jiff::SignedDuration::from_secs(seconds)
}
