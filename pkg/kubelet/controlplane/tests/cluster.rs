//! Against a real API server, with the rights that the documentation asks for and no others.
//!
//! Needs a cluster whose administrator `KUBECONFIG` is, and `kubectl`. A control plane is enough: no node has to run. `hack/local-up-cluster.sh up
//! --control-plane-only` makes one; then `cargo test -p imagevol-controlplane --test cluster -- --ignored`.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::watch;

use imagevol_api::config::PullFailurePolicy;
use imagevol_api::core::pod_ref;
use imagevol_api::corev1::Pod;
use imagevol_api::names::PodUid;
use imagevol_base::{EventKind, EventRecorder as _, Supervisor};
use imagevol_controlplane::apiserver::webhook::Replaced;
use imagevol_controlplane::apiserver::{Access, ApiServer, ClusterPullSecrets, NodePods, watch_pods};
use imagevol_controlplane::events::node_ref;
use imagevol_controlplane::status::PullFailure;
use imagevol_controlplane::{ControlPlane, ControlPlaneSettings, StatusDb, WallClock};
use imagevol_images::{PodPullSecrets, PullSecrets, PullSecretsError};

/// No node of this name need exist: a pod that names it is bound to it.
const NODE: &str = "imagevol-test-node";
const PATIENCE: Duration = Duration::from_mins(1);

/// A namespace of the test's own, and what the test did outside of it; removed at its end.
struct Namespace {
    name: String,
    dir: tempfile::TempDir,
}

impl Namespace {
    fn new(test: &str) -> Self {
        let name = format!("imagevol-{test}-{}", std::process::id());
        kubectl(&["create", "namespace", &name]);
        Self { name, dir: tempfile::tempdir().unwrap() }
    }

    fn apply(&self, mut object: Value) -> Value {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.insert("namespace".into(), json!(self.name));
        }
        apply(&object)
    }

    fn pod(&self, name: &str) -> Pod {
        serde_json::from_value(self.apply(pod(name))).unwrap()
    }

    /// A kubeconfig of a service account with these rights in all namespaces.
    fn kubeconfig(&self, rules: &Value) -> PathBuf {
        let Self { name, dir } = self;
        self.apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "imagevol"}}));
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
        apply(&role);
        let account = json!([{"kind": "ServiceAccount", "name": "imagevol", "namespace": name}]);
        let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        apply(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "subjects": account, "roleRef": reference,
        }));
        let token = kubectl(&["create", "token", "imagevol", "-n", name]);
        let mut config: Value =
            serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"])).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let Self { name, .. } = self;
        for kind in ["namespace", "clusterrole", "clusterrolebinding", "mutatingwebhookconfiguration"] {
            let mut command = Command::new("kubectl");
            command.args(["delete", kind, name, "--ignore-not-found", "--wait=false"]).stdout(Stdio::null());
            command.status().unwrap();
        }
        // No kubelet says that the pods have ended.
        let mut command = Command::new("kubectl");
        command.args(["delete", "pods", "--all", "-n", name, "--force", "--grace-period=0"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    }
}

fn kubectl(arguments: &[&str]) -> String {
    kubectl_with(arguments, "")
}

fn kubectl_with(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn apply(object: &Value) -> Value {
    serde_json::from_str(&kubectl_with(&["apply", "-o", "json", "-f", "-"], &object.to_string())).unwrap()
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": {"kubernetes.io/config.source": "file"}},
        "spec": {
            "nodeName": NODE, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "regcred"}, {"name": "absent"}],
            "containers": [{
                "name": "c", "image": "i", "env": [{"name": "PASSWORD", "value": "s3cret"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "csi": {
                "driver": "csi.imagevol.dev", "readOnly": true, "volumeAttributes": {"reference": "r/a:1"},
            }}],
        },
    })
}

/// What a node needs always.
fn rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
    ])
}

/// What it needs in addition to read pull secrets.
fn rules_with_secrets() -> Value {
    let mut rules = rules();
    let more = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    rules.as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
    rules
}

async fn connect(kubeconfig: PathBuf, supervisor: &Supervisor) -> ApiServer {
    imagevol_test_support::install_crypto();
    ApiServer::connect(Access::Kubeconfig(kubeconfig), supervisor).await.unwrap()
}

async fn when(
    pods: &mut watch::Receiver<Arc<NodePods>>,
    what: &str,
    wanted: impl Fn(&NodePods) -> bool,
) -> Arc<NodePods> {
    let found = tokio::time::timeout(PATIENCE, pods.wait_for(|pods| wanted(pods))).await;
    Arc::clone(&found.unwrap_or_else(|_| panic!("no pod {what}")).unwrap())
}

fn uid(pod: &Pod) -> PodUid {
    pod.metadata.uid.as_deref().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn follows_pods_of_a_node() {
    let (namespace, supervisor) = (Namespace::new("pods"), Supervisor::new("test"));
    let server = connect(namespace.kubeconfig(&rules()), &supervisor).await;
    let mut pods = watch_pods(&server, NODE, &supervisor);
    when(&mut pods, "synced", |pods| pods.synced && pods.stale_since.is_none()).await;
    let created = namespace.pod("one");
    let uid = uid(&created);
    let seen = when(&mut pods, "appears", |pods| pods.pods.contains_key(&uid)).await;
    let text = serde_json::to_string(seen.pods[&uid].as_ref()).unwrap();
    assert!(text.contains(r#""kubernetes.io/config.source":"api""#) && !text.contains("s3cret"), "{text}");
    assert!(seen.living().any(|(living, _)| *living == uid));

    kubectl(&["delete", "pod", "one", "-n", &namespace.name, "--wait=false"]);
    when(&mut pods, "is being deleted", |pods| pods.over().contains(&uid)).await;
    kubectl(&["delete", "pod", "one", "-n", &namespace.name, "--force", "--grace-period=0"]);
    when(&mut pods, "goes", |pods| !pods.pods.contains_key(&uid) && pods.over().contains(&uid)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn shows_the_certificate_of_a_kubeconfig() {
    let (namespace, supervisor) = (Namespace::new("certificate"), Supervisor::new("test"));
    let config: Value = serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "-o", "json"])).unwrap();
    if !config.to_string().contains("client-certificate") {
        eprintln!("SKIPPED: the administrator of this cluster has no client certificate");
        return;
    }
    let path = namespace.dir.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    let server = connect(path, &supervisor).await;
    let pod = namespace.pod("four");
    let mut pods = watch_pods(&server, NODE, &supervisor);
    when(&mut pods, "four", |pods| pods.pods.contains_key(&uid(&pod))).await;
}

async fn control_plane(dir: &Path, server: &ApiServer, supervisor: &Supervisor) -> ControlPlane {
    let settings = ControlPlaneSettings {
        manifest_dir: dir.join("manifests"),
        node_name: NODE.into(),
        file_check_frequency: Duration::from_secs(20),
        pull_failure: PullFailure { policy: PullFailurePolicy::Retry, deadline: Duration::from_mins(5) },
        event_ttl: Duration::from_hours(1),
        clock: WallClock::system(),
    };
    let db = StatusDb::open(&dir.join("status.redb")).unwrap();
    ControlPlane::start_in_cluster(settings, server, db, supervisor).await.unwrap()
}

async fn posted(control: &ControlPlane, count: u64) {
    let posting = control.posting().unwrap();
    let waiting = async {
        while posting.posted() < count {
            assert_eq!(posting.dropped(), 0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn events_stand_in_kubectl_describe() {
    let (namespace, supervisor) = (Namespace::new("events"), Supervisor::new("test"));
    let server = connect(namespace.kubeconfig(&rules()), &supervisor).await;
    let control = control_plane(namespace.dir.path(), &server, &supervisor).await;
    let pod = namespace.pod("two");
    let recorder = control.recorder();
    recorder.record(&pod_ref(&pod), EventKind::Normal, "Pulling", "Pulling image \"r/a:1\"".into());
    posted(&control, 1).await;
    for number in 2..4 {
        recorder.record(&pod_ref(&pod), EventKind::Normal, "Pulling", "Pulling image \"r/a:1\"".into());
        posted(&control, number).await;
    }
    let long = format!("Failed to pull image \"r/a:1\": {}", "x".repeat(4000));
    recorder.record(&pod_ref(&pod), EventKind::Warning, "Failed", long);
    recorder.record(&node_ref(NODE), EventKind::Warning, "KernelTooOld", "Linux 5.10 is too old".into());
    posted(&control, 5).await;
    let described = kubectl(&["describe", "pod", "two", "-n", &namespace.name]);
    assert!(described.contains("(x3 over") && described.contains("imagevol "), "{described}");
    assert!(described.contains("Pulling image \"r/a:1\"") && described.contains("Failed to pull image"), "{described}");
    let selector = format!("involvedObject.kind=Node,involvedObject.uid={NODE}");
    let of_node = kubectl(&["get", "events", "-n", "default", "--field-selector", &selector]);
    assert!(of_node.contains("KernelTooOld"), "{of_node}");
    kubectl(&["delete", "events", "-n", "default", "--field-selector", &selector]);
    // In a namespace that goes, events are pointless, and no loss.
    kubectl(&["delete", "namespace", &namespace.name, "--wait=false"]);
    recorder.record(&pod_ref(&pod), EventKind::Warning, "Failed", "too late".into());
    assert!(supervisor.shut_down(Duration::from_secs(20)).await);
    assert_eq!(control.posting().unwrap().dropped(), 0);
}

/// No manifest of this node names a secret.
struct NoManifests;

#[async_trait]
impl PullSecrets for NoManifests {
    async fn for_pod(&self, _pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        Ok(PodPullSecrets::default())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn pull_secrets_need_their_own_right() {
    let (namespace, supervisor) = (Namespace::new("secrets"), Supervisor::new("test"));
    let config = json!({"auths": {"r": {"auth": "YTpi"}}}).to_string();
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "regcred"},
        "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config},
    }));
    let created = namespace.pod("three");
    let mut seen = created.clone();
    seen.metadata.annotations = None;

    let server = connect(namespace.kubeconfig(&rules()), &supervisor).await;
    let without = ClusterPullSecrets::new(server, Arc::new(NoManifests), &supervisor);
    let error = without.for_pod(&seen).await.unwrap_err();
    assert!(error.source.to_string().contains("imagevol-node-pull-secrets"), "{error:?}");

    let server = connect(namespace.kubeconfig(&rules_with_secrets()), &supervisor).await;
    let with = ClusterPullSecrets::new(server, Arc::new(NoManifests), &supervisor);
    let found = eventually(async || with.for_pod(&seen).await).await;
    assert_eq!((found.found.len(), found.missing), (1, vec!["absent".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster"]
async fn a_webhook_keeps_its_secret_and_its_bundle() {
    let (namespace, supervisor) = (Namespace::new("webhook"), Supervisor::new("test"));
    let name = namespace.name.clone();
    namespace.apply(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tls", "labels": {"kept": "1"}}, "data": {"old": "eA=="},
    }));
    let webhook = |of: &str| {
        json!({
            "name": format!("{of}.imagevol.dev"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "failurePolicy": "Ignore", "clientConfig": {"service": {"namespace": name, "name": "w"}},
            "namespaceSelector": {"matchLabels": {"no": "such"}},
        })
    };
    let kind = "MutatingWebhookConfiguration";
    let version = "admissionregistration.k8s.io/v1";
    apply(
        &json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "webhooks": [webhook("a"), webhook("b")]}),
    );
    let server = connect(
        namespace.kubeconfig(&json!([
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["tls"], "verbs": ["get", "update"]},
            {
                "apiGroups": ["admissionregistration.k8s.io"], "resources": ["mutatingwebhookconfigurations"],
                "resourceNames": [name], "verbs": ["get", "patch"],
            },
        ])),
        &supervisor,
    )
    .await;
    let mut secret = eventually(async || server.get_secret(&name, "tls").await).await.unwrap();
    let stale = secret.clone();
    secret.data = BTreeMap::from([("tls.crt".to_owned(), b"new".to_vec())]);
    assert_eq!(server.replace_secret(&name, "tls", &secret).await.unwrap(), Replaced::Done);
    assert_eq!(server.replace_secret(&name, "tls", &stale).await.unwrap(), Replaced::Conflict);
    let now: Value = serde_json::from_str(&kubectl(&["get", "secret", "tls", "-n", &name, "-o", "json"])).unwrap();
    assert_eq!((&now["data"], &now["metadata"]["labels"]["kept"]), (&json!({"tls.crt": "bmV3"}), &json!("1")));

    let authority = std::fs::read(authority(namespace.dir.path())).unwrap();
    assert_eq!(server.ca_bundles(&name).await.unwrap(), Some(vec![vec![], vec![]]));
    assert_eq!(server.set_ca_bundle(&name, &authority).await.unwrap(), Replaced::Done);
    assert_eq!(server.ca_bundles(&name).await.unwrap(), Some(vec![authority.clone(), authority]));
    assert!(server.get_secret(&name, "other").await.unwrap_err().code() == Some(403));
}

/// Stops or starts the API server of the cluster of `hack/local-up-cluster.sh`.
fn api_server(cluster: &str, action: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../hack/local-up-cluster.sh");
    let status = Command::new(script).args([action, "kube-apiserver", "--root", cluster]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster of its own: it kills the API server"]
async fn outlives_the_api_server() {
    let Ok(cluster) = std::env::var("IMAGEVOL_TEST_RESTARTS") else {
        eprintln!("SKIPPED: IMAGEVOL_TEST_RESTARTS does not name the root of a cluster whose API server may be killed");
        return;
    };
    let (namespace, supervisor) = (Namespace::new("restart"), Supervisor::new("test"));
    let server = connect(namespace.kubeconfig(&rules()), &supervisor).await;
    let control = control_plane(namespace.dir.path(), &server, &supervisor).await;
    let mut pods = watch_pods(&server, NODE, &supervisor);
    let pod = namespace.pod("before");
    when(&mut pods, "before", |pods| pods.pods.contains_key(&uid(&pod))).await;

    api_server(&cluster, "kill");
    let stale = when(&mut pods, "stale", |pods| pods.stale_since.is_some()).await;
    assert!(stale.synced && stale.pods.contains_key(&uid(&pod)) && stale.over().is_empty());
    for _ in 0..3 {
        control.recorder().record(&pod_ref(&pod), EventKind::Normal, "Pulled", "while it was away".into());
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(control.posting().unwrap().posted(), 0);

    api_server(&cluster, "start");
    let later = namespace.pod("after");
    when(&mut pods, "after", |pods| pods.pods.contains_key(&uid(&later)) && pods.stale_since.is_none()).await;
    posted(&control, 1).await;
    let events = kubectl(&["get", "events", "-n", &namespace.name, "-o", "jsonpath={.items[*].count}"]);
    assert_eq!(events, "3");
    assert!(supervisor.shut_down(Duration::from_secs(20)).await);
}

/// A certificate: the API server looks into bundles.
fn authority(dir: &Path) -> PathBuf {
    let path = dir.join("ca.pem");
    std::fs::write(&path, rcgen::generate_simple_self_signed(vec!["w".to_owned()]).unwrap().cert.pem()).unwrap();
    path
}

/// The authorizer may take a moment to learn of the rights.
async fn eventually<T, E: std::fmt::Debug>(ask: impl AsyncFn() -> Result<T, E>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Ok(found) => return found,
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}
