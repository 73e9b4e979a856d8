//! Start after a kill: every kind of leftover, made by hand.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use imagevol_base::Digester;
use imagevol_store::{ContentKey, Limits, Store};
use redb::{ReadableDatabase as _, TableDefinition};
use rstest::rstest;

use crate::fixture::{diff_id, erofs_file, idx_file, manifest_file, pieces, resize, tar_file, with_image};
use crate::support::{
    Held as _, Piece, Scratch, content_files, digest_name, files_below, kind, manifest_of, pull, tag, volume,
};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

pub(crate) fn put_row(state_dir: &Path, table: &'static str, key: &str, value: &[u8]) {
    let database = redb::Database::open(state_dir.join("db.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(Table::new(table)).unwrap().insert(key, value).unwrap();
    write.commit().unwrap();
}

pub(crate) fn edit_row(state_dir: &Path, table: &'static str, key: &str, from: &str, to: &str) {
    let database = redb::Database::open(state_dir.join("db.redb")).unwrap();
    let read = database.begin_read().unwrap().open_table(Table::new(table)).unwrap();
    let old = String::from_utf8(read.get(key).unwrap().unwrap().value().to_vec()).unwrap();
    assert!(old.contains(from), "{old}");
    let write = database.begin_write().unwrap();
    write.open_table(Table::new(table)).unwrap().insert(key, old.replace(from, to).as_bytes()).unwrap();
    write.commit().unwrap();
}

pub(crate) fn remove_row(state_dir: &Path, table: &'static str, key: &str) {
    let database = redb::Database::open(state_dir.join("db.redb")).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.open_table(Table::new(table)).unwrap().remove(key).unwrap().is_some());
    write.commit().unwrap();
}

#[rstest]
#[case::blob("blobs/sha256/0000")]
#[case::temporary_blob("blobs/sha512/.tmpAbCd")]
#[case::layer("layers/sha256/0000.tar")]
#[case::index_of_a_layer("layers/sha512/0000.idx")]
#[case::image("images/sha256/0000.erofs")]
#[case::temporary_image("images/sha256/.tmpXyZ")]
fn a_file_that_no_row_names_goes(#[case] name: &str) {
    let mut scratch = with_image();
    let before = content_files(scratch.dir.path());
    scratch.reopen_after(|dir| fs::write(dir.join(name), "left").unwrap());
    assert_eq!(content_files(scratch.dir.path()), before);
    scratch.assert_sound();
}

#[test]
fn a_directory_that_is_not_ours_stays() {
    let mut scratch = with_image();
    scratch.reopen_after(|dir| {
        fs::create_dir(dir.join("blobs/sha256/lost+found")).unwrap();
        fs::write(dir.join("ingest/stray"), "file").unwrap();
    });
    assert!(scratch.path("blobs/sha256/lost+found").is_dir());
    assert!(!scratch.path("ingest/stray").exists());
}

/// What is lost is pulled again: the image goes with its names, its holder has what it may have mounted, and other content stays for the
/// pull.
#[rstest]
#[case::image(erofs_file)]
#[case::layer(tar_file)]
#[case::index_of_a_layer(idx_file)]
#[case::manifest(manifest_file)]
fn a_row_whose_file_is_lost_goes(
    #[case] lost: impl Fn(&Path) -> std::path::PathBuf,
    #[values(true, false)] truncated: bool,
) {
    let mut scratch = with_image();
    scratch.reopen_after(|dir| {
        let path = lost(dir);
        if truncated {
            resize(&path, 1);
        } else {
            fs::remove_file(path).unwrap();
        }
    });
    let store = scratch.store();
    assert!(store.images().unwrap().is_empty());
    assert!(store.resolve(&tag("i")).unwrap().is_none() && store.resolve(&digest_name("i")).unwrap().is_none());
    let rows = store.references().unwrap();
    assert_eq!((rows.len(), &rows[0].1.image, &rows[0].1.reference), (1, &Some(manifest_of("i")), &tag("i")));
    assert!(store.find(&ContentKey::Blob(Digester::sha256(b"file"))).unwrap().is_some());
    scratch.assert_sound();
    // And the pull makes it whole.
    pull(scratch.store(), "i", &pieces());
    assert!(scratch.store().bind_held(&volume("v"), &manifest_of("i")).unwrap());
    scratch.assert_sound();
}

#[rstest]
#[case::image("images", &manifest_of("i").to_string())]
#[case::head("heads", &manifest_of("i").to_string())]
#[case::key_of_head("heads", "nothing")]
#[case::content("content", "blob/sha256:0")]
#[case::key_of_content("content", "nothing")]
#[case::reference("references", &volume("w").to_string())]
#[case::holder("references", "pin/unknown")]
#[case::name("names", &tag("j"))]
#[case::layer("diff-ids", "sha256:0")]
#[case::usage("uses", &manifest_of("i").to_string())]
#[case::pin("pins", "no pattern")]
#[case::download("downloads", "blob-sha256-00")]
fn a_row_that_cannot_be_read_goes_and_stops_nothing(#[case] table: &'static str, #[case] key: &str) {
    let mut scratch = with_image();
    let others = || {
        let report = Store::open_for_fsck(scratch.dir.path()).unwrap().fsck().unwrap();
        report.problems.into_iter().filter(|problem| problem.contains(table)).collect::<Vec<_>>()
    };
    scratch.store = None;
    put_row(scratch.dir.path(), table, key, br#"{"what":1}"#);
    assert_eq!(others().len(), 1, "{:?}", others());
    let store = scratch.reopen();
    assert_eq!(store.images().unwrap().len(), usize::from(table != "images"));
    assert_eq!(store.references().unwrap().len(), 1);
    scratch.assert_sound();
}

#[test]
fn what_leads_to_a_lost_row_is_mended() {
    let mut scratch = with_image();
    scratch.reopen_after(|dir| {
        remove_row(dir, "images", &manifest_of("i").to_string());
        remove_row(dir, "content", &ContentKey::Layer(diff_id()).to_string());
    });
    let store = scratch.store();
    assert!(store.resolve(&tag("i")).unwrap().is_none());
    assert!(store.find_layer(&pieces()[0].digest()).unwrap().is_none());
    assert_eq!(store.references().unwrap()[0].1.image, Some(manifest_of("i")), "it may have it mounted");
    scratch.assert_sound();
}

/// Seconds of a day.
const DAY: u64 = 86_400;

#[test]
fn content_that_no_image_names_stays_a_day() {
    let mut scratch = Scratch::new();
    let (old, young) = (pieces().remove(0), Piece::blob(b"young"));
    drop(scratch.put(&old));
    scratch.wait(DAY);
    drop(scratch.put(&young));
    assert!(scratch.store().expire().unwrap().content.is_empty());
    scratch.wait(1);
    scratch.reopen();
    assert!(scratch.store().find(&ContentKey::Blob(young.digest())).unwrap().is_some());
    assert!(scratch.store().find_layer(&old.digest()).unwrap().is_none());
    scratch.assert_sound();
}

#[test]
fn a_node_that_was_off_resumes_where_it_was() {
    let mut scratch = Scratch::new();
    drop(scratch.put(&Piece::blob(b"half")));
    scratch.wait(DAY - 10);
    assert!(scratch.store().expire().unwrap().content.is_empty());
    // However long it was off: ten seconds are left.
    scratch.clock.reboot(Duration::from_secs(10));
    scratch.reopen();
    assert!(scratch.store().find(&ContentKey::Blob(Digester::sha256(b"half"))).unwrap().is_some());
    scratch.wait(1);
    assert_eq!(scratch.store().expire().unwrap().content.len(), 1);
}

#[test]
fn expiry_spares_what_a_running_pull_holds() {
    let scratch = Scratch::new();
    let (leased, idle) = (Piece::blob(b"leased"), Piece::blob(b"idle"));
    let lease = scratch.put(&leased);
    drop(scratch.put(&idle));
    scratch.wait(DAY + 1);
    assert_eq!(scratch.store().expire().unwrap().content, [ContentKey::Blob(idle.digest())]);
    drop(lease);
    assert_eq!(scratch.store().expire().unwrap().content, [ContentKey::Blob(leased.digest())]);
    assert!(content_files(scratch.dir.path()).is_empty());
}

/// An interrupted download of `kind`, as a killed daemon leaves it.
fn left_download(dir: &Path, kind: &str, format: Option<&str>) {
    let download = dir.join(format!("ingest/{kind}-sha256-{}", Digester::sha256(b"whole").hex()));
    fs::create_dir(&download).unwrap();
    if let Some(format) = format {
        fs::write(download.join("format"), format).unwrap();
    }
    fs::write(download.join("data"), "wh").unwrap();
    // By a clock that was years ahead, or behind.
    let data = fs::File::options().write(true).open(download.join("data")).unwrap();
    data.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(9_999_999_999)).unwrap();
}

#[rstest]
#[case::blob("blob", Some("1"), 60, true)]
#[case::tar("tar", Some("1"), 60, true)]
#[case::compressed("packed", Some("1"), 60, false)]
#[case::without_format("blob", None, 60, false)]
#[case::empty_format("blob", Some(""), 60, false)]
#[case::format_of_tomorrow("blob", Some("2"), 60, false)]
#[case::of_yesterday("blob", Some("1"), DAY, true)]
#[case::of_the_day_before("blob", Some("1"), DAY + 1, false)]
fn a_download_is_gone_on_with_or_goes(
    #[case] kind: &str,
    #[case] format: Option<&str>,
    #[case] age: u64,
    #[case] stays: bool,
) {
    let mut scratch = Scratch::new();
    scratch.reopen_after(|dir| left_download(dir, kind, format));
    scratch.wait(age);
    scratch.store().expire().unwrap();
    let report = scratch.store().fsck().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(
        report.unfinished.iter().filter(|line| line.contains("download of which 2 bytes are here")).count(),
        usize::from(stays)
    );
    assert_eq!(files_below(&scratch.path("ingest")).len(), if stays { 2 } else { 0 });
    if kind == "blob" {
        let ingest = scratch.store().begin(&Digester::sha256(b"whole"), 5, imagevol_store::Form::Blob).unwrap();
        assert_eq!(ingest.offset(), if stays { 2 } else { 0 });
    }
}

#[test]
fn a_download_that_went_on_is_young_again() {
    let mut scratch = Scratch::new();
    scratch.reopen_after(|dir| left_download(dir, "blob", Some("1")));
    scratch.wait(DAY);
    let download = scratch.path(&format!("ingest/blob-sha256-{}", Digester::sha256(b"whole").hex()));
    fs::write(download.join("data"), "who").unwrap();
    scratch.store().expire().unwrap();
    scratch.wait(DAY);
    scratch.store().expire().unwrap();
    assert!(download.exists());
    scratch.wait(1);
    scratch.store().expire().unwrap();
    assert!(!download.exists());
}

#[test]
fn an_empty_download_expires() {
    let mut scratch = Scratch::new();
    scratch.reopen_after(|dir| {
        let download = dir.join("ingest/blob-sha256-00");
        fs::create_dir(&download).unwrap();
        fs::write(download.join("format"), "1").unwrap();
    });
    scratch.wait(DAY + 1);
    scratch.store().expire().unwrap();
    assert_eq!(fs::read_dir(scratch.path("ingest")).unwrap().count(), 0);
}

#[test]
fn a_running_download_is_not_stale() {
    let scratch = Scratch::new();
    let ingest = scratch.store().begin(&Digester::sha256(b"x"), 1, imagevol_store::Form::Blob).unwrap();
    for _ in 0..2 {
        scratch.store().expire().unwrap();
        scratch.wait(DAY + 1);
    }
    ingest.run(&b"x"[..]).unwrap();
    scratch.assert_sound();
}

#[test]
fn a_second_process_is_turned_away() {
    let scratch = Scratch::new();
    for second in [Store::open(scratch.dir.path(), Limits::default()), Store::open_for_fsck(scratch.dir.path())] {
        assert_eq!(kind(&second.unwrap_err()), "Locked");
    }
}

#[test]
fn a_format_of_tomorrow_is_refused_and_untouched() {
    let mut scratch = with_image();
    scratch.store = None;
    put_row(scratch.dir.path(), "meta", "format", b"4");
    fs::write(scratch.path("blobs/sha256/0000"), "theirs").unwrap();
    for opened in [Store::open(scratch.dir.path(), Limits::default()), Store::open_for_fsck(scratch.dir.path())] {
        let error = opened.unwrap_err();
        assert_eq!(error.to_string(), "state format 4 is not known to this version, which writes 3");
    }
    assert!(scratch.path("blobs/sha256/0000").exists());
}

#[rstest]
#[case::rubbish(|bytes: &mut Vec<u8>| *bytes = vec![b'x'; 100_000])]
#[case::magic_number(|bytes: &mut Vec<u8>| bytes[0] ^= 1)]
#[case::cut(|bytes: &mut Vec<u8>| bytes.truncate(5000))]
fn a_damaged_database_is_a_clear_error(#[case] damage: fn(&mut Vec<u8>)) {
    let mut scratch = with_image();
    scratch.store = None;
    let path = scratch.path("db.redb");
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    for opened in [Store::open(scratch.dir.path(), Limits::default()), Store::open_for_fsck(scratch.dir.path())] {
        let error = opened.unwrap_err();
        assert_eq!(kind(&error), "Open");
        assert_eq!(error.to_string(), format!("cannot open database {}", path.display()));
    }
    assert!(erofs_file(scratch.dir.path()).exists());
}

/// A bit flips anywhere: an error, or the rows of the commit before; never a panic, and never wrong content.
#[test]
fn a_flipped_bit_in_the_database_never_panics() {
    let mut scratch = with_image();
    scratch.store = None;
    let path = scratch.path("db.redb");
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(good.len() / 97) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
        if let Ok(store) = Store::open_for_fsck(scratch.dir.path()) {
            store.fsck().unwrap();
        }
    }
}
