//! How pods come in: the manifest directory as people and half-finished editors leave it, and `apply`.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::lab::{Lab, artifact, image};
use crate::manifest::{documents, pod};

const VALIDATION: &str = include_str!("../../../data/oracle/validation.json");

/// https://kubernetes.io/docs/tasks/configure-pod-container/image-volumes/, `pods/storage/image-volumes.yaml`.
const DOCUMENTED: &str = r#"apiVersion: v1
kind: Pod
metadata:
  name: image-volume
spec:
  containers:
  - name: shell
    command: ["sleep", "infinity"]
    image: debian
    volumeMounts:
    - name: volume
      mountPath: /volume
  volumes:
  - name: volume
    image:
      reference: quay.io/crio/artifact:v2
      pullPolicy: Always
"#;

/// Rescans are so rare that whatever is seen was told by inotify.
const INOTIFY_ONLY: &str = "fileCheckFrequency: 1h";

/// Waits until a pod is there and mounted.
fn until_mounted(lab: &Lab, pod: &str) {
    let waits = || lab.daemon.ctl(["wait", "pod", pod, "--for=mounted", "--timeout=0"]).ok.then_some(());
    lab.until(&format!("mount of {pod}"), waits);
}

/// Waits until `status` names a file among the problems, and returns the sentence.
fn until_problem(lab: &Lab, file: &str) -> String {
    lab.until(&format!("problem with {file}"), || {
        let status = lab.daemon.json(["status"]);
        let problems = status["manifestProblems"].as_array().unwrap().iter().filter_map(Value::as_str);
        problems.map(str::to_owned).find(|problem| problem.contains(file))
    })
}

#[test]
fn a_manifest_comes_changes_and_goes() {
    let Some(lab) = Lab::started("comes_and_goes", INOTIFY_ONLY) else { return };
    let registry = lab.registry();
    let first = registry.push("data", "1", &image("name", "first"));
    let second = registry.push("data", "2", &image("name", "second"));
    let file = lab.put_manifest("web.yaml", &pod("web", &first, "IfNotPresent").json());
    until_mounted(&lab, "web");
    let uid = lab.pod("web")["metadata"]["uid"].clone();
    assert_eq!(lab.read("web", "volume", "name"), "first");
    lab.put_manifest("web.yaml", &pod("web", &second, "IfNotPresent").json());
    lab.until("another pod", || (lab.pod("web")["metadata"]["uid"] != uid).then_some(()));
    until_mounted(&lab, "web");
    assert_eq!(lab.read("web", "volume", "name"), "second");
    fs::remove_file(file).unwrap();
    lab.until("no pod", || (!lab.daemon.ctl(["get", "pod", "web"]).ok).then_some(()));
    let root = lab.daemon.root_dir();
    lab.until("no mount", || (!lab.daemon.mounts().iter().any(|mount| mount.starts_with(&root))).then_some(()));
    assert!(lab.daemon.must(["fsck"]).contains("No problems found."));
}

#[test]
fn a_half_written_manifest_tears_nothing_down() {
    let Some(lab) = Lab::started("half_written", INOTIFY_ONLY) else { return };
    let registry = lab.registry();
    let reference = registry.push("data", "1", &image("name", "content"));
    let manifest = pod("web", &reference, "IfNotPresent").json();
    let path = lab.put_manifest("web.json", &manifest);
    until_mounted(&lab, "web");
    let uid = lab.pod("web")["metadata"]["uid"].clone();
    fs::write(&path, &manifest[..manifest.len() / 2]).unwrap();
    until_problem(&lab, "web.json");
    assert!(lab.daemon.must(["status"]).contains("web.json"), "{}", lab.daemon.must(["status"]));
    assert_eq!(lab.pod("web")["metadata"]["uid"], uid);
    assert_eq!(lab.read("web", "volume", "name"), "content");
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.write_all(&manifest.as_bytes()[manifest.len() / 2..]).unwrap();
    drop(file);
    let problems = || lab.daemon.json(["status"])["manifestProblems"].as_array().unwrap().len();
    lab.until("no problem", || (problems() == 0).then_some(()));
    assert_eq!(lab.pod("web")["metadata"]["uid"], uid);
}

#[test]
fn what_is_no_manifest_keeps_no_other_from_being_read() {
    let Some(lab) = Lab::started("no_manifests", INOTIFY_ONLY) else { return };
    let registry = lab.registry();
    let reference = registry.push("data", "1", &image("name", "content"));
    let dir = lab.daemon.manifest_dir();
    fs::create_dir_all(dir.join("directory.yaml")).unwrap();
    mkfifo(&dir.join("fifo.yaml"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(dir.join("socket.yaml")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("link.yaml")).unwrap();
    fs::File::create(dir.join("large.yaml")).unwrap().set_len(100 << 20).unwrap();
    lab.put_manifest("bomb.yaml", &yaml_bomb());
    lab.put_manifest("other.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n");
    lab.put_manifest("web.yaml", &pod("web", &reference, "IfNotPresent").json());
    until_mounted(&lab, "web");
    let expected = [
        ("fifo.yaml", "fifo"),
        ("socket.yaml", "socket"),
        ("link.yaml", "symbolic link"),
        ("large.yaml", "104857600 bytes"),
        ("bomb.yaml", "bomb.yaml"),
        ("other.yaml", "Deployment"),
    ];
    for (file, says) in expected {
        let problem = until_problem(&lab, file);
        assert!(problem.contains(says), "{problem}");
        assert!(problem.len() < 600 && !problem.contains("root:"), "{problem}");
    }
}

/// Nine levels of nine references each: a billion strings, if they were expanded.
fn yaml_bomb() -> String {
    let mut bomb = "apiVersion: v1\nkind: Pod\na0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let references = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb = format!("{bomb}a{level}: &a{level} [{references}]\n");
    }
    bomb + "metadata: {name: bomb}\n"
}

#[test]
fn one_file_may_hold_many_objects() {
    let Some(lab) = Lab::started("many_objects", INOTIFY_ONLY) else { return };
    let registry = lab.registry();
    let reference = registry.push("data", "1", &image("name", "content"));
    let named = |name: &str| pod(name, &reference, "IfNotPresent").value();
    lab.put_manifest("documents.yaml", &documents(&[named("a"), named("b")]));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [named("c"), named("d")]});
    lab.put_manifest("list.yaml", &list.to_string());
    let list = json!({"apiVersion": "v1", "kind": "PodList", "items": [named("e")]});
    lab.put_manifest("list.json", &list.to_string());
    for pod in ["a", "b", "c", "d", "e"] {
        until_mounted(&lab, pod);
    }
    let applied = lab.daemon.ctl_with(&documents(&[named("f"), named("g")]), ["apply", "-f", "-"]);
    assert_eq!((applied.ok, applied.stdout.as_str()), (true, "pod/f created\npod/g created\n"), "{}", applied.stderr);
    let both = lab.daemon.ctl_with(&documents(&[named("a"), json!({"kind": "Pod"})]), ["apply", "-f", "-"]);
    assert_eq!(both.code, Some(1), "{}", both.stdout);
}

#[test]
fn dry_runs_answer_as_a_recorded_api_server() {
    let Some(lab) = Lab::started("dry_runs", "") else { return };
    let cases: Vec<Value> = serde_json::from_str(VALIDATION).unwrap();
    assert_eq!(cases.len(), 81);
    for case in &cases {
        let (name, manifest) = (&case["case"], sent(&case["pod"]).to_string());
        let ran = lab.daemon.ctl_with(&manifest, ["apply", "--dry-run=server", "-o", "json", "-f", "-"]);
        if let Some(error) = case["error"].as_str() {
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{name}");
            // Where an object could not be read, kubectl's `apply` says from where; what was recorded is the server's answer.
            let ours = ran.stderr.replace("error when creating \"STDIN\": ", "");
            assert_eq!(ours.trim_end_matches('\n'), error.trim_end_matches('\n'), "{name}");
            continue;
        }
        assert!(ran.ok, "{name}: {}", ran.stderr);
        let object: Value = serde_json::from_str(&ran.stdout).unwrap();
        let spec = &object["spec"];
        let ours = json!({"volumes": spec["volumes"], "volumeMounts": spec["containers"][0]["volumeMounts"]});
        assert_eq!(ours, case["defaulted"], "{name}");
    }
    assert!(lab.daemon.ctl(["get", "pods"]).stderr.contains("No resources found"));
    assert!(!lab.daemon.manifest_dir().join("x.yaml").exists());
}

/// The pod that was sent to the API server: named `x`, with one container `c`, and the case's fields.
fn sent(case: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (field, value) in case.as_object().unwrap() {
        match field.as_str() {
            "volumeMounts" => spec["containers"][0]["volumeMounts"] = value.clone(),
            "containers[0].securityContext" => spec["containers"][0]["securityContext"] = value.clone(),
            field => spec[field] = value.clone(),
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
}

#[test]
fn a_dry_run_prints_in_kubectls_forms() {
    let Some(lab) = Lab::started("forms", "") else { return };
    let ran = |format: &[&str]| {
        let arguments = [&["apply", "--dry-run=server", "-f", "-"], format].concat();
        lab.daemon.ctl_with(DOCUMENTED, arguments).stdout
    };
    assert_eq!(ran(&[]), "pod/image-volume created (server dry run)\n");
    assert_eq!(ran(&["-o", "name"]), "pod/image-volume\n");
    assert!(ran(&["-o", "yaml"]).contains("\n      reference: quay.io/crio/artifact:v2\n"), "{}", ran(&["-o", "yaml"]));
}

#[test]
fn the_documentations_pod_works_as_written_through_a_mirror() {
    let Some(mut lab) = Lab::new("documented") else { return };
    let mirror = lab.registry();
    mirror.push("crio/artifact", "v2", &artifact());
    let hosts = lab.daemon.dir().join("certs.d/quay.io");
    fs::create_dir_all(&hosts).unwrap();
    let toml =
        format!("server = \"https://quay.io\"\n[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", mirror.url());
    fs::write(hosts.join("hosts.toml"), toml).unwrap();
    lab.daemon.start();
    lab.daemon.apply(DOCUMENTED);
    lab.daemon.wait_mounted("image-volume");
    assert_eq!(lab.read("image-volume", "volume", "dir/file"), "2\n");
    assert_eq!(lab.read("image-volume", "volume", "file"), "1\n");
    let story = lab.story("image-volume");
    assert_eq!(story[0], "Pulling: Pulling image \"quay.io/crio/artifact:v2\"");
    assert!(story[1].starts_with("Pulled: Successfully pulled image \"quay.io/crio/artifact:v2\" in "), "{story:?}");
    // What a mirror is asked for: whose image it is (containerd's `ns`).
    assert!(
        mirror
            .requests()
            .iter()
            .filter(|request| request.path != "/v2/")
            .all(|request| request.query.contains("ns=quay.io"))
    );
    let mounts = lab.pod("image-volume")["status"]["containerStatuses"][0]["volumeMounts"].clone();
    let image = artifact().digest;
    assert!(mounts[0]["volumeStatus"]["image"]["imageRef"].as_str().unwrap().ends_with(&image.to_string()), "{mounts}");
}
