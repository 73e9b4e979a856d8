//! Images, and the node.

use serde_json::{Value, json};

use crate::fake::{Daemon, ok, raw, refused};
use crate::{digest, imagevol, output};

fn image(digit: char, tags: &[&str], users: &[&str]) -> Value {
    let users: Vec<Value> = users.iter().map(|name| json!({"name": name})).collect();
    json!({
        "id": digest(digit), "repoTags": tags, "repoDigests": [format!("quay.io/crio/artifact@{}", digest(digit))], "kind": "Artifact",
        "size": 707, "pulledAt": "2001-01-01T00:00:00Z", "usedBy": users,
    })
}

/// Ages in these tests are many years; which, is the calendar's business.
fn without_ages(text: &str) -> String {
    let years = |word: &str| word.strip_suffix('y').is_some_and(|number| number.parse::<u32>().is_ok());
    text.split(' ').map(|word| if years(word) { "AGE" } else { word }).collect::<Vec<_>>().join(" ")
}

#[test]
fn images_are_a_table() {
    let images = json!({"items": [image('a', &["quay.io/crio/artifact:v2"], &["pod default/web volume v"]), image('b', &[], &[])]});
    let daemon = Daemon::start([("GET /images", vec![ok(&images)])]);
    let text = "\
REPOSITORY              TAG      DIGEST         KIND       SIZE   PULLED    USED BY
quay.io/crio/artifact   v2       aaaaaaaaaaaa   Artifact   707B   AGE ago   pod default/web volume v
quay.io/crio/artifact   <none>   bbbbbbbbbbbb   Artifact   707B   AGE ago   <none>
";
    assert_eq!(without_ages(&output(daemon.imagevol(&["images"]))), text);
    assert_eq!(without_ages(&output(daemon.imagevol(&["get", "images"]))), text);
    assert!(output(daemon.imagevol(&["images", "-o", "wide"])).contains(&digest('a')));
    assert_eq!(
        output(daemon.imagevol(&["images", "-o", "name"])),
        format!("image/{}\nimage/{}\n", digest('a'), digest('b'))
    );
    let back: Value = serde_json::from_str(&output(daemon.imagevol(&["images", "-o", "json"]))).unwrap();
    assert_eq!(back, images);
}

#[test]
fn no_images_are_said_on_standard_error() {
    let daemon = Daemon::start([("GET /images", vec![ok(&json!({"items": []}))])]);
    daemon.imagevol(&["images"]).assert().success().stdout("").stderr("No images found.\n");
}

#[test]
fn inspect_asks_for_the_reference_whatever_is_in_it() {
    let detail = json!({
        "summary": image('a', &["localhost:5000/a:1"], &[]), "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": null,
        "annotations": {}, "layers": [], "manifest": {"schemaVersion": 2},
    });
    let daemon = Daemon::start([("GET /images/inspect?reference=localhost%3A5000%2Fa%3A1%26b", vec![ok(&detail)])]);
    let json: Value = serde_json::from_str(&output(daemon.imagevol(&["inspect", "localhost:5000/a:1&b"]))).unwrap();
    assert_eq!(json, detail);
    let yaml = output(daemon.imagevol(&["inspect", "localhost:5000/a:1&b", "-o", "yaml"]));
    assert!(
        yaml.starts_with("annotations: {}\nartifactType: null\nlayers: []\nmanifest:\n  schemaVersion: 2\n"),
        "{yaml}"
    );
    let table = without_ages(&output(daemon.imagevol(&["get", "image", "localhost:5000/a:1&b", "--no-headers"])));
    assert_eq!(table, "localhost:5000/a   1     aaaaaaaaaaaa   Artifact   707B   AGE ago   <none>\n");
}

#[test]
fn rmi_says_who_uses_an_image_and_goes_on() {
    let removed = json!({"untagged": ["b:1"], "deleted": [digest('b')], "freedBytes": 4096});
    let busy = "image \"a:1\" is in use by pod default/web volume v";
    let daemon = Daemon::start([
        ("DELETE /images?reference=a%3A1", vec![refused(409, "Conflict", busy)]),
        ("DELETE /images?reference=b%3A1", vec![ok(&removed)]),
        ("DELETE /images?reference=c%3A1", vec![refused(404, "NotFound", "images \"c:1\" not found")]),
    ]);
    let text = format!("Untagged: b:1\nDeleted: {}\nFreed: 4.1kB\n", digest('b'));
    let error = format!("Error from server (Conflict): {busy}\n");
    daemon.imagevol(&["rmi", "a:1", "b:1"]).assert().code(1).stdout(text).stderr(error);
    daemon.imagevol(&["rmi", "c:1"]).assert().code(1);
    assert_eq!(output(daemon.imagevol(&["rmi", "--ignore-not-found", "c:1"])), "");
}

#[test]
fn pull_tells_its_progress_in_lines_and_ends_with_the_digest() {
    let progress = |done| json!({"type": "progress", "blobs": [{"digest": digest('c'), "size": 2000, "done": done}]});
    let pulled = json!({"type": "pulled", "reference": "a:latest", "id": digest('a'), "size": 2500});
    let lines = format!("{}\n\n{}\n{}\n{pulled}", progress(0), progress(500), progress(2000));
    let daemon = Daemon::start([("POST /images/pull", vec![raw(lines)])]);
    let text = "Pulling a\ncccccccccccc: fetching 2kB\ncccccccccccc: done, 2kB\nPulled a:latest (2.5kB)\n";
    daemon.imagevol(&["pull", "a"]).assert().success().stdout(digest('a') + "\n").stderr(text);
    assert_eq!(output(daemon.imagevol(&["pull", "--quiet", "a"])), digest('a') + "\n");
    assert_eq!(daemon.asked()[0], ("POST /images/pull".to_owned(), "{\"reference\":\"a\"}".to_owned()));
}

#[test]
fn a_pull_that_fails_says_why() {
    let failed = json!({"type": "failed", "message": "quay.io: 404 Not Found\u{1b}[2J"});
    let daemon = Daemon::start([(
        "POST /images/pull",
        vec![raw(format!("{failed}\n")), raw(""), refused(400, "BadRequest", "no reference")],
    )]);
    let text = "error: failed to pull image \"a\": quay.io: 404 Not Found\\u{1b}[2J\n";
    daemon.imagevol(&["pull", "-q", "a"]).assert().code(1).stdout("").stderr(text);
    let text = "\
error: the daemon ended the answer before the pull of \"a\" ended
hint: run the command again: what is on disk already is not fetched again
";
    daemon.imagevol(&["pull", "-q", "a"]).assert().code(1).stdout("").stderr(text);
    daemon
        .imagevol(&["pull", "-q", "a"])
        .assert()
        .code(1)
        .stdout("")
        .stderr("Error from server (BadRequest): no reference\n");
}

#[test]
fn fsck_fails_where_something_is_wrong() {
    let well = json!({"images": 1, "blobs": 2, "bytes": 1500, "mounts": 1, "unfinished": [], "problems": []});
    let ill = json!({"images": 1, "blobs": 2, "bytes": 1500, "mounts": 1, "unfinished": [], "problems": ["layer x is damaged"]});
    let daemon = Daemon::start([("GET /fsck", vec![ok(&well), ok(&ill), ok(&ill)])]);
    assert_eq!(
        output(daemon.imagevol(&["fsck"])),
        "Checked 1 image, 2 blobs with 1.5kB, and 1 mount.\nNo problems found.\n"
    );
    let text = "Checked 1 image, 2 blobs with 1.5kB, and 1 mount.\nProblems:\n  layer x is damaged\n";
    let error = "error: 1 problem found\nhint: `imagevol fsck --repair` repairs what it can\n";
    daemon.imagevol(&["fsck"]).assert().code(1).stdout(text).stderr(error);
    daemon.imagevol(&["fsck", "-o", "json"]).assert().code(1).stderr(error);
}

#[test]
fn fsck_repairs_and_fails_where_something_is_left() {
    let report = |problems: &[&str]| json!({"images": 1, "blobs": 2, "bytes": 1500, "mounts": 1, "unfinished": [], "problems": problems, "repaired": ["layer y is set aside"]});
    let (well, ill) = (report(&[]), report(&["layer x is damaged"]));
    let daemon = Daemon::start([("POST /fsck", vec![ok(&well), ok(&ill)])]);
    let text =
        "Checked 1 image, 2 blobs with 1.5kB, and 1 mount.\nRepaired:\n  layer y is set aside\nNo problems left.\n";
    assert_eq!(output(daemon.imagevol(&["fsck", "--repair"])), text);
    daemon.imagevol(&["fsck", "--repair"]).assert().code(1).stderr("error: 1 problem left\n");
}

#[test]
fn status_is_readable() {
    let status = json!({
        "version": {"version": "0.1.0", "kernel": "6.12.0"}, "nodeName": "n1", "imageBackend": "erofs", "stateDir": "/s", "rootDir": "/r",
        "manifestDir": "/m", "pods": 2, "mountedVolumes": 1, "images": 1, "usedBytes": 2000, "availableBytes": 5000, "pulls": [], "notReady": [],
    });
    let daemon = Daemon::start([("GET /status", vec![ok(&status)])]);
    let text = output(daemon.imagevol(&["status"]));
    assert!(text.starts_with("Node:           n1\n") && text.ends_with("Pulls:          <none>\n"), "{text}");
    let yaml = output(daemon.imagevol(&["status", "-o", "yaml"]));
    assert!(yaml.starts_with("availableBytes: 5000\nimageBackend: erofs\n"), "{yaml}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let daemon = Daemon::start([("GET /images", vec![ok(&json!({"items": [image('a', &["a:1"], &[])]}))])]);
    let mut command = std::process::Command::new(imagevol().get_program());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = command.arg("--socket").arg(daemon.socket()).arg("images").stdout(writer).status().unwrap();
    assert!(status.success());
}
