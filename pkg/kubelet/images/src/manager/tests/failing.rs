//! Pulls that fail: texts, back-off, rate.

use super::*;

async fn step(world: &World, after: Duration) -> (Vec<Call>, &'static str) {
    tokio::time::advance(after).await;
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    (world.service.take_calls(), error.reason())
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_and_remembers() {
    let world = World::new();
    world.service.fail_pull(unavailable("dial tcp 127.0.0.1:5000: connection refused"));
    let first = world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!((first.reason(), first.is_final(), first.retry_in()), ("ErrImagePull", false, None));
    assert_eq!(first.message(), "dial tcp 127.0.0.1:5000: connection refused");

    tokio::time::advance(3 * SECOND).await;
    let second = world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!((second.reason(), second.is_final(), second.retry_in()), ("ImagePullBackOff", false, Some(7 * SECOND)));
    let message =
        r#"Back-off pulling image "localhost:5000/data:1": ErrImagePull: dial tcp 127.0.0.1:5000: connection refused"#;
    assert_eq!(second.message(), message);

    let events = [
        r#"Normal Pulling Pulling image "localhost:5000/data:1""#,
        r#"Warning Failed Failed to pull image "localhost:5000/data:1": dial tcp 127.0.0.1:5000: connection refused"#,
        r#"Normal BackOff Back-off pulling image "localhost:5000/data:1""#,
    ];
    assert_eq!(world.take_events(), events);
    assert_eq!(world.files("pulling"), 0, "back-off and failure take their intent back");
    assert_eq!(world.metric("kubelet_image_pull_duration_seconds_count"), [""; 0], "only successes are timed");
}

/// The kubelet's own test of its back-off: 1 s to 1 min, a try each second.
#[tokio::test(start_paused = true)]
async fn tries_and_waits_in_the_kubelets_rhythm() {
    let backoff = BackoffLimits { initial: SECOND, cap: Duration::from_mins(1) };
    let world = World::with(Settings { backoff, ..Settings::default() });
    let mut reasons = Vec::new();
    for _ in 0..6 {
        reasons.push(step(&world, SECOND).await.1);
    }
    let (pull, wait) = ("ErrImagePull", "ImagePullBackOff");
    assert_eq!(reasons, [pull, pull, wait, pull, wait, wait]);
}

#[tokio::test(start_paused = true)]
async fn other_pods_and_images_do_not_wait() {
    let world = World::new();
    world.service.offer(IMAGE, "content", 1);
    world.service.offer("localhost:5000/other:1", "other", 1);
    world.service.fail_pull(unavailable("down"));
    assert!(world.ensure("p", IMAGE, PullPolicy::Always).await.is_err());
    assert!(world.ensure("q", IMAGE, PullPolicy::Always).await.is_ok());
    assert!(world.ensure("p", "localhost:5000/other:1", PullPolicy::Always).await.is_ok());
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), "ImagePullBackOff");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_forgotten_starts_anew() {
    let world = World::new();
    for _ in 0..2 {
        assert_eq!(step(&world, Duration::ZERO).await.1, "ErrImagePull");
        assert_eq!(step(&world, Duration::ZERO).await.1, "ImagePullBackOff");
        world.manager.forget(&"p".parse().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_does_not_end_the_progression() {
    let world = World::new();
    assert_eq!(step(&world, Duration::ZERO).await.1, "ErrImagePull");
    tokio::time::advance(10 * SECOND).await;
    world.service.offer(IMAGE, "content", 1);
    assert!(world.ensure("p", IMAGE, PullPolicy::Always).await.is_ok());
    world.service.fail_pull(unavailable("down"));
    assert_eq!(step(&world, Duration::ZERO).await.1, "ErrImagePull");
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.retry_in(), Some(20 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn backing_off_from_a_final_error_is_final() {
    let world = World::new();
    assert!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().is_final(), "not found");
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!((error.reason(), error.is_final()), ("ImagePullBackOff", true));
}

#[tokio::test(start_paused = true)]
async fn the_cris_names_are_reasons() {
    for (error, reason, message) in [
        (
            ImageServiceError::SignatureValidation { message: "no signature".to_owned() },
            "SignatureValidationFailed",
            "image pull failed for typo_image because the signature validation failed: no signature",
        ),
        (
            unavailable("RegistryUnavailable"),
            "RegistryUnavailable",
            "image pull failed for typo_image because the registry is unavailable",
        ),
    ] {
        let world = World::new();
        world.service.fail_pull(error);
        let first = world.ensure("p", "typo_image", PullPolicy::Always).await.unwrap_err();
        assert_eq!((first.reason(), &*first.message()), (reason, message));
        let second = world.ensure("p", "typo_image", PullPolicy::Always).await.unwrap_err();
        assert_eq!(second.message(), format!(r#"Back-off pulling image "typo_image": {reason}: {message}"#));
    }
}

#[tokio::test(start_paused = true)]
async fn pulls_while_there_are_tokens() {
    let rate = Some(PullRate { qps: 1.0, burst: 1 });
    let world = World::with(Settings { limits: PullLimits { rate, ..PullLimits::default() }, ..Settings::default() });
    world.service.offer(IMAGE, "content", 1);
    assert!(world.ensure("p", IMAGE, PullPolicy::Always).await.is_ok());
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!((error.reason(), &*error.message(), error.is_final()), ("ErrImagePull", "pull QPS exceeded", false));
    let text = r#"Warning Failed Failed to pull image "localhost:5000/data:1": pull QPS exceeded"#;
    assert_eq!(world.take_events().last().unwrap(), text);
}

/// The kubelet's own test: without burst nothing is pulled, and that is a failure that backs off.
#[tokio::test(start_paused = true)]
async fn no_burst_no_pull() {
    let rate = Some(PullRate { qps: 5.0, burst: 0 });
    let world = World::with(Settings {
        limits: PullLimits { rate, ..PullLimits::default() },
        backoff: BackoffLimits { initial: SECOND, cap: Duration::from_mins(1) },
        ..Settings::default()
    });
    let none = Vec::new();
    assert_eq!(step(&world, SECOND).await, (none.clone(), "ErrImagePull"));
    assert_eq!(step(&world, SECOND).await, (none.clone(), "ErrImagePull"));
    assert_eq!(step(&world, SECOND).await, (none, "ImagePullBackOff"));
}

#[tokio::test(start_paused = true)]
async fn an_intent_that_cannot_be_recorded_is_told_and_does_not_back_off() {
    let world = World::new();
    world.service.offer(IMAGE, "content", 1);
    let pulling = world.dir.path().join("image_manager/pulling");
    std::fs::remove_dir(&pulling).unwrap();
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!((error.reason(), error.is_final()), ("ErrImagePull", false));
    let text = r#"Failed to record image pull intent for container image "localhost:5000/data:1": failed to write record: No such file or directory (os error 2)"#;
    assert_eq!(error.message(), text);
    assert_eq!(
        world.take_events(),
        [format!(r#"Warning Failed Failed to pull image "localhost:5000/data:1": {text}"#)]
    );
    assert_eq!(world.service.take_calls(), []);
    std::fs::create_dir(&pulling).unwrap();
    assert!(world.ensure("p", IMAGE, PullPolicy::Always).await.is_ok());
}
