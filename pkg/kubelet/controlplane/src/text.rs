//! Makes text that somebody else wrote safe to show on a terminal and to keep on one line.

use std::ffi::OsStr;

/// Longest file name (`NAME_MAX`, limits.h) with every byte escaped.
const MAX_SHOWN_NAME: usize = 1020;
/// Ends a text that was cut.
const ELLIPSIS: &str = "...";

/// Whether a character moves the cursor, ends the line, or changes how its neighbours are shown.
///
/// Control characters, and the format characters (Unicode category Cf) that reorder or hide text: soft hyphen, Arabic letter
/// mark, zero-width and bidirectional marks, line and paragraph separators, interlinear marks, the byte order mark and tags.
fn is_unsafe_to_show(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// `text` with such characters written as Rust writes them (`\n`, `\u{1b}`); if that takes more than `max` bytes, its beginning and `...`.
pub(crate) fn one_line(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(max));
    let mut keep = 0;
    for c in text.chars() {
        if shown.len() + ELLIPSIS.len() <= max {
            keep = shown.len();
        }
        if is_unsafe_to_show(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        if shown.len() > max {
            shown.truncate(keep);
            shown.push_str(ELLIPSIS);
            break;
        }
    }
    shown
}

/// A file's name as it may be shown.
pub(crate) fn shown_name(name: &OsStr) -> String {
    one_line(&name.to_string_lossy(), MAX_SHOWN_NAME)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("Pulling image \"a\"", "Pulling image \"a\"")]
    #[case::newline("a\r\nb", "a\\r\\nb")]
    #[case::escape_sequence("\u{1b}[31mred", "\\u{1b}[31mred")]
    #[case::right_to_left("a\u{202e}b", "a\\u{202e}b")]
    #[case::zero_width("a\u{200b}b", "a\\u{200b}b")]
    #[case::c1_control("a\u{9b}b", "a\\u{9b}b")]
    #[case::other_scripts_stay("größe 大きさ", "größe 大きさ")]
    fn escapes_what_a_terminal_would_obey(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(one_line(text, 100), shown);
    }

    #[test]
    fn cuts_at_a_character() {
        assert_eq!(one_line(&"ä".repeat(10), 10), "äää...");
        assert_eq!(one_line("0123456789", 10), "0123456789");
    }

    proptest! {
        #[test]
        fn is_one_short_line(text in any::<String>(), max in 16_usize..64) {
            let shown = one_line(&text, max);
            prop_assert!(!shown.chars().any(is_unsafe_to_show));
            prop_assert!(shown.len() <= max);
        }
    }
}
