//! fsck: sound stores have no problems, and each kind of damage is found and named.

use std::fs;
use std::path::Path;

use imagevol_base::Digester;
use imagevol_store::{Limits, Store};
use rstest::rstest;

use crate::fixture::{blob_file, diff_id, erofs_file, flip, idx_file, resize, tar_file, with_image};
use crate::recovery::{edit_row, remove_row};
use crate::support::{
    Piece, Scratch, come_and_go, content_files, digest_name, kind, manifest_of, small_tar, tag, volume,
};

#[test]
fn counts_what_it_checked() {
    let scratch = with_image();
    let report = scratch.assert_sound();
    assert_eq!((report.images, report.blobs, report.unfinished.len()), (1, 3, 0));
    let index = fs::metadata(idx_file(scratch.dir.path())).unwrap().len();
    let erofs = fs::metadata(erofs_file(scratch.dir.path())).unwrap().len();
    let blobs = ["manifest of i", "file"].map(str::len).iter().sum::<usize>() + small_tar("layer").len();
    assert_eq!(report.bytes, blobs as u64 + index + erofs);
}

#[rstest]
#[case::layer(|dir: &Path| flip(&tar_file(dir), 1000), "layer/", "content is corrupt")]
#[case::index(|dir: &Path| flip(&idx_file(dir), 20), "layer/", "index is corrupt")]
#[case::blob(|dir: &Path| flip(&blob_file(dir), 0), "blob/", "content is corrupt")]
#[case::image(|dir: &Path| flip(&erofs_file(dir), 1300), "image ", "metadata file is corrupt")]
#[case::lost_image(|dir: &Path| fs::remove_file(erofs_file(dir)).unwrap(), "image ", "is missing")]
#[case::lost_layer(|dir: &Path| fs::remove_file(tar_file(dir)).unwrap(), "layer/", "is missing")]
#[case::longer_layer(|dir: &Path| resize(&tar_file(dir), 1 << 20), "layer/", "is 1048576 bytes long, expected 4096")]
#[case::lost_content(|dir: &Path| remove_row(dir, "content", &format!("blob/{}", Digester::sha256(b"file"))), "image ", "is missing")]
#[case::lost_image_row(|dir: &Path| remove_row(dir, "images", &manifest_of("i").to_string()), "reference of volume/", "is no image")]
#[case::lost_name(|dir: &Path| remove_row(dir, "names", &tag("i")), "link from", "does not agree")]
#[case::name_to_nowhere(|dir: &Path| edit_row(dir, "names", &digest_name("i"), &manifest_of("i").to_string(), &diff_id().to_string()), "name r.example", "is no image")]
#[case::blob_to_nowhere(|dir: &Path| remove_row(dir, "content", &format!("layer/{}", diff_id())), "blob sha256", "is not here")]
#[case::devices(|dir: &Path| edit_row(dir, "images", &manifest_of("i").to_string(), "\"storedSize\":4", "\"storedSize\":5000"), "image ", "device table does not name its layers")]
#[case::layer_size(|dir: &Path| edit_row(dir, "images", &manifest_of("i").to_string(), "\"storedSize\":4", "\"storedSize\":5"), "image ", "has 4 bytes, not 5")]
#[case::image_size(|dir: &Path| edit_row(dir, "images", &manifest_of("i").to_string(), "\"size\":", "\"size\":1"), "image ", "bytes on disk, not 1")]
#[case::lost_head(|dir: &Path| remove_row(dir, "heads", &manifest_of("i").to_string()), "image ", "row for lists does not agree")]
#[case::wrong_head(|dir: &Path| edit_row(dir, "heads", &manifest_of("i").to_string(), "\"size\":", "\"size\":1"), "image ", "row for lists does not agree")]
#[case::head_of_nothing(|dir: &Path| remove_row(dir, "images", &manifest_of("i").to_string()), "row for lists of sha256", "there is no such image")]
#[case::reference(|dir: &Path| edit_row(dir, "references", &volume("v").to_string(), "since", "from"), "row \"volume/", "unknown field")]
fn each_damage_is_a_problem_and_nothing_is_changed(
    #[case] damage: impl Fn(&Path),
    #[case] begins: &str,
    #[case] says: &str,
) {
    let mut scratch = with_image();
    scratch.store = None;
    damage(scratch.dir.path());
    let before = content_files(scratch.dir.path());
    for _ in 0..2 {
        let report = Store::open_for_fsck(scratch.dir.path()).unwrap().fsck().unwrap();
        let found = report.problems.iter().any(|problem| problem.starts_with(begins) && problem.contains(says));
        assert!(found, "{:#?}", report.problems);
    }
    assert_eq!(content_files(scratch.dir.path()), before);
    // Where whole files or rows are lost, start mends it; what is rotten is for fsck alone to find.
    let rotten = ["corrupt", "bytes, not", "disk, not", "device table"].iter().any(|word| says.contains(word));
    let report = scratch.reopen().fsck().unwrap();
    assert_eq!(report.problems.is_empty(), !rotten, "{:#?}", report.problems);
}

#[test]
fn offline_it_lists_leftovers_and_deletes_nothing() {
    let mut scratch = with_image();
    scratch.store = None;
    fs::write(scratch.path("blobs/sha256/0000"), "left").unwrap();
    fs::create_dir(scratch.path("ingest/what")).unwrap();
    let report = Store::open_for_fsck(scratch.dir.path()).unwrap().fsck().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.unfinished.len(), 2, "{:?}", report.unfinished);
    assert!(scratch.path("blobs/sha256/0000").exists() && scratch.path("ingest/what").exists());
}

#[test]
fn unused_content_is_no_problem() {
    let scratch = Scratch::new();
    let stored = scratch.put(&Piece::blob(b"waits"));
    let report = scratch.store().fsck().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.unfinished, [format!("{}: no image names it yet", stored.lease.key())]);
}

#[test]
fn needs_a_store() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let error = Store::open_for_fsck(&dir.path().join("none")).unwrap_err();
    assert_eq!(kind(&error), "Io");
    fs::write(dir.path().join("db.redb"), "").unwrap();
    assert_eq!(kind(&Store::open_for_fsck(dir.path()).unwrap_err()), "Io");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_damaged_blob_is_not_read() {
    let scratch = with_image();
    let digest = Digester::sha256(b"file");
    assert_eq!(scratch.store().read_blob(&digest).unwrap(), b"file");
    flip(&blob_file(scratch.dir.path()), 1);
    assert_eq!(kind(&scratch.store().read_blob(&digest).unwrap_err()), "Damaged");
    assert_eq!(kind(&scratch.store().read_blob(&Digester::sha256(b"other")).unwrap_err()), "MissingContent");
}

/// While others work, fsck tells of no problem.
#[test]
fn online_it_sees_no_problem_in_what_comes_and_goes() {
    let scratch = Scratch::with_limits(Limits::default());
    let store = scratch.store();
    std::thread::scope(|scope| {
        // That their files are read is no reason to keep any of them.
        let work = scope.spawn(|| come_and_go(store, |_| true));
        while !work.is_finished() {
            assert_eq!(store.fsck().unwrap().problems, Vec::<String>::new());
        }
    });
    scratch.assert_sound();
}
