//! Who may use an image that is already on the node (KEP-2535), as pods meet it; and that no secret gets out.

use std::path::Path;

use imagevol_test_support::registry::{FakeRegistry, Fault, Gate};

use crate::lab::{Lab, image};
use crate::manifest::{docker_config, documents, pod, secret};

/// What no output, log or file but a manifest may hold.
const PLANTED: &str = "pl4nted-passw0rd";

struct Tenants {
    lab: Lab,
    registry: FakeRegistry,
    reference: String,
}

impl Tenants {
    /// A private image, and pod `a` that pulled it with its own secret `own`.
    fn new(test: &str) -> Option<Self> {
        let lab = Lab::started(test, "pullFailurePolicy: Retry")?;
        let registry = lab.private_registry(&["data"]);
        let reference = registry.push("data", "1", &image("name", "private"));
        let tenants = Self { lab, registry, reference };
        tenants.secret("own", "secret");
        tenants.lab.daemon.apply(&pod("a", &tenants.reference, "IfNotPresent").secret("own").json());
        tenants.lab.daemon.wait_mounted("a");
        tenants.registry.clear_requests();
        Some(tenants)
    }

    fn secret(&self, name: &str, password: &str) {
        self.lab.daemon.apply(&secret(name, &self.registry.host(), ("alice", password)).to_string());
    }

    fn blobs(&self) -> usize {
        self.registry.gets("/blobs/")
    }
}

#[test]
fn a_present_image_is_not_for_pods_without_its_secret() {
    let Some(tenants) = Tenants::new("without_secret") else { return };
    let (lab, reference) = (&tenants.lab, &tenants.reference);
    lab.daemon.apply(&pod("asks", reference, "IfNotPresent").json());
    lab.daemon.apply(&pod("never", reference, "Never").json());
    lab.until_waiting("asks", "ImagePullBackOff");
    lab.until_waiting("never", "ErrImageNeverPull");
    let message = &lab.pod("never")["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
    let hidden = format!("Container image {reference:?} is not present with pull policy of Never");
    assert_eq!(*message, hidden, "that it is present is no business of this pod");
    for pod in ["asks", "never"] {
        let path = lab.daemon.ctl(["path", "pod", pod, "volume"]);
        assert!(!path.ok && path.stdout.is_empty(), "{}", path.stdout);
    }
    assert_eq!(tenants.blobs(), 0);
}

#[test]
fn the_right_secret_opens_a_present_image_without_a_transfer() {
    let Some(tenants) = Tenants::new("right_secret") else { return };
    let (lab, reference) = (&tenants.lab, &tenants.reference);
    // The same password in another secret: another tenant's, who proves the right to it.
    tenants.secret("other", "secret");
    lab.daemon.apply(&pod("b", reference, "IfNotPresent").secret("other").json());
    lab.daemon.apply(&pod("never", reference, "Never").secret("own").json());
    lab.daemon.wait_mounted("b");
    lab.daemon.wait_mounted("never");
    assert_eq!(lab.read("b", "volume", "name"), "private");
    assert_eq!(tenants.blobs(), 0, "{:?}", tenants.registry.requests());
}

#[test]
fn another_credential_is_proven_at_the_registry_but_moves_no_blob() {
    let Some(tenants) = Tenants::new("other_credential") else { return };
    let (lab, reference) = (&tenants.lab, &tenants.reference);
    tenants.registry.add_user("bob", "bobs");
    tenants.registry.protect("data", &["alice", "bob"]);
    lab.daemon.apply(&secret("bobs", &tenants.registry.host(), ("bob", "bobs")).to_string());
    lab.daemon.apply(&pod("b", reference, "IfNotPresent").secret("bobs").json());
    lab.daemon.wait_mounted("b");
    assert!(lab.story("b")[0].starts_with("Pulling: "), "{:?}", lab.story("b"));
    assert!(tenants.registry.requests().iter().any(|request| request.path.contains("/manifests/")));
    assert_eq!(tenants.blobs(), 0);
}

#[test]
fn a_rotated_secret_keeps_its_right_and_a_wrong_one_gets_none() {
    let Some(tenants) = Tenants::new("rotated") else { return };
    let (lab, reference) = (&tenants.lab, &tenants.reference);
    tenants.registry.add_user("alice", "rotated");
    tenants.secret("own", "rotated");
    tenants.secret("stale", "wrong");
    lab.daemon.apply(&pod("rotated", reference, "IfNotPresent").secret("own").json());
    lab.daemon.apply(&pod("stale", reference, "IfNotPresent").secret("stale").json());
    lab.daemon.wait_mounted("rotated");
    lab.until_waiting("stale", "ImagePullBackOff");
    assert_eq!(tenants.blobs(), 0);
}

/// A pod may pull it, another may use it without a pull, and so may the node.
fn assert_open_to_all_pods(lab: &Lab, reference: &str) {
    lab.daemon.apply(&pod("first", reference, "Always").json());
    lab.daemon.wait_mounted("first");
    lab.daemon.apply(&pod("second", reference, "Never").json());
    lab.daemon.wait_mounted("second");
    assert!(lab.daemon.ctl(["pull", reference]).ok);
}

#[test]
fn the_nodes_own_credential_opens_an_image_to_all_pods() {
    let Some(mut lab) = Lab::new("node_credential") else { return };
    let registry = lab.private_registry(&["data"]);
    let reference = registry.push("data", "1", &image("name", "private"));
    let dir = lab.daemon.dir().join("docker");
    std::fs::create_dir(&dir).unwrap();
    let config = docker_config(&registry.host(), ("alice", "secret")).to_string();
    std::fs::write(dir.join("config.json"), config).unwrap();
    lab.daemon.start();
    assert_open_to_all_pods(&lab, &reference);
}

/// The kubelet's configuration and a plugin, which here is a shell.
fn write_plugin(dir: &Path, host: &str, password: &str) {
    std::fs::create_dir(dir.join("plugins")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", dir.join("plugins/shell")).unwrap();
    let version = "credentialprovider.kubelet.k8s.io/v1";
    let auth = serde_json::json!({host: {"username": "alice", "password": password}});
    let answer = serde_json::json!({"kind": "CredentialProviderResponse", "apiVersion": version, "cacheKeyType": "Registry", "auth": auth});
    let config = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
        "providers": [{
            "name": "shell", "matchImages": [host], "defaultCacheDuration": "1h", "apiVersion": version,
            "args": ["-c", format!("echo run >> {}/runs; printf '%s' \"$ANSWER\"", dir.display())],
            "env": [{"name": "ANSWER", "value": answer.to_string()}],
        }],
    });
    std::fs::write(dir.join("plugins.json"), config.to_string()).unwrap();
}

#[test]
fn what_a_credential_provider_opens_is_open_to_all_pods() {
    let Some(lab) = Lab::new("credential_provider") else { return };
    let dir = lab.daemon.dir().to_owned();
    let registry = lab.private_registry(&["data"]);
    registry.add_user("alice", PLANTED);
    let reference = registry.push("data", "1", &image("name", "private"));
    write_plugin(&dir, &registry.host(), PLANTED);
    let dir = dir.display();
    let mut lab = lab.config(&format!(
        "imageCredentialProviderConfig: {dir}/plugins.json\nimageCredentialProviderBinDir: {dir}/plugins\nlogging: {{verbosity: 5}}"
    ));
    lab.daemon.start();
    assert_open_to_all_pods(&lab, &reference);
    assert_eq!(std::fs::read_to_string(lab.daemon.dir().join("runs")).unwrap(), "run\n", "asked once");
    assert!(!lab.daemon.log().contains(PLANTED));
}

#[test]
fn of_two_pods_at_once_only_the_entitled_one_gets_the_image() {
    let Some(lab) = Lab::started("two_at_once", "pullFailurePolicy: Retry") else { return };
    let registry = lab.private_registry(&["data"]);
    let image = image("name", "private");
    let reference = registry.push("data", "1", &image);
    let gate = Gate::new();
    registry.faults().always(&format!("/blobs/{}", image.layers[0].digest), Fault::Hold(gate.clone()));
    let entitled = pod("entitled", &reference, "IfNotPresent").secret("own");
    let own = secret("own", &registry.host(), ("alice", "secret"));
    let others = ["IfNotPresent", "Always"].map(|policy| pod(&policy.to_lowercase(), &reference, policy).value());
    lab.daemon.apply(&documents([&own, &entitled.value()].into_iter().chain(&others)));
    lab.run(gate.arrived(1));
    lab.until_waiting("ifnotpresent", "ImagePullBackOff");
    lab.until_waiting("always", "ImagePullBackOff");
    gate.open();
    lab.daemon.wait_mounted("entitled");
    for pod in ["ifnotpresent", "always"] {
        assert!(!lab.daemon.ctl(["wait", "pod", pod, "--for=mounted", "--timeout=0"]).ok);
    }
}

#[test]
fn secrets_stay_in_manifests() {
    let Some(mut lab) = Lab::new("secrets_stay") else { return };
    lab.daemon = std::mem::take(&mut lab.daemon).flags(["-v", "10"]);
    lab.daemon.start();
    let registry = lab.private_registry(&["data", "closed"]);
    registry.add_user("alice", PLANTED);
    let reference = registry.push("data", "1", &image("name", "private"));
    let own = secret("own", &registry.host(), ("alice", PLANTED));
    let wrong = secret("wrong", &registry.host(), ("alice", &format!("{PLANTED}-wrong")));
    let good = pod("good", &reference, "Always").secret("own").value();
    let refused = pod("refused", &reference, "Always").secret("wrong").value();
    lab.daemon.apply(&documents([&own, &wrong, &good, &refused]));
    lab.daemon.wait_mounted("good");
    lab.wait_failed("refused");
    let outputs = outputs(&lab, &own.to_string());
    let encoded = [PLANTED.to_owned(), own["data"][".dockerconfigjson"].as_str().unwrap().to_owned(), basic_auth()];
    for planted in &encoded {
        for (place, output) in &outputs {
            assert!(!output.contains(planted.as_str()), "{place} shows {planted}:\n{output}");
        }
        let found = holding(lab.daemon.dir(), planted);
        let elsewhere: Vec<_> =
            found.iter().filter(|file| !file.starts_with(lab.daemon.manifest_dir()) && !is_of_the_test(file)).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?} hold {planted}");
    }
}

/// What `Authorization: Basic` sends.
fn basic_auth() -> String {
    let config = docker_config("h", ("alice", PLANTED));
    config["auths"]["h"]["auth"].as_str().unwrap().to_owned()
}

/// Everything that a user or an operator gets to see.
fn outputs(lab: &Lab, secret: &str) -> Vec<(String, String)> {
    let commands: [&[&str]; 8] = [
        &["get", "pods", "-o", "yaml"],
        &["get", "pods", "-o", "json"],
        &["describe", "pod", "good", "refused"],
        &["get", "events", "-o", "json"],
        &["images", "-o", "json"],
        &["status", "-o", "json"],
        &["fsck"],
        &["get", "pods", "-o", "wide"],
    ];
    let mut outputs: Vec<_> = commands.iter().map(|command| (command.join(" "), lab.daemon.must(*command))).collect();
    for format in ["json", "yaml", "name"] {
        let ran = lab.daemon.ctl_with(secret, ["apply", "--dry-run=server", "-f", "-", "-o", format]);
        assert!(ran.ok, "{}", ran.stderr);
        outputs.push((format!("apply -o {format}"), ran.stdout));
    }
    outputs.push(("log".to_owned(), lab.daemon.log()));
    outputs.push(("metrics".to_owned(), lab.metrics()));
    outputs
}

/// What the harness itself wrote: the applied manifests.
fn is_of_the_test(file: &Path) -> bool {
    ["applied.yaml", "stdin"].iter().any(|name| file.file_name().is_some_and(|found| found == *name))
}

/// Regular files beneath a directory that hold some bytes, mounts of images aside.
fn holding(dir: &Path, bytes: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(holding(&entry.path(), bytes));
        } else if kind.is_file() && contains(&std::fs::read(entry.path()).unwrap(), bytes.as_bytes()) {
            found.push(entry.path());
        }
    }
    found
}

fn contains(content: &[u8], wanted: &[u8]) -> bool {
    content.windows(wanted.len()).any(|window| window == wanted)
}
