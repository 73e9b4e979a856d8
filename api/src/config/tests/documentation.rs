//! The tables of `docs/configuration.md`, field by field.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

const PAGE: &str = include_str!("../../../../docs/configuration.md");

/// `| field | default | meaning |` of every table whose head says so, by field.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let tables = PAGE.split("| Field | Default | Meaning |\n").skip(1);
    let rows = tables.flat_map(|table| table.lines().skip(1).take_while(|line| line.starts_with('|')));
    let mut fields = BTreeMap::new();
    for row in rows {
        let [_, field, default, meaning, _] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("a row has three cells: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        let field = code(field).unwrap_or_else(|| panic!("a field is in code font: {row}"));
        assert_eq!(fields.insert(field, default), None, "{field} is there once");
    }
    fields
}

/// What a cell that is code alone says.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`').filter(|inner| !inner.contains('`'))
}

/// Every field with its value, the parts of sections by dotted names.
fn fields(configuration: &ImagevolConfiguration) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Value::Object(top) = serde_json::to_value(configuration).unwrap() else { panic!("an object") };
    for (name, value) in top {
        if let Value::Object(section) = value {
            found.extend(section.into_iter().map(|(part, value)| (format!("{name}.{part}"), plain(&value))));
        } else {
            found.insert(name, plain(&value));
        }
    }
    found
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn every_field_is_documented_and_nothing_else() {
    let every = ImagevolConfiguration {
        root_dir: Some("/r".into()),
        socket: Some("/s".into()),
        node_name: Some("n".into()),
        max_parallel_image_pulls: Some(1),
        platform: Some("linux/amd64".into()),
        image_credential_provider_config: Some("/c".into()),
        image_credential_provider_bin_dir: Some("/b".into()),
        csi: Some(CsiConfiguration {
            endpoint: Some("/e".into()),
            registration_dir: Some("/d".into()),
            ..CsiConfiguration::default()
        }),
        kubernetes: Some(KubernetesConfiguration {
            kubeconfig: Some("/k".into()),
            ..KubernetesConfiguration::default()
        }),
        ..ImagevolConfiguration::default()
    };
    let names: Vec<_> = fields(&every).into_keys().collect();
    assert_eq!(documented().into_keys().collect::<Vec<_>>(), names);
}

/// A default in code font is the value; one in words belongs to a field that has none until start.
#[test]
fn every_default_is_the_programs() {
    let sections = ImagevolConfiguration {
        csi: Some(CsiConfiguration::default()),
        kubernetes: Some(KubernetesConfiguration::default()),
        ..ImagevolConfiguration::default()
    };
    let defaults = fields(&sections);
    for (field, cell) in documented() {
        assert_eq!(code(cell), defaults.get(field).map(String::as_str), "{field}: {cell}");
        assert!(!cell.is_empty(), "{field}");
    }
}

#[test]
fn the_example_is_one() {
    let example = PAGE.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    ImagevolConfiguration::parse(example).unwrap();
}
