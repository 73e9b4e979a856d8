use std::sync::atomic::AtomicI64;

use rstest::rstest;
use serde_json::{Value, json};

use imagevol_api::metav1::Time;
use imagevol_base::{EventKind, EventRecorder as _};
use imagevol_test_support::apiserver::ApiFault;
use imagevol_test_support::registry::Gate;

use super::super::testing::{Fixture, until};
use super::*;
use crate::db::StatusDb;
use crate::events::{self, EventSettings, Recorder, node_ref};

const EVENTS_A: &str = "/api/v1/namespaces/a/events";
const START: i64 = 1_700_000_000;

/// Wall time that a test sets.
#[derive(Clone, Default)]
struct Seconds(Arc<AtomicI64>);

impl Seconds {
    fn clock(&self) -> WallClock {
        let seconds = Arc::clone(&self.0);
        WallClock::new(move || Timestamp::from_second(START + seconds.load(Ordering::SeqCst)).unwrap())
    }

    fn set(&self, seconds: i64) {
        self.0.store(seconds, Ordering::SeqCst);
    }
}

fn sink(fixture: &Fixture, seconds: &Seconds) -> EventSink {
    start(fixture.server.clone(), Subjects::new("node-1".into()), seconds.clock(), &fixture.supervisor)
}

fn about(kind: &str, name: &str) -> ObjectReference {
    let of = |text: &str| Some(text.to_owned());
    ObjectReference {
        kind: of(kind),
        name: of(name),
        uid: Some(format!("uid-{name}")),
        namespace: of("a"),
        ..ObjectReference::default()
    }
}

fn event(name: &str, count: i32) -> Event {
    let of = |text: &str| Some(text.to_owned());
    let at = |second| Some(Time(Timestamp::from_second(START + i64::from(second)).unwrap()));
    Event {
        metadata: ObjectMeta { name: of(name), namespace: of("a"), creation_timestamp: at(0), ..ObjectMeta::default() },
        involved_object: about("Pod", "web"),
        message: Some(format!("seen {count} times")),
        count: Some(count),
        first_timestamp: at(0),
        last_timestamp: at(count),
        ..Event::default()
    }
}

/// Name and count of each event in the server.
fn stored(fixture: &Fixture) -> Vec<(String, i64)> {
    let shown =
        |event: &Value| (event["metadata"]["name"].as_str().unwrap().to_owned(), event["count"].as_i64().unwrap());
    fixture.fake.list(EVENTS_A).iter().map(shown).collect()
}

fn is(events: &[(&str, i64)]) -> Vec<(String, i64)> {
    events.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

fn methods(fixture: &Fixture) -> Vec<String> {
    fixture.fake.requests().into_iter().map(|request| format!("{} {}", request.method, request.code)).collect()
}

#[tokio::test(start_paused = true)]
async fn creates_an_event_and_then_patches_its_count() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    sink.offer(&event("web.1", 1));
    until(|| sink.counts.posted() == 1).await;
    sink.offer(&event("web.1", 2));
    until(|| sink.counts.posted() == 2).await;
    assert_eq!(methods(&fixture), ["POST 201", "PATCH 200"]);
    let requests = fixture.fake.requests();
    assert_eq!(requests[0].body.as_ref().unwrap()["metadata"], json!({"name": "web.1", "namespace": "a"}));
    assert_eq!(
        requests[1].body.as_ref().unwrap(),
        &json!({"count": 2, "lastTimestamp": "2023-11-14T22:13:22Z", "message": "seen 2 times"})
    );
    let now = fixture.fake.get(EVENTS_A, "web.1").unwrap();
    assert_eq!((&now["count"], &now["firstTimestamp"]), (&json!(2), &json!("2023-11-14T22:13:20Z")));
}

#[tokio::test(start_paused = true)]
async fn creates_anew_what_the_server_has_forgotten() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    sink.offer(&event("web.1", 5));
    until(|| sink.counts.posted() == 1).await;
    assert_eq!(
        (methods(&fixture), stored(&fixture)),
        (vec!["PATCH 404".into(), "POST 201".into()], is(&[("web.1", 5)]))
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_got_lost_makes_no_second_event() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    fixture.fake.fail(1, "POST", ApiFault::HangupAfter);
    sink.offer(&event("web.1", 1));
    until(|| sink.counts.posted() == 1).await;
    assert_eq!(
        (methods(&fixture), stored(&fixture)),
        (vec!["POST 0".into(), "POST 409".into(), "PATCH 200".into()], is(&[("web.1", 1)]))
    );
}

#[tokio::test(start_paused = true)]
async fn what_happens_again_while_it_waits_is_posted_once() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    let gate = Gate::new();
    fixture.fake.fail(1, "POST", ApiFault::Hold(gate.clone()));
    sink.offer(&event("first", 1));
    gate.arrived(1).await;
    for count in 1..=20 {
        sink.offer(&event("web.1", count));
    }
    gate.open();
    until(|| sink.counts.posted() == 2).await;
    assert_eq!(
        (methods(&fixture), stored(&fixture)),
        (vec!["POST 201".into(), "POST 201".into()], is(&[("first", 1), ("web.1", 20)]))
    );
}

#[tokio::test(start_paused = true)]
async fn waits_while_the_server_is_away_and_keeps_the_order() {
    let fixture = Fixture::new();
    let seconds = Seconds::default();
    let sink = sink(&fixture, &seconds);
    fixture.fake.fail(10_000, "", ApiFault::Hangup);
    for name in ["a.1", "b.1", "c.1"] {
        sink.offer(&event(name, 1));
    }
    tokio::time::sleep(Duration::from_mins(30)).await;
    seconds.set(30 * 60);
    let tried = fixture.fake.requests().len();
    assert!((20..80).contains(&tried), "{tried}");
    fixture.fake.heal();
    until(|| sink.counts.posted() == 3).await;
    let order: Vec<_> = fixture.fake.requests().into_iter().filter(|request| request.code == 201).collect();
    let name = |request: &imagevol_test_support::apiserver::ApiRequest| {
        request.body.clone().unwrap()["metadata"]["name"].clone()
    };
    assert_eq!(order.iter().map(name).collect::<Vec<_>>(), ["a.1", "b.1", "c.1"]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_would_see_any_more_is_not_posted() {
    let fixture = Fixture::new();
    let seconds = Seconds::default();
    let sink = sink(&fixture, &seconds);
    fixture.fake.fail(10_000, "", ApiFault::Hangup);
    sink.offer(&event("old", 1));
    tokio::time::sleep(Duration::from_mins(1)).await;
    seconds.set(3700);
    fixture.fake.heal();
    sink.offer(&event("new", 3000));
    until(|| sink.counts.posted() + sink.counts.dropped() == 2).await;
    assert_eq!((stored(&fixture), sink.counts.dropped()), (is(&[("new", 3000)]), 1));
}

#[tokio::test(start_paused = true)]
async fn one_event_that_the_server_cannot_take_does_not_hold_up_others() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    fixture.fake.put(EVENTS_A, json!({"metadata": {"name": "bad"}}));
    fixture.fake.fail(1000, "events/bad", ApiFault::status(500));
    sink.offer(&event("bad", 2));
    sink.offer(&event("good", 1));
    until(|| sink.counts.posted() == 1).await;
    assert_eq!(methods(&fixture)[..2], ["PATCH 500", "POST 201"]);
    until(|| sink.counts.dropped() == 1).await;
    assert_eq!(fixture.fake.count("events/bad"), 12);
}

#[rstest]
#[case::forbidden(ApiFault::Status { code: 403, reason: "Forbidden" }, 1)]
#[case::invalid(ApiFault::Status { code: 422, reason: "Invalid" }, 1)]
#[case::no_namespace(ApiFault::Status { code: 404, reason: "NotFound" }, 0)]
#[tokio::test(start_paused = true)]
async fn what_is_refused_is_given_up(#[case] fault: ApiFault, #[case] dropped: u64) {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    fixture.fake.fail(1, "POST", fault);
    sink.offer(&event("refused", 1));
    sink.offer(&event("good", 1));
    until(|| sink.counts.posted() == 1).await;
    assert_eq!((stored(&fixture), sink.counts.dropped()), (is(&[("good", 1)]), dropped));
}

#[tokio::test(start_paused = true)]
async fn says_nothing_about_a_namespace_that_goes() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    fixture.fake.terminate_namespace("a");
    sink.offer(&event("late", 1));
    until(|| fixture.fake.requests().len() == 1).await;
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!((fixture.fake.requests().len(), sink.counts.dropped()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn never_waits_and_counts_what_does_not_fit() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    for number in 0..HANDED_OVER + 10 {
        sink.offer(&event(&format!("e{number}"), 1));
    }
    assert_eq!(sink.counts.dropped(), 10);
    fixture.fake.fail(10_000, "", ApiFault::Hangup);
    for number in 0..2000 {
        sink.offer(&event(&format!("f{number}"), 1));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(sink.counts.dropped() > 1000, "{}", sink.counts.dropped());
}

#[tokio::test(start_paused = true)]
async fn goes_no_faster_than_a_kubelet() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    let start = Instant::now();
    for number in 0..250 {
        sink.offer(&event(&format!("e{number}"), 1));
    }
    until(|| sink.counts.posted() == 250).await;
    let took = start.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_millis(3200)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn posts_what_is_queued_before_the_process_ends() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    for number in 0..20 {
        sink.offer(&event(&format!("e{number}"), 1));
    }
    drop(sink);
    assert!(fixture.supervisor.shut_down(Duration::from_secs(10)).await);
    assert_eq!(stored(&fixture).len(), 20);
}

#[tokio::test(start_paused = true)]
async fn does_not_hold_up_the_end_of_the_process() {
    let fixture = Fixture::new();
    let sink = sink(&fixture, &Seconds::default());
    fixture.fake.fail(10_000, "", ApiFault::Hold(Gate::new()));
    sink.offer(&event("e", 1));
    let start = Instant::now();
    assert!(fixture.supervisor.shut_down(Duration::from_secs(10)).await);
    assert_eq!(start.elapsed().as_secs(), FLUSH.as_secs());
}

#[rstest]
#[case::pod_of_the_api(about("Pod", "web"), true)]
#[case::pod_of_a_manifest(about("Pod", "static"), false)]
#[case::this_node(node_ref("node-1"), true)]
#[case::another_node(node_ref("node-2"), false)]
#[case::something_else(about("ConfigMap", "web"), false)]
fn knows_which_objects_live_there(#[case] about: ObjectReference, #[case] live: bool) {
    let subjects = Subjects::new("node-1".into());
    subjects.note_static(["uid-static"]);
    for _ in 0..2 {
        assert_eq!(subjects.live_there(&about), live);
    }
}

/// The recorder that all parts write to, with a sink.
async fn recorder(fixture: &Fixture, seconds: &Seconds, dir: &std::path::Path) -> Recorder {
    let db = StatusDb::open(&dir.join("status.redb")).unwrap();
    let settings = EventSettings { node_name: "node-1".into(), ttl: DEFAULT_EVENT_TTL, clock: seconds.clock() };
    let sink = sink(fixture, seconds);
    let (recorder, _) = events::start_with(settings, Some(sink), db, &fixture.supervisor).await.unwrap();
    recorder
}

#[tokio::test]
async fn what_is_recorded_gets_there_as_a_kubelet_would_write_it() {
    let (fixture, seconds, dir) = (Fixture::new(), Seconds::default(), tempfile::tempdir().unwrap());
    let recorder = recorder(&fixture, &seconds, dir.path()).await;
    let pod =
        ObjectReference { api_version: Some("v1".into()), resource_version: Some("7".into()), ..about("Pod", "web") };
    recorder.record(&pod, EventKind::Normal, "Pulling", "Pulling image \"r/a:1\"".into());
    recorder.record(&node_ref("node-1"), EventKind::Warning, "KernelTooOld", "too old".into());
    assert!(fixture.supervisor.shut_down(Duration::from_mins(1)).await);
    let mut of_pod = fixture.fake.list(EVENTS_A).remove(0);
    let name = format!("web.{:x}", START * 1_000_000_000);
    of_pod["metadata"].as_object_mut().unwrap().retain(|key, _| key == "name" || key == "namespace");
    assert_eq!(
        of_pod,
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": "a"},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": "a", "name": "web", "uid": "uid-web", "resourceVersion": "7"
            },
            "type": "Normal", "reason": "Pulling", "message": "Pulling image \"r/a:1\"", "count": 1,
            "firstTimestamp": "2023-11-14T22:13:20Z", "lastTimestamp": "2023-11-14T22:13:20Z",
            "source": {"component": "imagevol", "host": "node-1"},
            "reportingComponent": "imagevol", "reportingInstance": "node-1",
        })
    );
    let of_node = fixture.fake.list("/api/v1/namespaces/default/events").remove(0);
    let involved = json!({"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "node-1"});
    assert_eq!((&of_node["involvedObject"], &of_node["reason"]), (&involved, &json!("KernelTooOld")));
}
