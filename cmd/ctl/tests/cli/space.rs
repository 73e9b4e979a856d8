//! What is kept, and for how long.

use serde_json::json;

use crate::fake::{Daemon, ok, raw, refused, success};
use crate::{digest, output};

#[test]
fn gc_asks_for_what_it_was_told_and_fails_with_what_stays() {
    let gone =
        json!({"id": digest('a'), "names": ["a:1"], "reason": "unused", "freedBytes": 4096, "unusedSeconds": 60});
    let report = |failed: &[&str]| {
        json!({
            "dryRun": false, "usedPercent": 41, "highThresholdPercent": 85, "lowThresholdPercent": 80, "gone": [gone], "stayed": [],
            "failed": failed, "freedBytes": 4096,
        })
    };
    let stuck = report(&["sha256:1: disk\u{1b}", "sha256:2: busy"]);
    let df = |bytes: u64| {
        json!({
            "stateDir": "/s", "capacityBytes": 9, "availableBytes": 9, "usedBytes": 0, "highThresholdPercent": 85, "lowThresholdPercent": 80,
            "items": [{"kind": "Unfinished downloads", "count": 1, "active": 0, "bytes": bytes, "reclaimableBytes": 0}],
        })
    };
    let daemon = Daemon::start([
        ("POST /gc", vec![ok(&report(&[])), ok(&stuck)]),
        ("GET /df", vec![ok(&df(0)), ok(&df(5_000_000))]),
    ]);
    let text = "IMAGE   REASON   UNUSED FOR   FREED\na:1     unused   60s          4.1kB\nFreed 4.1kB.\n";
    assert_eq!(output(daemon.imagevol(&["gc", "--all", "--dry-run"])), text);
    let error = "error: cannot remove sha256:1: disk\\u{1b}\nerror: cannot remove sha256:2: busy\n";
    daemon.imagevol(&["gc"]).assert().code(1).stdout(text).stderr(error);
    assert_eq!(daemon.asked()[0].1, r#"{"dryRun":true,"all":true}"#);
    assert_eq!(daemon.asked().len(), 3, "who does not want all is not told what else takes space");
    let text = format!(
        "{text}Unfinished downloads take 5MB: they are kept for up to a day, so that pulls can go on with them.\n"
    );
    daemon.imagevol(&["gc", "--all"]).assert().code(1).stdout(text).stderr(error);
    daemon.imagevol(&["gc", "--all", "-o", "json"]).assert().code(1).stderr(error);
    assert_eq!(daemon.asked().iter().filter(|(asked, _)| asked == "GET /df").count(), 2, "JSON is the report alone");
}

#[test]
fn pins_say_what_they_cover() {
    let pin =
        |images: &[String]| json!({"pattern": "quay.io/models/*", "since": "2001-01-01T00:00:00Z", "images": images});
    let request = "PUT /pins?pattern=quay.io%2Fmodels%2F%2A";
    let daemon = Daemon::start([
        (request, vec![ok(&pin(&[])), ok(&pin(&[digest('a')]))]),
        ("DELETE /pins?pattern=x", vec![success(), refused(404, "NotFound", "no pin \"docker.io/library/x:latest\"")]),
        ("GET /pins", vec![ok(&json!({"items": []}))]),
    ]);
    let text = "Pinned quay.io/models/*: no image here matches now, those to come will\n";
    assert_eq!(output(daemon.imagevol(&["pin", "quay.io/models/*"])), text);
    assert_eq!(output(daemon.imagevol(&["pin", "quay.io/models/*"])), "Pinned quay.io/models/*: 1 image\n");
    assert_eq!(output(daemon.imagevol(&["unpin", "x"])), "Unpinned x\n");
    let none =
        "Error from server (NotFound): no pin \"docker.io/library/x:latest\"\nhint: `imagevol get pins` lists them\n";
    daemon.imagevol(&["unpin", "x"]).assert().code(1).stdout("").stderr(none);
    daemon.imagevol(&["get", "pins"]).assert().success().stdout("").stderr("No pins found.\n");
}

#[test]
fn prefetch_pulls_each_and_forgets_them() {
    let pulled = json!({"type": "pulled", "reference": "a:1", "id": digest('a'), "size": 2500});
    let daemon = Daemon::start([
        ("POST /prefetch", vec![raw(pulled.to_string())]),
        ("DELETE /prefetch?reference=a%3A1", vec![success()]),
        ("GET /prefetch", vec![ok(&json!({"items": [], "problems": ["x.yaml: \u{1b}bad"]}))]),
    ]);
    let both = format!("{0}\n{0}\n", digest('a'));
    assert_eq!(output(daemon.imagevol(&["prefetch", "-q", "--keep", "90m", "a:1", "b:1"])), both);
    assert_eq!(daemon.asked()[1].1, r#"{"reference":"b:1","keepSeconds":5400}"#);
    assert_eq!(output(daemon.imagevol(&["prefetch", "--forget", "a:1"])), "Forgot a:1\n");
    let notes = "Nothing is prefetched.\nnot used: x.yaml: \\u{1b}bad\n";
    daemon.imagevol(&["get", "prefetch"]).assert().success().stdout("").stderr(notes);
    daemon.imagevol(&["prefetch", "--keep", "0s", "a:1"]).assert().code(1);
}

#[test]
fn references_and_reasons_are_tables() {
    let row = json!({"holder": "external/backup/nightly", "name": "backup nightly", "reference": "quay.io/a:1", "image": digest('a'), "since": "2001-01-01T00:00:00Z"});
    let daemon = Daemon::start([
        ("GET /references", vec![ok(&json!({"items": [row]}))]),
        ("GET /images/why?name=x%2Fy", vec![refused(404, "NotFound", "nothing on this node is known as \"x/y\"")]),
    ]);
    assert_eq!(output(daemon.imagevol(&["get", "references", "-o", "name"])), "reference/external/backup/nightly\n");
    assert!(output(daemon.imagevol(&["get", "references"])).contains("backup nightly   quay.io/a:1   aaaaaaaaaaaa"));
    daemon.imagevol(&["why", "x/y"]).assert().code(1);
}
