//! Who may use what: credentials in order, and the matrix of KEP-2535.

use rstest::rstest;

use super::*;

fn private() -> (World, ImageId) {
    let world = World::new();
    let id = world.service.offer_to(IMAGE, "private", 1, &["alice"]);
    (world, id)
}

fn pulls(world: &World) -> Vec<Call> {
    world.service.take_calls().into_iter().filter(|call| matches!(call, Call::Pull(..))).collect()
}

#[tokio::test]
async fn every_match_is_tried_in_order_and_nobody_else() {
    let (world, _) = private();
    world.give_secret("p", "n", "bob");
    world.give_secret("p", "n", "carol");
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!(pulls(&world), [pull_as(IMAGE, "bob"), pull_as(IMAGE, "carol")], "no anonymous try");
    let message = "[localhost:5000/data:1: bob may not pull, localhost:5000/data:1: carol may not pull]";
    assert_eq!((error.reason(), &*error.message(), error.is_final()), ("ErrImagePull", message, true));
}

#[tokio::test]
async fn the_first_that_works_ends_it() {
    let (world, id) = private();
    for user in ["bob", "alice", "carol"] {
        world.give_secret("p", "n", user);
    }
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap(), id);
    assert_eq!(pulls(&world), [pull_as(IMAGE, "bob"), pull_as(IMAGE, "alice")]);
}

#[tokio::test]
async fn a_pull_that_was_cancelled_is_not_tried_again() {
    let (world, _) = private();
    for user in ["bob", "alice"] {
        world.give_secret("p", "n", user);
    }
    world.service.fail_pull(ImageServiceError::Cancelled);
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), "ErrImagePull");
    assert_eq!(pulls(&world), [pull_as(IMAGE, "bob")]);
}

#[tokio::test]
async fn the_nodes_credentials_come_after_the_pods_and_open_the_image_to_the_node() {
    let (world, id) = private();
    let config = r#"{"auths":{"localhost:5000":{"auth":"YWxpY2U6cA=="}}}"#;
    std::fs::write(world.dir.path().join("config.json"), config).unwrap();
    world.give_secret("p", "n", "bob");
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap(), id);
    assert_eq!(pulls(&world), [pull_as(IMAGE, "bob"), pull_as(IMAGE, "alice")]);
    assert!(world.ensure("q", IMAGE, PullPolicy::Never).await.is_ok(), "any pod of the node may use it");
}

#[tokio::test]
async fn a_missing_secret_is_told() {
    let world = World::new();
    world.service.offer(IMAGE, "content", 1);
    let missing = ["a".to_owned(), "b".to_owned()].to_vec();
    let secrets = PodPullSecrets { found: Vec::new(), missing };
    world.secrets.pods.lock().unwrap().insert("p".to_owned(), secrets);
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    let text = "Warning FailedToRetrieveImagePullSecret Unable to retrieve some image pull secrets (a, b); attempting to pull the image may not succeed.";
    assert_eq!(world.take_events()[0], text);
}

#[tokio::test(start_paused = true)]
async fn a_broken_secret_fails_the_lookup_without_a_pull_or_a_back_off() {
    let (world, _) = private();
    world.give_data("p", "n", "broken", "{");
    for _ in 0..2 {
        let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
        assert_eq!((error.reason(), error.is_final()), ("ErrImagePull", true));
        let text = "failed to read pull secret n/broken: not a docker configuration: unexpected end at line 1 column 1";
        assert_eq!(error.message(), text);
        let event = format!(r#"Warning Failed Failed to pull image "localhost:5000/data:1": {text}"#);
        assert_eq!(world.take_events(), [event]);
    }
    assert_eq!(world.service.take_calls(), []);
}

#[tokio::test]
async fn a_lookup_that_fails_may_pass() {
    let (world, _) = private();
    *world.secrets.fail.lock().unwrap() = true;
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!((error.reason(), error.is_final()), ("ErrImagePull", false));
    assert_eq!(error.message(), "failed to get the pull secrets of the pod: API server is away");
}

/// A second pod, after one in namespace `n` pulled a private image with alice's secret.
#[rstest]
#[case::without_a_secret(None, PullPolicy::IfNotPresent, "ErrImagePull", 1)]
#[case::without_a_secret_never(None, PullPolicy::Never, "ErrImageNeverPull", 0)]
#[case::wrong_secret(Some(("n", "bob")), PullPolicy::IfNotPresent, "ErrImagePull", 1)]
#[case::wrong_secret_never(Some(("n", "bob")), PullPolicy::Never, "ErrImageNeverPull", 0)]
#[case::same_secret(Some(("n", "alice")), PullPolicy::IfNotPresent, "", 0)]
#[case::same_secret_never(Some(("n", "alice")), PullPolicy::Never, "", 0)]
#[case::same_credential_elsewhere(Some(("m", "alice")), PullPolicy::IfNotPresent, "", 0)]
#[case::same_credential_elsewhere_never(Some(("m", "alice")), PullPolicy::Never, "", 0)]
#[case::always(Some(("n", "alice")), PullPolicy::Always, "", 1)]
#[tokio::test]
async fn a_private_image_is_used_by_who_proves_his_right(
    #[case] secret: Option<(&str, &str)>,
    #[case] policy: PullPolicy,
    #[case] reason: &str,
    #[case] pulled: usize,
) {
    let (world, id) = private();
    world.give_secret("first", "n", "alice");
    world.ensure("first", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    world.service.take_calls();
    if let Some((namespace, user)) = secret {
        world.give_secret("second", namespace, user);
    }
    let got = world.ensure("second", IMAGE, policy).await;
    assert_eq!(got.as_ref().err().map_or("", ImageError::reason), reason);
    assert_eq!(pulls(&world).len(), pulled);
    let bound = reason.is_empty().then_some(id);
    assert_eq!(world.service.bound(&holder("second", "volume")), bound);
}

#[tokio::test]
async fn a_rotated_secret_still_proves_and_is_remembered() {
    let (world, _) = private();
    world.give_data("p", "n", "s", r#"{"auths":{"localhost:5000":{"username":"alice","password":"old"}}}"#);
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    world.give_data("q", "n", "s", r#"{"auths":{"localhost:5000":{"username":"alice","password":"new"}}}"#);
    world.give_data("r", "m", "t", r#"{"auths":{"localhost:5000":{"username":"alice","password":"new"}}}"#);
    assert!(world.ensure("q", IMAGE, PullPolicy::Never).await.is_ok(), "the same secret with new content");
    assert!(world.ensure("r", IMAGE, PullPolicy::Never).await.is_ok(), "the new content under another name");
}

#[tokio::test]
async fn an_anonymous_pull_opens_the_image_to_all() {
    let world = World::new();
    world.service.offer(IMAGE, "public", 1);
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    world.give_secret("q", "n", "bob");
    for pod in ["q", "r"] {
        assert!(world.ensure(pod, IMAGE, PullPolicy::Never).await.is_ok());
    }
}

#[tokio::test]
async fn two_secrets_that_work_are_both_remembered() {
    let world = World::new();
    world.service.offer_to(IMAGE, "private", 1, &["alice", "bob"]);
    for (pod, user) in [("p", "alice"), ("q", "bob")] {
        world.give_secret(pod, "n", user);
        world.ensure(pod, IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    }
    assert_eq!(pulls(&world).len(), 2);
    for pod in ["p", "q"] {
        assert!(world.ensure(pod, IMAGE, PullPolicy::Never).await.is_ok());
    }
}

#[tokio::test]
async fn a_check_that_fails_is_told_and_nothing_is_pulled() {
    let (world, _) = private();
    world.give_secret("first", "n", "alice");
    world.ensure("first", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    world.service.take_calls();
    world.take_events();
    world.give_data("second", "n", "broken", "[]");
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let error = world.ensure("second", IMAGE, policy).await.unwrap_err();
        assert_eq!(error.reason(), "ErrImagePull");
        assert_eq!(world.take_events().len(), 1);
        assert_eq!(world.service.take_calls(), [status(IMAGE)]);
    }
    let checks = world.metric("kubelet_imagemanager_image_mustpull_checks_total");
    assert_eq!(checks, [r#"{result="error"} 2"#]);
}

#[rstest]
#[case::preloaded(VerificationPolicy::NeverVerifyPreloadedImages, false)]
#[case::always(VerificationPolicy::AlwaysVerify, true)]
#[tokio::test]
async fn preloaded_images_are_free_by_policy(#[case] policy: VerificationPolicy, #[case] denied: bool) {
    let world = World::with(Settings { policy, ..Settings::default() });
    world.service.preload(IMAGE, "content", 1);
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Never).await.is_err(), denied);
}

/// The caller gives up while the image service goes on: what it brings is nobody's.
#[tokio::test]
async fn a_pull_that_was_left_does_not_make_an_image_free() {
    let (world, _) = private();
    world.give_secret("first", "n", "alice");
    world.service.close_gate();
    {
        let mut left = Box::pin(world.ensure("first", IMAGE, PullPolicy::IfNotPresent));
        while world.service.pulling() == 0 {
            assert!(futures_util::poll!(&mut left).is_pending());
            tokio::task::yield_now().await;
        }
    }
    world.service.preload(IMAGE, "private", 1);
    let error = world.ensure("second", IMAGE, PullPolicy::Never).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
}

/// The same after a kill.
#[tokio::test]
async fn a_pull_that_was_killed_does_not_make_an_image_free() {
    let (world, _) = private();
    let mut intent = world.manager.records.record_pull_intent(IMAGE).await.unwrap();
    intent.begin();
    std::mem::forget(intent);
    world.service.preload(IMAGE, "private", 1);
    let records = PullManager::open(world.dir.path(), VerificationPolicy::default(), Metrics::default()).unwrap();
    let manager = ImageManager { records, ..world.manager };
    manager.recover(EarlierPulls::Ended).await.unwrap();
    let world = World { manager, ..world };
    assert_eq!((world.files("pulling"), world.files("pulled")), (0, 1));
    let error = world.ensure("second", IMAGE, PullPolicy::Never).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
    world.give_secret("first", "n", "alice");
    assert!(world.ensure("first", IMAGE, PullPolicy::IfNotPresent).await.is_ok());
}

#[tokio::test]
async fn records_go_with_their_images() {
    let world = World::new();
    let id = world.service.offer(IMAGE, "content", 1);
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    world.manager.prune_records().await.unwrap();
    assert_eq!(world.files("pulled"), 1);
    world.service.evict(&id);
    let records = world.manager.records.clone();
    let later = jiff::Timestamp::now() + 2 * SECOND;
    records.prune(BTreeSet::new(), later).await.unwrap();
    assert_eq!(world.files("pulled"), 0);
}

/// A preloaded image of which a pod pulls a name is preloaded no more, under any name: the kubelet's k/k#138211, kept. A record says what
/// was pulled, and not what was there before; to let other names pass would let an image pass whose record a crash has emptied.
#[tokio::test]
async fn a_pull_ends_what_preloading_allowed() {
    let world = World::new();
    world.service.offer_to(IMAGE, "shared", 1, &["alice"]);
    world.service.preload("localhost:5000/base:1", "shared", 1);
    assert!(world.ensure("p", "localhost:5000/base:1", PullPolicy::Never).await.is_ok());
    world.give_secret("q", "n", "alice");
    world.ensure("q", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    let after = world.ensure("r", "localhost:5000/base:1", PullPolicy::Never).await;
    assert_eq!(after.unwrap_err().reason(), "ErrImageNeverPull");
}

/// Anonymous first, then a secret: what everybody may use is asked of nobody. The other way round the list stays, and grows.
#[tokio::test]
async fn a_repository_that_becomes_public_opens_with_the_next_anonymous_pull() {
    let (world, _) = private();
    world.give_secret("p", "n", "alice");
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    world.service.offer(IMAGE, "private", 1);
    assert_eq!(world.ensure("q", IMAGE, PullPolicy::Never).await.unwrap_err().reason(), "ErrImageNeverPull");
    world.ensure("q", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(pulls(&world), [pull_as(IMAGE, "alice"), pull(IMAGE)]);
    assert!(world.ensure("r", IMAGE, PullPolicy::Never).await.is_ok());
}

/// Two at a time: each asks the registry on its own behalf, whatever the other is answered and whoever comes first.
#[rstest]
#[case::good_first(["alice", "bob"])]
#[case::bad_first(["bob", "alice"])]
#[tokio::test]
async fn of_two_at_a_time_each_proves_its_own(#[case] users: [&str; 2]) {
    let (world, _) = private();
    world.service.close_gate();
    for user in users {
        world.give_secret(user, user, user);
    }
    let (first, second, ()) = tokio::join!(
        world.ensure(users[0], IMAGE, PullPolicy::IfNotPresent),
        async {
            until(|| world.service.pulling() == 1).await;
            world.ensure(users[1], IMAGE, PullPolicy::IfNotPresent).await
        },
        async {
            until(|| world.service.pulling() == 2).await;
            world.service.let_through(2);
        }
    );
    assert_eq!(pulls(&world), users.map(|user| pull_as(IMAGE, user)));
    for (user, got) in users.into_iter().zip([first, second]) {
        assert_eq!(got.is_ok(), user == "alice", "{user}");
    }
}

/// The hundred and first secret proves itself at the registry each time, and takes nobody's place.
#[tokio::test]
async fn a_record_holds_a_hundred_secrets_and_serves_the_others_too() {
    let world = World::new();
    let users: Vec<String> = (0..102).map(|number| format!("user-{number}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    world.service.offer_to(IMAGE, "private", 1, &names);
    for user in &names {
        world.give_secret(user, "n", user);
        world.ensure(user, IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    }
    assert_eq!(pulls(&world).len(), 102);
    for user in &names {
        world.ensure(user, IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    }
    assert_eq!(pulls(&world).len(), 2);
}
