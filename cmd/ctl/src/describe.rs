//! `describe pod`, laid out as `kubectl describe pod` lays it out (kubectl, pkg/describe/describe.go), line by line.

mod containers;
mod environment;
mod events;
mod qos;
mod volumes;

use std::collections::BTreeMap;
use std::fmt::Display;

use imagevol_api::corev1::{Event, Pod, PodSpec, PodStatus, Toleration, TopologySpreadConstraint};
use imagevol_api::metav1::LabelSelector;

use crate::table::{self, DESCRIBE};
use crate::text::{self, Clock};

pub(crate) use events::{last_seen, reporter};

/// Longer annotations get lines of their own, and lines are cut there (`maxAnnotationLen`).
const MAX_ANNOTATION_LEN: usize = 140;
/// What `kubectl apply` leaves behind (`corev1.LastAppliedConfigAnnotation`), which describe hides.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Lines under way; whoever adds foreign text escapes it by adding it through here.
#[derive(Debug, Default)]
struct Sheet {
    text: String,
}

/// What `kubectl describe pod` would print; `events` are those about the pod.
pub(crate) fn pod(pod: &Pod, events: &[Event], clock: &Clock) -> String {
    let (spec, status) = (pod.spec.clone().unwrap_or_default(), pod.status.clone().unwrap_or_default());
    let mut sheet = Sheet::default();
    head(&mut sheet, pod, &spec, &status, clock);
    state(&mut sheet, pod, &spec, &status, clock);
    containers::all(&mut sheet, pod, &spec, &status, clock);
    readiness_gates(&mut sheet, &spec, &status);
    conditions(&mut sheet, &status);
    volumes::all(&mut sheet, spec.volumes.as_deref().unwrap_or_default());
    sheet.field(0, "QoS Class", qos::class(&spec, &status));
    sheet.map("Node-Selectors", spec.node_selector.as_ref());
    tolerations(&mut sheet, spec.tolerations.as_deref().unwrap_or_default());
    topology_spread(&mut sheet, spec.topology_spread_constraints.as_deref().unwrap_or_default());
    events::all(&mut sheet, events, clock);
    table::align(&sheet.text, DESCRIBE)
}

// === impl Sheet ===

impl Sheet {
    /// A line of cells at an indentation of two spaces a level; the first cell carries the indentation.
    fn cells(&mut self, level: usize, cells: &[&str]) {
        self.text.extend(std::iter::repeat_n("  ", level));
        let cells: Vec<_> = cells.iter().map(|cell| text::line(cell)).collect();
        self.text.push_str(&cells.join("\t"));
        self.text.push('\n');
    }

    /// A line of one cell.
    fn line(&mut self, level: usize, line: &str) {
        self.cells(level, &[line]);
    }

    /// `label:` and a value.
    fn field(&mut self, level: usize, label: &str, value: impl Display) {
        self.cells(level, &[&format!("{label}:"), &value.to_string()]);
    }

    /// [`Sheet::field`], where there is a value.
    fn optional(&mut self, level: usize, label: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.field(level, label, value);
        }
    }

    /// `label:` with values under each other.
    fn values<S: AsRef<str>>(&mut self, level: usize, label: &str, values: &[S]) {
        if values.is_empty() {
            return self.field(level, label, "<none>");
        }
        for (index, value) in values.iter().enumerate() {
            let label = if index == 0 { format!("{label}:") } else { String::new() };
            self.cells(level, &[&label, value.as_ref()]);
        }
    }

    /// `label:` with a map's `key=value` under each other.
    fn map(&mut self, label: &str, map: Option<&BTreeMap<String, String>>) {
        let lines: Vec<_> = map.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        self.values(0, label, &lines);
    }
}

fn head(sheet: &mut Sheet, pod: &Pod, spec: &PodSpec, status: &PodStatus, clock: &Clock) {
    sheet.field(0, "Name", text_of(pod.metadata.name.as_ref()));
    sheet.field(0, "Namespace", text_of(pod.metadata.namespace.as_ref()));
    sheet.optional(0, "Priority", spec.priority);
    sheet.optional(0, "Priority Class Name", filled(spec.priority_class_name.as_ref()));
    sheet.optional(0, "Runtime Class Name", filled(spec.runtime_class_name.as_ref()));
    sheet.optional(0, "Service Account", filled(spec.service_account_name.as_ref()));
    match filled(spec.node_name.as_ref()) {
        Some(node) => sheet.field(0, "Node", format!("{node}/{}", text_of(status.host_ip.as_ref()))),
        None => sheet.field(0, "Node", "<none>"),
    }
    sheet.optional(0, "Start Time", status.start_time.as_ref().map(|time| clock.date(time.0)));
    sheet.map("Labels", pod.metadata.labels.as_ref());
    annotations(sheet, pod.metadata.annotations.as_ref());
}

fn state(sheet: &mut Sheet, pod: &Pod, spec: &PodSpec, status: &PodStatus, clock: &Clock) {
    let phase = text_of(status.phase.as_ref());
    match &pod.metadata.deletion_timestamp {
        Some(time) if phase != "Failed" && phase != "Succeeded" => {
            sheet.field(0, "Status", format!("Terminating (lasts {})", clock.age(time.0)));
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
            sheet.field(0, "Termination Grace Period", format!("{grace}s"));
        }
        Some(_) | None => sheet.field(0, "Status", phase),
    }
    sheet.optional(0, "Reason", filled(status.reason.as_ref()));
    sheet.optional(0, "Message", filled(status.message.as_ref()));
    if let Some(profile) = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref()) {
        sheet.field(0, "SeccompProfile", &profile.type_);
        sheet.optional(0, "LocalhostProfile", profile.localhost_profile.as_ref());
    }
    addresses(sheet, status);
    sheet.optional(0, "Controlled By", controller(pod));
    sheet.optional(0, "NominatedNodeName", filled(status.nominated_node_name.as_ref()));
    if let Some(resources) = &spec.resources {
        sheet.line(0, "Resources:");
        containers::resources(sheet, 1, resources);
    }
}

fn addresses(sheet: &mut Sheet, status: &PodStatus) {
    sheet.field(0, "IP", text_of(status.pod_ip.as_ref()));
    let addresses = status.pod_ips.as_deref().unwrap_or_default();
    if addresses.is_empty() {
        return sheet.field(0, "IPs", "<none>");
    }
    sheet.line(0, "IPs:");
    for address in addresses {
        sheet.field(1, "IP", &address.ip);
    }
}

fn controller(pod: &Pod) -> Option<String> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| format!("{}/{}", owner.kind, owner.name))
}

fn annotations(sheet: &mut Sheet, annotations: Option<&BTreeMap<String, String>>) {
    let mut lines = Vec::new();
    for (key, value) in annotations.into_iter().flatten().filter(|(key, _)| *key != LAST_APPLIED) {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if key.len() + value.len() + 2 <= MAX_ANNOTATION_LEN && !value.contains('\n') {
            lines.push(format!("{key}: {value}"));
            continue;
        }
        lines.push(format!("{key}:"));
        lines.extend(value.split('\n').map(|line| format!("  {}", shortened(line, MAX_ANNOTATION_LEN - 2))));
    }
    sheet.values(0, "Annotations", &lines);
}

/// At most `limit` bytes, without breaking a character, and dots where something is missing.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(limit);
    format!("{}...", text.get(..end).unwrap_or_default())
}

fn readiness_gates(sheet: &mut Sheet, spec: &PodSpec, status: &PodStatus) {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return;
    }
    sheet.line(0, "Readiness Gates:");
    sheet.cells(1, &["Type", "Status"]);
    for gate in gates {
        let mut conditions = status.conditions.iter().flatten();
        let found = conditions.find(|condition| condition.type_ == gate.condition_type);
        let status = found.map_or("<none>", |condition| condition.status.as_str());
        // kubectl ends these cells with a blank, here and below.
        sheet.cells(1, &[&format!("{} ", gate.condition_type), &format!("{status} ")]);
    }
}

fn conditions(sheet: &mut Sheet, status: &PodStatus) {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    sheet.line(0, "Conditions:");
    sheet.cells(1, &["Type", "Status"]);
    for condition in conditions {
        sheet.cells(1, &[&format!("{} ", condition.type_), &format!("{} ", condition.status)]);
    }
}

fn tolerations(sheet: &mut Sheet, tolerations: &[Toleration]) {
    let mut sorted: Vec<&Toleration> = tolerations.iter().collect();
    sorted.sort_by_key(|toleration| text_of(toleration.key.as_ref()));
    let lines: Vec<_> = sorted.into_iter().map(toleration).collect();
    sheet.values(0, "Tolerations", &lines);
}

fn toleration(toleration: &Toleration) -> String {
    let mut line = text_of(toleration.key.as_ref()).to_owned();
    if let Some(value) = filled(toleration.value.as_ref()) {
        text::append(&mut line, format_args!("={value}"));
    }
    if let Some(effect) = filled(toleration.effect.as_ref()) {
        text::append(&mut line, format_args!(":{effect}"));
    }
    if toleration.operator.as_deref() == Some("Exists") && filled(toleration.value.as_ref()).is_none() {
        let bare = filled(toleration.key.as_ref()).is_none() && filled(toleration.effect.as_ref()).is_none();
        line.push_str(if bare { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = toleration.toleration_seconds {
        text::append(&mut line, format_args!(" for {seconds}s"));
    }
    line
}

fn topology_spread(sheet: &mut Sheet, constraints: &[TopologySpreadConstraint]) {
    if constraints.is_empty() {
        return;
    }
    let mut sorted: Vec<&TopologySpreadConstraint> = constraints.iter().collect();
    sorted.sort_by_key(|constraint| &constraint.topology_key);
    let lines: Vec<_> = sorted.into_iter().map(spread).collect();
    sheet.values(0, "Topology Spread Constraints", &lines);
}

fn spread(constraint: &TopologySpreadConstraint) -> String {
    let (key, action, skew) = (&constraint.topology_key, &constraint.when_unsatisfiable, constraint.max_skew);
    let selector =
        constraint.label_selector.as_ref().map(|selector| format!(" for selector {}", label_selector(selector)));
    format!("{key}:{action} when max skew {skew} is exceeded{}", selector.unwrap_or_default())
}

/// apimachinery, pkg/apis/meta/v1/helpers.go, `FormatLabelSelector`.
fn label_selector(selector: &LabelSelector) -> String {
    let mut terms: Vec<(&str, String)> = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        terms.push((key, format!("{key}={value}")));
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let key = &requirement.key;
        let mut values = requirement.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        terms.push((
            key,
            match requirement.operator.as_str() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "DoesNotExist" => format!("!{key}"),
                _ => key.clone(),
            },
        ));
    }
    terms.sort();
    if terms.is_empty() {
        "<none>".to_owned()
    } else {
        terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
    }
}

/// Go's zero value for what is not set.
fn text_of(value: Option<&String>) -> &str {
    value.map(String::as_str).unwrap_or_default()
}

/// What is set and not empty.
fn filled(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|value| !value.is_empty())
}

/// Go's `"True"` and `"False"` of describe.
fn capital(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

#[cfg(test)]
mod tests;
