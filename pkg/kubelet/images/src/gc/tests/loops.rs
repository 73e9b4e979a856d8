//! Cycles after cycles, commands in between, and what each leaves behind.

use imagevol_api::records::ImagePullCredentials;

use super::*;

const SPACE: &str = "Insufficient free disk space on the node's image filesystem (95% of 0.0 GiB used). Failed to free sufficient space \
                     by deleting unused images (freed 0 bytes). Investigate disk usage, as it could be used by active images, \
                     logs, volumes, or other data.";

fn aging() -> World {
    World::with(GcPolicy::new(90, 80, MIN_AGE, HOUR).unwrap())
}

/// Runs the loop from its start for so long.
async fn run_for(world: &World, time: Duration) {
    tokio::time::timeout(time, world.gc.run()).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_logged_and_the_next_is_told() {
    let world = World::new();
    let fail = |times: usize| (0..times).for_each(|_| world.service.fail_usage(unavailable("busy")));
    fail(1);
    run_for(&world, PERIOD).await;
    assert_eq!(world.take_events(), Vec::<String>::new());
    fail(3);
    run_for(&world, 4 * PERIOD).await;
    let told = "Warning ImageGCFailed failed to get the usage of the image filesystem: busy";
    assert_eq!(world.take_events(), [told, told], "two of three, then it works again");
}

#[tokio::test]
async fn a_success_in_between_begins_anew() {
    let world = World::new();
    world.service.fail_usage(unavailable("busy"));
    let mut before = world.gc.cycle(Before::Succeeded).await;
    before = world.gc.cycle(before).await;
    world.service.fail_usage(unavailable("busy"));
    assert_eq!(world.gc.cycle(before).await, Before::Failed);
    assert_eq!(world.take_events(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_first_cycle_is_at_once_and_the_next_in_five_minutes() {
    let world = aging();
    run_for(&world, PERIOD / 2).await;
    assert_eq!(world.service.take_wishes().len(), 1);
    run_for(&world, PERIOD + Duration::from_secs(1)).await;
    assert_eq!(world.service.take_wishes().len(), 2);
}

#[tokio::test]
async fn a_policy_that_is_off_ends_the_loop() {
    let world = World::with(GcPolicy::new(100, 80, MIN_AGE, Duration::ZERO).unwrap());
    world.others_take(1000);
    world.gc.run().await;
    assert_eq!(world.service.take_wishes(), []);
    let image = world.image("a", 1);
    world.service.pass(HOUR);
    world.collect(GcScope::Everything, Execution::Delete).await;
    assert_eq!(world.present(&[&image]), [false], "commands still work");
}

#[tokio::test(start_paused = true)]
async fn too_little_space_is_told_at_once_and_the_failure_after_it() {
    let world = World::new();
    world.others_take(950);
    run_for(&world, PERIOD + Duration::from_secs(1)).await;
    let (short, failed) = (format!("Warning FreeDiskSpaceFailed {SPACE}"), format!("Warning ImageGCFailed {SPACE}"));
    assert_eq!(world.take_events(), [short.clone(), short, failed]);
    assert_eq!(world.metric("imagevol_image_gc_failures_total"), [" 2"]);
}

#[tokio::test]
async fn a_disk_without_capacity_is_told_at_once() {
    let world = World::new();
    world.service.set_disk(FakeDisk::default());
    world.gc.cycle(Before::Succeeded).await;
    assert_eq!(world.take_events(), ["Warning InvalidDiskCapacity invalid capacity 0 on image filesystem"]);
}

/// The kubelet ends its cycle at the first phase with an error.
#[tokio::test]
async fn an_image_that_cannot_be_removed_keeps_no_other() {
    let world = aging();
    let [stuck, old] = ["a", "b"].map(|name| world.image(name, 200));
    world.service.fail_removal(&stuck, "text file busy");
    world.service.pass(2 * HOUR);
    let [first, second] = ["c", "d"].map(|name| world.image(name, 150));
    world.others_take(400);
    world.service.pass(MIN_AGE);
    let failure = format!("{stuck}: text file busy");
    let age = format!("wanted to free images older than 1h0m0s, encountered errors in image deletion: {failure}");
    let space = format!("wanted to free 100 bytes, but freed 150 bytes space with errors in image deletion: {failure}");
    let told = world.collect(GcScope::Policy, Execution::DryRun).await;
    assert_eq!(told.failed().into_values().collect::<Vec<_>>(), ["text file busy"]);
    assert_eq!(world.cycle().await, [age, space]);
    assert_eq!(world.present(&[&stuck, &old, &first, &second]).iter().filter(|there| **there).count(), 2);
    assert_eq!(world.present(&[&stuck, &old]), [true, false]);
}

#[tokio::test]
async fn of_many_failures_three_are_told() {
    let world = aging();
    for name in ["a", "b", "c", "d", "e"] {
        world.service.fail_removal(&world.image(name, 1), "busy");
    }
    world.service.pass(2 * HOUR);
    let [trouble] = <[String; 1]>::try_from(world.cycle().await).unwrap();
    assert_eq!(trouble.matches(": busy").count(), 3);
    assert!(trouble.ends_with(", and 2 more]"), "{trouble}");
}

#[tokio::test]
async fn a_phase_that_fails_whole_does_not_keep_the_other() {
    let world = aging();
    world.image("a", 950);
    world.service.pass(MIN_AGE);
    world.service.fail_collect(unavailable("database"));
    assert_eq!(world.cycle().await, ["failed to collect images: database"]);
    let goals: Vec<_> = world.service.take_wishes().into_iter().map(|(wish, _)| wish.goal).collect();
    assert_eq!(goals, [Goal::UnusedFor(HOUR), Goal::Free(150)]);
}

/// What goes by age may be all that the disk needs.
#[tokio::test]
async fn space_is_measured_after_the_age_phase() {
    let world = aging();
    let [old, young] = ["a", "b"].map(|name| world.image(name, 475));
    world.service.pass(2 * HOUR);
    world.use_and_leave(&young).await;
    let outcome = world.collect(GcScope::Policy, Execution::Delete).await;
    assert_eq!((outcome.used_percent, outcome.wanted_bytes, outcome.freed_bytes()), (95, None, 475));
    assert_eq!(world.present(&[&old, &young]), [false, true]);
}

/// A dry run tells what the deletion then does: the same images for the same reasons.
#[rstest]
#[case::by_age_alone(0, 140, 1)]
#[case::by_both(380, 140, 2)]
#[case::more_than_there_is(850, 20, 5)]
#[tokio::test]
async fn a_dry_run_tells_the_truth(#[case] others: u64, #[case] size: u64, #[case] go: usize) {
    let world = aging();
    let old = world.image("a", 50);
    world.service.pass(2 * HOUR);
    let images = ["b", "c", "d", "e"].map(|name| {
        world.service.pass(MIN_AGE);
        world.image(name, size)
    });
    world.service.pass(MIN_AGE);
    world.others_take(others);
    let told = world.collect(GcScope::Policy, Execution::DryRun).await;
    assert_eq!(world.present(&[&old, &images[0]]), [true, true]);
    assert_eq!(world.metric("kubelet_image_garbage_collected_total"), Vec::<String>::new());
    let done = world.collect(GcScope::Policy, Execution::Delete).await;
    assert_eq!(ids(&told), ids(&done));
    assert_eq!(ids(&told).len(), go);
    assert_eq!((told.used_percent, told.wanted_bytes), (done.used_percent, done.wanted_bytes));
}

#[tokio::test]
async fn counts_images_and_bytes_by_reason() {
    let world = aging();
    world.image("a", 100);
    world.service.pass(2 * HOUR);
    let [_, other] = ["b", "c"].map(|name| world.image(name, 150));
    world.use_and_leave(&other).await;
    world.others_take(650);
    world.service.pass(MIN_AGE);
    world.cycle().await;
    world.collect(GcScope::Everything, Execution::Delete).await;
    let sorted = |name| {
        let mut lines = world.metric(name);
        lines.sort();
        lines
    };
    assert_eq!(sorted("kubelet_image_garbage_collected_total"), [r#"{reason="age"} 1"#, r#"{reason="space"} 2"#]);
    assert_eq!(sorted("imagevol_image_gc_freed_bytes_total"), [r#"{reason="age"} 100"#, r#"{reason="space"} 300"#]);
}

#[rstest]
#[case::age(HOUR, GcScope::Policy)]
#[case::all(Duration::ZERO, GcScope::Everything)]
#[tokio::test]
async fn records_go_after_every_phase_that_removes(#[case] max_age: Duration, #[case] scope: GcScope) {
    let world = World::with(GcPolicy::new(90, 80, MIN_AGE, max_age).unwrap());
    let image = world.image("a", 10);
    let pulled = world.gc.images.records().record_pull_intent("r.io/a:1").await.unwrap();
    pulled.succeed(&image, ImagePullCredentials::for_all_pods()).await;
    make_records_old(&world);
    assert_eq!(world.records(), 1);
    world.service.pass(2 * HOUR);
    world.collect(scope, Execution::DryRun).await;
    assert_eq!(world.records(), 1, "a dry run removes nothing");
    world.collect(scope, Execution::Delete).await;
    assert_eq!(world.records(), 0);
}

/// A record of this very second may be of an image that came after the list was made, and would stay.
fn make_records_old(world: &World) {
    for entry in std::fs::read_dir(world.dir.path().join("image_manager/pulled")).unwrap() {
        let path = entry.unwrap().path();
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        record["lastUpdatedTime"] = "2020-01-01T00:00:00Z".into();
        std::fs::write(&path, record.to_string()).unwrap();
    }
}

#[tokio::test]
async fn records_that_cannot_be_pruned_spoil_nothing() {
    let world = World::new();
    let image = world.image("a", 10);
    world.service.pass(HOUR);
    std::fs::remove_dir(world.dir.path().join("image_manager/pulled")).unwrap();
    let outcome = world.collect(GcScope::Everything, Execution::Delete).await;
    assert_eq!((outcome.freed_bytes(), world.present(&[&image])), (10, vec![false]));
}

#[rstest]
#[case::of_policy(GcScope::Policy)]
#[case::of_everything(GcScope::Everything)]
#[tokio::test]
async fn a_command_is_told_what_kept_it_from_an_outcome(#[case] scope: GcScope) {
    let world = World::new();
    world.service.fail_usage(unavailable("statfs"));
    let request = GcRequest { scope, execution: Execution::Delete };
    let error = world.gc.collect(request).await.unwrap_err();
    assert_eq!(error.message(), "failed to get the usage of the image filesystem: statfs");
    assert_eq!(world.take_events(), Vec::<String>::new());
}

/// At a start a pod that needs an old image may not be known.
#[tokio::test(start_paused = true)]
async fn nothing_is_collected_before_there_are_turns() {
    let mut service = FakeImageService::default();
    service.close_turns();
    let world = World::over(service, GcPolicy::new(90, 80, MIN_AGE, HOUR).unwrap());
    let image = world.image("a", 100);
    world.service.pass(2 * HOUR);
    run_for(&world, 3 * PERIOD).await;
    for (scope, execution) in [(GcScope::Everything, Execution::Delete), (GcScope::Policy, Execution::DryRun)] {
        let error = world.gc.collect(GcRequest { scope, execution }).await.unwrap_err();
        assert!(error.is_not_yet());
        assert!(error.message().starts_with("nothing was collected: it is not known yet"), "{}", error.message());
    }
    assert_eq!((world.service.take_wishes(), world.present(&[&image])), (vec![], vec![true]));
    world.service.turns().open();
    run_for(&world, PERIOD / 2).await;
    assert_eq!(world.present(&[&image]), [false]);
}

/// What goes for a pull is counted, and its records go, as if a cycle had taken it.
#[tokio::test]
async fn takes_note_of_what_goes_to_make_room() {
    let world = World::new();
    let image = world.image("a", 10);
    let pulled = world.gc.images.records().record_pull_intent("r.io/a:1").await.unwrap();
    pulled.succeed(&image, ImagePullCredentials::for_all_pods()).await;
    make_records_old(&world);
    world.service.pass(HOUR);
    let (turn, wish) = (world.service.turns().next().await, Wish { goal: Goal::Free(1), min_age: MIN_AGE });
    let collection = world.service.collect(&turn, wish, Execution::Delete).await.unwrap();
    let (made, notes) = mpsc::unbounded_channel();
    made.send(collection).unwrap();
    drop(made);
    world.gc.note_room(notes).await;
    assert_eq!(world.records(), 0);
    assert_eq!(world.metric("kubelet_image_garbage_collected_total"), [r#"{reason="admission"} 1"#]);
    assert_eq!(world.metric("imagevol_image_gc_freed_bytes_total"), [r#"{reason="admission"} 10"#]);
}

/// Two at a time would both free what one of them has to.
#[tokio::test]
async fn one_collection_runs_at_a_time() {
    let world = World::new();
    let images = ["a", "b", "c"].map(|name| world.image(name, 300));
    world.service.pass(HOUR);
    let (first, second) = tokio::join!(
        world.collect(GcScope::Policy, Execution::Delete),
        world.collect(GcScope::Policy, Execution::Delete)
    );
    assert_eq!((first.freed_bytes(), second.freed_bytes()), (300, 0));
    assert_eq!(world.present(&[&images[0], &images[1], &images[2]]).iter().filter(|there| **there).count(), 2);
}
