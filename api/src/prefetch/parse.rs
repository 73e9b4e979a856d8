//! A file of lists into lists that can be used, strictly.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    CheckedImage, CheckedList, ImagePrefetch, KIND, MAX_BYTES, PrefetchError, PrefetchImage, PrefetchPolicy,
    RESERVED_NAME,
};
use crate::config::API_VERSION;
use crate::core::defaults::default_pull_policy;
use crate::core::field::{FieldError, Path};
use crate::core::validation::dns_subdomain;
use crate::cron::CronSchedule;
use crate::oci::Reference;

/// The values of `pullPolicy`.
const POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// The head of a versioned object; the rest is not looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TypeMeta {
    api_version: String,
    kind: String,
}

pub(super) fn file(yaml: &str) -> Result<Vec<CheckedList>, PrefetchError> {
    if yaml.len() > MAX_BYTES {
        return Err(PrefetchError::TooLarge);
    }
    let types: Vec<TypeMeta> = documents(yaml)?;
    if types.is_empty() {
        return Err(PrefetchError::Empty);
    }
    for TypeMeta { api_version, kind } in types {
        if api_version != API_VERSION || kind != KIND {
            return Err(PrefetchError::Type { api_version, kind });
        }
    }
    documents::<ImagePrefetch>(yaml)?.iter().map(checked).collect()
}

fn documents<'y, T: Deserialize<'y>>(yaml: &'y str) -> Result<Vec<T>, PrefetchError> {
    serde_saphyr::from_multiple(yaml).map_err(|error| PrefetchError::Parse(Box::new(error)))
}

fn checked(written: &ImagePrefetch) -> Result<CheckedList, PrefetchError> {
    let name = &written.metadata.name;
    let path = Path::new("metadata").child("name");
    let mut errors: Vec<_> = dns_subdomain(name).into_iter().map(|message| path.invalid(&**name, message)).collect();
    if name == RESERVED_NAME {
        errors.push(path.forbidden("images that were fetched ahead by command are listed under this name"));
    }
    let parsed = name.parse().map_err(|error: crate::names::NameError| path.invalid(&**name, error.to_string()));
    let images = images(&written.spec.images, &mut errors);
    match parsed {
        Ok(name) if errors.is_empty() => Ok(CheckedList { name, images }),
        Err(error) if errors.is_empty() => Err(invalid(name, vec![error])),
        Ok(_) | Err(_) => Err(invalid(name, errors)),
    }
}

fn invalid(name: &str, errors: Vec<FieldError>) -> PrefetchError {
    PrefetchError::Invalid { name: name.to_owned(), errors }
}

fn images(written: &[PrefetchImage], errors: &mut Vec<FieldError>) -> Vec<CheckedImage> {
    let path = Path::new("spec").child("images");
    if written.is_empty() {
        errors.push(path.required("must name at least one image"));
    }
    let mut seen = BTreeSet::new();
    let mut images = Vec::new();
    for (index, image) in written.iter().enumerate() {
        let path = path.index(index);
        let Some(image) = checked_image(image, &path, errors) else { continue };
        if !seen.insert(image.reference.to_string()) {
            errors.push(path.child("reference").duplicate(&image.written));
        }
        images.push(image);
    }
    images
}

/// `None` with an error noted; every field is looked at.
fn checked_image(image: &PrefetchImage, path: &Path, errors: &mut Vec<FieldError>) -> Option<CheckedImage> {
    let mut note = |error: FieldError| errors.push(error);
    let reference = reference(&image.reference, &path.child("reference")).map_err(&mut note);
    let policy = policy(image, path).map_err(&mut note);
    let deadline = image.deadline.as_deref().map(|text| deadline(text, &path.child("deadline")));
    let deadline = deadline.transpose().map_err(&mut note);
    let keep = image.keep_unused_for.filter(|keep| keep.is_zero());
    if let Some(keep) = keep {
        note(path.child("keepUnusedFor").invalid(&*keep.to_string(), "must be greater than zero"));
    }
    Some(CheckedImage {
        written: image.reference.clone(),
        reference: reference.ok()?,
        policy: policy.ok()?,
        deadline: deadline.ok()?,
        keep_unused_for: image.keep_unused_for.map(Into::into),
    })
}

fn reference(text: &str, path: &Path) -> Result<Reference, FieldError> {
    if text.is_empty() {
        return Err(path.required(""));
    }
    let parsed = Reference::parse(text).map_err(|error| path.invalid(text, error.to_string()))?;
    Ok(match parsed.digest() {
        // A digest decides over a tag beside it.
        Some(digest) => parsed.at_digest(digest),
        None => parsed.with_default_tag(),
    })
}

fn policy(image: &PrefetchImage, path: &Path) -> Result<PrefetchPolicy, FieldError> {
    let policy = image.pull_policy.as_deref().unwrap_or_else(|| default_pull_policy(&image.reference));
    let schedule = image.schedule.as_deref();
    let field = path.child("schedule");
    match (policy, schedule) {
        ("Always", None) => Ok(PrefetchPolicy::Always(None)),
        ("Always", Some(text)) => {
            let parsed: Result<CronSchedule, _> = text.parse();
            parsed
                .map(|schedule| PrefetchPolicy::Always(Some(schedule)))
                .map_err(|error| field.invalid(text, error.to_string()))
        }
        ("IfNotPresent" | "Never", Some(_)) => Err(field.forbidden("may only be set when `pullPolicy` is `Always`")),
        ("IfNotPresent", None) => Ok(PrefetchPolicy::IfNotPresent),
        ("Never", None) => Ok(PrefetchPolicy::Never),
        (other, _) => Err(path.child("pullPolicy").not_supported(other, &POLICIES)),
    }
}

fn deadline(text: &str, path: &Path) -> Result<Timestamp, FieldError> {
    let message = "must be a time as RFC 3339 has it, such as 2026-12-24T18:00:00Z";
    text.parse().map_err(|_| path.invalid(text, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn list(name: &str, images: &str) -> String {
        format!(
            "apiVersion: imagevol.dev/v1alpha1\nkind: ImagePrefetch\nmetadata: {{name: {name}}}\nspec: {{images: {images}}}\n"
        )
    }

    fn error(yaml: &str) -> String {
        let error = file(yaml).unwrap_err();
        std::error::Error::source(&error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
    }

    #[test]
    fn a_file_may_hold_several_lists() {
        let one = list("one", "[{reference: busybox}, {reference: 'quay.io/a:v1', keepUnusedFor: 1h30m}]");
        let other = list("two", "[{reference: 'quay.io/a:v1', pullPolicy: Never, deadline: '2026-01-01T00:00:00Z'}]");
        let lists = file(&format!("{one}---\n{other}")).unwrap();
        assert_eq!(lists.iter().map(|list| list.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        let [latest, kept] = &lists[0].images[..] else { panic!("{lists:?}") };
        assert_eq!(latest.reference.to_string(), "docker.io/library/busybox:latest");
        assert_eq!((&*latest.written, latest.policy), ("busybox", PrefetchPolicy::Always(None)));
        assert_eq!(kept.policy, PrefetchPolicy::IfNotPresent);
        assert_eq!(kept.keep_unused_for, Some(std::time::Duration::from_mins(90)));
        assert_eq!(lists[1].images[0].policy, PrefetchPolicy::Never);
        assert_eq!(lists[1].images[0].deadline, Some("2026-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn json_is_yaml() {
        let json = r#"{"apiVersion":"imagevol.dev/v1alpha1","kind":"ImagePrefetch","metadata":{"name":"x"},
            "spec":{"images":[{"reference":"a:1","pullPolicy":"Always","schedule":"0 3 * * *"}]}}"#;
        let lists = file(json).unwrap();
        assert!(matches!(lists[0].images[0].policy, PrefetchPolicy::Always(Some(_))));
    }

    #[rstest]
    #[case("[]", "spec.images: Required value: must name at least one image")]
    #[case("[{reference: ''}]", "spec.images[0].reference: Required value")]
    #[case(
        "[{reference: 'A:1'}]",
        "spec.images[0].reference: Invalid value: \"A:1\": invalid reference format: repository name (library/A) must be lowercase"
    )]
    #[case(
        "[{reference: 'a:1'}, {reference: 'docker.io/library/a:1'}]",
        "spec.images[1].reference: Duplicate value: \"docker.io/library/a:1\""
    )]
    #[case(
        "[{reference: 'a:1', pullPolicy: Sometimes}]",
        "spec.images[0].pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
    )]
    #[case(
        "[{reference: 'a:1', schedule: '@daily'}]",
        "spec.images[0].schedule: Forbidden: may only be set when `pullPolicy` is `Always`"
    )]
    #[case(
        "[{reference: a, schedule: '* * * *'}]",
        "spec.images[0].schedule: Invalid value: \"* * * *\": expected exactly 5 fields (minute, hour, day of month, month, day of week), found 4"
    )]
    #[case(
        "[{reference: 'a:1', deadline: tomorrow}]",
        "spec.images[0].deadline: Invalid value: \"tomorrow\": must be a time as RFC 3339 has it, such as 2026-12-24T18:00:00Z"
    )]
    #[case(
        "[{reference: 'a:1', keepUnusedFor: 0s}]",
        "spec.images[0].keepUnusedFor: Invalid value: \"0s\": must be greater than zero"
    )]
    fn wrong_fields_are_named(#[case] images: &str, #[case] message: &str) {
        assert_eq!(error(&list("x", images)), format!("ImagePrefetch \"x\" is invalid: {message}"));
    }

    #[test]
    fn every_error_is_told_at_once() {
        let text =
            error(&list("imagevol-prefetch", "[{reference: '', pullPolicy: x, deadline: y, keepUnusedFor: 0s}]"));
        for field in ["metadata.name: Forbidden", ".reference:", ".pullPolicy:", ".deadline:", ".keepUnusedFor:"] {
            assert!(text.contains(field), "{field}: {text}");
        }
        assert!(
            error(&list("A_b", "[{reference: 'a:1'}]")).contains("metadata.name: Invalid value: \"A_b\": a lowercase")
        );
    }

    #[rstest]
    #[case("", "file holds no object")]
    #[case("---\n", "file holds no object")]
    #[case(
        "kind: Pod\n",
        "object must be of apiVersion imagevol.dev/v1alpha1 and kind ImagePrefetch, not \"\" and \"Pod\""
    )]
    fn other_files_are_refused(#[case] yaml: &str, #[case] message: &str) {
        assert_eq!(error(yaml), message);
    }

    #[rstest]
    #[case("[{reference: 'a:1', tag: x}]", "tag")]
    #[case("[{reference: 'a:1', reference: 'b:1'}]", "duplicate")]
    #[case("[{}]", "reference")]
    fn unknown_double_and_missing_fields_are_errors(#[case] images: &str, #[case] part: &str) {
        let text = error(&list("x", images));
        assert!(text.starts_with("file cannot be read: ") && text.contains(part), "{text}");
    }

    #[test]
    fn one_bad_list_spoils_its_file() {
        let both = format!("{}---\n{}", list("x", "[{reference: 'a:1'}]"), list("y", "[]"));
        assert!(error(&both).starts_with("ImagePrefetch \"y\" is invalid"));
        assert_eq!(error(&" ".repeat(MAX_BYTES + 1)), "file is longer than 1048576 bytes");
    }

    proptest! {
        #[test]
        fn no_file_is_too_odd(name in ".{0,9}", image in ".{0,20}", keep in ".{0,5}", raw: String) {
            let _seen = file(&list(&name, &format!("[{{reference: '{image}', keepUnusedFor: {keep}}}]")));
            let _seen = file(&raw);
        }
    }
}
