use jiff::SignedDuration;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap() + SignedDuration::from_secs(seconds)
}

fn observation(message: &str, seconds: i64) -> Observation {
    let about = ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some("default".into()),
        name: Some("web".into()),
        uid: Some("u1".into()),
        api_version: Some("v1".into()),
        ..ObjectReference::default()
    };
    Observation { about, kind: EventKind::Warning, reason: "Failed", message: message.into(), at: at(seconds) }
}

fn other(change: impl FnOnce(&mut Observation)) -> Observation {
    let mut event = observation("text", 1);
    change(&mut event);
    event
}

#[test]
fn names_an_event_by_object_and_nanoseconds() {
    let counted = Correlator::new().correlate(&observation("text", 0)).unwrap();
    assert_eq!(counted.name, format!("web.{:x}", 1_700_000_000_i64 * 1_000_000_000));
    assert_eq!((counted.count, counted.first), (1, at(0)));
}

#[test]
fn names_differ_when_the_clock_stands_still() {
    let mut correlator = Correlator::new();
    let first = correlator.correlate(&observation("a", 0)).unwrap();
    let second = correlator.correlate(&observation("b", 0)).unwrap();
    let back = correlator.correlate(&observation("c", -5)).unwrap();
    assert!(first.name < second.name && second.name < back.name);
}

#[test]
fn the_same_event_again_is_a_count() {
    let mut correlator = Correlator::new();
    let first = correlator.correlate(&observation("text", 0)).unwrap();
    let again = correlator.correlate(&observation("text", 5)).unwrap();
    assert_eq!(again, Counted { count: 2, ..first });
}

#[rstest]
#[case::field_path(other(|e| e.about.field_path = Some("spec.containers{a}".into())))]
#[case::message(other(|e| e.message = "other".into()))]
#[case::reason(other(|e| e.reason = "BackOff"))]
#[case::kind(other(|e| e.kind = EventKind::Normal))]
#[case::uid(other(|e| e.about.uid = Some("u2".into())))]
#[case::name(other(|e| e.about.name = Some("web2".into())))]
#[case::namespace(other(|e| e.about.namespace = Some("prod".into())))]
#[case::object_kind(other(|e| e.about.kind = Some("Node".into())))]
fn a_different_event_is_an_event_of_its_own(#[case] second: Observation) {
    let mut correlator = Correlator::new();
    let first = correlator.correlate(&observation("text", 0)).unwrap();
    let second = correlator.correlate(&second).unwrap();
    assert_ne!(first.name, second.name);
    assert_eq!(second.count, 1);
}

#[test]
fn the_tenth_distinct_text_and_later_ones_share_one_event() {
    let mut correlator = Correlator::new();
    let singles: Vec<_> = (0..9).map(|i| correlator.correlate(&observation(&format!("m{i}"), i)).unwrap()).collect();
    assert!(singles.iter().all(|single| single.count == 1 && !single.message.contains("combined")));
    let tenth = correlator.correlate(&observation("m9", 9)).unwrap();
    assert_eq!((tenth.message.as_str(), tenth.count), ("(combined from similar events): m9", 1));
    let eleventh = correlator.correlate(&observation("m10", 10)).unwrap();
    assert_eq!((eleventh.name, eleventh.count), (tenth.name, 2));
    assert_eq!(eleventh.message, "(combined from similar events): m10");
}

#[test]
fn field_paths_do_not_make_a_text_distinct() {
    let mut correlator = Correlator::new();
    for i in 0..12 {
        let mut event = observation("same", i);
        event.about.field_path = Some(format!("spec.containers{{c{i}}}"));
        let counted = correlator.correlate(&event).unwrap();
        assert_eq!((counted.message.as_str(), counted.count), ("same", 1));
    }
}

#[rstest]
#[case::at_the_window_edge(600, "(combined from similar events): m9")]
#[case::after_the_window(601, "m9")]
fn a_group_is_forgotten_ten_minutes_after_its_last_event(#[case] pause: i64, #[case] message: &str) {
    let mut correlator = Correlator::new();
    for i in 0..9 {
        correlator.correlate(&observation(&format!("m{i}"), 0)).unwrap();
    }
    assert_eq!(correlator.correlate(&observation("m9", pause)).unwrap().message, message);
}

#[test]
fn the_window_rolls_with_each_similar_event() {
    let mut correlator = Correlator::new();
    let messages: Vec<_> =
        (0..10).map(|i| correlator.correlate(&observation(&format!("m{i}"), i * 500)).unwrap().message).collect();
    assert_eq!(messages.last().unwrap(), "(combined from similar events): m9");
}

#[test]
fn a_burst_is_cut_at_25_and_refilled_by_one_in_five_minutes() {
    let mut correlator = Correlator::new();
    let passed = (0..40).filter(|_| correlator.correlate(&observation("text", 0)).is_some()).count();
    assert_eq!(passed, 25);
    assert!(correlator.correlate(&observation("text", 299)).is_none());
    // What was dropped has been counted.
    assert_eq!(correlator.correlate(&observation("text", 300)).unwrap().count, 42);
    assert!(correlator.correlate(&observation("text", 301)).is_none());
}

#[test]
fn the_burst_is_per_object_and_type() {
    let mut correlator = Correlator::new();
    for _ in 0..30 {
        correlator.correlate(&observation("text", 0));
    }
    assert!(correlator.correlate(&other(|e| e.kind = EventKind::Normal)).is_some());
    assert!(correlator.correlate(&other(|e| e.about.uid = Some("u2".into()))).is_some());
    assert!(correlator.correlate(&other(|e| e.reason = "BackOff")).is_none());
}

#[test]
fn a_clock_that_goes_back_refills_nothing() {
    let mut correlator = Correlator::new();
    for _ in 0..25 {
        correlator.correlate(&observation("text", 0)).unwrap();
    }
    assert!(correlator.correlate(&observation("text", -100_000)).is_none());
    assert!(correlator.correlate(&observation("text", 0 - 100_000)).is_none());
}

proptest! {
    #[test]
    fn counts_add_up_and_the_rate_holds(texts in prop::collection::vec((0..15_u8, 0..400_i64), 1..200)) {
        let mut correlator = Correlator::new();
        let (mut now, mut passed) = (0, 0_u32);
        for (text, pause) in &texts {
            now += pause;
            if let Some(counted) = correlator.correlate(&observation(&format!("m{text}"), now)) {
                passed += 1;
                prop_assert!(counted.count >= 1);
                prop_assert!(counted.first <= at(now));
            }
        }
        let refilled = u32::try_from(now / 300).unwrap();
        prop_assert!(passed <= 25 + refilled);
    }
}
