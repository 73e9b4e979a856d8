//! Random sequences of calls against a small model of what must be there.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_store::{Compression, ImageKind, Removed, StoreError, Stored};
use proptest::prelude::*;

use crate::support::{
    Held as _, Piece, Scratch, command, digest_name, manifest_of, names, record, reference, repository, small_tar, tag,
    volume,
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
    Expire,
    Reopen,
}

/// What must be there.
#[derive(Debug, Default)]
struct Model {
    /// Image -> the names that lead to it.
    images: BTreeMap<u8, BTreeSet<String>>,
    /// Volume -> what it wants, and what it is bound to.
    volumes: BTreeMap<u8, (String, Option<u8>)>,
}

const COUNT: u8 = 4;

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
        1 => Just(Call::Expire),
        1 => Just(Call::Reopen),
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

fn holder(number: u8) -> imagevol_base::Holder {
    volume(&format!("v{number}"))
}

impl Model {
    fn take_name(&mut self, name: &str) {
        for names in self.images.values_mut() {
            names.remove(name);
        }
    }

    fn holders(&self, image: u8) -> Vec<String> {
        let keeps = |(wants, bound): &(String, Option<u8>)| match bound {
            Some(bound) => *bound == image,
            None => self.images[&image].contains(wants),
        };
        self.volumes.iter().filter(|(_, row)| keeps(row)).map(|(number, _)| holder(*number).to_string()).collect()
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
    fn apply(&mut self, call: &Call) {
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
            Call::Expire => assert!(self.scratch.store().expire().unwrap().content.is_empty()),
            Call::Reopen => {
                self.leases.clear();
                self.scratch.reopen();
            }
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
        let row = self.model.volumes.entry(number).or_insert_with(|| (wants.clone(), None));
        if row.0 != wants {
            *row = (wants, None);
        }
    }

    fn bind(&mut self, number: u8, image: u8) {
        let bound = self.scratch.store().bind_held(&holder(number), &manifest_of(&name(image))).unwrap();
        assert_eq!(bound, self.model.images.contains_key(&image));
        if bound {
            let row = self.model.volumes.entry(number).or_insert_with(|| (manifest_of(&name(image)).to_string(), None));
            row.1 = Some(image);
        }
    }

    fn release(&mut self, number: u8) {
        let released = self.scratch.store().release(&holder(number)).unwrap();
        let expected = self.model.volumes.remove(&number).and_then(|(_, bound)| bound);
        assert_eq!(released, expected.map(|image| manifest_of(&name(image))));
    }

    fn remove(&mut self, name: &str) {
        let Some(image) = self.model.image_of(name) else {
            return assert!(matches!(self.scratch.store().remove(name), Err(StoreError::NoImage(_))));
        };
        let Some(going) = self.model.removal(image, name) else { return self.remove_image_by(image, name) };
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
        let removed = result.unwrap();
        assert_eq!(removed.freed_bytes, before - self.scratch.store().usage().unwrap().0);
        assert_eq!(removed.names.into_iter().collect::<BTreeSet<_>>(), self.model.images.remove(&image).unwrap());
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
        let expected: BTreeMap<_, _> = (self.model.volumes.iter())
            .map(|(number, (wants, bound))| {
                (holder(*number), (wants.clone(), bound.map(|image| manifest_of(&name(image)))))
            })
            .collect();
        assert_eq!(
            rows.into_iter().map(|(key, row)| (key, (row.reference, row.image))).collect::<BTreeMap<_, _>>(),
            expected
        );
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
        let mut run = Run { scratch: Scratch::new(), model: Model::default(), leases: Vec::new() };
        for call in &calls {
            run.apply(call);
            run.check();
        }
    }
}
