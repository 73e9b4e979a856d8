use std::fs;
use std::path::Path;
use std::sync::Mutex;

use imagevol_api::config::PullFailurePolicy;
use imagevol_api::corev1::ObjectReference;
use imagevol_base::volumes::{FailureCause, Outlook, PodVolumeReport, VolumeFailure, VolumeState};

use super::*;
use crate::apiserver::testing::Fixture;

const GRACE: Duration = Duration::from_mins(2);

struct Node {
    control: ControlPlane,
    supervisor: Supervisor,
    served: watch::Receiver<Arc<PodSet>>,
}

fn settings(dir: &Path) -> ControlPlaneSettings {
    ControlPlaneSettings {
        manifest_dir: dir.join("manifests"),
        node_name: "node1".into(),
        file_check_frequency: GRACE * 10,
        pull_failure: PullFailure { policy: PullFailurePolicy::Fail, deadline: Duration::from_mins(5) },
        event_ttl: events::DEFAULT_EVENT_TTL,
        clock: WallClock::system(),
    }
}

impl Node {
    async fn start(dir: &Path) -> Self {
        Self::started(dir, None).await
    }

    async fn started(dir: &Path, cluster: Option<&ApiServer>) -> Self {
        let supervisor = Supervisor::new("test");
        let db = StatusDb::open(&dir.join("status.redb")).unwrap();
        let control = match cluster {
            None => ControlPlane::start(settings(dir), db, &supervisor).await.unwrap(),
            Some(server) => ControlPlane::start_in_cluster(settings(dir), server, db, &supervisor).await.unwrap(),
        };
        let served = control.served_pods();
        Self { control, supervisor, served }
    }

    async fn stop(self) {
        assert!(self.supervisor.shut_down(GRACE).await);
        assert_eq!(self.supervisor.panics(), 0);
    }

    async fn apply(&self, name: &str) {
        let response = self.control.apply(pod(name).into_bytes(), "STDIN", DryRun::None).await;
        assert_eq!(response.results[0].error, None);
    }

    async fn until_served(&mut self, names: &[&str]) {
        let same = |set: &Arc<PodSet>| {
            let mut found: Vec<_> = set.pods.values().filter_map(|pod| pod.metadata.name.as_deref()).collect();
            found.sort_unstable();
            set.all_sources_ready && found == names
        };
        tokio::time::timeout(GRACE, self.served.wait_for(same)).await.expect("pods should be served").unwrap();
    }

    async fn report(&self, states: impl IntoIterator<Item = (&str, VolumeState)>) {
        let uid = |name: &str| self.control.manifests().pod("default", name).unwrap().0.clone();
        let report = |state| PodVolumeReport {
            volumes: [("volume".parse().unwrap(), state)].into(),
            ..PodVolumeReport::default()
        };
        self.control.report(states.into_iter().map(|(name, state)| (uid(name), report(state))).collect());
        self.control.settle().await.unwrap();
    }

    fn phase(&self, name: &str) -> String {
        self.control.pod("default", name).unwrap().status.unwrap().phase.unwrap()
    }
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: shell\n    image: debian\n    volumeMounts:\n    \
         - name: volume\n      mountPath: /volume\n  volumes:\n  - name: volume\n    image:\n      reference: r:1\n"
    )
}

fn failed(outlook: Outlook) -> VolumeState {
    VolumeState::Failed(VolumeFailure {
        reason: "ErrImagePull",
        message: "not found".into(),
        outlook,
        cause: FailureCause::NotFound,
    })
}

#[tokio::test]
async fn an_applied_pod_is_there_at_once_and_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path()).await;
    node.apply("web").await;
    assert_eq!(node.phase("web"), "Pending");
    node.until_served(&["web"]).await;
    fs::write(dir.path().join("manifests/by-hand.yaml"), pod("db")).unwrap();
    node.until_served(&["db", "web"]).await;
    let names: Vec<_> = node.control.pods(Some("default")).into_iter().filter_map(|pod| pod.metadata.name).collect();
    assert_eq!(names, ["db", "web"]);
    assert_eq!(node.control.pods(Some("other")), []);
    node.stop().await;
}

#[tokio::test]
async fn a_deleted_pod_is_gone_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path()).await;
    node.apply("web").await;
    node.until_served(&["web"]).await;
    node.control.delete("default", "web").await.unwrap();
    assert_eq!(node.control.pods(None), []);
    node.until_served(&[]).await;
    let error = node.control.delete("default", "web").await.unwrap_err();
    assert_eq!((error.to_string(), error.code()), ("pods \"web\" not found".into(), 404));
    node.stop().await;
}

#[tokio::test]
async fn failing_is_final_over_restarts_until_retried() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path()).await;
    node.apply("web").await;
    node.apply("db").await;
    node.until_served(&["db", "web"]).await;
    node.report([("web", failed(Outlook::Final)), ("db", VolumeState::Pulling)]).await;
    node.until_served(&["db"]).await;
    assert_eq!(node.phase("web"), "Failed");
    node.stop().await;

    let mut node = Node::start(dir.path()).await;
    node.until_served(&["db"]).await;
    assert_eq!(node.phase("web"), "Failed");
    let event =
        node.control.events(Some("default")).into_iter().find(|event| event.reason.as_deref() == Some("PodFailed"));
    assert_eq!(event.unwrap().message.as_deref(), Some("volume \"volume\": not found"));
    node.apply("web").await;
    assert_eq!(node.phase("web"), "Failed", "the same manifest applied again");

    let cleared = Mutex::new(Vec::new());
    let uid = node.control.pod("default", "web").unwrap().metadata.uid.unwrap();
    node.control.retry("default", "web", |uid| cleared.lock().unwrap().push(uid.to_string())).await.unwrap();
    assert_eq!((node.phase("web").as_str(), cleared.into_inner().unwrap()), ("Pending", vec![uid]));
    node.until_served(&["db", "web"]).await;
    assert!(matches!(node.control.retry("default", "x", |_| {}).await, Err(ControlPlaneError::NotFound { .. })));
    let nothing = node.control.retry("default", "db", |_| panic!("it has not failed")).await;
    assert_eq!(nothing.unwrap_err().to_string(), "pod \"db\" has not failed");
    let now = Instant::now();
    node.report([("db", failed(Outlook::Passing { failing_since: now }))]).await;
    node.control.retry("default", "db", |_| {}).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_failed_pod_deleted_and_applied_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path()).await;
    node.apply("web").await;
    node.until_served(&["web"]).await;
    node.report([("web", failed(Outlook::Final))]).await;
    assert_eq!(node.phase("web"), "Failed");
    node.control.delete("default", "web").await.unwrap();
    node.apply("web").await;
    assert_eq!(node.phase("web"), "Pending");
    node.report([]).await;
    node.until_served(&["web"]).await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_final_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path()).await;
    node.apply("web").await;
    node.until_served(&["web"]).await;
    node.report([("web", failed(Outlook::Passing { failing_since: Instant::now() }))]).await;
    // Time passes by itself while everybody waits.
    node.served.wait_for(|set| set.pods.is_empty()).await.unwrap();
    let status = node.control.pod("default", "web").unwrap().status.unwrap();
    let message = "volume \"volume\": not found (gave up after 5m0s without progress)";
    assert_eq!((status.phase.as_deref(), status.message.as_deref()), (Some("Failed"), Some(message)));
    node.stop().await;
}

#[tokio::test]
async fn a_file_broken_before_a_restart_keeps_its_pod() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path()).await;
    node.apply("web").await;
    node.until_served(&["web"]).await;
    node.stop().await;
    fs::write(dir.path().join("manifests/default_web.pod.json"), "{\"apiVersion\": \"v1\", \"kind").unwrap();
    let mut node = Node::start(dir.path()).await;
    node.until_served(&["web"]).await;
    let problems = node.control.problems();
    assert_eq!((problems.len(), problems[0].file.as_str()), (1, "default_web.pod.json"));
    node.stop().await;
}

#[tokio::test]
async fn requests_end_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let control = node.control.clone();
    node.stop().await;
    assert_eq!(control.settle().await.unwrap_err().code(), 503);
}

#[tokio::test]
async fn tells_the_api_server_nothing_of_the_pods_of_manifests() {
    let (dir, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
    let mut node = Node::started(dir.path(), Some(&fixture.server)).await;
    node.apply("static").await;
    node.until_served(&["static"]).await;
    let of_manifest = pod_ref(&node.control.pod("default", "static").unwrap());
    let of_api = ObjectReference { name: Some("web".into()), uid: Some("u".into()), ..of_manifest.clone() };
    let record = |node: &Node, about: &ObjectReference, message: &str| {
        node.control.recorder().record(about, EventKind::Normal, "Pulled", message.into());
    };
    record(&node, &of_manifest, "first");
    record(&node, &of_api, "second");
    // Nor when it is gone, whose unmount may still have something to say; nor after a restart.
    node.control.delete("default", "static").await.unwrap();
    node.until_served(&[]).await;
    record(&node, &of_manifest, "third");
    node.apply("static").await;
    node.stop().await;
    let node = Node::started(dir.path(), Some(&fixture.server)).await;
    record(&node, &of_manifest, "fourth");
    node.stop().await;
    let posted = fixture.fake.list("/api/v1/namespaces/default/events");
    assert_eq!(posted.iter().map(|event| &event["message"]).collect::<Vec<_>>(), ["second"]);
}
