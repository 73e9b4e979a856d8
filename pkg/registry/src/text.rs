//! What others wrote, made fit for a log line or an event.

/// Longest text of a registry that an error repeats: an event's message holds 1024 bytes in all (Kubernetes, `validateEvent`).
const SHOWN_MAX: usize = 256;

/// `text` on one line, without control characters, cut after 256 characters, with `secrets` blotted out.
pub(crate) fn shown(text: &str, secrets: &[String]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        clean = clean.replace(secret.as_str(), "<redacted>");
    }
    let mut characters = clean.chars();
    let mut shown = String::new();
    for character in characters.by_ref().take(SHOWN_MAX) {
        match character {
            // Reordering marks can make a line read as another one.
            character if character.is_control() || is_bidi(character) => shown.extend(character.escape_default()),
            character => shown.push(character),
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

fn is_bidi(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        assert_eq!(shown("a\x1b[31m\nb", &[]), "a\\u{1b}[31m\\nb");
    }

    #[test]
    fn cuts_and_blots_out() {
        assert_eq!(shown(&"x".repeat(1000), &[]).chars().count(), SHOWN_MAX + 1);
        assert_eq!(shown("token hunter2 seen", &["hunter2".to_owned()]), "token <redacted> seen");
    }
}
