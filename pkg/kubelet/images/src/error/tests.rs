use rstest::rstest;

use super::*;
use crate::credentials::PullSecretsError;
use crate::keyring::DockerConfigError;

const IMAGE: &str = "localhost:5000/data:1";

fn unavailable(message: &str) -> ImageServiceError {
    ImageServiceError::Unavailable { message: message.to_owned() }
}

fn denied(message: &str) -> ImageServiceError {
    ImageServiceError::Denied { message: message.to_owned() }
}

fn failed(errors: &[ImageServiceError]) -> PullError {
    let (first, others) = errors.split_first().unwrap();
    PullError::Service(ServiceErrors::new(first.clone(), others.to_vec()))
}

fn pull(errors: &[ImageServiceError]) -> ImageError {
    ImageError::Pull { image: IMAGE.to_owned(), source: failed(errors) }
}

fn name(image: &str) -> ImageError {
    let source = imagevol_api::oci::Reference::parse(image).unwrap_err();
    ImageError::InvalidName { image: image.to_owned(), source }
}

fn signature(message: &str) -> ImageServiceError {
    ImageServiceError::SignatureValidation { message: message.to_owned() }
}

/// Reason, waiting message, event: one row for each row of the decision table that ends in an error.
#[rstest]
#[case::d1(
    name("localhost:5000/UPPER:1"),
    "InvalidImageName",
    r#"Failed to apply default image tag "localhost:5000/UPPER:1": couldn't parse image name "localhost:5000/UPPER:1": invalid reference format: repository name (UPPER) must be lowercase"#,
    "Warning InspectFailed",
    r#"Failed to apply default image tag "localhost:5000/UPPER:1": couldn't parse image name "localhost:5000/UPPER:1": invalid reference format: repository name (UPPER) must be lowercase"#
)]
#[case::d2(
    ImageError::Inspect { image: IMAGE.to_owned(), source: ImageServiceError::Node { message: "disk".to_owned() } },
    "ImageInspectError",
    r#"Failed to inspect image "localhost:5000/data:1": disk"#,
    "Warning InspectFailed",
    r#"Failed to inspect image "localhost:5000/data:1": disk"#
)]
#[case::d3(
    ImageError::NeverPull { image: IMAGE.to_owned() },
    "ErrImageNeverPull",
    r#"Container image "localhost:5000/data:1" is not present with pull policy of Never"#,
    "Warning ErrImageNeverPull",
    r#"Container image "localhost:5000/data:1" is not present with pull policy of Never"#
)]
#[case::d8_with_a_remembered_error(
    ImageError::PullBackOff { image: IMAGE.to_owned(), retry_in: Duration::from_secs(9), last: Some(failed(&[unavailable("down")])) },
    "ImagePullBackOff",
    r#"Back-off pulling image "localhost:5000/data:1": ErrImagePull: down"#,
    "Normal BackOff",
    r#"Back-off pulling image "localhost:5000/data:1""#
)]
#[case::d8_without(
    ImageError::PullBackOff { image: IMAGE.to_owned(), retry_in: Duration::from_secs(9), last: None },
    "ImagePullBackOff",
    r#"Back-off pulling image "localhost:5000/data:1""#,
    "Normal BackOff",
    r#"Back-off pulling image "localhost:5000/data:1""#
)]
#[case::d10(
    pull(&[unavailable("connection refused")]),
    "ErrImagePull",
    "connection refused",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": connection refused"#
)]
#[case::d11(
    pull(&[unavailable("RegistryUnavailable: connection refused")]),
    "RegistryUnavailable",
    "image pull failed for localhost:5000/data:1 because the registry is unavailable: connection refused",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": RegistryUnavailable: connection refused"#
)]
#[case::d12(
    pull(&[signature("no signature")]),
    "SignatureValidationFailed",
    "image pull failed for localhost:5000/data:1 because the signature validation failed: no signature",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": SignatureValidationFailed: no signature"#
)]
#[case::d13(
    ImageError::Pull { image: IMAGE.to_owned(), source: PullError::QpsExceeded },
    "ErrImagePull",
    "pull QPS exceeded",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": pull QPS exceeded"#
)]
#[case::several_credentials(
    pull(&[denied("a"), denied("b"), denied("a")]),
    "ErrImagePull",
    "[a, b]",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": [a, b]"#
)]
#[case::several_credentials_one_text(
    pull(&[denied("a"), denied("a")]),
    "ErrImagePull",
    "a",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": a"#
)]
#[case::brackets_hide_the_name(
    pull(&[unavailable("RegistryUnavailable"), denied("a")]),
    "ErrImagePull",
    "[RegistryUnavailable, a]",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": [RegistryUnavailable, a]"#
)]
#[case::d15(
    ImageError::Intent { image: IMAGE.to_owned(), source: RecordError::Write { source: std::io::Error::other("no space") } },
    "ErrImagePull",
    r#"Failed to record image pull intent for container image "localhost:5000/data:1": failed to write record: no space"#,
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": Failed to record image pull intent for container image "localhost:5000/data:1": failed to write record: no space"#
)]
#[case::d16(
    ImageError::Credentials { image: IMAGE.to_owned(), source: broken_secret() },
    "ErrImagePull",
    "failed to read pull secret default/s: unable to parse auth field, must be formatted as base64(username:password)",
    "Warning Failed",
    r#"Failed to pull image "localhost:5000/data:1": failed to read pull secret default/s: unable to parse auth field, must be formatted as base64(username:password)"#
)]
fn speaks_as_the_kubelet(
    #[case] error: ImageError,
    #[case] reason: &str,
    #[case] message: &str,
    #[case] event: &str,
    #[case] event_message: &str,
) {
    assert_eq!((error.reason(), &*error.message()), (reason, message));
    let notice = error.notice();
    assert_eq!(format!("{} {}", notice.kind.as_str(), notice.reason), event);
    assert_eq!(notice.message, event_message);
}

fn broken_secret() -> CredentialError {
    let (namespace, name) = ("default".to_owned(), "s".to_owned());
    CredentialError::Secret { namespace, name, source: DockerConfigError::Auth }
}

#[rstest]
#[case::bad_name(name("UPPER"), true)]
#[case::never(ImageError::NeverPull { image: IMAGE.to_owned() }, true)]
#[case::not_found(pull(&[ImageServiceError::NotFound { message: String::new() }]), true)]
#[case::all_denied(pull(&[denied("a"), denied("b")]), true)]
#[case::one_may_pass(pull(&[denied("a"), unavailable("b")]), false)]
#[case::network(pull(&[unavailable("a")]), false)]
#[case::cancelled(pull(&[ImageServiceError::Cancelled]), false)]
#[case::qps(ImageError::Pull { image: IMAGE.to_owned(), source: PullError::QpsExceeded }, false)]
#[case::broken_secret(ImageError::Credentials { image: IMAGE.to_owned(), source: broken_secret() }, true)]
#[case::lookup(
    ImageError::Credentials { image: IMAGE.to_owned(), source: CredentialError::Secrets(PullSecretsError { source: "timeout".into() }) },
    false
)]
#[case::backoff_after_final(
    ImageError::PullBackOff { image: IMAGE.to_owned(), retry_in: Duration::ZERO, last: Some(failed(&[denied("a")])) },
    true
)]
#[case::backoff_after_passing(
    ImageError::PullBackOff { image: IMAGE.to_owned(), retry_in: Duration::ZERO, last: Some(failed(&[unavailable("a")])) },
    false
)]
#[case::backoff_after_nothing(ImageError::PullBackOff { image: IMAGE.to_owned(), retry_in: Duration::ZERO, last: None }, false)]
fn knows_what_another_try_cannot_help(#[case] error: ImageError, #[case] is_final: bool) {
    assert_eq!(error.is_final(), is_final);
}

#[test]
fn only_a_backoff_says_when_to_come_back() {
    let retry_in = Duration::from_secs(7);
    let backoff = ImageError::PullBackOff { image: IMAGE.to_owned(), retry_in, last: None };
    assert_eq!(backoff.retry_in(), Some(retry_in));
    assert_eq!(pull(&[denied("a")]).retry_in(), None);
}
