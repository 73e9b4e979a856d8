//! Pulls that no pod asks for.

use rstest::rstest;

use super::*;

const CONFIG: &str = r#"{"auths":{"localhost:5000":{"auth":"YWxpY2U6cA=="}}}"#;

impl World {
    async fn pull_for_node(&self, image: &str, policy: PullPolicy) -> Result<ImageId, ImageError> {
        let reference = imagevol_api::oci::Reference::parse(image).unwrap().with_default_tag();
        let (holder, progress) = (command(), Progress::default());
        let wanted = NodePull { reference: &reference, holder: &holder, policy, progress: &progress };
        self.manager.pull_for_node(wanted).await
    }
}

fn command() -> Holder {
    Holder::Command { id: 1 }
}

/// Present or not, by policy: what is asked, and whether it works.
#[rstest]
#[case::absent_always(false, PullPolicy::Always, &[pull(IMAGE), status("ID")], true)]
#[case::absent_if_not_present(false, PullPolicy::IfNotPresent, &[status(IMAGE), pull(IMAGE), status("ID")], true)]
#[case::absent_never(false, PullPolicy::Never, &[status(IMAGE)], false)]
#[case::present_always(true, PullPolicy::Always, &[pull(IMAGE), status("ID")], true)]
#[case::present_if_not_present(true, PullPolicy::IfNotPresent, &[status(IMAGE), Call::Bind(FakeImageService::id_of("data"))], true)]
#[case::present_never(true, PullPolicy::Never, &[status(IMAGE), Call::Bind(FakeImageService::id_of("data"))], true)]
#[tokio::test]
async fn asks_the_registry_as_the_policy_says(
    #[case] present: bool,
    #[case] policy: PullPolicy,
    #[case] calls: &[Call],
    #[case] works: bool,
) {
    let world = World::new();
    let id = world.service.offer(IMAGE, "data", 1);
    if present {
        world.service.preload(IMAGE, "data", 1);
    }
    let got = world.pull_for_node(IMAGE, policy).await;
    let named = |call: &Call| if *call == status("ID") { status(&id.to_string()) } else { call.clone() };
    assert_eq!(world.service.take_calls(), calls.iter().map(named).collect::<Vec<_>>());
    assert_eq!(got.as_ref().err().map_or("", ImageError::reason), if works { "" } else { "ErrImageNeverPull" });
    assert_eq!(world.service.bound(&command()), works.then_some(id));
    assert_eq!(world.take_events(), Vec::<String>::new(), "it is no pod's");
}

/// What was pulled by command is everybody's under its name, by the record and not by counting as preloaded.
#[rstest]
#[case::anonymous("", &[])]
#[case::with_the_nodes_credentials(CONFIG, &["alice"])]
#[tokio::test]
async fn what_it_pulled_is_recorded_as_open_to_the_node(#[case] config: &str, #[case] users: &[&str]) {
    let world = World::with(Settings { policy: VerificationPolicy::AlwaysVerify, ..Settings::default() });
    std::fs::write(world.dir.path().join("config.json"), config).unwrap();
    world.service.offer_to(IMAGE, "data", 1, users);
    world.pull_for_node(IMAGE, PullPolicy::Always).await.unwrap();
    assert_eq!((world.files("pulling"), world.files("pulled")), (0, 1));
    world.ensure("p", IMAGE, PullPolicy::Never).await.unwrap();
    world.service.preload("localhost:5000/other:1", "data", 1);
    let other = world.ensure("p", "localhost:5000/other:1", PullPolicy::Never).await;
    assert_eq!(other.unwrap_err().reason(), "ErrImageNeverPull", "not under another name");
}

/// The same image, bound and not pulled, stays whose it was.
#[tokio::test]
async fn binding_a_private_image_opens_it_to_nobody() {
    let world = World::new();
    world.service.offer_to(IMAGE, "private", 1, &["alice"]);
    world.give_secret("p", "n", "alice");
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        world.pull_for_node(IMAGE, policy).await.unwrap();
    }
    assert_eq!(world.ensure("q", IMAGE, PullPolicy::Never).await.unwrap_err().reason(), "ErrImageNeverPull");
}

/// In the same order as for pods, and as anybody only where nothing matches.
#[tokio::test]
async fn a_refusal_names_every_answer_and_leaves_nothing() {
    let world = World::new();
    std::fs::write(world.dir.path().join("config.json"), CONFIG).unwrap();
    world.service.offer_to(IMAGE, "private", 1, &["bob"]);
    let error = world.pull_for_node(IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!(world.service.take_calls(), [pull_as(IMAGE, "alice")]);
    assert_eq!((error.is_final(), &*error.message()), (true, "localhost:5000/data:1: alice may not pull"));
    assert_eq!((world.files("pulling"), world.files("pulled")), (0, 0));
}

#[tokio::test]
async fn an_image_that_goes_before_it_is_bound_is_pulled() {
    let world = World::new();
    world.service.offer(IMAGE, "data", 1);
    world.service.preload(IMAGE, "data", 1);
    world.service.vanish_before_bind();
    world.pull_for_node(IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    assert!(world.service.take_calls().contains(&pull(IMAGE)));
}

#[tokio::test]
async fn an_intent_that_cannot_be_written_keeps_from_pulling() {
    let world = World::new();
    world.service.offer(IMAGE, "data", 1);
    std::fs::remove_dir(world.dir.path().join("image_manager/pulling")).unwrap();
    let error = world.pull_for_node(IMAGE, PullPolicy::Always).await.unwrap_err();
    assert!(matches!(error, ImageError::Intent { .. }));
    assert_eq!(world.service.take_calls(), []);
}

/// A command that was interrupted: what it brings later is not preloaded, however a pod writes the name.
#[rstest]
#[case::as_it_was_written("docker.io/library/data:latest")]
#[case::without_the_default_tag("docker.io/library/data")]
#[case::short("data")]
#[case::by_id("sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7")]
#[tokio::test]
async fn what_comes_after_an_interruption_has_to_be_proved(#[case] written: &str) {
    let world = World::new();
    world.service.offer("docker.io/library/data:latest", "data", 1);
    world.service.close_gate();
    let mut pulling = Box::pin(world.pull_for_node("data", PullPolicy::Always));
    while world.service.pulling() == 0 {
        assert!(futures_util::poll!(&mut pulling).is_pending());
        tokio::task::yield_now().await;
    }
    drop(pulling);
    world.service.preload("docker.io/library/data:latest", "data", 1);
    let used = world.ensure("p", written, PullPolicy::Never).await;
    assert_eq!(used.map_err(|error| error.reason()), Err("ErrImageNeverPull"));
}

#[tokio::test(start_paused = true)]
async fn its_pulls_wait_for_their_turn() {
    let limits = PullLimits { parallel: ParallelPulls::Serial, rate: None };
    let world = World::with(Settings { limits, ..Settings::default() });
    for image in ["localhost:5000/a:1", "localhost:5000/b:1"] {
        world.service.offer(image, image, 1);
    }
    world.service.close_gate();
    let (first, second, ()) = tokio::join!(
        world.pull_for_node("localhost:5000/a:1", PullPolicy::Always),
        world.ensure("p", "localhost:5000/b:1", PullPolicy::Always),
        async {
            until(|| world.service.pulling() == 1).await;
            world.service.let_through(2);
        }
    );
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(world.service.most_pulling(), 1);
}

#[tokio::test]
async fn a_limit_on_how_often_holds_for_it_too() {
    let limits = PullLimits { parallel: ParallelPulls::Unlimited, rate: Some(PullRate { qps: 0.001, burst: 0 }) };
    let world = World::with(Settings { limits, ..Settings::default() });
    let error = world.pull_for_node(IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!((error.message(), error.is_final()), ("pull QPS exceeded".to_owned(), false));
    assert_eq!(world.files("pulling"), 0);
}
