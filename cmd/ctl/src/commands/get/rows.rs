//! The columns of pods and events.

use imagevol_api::corev1::{Event, ObjectReference, Pod};

use super::super::listing::{NONE, or_none};
use super::Columns;
use crate::describe;
use crate::pods;
use crate::text::{Clock, UNKNOWN};

/// `NAME VOLUMES STATUS AGE`, with the namespace before and, wide, node and references behind.
pub(super) fn pod_headings(columns: Columns) -> Vec<&'static str> {
    let mut headings = vec!["NAME", "VOLUMES", "STATUS", "AGE"];
    if columns.namespaces {
        headings.insert(0, "NAMESPACE");
    }
    if columns.wide {
        headings.extend(["NODE", "IMAGES"]);
    }
    headings
}

/// A pod under [`pod_headings`].
pub(super) fn pod(pod: &Pod, columns: Columns, clock: &Clock) -> Vec<String> {
    let metadata = &pod.metadata;
    let count = pods::mounted(pod);
    let mut row = vec![
        metadata.name.clone().unwrap_or_default(),
        format!("{}/{}", count.mounted, count.wanted),
        pods::status(pod).to_owned(),
        clock.age_of(metadata.creation_timestamp.as_ref()),
    ];
    if columns.namespaces {
        row.insert(0, metadata.namespace.clone().unwrap_or_default());
    }
    if columns.wide {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        row.push(node.unwrap_or_else(|| NONE.to_owned()));
        row.push(or_none(&pods::references(pod).join(",")));
    }
    row
}

/// kubectl's columns (kubernetes, pkg/printers/internalversion/printers.go, `eventColumnDefinitions`).
pub(super) fn event_headings(columns: Columns) -> Vec<&'static str> {
    let mut headings = if columns.wide {
        vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "SUBOBJECT", "SOURCE", "MESSAGE", "FIRST SEEN", "COUNT", "NAME"]
    } else {
        vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    };
    if columns.namespaces {
        headings.insert(0, "NAMESPACE");
    }
    headings
}

/// An event under [`event_headings`].
pub(super) fn event(event: &Event, columns: Columns, clock: &Clock) -> Vec<String> {
    let last = describe::last_seen(event).map_or_else(|| UNKNOWN.to_owned(), |time| clock.age(time));
    let message = event.message.as_deref().unwrap_or_default().trim().to_owned();
    let mut row = vec![
        last,
        event.type_.clone().unwrap_or_default(),
        event.reason.clone().unwrap_or_default(),
        object(&event.involved_object),
    ];
    if columns.wide {
        row.push(event.involved_object.field_path.clone().unwrap_or_default());
        row.push(source(event));
        row.push(message);
        row.push(first_seen(event, clock));
        row.push(count(event).to_string());
        row.push(event.metadata.name.clone().unwrap_or_default());
    } else {
        row.push(message);
    }
    if columns.namespaces {
        row.insert(0, event.metadata.namespace.clone().unwrap_or_default());
    }
    row
}

fn object(object: &ObjectReference) -> String {
    let kind = object.kind.as_deref().unwrap_or_default().to_ascii_lowercase();
    format!("{kind}/{}", object.name.as_deref().unwrap_or_default())
}

/// `component, host`.
fn source(event: &Event) -> String {
    let component = describe::reporter(event).to_owned();
    match event.source.as_ref().and_then(|source| source.host.as_deref()).filter(|host| !host.is_empty()) {
        Some(host) => format!("{component}, {host}"),
        None => component,
    }
}

fn first_seen(event: &Event, clock: &Clock) -> String {
    let time =
        event.first_timestamp.as_ref().map(|time| time.0).or_else(|| event.event_time.as_ref().map(|time| time.0));
    time.map_or_else(|| UNKNOWN.to_owned(), |time| clock.age(time))
}

fn count(event: &Event) -> i32 {
    let series = event.series.as_ref().and_then(|series| series.count);
    series.or(event.count).unwrap_or(1)
}
