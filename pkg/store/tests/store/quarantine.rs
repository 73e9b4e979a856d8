//! Corrupt parts are taken out of use, whoever has them mounted keeps them, and a repaired store has lost nothing that was intact.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imagevol_base::Digester;
use imagevol_mount::{Backend, Interface as _, Kernel, Source};
use imagevol_store::{
    Checked, Compression, Corrupt, Limits, Part, Quarantined, Remedy, ScrubPosition, StaleMounts, Store, UsageKind,
};
use rstest::rstest;

use crate::fixture::{
    blob_file, diff_id, erofs_file, flip, idx_file, manifest_file, pieces, resize, tar_file, with_image,
};
use crate::recovery::{edit_row, put_row, remove_row};
use crate::strace::Victim;
use crate::support::{
    Held as _, Piece, Scratch, assert_counted, assert_sound, come_and_go, content_files, digest_name, files_below,
    in_namespace, manifest_of, names, pull, small_tar, tag, volume,
};

/// Tells a process of this test that it is the one to be killed, and where its store lies.
const VICTIM: &str = "IMAGEVOL_STORE_TEST_QUARANTINE_VICTIM";

fn aside(scratch: &Scratch) -> Vec<PathBuf> {
    files_below(&scratch.path("quarantine"))
}

/// The only finding of a check of everything.
fn found(store: &Store) -> Corrupt {
    let checks = store.parts().unwrap().into_iter().filter_map(|part| store.check(&part).unwrap());
    let mut found: Vec<Corrupt> = checks.filter_map(|check| check.run().unwrap().1).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn quarantine(store: &Store) -> Quarantined {
    store.quarantine(&found(store)).unwrap().unwrap()
}

fn stale(store: &Store) -> StaleMounts {
    store.stale_mounts(&manifest_of("i")).unwrap()
}

#[test]
fn a_corrupt_layer_takes_its_images_along_and_leaves_their_holders() {
    let mut scratch = with_image();
    let other = pull(scratch.store(), "other", &[Piece::blob(b"file")]);
    flip(&tar_file(scratch.dir.path()), 700);
    let done = quarantine(scratch.store());
    assert_eq!((done.part.to_string(), done.remedy), (format!("layer/{}", diff_id()), Remedy::Pull));
    assert!(done.problem.contains("content is corrupt"), "{}", done.problem);
    assert_eq!(done.images.len(), 1);
    assert_eq!(done.images[0].holders, [volume("v")]);
    assert_eq!(done.images[0].names.len(), 2);
    assert_eq!(aside(&scratch).len(), 2, "the layer and its index");
    let counted = assert_counted(scratch.store());
    let of_quarantine = counted.iter().find(|usage| usage.kind == UsageKind::Quarantine).unwrap();
    let bytes: u64 = aside(&scratch).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!((of_quarantine.count, of_quarantine.bytes), (2, bytes));
    // Twice, and after a start: as it was left.
    for _ in 0..2 {
        let store = scratch.reopen();
        assert!(store.resolve(&tag("i")).unwrap().is_none() && store.resolve(&digest_name("i")).unwrap().is_none());
        assert_eq!(store.images().unwrap().len(), 1, "an image that does not need it stays");
        assert_eq!(store.references().unwrap()[0].1.image, Some(manifest_of("i")));
        assert!(stale(store).staging && stale(store).holders.contains(&volume("v")));
        scratch.assert_sound();
    }
    assert!(!scratch.store().bind(&volume("v"), &manifest_of("i")).unwrap(), "nothing new is made of it");
    // Only what is missing has to come.
    assert!(scratch.store().find_layer(&pieces()[0].digest()).unwrap().is_none());
    assert!(scratch.store().find(&imagevol_store::ContentKey::Blob(pieces()[1].digest())).unwrap().is_some());
    pull(scratch.store(), "i", &pieces());
    scratch.assert_sound();
    assert!(stale(scratch.store()).holders.contains(&volume("v")), "what it has mounted is the corrupt copy still");
    scratch.store().unstaged(&manifest_of("i")).unwrap();
    assert!(!stale(scratch.store()).staging);
    scratch.store().release(&volume("v")).unwrap();
    scratch.store().expire().unwrap();
    assert_eq!(stale(scratch.store()), StaleMounts::default());
    assert_eq!(other.manifest, manifest_of("other"));
}

#[rstest]
#[case::flipped(|path: &Path| flip(path, 1300))]
#[case::cut(|path: &Path| resize(path, 100))]
#[case::lost(|path: &Path| fs::remove_file(path).unwrap())]
fn a_corrupt_index_of_an_image_is_made_again_from_its_layers(#[case] damage: impl Fn(&Path)) {
    let scratch = with_image();
    let path = erofs_file(scratch.dir.path());
    let good = fs::read(&path).unwrap();
    damage(&path);
    let done = quarantine(scratch.store());
    assert_eq!((done.part, done.remedy), (Part::Image(manifest_of("i")), Remedy::Rebuilt));
    assert_eq!(done.images[0].holders, [volume("v")]);
    assert_eq!(fs::read(&path).unwrap(), good);
    assert!(scratch.store().resolve(&tag("i")).unwrap().is_some());
    assert!(stale(scratch.store()).staging && stale(scratch.store()).holders.contains(&volume("v")));
    scratch.assert_sound();
}

#[test]
fn an_image_is_not_made_again_from_corrupt_layers() {
    let scratch = with_image();
    flip(&erofs_file(scratch.dir.path()), 1300);
    flip(&idx_file(scratch.dir.path()), 20);
    let corrupt = scratch.store().verify_for_mount(&manifest_of("i")).unwrap().unwrap();
    assert_eq!(scratch.store().quarantine(&corrupt).unwrap().unwrap().remedy, Remedy::Pull);
    assert!(scratch.store().images().unwrap().is_empty());
}

#[test]
fn what_came_anew_is_not_quarantined_for_what_was() {
    let scratch = with_image();
    flip(&tar_file(scratch.dir.path()), 700);
    let corrupt = found(scratch.store());
    scratch.store().quarantine(&corrupt).unwrap().unwrap();
    assert_eq!(scratch.store().quarantine(&corrupt).unwrap(), None, "it is gone");
    let check = scratch.store().check(&corrupt.part).unwrap();
    assert!(check.is_none());
}

#[test]
fn a_check_that_is_overtaken_by_a_removal_finds_nothing() {
    let scratch = with_image();
    scratch.store().release(&volume("v")).unwrap();
    let parts = scratch.store().parts().unwrap();
    let mut checks: Vec<_> = parts.iter().map(|part| scratch.store().check(part).unwrap().unwrap()).collect();
    assert!(checks.iter_mut().all(|check| matches!(check.step().unwrap(), Checked::Some(_))));
    scratch.store().remove(&tag("i")).unwrap();
    assert!(checks.into_iter().all(|check| check.run().unwrap().1.is_none()));
}

#[test]
fn a_mount_is_refused_what_is_not_as_it_was_hashed() {
    let scratch = with_image();
    let (store, dir, i) = (scratch.store(), scratch.dir.path(), manifest_of("i"));
    assert_eq!(store.verify_for_mount(&i).unwrap(), None);
    // Another inode with the same bytes is the same image.
    let bytes = fs::read(erofs_file(dir)).unwrap();
    fs::remove_file(erofs_file(dir)).unwrap();
    fs::write(erofs_file(dir), &bytes).unwrap();
    assert_eq!(store.verify_for_mount(&i).unwrap(), None);
    // The same inode with another byte, and its old modification time, is not.
    let modified = fs::metadata(erofs_file(dir)).unwrap().modified().unwrap();
    flip(&erofs_file(dir), 1300);
    fs::File::options().write(true).open(erofs_file(dir)).unwrap().set_modified(modified).unwrap();
    let corrupt = store.verify_for_mount(&i).unwrap().unwrap();
    assert_eq!(corrupt.part, Part::Image(i.clone()));
    store.quarantine(&corrupt).unwrap().unwrap();
    assert_eq!(store.verify_for_mount(&i).unwrap(), None, "it is made again");
    // Of layers the length counts.
    resize(&tar_file(dir), 10);
    let corrupt = store.verify_for_mount(&i).unwrap().unwrap();
    assert_eq!(corrupt.part.kind(), "layer");
    store.quarantine(&corrupt).unwrap().unwrap();
    assert_eq!(crate::support::kind(&store.verify_for_mount(&i).unwrap_err()), "NoImage");
}

/// Each way in which a store can be damaged, and whether the image that it hits can be used right after the repair.
#[rstest]
#[case::layer(|dir: &Path| flip(&tar_file(dir), 1000), false)]
#[case::layer_cut(|dir: &Path| resize(&tar_file(dir), 1), false)]
#[case::layer_longer(|dir: &Path| resize(&tar_file(dir), 1 << 20), false)]
#[case::layer_lost(|dir: &Path| fs::remove_file(tar_file(dir)).unwrap(), false)]
#[case::index(|dir: &Path| flip(&idx_file(dir), 20), false)]
#[case::index_lost(|dir: &Path| fs::remove_file(idx_file(dir)).unwrap(), false)]
#[case::blob(|dir: &Path| flip(&blob_file(dir), 0), false)]
#[case::manifest(|dir: &Path| flip(&manifest_file(dir), 3), false)]
#[case::image(|dir: &Path| flip(&erofs_file(dir), 1300), true)]
#[case::image_lost(|dir: &Path| fs::remove_file(erofs_file(dir)).unwrap(), false)]
#[case::image_cut(|dir: &Path| resize(&erofs_file(dir), 0), false)]
#[case::content_row_lost(|dir: &Path| remove_row(dir, "content", &format!("blob/{}", Digester::sha256(b"file"))), false)]
#[case::layer_row_lost(|dir: &Path| remove_row(dir, "content", &format!("layer/{}", diff_id())), false)]
#[case::image_row_lost(|dir: &Path| remove_row(dir, "images", &manifest_of("i").to_string()), false)]
#[case::head_lost(|dir: &Path| remove_row(dir, "heads", &manifest_of("i").to_string()), true)]
#[case::head_wrong(|dir: &Path| edit_row(dir, "heads", &manifest_of("i").to_string(), "\"size\":", "\"size\":1"), true)]
#[case::head_of_nothing(|dir: &Path| put_row(dir, "heads", &diff_id().to_string(), br#"{"kind":"Image","size":1,"indexBytes":1,"pulledAt":1}"#), true)]
#[case::unreadable_head(|dir: &Path| put_row(dir, "heads", &manifest_of("i").to_string(), b"{}"), true)]
#[case::name_lost(|dir: &Path| remove_row(dir, "names", &tag("i")), true)]
#[case::name_to_nowhere(|dir: &Path| edit_row(dir, "names", &digest_name("i"), &manifest_of("i").to_string(), &diff_id().to_string()), true)]
#[case::devices(|dir: &Path| edit_row(dir, "images", &manifest_of("i").to_string(), "\"storedSize\":4", "\"storedSize\":5000"), false)]
#[case::layer_size(|dir: &Path| edit_row(dir, "images", &manifest_of("i").to_string(), "\"storedSize\":4", "\"storedSize\":5"), false)]
#[case::image_size(|dir: &Path| edit_row(dir, "images", &manifest_of("i").to_string(), "\"size\":", "\"size\":1"), false)]
#[case::unreadable_image(|dir: &Path| put_row(dir, "images", &manifest_of("i").to_string(), b"{"), false)]
#[case::unreadable_content(|dir: &Path| put_row(dir, "content", &format!("layer/{}", diff_id()), b"null"), false)]
#[case::unreadable_name(|dir: &Path| put_row(dir, "names", "x", b"7"), true)]
#[case::unreadable_reference(|dir: &Path| put_row(dir, "references", "pin/x", b"{}"), true)]
#[case::unreadable_retired(|dir: &Path| put_row(dir, "retired", &manifest_of("i").to_string(), b"[]"), true)]
#[case::unknown_key(|dir: &Path| put_row(dir, "content", "what", b"{}"), true)]
#[case::file_without_row(|dir: &Path| fs::write(dir.join("blobs/sha256/0000"), "left").unwrap(), true)]
fn repaired_it_is_sound_and_what_was_intact_is_kept(#[case] damage: impl Fn(&Path), #[case] usable: bool) {
    let mut scratch = with_image();
    let other = [Piece::archive(&small_tar("other"), Compression::Zstd), Piece::blob(b"more of it")];
    pull(scratch.store(), "other", &other);
    scratch.store = None;
    let before = content_files(scratch.dir.path());
    damage(scratch.dir.path());
    let store = Store::open_for_fsck(scratch.dir.path()).unwrap();
    let mut taken = 0;
    let report = store.repair(&mut |_| taken += 1).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(!report.repaired.is_empty() && report.repaired.len() >= taken, "{report:?}");
    let sound = assert_sound(&store);
    let again = store.repair(&mut |_| panic!("nothing is left to do")).unwrap();
    assert_eq!((again.problems, again.repaired), (vec![], vec![]));
    assert_eq!(store.resolve(&tag("other")).unwrap().unwrap().manifest, manifest_of("other"));
    assert_eq!(store.images().unwrap().len(), if usable { 2 } else { 1 });
    assert_eq!(store.fsck().unwrap(), sound);
    drop(store);
    scratch.reopen();
    pull(scratch.store(), "i", &pieces());
    scratch
        .store()
        .commit_held(
            scratch.store().resolve(&manifest_of("i").to_string()).unwrap().unwrap(),
            &names("i"),
            &volume("w"),
        )
        .unwrap();
    scratch.assert_sound();
    let stray = |path: &PathBuf| path.ends_with("0000");
    let after = content_files(scratch.dir.path());
    assert_eq!(after.iter().filter(|path| !stray(path)).collect::<Vec<_>>(), before.iter().collect::<Vec<_>>());
}

#[test]
fn a_repair_beside_pulls_takes_nothing_from_them() {
    let scratch = with_image();
    let store = scratch.store();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| come_and_go(store, |number| number % 3 == 0));
        while !work.is_finished() {
            let report = store.repair(&mut |_| panic!("nothing is corrupt")).unwrap();
            assert_eq!((report.problems, report.repaired), (vec![], vec![]));
        }
    });
    assert_eq!(scratch.store().images().unwrap().len(), 9);
    scratch.assert_sound();
}

#[test]
fn a_mount_goes_on_from_quarantine_which_keeps_its_files() {
    in_namespace("quarantine::a_mount_goes_on_from_quarantine_which_keeps_its_files", || {
        for backend in [Backend::Erofs, Backend::ErofsLoop] {
            let scratch = with_image();
            let at = tempfile::tempdir_in(crate::support::DISK).unwrap();
            let files = scratch.store().open_image(&manifest_of("i")).unwrap();
            Kernel.stage(&Source::new(backend, files.image, files.devices), at.path()).unwrap();
            flip(&idx_file(scratch.dir.path()), 20);
            quarantine(scratch.store());
            pull(scratch.store(), "i", &pieces());
            let tar = aside(&scratch).into_iter().find(|path| path.to_string_lossy().ends_with(".tar")).unwrap();
            assert_ne!(fs::metadata(&tar).unwrap().ino(), fs::metadata(tar_file(scratch.dir.path())).unwrap().ino());
            // As if it had been there for long.
            let old = scratch.path("quarantine/1-layers-sha256-old.tar");
            fs::rename(&tar, &old).unwrap();
            scratch.store().expire().unwrap();
            assert!(old.exists(), "it is mounted");
            assert_eq!(fs::read(at.path().join("layer")).unwrap(), "layer".repeat(100).as_bytes());
            Kernel.unmount(at.path()).unwrap();
            scratch.store().expire().unwrap();
            assert!(!old.exists());
            scratch.assert_sound();
        }
    });
}

#[test]
fn a_scrub_goes_on_where_it_was() {
    let mut scratch = with_image();
    let parts = scratch.store().parts().unwrap();
    assert_eq!(scratch.store().scrub_position().unwrap(), ScrubPosition::default());
    let position = ScrubPosition::default().after(&parts[1]);
    scratch.store().keep_scrub_position(&position).unwrap();
    let position = scratch.reopen().scrub_position().unwrap();
    assert_eq!(position.rest_of(parts.clone()), parts[2..]);
    scratch.reopen_after(|dir: &Path| put_row(dir, "meta", "scrub", b"[]"));
    assert_eq!(scratch.store().scrub_position().unwrap(), ScrubPosition::default());
}

/// Damages and repairs without end.
fn work_until_killed(state_dir: &Path) {
    let store = Store::open(state_dir, Limits::default()).unwrap();
    store.repair(&mut |_| {}).unwrap();
    for number in 0_usize.. {
        pull(&store, "i", &pieces());
        println!("pulled");
        let path = [tar_file, erofs_file, blob_file, idx_file][number % 4](state_dir);
        flip(&path, 4);
        println!("damaged");
        store.repair(&mut |_| println!("taken")).unwrap();
        println!("repaired");
    }
}

#[test]
fn a_repair_that_is_killed_is_repeated() {
    if let Some(state_dir) = std::env::var_os(VICTIM) {
        return work_until_killed(Path::new(&state_dir));
    }
    let scratch = with_image();
    let dir = scratch.dir.path().to_owned();
    let _dir = scratch.dir;
    drop(scratch.store);
    for lines in 4..24 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "quarantine::a_repair_that_is_killed_is_repeated", "--nocapture"]).env(VICTIM, &dir);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..lines {
            output.next().unwrap().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(&dir, Limits::default()).unwrap();
        let report = store.repair(&mut |_| {}).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        assert_sound(&store);
        assert_eq!(store.references().unwrap()[0].1.image, Some(manifest_of("i")), "what it has mounted it keeps");
    }
}

/// Quarantines a layer and the metadata file of an image.
fn work_once(state_dir: &Path) {
    let store = Store::open(state_dir, Limits::default()).unwrap();
    store.repair(&mut |_| {}).unwrap();
    for damaged in [erofs_file, tar_file] {
        pull(&store, "i", &pieces());
        flip(&damaged(state_dir), 600);
        let report = store.repair(&mut |taken| store.unstaged(&taken.images[0].image).unwrap()).unwrap();
        assert_eq!(report.repaired.len(), 1);
    }
    store.expire().unwrap();
    println!("done");
}

/// As many kills as there are changes.
#[test]
#[ignore = "needs strace, and some minutes"]
fn nothing_is_lost_at_any_change() {
    if let Some(state_dir) = std::env::var_os(VICTIM) {
        return work_once(Path::new(&state_dir));
    }
    let victim = Victim { test: "quarantine::nothing_is_lost_at_any_change", variable: VICTIM };
    let kills = victim.kill_at_each_change(
        || {
            let scratch = with_image();
            drop(scratch.store);
            scratch.dir
        },
        |dir, call, when| {
            let store = Store::open(dir, Limits::default()).unwrap();
            assert_eq!(store.references().unwrap()[0].1.image, Some(manifest_of("i")), "{call} {when}");
            assert_eq!(store.repair(&mut |_| {}).unwrap().problems, Vec::<String>::new());
            assert_sound(&store);
            assert!(store.repair(&mut |_| {}).unwrap().repaired.is_empty(), "{call} {when}");
        },
    );
    assert!(kills > 100, "{kills}");
}
