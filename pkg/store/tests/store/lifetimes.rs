//! How long images are needed: uses, terms, pins, and the node's time under all of it.

use std::time::Duration;

use imagevol_api::oci::ImagePattern;
use imagevol_base::Holder;
use imagevol_base::collection::{Goal, NodeTime, Stay, Wish};
use imagevol_store::{Counted, Store, StoreError, Terms, Until, Use};
use rstest::rstest;

use crate::support::{
    Held as _, Piece, Scratch, command, kind, manifest_of, names, pull, record, reference, repository, tag, volume,
};

/// Whatever nobody needs.
const EVERYTHING: Wish = Wish { goal: Goal::Everything, min_age: Duration::ZERO };

fn prefetch() -> Holder {
    format!("prefetch/models/{}", manifest_of("list")).parse().unwrap()
}

fn external() -> Holder {
    "external/backup/nightly".parse().unwrap()
}

fn pattern(text: &str) -> ImagePattern {
    text.parse().unwrap()
}

fn for_seconds(seconds: u64) -> Terms {
    Terms { lasts: Some(Duration::from_secs(seconds)), until: Until::Released }
}

fn counted(scratch: &Scratch, image: &str) -> Counted {
    let census = scratch.store().census().unwrap();
    census.images.into_iter().find(|counted| counted.image == manifest_of(image)).unwrap()
}

pub(crate) fn used(scratch: &Scratch, image: &str) -> Use {
    let Counted { first_seen, last_used, .. } = counted(scratch, image);
    Use { first_seen, last_used }
}

/// Seconds since an image was used.
fn unused(scratch: &Scratch, image: &str) -> u64 {
    scratch.store().now().since(used(scratch, image).last()).as_secs()
}

fn goes(scratch: &Scratch, image: &str) -> bool {
    let plan = imagevol_store::plan(&scratch.store().census().unwrap(), EVERYTHING);
    plan.gone.iter().any(|gone| gone.image == manifest_of(image))
}

#[test]
fn an_image_is_seen_once_and_used_until_its_holder_lets_go() {
    let mut scratch = Scratch::new();
    pull(scratch.store(), "i", &[]);
    let first = used(&scratch, "i");
    scratch.wait(100);
    // Again: it was here.
    pull(scratch.store(), "i", &[]);
    assert_eq!(used(&scratch, "i").first_seen, first.first_seen);
    assert!(scratch.store().bind_held(&volume("v"), &manifest_of("i")).unwrap());
    scratch.wait(1000);
    scratch.reopen();
    assert_eq!(unused(&scratch, "i"), 0);
    scratch.wait(1000);
    scratch.store().release(&volume("v")).unwrap();
    scratch.wait(50);
    assert_eq!(unused(&scratch, "i"), 50);
    scratch.reopen();
    assert_eq!(unused(&scratch, "i"), 50);
    scratch.store().remove(&tag("i")).unwrap();
    pull(scratch.store(), "i", &[]);
    assert!(used(&scratch, "i").first_seen.time > first.first_seen.time);
}

#[rstest]
#[case::wants_another(|store: &Store| store.hold(&volume("v"), &tag("other")).unwrap())]
#[case::is_bound_to_another(|store: &Store| assert!(store.bind(&volume("v"), &manifest_of("other")).unwrap()))]
#[case::lets_go(|store: &Store| drop(store.release(&volume("v")).unwrap()))]
fn whoever_waits_for_a_name_uses_what_it_leads_to(#[case] ends: impl Fn(&Store)) {
    let scratch = Scratch::new();
    pull(scratch.store(), "other", &[]);
    pull(scratch.store(), "i", &[]);
    scratch.store().hold(&volume("v"), &tag("i")).unwrap();
    scratch.wait(100);
    ends(scratch.store());
    scratch.wait(7);
    assert_eq!(unused(&scratch, "i"), 7);
}

#[test]
fn a_kill_makes_an_image_in_use_no_older_than_a_minute() {
    let mut scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[]);
    assert!(scratch.store().bind_held(&volume("v"), &image.manifest).unwrap());
    for _ in 0..20 {
        scratch.wait(10);
        counted(&scratch, "i");
    }
    scratch.reopen();
    assert!(scratch.store().now().since(counted(&scratch, "i").last_used.unwrap().time) < Duration::from_mins(1));
}

#[test]
fn time_goes_on_only_while_the_node_runs() {
    let mut scratch = Scratch::new();
    scratch.wait(1000);
    pull(scratch.store(), "i", &[]);
    let before = scratch.store().now();
    scratch.clock.reboot(Duration::from_secs(30));
    scratch.reopen();
    assert_eq!(scratch.store().now(), NodeTime(before.0 + 30));
    assert_eq!(unused(&scratch, "i"), 30);
    // Killed and started again, in the same run of the kernel.
    scratch.wait(15);
    scratch.reopen();
    assert_eq!(unused(&scratch, "i"), 45);
}

#[test]
fn a_clock_that_lost_its_row_goes_on_from_the_others() {
    let mut scratch = Scratch::new();
    scratch.wait(5000);
    pull(scratch.store(), "i", &[]);
    let seen = used(&scratch, "i");
    scratch.reopen_after(|dir| crate::recovery::remove_row(dir, "meta", "clock"));
    assert_eq!(used(&scratch, "i"), seen);
    assert!(scratch.store().now() >= seen.last());
}

#[test]
fn a_reference_ends_when_it_is_not_renewed() {
    let mut scratch = Scratch::new();
    pull(scratch.store(), "i", &[]);
    let store = scratch.store();
    store.hold_for(&external(), &tag("i"), for_seconds(100)).unwrap();
    scratch.wait(60);
    store.hold_for(&external(), &tag("i"), for_seconds(100)).unwrap();
    scratch.wait(99);
    assert!(!goes(&scratch, "i"));
    assert_eq!(kind(&scratch.store().remove(&tag("i")).unwrap_err()), "InUse");
    scratch.clock.reboot(Duration::from_secs(1));
    // It keeps nothing any more, whether or not somebody has dropped its row.
    let store = scratch.reopen();
    assert_eq!(store.references().unwrap(), []);
    let image = store.resolve(&tag("i")).unwrap().unwrap();
    assert_eq!(store.holders_of(&image).unwrap(), []);
    assert_eq!(unused(&scratch, "i"), 0);
    assert_eq!(scratch.store().remove(&tag("i")).unwrap().images.len(), 1);
}

#[test]
fn an_expired_row_keeps_nothing_before_it_is_dropped() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[]);
    scratch.store().hold_for(&external(), &tag("i"), for_seconds(10)).unwrap();
    scratch.wait(10);
    assert_eq!(scratch.store().references().unwrap().len(), 1);
    assert_eq!(scratch.store().holders_of(&image).unwrap(), []);
    assert!(scratch.store().image_states().unwrap()[0].holders.is_empty());
    scratch.store().expire().unwrap();
    assert_eq!(scratch.store().references().unwrap(), []);
}

#[test]
fn what_was_fetched_ahead_is_held_until_a_pod_uses_it() {
    let scratch = Scratch::new();
    let store = scratch.store();
    let until_used = Terms { lasts: None, until: Until::Used };
    let image = pull(store, "i", &[]);
    pull(store, "other", &[]);
    let other = Holder::Prefetch { list: "models".parse().unwrap(), reference: manifest_of("x") };
    store.hold_for(&prefetch(), &tag("i"), until_used).unwrap();
    store.hold_for(&other, &tag("other"), until_used).unwrap();
    store.hold_for(&external(), &tag("i"), Terms::default()).unwrap();
    // A command is nobody's use.
    assert!(store.bind_held(&command(5), &image.manifest).unwrap());
    assert_eq!(store.references().unwrap().len(), 4);
    store.hold(&volume("v"), &tag("i")).unwrap();
    assert_eq!(store.references().unwrap().len(), 5);
    assert!(store.bind(&volume("v"), &image.manifest).unwrap());
    let left: Vec<_> = store.references().unwrap().into_iter().map(|(holder, _)| holder).collect();
    assert_eq!(left, [command(5), external(), other, volume("v")]);
}

#[test]
fn a_pull_for_a_pod_takes_the_place_of_what_was_fetched_ahead() {
    let scratch = Scratch::new();
    let store = scratch.store();
    store.hold_for(&prefetch(), &tag("i"), Terms { lasts: None, until: Until::Used }).unwrap();
    store.hold(&volume("v"), &tag("i")).unwrap();
    let (record, _leases) = record(store, "i", imagevol_store::ImageKind::Artifact, &[]);
    store.commit_held(record, &names("i"), &volume("v")).unwrap();
    let left: Vec<_> = store.references().unwrap().into_iter().map(|(holder, _)| holder).collect();
    assert_eq!(left, [volume("v")]);
}

#[rstest]
#[case::reference(tag("i"))]
#[case::digest(manifest_of("i").to_string())]
#[case::glob("r.example:5000/*".to_owned())]
fn a_pinned_image_stays(#[case] text: String) {
    let mut scratch = Scratch::new();
    pull(scratch.store(), "i", &[Piece::blob(b"x")]);
    let pin = pattern(&text);
    for _ in 0..2 {
        scratch.store().pin(&pin).unwrap();
    }
    let store = scratch.reopen();
    let pins = store.pins().unwrap();
    assert_eq!((pins.len(), &pins[0].0, &pins[0].1.images), (1, &pin, &vec![manifest_of("i")]));
    let StoreError::Pinned(by) = store.remove(&manifest_of("i").to_string()).unwrap_err() else { panic!("not pinned") };
    assert_eq!(by, std::slice::from_ref(&text));
    let error = store.remove(&tag("i")).unwrap_err();
    assert_eq!(error.to_string(), format!("image is pinned by {text}: unpin it first"));
    assert!(!goes(&scratch, "i"));
    let store = scratch.store();
    assert_eq!(kind(&store.remove_unneeded(&manifest_of("i"), store.now()).unwrap_err()), "Pinned");
    assert!(store.unpin(&pin).unwrap() && !store.unpin(&pin).unwrap());
    assert_eq!(store.remove(&tag("i")).unwrap().images.len(), 1);
}

#[test]
fn a_name_goes_only_if_the_image_stays_pinned_without_it() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[]);
    let other = format!("{}:2", repository("i"));
    scratch.store().commit_held(image, &[reference(&other)], &command(1)).unwrap();
    scratch.store().release(&command(1)).unwrap();
    scratch.store().pin(&pattern(&other)).unwrap();
    assert_eq!(kind(&scratch.store().remove(&other).unwrap_err()), "Pinned");
    assert_eq!(scratch.store().remove(&tag("i")).unwrap().names, [tag("i")]);
}

#[test]
fn a_pin_of_a_tag_goes_where_the_tag_goes() {
    let scratch = Scratch::new();
    pull(scratch.store(), "old", &[]);
    let new = pull(scratch.store(), "new", &[]);
    scratch.store().pin(&pattern(&tag("old"))).unwrap();
    scratch.store().commit_held(new, &[reference(&tag("old"))], &command(1)).unwrap();
    scratch.store().release(&command(1)).unwrap();
    assert_eq!(scratch.store().pins().unwrap()[0].1.images, [manifest_of("new")]);
    assert!(goes(&scratch, "old") && !goes(&scratch, "new"));
}

#[test]
fn removal_holds_against_what_happened_since_the_census() {
    let scratch = Scratch::new();
    let store = scratch.store();
    for image in ["held", "used", "pulled", "pinned", "gone", "idle"] {
        pull(store, image, &[]);
    }
    let seen = store.census().unwrap().taken;
    store.hold(&volume("v"), &tag("held")).unwrap();
    assert!(store.bind_held(&volume("w"), &manifest_of("used")).unwrap());
    store.release(&volume("w")).unwrap();
    store.remove(&tag("pulled")).unwrap();
    pull(store, "pulled", &[]);
    store.pin(&pattern(&tag("pinned"))).unwrap();
    store.remove(&tag("gone")).unwrap();
    let results = ["held", "used", "pulled", "pinned", "gone", "idle"].map(|image| {
        let removed = store.remove_unneeded(&manifest_of(image), seen);
        removed.map_or_else(|error| kind(&error), |removed| format!("{} freed", removed.freed_bytes > 0))
    });
    assert_eq!(results, ["InUse", "UsedSince", "UsedSince", "Pinned", "NoImage", "true freed"]);
    scratch.assert_sound();
}

#[test]
fn what_was_just_let_go_may_go_at_once() {
    let scratch = Scratch::new();
    let image = pull(scratch.store(), "i", &[]);
    for _ in 0..3 {
        assert!(scratch.store().bind_held(&volume("v"), &image.manifest).unwrap());
        let plan = imagevol_store::plan(&scratch.store().census().unwrap(), EVERYTHING);
        assert_eq!(plan.stayed[0].because, Stay::Held(vec![volume("v")]));
        scratch.store().release(&volume("v")).unwrap();
        assert!(goes(&scratch, "i"));
    }
}
