//! The steps of one mount and of one unmount, one after the other: each is interrupted once, and after each nothing is left.

use std::collections::BTreeSet;

use imagevol_test_support::daemon::own_mounts;
use imagevol_test_support::registry::{Fault, Gate};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::catalog::{Fate, Served};
use crate::moment::Moment;
use crate::random;
use crate::runs::{Crash, Operation, Plan, say};

/// A moment by its number.
pub(crate) type Steps = fn(usize) -> Moment;
/// Where a pull is held.
type Place = fn(&Served) -> (String, Fault, Gate);

pub(crate) fn plan(operation: Operation, moment: Moment) -> Plan {
    Plan { operations: vec![operation], moment, signal: Signal::SIGKILL, gate: None, again: Vec::new() }
}

/// A pod with an image of layers and an artifact, both new.
pub(crate) fn apply(crash: &mut Crash) -> (usize, Operation) {
    let image = crash.catalog.make_image(&mut crash.random, Fate::Good);
    let artifact = crash.catalog.make_artifact(&mut crash.random, Fate::Good);
    let pod = crash.world.make_pod(&mut crash.random, &crash.catalog, &[image, artifact]);
    (artifact, Operation::Apply(Box::new(pod)))
}

pub(crate) fn begin(what: &str) -> Option<Crash> {
    if !own_mounts(what) {
        return None;
    }
    let seed = random::seed();
    say(&format!("crash {what}: IMAGEVOL_CRASH_SEED={seed}"));
    Some(Crash::new(seed))
}

#[rstest]
#[case::files(Moment::Files, 1..=40)]
#[case::mounts(Moment::Mounts, 1..=6)]
#[case::requests(Moment::Requests, 1..=8)]
fn a_mount_is_interrupted_at_every_step(#[case] moment: Steps, #[case] steps: std::ops::RangeInclusive<usize>) {
    let Some(mut crash) = begin("mounts") else { return };
    for step in steps {
        let (_, operation) = apply(&mut crash);
        crash.run(plan(operation, moment(step)));
        crash.empty();
    }
    crash.tell("mounts");
}

#[rstest]
#[case::files(Moment::Files, 1..=12)]
#[case::mounts(Moment::Mounts, 1..=5)]
fn an_unmount_is_interrupted_at_every_step(#[case] moment: Steps, #[case] steps: std::ops::RangeInclusive<usize>) {
    let Some(mut crash) = begin("unmounts") else { return };
    for step in steps {
        let (_, operation) = apply(&mut crash);
        crash.live(operation);
        crash.run(plan(Operation::Delete, moment(step)));
        crash.empty();
    }
    crash.tell("unmounts");
}

#[rstest]
#[case::files(Moment::Files)]
fn a_recovery_is_interrupted_at_every_step(#[case] moment: Steps) {
    let Some(mut crash) = begin("recoveries") else { return };
    for step in 1..=12 {
        let (_, operation) = apply(&mut crash);
        let again = vec![moment(step), moment(2 * step)];
        crash.run(Plan { again, ..plan(operation, moment(4 * step)) });
        crash.empty();
    }
    crash.tell("recoveries");
}

/// A pod that runs, an image that nobody needs, and one that is pinned; the last two.
fn mixed(crash: &mut Crash) -> (Served, Served) {
    let (_, operation) = apply(crash);
    crash.live(operation);
    let mut pull = || {
        let image = crash.catalog.make_artifact(&mut crash.random, Fate::Good);
        let image = crash.catalog.image(image).clone();
        crash.live(Operation::Pull(image.reference.clone()));
        image
    };
    let (needless, pinned) = (pull(), pull());
    crash.live(Operation::Pin(pinned.reference.clone()));
    (needless, pinned)
}

pub(crate) fn digests(crash: &Crash) -> BTreeSet<String> {
    let images = crash.node.items(&["images"]).into_iter();
    images.map(|image| image["id"].as_str().unwrap().to_owned()).collect()
}

/// What is in use or pinned stays, whenever the collection ends; the next one takes the rest.
#[rstest]
#[case::files(Moment::Files, 1..=16)]
fn a_collection_is_interrupted_at_every_step(#[case] moment: Steps, #[case] steps: std::ops::RangeInclusive<usize>) {
    let Some(mut crash) = begin("collections") else { return };
    for step in steps {
        let (needless, pinned) = mixed(&mut crash);
        let before = digests(&crash);
        crash.run(plan(Operation::Collect, moment(step)));
        let needed: BTreeSet<_> = before.into_iter().filter(|digest| *digest != needless.digest.to_string()).collect();
        assert!(digests(&crash).is_superset(&needed), "step {step}\n{}", crash.node.daemon.log());
        crash.live(Operation::Collect);
        assert_eq!(digests(&crash), needed, "step {step}\n{}", crash.node.daemon.log());
        crash.live(Operation::Unpin(pinned.reference));
        crash.empty();
    }
    crash.tell("collections");
}

/// A pin that was acknowledged holds; one that was not holds or does not.
#[rstest]
#[case::files(Moment::Files, 1..=5)]
fn a_pin_is_interrupted_at_every_step(#[case] moment: Steps, #[case] steps: std::ops::RangeInclusive<usize>) {
    let Some(mut crash) = begin("pins") else { return };
    for step in steps {
        let (needless, pinned) = mixed(&mut crash);
        crash.run(plan(Operation::Pin(needless.reference.clone()), moment(step)));
        crash.live(Operation::Collect);
        assert!(digests(&crash).contains(&pinned.digest.to_string()), "step {step}\n{}", crash.node.daemon.log());
        crash.live(Operation::Pin(needless.reference.clone()));
        crash.live(Operation::Unpin(needless.reference));
        crash.live(Operation::Unpin(pinned.reference));
        crash.live(Operation::Collect);
        crash.empty();
    }
    crash.tell("pins");
}

fn hold(part: String) -> (String, Fault, Gate) {
    let gate = Gate::new();
    (part, Fault::Hold(gate.clone()), gate)
}

fn stall(image: &Served, at: impl FnOnce(u64) -> u64) -> (String, Fault, Gate) {
    let (gate, (blob, size)) = (Gate::new(), &image.blobs[0]);
    (format!("/{}/blobs/{blob}", image.repository), Fault::StallAt(at(*size), gate.clone()), gate)
}

#[rstest]
#[case::before_the_manifest(|image: &Served| hold(format!("/{}/manifests/", image.repository)))]
#[case::before_the_first_blob(|image: &Served| hold(format!("/{}/blobs/{}", image.repository, image.blobs[0].0)))]
#[case::before_the_last_blob(|image: &Served| hold(format!("/{}/blobs/{}", image.repository, image.blobs.last().unwrap().0)))]
#[case::before_the_first_byte(|image: &Served| stall(image, |_| 0))]
#[case::after_the_first_byte(|image: &Served| stall(image, |_| 1))]
#[case::in_the_middle(|image: &Served| stall(image, |size| size / 2))]
#[case::before_the_last_byte(|image: &Served| stall(image, |size| size - 1))]
fn a_pull_is_interrupted_where_the_registry_stands(#[case] place: Place) {
    let Some(mut crash) = begin("pulls") else { return };
    for _ in 0..2 {
        let (artifact, operation) = apply(&mut crash);
        let (part, fault, gate) = place(crash.catalog.image(artifact));
        crash.catalog.registry.faults().once(&part, fault);
        let moment = Moment::Gate(gate.clone());
        crash.run(Plan { gate: Some(gate), ..plan(operation, moment) });
    }
    crash.empty();
    crash.tell("pulls");
}
