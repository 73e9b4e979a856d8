//! A disk that has lost bits: what is corrupt is taken out of use, and each step of that is interrupted once.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rstest::rstest;

use crate::catalog::{Fate, Served};
use crate::moment::Moment;
use crate::runs::{Crash, Operation};
use crate::steps::{Steps, apply, begin};

/// A position that all files of the store have.
const SOMEWHERE: u64 = 700;

/// A pod that runs, and an image that was pulled for nobody yet.
fn pulled(crash: &mut Crash) -> (usize, Served) {
    let (_, operation) = apply(crash);
    crash.live(operation);
    let image = crash.catalog.make_image(&mut crash.random, Fate::Good);
    let served = crash.catalog.image(image).clone();
    crash.live(Operation::Pull(served.reference.clone()));
    (image, served)
}

fn flip(path: &Path) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, SOMEWHERE).unwrap();
    file.write_all_at(&[byte[0] ^ 1], SOMEWHERE).unwrap();
}

/// The pod gets good bytes, and then everything goes.
fn mounts(crash: &mut Crash, image: usize) {
    let pod = crash.world.make_pod(&mut crash.random, &crash.catalog, &[image]);
    crash.live(Operation::Apply(Box::new(pod)));
    crash.empty();
}

#[rstest]
#[case::files(Moment::Files, 1..=12)]
fn a_repair_is_interrupted_at_every_step(#[case] moment: Steps, #[case] steps: RangeInclusive<usize>) {
    let Some(mut crash) = begin("repairs") else { return };
    for step in steps {
        let (image, served) = pulled(&mut crash);
        let layer = served.image.diff_ids.last().unwrap();
        flip(&crash.node.daemon.state_dir().join("layers/sha256").join(format!("{}.tar", layer.hex())));
        crash.interrupt(Operation::Repair, moment(step));
        crash.live(Operation::Repair);
        mounts(&mut crash, image);
    }
    crash.tell("repairs");
}

/// Metadata is looked at before each mount, and made again.
#[rstest]
#[case::files(Moment::Files, 1..=20)]
#[case::mounts(Moment::Mounts, 1..=3)]
fn a_mount_that_finds_bits_lost_is_interrupted_at_every_step(
    #[case] moment: Steps,
    #[case] steps: RangeInclusive<usize>,
) {
    let Some(mut crash) = begin("bits lost") else { return };
    for step in steps {
        let (image, served) = pulled(&mut crash);
        flip(&crash.node.daemon.state_dir().join("images/sha256").join(format!("{}.erofs", served.digest.hex())));
        let pod = crash.world.make_pod(&mut crash.random, &crash.catalog, &[image]);
        crash.interrupt(Operation::Apply(Box::new(pod)), moment(step));
        // It may be killed before the daemon knows of it.
        mounts(&mut crash, image);
    }
    crash.tell("bits lost");
}
