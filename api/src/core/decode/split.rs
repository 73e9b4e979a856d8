//! A stream of documents into one tree each.

use std::borrow::Cow;

use serde_saphyr::localizer::Localizer;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_saphyr::{Location, MessageFormatter, UserMessageFormatter};

use super::MAX_OBJECTS;
use super::error::DecodeReason;
use super::tree::Tree;

/// Events that aliases may add to one document: a pod with 1 000 volumes that are all aliases needs a tenth of it.
const MAX_ALIAS_EVENTS: usize = 100_000;
/// Nodes of one document: several thousand pods.
const MAX_NODES: usize = 500_000;
/// Nesting of one document; the deepest field of a pod is at about 12.
const MAX_DEPTH: usize = 64;

/// A part of a YAML stream, with the line of the file at which it begins (from 0).
struct Part<'a> {
    text: &'a str,
    line: u64,
}

/// Words of a YAML error, with line numbers of the file instead of the document's.
struct InFile {
    line: u64,
}

/// The documents of a YAML stream. Each is parsed on its own, so that a bad one does not hide the next.
pub(super) fn yaml(text: &str) -> impl Iterator<Item = Result<Tree, DecodeReason>> {
    parts(text).into_iter().map(|part| parse(&part))
}

/// The values of a JSON stream, up to the first that is malformed.
pub(super) fn json(text: &str) -> impl Iterator<Item = Result<Tree, DecodeReason>> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Tree>();
    let mut sound = true;
    std::iter::from_fn(move || {
        let document = if sound { stream.next()? } else { return None };
        sound = document.is_ok();
        Some(document.map_err(DecodeReason::Json))
    })
}

/// Cuts at lines that begin with `---`, as kubectl does. Parts without content are left out.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut position) = (0, 0_u64, 0);
    for (line, number) in text.split_inclusive('\n').zip(0_u64..) {
        let before = text.get(start..position).unwrap_or_default();
        if starts_document(line) && (has_content(before) || before.lines().any(starts_document)) {
            parts.push(Part { text: before, line: start_line });
            (start, start_line) = (position, number);
        }
        position += line.len();
        if parts.len() > MAX_OBJECTS {
            return parts;
        }
    }
    parts.push(Part { text: text.get(start..).unwrap_or_default(), line: start_line });
    parts.retain(|part| has_content(part.text));
    parts
}

/// `---` alone or before white space: `----` is text.
fn starts_document(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether there is more than comments, directives and document marks.
fn has_content(document: &str) -> bool {
    document.lines().any(|line| {
        let line = if starts_document(line) { line.trim_start_matches('-') } else { line };
        let line = line.trim();
        !(line.is_empty() || line.starts_with(['#', '%']) || line == "...")
    })
}

fn parse(part: &Part<'_>) -> Result<Tree, DecodeReason> {
    serde_saphyr::from_str_with_options(part.text, options()).map_err(|error| DecodeReason::Yaml {
        message: error.without_snippet().render_with_formatter(&InFile { line: part.line }),
    })
}

/// YAML as kubectl reads it: YAML 1.1 booleans and octal numbers, no own tags; and never a line of the file in an error.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_nodes: MAX_NODES,
            max_depth: MAX_DEPTH,
            max_total_scalar_bytes: 2 * super::MAX_MANIFEST_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIAS_EVENTS,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::Reject,
        with_snippet: false,
    }
}

// === impl InFile ===

impl MessageFormatter for InFile {
    fn localizer(&self) -> &dyn Localizer {
        self
    }

    fn format_message<'a>(&self, error: &'a serde_saphyr::Error) -> Cow<'a, str> {
        UserMessageFormatter.format_message(error)
    }
}

impl Localizer for InFile {
    /// `line 6: message`, as Go's YAML library writes it.
    fn attach_location<'a>(&self, base: Cow<'a, str>, at: Location) -> Cow<'a, str> {
        if at == Location::UNKNOWN {
            return base;
        }
        format!("line {}: {base}", at.line().saturating_add(self.line)).into()
    }

    fn alias_defined_at(&self, defined: Location) -> String {
        format!(" (anchor in line {})", defined.line().saturating_add(self.line))
    }

    fn alias_used_at(&self, used: Location) -> String {
        format!(" (alias in line {})", used.line().saturating_add(self.line))
    }
}
