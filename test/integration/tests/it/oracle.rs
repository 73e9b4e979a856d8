//! The 24 pods that were recorded on a real kubelet (1.36.3, with containerd 2.4.2), given to this daemon.
//!
//! What differs from the recording, and why:
//!
//! - No events about container images, `Created` or `Started`, and no phase `Running`: containers are the business of
//!   whoever runs them. A pod whose volumes are mounted waits with `ContainerCreating`.
//! - Each decision is told once: the kubelet asks again at every sync of the pod, so that it counts 2 to 4 for a single
//!   mount, and says `already present` of what it has just pulled.
//! - Two volumes of a pod are pulled at the same time, not one after the other.
//! - `subpath-file`: a sub path may be a single file; containerd refuses that.
//! - `artifact`: its files are there; containerd mounts an empty directory.
//! - What follows `Failed to pull image "...": ` is the image service's own: see [`Case::says`].
//! - Events come from the component `imagevol`.

use imagevol_test_support::image::{ImageBuilder, LayerBuilder, OCI_MANIFEST};
use imagevol_test_support::registry::{FakeRegistry, Fault};
use serde_json::{Value, json};

use crate::lab::{Event, Lab, artifact, image};
use crate::manifest::{documents, secret};

const RECORDED: &str = include_str!("../../../data/oracle/events.json");

/// What the failure's message must hold, besides the reference: at least as much as containerd's says.
const SAYS: [(&str, &[&str]); 10] = [
    ("tag-unknown", &["404 not found"]),
    ("repo-unknown", &["404 not found"]),
    ("registry-down", &["connection refused"]),
    ("denied", &["unauthorized", "401"]),
    ("secret-wrong", &["401"]),
    ("wrong-digest", &["404 not found"]),
    ("rate-limited", &["429"]),
    ("server-error", &["500"]),
    ("html", &["a web page"]),
    ("corrupt-layer", &["digest"]),
];

/// The registries of the recording.
struct Registries {
    open: FakeRegistry,
    private: FakeRegistry,
    broken: FakeRegistry,
    absent: String,
}

/// One recorded pod, its references rewritten to the registries of this run.
struct Case {
    name: String,
    recorded: Value,
}

#[test]
fn pods_fare_as_on_a_recorded_kubelet() {
    let Some(lab) = Lab::started("oracle", "pullFailurePolicy: Retry") else { return };
    let registries = Registries::new(&lab);
    let cases = registries.cases();
    assert_eq!(cases.len(), 24);
    lab.daemon.apply(&registries.secrets());
    for reference in cases.iter().flat_map(Case::present_before) {
        lab.daemon.must(["pull", "--quiet", &registries.here(&format!("localhost:5000/{reference}"))]);
    }
    lab.daemon.apply(&documents(&cases.iter().map(Case::manifest).collect::<Vec<_>>()));
    for case in &cases {
        case.wait(&lab);
        case.compare_events(&lab);
        case.compare_status(&lab);
        case.compare_description(&lab);
        case.compare_content(&lab);
    }
    assert!(!lab.daemon.log().contains("secret"), "the password is in the log");
}

// === impl Registries ===

impl Registries {
    fn new(lab: &Lab) -> Self {
        let (open, broken) = (lab.registry(), lab.registry());
        let private = lab.private_registry(&["data", "artifact"]);
        let data = image("name", "data");
        for tag in ["c1", "c2", "c3", "c5", "c6", "c8", "c9", "c11", "c12", "c14", "latest"] {
            open.push("data", tag, &data);
        }
        open.push("artifact", "v2", &artifact());
        private.push("data", "1", &image("name", "private"));
        private.push("artifact", "v2", &artifact());
        misbehave(&broken);
        let gone = lab.registry();
        lab.run(gone.stop());
        Self { open, private, broken, absent: gone.host() }
    }

    fn here(&self, text: &str) -> String {
        text.replace("localhost:5000", &self.open.host())
            .replace("localhost:5001", &self.private.host())
            .replace("localhost:5002", &self.broken.host())
            .replace("localhost:5999", &self.absent)
    }

    fn cases(&self) -> Vec<Case> {
        let recorded: Vec<Value> = serde_json::from_str(&self.here(RECORDED)).unwrap();
        recorded.into_iter().map(|recorded| Case { name: text(&recorded["case"]), recorded }).collect()
    }

    fn secrets(&self) -> String {
        let host = self.private.host();
        documents(&[secret("good", &host, ("alice", "secret")), secret("wrong", &host, ("alice", "wrong"))])
    }
}

/// 429, 500, a login page, and bytes that are not those of their digest.
fn misbehave(registry: &FakeRegistry) {
    registry.faults().always("/e429/", Fault::error(429, "TOOMANYREQUESTS", "slow down"));
    registry.faults().always("/e500/", Fault::status(500));
    registry.faults().always("/html/", Fault::web_page());
    let image = ImageBuilder::new().layer(LayerBuilder::new().file("file", "1\n").plain()).build();
    registry.push("badblob", "1", &image);
    assert_eq!(image.media_type, OCI_MANIFEST);
    // Within the first file's content, behind its header: the archive stays one.
    registry.faults().always(&format!("/badblob/blobs/{}", image.layers[0].digest), Fault::Corrupt(512));
}

// === impl Case ===

impl Case {
    fn manifest(&self) -> Value {
        let mut spec = self.recorded["spec"].clone();
        let mounts = spec.as_object_mut().unwrap().remove("volumeMounts").unwrap();
        spec["containers"] = json!([{"name": "shell", "image": "debian", "volumeMounts": mounts}]);
        spec["tolerations"] = json!([{"operator": "Exists"}]);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": spec})
    }

    fn present_before(&self) -> Vec<String> {
        self.recorded["present_before"].as_array().unwrap().iter().map(text).collect()
    }

    /// Whether its volumes come to be mounted here.
    fn mounts(&self) -> bool {
        self.recorded["phase"] == "Running" || self.name == "subpath-file"
    }

    fn recorded_events(&self) -> Vec<Event> {
        let recorded = self.recorded["events"].as_array().unwrap();
        recorded
            .iter()
            .map(|event| Event { field_path: event["fieldPath"].as_str().map(str::to_owned), ..Event::of(event) })
            .collect()
    }

    fn backs_off(&self) -> bool {
        self.recorded_events().iter().any(|event| event.reason == "BackOff")
    }

    fn waiting(&self) -> String {
        let recorded = self.recorded.pointer("/containerStatuses/0/state/waiting/reason").map(text);
        if self.mounts() {
            "ContainerCreating".to_owned()
        } else if self.backs_off() {
            "ImagePullBackOff".to_owned()
        } else {
            recorded.unwrap()
        }
    }

    fn wait(&self, lab: &Lab) {
        if self.mounts() {
            lab.daemon.wait_mounted(&self.name);
        } else {
            lab.until_waiting(&self.name, &self.waiting());
            lab.until_event(&self.name, "Failed");
            if self.backs_off() {
                lab.until_event(&self.name, "BackOff");
            }
        }
    }

    /// What must follow `Failed to pull image "...": `.
    fn says(&self) -> &'static [&'static str] {
        SAYS.iter().find(|(case, _)| *case == self.name).map_or(&[], |(_, words)| words)
    }

    /// The recording without what is not ours, each decision once, in the order in which things happened.
    fn expected_events(&self) -> Vec<Event> {
        let mut expected: Vec<Event> = Vec::new();
        let container = |event: &Event| {
            ["Created", "Started"].contains(&event.reason.as_str()) || event.message.contains("/bb:1\"")
        };
        let refused_by_containerd = |event: &Event| event.message.contains("ImageVolumeMountFailed");
        for event in self.recorded_events().iter().filter(|event| !container(event) && !refused_by_containerd(event)) {
            let event = comparable(event);
            let pulled = expected.iter().any(|before| before.message.starts_with("Successfully pulled"));
            let asked_again = pulled && event.message.contains("already present");
            if !expected.contains(&event) && !asked_again {
                expected.push(event);
            }
        }
        // The recording is in the order of last sight, in which a repeated `Pulling` comes late.
        expected.sort_by_key(|event| event.reason != "Pulling");
        self.by_volume(expected)
    }

    /// Volumes are pulled at the same time, so that only the order within one of them is fixed.
    fn by_volume(&self, mut events: Vec<Event>) -> Vec<Event> {
        let volumes = self.recorded["spec"]["volumes"].as_array().unwrap();
        let references: Vec<String> =
            volumes.iter().map(|volume| format!("{}", volume["image"]["reference"])).collect();
        events.sort_by_key(|event| references.iter().position(|reference| event.message.contains(reference)));
        events
    }

    fn compare_events(&self, lab: &Lab) {
        let ours = lab.events(&self.name);
        let failures = ours.iter().filter(|event| event.message.starts_with("Failed to pull image"));
        for (failure, word) in failures.flat_map(|failure| self.says().iter().map(move |word| (failure, word))) {
            assert!(failure.message.to_lowercase().contains(word), "{}: no {word:?} in {}", self.name, failure.message);
        }
        // A try after the first back-off may have begun on a slow machine.
        let counts = ours.iter().map(|event| event.count).max();
        assert!(counts.is_some_and(|most| most == 1 || self.backs_off()), "{}: {ours:?}", self.name);
        let ours = self.by_volume(ours.iter().map(comparable).collect());
        assert_eq!(ours, self.expected_events(), "events of {}", self.name);
    }

    fn compare_status(&self, lab: &Lab) {
        let pod = lab.pod(&self.name);
        let status = &pod["status"];
        assert_eq!(status["phase"], "Pending", "{}", self.name);
        let container = &status["containerStatuses"][0];
        let waiting = &container["state"]["waiting"];
        assert_eq!(waiting["reason"], json!(self.waiting()), "{}", self.name);
        self.compare_message(waiting);
        let names = |mounts: &Value| -> Vec<Value> {
            let mounts = mounts.as_array().into_iter().flatten();
            mounts.map(|mount| json!([mount["name"], mount["mountPath"]])).collect()
        };
        let recorded = &self.recorded["containerStatuses"][0];
        assert_eq!(names(&container["volumeMounts"]), names(&recorded["volumeMounts"]), "{}", self.name);
        self.compare_conditions(&status["conditions"]);
    }

    fn compare_message(&self, waiting: &Value) {
        let recorded = &self.recorded["containerStatuses"][0]["state"]["waiting"]["message"];
        if self.backs_off() {
            let reference = &self.recorded["spec"]["volumes"][0]["image"]["reference"];
            let start = format!("Back-off pulling image {reference}: ErrImagePull: ");
            assert!(text(&waiting["message"]).starts_with(&start), "{}: {waiting}", self.name);
        } else if !self.mounts() {
            assert_eq!(&waiting["message"], recorded, "{}", self.name);
        }
    }

    /// Those of the recording; a pod that ran there is not ready here, for want of somebody who runs it.
    fn compare_conditions(&self, conditions: &Value) {
        for (kind, recorded) in self.recorded["conditions"].as_object().unwrap() {
            let ours =
                conditions.as_array().unwrap().iter().find(|condition| condition["type"] == json!(kind)).unwrap();
            let ours = json!([ours["status"], ours["reason"], ours["message"]]);
            let unready = json!(["False", "ContainersNotReady", "containers with unready status: [shell]"]);
            let ready = ["Ready", "ContainersReady"].contains(&kind.as_str());
            let expected = if ready { &unready } else { recorded };
            assert_eq!(&ours, expected, "condition {kind} of {}", self.name);
        }
    }

    fn compare_description(&self, lab: &Lab) {
        let ours = lab.daemon.must(["describe", "pod", &self.name]);
        let recorded = text(&self.recorded["describe"]);
        let block = |text: &str| -> Vec<String> {
            let lines = text.lines().skip_while(|line| !line.starts_with("Volumes:"));
            lines.take_while(|line| !line.starts_with("Events:")).map(str::to_owned).collect()
        };
        assert_eq!(block(&ours), block(&recorded), "description of {}", self.name);
        assert!(ours.contains("\nEvents:\n  Type "), "{ours}");
    }

    fn compare_content(&self, lab: &Lab) {
        if !self.mounts() {
            return;
        }
        let volumes = self.recorded["spec"]["volumes"].as_array().unwrap();
        for volume in volumes.iter().map(|volume| text(&volume["name"])) {
            assert_eq!(lab.read(&self.name, &volume, "file"), "1\n");
            assert_eq!(lab.read(&self.name, &volume, "dir/file"), "2\n");
        }
        let part = |arguments: &[&str]| lab.daemon.must([&["path", "pod", &self.name, "volume"], arguments].concat());
        match self.name.as_str() {
            "subpath-dir" => {
                let file = format!("{}/file", part(&["-c", "shell"]).trim());
                assert_eq!(std::fs::read_to_string(file).unwrap(), "2\n");
            }
            "subpath-file" => assert_eq!(std::fs::read_to_string(part(&["-c", "shell"]).trim()).unwrap(), "1\n"),
            _ => {}
        }
    }
}

/// An event without what differs from run to run: counts, durations, sizes, and the image service's own words.
fn comparable(event: &Event) -> Event {
    let mut message = event.message.clone();
    if message.starts_with("Successfully pulled image") {
        message = without_measures(&message);
    } else if let Some((start, end)) =
        message.split_once("\": ").filter(|_| message.starts_with("Failed to pull image"))
    {
        assert!(!end.is_empty(), "{message}");
        message = format!("{start}\": ...");
    }
    Event { message, count: 1, ..event.clone() }
}

/// Kubernetes' own tests want 13 words, of which two are durations and one is a size.
fn without_measures(message: &str) -> String {
    let mut words: Vec<&str> = message.split(' ').collect();
    assert_eq!(words.len(), 13, "{message}");
    assert!(words[5].ends_with('s') && words[6].starts_with('(') && words[6].ends_with('s'), "{message}");
    assert!(words[11].parse::<u64>().is_ok_and(|size| size > 0), "{message}");
    (words[5], words[6], words[11]) = ("DURATION", "(DURATION", "SIZE");
    words.join(" ")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
