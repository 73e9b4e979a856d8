//! Strings quoted as Go's `%q` does it, because Kubernetes' error and event texts are made with it.

use std::fmt::{self, Write as _};

/// Displays a string as Go's `strconv.Quote`: between double quotes, with every unprintable character escaped, so
/// that it cannot forge a line of a log or steer a terminal.
#[derive(Debug, Clone, Copy)]
pub struct GoQuoted<'a>(pub &'a str);

impl fmt::Display for GoQuoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.0.chars().try_for_each(|character| write_escaped(f, character))?;
        f.write_char('"')
    }
}

/// Displays a string as Go's `json.Marshal`, which is how errors show values of named string types such as `PullPolicy`.
///
/// Unprintable characters that Go leaves as they are, are escaped all the same.
#[derive(Debug, Clone, Copy)]
pub struct JsonQuoted<'a>(pub &'a str);

impl fmt::Display for JsonQuoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.0.chars().try_for_each(|character| write_json(f, character))?;
        f.write_char('"')
    }
}

fn write_json(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '"' => f.write_str("\\\""),
        '\\' => f.write_str("\\\\"),
        '\x08' => f.write_str("\\b"),
        '\x0c' => f.write_str("\\f"),
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        // Go escapes these for the sake of HTML.
        '<' | '>' | '&' => write!(f, "\\u{:04x}", u32::from(character)),
        ' ' => f.write_char(' '),
        other if is_printable(other) || other == '\'' => f.write_char(other),
        other => other.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(f, "\\u{unit:04x}")),
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    let short = match character {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        other => return write_other(f, other),
    };
    f.write_str(short)
}

fn write_other(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    let code = u32::from(character);
    match code {
        0x00..=0x1f | 0x7f => write!(f, "\\x{code:02x}"),
        0x20..=0x7e => f.write_char(character),
        _ if is_printable(character) => f.write_char(character),
        0x80..=0xffff => write!(f, "\\u{code:04x}"),
        _ => write!(f, "\\U{code:08x}"),
    }
}

/// Rust's own idea of what `Debug` may show as it is; stricter than Go's for combining marks.
fn is_printable(character: char) -> bool {
    !character.is_whitespace() && character.escape_debug().next() == Some(character)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("r:1", r#""r:1""#)]
    #[case("a\"b\\c", r#""a\"b\\c""#)]
    #[case("a\nb\0\x1b[31m\x7f", r#""a\nb\x00\x1b[31m\x7f""#)]
    #[case("é'", r#""é'""#)]
    #[case("\u{a0}\u{200b}\u{202e}\u{feff}", r#""\u00a0\u200b\u202e\ufeff""#)]
    #[case("\u{e0001}", r#""\U000e0001""#)]
    fn quotes_as_go_does(#[case] text: &str, #[case] quoted: &str) {
        assert_eq!(GoQuoted(text).to_string(), quoted);
    }

    #[rstest]
    #[case("Some times'", r#""Some times'""#)]
    #[case("<a&\"b\\", r#""\u003ca\u0026\"b\\""#)]
    #[case("\n\t\x1b\u{2028}\u{e0001}", r#""\n\t\u001b\u2028\udb40\udc01""#)]
    fn quotes_as_json_of_go(#[case] text: &str, #[case] quoted: &str) {
        assert_eq!(JsonQuoted(text).to_string(), quoted);
        assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), text);
    }
}
