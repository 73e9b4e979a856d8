//! References: rows that keep images.

use imagevol_store::Reference;
use rstest::rstest;

use crate::support::{
    Held as _, Piece, Scratch, command, digest_name, kind, manifest_of, pull, repository, tag, volume,
};

fn row(scratch: &Scratch) -> Option<Reference> {
    scratch.store().references().unwrap().into_iter().find(|(holder, _)| *holder == volume("v")).map(|(_, row)| row)
}

#[test]
fn a_holder_waits_is_bound_and_lets_go() {
    let mut scratch = Scratch::new();
    let store = scratch.store();
    store.hold(&volume("v"), &tag("i")).unwrap();
    assert_eq!(row(&scratch).unwrap().image, None);
    assert!(!scratch.store().bind_held(&volume("v"), &manifest_of("i")).unwrap());
    assert_eq!(row(&scratch).unwrap().image, None);
    pull(scratch.store(), "i", &[]);
    assert!(scratch.store().bind_held(&volume("v"), &manifest_of("i")).unwrap());
    scratch.reopen();
    let bound = row(&scratch).unwrap();
    assert_eq!((bound.reference.as_str(), &bound.image), (tag("i").as_str(), &Some(manifest_of("i"))));
    // Again is no change, and keeps the time.
    scratch.store().hold(&volume("v"), &tag("i")).unwrap();
    assert!(scratch.store().bind_held(&volume("v"), &manifest_of("i")).unwrap());
    assert_eq!(row(&scratch).unwrap(), bound);
    // Something else is wanted: the old image is held no more.
    scratch.store().hold(&volume("v"), &tag("j")).unwrap();
    assert_eq!(row(&scratch).unwrap().image, None);
    assert_eq!(scratch.store().release(&volume("v")).unwrap(), None);
    assert_eq!(scratch.store().release(&volume("v")).unwrap(), None);
    assert_eq!(row(&scratch), None);
}

#[test]
fn a_commit_binds_its_holder() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[Piece::blob(b"x")]);
    scratch.store().hold(&volume("v"), &tag("i")).unwrap();
    scratch.store().commit_held(image.clone(), &[], &volume("v")).unwrap();
    let bound = row(&scratch).unwrap();
    assert_eq!((bound.reference, bound.image), (tag("i"), Some(image.manifest.clone())));
    assert_eq!(scratch.store().holders_of(&image).unwrap(), [volume("v")]);
    assert_eq!(scratch.store().release(&volume("v")).unwrap(), Some(image.manifest));
}

#[rstest]
#[case::its_tag(tag("i"), true)]
#[case::its_digest(digest_name("i"), true)]
#[case::a_tag_beside_its_digest(format!("{}:any@{}", repository("i"), manifest_of("i")), true)]
#[case::the_image_itself(manifest_of("i").to_string(), true)]
#[case::another_tag(format!("{}:2", repository("i")), false)]
#[case::another_image(tag("j"), false)]
#[case::nonsense("?".to_owned(), false)]
fn a_waiting_holder_keeps_what_it_waits_for(#[case] reference: String, #[case] keeps: bool) {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[]);
    scratch.store().hold(&volume("v"), &reference).unwrap();
    assert_eq!(scratch.store().holders_of(&image).unwrap(), if keeps { vec![volume("v")] } else { vec![] });
    let removed = scratch.store().remove(&manifest_of("i").to_string());
    assert_eq!(removed.as_ref().err().map(kind), keeps.then(|| "InUse".to_owned()));
}

#[test]
fn holders_that_live_in_the_process_end_with_it() {
    let mut scratch = Scratch::new();
    scratch.store().hold(&command(7), &tag("i")).unwrap();
    scratch.store().hold(&volume("v"), &tag("i")).unwrap();
    let holders: Vec<_> = scratch.reopen().references().unwrap().into_iter().map(|(holder, _)| holder).collect();
    assert_eq!(holders, [volume("v")]);
}

#[test]
fn a_holder_that_gave_its_row_up_gets_none_back() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[Piece::blob(b"x")]);
    let store = scratch.store();
    assert!(!store.bind(&volume("gone"), &image.manifest).unwrap());
    store.commit_image(image, &[], &volume("gone")).unwrap();
    assert!(store.references().unwrap().iter().all(|(holder, _)| *holder != volume("gone")));
}
