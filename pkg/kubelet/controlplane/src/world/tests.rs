use std::time::Duration;

use imagevol_api::config::PullFailurePolicy;
use imagevol_base::volumes::{FailureCause, Outlook, VolumeFailure, VolumeState};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const FAIL: PullFailure = PullFailure { policy: PullFailurePolicy::Fail, deadline: Duration::from_mins(5) };

fn manifest(uid: &str, image: &str) -> (PodUid, ManifestPod) {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{uid}"), "namespace": "default", "uid": uid},
        "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "image": {"reference": image}}]},
    }));
    (uid.parse().unwrap(), ManifestPod { file: "a.json".into(), pod: Arc::new(pod.unwrap()) })
}

fn manifests(pods: impl IntoIterator<Item = (PodUid, ManifestPod)>) -> Arc<Manifests> {
    Arc::new(Manifests { pods: pods.into_iter().collect(), ready: true, ..Manifests::default() })
}

fn world(pods: impl IntoIterator<Item = (PodUid, ManifestPod)>) -> World {
    let mut world = World::new(FAIL, Rows::new());
    world.manifests = manifests(pods);
    world
}

fn now() -> Now {
    Now { wall: Timestamp::from_second(1_700_000_000).unwrap(), instant: Instant::now() }
}

fn report(world: &mut World, states: impl IntoIterator<Item = (&'static str, VolumeState)>) {
    let report =
        |state| PodVolumeReport { volumes: [("v".parse().unwrap(), state)].into(), ..PodVolumeReport::default() };
    let reports = states.into_iter().map(|(uid, state)| (uid.parse().unwrap(), report(state))).collect();
    world.reports = Some(Arc::new(reports));
}

fn failed(outlook: Outlook) -> VolumeState {
    VolumeState::Failed(VolumeFailure {
        reason: "ErrImagePull",
        message: "no".into(),
        outlook,
        cause: FailureCause::NotFound,
    })
}

fn mounted() -> VolumeState {
    VolumeState::Mounted { image: format!("sha256:{}", "1".repeat(64)).parse().unwrap() }
}

fn served(step: &Step) -> Vec<&str> {
    step.pods.pods.keys().map(PodUid::as_str).collect()
}

fn phase<'a>(step: &'a Step, uid: &str) -> &'a str {
    step.rows[&uid.parse().unwrap()].pod.status.as_ref().unwrap().phase.as_deref().unwrap()
}

fn volumes_mounted(step: &Step, uid: &str) -> String {
    let status = step.rows[&uid.parse().unwrap()].pod.status.clone().unwrap();
    let condition = status.conditions.unwrap().pop().unwrap();
    condition.reason.unwrap_or(condition.status)
}

#[test]
fn serves_what_the_manifests_hold() {
    let mut world = world([manifest("u1", "r:1"), manifest("u2", "r:2")]);
    let step = world.step(now());
    assert_eq!((served(&step), step.pods.all_sources_ready), (vec!["u1", "u2"], true));
    assert_eq!((step.unsaved.put.len(), step.failed.len(), step.due), (2, 0, None));
    assert_eq!((phase(&step, "u1"), volumes_mounted(&step, "u1")), ("Pending", "Waiting".into()));
}

#[test]
fn a_step_repeated_changes_nothing() {
    let mut world = world([manifest("u1", "r:1")]);
    let first = world.step(now());
    world.saved(first.rows.clone());
    let second = world.step(now());
    assert_eq!(first.rows, second.rows);
    assert!(second.unsaved.put.is_empty() && second.unsaved.remove.is_empty());
}

#[test]
fn what_could_not_be_saved_stays_unsaved() {
    let mut world = world([manifest("u1", "r:1")]);
    world.step(now());
    assert_eq!(world.step(now()).unsaved.put.len(), 1);
}

#[test]
fn a_failed_pod_is_told_once_kept_and_not_served() {
    let mut world = world([manifest("u1", "r:1"), manifest("u2", "r:2")]);
    world.step(now());
    report(&mut world, [("u1", failed(Outlook::Final)), ("u2", mounted())]);
    let step = world.step(now());
    assert_eq!((served(&step), step.failed.len(), phase(&step, "u1")), (vec!["u2"], 1, "Failed"));
    // The volume manager has let it go.
    report(&mut world, [("u2", mounted())]);
    let step = world.step(now());
    assert_eq!((served(&step), step.failed.len(), phase(&step, "u1")), (vec!["u2"], 0, "Failed"));
}

#[test]
fn a_failed_pod_stays_failed_over_a_restart() {
    let mut first = world([manifest("u1", "r:1")]);
    report(&mut first, [("u1", failed(Outlook::Final))]);
    let rows = first.step(now()).rows;
    let mut second = World::new(FAIL, rows);
    second.manifests = manifests([manifest("u1", "r:1")]);
    let step = second.step(now());
    assert_eq!((served(&step), step.failed.len(), phase(&step, "u1")), (vec![], 0, "Failed"));
}

#[test]
fn a_deadline_is_due_and_then_fails_the_pod() {
    let (mut world, start) = (world([manifest("u1", "r:1")]), now());
    report(&mut world, [("u1", failed(Outlook::Passing { failing_since: start.instant }))]);
    let due = world.step(start).due.unwrap();
    assert_eq!(due, start.instant + Duration::from_mins(5));
    let step = world.step(Now { instant: due, ..start });
    assert_eq!((served(&step), phase(&step, "u1"), step.due), (vec![], "Failed", None));
}

#[test]
fn a_retried_pod_waits_until_its_former_life_is_over() {
    let mut world = world([manifest("u1", "r:1")]);
    world.step(now());
    report(&mut world, [("u1", failed(Outlook::Final))]);
    world.step(now());
    assert!(world.retry(&"u1".parse().unwrap()));
    let step = world.step(now());
    assert_eq!(
        (served(&step), phase(&step, "u1"), volumes_mounted(&step, "u1")),
        (vec![], "Pending", "Waiting".into())
    );
    report(&mut world, []);
    assert_eq!(served(&world.step(now())), ["u1"]);
    report(&mut world, [("u1", mounted())]);
    let step = world.step(now());
    assert_eq!((served(&step), volumes_mounted(&step, "u1")), (vec!["u1"], "True".into()));
}

#[test]
fn only_a_failed_pod_is_retried() {
    let mut world = world([manifest("u1", "r:1")]);
    report(&mut world, [("u1", mounted())]);
    world.step(now());
    assert!(!world.retry(&"u1".parse().unwrap()));
    assert_eq!(served(&world.step(now())), ["u1"]);
}

#[test]
fn a_pod_that_was_removed_and_came_back_starts_anew() {
    let mut world = world([manifest("u1", "r:1")]);
    world.step(now());
    report(&mut world, [("u1", failed(Outlook::Final))]);
    world.step(now());
    world.manifests = manifests([]);
    let step = world.step(now());
    assert!(step.rows.is_empty());
    world.manifests = manifests([manifest("u1", "r:1")]);
    let step = world.step(now());
    assert_eq!((served(&step), phase(&step, "u1")), (vec![], "Pending"), "the old report still tells the old failure");
    report(&mut world, []);
    assert_eq!(served(&world.step(now())), ["u1"]);
}

#[test]
fn a_pod_that_changes_under_its_uid_is_another_pod() {
    let mut world = world([manifest("u1", "r:1")]);
    world.step(now());
    report(&mut world, [("u1", failed(Outlook::Final))]);
    world.step(now());
    world.manifests = manifests([manifest("u1", "r:2")]);
    let step = world.step(now());
    assert_eq!((served(&step), phase(&step, "u1")), (vec![], "Pending"));
    report(&mut world, []);
    assert_eq!(served(&world.step(now())), ["u1"]);
}

#[test]
fn statuses_of_the_last_run_stand_until_the_first_report() {
    let mut first = world([manifest("u1", "r:1")]);
    report(&mut first, [("u1", mounted())]);
    let rows = first.step(now()).rows;
    let mut second = World::new(FAIL, rows);
    second.manifests = manifests([manifest("u1", "r:1")]);
    assert_eq!(volumes_mounted(&second.step(now()), "u1"), "True");
    report(&mut second, [("u1", VolumeState::Pulling)]);
    assert_eq!(volumes_mounted(&second.step(now()), "u1"), "Pulling");
}

#[test]
fn nothing_is_forgotten_before_the_manifests_were_read() {
    let rows = world([manifest("u1", "r:1")]).step(now()).rows;
    let mut world = World::new(FAIL, rows);
    world.manifests = Arc::default();
    let step = world.step(now());
    assert_eq!((step.rows.len(), step.unsaved.remove.len(), served(&step)), (1, 0, vec![]));
    world.manifests = manifests([]);
    let step = world.step(now());
    assert_eq!((step.rows.len(), step.unsaved.remove), (0, vec!["u1".to_owned()]));
}

/// What can happen to three pods.
#[derive(Debug, Clone)]
enum Happening {
    Manifests([bool; 3]),
    /// `None` is a pod that is not reported.
    Report([Option<u8>; 3]),
    Retry(usize),
}

const UIDS: [&str; 3] = ["u0", "u1", "u2"];

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        any::<[bool; 3]>().prop_map(Happening::Manifests),
        prop::array::uniform3(prop::option::of(0..4_u8)).prop_map(Happening::Report),
        (0..3_usize).prop_map(Happening::Retry),
    ]
}

fn happen(world: &mut World, happening: &Happening) {
    match happening {
        Happening::Manifests(present) => {
            let there = UIDS.iter().zip(present).filter(|(_, present)| **present);
            world.manifests = manifests(there.map(|(uid, _)| manifest(uid, "r:1")));
        }
        Happening::Report(states) => {
            let state = |state| match state {
                0 => VolumeState::Waiting,
                1 => VolumeState::Pulling,
                2 => mounted(),
                _ => failed(Outlook::Final),
            };
            let reported = UIDS.iter().zip(states).filter_map(|(uid, known)| Some((*uid, state((*known)?))));
            report(world, reported);
        }
        Happening::Retry(pod) => drop(world.retry(&UIDS[*pod].parse().unwrap())),
    }
}

proptest! {
    #[test]
    fn nobody_is_served_who_failed_or_whose_former_life_is_still_told(all in prop::collection::vec(happening(), 1..40)) {
        let mut world = world([]);
        let mut served_before = Vec::new();
        // Pods that were served, no longer are, and have been in every report since.
        let mut told = BTreeSet::new();
        for each in &all {
            let failed_before: Vec<_> = world.rows.iter().filter(|(_, row)| row_failed(row)).map(|(uid, _)| uid.clone()).collect();
            happen(&mut world, each);
            let reports = world.reports.clone().unwrap_or_default();
            told.retain(|uid| reports.contains_key(uid));
            let step = world.step(now());
            let served: Vec<_> = step.pods.pods.keys().cloned().collect();
            for uid in &served {
                prop_assert!(world.manifests.pods.contains_key(uid));
                prop_assert!(!row_failed(&step.rows[uid]));
                prop_assert!(!told.contains(uid), "{} is served while an older report stands", uid);
            }
            for uid in failed_before {
                let forgiven = matches!(each, Happening::Retry(pod) if UIDS[*pod] == uid.as_str());
                let gone = !world.manifests.pods.contains_key(&uid);
                prop_assert!(forgiven || gone || row_failed(&step.rows[&uid]));
            }
            prop_assert_eq!(step.rows.keys().collect::<Vec<_>>(), world.manifests.pods.keys().collect::<Vec<_>>());
            told.extend(served_before.into_iter().filter(|uid| !served.contains(uid) && reports.contains_key(uid)));
            let again = world.step(now());
            prop_assert_eq!(again.pods.pods.keys().cloned().collect::<Vec<_>>(), served.clone());
            prop_assert_eq!(again.rows, step.rows);
            served_before = served;
        }
    }
}
