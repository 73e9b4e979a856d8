//! Requests at the same time.

use futures_util::future::join_all;

use super::*;

fn image(number: usize) -> String {
    format!("localhost:5000/data:{number}")
}

fn limited(parallel: ParallelPulls) -> World {
    let world = World::with(Settings { limits: PullLimits { parallel, rate: None }, ..Settings::default() });
    for number in 0..7 {
        world.service.offer(&image(number), &number.to_string(), 1);
    }
    world.service.close_gate();
    world
}

/// Seven volumes want seven images; pulls are let through one after the other once `running` of them run.
async fn pull_all(world: &World, running: usize) {
    let volumes = (0..7).map(|number| async move {
        let volume = format!("volume-{number}");
        world.ensure_volume("p", &volume, &image(number), PullPolicy::Always).await.unwrap();
    });
    tokio::join!(join_all(volumes), async {
        until(|| world.service.pulling() == running).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.service.pulling(), running);
        world.service.let_through(7);
    });
    assert_eq!(world.service.most_pulling(), running);
}

#[tokio::test(start_paused = true)]
async fn volumes_of_a_pod_are_pulled_at_the_same_time() {
    pull_all(&limited(ParallelPulls::Unlimited), 7).await;
}

#[tokio::test(start_paused = true)]
async fn at_most_so_many_pulls_run() {
    pull_all(&limited(ParallelPulls::AtMost(NonZeroU32::new(5).unwrap())), 5).await;
}

#[tokio::test(start_paused = true)]
async fn serial_pulls_run_one_by_one() {
    pull_all(&limited(ParallelPulls::Serial), 1).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_is_told_apart_from_pulling() {
    let world = limited(ParallelPulls::Serial);
    let (first, second) = (image(0), image(1));
    let pod = "p";
    let (one, two, ()) = tokio::join!(
        world.ensure_volume(pod, "a", &first, PullPolicy::Always),
        world.ensure_volume(pod, "b", &second, PullPolicy::Always),
        async {
            until(|| world.service.pulling() == 1 && world.events.0.lock().unwrap().len() == 2).await;
            tokio::time::advance(2 * SECOND).await;
            world.service.take_calls();
            world.service.let_through(1);
            until(|| world.service.take_calls().iter().filter(|call| matches!(call, Call::Pull(..))).count() == 1)
                .await;
            tokio::time::advance(SECOND).await;
            world.service.let_through(1);
        }
    );
    assert!(one.is_ok() && two.is_ok());
    let pulled: Vec<_> = world.take_events().into_iter().filter(|event| event.contains("Successfully")).collect();
    assert!(pulled[0].contains(" in 2s (2s including waiting). "), "{pulled:?}");
    assert!(pulled[1].contains(" in 1s (3s including waiting). "), "{pulled:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_and_leaves_leaves_nothing() {
    let world = limited(ParallelPulls::Serial);
    let (first, second) = (image(0), image(1));
    let mut pulls = Box::pin(world.ensure("p", &first, PullPolicy::Always));
    while world.service.pulling() == 0 {
        assert!(futures_util::poll!(&mut pulls).is_pending());
        tokio::task::yield_now().await;
    }
    let mut waits = Box::pin(world.ensure("q", &second, PullPolicy::Always));
    while world.events.0.lock().unwrap().len() < 2 {
        assert!(futures_util::poll!(&mut waits).is_pending());
        tokio::task::yield_now().await;
    }
    drop(waits);
    until(|| world.files("pulling") == 1).await;
    world.service.let_through(1);
    assert!(pulls.await.is_ok());
    assert_eq!(world.files("pulling"), 0);
    world.service.let_through(1);
    assert!(world.ensure("q", &second, PullPolicy::Always).await.is_ok(), "the turn came back");
}

#[tokio::test(start_paused = true)]
async fn two_volumes_with_one_image_fail_as_one() {
    let world = World::new();
    world.service.close_gate();
    world.service.fail_pull(unavailable("down"));
    world.service.fail_pull(unavailable("down"));
    let (a, b, ()) = tokio::join!(
        world.ensure_volume("p", "a", IMAGE, PullPolicy::Always),
        world.ensure_volume("p", "b", IMAGE, PullPolicy::Always),
        async {
            until(|| world.service.pulling() == 2).await;
            world.service.let_through(2);
        }
    );
    assert_eq!([a.unwrap_err().reason(), b.unwrap_err().reason()], ["ErrImagePull"; 2]);
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.retry_in(), Some(10 * SECOND), "one failure, one step of the back-off");
}

#[tokio::test]
async fn one_pod_may_and_another_may_not_at_the_same_time() {
    let world = World::new();
    world.service.offer_to(IMAGE, "private", 1, &["alice"]);
    world.give_secret("good", "n", "alice");
    world.give_secret("bad", "m", "bob");
    let (good, bad) = tokio::join!(
        world.ensure("good", IMAGE, PullPolicy::IfNotPresent),
        world.ensure("bad", IMAGE, PullPolicy::IfNotPresent)
    );
    assert!(good.is_ok());
    assert_eq!(bad.unwrap_err().reason(), "ErrImagePull");
    assert_eq!(world.ensure("bad", IMAGE, PullPolicy::Never).await.unwrap_err().reason(), "ErrImageNeverPull");
    assert_eq!((world.files("pulling"), world.files("pulled")), (0, 1));
}
