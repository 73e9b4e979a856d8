//! What a test needs: a daemon, registries, and ways to wait for what must come.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use imagevol_test_support::daemon::{Daemon, own_mounts};
use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::{AuthMode, FakeRegistry};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How often a condition is looked at before it is said not to come. Each look runs the command line, which takes
/// some milliseconds: together about a minute.
const LOOKS: u32 = 4000;

/// A daemon whose configuration touches nothing of this machine, and a runtime for registries.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The daemon.
    pub daemon: Daemon,
    runtime: Runtime,
}

/// An event, without what differs from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// `Normal` or `Warning`.
    pub kind: String,
    /// Such as `Pulled`.
    pub reason: String,
    /// The whole message.
    pub message: String,
    /// Such as `spec.containers{shell}`.
    pub field_path: Option<String>,
    /// How often.
    pub count: u64,
}

/// An image of one layer: `file` holds `1`, `dir/file` holds `2`, and `name` holds `content`.
pub(crate) fn image(name: &str, content: &str) -> Image {
    let layer = LayerBuilder::new().file("file", "1\n").dir("dir").file("dir/file", "2\n").file(name, content);
    ImageBuilder::new().layer(layer.gzip()).build()
}

/// The artifact of the documentation.
pub(crate) fn artifact() -> Image {
    let builder = ImageBuilder::artifact("application/vnd.example");
    builder.file("dir/file", "text/plain", "2\n").file("file", "text/plain", "1\n").build()
}

// === impl Lab ===

impl Lab {
    /// Directories and a runtime; `None`, said aloud, where this process may not mount.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !own_mounts(test) {
            return None;
        }
        let daemon = Daemon::new();
        let dir = daemon.dir().display().to_string();
        let hermetic = format!("dockerConfigDirs: [{dir}/docker]\nregistryConfigPath: {dir}/certs.d");
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        Some(Self { daemon: daemon.config(&hermetic), runtime })
    }

    /// As [`Lab::new`], with the daemon started under further configuration.
    pub(crate) fn started(test: &str, config: &str) -> Option<Self> {
        let mut lab = Self::new(test)?.config(config);
        lab.daemon.start();
        Some(lab)
    }

    /// Adds lines to the configuration.
    pub(crate) fn config(mut self, lines: &str) -> Self {
        self.daemon = self.daemon.config(lines);
        self
    }

    /// An open registry.
    pub(crate) fn registry(&self) -> FakeRegistry {
        self.run(FakeRegistry::start())
    }

    /// A registry that asks `alice` (`secret`) for her password at `repositories`.
    pub(crate) fn private_registry(&self, repositories: &[&str]) -> FakeRegistry {
        let registry = self.run(FakeRegistry::builder().auth(AuthMode::Basic).start());
        registry.add_user("alice", "secret");
        for repository in repositories {
            registry.protect(repository, &["alice"]);
        }
        registry
    }

    /// Runs something of a registry.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Goes on with something while the test does other things; it ends with the lab.
    pub(crate) fn background<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime.spawn(future)
    }

    /// A pod as the daemon shows it.
    pub(crate) fn pod(&self, name: &str) -> Value {
        self.daemon.json(["get", "pod", name])
    }

    /// The waiting reason of a pod's first container.
    pub(crate) fn waiting(&self, name: &str) -> Option<String> {
        let pod = self.pod(name);
        pod.pointer("/status/containerStatuses/0/state/waiting/reason").and_then(Value::as_str).map(str::to_owned)
    }

    /// The events of a pod, oldest first.
    pub(crate) fn events(&self, name: &str) -> Vec<Event> {
        let list = self.daemon.json(["get", "events", "--for", &format!("pod/{name}")]);
        list["items"].as_array().unwrap().iter().map(Event::of).collect()
    }

    /// `reason: message` of a pod's events, oldest first.
    pub(crate) fn story(&self, name: &str) -> Vec<String> {
        self.events(name).iter().map(|event| format!("{}: {}", event.reason, event.message)).collect()
    }

    /// Looks until there is something to see; `what` is for the report when it does not come.
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        for _ in 0..LOOKS {
            if let Some(seen) = look() {
                return seen;
            }
            // Running a program is what paces the looks.
            self.daemon.must(["version", "--client"]);
        }
        panic!("{what} did not come; pods:\n{}\nlog:\n{}", self.daemon.must(["get", "pods", "-A"]), self.daemon.log())
    }

    /// Waits until a pod's first container waits for this reason.
    pub(crate) fn until_waiting(&self, pod: &str, reason: &str) {
        self.until(&format!("{reason} of {pod}"), || (self.waiting(pod)? == reason).then_some(()));
    }

    /// Waits until an event of this reason was told about a pod, and returns its message.
    pub(crate) fn until_event(&self, pod: &str, reason: &str) -> String {
        self.until(&format!("event {reason} of {pod}"), || {
            self.events(pod).into_iter().find(|event| event.reason == reason).map(|event| event.message)
        })
    }

    /// Waits until a pod is given up.
    pub(crate) fn wait_failed(&self, pod: &str) {
        self.daemon.must(["wait", "pod", pod, "--for=failed", "--timeout=60s"]);
    }

    /// What a file of a pod's volume holds.
    pub(crate) fn read(&self, pod: &str, volume: &str, file: &str) -> String {
        std::fs::read_to_string(self.daemon.path(pod, volume).join(file)).unwrap()
    }

    /// Puts a file into the manifest directory at once: written beside it, then renamed.
    pub(crate) fn put_manifest(&self, name: &str, content: &str) -> PathBuf {
        let dir = self.daemon.manifest_dir();
        std::fs::create_dir_all(&dir).unwrap();
        let (beside, path) = (self.daemon.dir().join("written"), dir.join(name));
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, &path).unwrap();
        path
    }

    /// The page of `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        let (status, page) = self.get("/metrics");
        assert_eq!(status, 200, "{page}");
        page
    }

    /// A request to the loopback port: status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.metrics_address()).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Where the daemon serves metrics, as it says in its log; of the last start.
    fn metrics_address(&self) -> String {
        let log = self.daemon.log();
        let line = log.lines().rfind(|line| line.contains("serving metrics")).unwrap();
        let port = line.rsplit("127.0.0.1:").next().unwrap();
        let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{digits}")
    }
}

// === impl Event ===

impl Event {
    /// Reads an event of the API.
    pub(crate) fn of(event: &Value) -> Self {
        let text = |pointer| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Self {
            kind: text("/type").unwrap(),
            reason: text("/reason").unwrap(),
            message: text("/message").unwrap(),
            field_path: text("/involvedObject/fieldPath"),
            count: event["count"].as_u64().unwrap(),
        }
    }
}
