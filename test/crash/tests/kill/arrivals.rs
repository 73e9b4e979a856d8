//! Images that come without a pod, by import and by prefetch: each step is interrupted once, and what is said again succeeds.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::Command;

use rstest::rstest;

use crate::catalog::Fate;
use crate::moment::Moment;
use crate::runs::{Crash, Operation};
use crate::steps::{Steps, begin, digests, plan};

/// How an image is imported, from its layout.
type Form = fn(PathBuf) -> Operation;

/// A new image of layers and its layout, named as the registry names it.
fn layout(crash: &mut Crash, step: usize) -> (usize, PathBuf) {
    let image = crash.catalog.make_image(&mut crash.random, Fate::Good);
    let served = crash.catalog.image(image);
    let dir = crash.node.daemon.dir().join(format!("layout-{step}"));
    served.image.write_layout(&dir, &served.reference);
    (image, dir)
}

/// The tar of a layout, on standard input.
fn piped(layout: PathBuf) -> Operation {
    let file = layout.with_extension("tar");
    let packed = Command::new("tar").arg("-cf").arg(&file).arg("-C").arg(layout).arg(".").status().unwrap();
    assert!(packed.success());
    Operation::ImportPiped(file)
}

#[rstest]
#[case::files_of_a_directory(Operation::Import, Moment::Files, 1..=30)]
#[case::files_of_a_tar(piped, Moment::Files, 1..=30)]
fn an_import_is_interrupted_at_every_step(
    #[case] form: Form,
    #[case] moment: Steps,
    #[case] steps: RangeInclusive<usize>,
) {
    let Some(mut crash) = begin("imports") else { return };
    for step in steps {
        let (image, dir) = layout(&mut crash, step);
        let import = form(dir);
        crash.run(plan(import.clone(), moment(step)));
        crash.live(import);
        assert!(digests(&crash).contains(&crash.catalog.image(image).digest.to_string()), "step {step}");
        let left = crash.node.names("state/ingest");
        assert!(left.is_empty(), "step {step}: {left:?}\n{}", crash.node.daemon.log());
        let pod = crash.world.make_pod(&mut crash.random, &crash.catalog, &[image]);
        crash.live(Operation::Apply(Box::new(pod)));
        crash.empty();
    }
    crash.tell("imports");
}

#[rstest]
#[case::files(Moment::Files, 1..=30)]
#[case::requests(Moment::Requests, 1..=6)]
fn a_prefetch_is_interrupted_at_every_step(#[case] moment: Steps, #[case] steps: RangeInclusive<usize>) {
    let Some(mut crash) = begin("prefetches") else { return };
    for step in steps {
        let image = crash.catalog.make_image(&mut crash.random, Fate::Good);
        let served = crash.catalog.image(image).clone();
        crash.run(plan(Operation::Prefetch(served.reference.clone()), moment(step)));
        crash.live(Operation::Prefetch(served.reference.clone()));
        crash.live(Operation::Collect);
        assert!(digests(&crash).contains(&served.digest.to_string()), "step {step}\n{}", crash.node.daemon.log());
        let keeps = |holder: &serde_json::Value| holder["reference"] == *served.reference;
        assert_eq!(crash.node.items(&["get", "references"]).iter().filter(|holder| keeps(holder)).count(), 1);
        crash.live(Operation::Forget(served.reference));
        assert_eq!(crash.node.items(&["get", "references"]), Vec::<serde_json::Value>::new());
        crash.empty();
    }
    crash.tell("prefetches");
}
