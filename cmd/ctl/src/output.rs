//! `-o`: objects as JSON and YAML, keys in alphabetical order as kubectl prints them.

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use serde_json::ser::PrettyFormatter;

use crate::error::{CommandError, Result};
use crate::text;

/// `-o` of commands that print objects as tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TableFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// The table with more columns.
    Wide,
    /// `TYPE/NAME`, one a line.
    Name,
}

/// `-o` of commands that change objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectFormat {
    /// The object as JSON.
    Json,
    /// The object as YAML.
    Yaml,
    /// `TYPE/NAME`, one a line.
    Name,
}

/// `-o` of commands whose answer is data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataFormat {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

// === impl DataFormat ===

impl DataFormat {
    /// Any value, as the whole output of a command.
    pub(crate) fn render(self, value: &impl Serialize) -> Result<String> {
        let value = serde_json::to_value(value).map_err(CommandError::Json)?;
        match self {
            Self::Json => json(&value),
            Self::Yaml => yaml(&value),
        }
    }
}

/// Several objects as one `v1.List`; a single one as itself.
pub(crate) fn list(objects: Vec<Value>) -> Value {
    match <[Value; 1]>::try_from(objects) {
        Ok([one]) => one,
        Err(objects) => as_list(&objects),
    }
}

/// Objects as a `v1.List`, however many they are.
pub(crate) fn as_list(objects: &[Value]) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects})
}

/// Indented by four, as kubectl does.
fn json(value: &Value) -> Result<String> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut serializer).map_err(CommandError::Json)?;
    let mut safe: String = String::from_utf8_lossy(&bytes).chars().map(json_char).collect();
    safe.push('\n');
    Ok(safe)
}

/// What serde_json leaves as it is and a terminal may not: it stands inside a string, and is in the basic plane.
fn json_char(character: char) -> String {
    if character != '\n' && text::is_unsafe(character) {
        return format!("\\u{:04x}", u32::from(character));
    }
    character.to_string()
}

fn yaml(value: &Value) -> Result<String> {
    let options = serde_saphyr::ser_options! {
        // kubectl never folds long strings.
        folded_wrap_chars: usize::MAX,
    };
    let text = serde_saphyr::to_string_with_options(value, options).map_err(CommandError::Yaml)?;
    if !text.chars().any(|character| character != '\n' && text::is_unsafe(character)) {
        return Ok(text);
    }
    // YAML allows some unsafe characters in plain scalars. JSON is YAML too, and has an escape for each of them.
    json(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_sorted_and_indented_by_four() {
        let value = json!({"b": [1, {}], "a": "x\u{1b}\u{7f}\u{202e}"});
        let text = "{\n    \"a\": \"x\\u001b\\u007f\\u202e\",\n    \"b\": [\n        1,\n        {}\n    ]\n}\n";
        assert_eq!(DataFormat::Json.render(&value).unwrap(), text);
    }

    #[test]
    fn yaml_is_as_kubectl_prints_it() {
        let long = "word ".repeat(40) + "end";
        let value = json!({
            "spec": {"volumes": [{"name": "volume", "image": {"reference": "quay.io/crio/artifact:v2"}}]},
            "b": "yes", "a": "1", "num": 1, "t": true, "e": {}, "l": [], "s": "", "long": long, "lines": "a\nb\n",
        });
        let text = format!(
            "a: \"1\"\nb: \"yes\"\ne: {{}}\nl: []\nlines: |\n  a\n  b\nlong: {long}\nnum: 1\ns: \"\"\nspec:\n  volumes:\n  - image:\n      \
             reference: quay.io/crio/artifact:v2\n    name: volume\nt: true\n"
        );
        assert_eq!(DataFormat::Yaml.render(&value).unwrap(), text);
    }

    #[test]
    fn yaml_cannot_command_the_terminal() {
        for bad in ["\u{1b}[2J", "\u{202e}abc", "a\u{9b}b", "x\u{7f}", "a\u{85}b", "\r", "line\nwith \u{1b}"] {
            let text = DataFormat::Yaml.render(&json!({"key": bad})).unwrap();
            assert!(!text.chars().any(|c| c != '\n' && text::is_unsafe(c)), "{text:?}");
            let back: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(back, json!({"key": bad}), "{text}");
        }
    }

    #[test]
    fn one_object_is_no_list() {
        assert_eq!(list(vec![json!({"kind": "Pod"})]), json!({"kind": "Pod"}));
        assert_eq!(list(vec![json!(1), json!(2)])["kind"], "List");
    }
}
