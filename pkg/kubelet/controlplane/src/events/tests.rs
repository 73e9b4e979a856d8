use std::sync::atomic::AtomicI64;

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const START: i64 = 1_700_000_000;

#[derive(Clone)]
struct TestClock(Arc<AtomicI64>);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(START)))
    }

    fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    fn wall(&self) -> WallClock {
        let seconds = Arc::clone(&self.0);
        WallClock::new(move || Timestamp::from_second(seconds.load(Ordering::SeqCst)).unwrap())
    }
}

struct Fixture {
    recorder: Recorder,
    events: Events,
    supervisor: Supervisor,
}

async fn fixture(dir: &std::path::Path, clock: &TestClock) -> Fixture {
    let db = StatusDb::open(&dir.join("status.redb")).unwrap();
    let settings = EventSettings { node_name: "node1".into(), ttl: DEFAULT_EVENT_TTL, clock: clock.wall() };
    let supervisor = Supervisor::new("test");
    let (recorder, events) = start(settings, db, &supervisor).await.unwrap();
    Fixture { recorder, events, supervisor }
}

impl Fixture {
    /// Ends the task, which writes all that was recorded.
    async fn stop(self) -> Events {
        assert!(self.supervisor.shut_down(Duration::from_mins(1)).await);
        self.events
    }
}

fn pod(namespace: &str, name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(namespace.into()),
        name: Some(name.into()),
        uid: Some(format!("uid-{name}")),
        ..ObjectReference::default()
    }
}

fn messages(events: &[Event]) -> Vec<(&str, i32)> {
    events.iter().map(|event| (event.message.as_deref().unwrap(), event.count.unwrap())).collect()
}

#[tokio::test]
async fn an_event_is_a_core_v1_object() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let fixture = fixture(dir.path(), &clock).await;
    fixture.recorder.record(&pod("default", "web"), EventKind::Normal, "Pulling", "Pulling image \"a\"".into());
    let events = fixture.stop().await.list(None);
    assert_eq!(
        serde_json::to_value(&events).unwrap(),
        serde_json::json!([{
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": format!("web.{:x}", START * 1_000_000_000),
                "namespace": "default",
                "creationTimestamp": "2023-11-14T22:13:20Z",
            },
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "web", "uid": "uid-web"},
            "type": "Normal",
            "reason": "Pulling",
            "message": "Pulling image \"a\"",
            "count": 1,
            "firstTimestamp": "2023-11-14T22:13:20Z",
            "lastTimestamp": "2023-11-14T22:13:20Z",
            "source": {"component": "imagevol", "host": "node1"},
            "reportingComponent": "imagevol",
            "reportingInstance": "node1",
        }])
    );
}

#[tokio::test]
async fn events_are_kept_over_a_restart_with_their_counts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let first = fixture(dir.path(), &clock).await;
    for _ in 0..3 {
        first.recorder.record(&pod("default", "web"), EventKind::Normal, "Pulling", "text".into());
        clock.advance(10);
    }
    let before = first.stop().await.list(None);
    assert_eq!(messages(&before), [("text", 3)]);
    let second = fixture(dir.path(), &clock).await;
    assert_eq!(second.events.list(None), before);
    second.recorder.record(&pod("default", "web"), EventKind::Normal, "Pulling", "text".into());
    assert_eq!(messages(&second.stop().await.list(None)), [("text", 3), ("text", 1)]);
}

#[tokio::test]
async fn an_event_counts_across_batches() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let fixture = fixture(dir.path(), &clock).await;
    for _ in 0..2 {
        fixture.recorder.record(&pod("default", "web"), EventKind::Normal, "Pulling", "text".into());
        clock.advance(10);
        while fixture.events.list(None).is_empty() {
            tokio::task::yield_now().await;
        }
    }
    let events = fixture.stop().await.list(None);
    assert_eq!(messages(&events), [("text", 2)]);
    assert_eq!(events[0].first_timestamp.as_ref().unwrap().0.as_second(), START);
    assert_eq!(events[0].last_timestamp.as_ref().unwrap().0.as_second(), START + 10);
}

#[rstest]
#[case::young(3600, 1)]
#[case::old(3601, 0)]
#[case::clock_went_back(-3601, 0)]
#[tokio::test]
async fn old_events_go(#[case] later: i64, #[case] left: usize) {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let first = fixture(dir.path(), &clock).await;
    first.recorder.record(&pod("default", "web"), EventKind::Normal, "Pulling", "text".into());
    let events = first.stop().await;
    clock.advance(later);
    assert_eq!(events.list(None).len(), left);
    drop(events);
    let second = fixture(dir.path(), &clock).await;
    assert_eq!(second.events.kept.lock().unwrap().len(), left);
    second.stop().await;
    let rows = StatusDb::open(&dir.path().join("status.redb")).unwrap().events().unwrap();
    assert_eq!(rows.len(), left);
}

/// As a full disk does: seen at once, and on the disk with what comes when it can be written again.
#[tokio::test]
async fn what_could_not_be_written_goes_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.redb");
    let clock = TestClock::new();
    let db = StatusDb::open(&path).unwrap();
    let settings = EventSettings { node_name: "node1".into(), ttl: DEFAULT_EVENT_TTL, clock: clock.wall() };
    let supervisor = Supervisor::new("test");
    let (recorder, events) = start(settings, db.clone(), &supervisor).await.unwrap();
    db.close();
    let other = StatusDb::open(&path).unwrap();
    recorder.record(&pod("a", "web"), EventKind::Normal, "Pulling", "refused".into());
    while events.list(None).is_empty() {
        tokio::task::yield_now().await;
    }
    drop(other);
    recorder.record(&pod("a", "web"), EventKind::Normal, "Pulled", "taken".into());
    assert!(supervisor.shut_down(Duration::from_mins(1)).await);
    drop(db);
    let rows = StatusDb::open(&path).unwrap().events().unwrap();
    assert_eq!(rows.len(), 2, "{rows:?}");
}

#[tokio::test]
async fn lists_by_namespace() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let fixture = fixture(dir.path(), &clock).await;
    let node = ObjectReference { kind: Some("Node".into()), name: Some("node1".into()), ..ObjectReference::default() };
    fixture.recorder.record(&pod("b", "web"), EventKind::Normal, "Pulling", "in b".into());
    fixture.recorder.record(&pod("a", "web"), EventKind::Normal, "Pulling", "in a".into());
    fixture.recorder.record(&node, EventKind::Warning, "FreeDiskSpaceFailed", "of the node".into());
    let events = fixture.stop().await;
    assert_eq!(messages(&events.list(Some("a"))), [("in a", 1)]);
    assert_eq!(messages(&events.list(Some("default"))), [("of the node", 1)]);
    assert_eq!(messages(&events.list(None)), [("in a", 1), ("in b", 1), ("of the node", 1)]);
    assert_eq!(events.list(Some("c")), []);
}

#[tokio::test]
async fn a_hostile_message_stays_on_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let fixture = fixture(dir.path(), &clock).await;
    fixture.recorder.record(&pod("a", "web"), EventKind::Warning, "Failed", "x\n\u{1b}[2J\u{202e}".into());
    fixture.recorder.record(&pod("a", "web"), EventKind::Warning, "Failed", "y".repeat(100_000));
    let events = fixture.stop().await.list(None);
    assert_eq!(events[0].message.as_deref(), Some("x\\n\\u{1b}[2J\\u{202e}"));
    assert_eq!(events[1].message.as_ref().unwrap().len(), MAX_MESSAGE);
}

#[test]
fn forgets_the_oldest_when_there_are_too_many() {
    let clock = TestClock::new();
    let ttl = SignedDuration::try_from(DEFAULT_EVENT_TTL).unwrap();
    let events = Events { kept: Arc::default(), clock: clock.wall(), ttl };
    let event = |i: usize| Event {
        metadata: ObjectMeta { name: Some(format!("e{i:06}")), namespace: Some("a".into()), ..ObjectMeta::default() },
        last_timestamp: Some(Time(Timestamp::from_second(START - i64::try_from(i % 1000).unwrap()).unwrap())),
        ..Event::default()
    };
    let old = events.keep((0..MAX_EVENTS + 2).map(event));
    assert_eq!(old, [("a".to_owned(), "e000999".to_owned()), ("a".to_owned(), "e001999".to_owned())]);
    assert_eq!(events.list(None).len(), MAX_EVENTS);
}

proptest! {
    /// Nobody takes from the queue here: a recorder that waited would hang.
    #[test]
    fn the_recorder_never_blocks(count in 0..3 * MAX_QUEUED_EVENTS) {
        let (queue, _held) = mpsc::channel(MAX_QUEUED_EVENTS);
        let recorder = Recorder { queue, dropped: Arc::default(), clock: TestClock::new().wall() };
        for _ in 0..count {
            recorder.record(&pod("a", "web"), EventKind::Normal, "Pulling", String::new());
        }
        prop_assert_eq!(usize::try_from(recorder.dropped()).unwrap(), count.saturating_sub(MAX_QUEUED_EVENTS));
    }
}

#[tokio::test]
async fn recording_after_the_end_is_counted_as_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = fixture(dir.path(), &TestClock::new()).await;
    let recorder = fixture.recorder.clone();
    fixture.stop().await;
    recorder.record(&pod("a", "web"), EventKind::Normal, "Pulling", "late".into());
    assert_eq!(recorder.dropped(), 1);
}

/// What a real kubelet's recorder made of its events (`testdata/events.json`): each one recorded as often as it was counted.
#[tokio::test]
async fn counts_as_a_kubelet_does() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(include_str!("../../testdata/events.json")).unwrap();
    let reasons =
        ["Pulling", "Pulled", "Failed", "BackOff", "ErrImageNeverPull", "InspectFailed", "Created", "Started"];
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        let fixture = fixture(dir.path(), &TestClock::new()).await;
        for event in case["events"].as_array().unwrap() {
            let field_path = event["fieldPath"].as_str().map(str::to_owned);
            let about = ObjectReference { field_path, ..pod("default", "web") };
            let kind = if event["type"] == "Normal" { EventKind::Normal } else { EventKind::Warning };
            let reason = reasons.into_iter().find(|reason| *reason == event["reason"]).unwrap();
            for _ in 0..event["count"].as_i64().unwrap() {
                fixture.recorder.record(&about, kind, reason, event["message"].as_str().unwrap().to_owned());
            }
        }
        let ours: Vec<_> = fixture.stop().await.list(None).iter().map(shape).collect();
        assert_eq!(serde_json::Value::from(ours), case["events"], "{}", case["case"]);
    }
}

/// An event as the recording has it, whose component is of course another.
fn shape(event: &Event) -> serde_json::Value {
    serde_json::json!({
        "type": event.type_,
        "reason": event.reason,
        "message": event.message,
        "count": event.count,
        "fieldPath": event.involved_object.field_path,
        "component": "kubelet",
    })
}
