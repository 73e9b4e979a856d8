use imagevol_api::prefetch::CheckedImage;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn image(number: u8) -> ImageId {
    ImageId::new(format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap())
}

fn item(name: &str, policy: PrefetchPolicy) -> Item {
    let written = format!("quay.io/{name}:v1");
    let reference = imagevol_api::oci::Reference::parse(&written).unwrap();
    let key = Key::new("models".parse().unwrap(), &written);
    Item { key, image: CheckedImage { written, reference, policy, deadline: None, keep_unused_for: None } }
}

fn every_hour() -> PrefetchPolicy {
    PrefetchPolicy::Always(Some("@hourly".parse().unwrap()))
}

fn lists(items: &[Item]) -> Lists {
    Lists { items: items.to_vec(), problems: Vec::new(), complete: Completeness::Complete }
}

fn row(item: &Item, image: Option<ImageId>) -> Row {
    Row { reference: item.reference(), image, expires: None }
}

fn present(number: u8, pulled_at: Timestamp) -> Present {
    Present { image: image(number), pulled_at }
}

/// Held, and its image here, pulled two hours ago.
fn held(item: &Item) -> Known {
    Known {
        rows: BTreeMap::from([(item.key.clone(), row(item, Some(image(1))))]),
        present: BTreeMap::from([(item.reference(), present(1, at(-7200)))]),
        ..Known::default()
    }
}

fn pull(item: &Item, policy: PullPolicy) -> Action {
    Action::Pull(item.key.clone(), item.reference(), policy)
}

#[rstest]
#[case(PrefetchPolicy::Always(None))]
#[case(PrefetchPolicy::IfNotPresent)]
#[case(PrefetchPolicy::Never)]
fn the_row_comes_first(#[case] policy: PrefetchPolicy) {
    let item = item("a", policy);
    let actions = plan(&lists(std::slice::from_ref(&item)), &Known::default(), at(0));
    assert_eq!(actions, [Action::Hold(item.key.clone(), item.reference())]);
}

#[rstest]
#[case::absent(PrefetchPolicy::IfNotPresent, false, Some(PullPolicy::IfNotPresent))]
#[case::absent_always(PrefetchPolicy::Always(None), false, Some(PullPolicy::Always))]
#[case::here_always(PrefetchPolicy::Always(None), true, Some(PullPolicy::Always))]
#[case::never(PrefetchPolicy::Never, false, None)]
fn then_the_pull(#[case] policy: PrefetchPolicy, #[case] is_here: bool, #[case] expected: Option<PullPolicy>) {
    let item = item("a", policy);
    let mut known = held(&item);
    known.rows.insert(item.key.clone(), row(&item, None));
    if !is_here {
        known.present.clear();
    }
    let expected: Vec<_> = expected.map(|policy| pull(&item, policy)).into_iter().collect();
    assert_eq!(plan(&lists(std::slice::from_ref(&item)), &known, at(0)), expected);
}

#[rstest]
#[case(PrefetchPolicy::IfNotPresent)]
#[case(PrefetchPolicy::Never)]
fn what_is_here_is_only_kept(#[case] policy: PrefetchPolicy) {
    let item = item("a", policy);
    let mut known = held(&item);
    known.rows.insert(item.key.clone(), row(&item, None));
    let actions = plan(&lists(std::slice::from_ref(&item)), &known, at(0));
    assert_eq!(actions, [Action::Bind(item.key.clone(), image(1))]);
}

#[rstest]
#[case(PrefetchPolicy::Always(None))]
#[case(PrefetchPolicy::IfNotPresent)]
fn a_restart_pulls_nothing_again_and_a_moved_tag_is_followed(#[case] policy: PrefetchPolicy) {
    let item = item("a", policy);
    let mut known = held(&item);
    assert_eq!(plan(&lists(std::slice::from_ref(&item)), &known, at(0)), []);
    known.present.insert(item.reference(), present(2, at(0)));
    let actions = plan(&lists(std::slice::from_ref(&item)), &known, at(0));
    assert_eq!(actions, [Action::Bind(item.key.clone(), image(2))]);
    known.present.clear();
    assert!(matches!(&plan(&lists(std::slice::from_ref(&item)), &known, at(0))[..], [Action::Pull(..)]));
}

/// `NOW` is at 8 o'clock.
#[test]
fn a_schedule_asks_again_and_a_missed_time_is_made_up_for() {
    let item = item("a", every_hour());
    let lists = lists(std::slice::from_ref(&item));
    let mut known = held(&item);
    assert_eq!(plan(&lists, &known, at(0)), [pull(&item, PullPolicy::Always)], "missed while no daemon ran");
    known.asked.insert(item.key.clone(), at(0));
    assert_eq!(plan(&lists, &known, at(0)), []);
    assert_eq!(next_change(&lists, &known, at(0)), Some(at(3600)));
    assert_eq!(plan(&lists, &known, at(3599)), []);
    assert_eq!(plan(&lists, &known, at(3600)), [pull(&item, PullPolicy::Always)]);
    known.waiting.insert(item.key.clone());
    assert_eq!(plan(&lists, &known, at(3600)), [], "it failed, and waits");
}

#[test]
fn few_are_pulled_at_once_in_their_order() {
    let items: Vec<_> = ["a", "b", "c", "d"].map(|name| item(name, PrefetchPolicy::IfNotPresent)).into();
    let rows = items.iter().map(|item| (item.key.clone(), row(item, None))).collect();
    let mut known = Known { rows, ..Known::default() };
    let pulls = |of: &[usize]| of.iter().map(|of| pull(&items[*of], PullPolicy::IfNotPresent)).collect::<Vec<_>>();
    assert_eq!(plan(&lists(&items), &known, at(0)), pulls(&[0, 1]));
    known.pulling.insert(items[1].key.clone());
    assert_eq!(plan(&lists(&items), &known, at(0)), pulls(&[0]));
    known.waiting.insert(items[0].key.clone());
    assert_eq!(plan(&lists(&items), &known, at(0)), pulls(&[2]), "one that failed is not in the way");
}

#[test]
fn a_deadline_ends_it() {
    let mut item = item("a", PrefetchPolicy::IfNotPresent);
    item.image.deadline = Some(at(10));
    let lists = lists(std::slice::from_ref(&item));
    let mut known = held(&item);
    assert_eq!((plan(&lists, &known, at(9)), next_change(&lists, &known, at(9))), (vec![], Some(at(10))));
    known.pulling.insert(item.key.clone());
    let (cancel, release) = (Action::Cancel(item.key.clone()), Action::Release(item.key.clone()));
    assert_eq!(plan(&lists, &known, at(10)), [cancel, release]);
    assert_eq!(phase(&item, &known, at(10), false), Phase::Ended);
    assert_eq!(plan(&lists, &Known::default(), at(10)), []);
}

#[test]
fn the_clock_of_an_unused_image_starts_when_it_is_here_and_only_once() {
    let mut item = item("a", PrefetchPolicy::IfNotPresent);
    item.image.keep_unused_for = Some(Duration::from_mins(1));
    let wanted = lists(std::slice::from_ref(&item));
    let mut known = held(&item);
    let start = Action::StartClock(item.key.clone(), item.reference(), Duration::from_mins(1));
    assert_eq!(plan(&wanted, &known, at(0)), std::slice::from_ref(&start));
    known.started.insert(item.key.clone());
    assert_eq!(plan(&wanted, &known, at(0)), [start], "killed before the row had its end");
    known.rows.get_mut(&item.key).unwrap().expires = Some(at(60));
    assert_eq!((plan(&wanted, &known, at(0)), phase(&item, &known, at(0), false)), (vec![], Phase::Present));
    known.rows.clear();
    assert_eq!(plan(&wanted, &known, at(0)), [], "used, or its time is over: it does not come back");
    known.present.clear();
    assert_eq!((plan(&wanted, &known, at(0)), phase(&item, &known, at(0), false)), (vec![], Phase::Ended));
    item.image.keep_unused_for = None;
    let hold = Action::Hold(item.key.clone(), item.reference());
    assert_eq!(plan(&lists(std::slice::from_ref(&item)), &known, at(0)), [hold], "the list asks for more");
}

#[test]
fn what_no_list_names_is_given_up_once_all_lists_are_known() {
    let item = item("a", PrefetchPolicy::IfNotPresent);
    let mut known = held(&item);
    known.pulling.insert(item.key.clone());
    known.started.insert(item.key.clone());
    let mut none = lists(&[]);
    let key = || item.key.clone();
    assert_eq!(plan(&none, &known, at(0)), [Action::Cancel(key()), Action::Release(key()), Action::Forget(key())]);
    none.complete = Completeness::Partial;
    assert_eq!(plan(&none, &known, at(0)), []);
}

#[test]
fn a_failed_pull_of_what_is_here_does_not_make_it_absent() {
    let item = item("a", every_hour());
    let known = held(&item);
    assert_eq!(phase(&item, &known, at(0), true), Phase::Present);
    assert_eq!(phase(&item, &Known { present: BTreeMap::new(), ..known }, at(0), true), Phase::Failed);
}

/// What actions do where every pull works; images of one reference move from pull to pull.
fn carry_out(known: &mut Known, actions: Vec<Action>, now: Timestamp) {
    for action in actions {
        match action {
            Action::Hold(key, reference) => {
                let image = known.rows.get(&key).and_then(|row| row.image.clone());
                known.rows.insert(key, Row { reference, image, expires: None });
            }
            Action::StartClock(key, reference, lasts) => {
                known.started.insert(key.clone());
                let image = known.rows.get(&key).and_then(|row| row.image.clone());
                known.rows.insert(key, Row { reference, image, expires: Some(now.checked_add(lasts).unwrap()) });
            }
            Action::Bind(key, image) => known.rows.get_mut(&key).unwrap().image = Some(image),
            Action::Pull(key, reference, _) => {
                known.pulling.insert(key.clone());
                known.present.insert(reference, present(9, now));
                known.rows.get_mut(&key).unwrap().image = Some(image(9));
                known.asked.insert(key, now);
            }
            Action::Cancel(key) => assert!(known.pulling.remove(&key)),
            Action::Release(key) => assert!(known.rows.remove(&key).is_some()),
            Action::Forget(key) => assert!(known.started.remove(&key)),
        }
    }
}

fn any_policy() -> impl Strategy<Value = PrefetchPolicy> {
    prop_oneof![
        Just(PrefetchPolicy::Always(None)),
        Just(every_hour()),
        Just(PrefetchPolicy::IfNotPresent),
        Just(PrefetchPolicy::Never),
    ]
}

fn any_item(number: usize) -> impl Strategy<Value = Item> {
    let keep = proptest::option::of((1_u64..5000).prop_map(Duration::from_secs));
    (any_policy(), proptest::option::of(-50_i64..50), keep).prop_map(move |(policy, deadline, keep_unused_for)| {
        let mut item = item(&format!("i{number}"), policy);
        item.image.deadline = deadline.map(at);
        item.image.keep_unused_for = keep_unused_for;
        item
    })
}

prop_compose! {
    /// Something may be known of each item, and of one that no list names.
    fn any_world()(
        items in (any_item(0), any_item(1), any_item(2), any_item(3)),
        listed in proptest::array::uniform4(any::<bool>()),
        rows in proptest::array::uniform4(proptest::option::of((proptest::option::of(0_u8..3), any::<bool>()))),
        here in proptest::array::uniform4(proptest::option::of((0_u8..3, -10_000_i64..0))),
        flags in proptest::array::uniform4((any::<bool>(), any::<bool>(), any::<bool>())),
        complete in any::<bool>(),
    ) -> (Lists, Known) {
        let items = [items.0, items.1, items.2, items.3];
        let mut known = Known::default();
        for (index, item) in items.iter().enumerate() {
            if let Some((bound, ends)) = rows[index] {
                let row = Row { expires: ends.then(|| at(100)), ..row(item, bound.map(image)) };
                known.rows.insert(item.key.clone(), row);
            }
            if let Some((number, pulled_at)) = here[index] {
                known.present.insert(item.reference(), present(number, at(pulled_at)));
            }
            let (pulling, waiting, started) = flags[index];
            let sets = [(pulling, &mut known.pulling), (waiting, &mut known.waiting), (started, &mut known.started)];
            sets.into_iter().filter(|(is_in, _)| *is_in).for_each(|(_, set)| set.extend([item.key.clone()]));
        }
        let items = items.into_iter().zip(listed).filter(|(_, listed)| *listed).map(|(item, _)| item).collect();
        let complete = if complete { Completeness::Complete } else { Completeness::Partial };
        (Lists { items, problems: Vec::new(), complete }, known)
    }
}

proptest! {
    /// Whatever is known, a few plans bring everything to where the lists want it, and then there is nothing to do.
    #[test]
    fn it_comes_to_rest_where_the_lists_want_it((lists, mut known) in any_world()) {
        for _ in 0..12 {
            let actions = plan(&lists, &known, at(0));
            carry_out(&mut known, actions, at(0));
            // The pulls of this round end well.
            known.pulling.clear();
            known.waiting.clear();
        }
        prop_assert_eq!(plan(&lists, &known, at(0)), []);
        for item in lists.items.iter().filter(|item| is_alive(item, &known, at(0))) {
            let may_lack = item.image.policy == PrefetchPolicy::Never && !known.present.contains_key(&item.reference());
            prop_assert!(may_lack || is_satisfied(item, &known), "{:?}", item);
            prop_assert!(known.rows.contains_key(&item.key));
        }
        if lists.complete == Completeness::Complete {
            let listed = |key: &Key| lists.items.iter().any(|item| item.key == *key && is_alive(item, &known, at(0)));
            prop_assert!(known.rows.keys().all(listed), "{:?}", known.rows);
        }
    }

    /// One plan never gives up what a list wants, nor anything while lists are unread, and pulls no more than it may.
    #[test]
    fn a_plan_keeps_the_rules((lists, known) in any_world()) {
        let actions = plan(&lists, &known, at(0));
        let pulls = actions.iter().filter(|action| matches!(action, Action::Pull(..))).count();
        prop_assert!(pulls == 0 || known.pulling.len() + pulls <= PULLS_AT_ONCE);
        for action in &actions {
            match action {
                Action::Release(key) | Action::Cancel(key) => {
                    let listed = lists.items.iter().find(|item| item.key == *key);
                    prop_assert!(listed.is_none_or(|item| !is_alive(item, &known, at(0))));
                    prop_assert!(listed.is_some() || lists.complete == Completeness::Complete);
                }
                Action::Pull(key, _, policy) => {
                    prop_assert!(!known.pulling.contains(key) && !known.waiting.contains(key));
                    prop_assert!(known.rows.contains_key(key) && *policy != PullPolicy::Never);
                }
                Action::Hold(..) | Action::StartClock(..) | Action::Bind(..) | Action::Forget(..) => {}
            }
        }
        prop_assert!(next_change(&lists, &known, at(0)).is_none_or(|time| time > at(0)));
    }
}
