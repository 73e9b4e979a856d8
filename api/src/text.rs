//! Text for people: escaping of foreign strings, sizes, counts.

use std::borrow::Cow;

/// Bytes with three significant digits and decimal units, as `docker images` and `crictl images` show them.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let bytes = u128::from(bytes);
    let mut unit = 1_u128;
    for name in UNITS {
        let decimals = match bytes / unit {
            0..10 => 2,
            10..100 => 1,
            _ => 0,
        };
        let scaled = (bytes * 10_u128.pow(decimals) + unit / 2) / unit;
        if scaled < 1000 || decimals > 0 {
            return format!("{}{name}", decimal(scaled, decimals));
        }
        unit *= 1000;
    }
    unreachable!("2^64 bytes are 18.4 EB")
}

/// `scaled` / 10^`decimals`, without trailing zeros.
fn decimal(scaled: u128, decimals: u32) -> String {
    let one = 10_u128.pow(decimals);
    let (whole, rest) = (scaled / one, scaled % one);
    if rest == 0 {
        return whole.to_string();
    }
    let width = usize::try_from(decimals).unwrap_or_default();
    format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
}

/// `1 image`, `2 images`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A foreign string for one line: control characters, line ends and tabs among them, and characters that reorder text are escaped.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, is_unsafe)
}

/// A foreign text of several lines: as [`line()`], but line ends stay.
pub fn block(text: &str) -> Cow<'_, str> {
    escape(text, |character| character != '\n' && is_unsafe(character))
}

/// An error with its causes on one line, fit for a log, an event and a terminal: what foreign names may hold is escaped as in [`line()`].
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Transparent wrappers say the same twice.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    line(&text).into_owned()
}

fn escape(text: &str, unwanted: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&unwanted) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if unwanted(character) { safe.extend(character.escape_default()) } else { safe.push(character) }
    }
    Cow::Owned(safe)
}

/// Whether a terminal might do with the character more than show it: C0, DEL and C1, line separators, and the bidirectional
/// formatting characters (Unicode Standard Annex 9, section 2).
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, "0B")]
    #[case(797, "797B")]
    #[case(999, "999B")]
    #[case(1000, "1kB")]
    #[case(1234, "1.23kB")]
    #[case(9996, "10kB")]
    #[case(72_800_000, "72.8MB")]
    #[case(99_960_000, "100MB")]
    #[case(999_600, "1MB")]
    #[case(123_456_789_012, "123GB")]
    #[case(u64::MAX, "18.4EB")]
    fn sizes_are_dockers(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(human_size(bytes), text);
    }

    #[test]
    fn counts_agree_with_their_nouns() {
        assert_eq!([count(0, "image"), count(1, "image"), count(2, "image")], ["0 images", "1 image", "2 images"]);
    }

    #[test]
    fn nothing_foreign_reaches_the_terminal_as_a_command() {
        assert_eq!(line("a\x1b[2Jb\nc\td\u{202e}"), "a\\u{1b}[2Jb\\nc\\td\\u{202e}");
        assert_eq!(block("a\nb\r\u{9b}"), "a\nb\\r\\u{9b}");
        assert_eq!(line("plain ü 漢"), "plain ü 漢");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Step {
        text: &'static str,
        source: Option<Box<Step>>,
    }

    fn step(text: &'static str, source: Option<Step>) -> Step {
        Step { text, source: source.map(Box::new) }
    }

    #[test]
    fn a_chain_is_one_line_without_repetition() {
        let error = step("outer", Some(step("same: inner", Some(step("inner", Some(step("last\n", None)))))));
        assert_eq!(chain(&error), "outer: same: inner: last\\n");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped_in_a_chain() {
        let error = step("file \"a\x1b[31m\r\u{202e}gpj.exe\"", None);
        assert_eq!(chain(&error), "file \"a\\u{1b}[31m\\r\\u{202e}gpj.exe\"");
    }

    proptest! {
        #[test]
        fn no_text_keeps_anything_unsafe(text: String) {
            prop_assert!(!line(&text).chars().any(is_unsafe));
            prop_assert_eq!(block(&text).matches('\n').count(), text.matches('\n').count());
        }

        #[test]
        fn sizes_are_short(bytes: u64) {
            prop_assert!(human_size(bytes).len() <= 6);
        }
    }
}
