//! Stores that earlier versions left: they are brought up to date, or only looked at, and nothing is lost on the way.

use std::path::Path;

use imagevol_base::collection::NodeTime;
use imagevol_store::{Limits, Store};
use redb::{MultimapTableDefinition, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use rstest::rstest;

use crate::lifetimes::used;
use crate::recovery::put_row;
use crate::support::{Held as _, Piece, Scratch, manifest_of, pull, tag, volume};

type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// What this version writes.
const NOW: &[u8] = b"3";

/// A store as version 1 or 2 left it.
fn back_to(version: u8, dir: &Path) {
    let database = redb::Database::open(dir.join("db.redb")).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.delete_table(Table::new("heads")).unwrap());
    if version == 1 {
        forget_uses(&write);
    }
    write.open_table(Table::new("meta")).unwrap().insert("format", version.to_string().as_bytes()).unwrap();
    write.commit().unwrap();
}

fn forget_uses(write: &WriteTransaction) {
    for table in ["uses", "pins", "downloads"] {
        assert!(write.delete_table(Table::new(table)).unwrap());
    }
    write.open_table(Table::new("meta")).unwrap().remove("clock").unwrap();
    for (name, fields) in [("content", vec!["stored"]), ("references", vec!["expires", "until"])] {
        let mut table = write.open_table(Table::new(name)).unwrap();
        let rows: Vec<(String, Vec<u8>)> = table
            .iter()
            .unwrap()
            .map(|row| row.map(|(key, row)| (key.value().to_owned(), row.value().to_vec())).unwrap())
            .collect();
        for (key, row) in rows {
            let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&row).unwrap();
            for field in &fields {
                row.remove(*field);
            }
            table.insert(key.as_str(), serde_json::to_vec(&row).unwrap().as_slice()).unwrap();
        }
    }
}

fn of_version(version: u8) -> Scratch {
    let mut scratch = Scratch::new();
    pull(scratch.store(), "i", &[Piece::blob(b"file")]);
    pull(scratch.store(), "j", &[]);
    scratch.store().hold(&volume("v"), &tag("i")).unwrap();
    assert!(scratch.store().bind_held(&volume("v"), &manifest_of("i")).unwrap());
    drop(scratch.put(&Piece::blob(b"half")));
    scratch.store = None;
    back_to(version, scratch.dir.path());
    scratch
}

fn format_of(dir: &Path) -> Vec<u8> {
    let database = redb::Database::open(dir.join("db.redb")).unwrap();
    let read = database.begin_read().unwrap();
    let meta = read.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
    let names = MultimapTableDefinition::<&str, &str>::new("names-of-image");
    read.open_multimap_table(names).unwrap();
    meta.get("format").unwrap().unwrap().value().to_vec()
}

/// What lists show, and what images take, is what the records say.
fn assert_listed(store: &Store, count: usize) {
    let listed = store.image_summaries().unwrap();
    let records = store.images().unwrap();
    let of_record = records.iter().map(|image| (image.manifest.clone(), image.kind, image.size, image.pulled_at));
    let of_list = listed.into_iter().map(|image| (image.manifest, image.kind, image.size, image.pulled_at));
    assert!(of_list.eq(of_record));
    assert_eq!(records.len(), count);
}

#[rstest]
fn a_store_of_an_earlier_version_keeps_its_images(#[values(1, 2)] version: u8) {
    let mut scratch = of_version(version);
    let store = scratch.reopen();
    assert_listed(store, 2);
    assert_eq!(store.references().unwrap()[0].1.image, Some(manifest_of("i")));
    assert!(store.resolve(&tag("j")).unwrap().is_some());
    scratch.assert_sound();
    scratch.wait(86_401);
    assert_eq!(scratch.store().expire().unwrap().content.len(), 1);
    scratch.store = None;
    assert_eq!(format_of(scratch.dir.path()), NOW);
}

/// Seen first when its time begins; people read when it was pulled.
#[test]
fn an_image_of_version_1_was_never_used() {
    let mut scratch = of_version(1);
    let image = scratch.reopen().resolve(&tag("j")).unwrap().unwrap();
    let seen = used(&scratch, "j");
    assert_eq!((seen.first_seen.time, seen.first_seen.at, seen.last_used), (NodeTime(0), image.pulled_at, None));
}

#[rstest]
fn to_check_a_store_of_an_earlier_version_changes_nothing(#[values(1, 2)] version: u8) {
    let scratch = of_version(version);
    let store = Store::open_for_fsck(scratch.dir.path()).unwrap();
    assert_eq!(store.fsck().unwrap().problems, Vec::<String>::new());
    assert_eq!((store.images().unwrap().len(), store.pins().unwrap()), (2, Vec::new()));
    drop(store);
    assert_eq!(format_of(scratch.dir.path()), version.to_string().as_bytes());
}

/// An image that cannot be read is dropped, as at each start, and stops nothing.
#[test]
fn an_unreadable_image_does_not_keep_a_store_from_its_new_version() {
    let mut scratch = of_version(2);
    put_row(scratch.dir.path(), "images", &manifest_of("j").to_string(), b"{}");
    assert_listed(scratch.reopen(), 1);
    scratch.assert_sound();
}

/// Opens the store of another test, which kills it meanwhile.
const VICTIM: &str = "IMAGEVOL_STORE_TEST_UPGRADE";

#[test]
fn a_kill_while_it_is_brought_up_to_date_loses_nothing() {
    if let Some(dir) = std::env::var_os(VICTIM) {
        return drop(Store::open(Path::new(&dir), Limits::default()).unwrap());
    }
    let (mut before, mut after) = (0, 0);
    for round in 0..30_u8 {
        let version = 1 + round % 2;
        let mut scratch = of_version(version);
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap());
        victim.args(["--exact", "formats::a_kill_while_it_is_brought_up_to_date_loses_nothing"]);
        let mut victim = victim.env(VICTIM, scratch.dir.path()).stdout(std::process::Stdio::null()).spawn().unwrap();
        // Killed at points that move on: early ones before anything is written, late ones after all.
        for _ in 0..u32::from(round) * 40 {
            std::fs::read(scratch.path("db.redb")).unwrap();
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        match format_of(scratch.dir.path()) {
            now if now == NOW => after += 1,
            was => {
                assert_eq!(was, version.to_string().as_bytes());
                before += 1;
            }
        }
        assert_listed(scratch.reopen(), 2);
        scratch.assert_sound();
    }
    println!("{before} kills before, {after} after");
}
