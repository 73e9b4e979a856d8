//! Kubernetes' grammars of names (apimachinery, `util/validation` and `api/validate/content`), with their messages.

/// Longest DNS label (RFC 1123).
const LABEL_MAX: usize = 63;
/// Longest DNS name that Kubernetes takes (RFC 1123).
const SUBDOMAIN_MAX: usize = 253;
/// Longest name part of a label's key, and longest value of a label (apimachinery, `labelKeyMaxLength`).
const LABEL_KEY_MAX: usize = 63;

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
     and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
     and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_KEY_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
     alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
     and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
     validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// What is wrong with a DNS label (`IsDNS1123Label`).
pub(super) fn dns_label(name: &str) -> Vec<String> {
    let long = (name.len() > LABEL_MAX).then(|| format!("must be no more than {LABEL_MAX} characters"));
    let form = match (is_label(name), is_subdomain(name)) {
        (true, _) => None,
        // A valid name that is no label must have dots.
        (false, true) => Some("must not contain dots".to_owned()),
        (false, false) => Some(LABEL_MESSAGE.to_owned()),
    };
    long.into_iter().chain(form).collect()
}

/// What is wrong with a DNS name (`IsDNS1123Subdomain`).
pub(crate) fn dns_subdomain(name: &str) -> Vec<String> {
    let long = (name.len() > SUBDOMAIN_MAX).then(|| format!("must be no more than {SUBDOMAIN_MAX} characters"));
    let form = (!is_subdomain(name)).then(|| SUBDOMAIN_MESSAGE.to_owned());
    long.into_iter().chain(form).collect()
}

/// What is wrong with the key of a label or annotation (`IsLabelKey`).
pub(crate) fn label_key(key: &str) -> Vec<String> {
    let (prefix, name) = match key.split_once('/') {
        None => (None, key),
        Some((_, name)) if name.contains('/') => {
            let example = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {LABEL_KEY_MESSAGE} {example}")];
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    let mut messages = match prefix {
        None => Vec::new(),
        Some("") => vec!["prefix part must be non-empty".to_owned()],
        // This half of the library counts bytes, and says so.
        Some(prefix) => dns_subdomain(prefix)
            .iter()
            .map(|message| {
                format!(
                    "prefix part {}",
                    message.replace(&format!("{SUBDOMAIN_MAX} characters"), &format!("{SUBDOMAIN_MAX} bytes"))
                )
            })
            .collect(),
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_KEY_MAX {
        messages.push(format!("name part must be no more than {LABEL_KEY_MAX} bytes"));
    }
    if !is_label_key_name(name) {
        messages.push(format!("name part {LABEL_KEY_MESSAGE}"));
    }
    messages
}

/// What is wrong with the value of a label (`IsLabelValue`).
pub(super) fn label_value(value: &str) -> Vec<String> {
    let long = (value.len() > LABEL_KEY_MAX).then(|| format!("must be no more than {LABEL_KEY_MAX} bytes"));
    let form = (!value.is_empty() && !is_label_key_name(value)).then(|| LABEL_VALUE_MESSAGE.to_owned());
    long.into_iter().chain(form).collect()
}

fn is_label(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    is_enclosed(name, alphanumeric, |byte| alphanumeric(byte) || byte == b'-')
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_label)
}

fn is_label_key_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    is_enclosed(name, |byte| byte.is_ascii_alphanumeric(), inner)
}

/// Not empty, `end` at both ends, `inner` throughout.
fn is_enclosed(name: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = name.as_bytes();
    bytes.first().copied().is_some_and(&end)
        && bytes.last().copied().is_some_and(&end)
        && bytes.iter().copied().all(inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;
    use crate::names::{ContainerName, VolumeName};

    #[rstest]
    #[case("a", &[])]
    #[case("a-1", &[])]
    #[case("a.b", &["must not contain dots"])]
    #[case("..", &[LABEL_MESSAGE])]
    #[case("", &[LABEL_MESSAGE])]
    fn checks_labels(#[case] name: &str, #[case] messages: &[&str]) {
        assert_eq!(dns_label(name), messages);
    }

    #[test]
    fn counts_before_it_looks() {
        assert_eq!(dns_label(&"a".repeat(64)), ["must be no more than 63 characters"]);
        assert_eq!(dns_label(&"A".repeat(64)), ["must be no more than 63 characters", LABEL_MESSAGE]);
        assert_eq!(dns_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert_eq!(dns_subdomain("a..b"), [SUBDOMAIN_MESSAGE]);
    }

    #[rstest]
    #[case("a", 0)]
    #[case("example.com/My_Name.1", 0)]
    #[case("/a", 1)]
    #[case("a/", 2)]
    #[case("a/b/c", 1)]
    #[case("-a", 1)]
    #[case("A.b/c", 1)]
    fn checks_label_keys(#[case] key: &str, #[case] errors: usize) {
        assert_eq!(label_key(key).len(), errors, "{:?}", label_key(key));
    }

    #[test]
    fn checks_label_values() {
        assert!(label_value("").is_empty() && label_value("v1.2_x").is_empty());
        assert_eq!(label_value("a b"), [LABEL_VALUE_MESSAGE]);
        assert_eq!(label_value(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    proptest! {
        /// What validation lets through can name a directory.
        #[test]
        fn a_valid_label_is_a_safe_path_component(name in "[-a-zA-Z0-9._/\\\\\0 ]{0,70}") {
            if dns_label(&name).is_empty() {
                prop_assert!(name.parse::<VolumeName>().is_ok() && name.parse::<ContainerName>().is_ok());
            }
        }
    }
}
