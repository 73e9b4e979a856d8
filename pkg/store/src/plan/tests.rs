use imagevol_api::oci::Digest;
use imagevol_base::Digester;
use imagevol_base::collection::NodeTime;
use rstest::rstest;

use super::*;
use crate::census::Piece;
use crate::{ContentKey, ImageKind, Moment};

/// When every census of these tests is taken.
const NOW: u64 = 10_000;

fn digest(number: u64) -> Digest {
    Digester::sha256(&number.to_be_bytes())
}

fn moment(time: u64) -> Moment {
    Moment { time: NodeTime(time), at: 0 }
}

/// An image of pieces by their positions, with 1 byte of its own.
fn image(number: u64, first_seen: u64, last_used: Option<u64>, content: &[usize]) -> Counted {
    Counted {
        image: digest(number),
        names: vec![format!("r.io/i:{number}")],
        kind: ImageKind::Image,
        size: 0,
        freed_bytes: 0,
        first_seen: moment(first_seen),
        last_used: last_used.map(moment),
        holders: Vec::new(),
        pins: Vec::new(),
        mounted: false,
        index_bytes: 1,
        content: content.to_vec(),
    }
}

/// A piece for each position that an image has, of 100 bytes, 200, 400 and so on.
fn census(images: Vec<Counted>) -> Census {
    let count = images.iter().flat_map(|image| &image.content).max().map_or(0, |last| last + 1);
    let uses = |position| images.iter().filter(|image| image.content.contains(&position)).count();
    let piece = |position| Piece {
        key: ContentKey::Blob(digest(1000 + position as u64)),
        bytes: 100_u64 << position,
        images: uses(position),
        leased: false,
        is_file: false,
    };
    let content = (0..count).map(piece).collect();
    Census { taken: NodeTime(NOW), images, content }
}

fn wish(goal: Goal) -> Wish {
    Wish { goal, min_age: Duration::from_mins(2) }
}

fn gone(collection: &Collection) -> Vec<(Digest, u64)> {
    collection.gone.iter().map(|image| (image.image.clone(), image.freed_bytes)).collect()
}

fn because(collection: &Collection, number: u64) -> Option<Stay> {
    collection.stayed.iter().find(|stayed| stayed.image == digest(number)).map(|stayed| stayed.because.clone())
}

#[test]
fn those_go_first_that_were_used_least_recently() {
    let images = vec![
        image(1, 100, Some(900), &[]),
        // Never used: it counts from when it came.
        image(2, 500, None, &[]),
        image(3, 100, Some(300), &[]),
        image(4, 200, Some(900), &[]),
    ];
    let collection = plan(&census(images), wish(Goal::Everything));
    assert_eq!(gone(&collection), [3, 2, 1, 4].map(|number| (digest(number), 1)));
    assert_eq!(collection.gone[0].unused_for, Duration::from_secs(NOW - 300));
}

#[test]
fn ends_when_enough_is_freed() {
    let images = vec![image(1, 0, None, &[0]), image(2, 1, None, &[1]), image(3, 2, None, &[2])];
    for (wanted, count) in [(0, 0), (1, 1), (101, 1), (102, 2), (302, 2), (303, 3), (10_000, 3)] {
        let collection = plan(&census(images.clone()), wish(Goal::Free(wanted)));
        assert_eq!(collection.gone.len(), count, "{wanted}");
        assert_eq!(because(&collection, 3), (count < 3).then_some(Stay::NotNeeded), "{wanted}");
    }
}

#[test]
fn bytes_are_those_that_the_disk_gets_back() {
    let mut shared = census(vec![
        image(1, 0, None, &[0, 1]),
        image(2, 1, None, &[0, 2]),
        Counted { mounted: true, ..image(3, 2, None, &[2, 3]) },
    ]);
    // With the last of them; not what stays with another.
    assert_eq!(gone(&plan(&shared, wish(Goal::Everything))), [(digest(1), 201), (digest(2), 101)]);
    shared.content[1].leased = true;
    assert_eq!(plan(&shared, wish(Goal::Everything)).freed_bytes(), 102);
}

#[rstest]
#[case::held(|image: &mut Counted| image.holders.push(held()), Stay::Held(vec![held().0]))]
#[case::pinned(|image: &mut Counted| image.pins.push("r.io/*".parse().unwrap()), Stay::Pinned(vec!["r.io/*".to_owned()]))]
#[case::mounted(|image: &mut Counted| image.mounted = true, Stay::Mounted)]
#[case::young(|image: &mut Counted| image.first_seen = moment(NOW - 119), Stay::Young(Duration::from_secs(1)))]
#[case::used_meanwhile(|image: &mut Counted| image.last_used = Some(moment(NOW)), Stay::Young(Duration::ZERO))]
#[case::seen_later(|image: &mut Counted| image.first_seen = moment(NOW + 5), Stay::Young(Duration::from_mins(2)))]
fn stays_whatever_the_goal(#[case] change: impl Fn(&mut Counted), #[case] expected: Stay) {
    let mut images = vec![image(1, 0, None, &[0])];
    change(&mut images[0]);
    for goal in [Goal::Everything, Goal::Free(u64::MAX), Goal::UnusedFor(Duration::ZERO)] {
        let collection = plan(&census(images.clone()), wish(goal));
        assert_eq!((gone(&collection), because(&collection, 1)), (vec![], Some(expected.clone())), "{goal:?}");
    }
}

fn held() -> (imagevol_base::Holder, crate::Reference) {
    let reference = crate::Reference {
        reference: "r.io/i:1".to_owned(),
        image: None,
        since: 0,
        expires: None,
        until: crate::Until::Released,
    };
    ("external/a/b".parse().unwrap(), reference)
}

#[rstest]
#[case::just_too_long(None, 3000, true)]
#[case::just_not(None, 4000, false)]
#[case::used_since(Some(5000), 100, false)]
#[case::used_before(Some(3999), 100, true)]
fn goes_when_nobody_has_used_it_for_longer(#[case] used: Option<u64>, #[case] first_seen: u64, #[case] goes: bool) {
    let collection =
        plan(&census(vec![image(1, first_seen, used, &[])]), wish(Goal::UnusedFor(Duration::from_secs(NOW - 4000))));
    assert_eq!(collection.gone.len(), usize::from(goes));
    if !goes {
        let left = used.unwrap_or(first_seen) - 4000;
        assert_eq!(because(&collection, 1), Some(Stay::Young(Duration::from_secs(left))));
    }
}
