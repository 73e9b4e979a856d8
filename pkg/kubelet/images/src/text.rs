//! The kubelet's texts for events and waiting messages, byte for byte, and what they are put together from.

use std::error::Error;
use std::time::Duration;

use imagevol_api::core::GoQuoted;
use imagevol_api::duration::go_duration_ms;

/// `Pulling` (Kubernetes, `pkg/kubelet/images/image_manager.go`, like all texts here).
pub(crate) fn pulling(image: &str) -> String {
    format!("Pulling image {}", GoQuoted(image))
}

/// `Pulled` where nothing had to be pulled, with the feature gate `KubeletEnsureSecretPulledImages` on.
pub(crate) fn already_present(image: &str) -> String {
    format!("Container image {} already present on machine and can be accessed by the pod", GoQuoted(image))
}

/// `Pulled` after a pull: how long the pull took, how long with waiting for its turn, how many bytes the image has.
///
/// Kubernetes' own tests split this text at spaces and count 13 words.
pub(crate) fn pulled(image: &str, pull: Duration, whole: Duration, size: u64) -> String {
    let (image, pull, whole) = (GoQuoted(image), go_duration_ms(pull), go_duration_ms(whole));
    format!("Successfully pulled image {image} in {pull} ({whole} including waiting). Image size: {size} bytes.")
}

/// `BackOff`, and the beginning of its waiting message.
pub(crate) fn backing_off(image: &str) -> String {
    format!("Back-off pulling image {}", GoQuoted(image))
}

/// `Failed`.
pub(crate) fn pull_failed(image: &str, error: &str) -> String {
    format!("Failed to pull image {}: {error}", GoQuoted(image))
}

/// `ErrImageNeverPull`.
pub(crate) fn never_pull(image: &str) -> String {
    format!("Container image {} is not present with pull policy of Never", GoQuoted(image))
}

/// `InspectFailed` for a reference that does not parse.
pub(crate) fn invalid_name(image: &str, error: &str) -> String {
    let image = GoQuoted(image);
    format!("Failed to apply default image tag {image}: couldn't parse image name {image}: {error}")
}

/// `InspectFailed` for an image service that does not answer.
pub(crate) fn inspect_failed(image: &str, error: &str) -> String {
    format!("Failed to inspect image {}: {error}", GoQuoted(image))
}

/// The waiting message where the pull could not even be announced.
pub(crate) fn intent_failed(image: &str, error: &str) -> String {
    format!("Failed to record image pull intent for container image {}: {error}", GoQuoted(image))
}

/// `FailedToRetrieveImagePullSecret` (Kubernetes, `pkg/kubelet/kubelet_pods.go`, `getPullSecretsForPod`).
pub(crate) fn secrets_missing(names: &[String]) -> String {
    let names = names.join(", ");
    format!("Unable to retrieve some image pull secrets ({names}); attempting to pull the image may not succeed.")
}

/// An error with all its causes, as Go's wrapped errors print: `outer: inner`.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_has_the_thirteen_words_that_kubernetes_tests_count() {
        let text = pulled("localhost:5000/data:c1", Duration::from_millis(24), Duration::from_millis(25), 797);
        let expected = "Successfully pulled image \"localhost:5000/data:c1\" in 24ms (25ms including waiting). Image size: 797 bytes.";
        assert_eq!(text, expected);
        assert_eq!(text.split(' ').count(), 13);
    }

    #[test]
    fn quotes_what_a_pod_wrote() {
        assert_eq!(pulling("a\n\"b\"\u{1b}"), r#"Pulling image "a\n\"b\"\x1b""#);
    }
}
