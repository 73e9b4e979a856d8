//! What an entry of an index is called.

use std::collections::BTreeMap;

use imagevol_api::oci::Reference;

/// The name of an entry (image spec, annotations.md): a full reference as podman and skopeo write it, or a tag as docker and umoci do.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The full name beside it, as containerd and docker write it (containerd, core/images/annotations.go, `AnnotationImageName`).
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";

/// The name that annotations give an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    /// A reference, normalized.
    Full(Reference),
    /// A tag of a repository that is not named.
    Tag(String),
    /// None, or none that can be used.
    None,
}

// === impl Name ===

impl Name {
    /// The full name counts more than the short one.
    pub(crate) fn of(annotations: &BTreeMap<String, String>) -> Self {
        let full = annotations.get(IMAGE_NAME).and_then(|text| Reference::parse(text).ok());
        if let Some(reference) = full {
            return Self::Full(reference.with_default_tag());
        }
        match annotations.get(REF_NAME) {
            Some(text) if is_tag(text) => Self::Tag(text.clone()),
            Some(text) => Reference::parse(text).map_or(Self::None, |full| Self::Full(full.with_default_tag())),
            None => Self::None,
        }
    }

    /// The reference that leads to the entry. A tag alone needs the repository that the administrator has named.
    pub(crate) fn reference(&self, repository: Option<&Reference>) -> Option<Reference> {
        match self {
            Self::Full(reference) => Some(reference.clone()),
            Self::Tag(tag) => Reference::parse(&format!("{}:{tag}", repository?.repository())).ok(),
            Self::None => None,
        }
    }
}

/// A text without the marks of a reference, that is a tag behind any repository.
fn is_tag(text: &str) -> bool {
    !text.contains(['/', ':', '@']) && Reference::parse(&format!("repository/name:{text}")).is_ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::podman(&[(REF_NAME, "quay.io/demo/site:v1")], Some("quay.io/demo/site:v1"))]
    #[case::short_docker_name(&[(REF_NAME, "busybox:1.36")], Some("docker.io/library/busybox:1.36"))]
    #[case::umoci(&[(REF_NAME, "latest")], Some("r.io/team/data:latest"))]
    #[case::word_is_a_tag(&[(REF_NAME, "busybox")], Some("r.io/team/data:busybox"))]
    #[case::docker_save(&[(IMAGE_NAME, "docker.io/library/busybox:latest"), (REF_NAME, "latest")], Some("docker.io/library/busybox:latest"))]
    #[case::useless_full_name(&[(IMAGE_NAME, "Not A Name"), (REF_NAME, "v1")], Some("r.io/team/data:v1"))]
    #[case::nothing(&[], None)]
    #[case::nonsense(&[(REF_NAME, "../../etc/passwd")], None)]
    #[case::control_characters(&[(REF_NAME, "a\u{1b}[31m")], None)]
    fn names_lead_to_references(#[case] annotations: &[(&str, &str)], #[case] expected: Option<&str>) {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let repository = Reference::parse("r.io/team/data").unwrap();
        let found = Name::of(&annotations).reference(Some(&repository));
        assert_eq!(found.map(|reference| reference.to_string()).as_deref(), expected);
    }

    #[test]
    fn a_tag_alone_is_no_name() {
        let annotations = BTreeMap::from([(REF_NAME.to_owned(), "v1".to_owned())]);
        assert_eq!(Name::of(&annotations).reference(None), None);
    }
}
