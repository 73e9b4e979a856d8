//! The table of events.

use imagevol_api::corev1::Event;
use jiff::Timestamp;

use super::{Sheet, text_of};
use crate::text::{Clock, UNKNOWN};

/// Events in the order in which they were seen last.
pub(super) fn all(sheet: &mut Sheet, events: &[Event], clock: &Clock) {
    if events.is_empty() {
        return sheet.field(0, "Events", "<none>");
    }
    let mut sorted: Vec<&Event> = events.iter().collect();
    sorted.sort_by_key(|event| last_seen(event));
    sheet.line(0, "Events:");
    sheet.cells(1, &["Type", "Reason", "Age", "From", "Message"]);
    sheet.cells(1, &["----", "------", "----", "----", "-------"]);
    for event in sorted {
        let (kind, reason) = (text_of(event.type_.as_ref()), text_of(event.reason.as_ref()));
        sheet.cells(1, &[kind, reason, &age(event, clock), reporter(event), &message(event)]);
    }
}

/// `5s`, or `5s (x3 over 2m)`.
fn age(event: &Event, clock: &Clock) -> String {
    let first = first_seen(event).map_or_else(|| UNKNOWN.to_owned(), |time| clock.age(time));
    let count = count(event);
    if event.series.is_none() && count <= 1 {
        return first;
    }
    let last = last_seen(event).map_or_else(|| UNKNOWN.to_owned(), |time| clock.age(time));
    format!("{last} (x{count} over {first})")
}

/// When it happened last, by whichever field says so.
pub(crate) fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    series.or_else(|| event.last_timestamp.as_ref().map(|time| time.0)).or_else(|| first_seen(event))
}

/// Who says so.
pub(crate) fn reporter(event: &Event) -> &str {
    let component =
        event.source.as_ref().and_then(|source| source.component.as_deref()).filter(|name| !name.is_empty());
    component.unwrap_or_else(|| text_of(event.reporting_component.as_ref()))
}

fn first_seen(event: &Event) -> Option<Timestamp> {
    event.event_time.as_ref().map(|time| time.0).or_else(|| event.first_timestamp.as_ref().map(|time| time.0))
}

fn count(event: &Event) -> i32 {
    let series = event.series.as_ref().and_then(|series| series.count);
    series.or(event.count).unwrap_or(1)
}

/// The message, after the container that it is about.
fn message(event: &Event) -> String {
    let message = text_of(event.message.as_ref()).trim();
    match event.involved_object.field_path.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => format!("{path}: {message}"),
        None => message.to_owned(),
    }
}
