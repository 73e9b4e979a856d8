//! A full disk: typed errors, nothing half done, and everything works again once there is room.

use std::fs;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::Command;

use imagevol_store::{Compression, Form, Limits, Result, Store, StoreError};

use crate::support::{
    Held as _, Piece, assert_sound, content_files, files_below, in_namespace, kind, manifest_of, pull, put, tag, tar,
    try_record, volume,
};

/// Mounts a small file system, runs the test on it, and unmounts it.
fn on_disk_of(megabytes: u32, run: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir_in(crate::support::DISK).unwrap();
    let mount = |program: &str, args: &[&str]| {
        assert!(Command::new(program).args(args).arg(dir.path()).status().unwrap().success());
    };
    mount("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"]);
    run(dir.path());
    mount("umount", &["--lazy"]);
}

/// Takes all room but `spare` bytes.
fn fill(dir: &Path, spare: u64) {
    let mut file = fs::File::create(dir.join("filler")).unwrap();
    let page = [1; 4096];
    while file.write_all(&page).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(spare)).unwrap();
}

fn empty(dir: &Path) {
    fs::remove_file(dir.join("filler")).unwrap();
}

fn is_no_space(error: &StoreError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("No space left") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A source that breaks off after its bytes.
struct Cut<'b>(&'b [u8]);

impl Read for Cut<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(out)? {
            0 => Err(std::io::Error::other("cut off")),
            count => Ok(count),
        }
    }
}

fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from((at * at / 7 + at) % 251).unwrap()).collect()
}

/// What came in is of no use to a node whose disk it fills: it goes, and all of it comes again.
#[test]
fn a_download_that_meets_a_full_disk_leaves_nothing() {
    in_namespace("full_disk::a_download_that_meets_a_full_disk_leaves_nothing", || {
        on_disk_of(32, |dir| {
            let store = Store::open(dir, Limits::default()).unwrap();
            fill(dir, 2 << 20);
            let layer = Piece::archive(&tar(&[("noise", &noise(4 << 20))]), Compression::Gzip);
            let error = put(&store, &layer).unwrap_err();
            assert!(kind(&error) == "Io" && is_no_space(&error) && !error.is_content(), "{error:?}");
            assert!(files_below(&dir.join("ingest")).is_empty());
            let blob = Piece::blob(&noise(4 << 20));
            let error = put(&store, &blob).unwrap_err();
            assert!(is_no_space(&error) && error.is_no_space(), "{error:?}");
            assert!(files_below(&dir.join("ingest")).is_empty());
            // One that was cut off otherwise is gone on with, unless the disk is full then.
            let begin = || store.begin(&blob.digest(), blob.size(), Form::Blob).unwrap();
            assert!(begin().run(std::io::BufReader::new(Cut(&blob.bytes[..1 << 20]))).is_err());
            assert_eq!(store.downloaded(&blob.digest(), blob.size(), &Form::Blob).unwrap(), 1 << 20);
            assert!(begin().run(&blob.bytes[1 << 20..]).unwrap_err().is_no_space());
            assert_eq!(store.downloaded(&blob.digest(), blob.size(), &Form::Blob).unwrap(), 0);
            empty(dir);
            put(&store, &blob).unwrap();
            put(&store, &layer).unwrap();
            assert_sound(&store);
        });
    });
}

/// Every amount of room from none to enough: each step of a pull meets the full disk once.
#[test]
fn a_pull_fails_cleanly_wherever_the_disk_is_full() {
    in_namespace("full_disk::a_pull_fails_cleanly_wherever_the_disk_is_full", || {
        on_disk_of(24, |dir| {
            let store = Store::open(dir, Limits::default()).unwrap();
            pull(&store, "present", &[Piece::blob(b"present")]);
            let layer = Piece::archive(&tar(&[("noise", &noise(60_000))]), Compression::Gzip);
            let mut failures = 0;
            for spare in (0..64).map(|pages| pages * 4096) {
                fill(dir, spare);
                let result = try_pull(&store, "new", &[layer.clone(), Piece::blob(&noise(30_000))]);
                empty(dir);
                if let Err(error) = result {
                    failures += 1;
                    assert!(is_no_space(&error) && !error.is_content(), "{spare}: {error:?}");
                }
                let report = store.fsck().unwrap();
                assert_eq!(report.problems, Vec::<String>::new(), "{spare}");
                if store.resolve(&tag("new")).unwrap().is_some() {
                    store.remove(&tag("new")).unwrap();
                }
            }
            assert!(failures > 20, "{failures}");
            pull(&store, "new", &[layer]);
            drop(store);
            assert_sound(&Store::open(dir, Limits::default()).unwrap());
        });
    });
}

fn try_pull(store: &Store, name: &str, pieces: &[Piece]) -> Result<()> {
    let (image, leases) = try_record(store, name, imagevol_store::ImageKind::Artifact, pieces)?;
    let committed = store.commit_held(image, &crate::support::names(name), &volume("v"));
    drop(leases);
    store.release(&volume("v"))?;
    committed.map(drop)
}

#[test]
fn an_image_can_be_removed_when_nothing_else_can() {
    in_namespace("full_disk::an_image_can_be_removed_when_nothing_else_can", || {
        on_disk_of(32, |dir| {
            let store = Store::open(dir, Limits::default()).unwrap();
            for number in 0..20 {
                let pieces = ["one", "other"].map(|part| Piece::blob(format!("{part} of {number}").as_bytes()));
                pull(&store, &format!("i{number}"), &pieces);
            }
            fill(dir, 0);
            for number in 0..20 {
                let removed = store.remove(&tag(&format!("i{number}"))).unwrap();
                assert_eq!(removed.images, [manifest_of(&format!("i{number}"))]);
                fs::remove_file(dir.join("filler")).unwrap();
                fill(dir, 0);
            }
            assert!(content_files(dir).is_empty());
        });
    });
}

#[test]
fn a_database_that_cannot_grow_refuses_rows_and_takes_them_later() {
    in_namespace("full_disk::a_database_that_cannot_grow_refuses_rows_and_takes_them_later", || {
        on_disk_of(32, |dir| {
            let store = Store::open(dir, Limits::default()).unwrap();
            fill(dir, 0);
            let hold =
                |number: u32| store.hold(&volume(&format!("v{number}")), &format!("r.example/{}", "x".repeat(200)));
            let (refused, error) = (0..).find_map(|number| Some((number, hold(number).err()?))).unwrap();
            assert!(refused > 100 && is_no_space(&error) && !error.is_content(), "{refused} {error:?}");
            // What was there is there, and going on needs nothing but room.
            for _ in 0..3 {
                assert_eq!(store.references().unwrap().len(), usize::try_from(refused).unwrap());
                assert!(is_no_space(&hold(refused).unwrap_err()));
            }
            empty(dir);
            hold(refused).unwrap();
            assert_eq!(store.references().unwrap().len(), usize::try_from(refused + 1).unwrap());
            assert_sound(&store);
        });
    });
}

/// The database may have to grow for a removal too: then the reserve is what it grows into.
#[test]
fn what_frees_space_works_with_a_full_database_on_a_full_disk() {
    in_namespace("full_disk::what_frees_space_works_with_a_full_database_on_a_full_disk", || {
        on_disk_of(32, |dir| {
            let store = Store::open(dir, Limits::default()).unwrap();
            for number in 0..10 {
                pull(&store, &format!("i{number}"), &[Piece::blob(format!("of {number}").as_bytes())]);
            }
            let reserve = || fs::metadata(dir.join("reserve")).map_or(0, |file| file.len());
            assert_eq!(reserve(), 1 << 20);
            let hold = |number: u32| store.hold(&volume(&format!("v{number}")), &"x".repeat(3000));
            for round in 0..3 {
                fill(dir, 0);
                let refused = (round * 10_000..).find_map(|number| hold(number).err());
                assert!(refused.unwrap().is_no_space());
                assert_eq!(reserve(), 1 << 20, "nothing but a removal gives it up");
                let name = format!("i{round}");
                let removed = store.remove(&tag(&name)).unwrap();
                assert_eq!(removed.images, [manifest_of(&name)]);
                store.release(&volume(&format!("v{}", round * 10_000))).unwrap();
                let census = store.census().unwrap();
                let unneeded = manifest_of(&format!("i{}", round + 5));
                store.remove_unneeded(&unneeded, census.taken).unwrap();
                store.expire().unwrap();
                empty(dir);
                store.release(&volume(&format!("v{}", round * 10_000 + 1))).unwrap();
                assert_eq!(reserve(), 1 << 20, "it is made again");
                assert_sound(&store);
            }
            drop(store);
            assert_sound(&Store::open(dir, Limits::default()).unwrap());
        });
    });
}

/// Other programs need the disk too: what a layer unpacks to is known only when it has been.
#[test]
fn a_layer_that_unpacks_leaves_what_is_to_be_left_free() {
    in_namespace("full_disk::a_layer_that_unpacks_leaves_what_is_to_be_left_free", || {
        on_disk_of(48, |dir| {
            let limits = Limits { min_free_bytes: 16 << 20, ..Limits::default() };
            let store = Store::open(dir, limits).unwrap();
            let before = store.space().unwrap().available;
            for compression in [Compression::Gzip, Compression::Zstd] {
                let bomb = Piece::archive(&tar(&[("zeros", &vec![0; 64 << 20])]), compression);
                let least = std::cell::Cell::new(u64::MAX);
                let watched = Watch {
                    inner: &bomb.bytes,
                    seen: |_| least.set(least.get().min(store.space().unwrap().available)),
                };
                let ingest = store.begin(&bomb.digest(), bomb.size(), bomb.form.clone()).unwrap();
                let error = ingest.run(std::io::BufReader::with_capacity(512, watched)).unwrap_err();
                assert!(matches!(error, StoreError::NoRoom { .. }) && error.is_no_space(), "{error:?}");
                assert!(least.get() >= 11 << 20, "{}", least.get());
                assert!(files_below(&dir.join("ingest")).is_empty());
                assert_eq!(store.space().unwrap().available, before);
            }
            put(&store, &Piece::blob(&noise(1 << 20))).unwrap();
            assert_sound(&store);
        });
    });
}

/// Calls back at each read.
struct Watch<'b, F> {
    inner: &'b [u8],
    seen: F,
}

impl<F: FnMut(usize)> Read for Watch<'_, F> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        (self.seen)(out.len());
        self.inner.read(out)
    }
}
