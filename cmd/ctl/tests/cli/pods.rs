//! Pods and their events.

use serde_json::{Value, json};

use crate::fake::{Daemon, ok, refused, success};
use crate::{event, failed, list, mounted, output, pod, pulling};

const PODS: &str = "GET /api/v1/namespaces/default/pods";
const WEB: &str = "GET /api/v1/namespaces/default/pods/web";
const EVENTS: &str = "GET /api/v1/namespaces/default/events";

/// Ages in these tests are many years; which, is the calendar's business. The width of two digits and a letter stays.
fn without_ages(text: &str) -> String {
    let years = |word: &str| word.strip_suffix('y').is_some_and(|number| number.parse::<u32>().is_ok());
    let line =
        |line: &str| line.split(' ').map(|word| if years(word) { "AGE" } else { word }).collect::<Vec<_>>().join(" ");
    text.lines().map(|text| line(text) + "\n").collect::<Vec<_>>().concat()
}

#[test]
fn pods_are_a_table_in_the_order_of_their_names() {
    let pods = list(&[pod("web", &mounted()), pod("api", &failed()), pod("db", &pulling())]);
    let daemon = Daemon::start([(PODS, vec![ok(&pods)]), ("GET /api/v1/pods", vec![ok(&pods)])]);
    let text = "\
NAME   VOLUMES   STATUS    AGE
api    0/1       Failed    AGE
db     0/1       Pulling   AGE
web    1/1       Mounted   AGE
";
    assert_eq!(without_ages(&output(daemon.imagevol(&["get", "pods"]))), text);
    let text = "\
NAMESPACE   NAME   VOLUMES   STATUS    AGE   NODE   IMAGES
default     api    0/1       Failed    AGE   n1     quay.io/crio/artifact:v2
default     db     0/1       Pulling   AGE   n1     quay.io/crio/artifact:v2
default     web    1/1       Mounted   AGE   n1     quay.io/crio/artifact:v2
";
    assert_eq!(without_ages(&output(daemon.imagevol(&["get", "po", "-A", "-o", "wide"]))), text);
    assert_eq!(output(daemon.imagevol(&["get", "pods", "-o", "name"])), "pod/api\npod/db\npod/web\n");
}

#[test]
fn no_pods_are_said_on_standard_error() {
    let empty = ok(&list(&[]));
    let team = "GET /api/v1/namespaces/team-a/pods";
    let daemon =
        Daemon::start([(PODS, vec![empty.clone()]), (team, vec![empty.clone()]), ("GET /api/v1/pods", vec![empty])]);
    daemon
        .imagevol(&["get", "pods"])
        .assert()
        .success()
        .stdout("")
        .stderr("No resources found in default namespace.\n");
    daemon
        .imagevol(&["get", "pods", "-n", "team-a"])
        .assert()
        .success()
        .stdout("")
        .stderr("No resources found in team-a namespace.\n");
    daemon.imagevol(&["get", "pods", "-A"]).assert().success().stdout("").stderr("No resources found\n");
    let json: Value = serde_json::from_str(&output(daemon.imagevol(&["get", "pods", "-o", "json"]))).unwrap();
    assert_eq!(json, json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": []}));
}

#[test]
fn a_pod_by_name_is_itself() {
    let web = pod("web", &mounted());
    let missing = "GET /api/v1/namespaces/default/pods/gone";
    let daemon =
        Daemon::start([(WEB, vec![ok(&web)]), (missing, vec![refused(404, "NotFound", "pods \"gone\" not found")])]);
    let json: Value = serde_json::from_str(&output(daemon.imagevol(&["get", "pod", "web", "-o", "json"]))).unwrap();
    assert_eq!(json, web);
    let yaml = output(daemon.imagevol(&["get", "pod/web", "-o", "yaml"]));
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\nmetadata:\n  creationTimestamp: "), "{yaml}");
    let assert = daemon.imagevol(&["get", "pod", "gone", "web", "--no-headers"]).assert().code(1);
    let assert = assert.stderr("Error from server (NotFound): pods \"gone\" not found\n");
    assert_eq!(without_ages(&String::from_utf8_lossy(&assert.get_output().stdout)), "web   1/1   Mounted   AGE\n");
}

#[test]
fn events_are_a_table_in_the_order_of_time() {
    let other =
        json!({"involvedObject": {"kind": "Pod", "name": "db"}, "metadata": {"name": "other"}, "reason": "Odd"});
    let events = list(&[
        event("late", "Pulled", "2002-01-01T00:00:00Z"),
        event("early", "Pulling", "2001-01-01T00:00:00Z"),
        other,
    ]);
    let daemon = Daemon::start([(EVENTS, vec![ok(&events)])]);
    let text = "\
LAST SEEN   TYPE     REASON    OBJECT    MESSAGE
AGE         Normal   Pulling   pod/web   Pulling image
AGE         Normal   Pulled    pod/web   Pulled image
";
    assert_eq!(without_ages(&output(daemon.imagevol(&["get", "events", "--for", "pods/web"]))), text);
    let text = "\
LAST SEEN   TYPE     REASON   OBJECT    SUBOBJECT   SOURCE         MESSAGE        FIRST SEEN   COUNT   NAME
AGE         Normal   Pulled   pod/web               imagevol, n1   Pulled image   AGE          1       late
";
    assert_eq!(without_ages(&output(daemon.imagevol(&["get", "event", "late", "-o", "wide"]))), text);
    let error = "Error from server (NotFound): events \"none\" not found\n";
    daemon.imagevol(&["get", "event", "none"]).assert().code(1).stdout("").stderr(error);
}

#[test]
fn describe_shows_the_pods_own_events() {
    let mut foreign = event("foreign", "Odd", "2001-01-01T00:00:00Z");
    foreign["involvedObject"]["uid"] = "an earlier pod of that name".into();
    let events = list(&[foreign, event("mine", "Pulled", "2001-01-01T00:00:00Z")]);
    let daemon = Daemon::start([(WEB, vec![ok(&pod("web", &mounted()))]), (EVENTS, vec![ok(&events)])]);
    let text = output(daemon.imagevol(&["describe", "pod", "web"]));
    assert!(text.starts_with("Name:         web\nNamespace:    default\nNode:         n1/\n"), "{text}");
    let end = "\
Volumes:
  volume:
    Type:        Image (a container image or OCI artifact)
    Reference:   quay.io/crio/artifact:v2
    PullPolicy:  Always
QoS Class:       BestEffort
Node-Selectors:  <none>
Tolerations:     <none>
Events:
  Type    Reason  Age  From      Message
  ----    ------  ---- ----      -------
  Normal  Pulled  AGE  imagevol  Pulled image
";
    // The age's own column is four wide by its underline.
    let end = end
        .replace("Age  From", "Age   From")
        .replace("---- ----", "----  ----")
        .replace("AGE  imagevol", "AGE   imagevol");
    assert!(without_ages(&text).ends_with(&end), "{text}");
}

#[test]
fn apply_sends_each_manifest_and_says_what_became_of_its_objects() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.json"] {
        std::fs::write(directory.path().join(name), name).unwrap();
    }
    let result = |name: &str, outcome: Value, error: Value| json!({"kind": "pod", "namespace": "default", "name": name, "outcome": outcome, "error": error, "object": null});
    let encoded = directory.path().display().to_string().replace('/', "%2F");
    let (first, second) =
        (format!("POST /apply?source={encoded}%2Fa.yaml"), format!("POST /apply?source={encoded}%2Fb.json"));
    let invalid = "The Pod \"c\" is invalid: \n* spec.volumes[0].image.reference: Required value\u{7}";
    let daemon = Daemon::start([
        (
            &*first,
            vec![ok(
                &json!({"results": [result("a", json!("created"), Value::Null), result("b", json!("configured"), Value::Null)]}),
            )],
        ),
        (
            &*second,
            vec![ok(
                &json!({"results": [result("c", Value::Null, json!(invalid)), result("d", json!("unchanged"), Value::Null)]}),
            )],
        ),
    ]);
    let assert = daemon.imagevol(&["apply", "-f", &directory.path().display().to_string()]).assert().code(1);
    assert
        .stdout("pod/a created\npod/b configured\npod/d unchanged\n")
        .stderr("The Pod \"c\" is invalid: \n* spec.volumes[0].image.reference: Required value\\u{7}\n");
    assert_eq!(daemon.asked(), [(first, "a.yaml".to_owned()), (second, "b.json".to_owned())]);
}

#[test]
fn apply_validates_standard_input_without_storing_it() {
    let object = pod("web", &json!({}));
    let result = json!({"kind": "pod", "namespace": "default", "name": "web", "outcome": "created", "error": null, "object": object});
    let daemon = Daemon::start([
        ("POST /apply?source=STDIN&dryRun=All", vec![ok(&json!({"results": [result]}))]),
        ("POST /apply?source=STDIN&namespace=team-a", vec![ok(&json!({"results": []}))]),
    ]);
    let apply = |arguments: &[&str]| {
        let mut command = daemon.imagevol(&["apply", "--dry-run=server", "-f", "-"]);
        command.args(arguments).write_stdin("kind: Pod\n");
        output(command)
    };
    assert_eq!(apply(&[]), "pod/web created (server dry run)\n");
    assert_eq!(apply(&["-o", "name"]), "pod/web\n");
    assert_eq!(serde_json::from_str::<Value>(&apply(&["-o", "json"])).unwrap(), object);
    assert!(apply(&["-o", "yaml"]).starts_with("apiVersion: v1\nkind: Pod\n"));
    let error = "error: no objects passed to apply\n";
    daemon.imagevol(&["apply", "-n", "team-a", "-f", "-"]).write_stdin("").assert().code(1).stderr(error);
}

#[test]
fn delete_goes_by_name_and_by_manifest() {
    let path = "DELETE /api/v1/namespaces/default/pods/";
    let secret = "DELETE /api/v1/namespaces/team-a/secrets/key";
    let gone = refused(404, "NotFound", "pods \"gone\" not found");
    let daemon = Daemon::start([
        (&*format!("{path}web"), vec![success()]),
        (&*format!("{path}gone"), vec![gone]),
        (secret, vec![success()]),
    ]);
    let error = "Error from server (NotFound): pods \"gone\" not found\n";
    daemon.imagevol(&["delete", "pod", "gone", "web"]).assert().code(1).stdout("pod \"web\" deleted\n").stderr(error);
    assert_eq!(
        output(daemon.imagevol(&["delete", "pod/gone", "pod/web", "--ignore-not-found", "-o", "name"])),
        "pod/web\n"
    );
    let manifest = "kind: Pod\nmetadata: {name: web}\n---\nkind: Secret\nmetadata: {name: key, namespace: team-a}\n";
    let mut command = daemon.imagevol(&["delete", "-f", "-"]);
    command.write_stdin(manifest);
    assert_eq!(output(command), "pod \"web\" deleted\nsecret \"key\" deleted\n");
    let error = "error: STDIN: no matches for kind \"Service\"\n";
    daemon
        .imagevol(&["delete", "-f", "-"])
        .write_stdin("kind: Service\nmetadata: {name: x}")
        .assert()
        .code(1)
        .stderr(error);
}

#[test]
fn retry_starts_a_failed_pod_anew() {
    let daemon = Daemon::start([("POST /api/v1/namespaces/default/pods/web/retry", vec![success()])]);
    assert_eq!(output(daemon.imagevol(&["retry", "pod", "web"])), "pod/web retried\n");
    let refusal = refused(409, "Conflict", "pod \"web\" has not failed");
    let daemon = Daemon::start([("POST /api/v1/namespaces/default/pods/web/retry", vec![refusal])]);
    let text = "Error from server (Conflict): pod \"web\" has not failed\n";
    daemon.imagevol(&["retry", "pod", "web"]).assert().code(1).stdout("").stderr(text);
}

#[test]
fn wait_looks_until_the_pod_is_mounted() {
    let states = [pulling(), pulling(), mounted()];
    let daemon = Daemon::start([(WEB, states.iter().map(|status| ok(&pod("web", status))).collect())]);
    assert_eq!(output(daemon.imagevol(&["wait", "pod", "web", "--for=mounted"])), "pod/web condition met\n");
    assert_eq!(daemon.asked().len(), 3);
}

#[test]
fn wait_ends_when_time_is_up_or_the_pod_has_failed() {
    let daemon = Daemon::start([(WEB, vec![ok(&pod("web", &pulling())), ok(&pod("web", &failed()))])]);
    let text = "\
error: timed out waiting for the condition on pods/web
hint: `imagevol describe pod web` shows its events
";
    daemon.imagevol(&["wait", "pod/web", "--for=mounted", "--timeout=0"]).assert().code(1).stdout("").stderr(text);
    let text = "\
error: pods/web failed: ErrImagePull: not found
hint: `imagevol describe pod web` shows its events
";
    daemon.imagevol(&["wait", "pod/web", "--for=mounted"]).assert().code(1).stdout("").stderr(text);
    assert_eq!(output(daemon.imagevol(&["wait", "pod/web", "--for=failed"])), "pod/web condition met\n");
}

#[test]
fn path_is_alone_on_its_line() {
    let sub_path = |container: &str, index: u32, path: &str| json!({"container": container, "index": index, "subPath": path, "path": format!("/r/sub/{container}/{index}")});
    let volume = |name: &str, mounted: bool| {
        let sub_paths = [sub_path("shell", 0, "dir"), sub_path("shell", 2, "file"), sub_path("one", 1, "dir")];
        json!({"name": name, "path": format!("/r/{name}"), "mounted": mounted, "image": null, "subPaths": sub_paths})
    };
    let volumes = json!({"volumes": [volume("data", true), volume("late", false), volume("\u{1b}[2J", true)]});
    let daemon = Daemon::start([("GET /api/v1/namespaces/default/pods/web/volumes", vec![ok(&volumes)])]);
    let path = |arguments: &[&str]| {
        let mut command = daemon.imagevol(&["path", "pod", "web"]);
        command.args(arguments);
        command
    };
    assert_eq!(output(path(&["data"])), "/r/data\n");
    assert_eq!(output(path(&["data", "--container", "one"])), "/r/sub/one/1\n");
    assert_eq!(output(path(&["data", "-c", "shell", "--index", "2"])), "/r/sub/shell/2\n");
    assert_eq!(output(path(&["late", "--allow-unmounted"])), "/r/late\n");
    let errors = [
        (
            &["late"] as &[&str],
            "error: volume \"late\" of pod \"web\" is not mounted\nhint: `imagevol wait pod web --for=mounted` waits for it, `imagevol describe pod web` says why\n",
        ),
        (&["none"], "error: pod \"web\" has no image volume \"none\"; it has data, late, \\u{1b}[2J\n"),
        (
            &["data", "-c", "shell"],
            "error: container \"shell\" mounts several sub paths of volume \"data\": 0 (dir), 2 (file)\nhint: choose one with --index\n",
        ),
        (&["data", "-c", "none"], "error: container \"none\" has no sub path of volume \"data\" mounted\n"),
        (&["\u{1b}[2J"], "error: the daemon gave a path with control characters in it: \"/r/\\u{1b}[2J\"\n"),
    ];
    for (arguments, error) in errors {
        path(arguments).assert().code(1).stdout("").stderr(error);
    }
}
