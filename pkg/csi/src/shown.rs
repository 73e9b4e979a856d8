//! Strings of tenants and of the kubelet in messages: bounded, on one line, without anything that steers a terminal.

use std::fmt;

/// Longer texts end here: a message goes into an event, whose text is at most 1024 bytes (Kubernetes, pkg/apis/core/validation/events.go).
const LENGTH_MAX: usize = 128;

/// Shows a text in quotes.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(LENGTH_MAX).map(|(at, _)| at);
        match end.and_then(|at| self.0.get(..at)) {
            Some(start) => write!(f, "{start:?}..."),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_inert() {
        assert_eq!(Shown("a\u{1b}[31m\n\u{202e}").to_string(), r#""a\u{1b}[31m\n\u{202e}""#);
        assert_eq!(Shown(&"ü".repeat(1000)).to_string(), format!("\"{}\"...", "ü".repeat(128)));
    }
}
