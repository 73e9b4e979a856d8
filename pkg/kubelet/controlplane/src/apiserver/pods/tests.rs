use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use imagevol_test_support::apiserver::{ApiFault, FakeApiServer};
use imagevol_test_support::registry::Gate;

use super::super::testing::{Fixture, until, when};
use super::*;

const PODS_A: &str = "/api/v1/namespaces/a/pods";
const NODE: &str = "node-1";
/// A list, and not a watch.
const LIST: &str = "GET /api/v1/pods?&fieldSelector";
const WATCH: &str = "watch=true";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": NODE}, "status": {"phase": "Pending"}})
}

fn uid(text: &str) -> PodUid {
    text.parse().unwrap()
}

fn uid_of(pod: &Value) -> PodUid {
    uid(pod["metadata"]["uid"].as_str().unwrap())
}

fn names(pods: &NodePods) -> Vec<String> {
    let mut names: Vec<_> = pods.pods.values().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    names.sort();
    names
}

/// The names of the pods of the node in the server.
fn truth(fake: &FakeApiServer) -> Vec<String> {
    let here = |pod: &Value| pod["spec"]["nodeName"] == NODE;
    let name = |pod: Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    fake.list("/api/v1/pods").into_iter().filter(here).map(name).collect()
}

fn watched(fixture: &Fixture) -> watch::Receiver<Arc<NodePods>> {
    watch_pods(&fixture.server, NODE, &fixture.supervisor)
}

#[tokio::test(start_paused = true)]
async fn follows_the_pods_of_this_node() {
    let fixture = Fixture::new();
    let a = fixture.fake.put(PODS_A, pod("a"));
    fixture.fake.put(PODS_A, json!({"metadata": {"name": "elsewhere"}, "spec": {"nodeName": "node-2"}}));
    let mut pods = watched(&fixture);
    assert!(!pods.borrow().synced);
    let seen = when(&mut pods, |pods| pods.synced).await;
    assert_eq!((names(&seen), seen.stale_since), (vec!["a".to_owned()], None));

    fixture.fake.put(PODS_A, pod("b"));
    fixture.fake.put(PODS_A, json!({"metadata": {"name": "unbound"}, "spec": {}}));
    when(&mut pods, |pods| names(pods) == ["a", "b"]).await;
    fixture.fake.merge(PODS_A, "unbound", &json!({"spec": {"nodeName": NODE}}));
    when(&mut pods, |pods| names(pods) == ["a", "b", "unbound"]).await;

    fixture.fake.merge(PODS_A, "a", &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    let seen = when(&mut pods, |pods| !pods.over().is_empty()).await;
    assert_eq!(seen.over(), [uid_of(&a)].into());
    assert_eq!(seen.living().count(), 2);
    fixture.fake.remove(PODS_A, "a");
    let seen = when(&mut pods, |pods| names(pods) == ["b", "unbound"]).await;
    assert_eq!(seen.over(), [uid_of(&a)].into());
}

#[tokio::test(start_paused = true)]
async fn wakes_nobody_for_what_does_not_matter() {
    let fixture = Fixture::new();
    fixture.fake.put(PODS_A, pod("a"));
    let mut pods = watched(&fixture);
    when(&mut pods, |pods| pods.synced && pods.live_since.is_some()).await;
    pods.mark_unchanged();
    fixture.fake.merge(PODS_A, "a", &json!({"status": {"podIP": "10.0.0.1"}}));
    fixture.fake.bookmark();
    fixture.fake.put(PODS_A, pod("b"));
    pods.changed().await.unwrap();
    assert_eq!(names(&pods.borrow_and_update()), ["a", "b"]);
}

#[rstest]
#[case::cut(|fake: &FakeApiServer| { fake.cut_watches(); })]
#[case::cut_and_forgotten(|fake: &FakeApiServer| { fake.compact(); fake.cut_watches(); })]
#[case::told_that_it_is_gone(|fake: &FakeApiServer| { fake.fail(1, WATCH, ApiFault::gone()); fake.cut_watches(); })]
#[case::refused_as_gone(|fake: &FakeApiServer| {
    fake.fail(1, WATCH, ApiFault::Status { code: 410, reason: "Expired" });
    fake.cut_watches();
})]
#[case::garbage(|fake: &FakeApiServer| { fake.fail(1, WATCH, ApiFault::WatchLine("{]".into())); fake.cut_watches(); })]
#[case::page_of_a_proxy(|fake: &FakeApiServer| {
    fake.fail(2, WATCH, ApiFault::Answer { code: 502, body: "<html>".into() });
    fake.cut_watches();
})]
#[case::list_fails_too(|fake: &FakeApiServer| {
    fake.fail(1, WATCH, ApiFault::gone());
    fake.fail(3, LIST, ApiFault::status(500));
    fake.cut_watches();
})]
#[case::list_broken_off(|fake: &FakeApiServer| {
    fake.fail(1, WATCH, ApiFault::gone());
    fake.fail(1, LIST, ApiFault::Truncate);
    fake.cut_watches();
})]
#[case::server_behind(|fake: &FakeApiServer| {
    fake.fail(1, WATCH, ApiFault::gone());
    fake.fail(1, LIST, ApiFault::Status { code: 504, reason: "Timeout" });
    fake.cut_watches();
})]
#[case::busy(|fake: &FakeApiServer| { fake.fail(5, "", ApiFault::status(429)); fake.cut_watches(); })]
#[case::away(|fake: &FakeApiServer| { fake.fail(5, "", ApiFault::Hangup); fake.cut_watches(); })]
#[case::credentials(|fake: &FakeApiServer| { fake.fail(2, "", ApiFault::status(401)); fake.cut_watches(); })]
#[case::forbidden_for_a_while(|fake: &FakeApiServer| { fake.fail(2, "", ApiFault::status(403)); fake.cut_watches(); })]
#[case::ends_at_once(|fake: &FakeApiServer| { fake.fail(4, WATCH, ApiFault::WatchEnds); fake.cut_watches(); })]
#[tokio::test(start_paused = true)]
async fn finds_its_way_back(#[case] trouble: fn(&FakeApiServer)) {
    let fixture = Fixture::new();
    for name in ["a", "b"] {
        fixture.fake.put(PODS_A, pod(name));
    }
    let mut pods = watched(&fixture);
    when(&mut pods, |pods| names(pods) == ["a", "b"]).await;
    until(|| fixture.fake.watches() == 1).await;
    // As seen by the watch, and not yet acted on: nothing runs before the next wait.
    trouble(&fixture.fake);
    fixture.fake.remove(PODS_A, "a");
    fixture.fake.put(PODS_A, pod("c"));
    when(&mut pods, |pods| names(pods) == ["b", "c"] && pods.stale_since.is_none()).await;
    // And the watch lives.
    until(|| fixture.fake.watches() == 1).await;
    fixture.fake.put(PODS_A, pod("d"));
    when(&mut pods, |pods| names(pods) == ["b", "c", "d"]).await;
}

#[tokio::test(start_paused = true)]
async fn keeps_what_it_knew_while_the_server_is_away_and_says_so() {
    let fixture = Fixture::new();
    fixture.fake.put(PODS_A, pod("a"));
    let mut pods = watched(&fixture);
    when(&mut pods, |pods| pods.synced).await;
    until(|| fixture.fake.watches() == 1).await;
    fixture.fake.fail(10_000, "", ApiFault::Hangup);
    fixture.fake.cut_watches();
    let before = Instant::now();
    let seen = when(&mut pods, |pods| pods.stale_since.is_some()).await;
    tokio::time::sleep(Duration::from_mins(15)).await;
    let since = seen.stale_since.unwrap();
    assert!(since.saturating_duration_since(before) < Duration::from_secs(1));
    let seen = Arc::clone(&pods.borrow());
    assert_eq!((names(&seen), seen.synced, seen.stale_since), (vec!["a".to_owned()], true, Some(since)));
    // Not asked all the time: every 30 to 60 seconds in the end.
    assert!(fixture.fake.requests().len() < 50, "{}", fixture.fake.requests().len());
    fixture.fake.heal();
    when(&mut pods, |pods| pods.stale_since.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn is_not_synced_before_a_list_is_whole() {
    let fixture = Fixture::new();
    for number in 0..5 {
        fixture.fake.put(PODS_A, pod(&format!("p{number}")));
    }
    // The cache has forgotten: the database is asked, in pages, and the second page expires.
    fixture.fake.set_page(2);
    fixture.fake.fail(1, LIST, ApiFault::Status { code: 410, reason: "Expired" });
    fixture.fake.fail(1, "continue=", ApiFault::Status { code: 410, reason: "Expired" });
    let gate = Gate::new();
    fixture.fake.fail(1, "GET /api/v1/pods?&fieldSelector=spec.nodeName%3Dnode-1", ApiFault::Hold(gate.clone()));
    let mut pods = watched(&fixture);
    gate.arrived(1).await;
    assert!(!pods.borrow().synced && pods.borrow().pods.is_empty());
    gate.open();
    let seen = when(&mut pods, |pods| pods.synced).await;
    assert_eq!(seen.pods.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn reads_a_list_in_pages() {
    let fixture = Fixture::new();
    for number in 0..5 {
        fixture.fake.put(PODS_A, pod(&format!("p{number}")));
    }
    fixture.fake.set_page(2);
    fixture.fake.fail(1, LIST, ApiFault::Status { code: 410, reason: "Expired" });
    let mut pods = watched(&fixture);
    let seen = when(&mut pods, |pods| pods.synced).await;
    assert_eq!((seen.pods.len(), fixture.fake.count("continue=")), (5, 2));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    let fixture = Fixture::new();
    fixture.fake.fail(1, LIST, ApiFault::Hold(Gate::new()));
    let mut pods = watched(&fixture);
    when(&mut pods, |pods| pods.stale_since.is_some()).await;
    when(&mut pods, |pods| pods.synced).await;
    // A watch that never says anything again is begun anew.
    until(|| fixture.fake.count(WATCH) >= 3).await;
}

#[tokio::test(start_paused = true)]
async fn begins_anew_with_new_credentials() {
    let fixture = Fixture::new();
    let mut pods = watched(&fixture);
    when(&mut pods, |pods| pods.live_since.is_some()).await;
    let version = fixture.fake.put(PODS_A, pod("a"))["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    when(&mut pods, |pods| names(pods) == ["a"]).await;
    fixture.renew_client();
    until(|| fixture.fake.count(LIST) == 2 && fixture.fake.watches() == 1).await;
    assert_eq!(fixture.fake.count(&format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan")), 1);
}

#[tokio::test(start_paused = true)]
async fn passes_over_a_pod_that_no_kubelet_would_run() {
    let fixture = Fixture::new();
    fixture.fake.put(PODS_A, json!({"metadata": {"name": "bad", "uid": "../../etc"}, "spec": {"nodeName": NODE}}));
    fixture.fake.put(PODS_A, pod("good"));
    let mut pods = watched(&fixture);
    let seen = when(&mut pods, |pods| pods.synced).await;
    assert_eq!(names(&seen), ["good"]);
}

fn known(pods: &[(&str, Value)]) -> NodePods {
    let mut known = NodePods::default();
    let decoded = pods.iter().map(|(uid_, pod)| (uid(uid_), serde_json::from_value(pod.clone()).unwrap()));
    known.replace(decoded.collect(), Instant::now());
    known
}

#[rstest]
#[case::running(json!({"status": {"phase": "Running"}}), false)]
#[case::no_status(json!({}), false)]
#[case::succeeded(json!({"status": {"phase": "Succeeded"}}), true)]
#[case::failed(json!({"status": {"phase": "Failed"}}), true)]
#[case::being_deleted(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}), true)]
#[tokio::test]
async fn knows_when_a_pod_is_over(#[case] pod: Value, #[case] over: bool) {
    let pods = known(&[("u", pod)]);
    let now = Instant::now();
    assert_eq!(pods.is_over(&uid("u"), now, now), over);
    assert_eq!(pods.over().contains(&uid("u")), over);
    assert_eq!(pods.living().count(), usize::from(!over));
}

#[tokio::test(start_paused = true)]
async fn an_absent_pod_is_over_only_when_the_watch_has_had_time_to_show_it() {
    let mut pods =
        known(&[("mirror", json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "static"}}}))]);
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    let absent = uid("absent");
    assert!(!pods.is_over(&absent, start, later(10_000)), "not live");
    pods.begin(later(60));
    assert!(!pods.is_over(&absent, start, later(179)), "just begun");
    assert!(pods.is_over(&absent, start, later(180)));
    assert!(!pods.is_over(&absent, later(100), later(219)), "not known for long");
    assert!(pods.is_over(&absent, later(100), later(220)));
    assert!(!pods.is_over(&uid("static"), start, later(10_000)), "mirrored");
    pods.break_off(later(300));
    assert!(!pods.is_over(&absent, start, later(10_000)), "stale");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_went_is_remembered_for_a_while() {
    let start = Instant::now();
    let mut pods = known(&[("u", json!({})), ("v", json!({}))]);
    assert!(pods.depart(&uid("u"), start));
    assert!(!pods.depart(&uid("u"), start));
    assert!(!pods.depart(&uid("never-seen"), start));
    assert!(pods.is_over(&uid("u"), start, start) && pods.over() == [uid("u")].into());
    pods.depart(&uid("v"), start + REMEMBERED);
    assert_eq!(pods.over(), [uid("v")].into());
    // A list from a cache that lagged did not have it.
    assert!(pods.apply(uid("v"), Pod::default()));
    assert!(pods.over().is_empty());
}

#[tokio::test]
async fn remembers_a_bounded_number() {
    let (mut pods, start) = (NodePods::default(), Instant::now());
    for number in 0..MAX_REMEMBERED + 10 {
        let uid = uid(&format!("u{number}"));
        pods.apply(uid.clone(), Pod::default());
        pods.depart(&uid, start + Duration::from_millis(number.try_into().unwrap()));
    }
    assert_eq!(pods.departed.len(), MAX_REMEMBERED);
    assert!(!pods.departed.contains_key(&uid("u9")) && pods.departed.contains_key(&uid("u10")));
}

/// What may happen to a server and to its clients.
#[derive(Debug, Clone)]
enum Happening {
    Put(u8),
    Touch(u8),
    Remove(u8),
    Cut,
    Compact,
    Bookmark,
    Renew,
    Fail(usize, &'static str, ApiFault),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let fault = prop_oneof![
        Just(ApiFault::status(500)),
        Just(ApiFault::status(429)),
        Just(ApiFault::status(401)),
        Just(ApiFault::status(403)),
        Just(ApiFault::Status { code: 410, reason: "Expired" }),
        Just(ApiFault::Status { code: 504, reason: "Timeout" }),
        Just(ApiFault::Hangup),
        Just(ApiFault::Truncate),
        Just(ApiFault::gone()),
        Just(ApiFault::WatchLine("{]".into())),
        Just(ApiFault::WatchLine(r#"{"type":"ADDED","object":{"metadata":{"#.into())),
        Just(ApiFault::WatchEnds),
        Just(ApiFault::Hold(Gate::new())),
    ];
    let of_watches = |fault: &ApiFault| matches!(fault, ApiFault::WatchLine(_) | ApiFault::WatchEnds);
    let place = move |fault: &ApiFault| if of_watches(fault) { WATCH } else { "" };
    let fail = (1_usize..4, fault).prop_map(move |(times, fault)| Happening::Fail(times, place(&fault), fault));
    prop_oneof![
        4 => (0_u8..6).prop_map(Happening::Put),
        2 => (0_u8..6).prop_map(Happening::Touch),
        3 => (0_u8..6).prop_map(Happening::Remove),
        2 => Just(Happening::Cut),
        1 => Just(Happening::Compact),
        1 => Just(Happening::Bookmark),
        1 => Just(Happening::Renew),
        4 => fail,
        4 => (0_u64..20_000).prop_map(Happening::Wait),
    ]
}

async fn let_happen(fixture: &Fixture, happening: Happening) {
    let name = |number: u8| format!("p{number}");
    let fake = &fixture.fake;
    match happening {
        Happening::Put(number) => drop(fake.put(PODS_A, pod(&name(number)))),
        Happening::Touch(number) if fake.get(PODS_A, &name(number)).is_some() => {
            fake.merge(PODS_A, &name(number), &json!({"status": {"phase": "Running"}}));
        }
        Happening::Touch(_) => {}
        Happening::Remove(number) => {
            fake.remove(PODS_A, &name(number));
        }
        Happening::Cut => {
            fake.cut_watches();
        }
        Happening::Compact => fake.compact(),
        Happening::Bookmark => fake.bookmark(),
        Happening::Renew => fixture.renew_client(),
        Happening::Fail(times, part, fault) => fake.fail(times, part, fault),
        Happening::Wait(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens: once nothing goes wrong any more, what is published becomes what the server has, and stays that. And never is a pod that
    /// the server has always had taken for one that went.
    #[test]
    fn becomes_what_the_server_has(happenings in prop::collection::vec(happening(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new();
            let constant = uid_of(&fixture.fake.put(PODS_A, pod("constant")));
            let mut pods = watched(&fixture);
            for happening in happenings {
                let_happen(&fixture, happening).await;
                assert!(!pods.borrow().over().contains(&constant));
            }
            fixture.fake.heal();
            let fake = fixture.fake.clone();
            let phases = |pods: &NodePods| pods.pods.values().map(|pod| pod.status.clone().unwrap().phase).collect::<Vec<_>>();
            let fresh = when(&mut pods, |pods| pods.synced && pods.stale_since.is_none() && names(pods) == truth(&fake)).await;
            tokio::time::sleep(Duration::from_mins(10)).await;
            let settled = Arc::clone(&pods.borrow());
            assert_eq!(names(&settled), truth(&fake));
            let by_uid = |pods: Vec<Value>| pods.into_iter().map(|pod| (uid_of(&pod), pod)).collect::<BTreeMap<_, _>>();
            let there = by_uid(fake.list(PODS_A));
            let wanted: Vec<_> = there.values().map(|pod| pod["status"]["phase"].as_str().map(str::to_owned)).collect();
            assert_eq!(phases(&settled), wanted);
            assert!(fresh.synced);
        });
    }
}
