//! Deletion: exact to the layer, and never of what somebody uses.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use imagevol_base::Digester;
use imagevol_store::{Compression, ContentKey, ImageKind, StoreError};

use crate::support::{
    Held as _, Piece, Scratch, command, content_files, digest_name, kind, layer_key, manifest_of, names, pull, record,
    reference, small_tar, tag, volume,
};

fn shared() -> Piece {
    Piece::archive(&small_tar("shared"), Compression::Gzip)
}

#[test]
fn shared_layers_stay_and_freed_bytes_are_exact() {
    let scratch = Scratch::new();
    let own = Piece::blob(&[1; 9000]);
    pull(scratch.store(), "a", &[shared(), own.clone()]);
    pull(scratch.store(), "b", &[shared()]);
    let (before, _) = scratch.store().usage().unwrap();
    let removed = scratch.store().remove(&tag("a")).unwrap();
    assert_eq!(removed.images, [manifest_of("a")]);
    assert_eq!(removed.names.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&tag("a"), &digest_name("a")]));
    let expected: BTreeSet<_> = [manifest_of("a"), own.digest()].map(ContentKey::Blob).into();
    assert_eq!(removed.content.into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(removed.freed_bytes, before - scratch.store().usage().unwrap().0);
    assert!(scratch.store().find_layer(&shared().digest()).unwrap().is_some());
    scratch.assert_sound();
    let removed = scratch.store().remove(&manifest_of("b").to_string()).unwrap();
    assert!(removed.content.contains(&layer_key(&small_tar("shared"))));
    assert!(scratch.store().find_layer(&shared().digest()).unwrap().is_none());
    assert_eq!(content_files(scratch.dir.path()), BTreeSet::new());
    scratch.assert_sound();
}

#[test]
fn one_of_two_tags_goes_alone_even_if_the_image_is_in_use() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "a", &[shared()]);
    scratch.store().commit_held(image, &[reference("r.example:5000/b:1")], &volume("v")).unwrap();
    let removed = scratch.store().remove(&tag("a")).unwrap();
    assert_eq!((removed.images.len(), removed.freed_bytes), (0, 0));
    assert!(scratch.store().resolve(&tag("a")).unwrap().is_none());
    assert_eq!(kind(&scratch.store().remove("r.example:5000/b:1").unwrap_err()), "InUse");
    assert!(scratch.store().resolve("r.example:5000/b:1").unwrap().is_some());
    scratch.store().release(&volume("v")).unwrap();
    assert_eq!(scratch.store().remove("r.example:5000/b:1").unwrap().images, [manifest_of("a")]);
    scratch.assert_sound();
}

#[test]
fn an_image_in_use_names_its_holders_and_loses_nothing() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "a", &[shared()]);
    for name in ["v", "w"] {
        assert!(scratch.store().bind_held(&volume(name), &image.manifest).unwrap());
    }
    let before = content_files(scratch.dir.path());
    for name in [tag("a"), image.manifest.to_string()] {
        let StoreError::InUse(holders) = scratch.store().remove(&name).unwrap_err() else { panic!("not in use") };
        assert_eq!(holders, [volume("v").to_string(), volume("w").to_string()]);
    }
    assert_eq!(content_files(scratch.dir.path()), before);
    assert_eq!(scratch.store().names_of(&image.manifest).unwrap().len(), 2);
}

#[test]
fn content_that_a_pull_has_found_stays_and_expires_unused() {
    let scratch = Scratch::new();
    pull(scratch.store(), "a", &[shared()]);
    let lease = scratch.store().find_layer(&shared().digest()).unwrap().unwrap();
    let removed = scratch.store().remove(&tag("a")).unwrap();
    assert!(!removed.content.contains(lease.lease.key()));
    scratch.assert_sound();
    // The pull goes on with it.
    let (record, leases) = record(scratch.store(), "b", ImageKind::Image, &[shared()]);
    drop(lease);
    scratch.store().commit_held(record, &names("b"), &command(1)).unwrap();
    drop(leases);
    scratch.assert_sound();
}

#[test]
fn what_is_whole_of_an_image_that_did_not_fit_goes_unless_a_pull_counts_on_it() {
    let scratch = Scratch::new();
    pull(scratch.store(), "there", &[shared()]);
    let before = content_files(scratch.dir.path());
    let (record, leases) = record(scratch.store(), "b", ImageKind::Image, &[shared(), Piece::blob(b"whole")]);
    let others = scratch.store().put_blob(&Digester::sha256(b"other's"), b"other's").unwrap().lease.key().clone();
    let layers = record.layers.iter().map(|layer| layer.digest.clone());
    let blobs: Vec<_> = layers.chain([record.manifest.clone(), record.config.clone()]).collect();
    assert_eq!(scratch.store().drop_unfinished(&blobs).unwrap().content, []);
    assert!(content_files(scratch.dir.path()).len() > before.len());
    drop(leases);
    let removed = scratch.store().drop_unfinished(&blobs).unwrap();
    assert!(!removed.content.is_empty() && !removed.content.contains(&others), "{removed:?}");
    scratch.store().drop_unfinished(&[Digester::sha256(b"other's")]).unwrap();
    assert_eq!(content_files(scratch.dir.path()), before);
    scratch.assert_sound();
}

#[test]
fn a_tag_that_moved_meanwhile_does_not_take_the_old_image_along() {
    let scratch = Scratch::new();
    pull(scratch.store(), "old", &[Piece::blob(b"old")]);
    let new = pull(scratch.store(), "new", &[Piece::blob(b"new")]);
    scratch.store().commit_held(new, &[reference(&tag("old"))], &command(1)).unwrap();
    scratch.store().release(&command(1)).unwrap();
    assert_eq!(scratch.store().remove(&tag("old")).unwrap().names, [tag("old")]);
    assert_eq!(scratch.store().images().unwrap().len(), 2);
    scratch.assert_sound();
}

/// Pulls and removals of one image at the same time: whatever comes out, no row is without its file, and no file without its row.
#[test]
fn commits_and_removals_do_not_tear() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                match store.remove(&manifest_of("a").to_string()) {
                    Ok(_) | Err(StoreError::NoImage(_) | StoreError::InUse(_) | StoreError::Mounted(_)) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
        let pullers = [1, 2].map(|id| {
            scope.spawn(move || {
                for _ in 0..12 {
                    let (record, leases) = record(store, "a", ImageKind::Artifact, &[shared(), Piece::blob(b"x")]);
                    let image = store.commit_held(record, &names("a"), &command(id)).unwrap();
                    drop(leases);
                    // Held: it must be whole.
                    assert_eq!(store.open_image(&image.manifest).unwrap().devices.len(), 2);
                    store.release(&command(id)).unwrap();
                }
            })
        });
        for puller in pullers {
            puller.join().unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    });
    scratch.assert_sound();
}
