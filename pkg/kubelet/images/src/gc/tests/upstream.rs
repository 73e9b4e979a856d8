//! The kubelet's cases.

use super::*;

/// `TestFreeSpaceRemoveByLeastRecentlyUsed`.
#[tokio::test]
async fn frees_the_least_recently_used_first() {
    let world = World::new();
    let [first, second] = ["a", "b"].map(|name| world.image(name, 450));
    world.service.pass(HOUR);
    world.use_and_leave(&first).await;
    world.service.pass(HOUR);
    world.use_and_leave(&second).await;
    world.service.pass(HOUR);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.present(&[&first, &second]), [false, true]);
}

/// `TestFreeSpaceTiesBrokenByDetectedTime`.
#[tokio::test]
async fn of_those_used_at_one_time_the_one_seen_first_goes() {
    let world = World::new();
    let late = world.image("a", 450);
    world.service.pass(HOUR);
    let later = world.image("b", 450);
    for image in [&late, &later] {
        world.use_and_leave(image).await;
    }
    world.service.pass(HOUR);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.present(&[&late, &later]), [false, true]);
}

/// `TestFreeSpaceImagesInUseContainersAreIgnored`, and image volumes in use (k/k#125663).
#[tokio::test]
async fn what_is_used_stays_though_it_was_seen_first() {
    let world = World::new();
    let [used, unused] = ["a", "b"].map(|name| world.image(name, 450));
    world.service.pass(HOUR);
    world.use_image(&used).await;
    world.service.pass(HOUR);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.present(&[&used, &unused]), [true, false]);
}

/// `TestDeleteUnusedImagesExemptSandboxImage`, `TestDeletePinnedImage`, `TestDoNotDeletePinnedImage`, `TestDeleteUnPinnedImage`.
#[tokio::test]
async fn a_pin_holds_until_it_is_taken() {
    let world = World::new();
    let [pinned, other] = ["pause", "b"].map(|name| world.image(name, 450));
    world.service.set_pinned(&pinned, Pinned::Yes);
    world.service.pass(HOUR);
    world.collect(GcScope::Everything, Execution::Delete).await;
    assert_eq!(world.present(&[&pinned, &other]), [true, false]);
    world.service.set_pinned(&pinned, Pinned::No);
    world.collect(GcScope::Everything, Execution::Delete).await;
    assert_eq!(world.present(&[&pinned]), [false]);
}

/// `TestAllPinnedImages`.
#[tokio::test]
async fn nothing_goes_when_all_are_pinned() {
    let world = World::new();
    let images = ["a", "b"].map(|name| world.image(name, 450));
    for image in &images {
        world.service.set_pinned(image, Pinned::Yes);
    }
    world.service.pass(HOUR);
    let outcome = world.collect(GcScope::Everything, Execution::Delete).await;
    assert_eq!((outcome.freed_bytes(), world.present(&[&images[0], &images[1]])), (0, vec![true, true]));
}

/// `TestDeleteUnusedImagesRemoveAllUnusedImages`, `TestDeleteUnusedImagesLimitByImageLiveTime`.
#[tokio::test]
async fn all_that_is_unused_goes_if_it_is_old_enough() {
    let world = World::new();
    let [unused, used] = ["a", "b"].map(|name| world.image(name, 1));
    world.use_image(&used).await;
    world.service.pass(HOUR);
    let young = world.image("c", 1);
    world.service.pass(MIN_AGE / 2);
    let outcome = world.collect(GcScope::Everything, Execution::Delete).await;
    assert_eq!(world.present(&[&unused, &used, &young]), [false, true, true]);
    assert_eq!(ids(&outcome), [(GcReason::Unused, unused)]);
    assert_eq!((outcome.used_percent, outcome.wanted_bytes), (1, None), "no threshold was asked");
    let young = outcome.stayed().iter().find(|stayed| stayed.image == *young.digest()).unwrap();
    assert_eq!(young.because, Stay::Young(MIN_AGE / 2));
}

/// `TestGarbageCollectBelowLowThreshold`.
#[tokio::test]
async fn below_the_threshold_nothing_is_asked() {
    let world = World::new();
    world.image("a", 500);
    world.service.pass(HOUR);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.service.take_wishes(), []);
}

/// `TestGarbageCollectCadvisorFailure`.
#[tokio::test]
async fn a_disk_that_nobody_knows_is_an_error() {
    let world = World::new();
    world.service.fail_usage(unavailable("statfs: input/output error"));
    let text = "failed to get the usage of the image filesystem: statfs: input/output error";
    assert_eq!(world.cycle().await, [text]);
    assert_eq!(world.service.take_wishes(), []);
}

/// `TestGarbageCollectBelowSuccess`.
#[tokio::test]
async fn frees_down_to_the_low_threshold() {
    let world = World::new();
    world.others_take(500);
    let image = world.image("a", 450);
    world.service.pass(HOUR);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.present(&[&image]), [false]);
    let wish = Wish { goal: Goal::Free(150), min_age: MIN_AGE };
    assert_eq!(world.service.take_wishes(), [(wish, Execution::Delete)]);
}

/// `TestGarbageCollectNotEnoughFreed`.
#[tokio::test]
async fn too_little_freed_is_an_error() {
    let world = World::new();
    world.others_take(900);
    world.image("a", 50);
    world.service.pass(HOUR);
    let text = "Insufficient free disk space on the node's image filesystem (95% of 0.0 GiB used). Failed to free sufficient \
                space by deleting unused images (freed 50 bytes). Investigate disk usage, as it could be used by active \
                images, logs, volumes, or other data.";
    assert_eq!(world.cycle().await, [text]);
}

/// `TestGarbageCollectImageNotOldEnough`.
#[tokio::test]
async fn what_is_too_young_stays_on_a_full_disk() {
    let world = World::new();
    let [used, young] = ["a", "b"].map(|name| world.image(name, 475));
    world.use_image(&used).await;
    world.service.pass(MIN_AGE / 2);
    world.cycle().await;
    assert_eq!(world.present(&[&used, &young]), [true, true]);
    world.service.pass(MIN_AGE / 2);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.present(&[&used, &young]), [true, false]);
}

/// `TestGarbageCollectImageTooOld`, `TestGarbageCollectImageMaxAgeDisabled`.
#[rstest]
#[case::too_old(HOUR, HOUR + Duration::from_secs(1), false)]
#[case::not_yet(HOUR, HOUR, true)]
#[case::disabled(Duration::ZERO, 1000 * HOUR, true)]
#[tokio::test]
async fn what_nobody_uses_goes_with_age(#[case] max_age: Duration, #[case] unused: Duration, #[case] stays: bool) {
    let world = World::with(GcPolicy::new(90, 80, MIN_AGE, max_age).unwrap());
    let [used, left] = ["a", "b"].map(|name| world.image(name, 10));
    world.use_image(&used).await;
    world.use_and_leave(&left).await;
    world.service.pass(unused);
    assert_eq!(world.cycle().await, Vec::<String>::new());
    assert_eq!(world.present(&[&used, &left]), [true, stays]);
}

/// The kubelet takes images that nobody has used yet as last used in the year 1: with a maximum age they go at once.
#[tokio::test]
async fn an_image_that_nobody_used_yet_has_its_age_from_the_start() {
    let world = World::with(GcPolicy::new(90, 80, Duration::ZERO, HOUR).unwrap());
    let image = world.image("a", 10);
    world.service.pass(HOUR);
    world.cycle().await;
    assert_eq!(world.present(&[&image]), [true]);
    world.service.pass(Duration::from_secs(1));
    world.cycle().await;
    assert_eq!(world.present(&[&image]), [false]);
}
