//! Events, as a test compares them.

use serde_json::Value;

use crate::cluster::text;

/// An event about a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub kind: String,
    /// Such as `Pulled`.
    pub reason: String,
    /// The text.
    pub message: String,
    /// How often.
    pub count: u64,
    /// Which part of the pod, such as `spec.containers{shell}`; empty for all of it.
    pub field_path: String,
    /// Who says it.
    pub component: String,
}

/// What an event says when everything is gone that differs from run to run: type, reason, field path, text.
pub type Told = (String, String, String, String);

// === impl Event ===

impl Event {
    pub(crate) fn of(event: &Value) -> Self {
        // The newer API has the reporting controller in a field of its own.
        let component = [&event["source"]["component"], &event["reportingComponent"]]
            .map(text)
            .into_iter()
            .find(|at| !at.is_empty());
        Self {
            kind: text(&event["type"]),
            reason: text(&event["reason"]),
            message: text(&event["message"]),
            count: event["count"].as_u64().or_else(|| event["series"]["count"].as_u64()).unwrap_or(1),
            field_path: text(&event["involvedObject"]["fieldPath"]),
            component: component.unwrap_or_default(),
        }
    }

    /// Without what differs from run to run: durations, sizes, and the runtime's own words behind a failed pull.
    pub fn told(&self) -> Told {
        (self.kind.clone(), self.reason.clone(), self.field_path.clone(), told(&self.message))
    }
}

/// A text without what differs from run to run.
pub fn told(message: &str) -> String {
    if let Some((head, _)) = message.strip_prefix("Failed to pull image ").and_then(|rest| rest.split_once(": ")) {
        return format!("Failed to pull image {head}: ...");
    }
    match message.split_once("\" in ") {
        Some((head, _)) if head.starts_with("Successfully pulled image ") => format!("{head}\" in ..."),
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn durations_and_the_runtimes_words_go() {
        let pulled = "Successfully pulled image \"r/a:1\" in 24ms (24ms including waiting). Image size: 797 bytes.";
        assert_eq!(told(pulled), "Successfully pulled image \"r/a:1\" in ...");
        assert_eq!(told("Failed to pull image \"r/a:1\": rpc error: nothing"), "Failed to pull image \"r/a:1\": ...");
        assert_eq!(told("Pulling image \"r/a:1\""), "Pulling image \"r/a:1\"");
    }
}
