//! Random sequences of calls against a small model of what must be there.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use imagevol_api::oci::{Digest, ImagePattern};
use imagevol_base::Holder;
use imagevol_base::collection::{Goal, Stay, Stayed, Wish};
use imagevol_store::{Compression, ImageKind, Limits, Removed, Store, StoreError, Stored, Terms, Until};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::support::{
    Held as _, Piece, Scratch, assert_counted, command, digest_name, manifest_of, names, record, reference, repository,
    small_tar, tag, volume,
};

/// One call. Numbers name images, volumes and pieces.
#[derive(Debug, Clone)]
enum Call {
    PutPiece(u8),
    DropLeases,
    Pull { image: u8, pieces: Vec<u8> },
    AddTag { image: u8, tag: u8 },
    Hold { volume: u8, image: u8 },
    Bind { volume: u8, image: u8 },
    Release { volume: u8 },
    RemoveTag { image: u8 },
    RemoveOtherTag { tag: u8 },
    RemoveImage { image: u8 },
    Lease { owner: u8, image: u8, seconds: u64 },
    Prefetch { image: u8 },
    Pin(u8),
    Unpin(u8),
    Wait { seconds: u64 },
    Collect { goal: Goal, min_age: u64 },
    Expire,
    Reopen,
    SwitchOff,
}

/// What must be there.
#[derive(Debug, Default)]
struct Model {
    /// Image -> the names that lead to it.
    images: BTreeMap<u8, BTreeSet<String>>,
    /// Image -> when it came, in the node's time.
    came: BTreeMap<u8, u64>,
    rows: BTreeMap<Holder, Row>,
    pins: BTreeSet<u8>,
    /// The node's time.
    now: u64,
}

/// What a holder wants, and what it is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Row {
    wants: String,
    bound: Option<u8>,
    expires: Option<u64>,
    until_used: bool,
}

const COUNT: u8 = 4;

/// Seconds before each call: less than a second apart, the store's clock may be one ahead.
const STEP: u64 = 10;

/// The target of the design for calls against the real store.
const OPERATIONS: usize = 10_000;

/// Memory: every call is some transactions, and each of them is synced.
const MEMORY: &str = "/dev/shm";

fn call() -> impl Strategy<Value = Call> {
    let number = || 0..COUNT;
    prop_oneof![
        1 => number().prop_map(Call::PutPiece),
        1 => Just(Call::DropLeases),
        4 => (number(), prop::collection::vec(number(), 0..4)).prop_map(|(image, pieces)| Call::Pull { image, pieces }),
        1 => (number(), number()).prop_map(|(image, tag)| Call::AddTag { image, tag }),
        2 => (number(), number()).prop_map(|(volume, image)| Call::Hold { volume, image }),
        2 => (number(), number()).prop_map(|(volume, image)| Call::Bind { volume, image }),
        2 => number().prop_map(|volume| Call::Release { volume }),
        2 => number().prop_map(|image| Call::RemoveTag { image }),
        1 => number().prop_map(|tag| Call::RemoveOtherTag { tag }),
        2 => number().prop_map(|image| Call::RemoveImage { image }),
        1 => (0..2_u8, number(), 1..60_u64).prop_map(|(owner, image, tens)| Call::Lease { owner, image, seconds: 10 * tens }),
        1 => number().prop_map(|image| Call::Prefetch { image }),
        1 => number().prop_map(Call::Pin),
        1 => number().prop_map(Call::Unpin),
        1 => prop_oneof![0..20_u64, Just(10_000)].prop_map(|tens| Call::Wait { seconds: 10 * tens }),
        2 => (goal(), prop_oneof![Just(0), Just(125)]).prop_map(|(goal, min_age)| Call::Collect { goal, min_age }),
        1 => Just(Call::Expire),
        1 => Just(Call::Reopen),
        1 => Just(Call::SwitchOff),
    ]
}

fn goal() -> impl Strategy<Value = Goal> {
    prop_oneof![
        Just(Goal::Everything),
        (0..40_000_u64).prop_map(Goal::Free),
        (0..50_u64).prop_map(|tens| Goal::UnusedFor(Duration::from_secs(10 * tens + 5))),
    ]
}

fn piece(number: u8) -> Piece {
    let name = format!("piece-{number}");
    match number {
        0 => Piece::archive(&small_tar("same"), Compression::Gzip),
        1 => Piece::archive(&small_tar("same"), Compression::Zstd),
        2 => Piece { title: Some(name.clone()), ..Piece::blob(b"") },
        _ => Piece { title: Some(name.clone()), ..Piece::blob(name.repeat(1000).as_bytes()) },
    }
}

fn name(image: u8) -> String {
    format!("i{image}")
}

fn other_tag(tag: u8) -> String {
    format!("{}:{tag}", repository("other"))
}

fn holder(number: u8) -> Holder {
    volume(&format!("v{number}"))
}

fn pattern(number: u8) -> ImagePattern {
    let patterns =
        [tag(&name(0)), manifest_of(&name(1)).to_string(), format!("{}:?", repository("other")), other_tag(2)];
    patterns[usize::from(number)].parse().unwrap()
}

impl Model {
    fn take_name(&mut self, name: &str) {
        for names in self.images.values_mut() {
            names.remove(name);
        }
    }

    fn keeps(&self, row: &Row, image: u8) -> bool {
        match row.bound {
            Some(bound) => bound == image,
            None => self.images[&image].contains(&row.wants) || row.wants == manifest_of(&name(image)).to_string(),
        }
    }

    fn holders(&self, image: u8) -> Vec<String> {
        let keeps = |row: &Row| row.expires.is_none_or(|expires| expires > self.now) && self.keeps(row, image);
        // In order of the rows' keys.
        let holders = self.rows.iter().filter(|(_, row)| keeps(row)).map(|(holder, _)| holder.to_string());
        holders.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn is_pinned(&self, image: u8, names: &BTreeSet<String>) -> bool {
        let manifest = manifest_of(&name(image));
        self.pins.iter().any(|pin| pattern(*pin).matches(&manifest, names.iter().map(String::as_str)))
    }

    fn forget(&mut self, image: u8) -> BTreeSet<String> {
        self.came.remove(&image);
        self.images.remove(&image).unwrap()
    }

    fn drop_expired(&mut self) {
        let now = self.now;
        self.rows.retain(|_, row| row.expires.is_none_or(|expires| expires > now));
    }

    fn image_of(&self, name: &str) -> Option<u8> {
        self.images.iter().find(|(_, names)| names.contains(name)).map(|(image, _)| *image)
    }

    /// What removing a name must come to: the image as a whole, or these names.
    fn removal(&self, image: u8, name: &str) -> Option<BTreeSet<String>> {
        let names = &self.images[&image];
        let repository = name.rsplit_once(':').map(|(repository, _)| repository).unwrap();
        let of_repository = |other: &&String| {
            other.starts_with(&format!("{repository}:")) || other.starts_with(&format!("{repository}@"))
        };
        let tags = names.iter().filter(of_repository).filter(|name| !name.contains('@')).count();
        let going: BTreeSet<String> = if tags > 1 {
            BTreeSet::from([name.to_owned()])
        } else {
            names.iter().filter(of_repository).cloned().collect()
        };
        (going != *names).then_some(going)
    }
}

struct Run {
    scratch: Scratch,
    model: Model,
    leases: Vec<Stored>,
}

impl Run {
    fn new(scratch: Scratch) -> Self {
        let model = Model { now: scratch.store().now().0, ..Model::default() };
        Self { scratch, model, leases: Vec::new() }
    }

    fn wait(&mut self, seconds: u64) {
        self.scratch.wait(seconds);
        self.model.now += seconds;
    }

    fn apply(&mut self, call: &Call) {
        self.wait(STEP);
        match call {
            Call::PutPiece(number) => self.leases.push(self.scratch.put(&piece(*number))),
            Call::DropLeases => self.leases.clear(),
            Call::Pull { image, pieces } => self.pull(*image, pieces),
            Call::AddTag { image, tag } => self.add_tag(*image, *tag),
            Call::Hold { volume, image } => self.hold(*volume, *image),
            Call::Bind { volume, image } => self.bind(*volume, *image),
            Call::Release { volume } => self.release(*volume),
            Call::RemoveTag { image } => self.remove(&tag(&name(*image))),
            Call::RemoveOtherTag { tag } => self.remove(&other_tag(*tag)),
            Call::RemoveImage { image } => self.remove_image(*image),
            Call::Lease { owner, image, seconds } => self.lease(*owner, *image, *seconds),
            Call::Prefetch { image } => self.prefetch(*image),
            Call::Pin(number) => {
                self.scratch.store().pin(&pattern(*number)).unwrap();
                self.model.pins.insert(*number);
            }
            Call::Unpin(number) => {
                let was = self.scratch.store().unpin(&pattern(*number)).unwrap();
                assert_eq!(was, self.model.pins.remove(number));
            }
            Call::Wait { seconds } => self.wait(*seconds),
            Call::Collect { goal, min_age } => {
                self.collect(Wish { goal: *goal, min_age: Duration::from_secs(*min_age) });
            }
            Call::Expire => {
                self.scratch.store().expire().unwrap();
                self.model.drop_expired();
            }
            Call::Reopen => {
                self.leases.clear();
                self.scratch.reopen();
                self.model.drop_expired();
            }
            Call::SwitchOff => self.switch_off(),
        }
    }

    /// Of the time that the node ran, the last minute may not have been written down.
    fn switch_off(&mut self) {
        self.leases.clear();
        self.scratch.store().expire().unwrap();
        self.model.drop_expired();
        self.scratch.clock.reboot(Duration::from_secs(STEP));
        let now = self.scratch.reopen().now().0;
        assert!(now <= self.model.now + STEP && self.model.now < now + 60, "{now} is not {}", self.model.now);
        self.model.now = now;
        self.model.drop_expired();
    }

    fn lease(&mut self, owner: u8, image: u8, seconds: u64) {
        let (holder, wants) = (format!("external/owner-{owner}/lease").parse().unwrap(), tag(&name(image)));
        let terms = Terms { lasts: Some(Duration::from_secs(seconds)), until: Until::Released };
        self.scratch.store().hold_for(&holder, &wants, terms).unwrap();
        let row = Row { wants, expires: Some(self.model.now + seconds), ..Row::default() };
        self.model.rows.insert(holder, row);
    }

    fn prefetch(&mut self, image: u8) {
        let wants = tag(&name(image));
        let holder = Holder::Prefetch { list: "list".parse().unwrap(), reference: manifest_of(&wants) };
        self.scratch.store().hold_for(&holder, &wants, Terms { lasts: None, until: Until::Used }).unwrap();
        self.model.rows.insert(holder, Row { wants, until_used: true, ..Row::default() });
    }

    /// What the plan says comes true, to the byte; and it says what the model does.
    fn collect(&mut self, wish: Wish) {
        let store = self.scratch.store();
        self.model.drop_expired();
        let census = store.census().unwrap();
        let planned = imagevol_store::plan(&census, wish);
        let usage = |store: &Store| store.usage().unwrap().0;
        let before = usage(store);
        let number = |digest: &Digest| (0..COUNT).find(|image| manifest_of(&name(*image)) == *digest).unwrap();
        for gone in &planned.gone {
            let image = number(&gone.image);
            let removed = loop {
                match store.remove_unneeded(&gone.image, census.taken) {
                    // See `remove_unmounted`.
                    Err(StoreError::Mounted(_)) => std::thread::yield_now(),
                    result => break result.unwrap(),
                }
            };
            assert_eq!(removed.freed_bytes, gone.freed_bytes);
            assert_eq!(self.model.holders(image), Vec::<String>::new());
            let names = &self.model.images[&image];
            assert!(!self.model.is_pinned(image, names));
            assert_eq!((&removed.names, &gone.names), (&names.iter().cloned().collect(), &removed.names));
            assert!(self.model.now >= self.model.came[&image] + wish.min_age.as_secs());
            self.model.forget(image);
        }
        assert_eq!(before - usage(self.scratch.store()), planned.freed_bytes());
        match wish.goal {
            Goal::Free(wanted) => {
                let all_but_last: u64 = planned.gone.iter().rev().skip(1).map(|gone| gone.freed_bytes).sum();
                assert!(planned.gone.is_empty() || all_but_last < wanted);
            }
            Goal::Everything => self.check_that_unneeded_went(&planned.stayed, wish),
            Goal::UnusedFor(_) => {}
        }
    }

    fn check_that_unneeded_went(&self, stayed: &[Stayed], wish: Wish) {
        for (image, names) in &self.model.images {
            let old = self.model.now >= self.model.came[image] + wish.min_age.as_secs();
            let needed = !self.model.holders(*image).is_empty() || self.model.is_pinned(*image, names);
            let seen_mounted = stayed
                .iter()
                .any(|stayed| stayed.image == manifest_of(&name(*image)) && stayed.because == Stay::Mounted);
            assert!(needed || !old || seen_mounted, "image {image} is needed by nobody");
        }
    }

    fn pull(&mut self, image: u8, pieces: &[u8]) {
        let pieces: Vec<_> = pieces.iter().map(|number| piece(*number)).collect();
        let store = self.scratch.store();
        let (record, leases) = record(store, &name(image), ImageKind::Artifact, &pieces);
        store.commit_held(record, &names(&name(image)), &command(1)).unwrap();
        drop(leases);
        store.release(&command(1)).unwrap();
        let names = [tag(&name(image)), digest_name(&name(image))];
        self.model.came.entry(image).or_insert(self.model.now);
        self.model.images.entry(image).or_default().extend(names);
    }

    fn add_tag(&mut self, image: u8, number: u8) {
        let Some(known) = self.scratch.store().resolve(&manifest_of(&name(image)).to_string()).unwrap() else {
            return assert!(!self.model.images.contains_key(&image));
        };
        let tag = other_tag(number);
        self.scratch.store().commit_held(known, &[reference(&tag)], &command(1)).unwrap();
        self.scratch.store().release(&command(1)).unwrap();
        self.model.take_name(&tag);
        self.model.images.get_mut(&image).unwrap().insert(tag);
    }

    fn hold(&mut self, number: u8, image: u8) {
        let wants = tag(&name(image));
        self.scratch.store().hold(&holder(number), &wants).unwrap();
        let row = self.model.rows.entry(holder(number)).or_default();
        if row.wants != wants {
            *row = Row { wants, ..Row::default() };
        }
    }

    fn bind(&mut self, number: u8, image: u8) {
        let wants = manifest_of(&name(image));
        let bound = self.scratch.store().bind_held(&holder(number), &wants).unwrap();
        assert_eq!(bound, self.model.images.contains_key(&image));
        if !bound {
            return;
        }
        let row =
            self.model.rows.entry(holder(number)).or_insert_with(|| Row { wants: wants.to_string(), ..Row::default() });
        if row.bound.replace(image) != Some(image) {
            let rows = std::mem::take(&mut self.model.rows);
            let used_up = |row: &Row| row.until_used && self.model.keeps(row, image);
            self.model.rows = rows.into_iter().filter(|(_, row)| !used_up(row)).collect();
        }
    }

    fn release(&mut self, number: u8) {
        let released = self.scratch.store().release(&holder(number)).unwrap();
        let expected = self.model.rows.remove(&holder(number)).and_then(|row| row.bound);
        assert_eq!(released, expected.map(|image| manifest_of(&name(image))));
    }

    fn remove(&mut self, name: &str) {
        let Some(image) = self.model.image_of(name) else {
            return assert!(matches!(self.scratch.store().remove(name), Err(StoreError::NoImage(_))));
        };
        let Some(going) = self.model.removal(image, name) else { return self.remove_image_by(image, name) };
        let staying = self.model.images[&image].difference(&going).cloned().collect();
        if self.model.is_pinned(image, &self.model.images[&image]) && !self.model.is_pinned(image, &staying) {
            return assert!(matches!(self.scratch.store().remove(name), Err(StoreError::Pinned(_))));
        }
        let removed = self.scratch.store().remove(name).unwrap();
        assert_eq!((removed.images.len(), removed.freed_bytes), (0, 0));
        assert_eq!(removed.names.into_iter().collect::<BTreeSet<_>>(), going);
        self.model.images.get_mut(&image).unwrap().retain(|name| !going.contains(name));
    }

    /// Nothing is mounted here. What seems to be is a file that a test beside this one holds open between its fork and its exec.
    fn remove_unmounted(&self, name: &str) -> Result<Removed, StoreError> {
        loop {
            match self.scratch.store().remove(name) {
                Err(StoreError::Mounted(_)) => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    fn remove_image(&mut self, image: u8) {
        self.remove_image_by(image, &manifest_of(&name(image)).to_string());
    }

    fn remove_image_by(&mut self, image: u8, name: &str) {
        let before = self.scratch.store().usage().unwrap().0;
        let result = self.remove_unmounted(name);
        if !self.model.images.contains_key(&image) {
            return assert!(matches!(result, Err(StoreError::NoImage(_))));
        }
        let holders = self.model.holders(image);
        if !holders.is_empty() {
            return assert!(matches!(result, Err(StoreError::InUse(names)) if names == holders));
        }
        if self.model.is_pinned(image, &self.model.images[&image]) {
            return assert!(matches!(result, Err(StoreError::Pinned(_))));
        }
        let removed = result.unwrap();
        assert_eq!(removed.freed_bytes, before - self.scratch.store().usage().unwrap().0);
        assert_eq!(removed.names.into_iter().collect::<BTreeSet<_>>(), self.model.forget(image));
    }

    fn row(row: imagevol_store::Reference) -> Row {
        let number = |digest: Digest| (0..COUNT).find(|image| manifest_of(&name(*image)) == digest).unwrap();
        let (wants, bound) = (row.reference, row.image.map(number));
        Row { wants, bound, expires: row.expires.map(|time| time.0), until_used: row.until == Until::Used }
    }

    /// Everything on disk is counted once, and what nobody needs is what would go.
    fn check_usage(&mut self) {
        self.model.drop_expired();
        let store = self.scratch.store();
        let usage = assert_counted(store);
        let everything = Wish { goal: Goal::Everything, min_age: Duration::ZERO };
        let planned = imagevol_store::plan(&store.census().unwrap(), everything);
        assert_eq!(usage.iter().map(|usage| usage.reclaimable).sum::<u64>(), planned.freed_bytes(), "{usage:?}");
        let states = store.image_states().unwrap();
        for state in &states {
            let holders: BTreeSet<String> = state.holders.iter().map(|(holder, _)| holder.to_string()).collect();
            let expected: BTreeSet<String> =
                store.holders_of(&state.image).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!((holders, &state.pins), (expected, &store.pins_of(&state.image.manifest).unwrap()));
        }
        for key in self.leases.iter().map(|stored| stored.lease.key()) {
            let found = store.find_content(key.digest()).unwrap();
            assert!(found.iter().any(|found| found.key == *key && found.leased));
        }
    }

    /// What must hold after each call.
    fn check(&self) {
        let store = self.scratch.store();
        self.scratch.assert_sound();
        let images: BTreeMap<_, BTreeSet<String>> = (store.images_with_names().unwrap().into_iter())
            .map(|(image, names)| (image.manifest, names.into_iter().collect()))
            .collect();
        let expected: BTreeMap<_, _> =
            self.model.images.iter().map(|(image, names)| (manifest_of(&name(*image)), names.clone())).collect();
        assert_eq!(images, expected);
        for (image, names) in &self.model.images {
            let manifest = manifest_of(&name(*image));
            assert!(
                names.iter().all(|name| store.resolve(name).unwrap().is_some_and(|found| found.manifest == manifest))
            );
            store.open_image(&manifest).unwrap();
        }
        let rows: BTreeMap<_, _> = store.references().unwrap().into_iter().collect();
        let actual: BTreeMap<_, _> = rows.into_iter().map(|(holder, row)| (holder, Self::row(row))).collect();
        assert_eq!(actual, self.model.rows);
        for stored in &self.leases {
            assert!(store.find(stored.lease.key()).unwrap().is_some());
        }
    }
}

proptest! {
    // Each case makes some hundred durable transactions.
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_says(calls in prop::collection::vec(call(), 1..40)) {
        let mut run = Run::new(Scratch::new());
        for call in &calls {
            run.apply(call);
            run.check();
            run.check_usage();
        }
    }
}

/// Longer than a shrinking test can be; the seed tells how it came about.
#[test]
fn ten_thousand_calls_need_what_they_need_and_no_more() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    println!("seed {seed}");
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &u128::from(seed).to_be_bytes());
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let dir = tempfile::tempdir_in(MEMORY).unwrap();
    let mut run = Run::new(Scratch::in_dir(dir, Limits::default()));
    let calls = call();
    for number in 0..OPERATIONS {
        run.apply(&calls.new_tree(&mut runner).unwrap().current());
        if number % 50 == 0 {
            run.check();
            run.check_usage();
        }
    }
    run.check();
}
