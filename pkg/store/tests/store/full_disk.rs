//! A full disk: typed errors, nothing half done, and everything works again once there is room.

use std::fs;
use std::io::Write as _;
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

fn noise(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from((at * at / 7 + at) % 251).unwrap()).collect()
}

#[test]
fn a_blob_resumes_and_a_compressed_layer_leaves_nothing() {
    in_namespace("full_disk::a_blob_resumes_and_a_compressed_layer_leaves_nothing", || {
        on_disk_of(32, |dir| {
            let store = Store::open(dir, Limits::default()).unwrap();
            fill(dir, 2 << 20);
            let layer = Piece::archive(&tar(&[("noise", &noise(4 << 20))]), Compression::Gzip);
            let error = put(&store, &layer).unwrap_err();
            assert!(kind(&error) == "Io" && is_no_space(&error) && !error.is_content(), "{error:?}");
            assert!(files_below(&dir.join("ingest")).is_empty());
            let blob = Piece::blob(&noise(4 << 20));
            assert!(is_no_space(&put(&store, &blob).unwrap_err()));
            empty(dir);
            let ingest = store.begin(&blob.digest(), blob.size(), Form::Blob).unwrap();
            let offset = usize::try_from(ingest.offset()).unwrap();
            assert!(offset > 1 << 20 && offset < blob.bytes.len(), "{offset}");
            ingest.run(&blob.bytes[offset..]).unwrap();
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
