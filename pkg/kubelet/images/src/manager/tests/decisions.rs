//! The decision table from end to end: calls to the image service, events, outcome.

use rstest::rstest;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_absent_image_is_pulled() {
    let world = World::new();
    let id = world.service.offer(IMAGE, "content", 797);
    world.service.close_gate();
    let (pulled, ()) = tokio::join!(world.ensure("p", IMAGE, PullPolicy::IfNotPresent), async {
        until(|| world.service.pulling() == 1).await;
        tokio::time::advance(Duration::from_millis(24)).await;
        world.service.let_through(1);
    });
    assert_eq!(pulled.unwrap(), id);
    assert_eq!(world.service.take_calls(), [status(IMAGE), pull(IMAGE), status(&id.to_string())]);
    let events = [
        r#"Normal Pulling Pulling image "localhost:5000/data:1""#,
        r#"Normal Pulled Successfully pulled image "localhost:5000/data:1" in 24ms (24ms including waiting). Image size: 797 bytes."#,
    ];
    assert_eq!(world.take_events(), events);
    assert_eq!(world.service.bound(&holder("p", "volume")), Some(id));
    assert_eq!((world.files("pulling"), world.files("pulled")), (0, 1));
}

#[tokio::test]
async fn a_present_image_is_inspected_once_and_bound() {
    let world = World::new();
    let id = world.service.preload(IMAGE, "content", 797);
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(world.ensure("p", IMAGE, policy).await.unwrap(), id);
        assert_eq!(world.service.take_calls(), [status(IMAGE), Call::Bind(id.clone())]);
        let text = r#"Normal Pulled Container image "localhost:5000/data:1" already present on machine and can be accessed by the pod"#;
        assert_eq!(world.take_events(), [text]);
    }
    assert_eq!(world.service.bound(&holder("p", "volume")), Some(id));
}

#[tokio::test]
async fn always_pulls_without_a_look() {
    let world = World::new();
    world.service.preload(IMAGE, "old", 1);
    let id = world.service.offer(IMAGE, "new", 2);
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap(), id);
    assert_eq!(world.service.take_calls(), [pull(IMAGE), status(&id.to_string())]);
}

#[tokio::test]
async fn always_does_not_fall_back_to_a_present_copy() {
    let world = World::new();
    world.service.preload(IMAGE, "old", 1);
    world.service.fail_pull(unavailable("down"));
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), "ErrImagePull");
}

#[tokio::test(start_paused = true)]
async fn never_refuses_an_absent_image_each_time_and_heals() {
    let world = World::new();
    for _ in 0..2 {
        let error = world.ensure("p", IMAGE, PullPolicy::Never).await.unwrap_err();
        assert_eq!((error.reason(), error.is_final()), ("ErrImageNeverPull", true));
        assert_eq!(world.service.take_calls(), [status(IMAGE)]);
        let text = r#"Warning ErrImageNeverPull Container image "localhost:5000/data:1" is not present with pull policy of Never"#;
        assert_eq!(world.take_events(), [text]);
    }
    world.service.preload(IMAGE, "content", 1);
    assert!(world.ensure("p", IMAGE, PullPolicy::Never).await.is_ok());
}

#[rstest]
#[case(PullPolicy::IfNotPresent)]
#[case(PullPolicy::Never)]
#[tokio::test]
async fn an_inspection_that_fails_names_the_image(#[case] policy: PullPolicy) {
    let world = World::new();
    world.service.fail_status(ImageServiceError::Node { message: "database is gone".to_owned() });
    let error = world.ensure("p", IMAGE, policy).await.unwrap_err();
    assert_eq!((error.reason(), error.is_final()), ("ImageInspectError", false));
    let text = r#"Warning InspectFailed Failed to inspect image "localhost:5000/data:1": database is gone"#;
    assert_eq!(world.take_events(), [text]);
}

#[rstest]
#[case("FAILED_IMAGE", "invalid reference format: repository name (library/FAILED_IMAGE) must be lowercase")]
#[case("http://url", "invalid reference format")]
#[case(
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "invalid repository name (0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef), cannot specify 64-byte hexadecimal strings"
)]
#[tokio::test]
async fn bad_names_reach_nobody(#[case] image: &str, #[case] inner: &str) {
    let world = World::new();
    for policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
        let error = world.ensure("p", image, policy).await.unwrap_err();
        assert_eq!((error.reason(), error.is_final()), ("InvalidImageName", true));
        let message =
            format!(r#"Failed to apply default image tag "{image}": couldn't parse image name "{image}": {inner}"#);
        assert_eq!(error.message(), message);
        assert_eq!(world.take_events(), [format!("Warning InspectFailed {message}")]);
    }
    assert_eq!(world.service.take_calls(), []);
    assert_eq!(world.files("pulling"), 0);
}

#[rstest]
#[case("root", "root:latest")]
#[case("root:tag", "root:tag")]
#[case("r.io:5000/a/root", "r.io:5000/a/root:latest")]
#[case(
    "root@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "root@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)]
#[case(
    "root:tag@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "root:tag@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)]
#[tokio::test]
async fn the_default_tag_is_added_to_what_is_written(#[case] written: &str, #[case] asked: &str) {
    let world = World::new();
    world.service.offer(written, "content", 1);
    world.ensure("p", written, PullPolicy::Always).await.unwrap();
    let spec = world.service.pulled_specs().remove(0);
    assert_eq!((&*spec.image, &*spec.user_specified_image), (asked, written));
    assert_eq!(spec.annotations["note"], "yes", "annotations of the pod go along");
    assert_eq!(world.take_events()[0], format!(r#"Normal Pulling Pulling image "{written}""#));
}

#[tokio::test]
async fn an_image_that_goes_between_two_looks_is_pulled() {
    let world = World::new();
    let id = world.service.preload(IMAGE, "content", 1);
    world.service.offer(IMAGE, "content", 1);
    world.service.vanish_before_bind();
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap(), id);
    let calls = [status(IMAGE), Call::Bind(id.clone()), pull(IMAGE), status(&id.to_string())];
    assert_eq!(world.service.take_calls(), calls);
}

#[tokio::test]
async fn an_image_that_goes_between_two_looks_is_not_pulled_with_never() {
    let world = World::new();
    world.service.preload(IMAGE, "content", 1);
    world.service.vanish_before_bind();
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Never).await.unwrap_err().reason(), "ErrImageNeverPull");
}

#[tokio::test]
async fn a_binding_that_fails_is_an_inspection_that_fails() {
    let world = World::new();
    world.service.preload(IMAGE, "content", 1);
    world.service.fail_bind(ImageServiceError::Node { message: "disk full".to_owned() });
    let error = world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!(error.message(), r#"Failed to inspect image "localhost:5000/data:1": disk full"#);
    assert_eq!(world.take_events().len(), 1);
}

#[tokio::test]
async fn a_size_that_is_not_known_is_zero() {
    let world = World::new();
    world.service.offer(IMAGE, "content", 797);
    world.service.fail_status(unavailable("gone"));
    world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap();
    assert!(world.take_events()[1].ends_with("Image size: 0 bytes."));
}

#[tokio::test]
async fn requests_are_counted_by_what_was_found_out() {
    let world = World::new();
    world.service.offer(IMAGE, "content", 797);
    for (image, policy) in [
        (IMAGE, PullPolicy::Never),
        (IMAGE, PullPolicy::IfNotPresent),
        (IMAGE, PullPolicy::IfNotPresent),
        (IMAGE, PullPolicy::Always),
        ("UPPER", PullPolicy::Always),
    ] {
        drop(world.ensure("p", image, policy).await);
    }
    let mut counted = world.metric("kubelet_image_manager_ensure_image_requests_total");
    counted.sort();
    let expected = [
        r#"{pull_policy="always",present_locally="unknown",pull_required="true"} 1"#,
        r#"{pull_policy="always",present_locally="unknown",pull_required="unknown"} 1"#,
        r#"{pull_policy="ifnotpresent",present_locally="false",pull_required="true"} 1"#,
        r#"{pull_policy="ifnotpresent",present_locally="true",pull_required="false"} 1"#,
        r#"{pull_policy="never",present_locally="false",pull_required="unknown"} 1"#,
    ];
    assert_eq!(counted, expected);
    assert_eq!(world.metric("kubelet_image_pull_duration_seconds_count"), [r#"{image_size_in_bytes="0-10MB"} 2"#]);
    let checks = world.metric("kubelet_imagemanager_image_mustpull_checks_total");
    assert_eq!(checks, [r#"{result="credentialRecordFound"} 1"#]);
    assert_eq!(world.metric("kubelet_imagemanager_ondisk_pulledrecords"), [" 1"]);
}

/// A pull for another platform is another pull: it is asked for, and what failed for one platform is not held against the other.
#[tokio::test(start_paused = true)]
async fn a_platform_is_asked_for_and_backed_off_by_itself() {
    let world = World::new();
    world.service.fail_pull(unavailable("away"));
    world.service.offer(IMAGE, "content", 1);
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), "ErrImagePull");
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), "ImagePullBackOff");
    *world.platform.lock().unwrap() = Some("linux/arm64".parse().unwrap());
    world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap();
    let platforms: Vec<_> = world.service.pulled_specs().into_iter().map(|spec| spec.platform).collect();
    assert_eq!(platforms.last().unwrap().as_ref().unwrap().as_str(), "linux/arm64");
}
