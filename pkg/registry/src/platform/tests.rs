use rstest::rstest;

use imagevol_base::Digester;

use super::*;
use crate::manifest::Descriptor;

fn platform(text: &str) -> Platform {
    let mut parts = text.split('/');
    Platform::new(parts.next().unwrap(), parts.next().unwrap(), parts.next())
}

fn entry(text: &str) -> Entry {
    let platform = (text != "-").then(|| platform(text));
    let descriptor = Descriptor {
        media_type: text.to_owned(),
        digest: Digester::sha256(text.as_bytes()),
        size: 1,
        annotations: std::collections::BTreeMap::new(),
    };
    Entry { descriptor, platform }
}

#[rstest]
#[case("linux/amd64", &["linux/arm64", "linux/amd64"], &["linux/amd64"])]
#[case("linux/amd64", &["linux/amd64/v3", "linux/386", "linux/amd64/v1"], &["linux/amd64/v1", "linux/386"])]
#[case("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4", "linux/amd64/v3"],
    &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"])]
#[case("linux/arm64/v8", &["linux/arm/v7", "linux/arm64"], &["linux/arm64", "linux/arm/v7"])]
#[case("linux/aarch64", &["linux/arm64/v8"], &["linux/arm64/v8"])]
#[case("linux/arm64/v9.2", &["linux/arm64", "linux/arm64/v9", "linux/arm64/v9.5"], &["linux/arm64/v9", "linux/arm64"])]
#[case("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6", "linux/arm", "linux/arm64"],
    &["linux/arm", "linux/arm/v6", "linux/arm/v5"])]
#[case("linux/amd64", &["unknown/unknown", "-", "linux/amd64"], &["linux/amd64", "-"])]
#[case("linux/amd64", &["windows/amd64", "unknown/unknown"], &[])]
#[case("linux/riscv64", &["linux/amd64", "linux/riscv64"], &["linux/riscv64"])]
#[case("Linux/AMD64", &["linux/x86_64"], &["linux/x86_64"])]
fn orders_as_containerd_does(#[case] wanted: &str, #[case] entries: &[&str], #[case] expected: &[&str]) {
    let entries: Vec<Entry> = entries.iter().map(|text| entry(text)).collect();
    let found: Vec<&str> =
        candidates(&entries, &platform(wanted)).iter().map(|entry| entry.descriptor.media_type.as_str()).collect();
    assert_eq!(found, expected);
}

#[test]
fn of_two_that_match_the_first_wins() {
    let mut entries = [entry("linux/amd64"), entry("linux/amd64")];
    entries[1].descriptor.size = 2;
    let found = candidates(&entries, &platform("linux/amd64"));
    assert_eq!(found.iter().map(|entry| entry.descriptor.size).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn an_attestation_is_never_chosen() {
    let mut marked = entry("linux/amd64");
    let key = "vnd.docker.reference.type".to_owned();
    marked.descriptor.annotations.insert(key, "attestation-manifest".to_owned());
    assert!(candidates(&[marked], &platform("linux/amd64")).is_empty());
}

#[test]
fn shows_variants_and_escapes_hostile_names() {
    assert_eq!(platform("linux/arm/v6").to_string(), "linux/arm/v6");
    assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64");
    assert_eq!(Platform::new("li\nnux", "a", None).to_string(), "li\\nnux/a");
}

#[test]
fn this_machine_has_a_platform() {
    assert!(Platform::host().to_string().starts_with("linux/"));
}
