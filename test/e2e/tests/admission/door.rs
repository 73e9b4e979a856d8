//! One way to have image volumes translated, set up in a cluster for one test and taken down at its end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imagevol_admission::webhook::{self, Options};
use imagevol_base::Supervisor;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::kubectl::{Kubectl, another_cluster};
use crate::manifests::{pod_of, wrap};

/// What hack/local-up-cluster.sh sets: its API server is a process of this machine and reaches our loopback.
const LOCAL_CLUSTER: &str = "IMAGEVOL_CLUSTER";
/// Which namespaces belong to one test.
const RUN: &str = "e2e.imagevol.dev/run";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Policy,
    Webhook,
}

/// Two namespaces of its own and a translation that does nothing in others.
pub(crate) struct Door {
    pub(crate) kubectl: Kubectl,
    /// The namespace with the label.
    pub(crate) selected: String,
    /// The one without.
    pub(crate) other: String,
    run: String,
    objects: Vec<Value>,
    webhook: Option<Process>,
}

/// The webhook as a process of this machine: a runtime with nothing else in it.
struct Process {
    runtime: Runtime,
    supervisor: Supervisor,
    address: SocketAddr,
    _kubeconfig: TempDir,
}

impl Door {
    /// Namespaces without any translation.
    pub(crate) fn closed(test: &str) -> Option<Self> {
        let kubectl = Kubectl::find(test)?;
        let run = format!("{}-{}", test.replace('_', "-").chars().take(30).collect::<String>(), std::process::id());
        let door = Self {
            selected: format!("admission-{run}"),
            other: format!("admission-{run}-other"),
            kubectl,
            objects: Vec::new(),
            webhook: None,
            run,
        };
        let namespace = |name: &str, translate: Value| {
            let labels = json!({RUN: door.run, "imagevol.dev/translate": translate});
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        };
        door.create(&namespace(&door.selected, json!("enabled")));
        door.create(&namespace(&door.other, json!("no")));
        Some(door)
    }

    /// With the translation that is asked for, which is waited for.
    pub(crate) fn open(test: &str, kind: Kind) -> Option<Self> {
        let mut door = Self::closed(test)?;
        match kind {
            Kind::Policy => door.install_policy(test)?,
            Kind::Webhook => {
                door.install_webhook(test)?;
                door.start_webhook();
            }
        }
        door.await_translation();
        Some(door)
    }

    /// Makes an object that is taken down with the door.
    pub(crate) fn install(&mut self, object: Value) {
        self.create(&object);
        self.objects.push(object);
    }

    pub(crate) fn await_translation(&self) {
        let probe = probe();
        self.kubectl.until("the translation works", |kubectl| {
            let stored = kubectl.dry_run(&self.selected, &probe).ok()?;
            stored["spec"]["volumes"][0].get("csi").map(drop)
        });
    }

    /// What the cluster does with an image volume where nothing translates.
    pub(crate) fn native_volume(&self) -> Option<Value> {
        let stored = self.kubectl.dry_run(&self.other, &probe()).unwrap();
        stored["spec"].get("volumes").map(|volumes| volumes[0].clone())
    }

    fn create(&self, object: &Value) {
        self.kubectl.must(&["create", "-f", "-"], Some(&object.to_string()));
    }

    pub(crate) fn install_policy(&mut self, test: &str) -> Option<()> {
        let served =
            self.kubectl.must(&["api-resources", "--api-group=admissionregistration.k8s.io", "-o", "name"], None);
        let versions = self.kubectl.must(&["api-versions"], None);
        if !served.contains("mutatingadmissionpolicies") || !versions.contains("admissionregistration.k8s.io/v1\n") {
            another_cluster(test, "the API server has no MutatingAdmissionPolicy in v1: it is older than 1.36");
            return None;
        }
        for mut object in self.kubectl.manifests("policy") {
            self.rename(&mut object);
            if object["kind"] == "MutatingAdmissionPolicyBinding" {
                let name = &object["spec"]["policyName"];
                object["spec"]["policyName"] = json!(self.renamed(name.as_str().unwrap()));
                self.restrict(&mut object["spec"]["matchResources"]["namespaceSelector"]);
            }
            self.install(object);
        }
        Some(())
    }

    /// Everything that `imagevold webhook` needs, without it.
    pub(crate) fn install_webhook(&mut self, test: &str) -> Option<()> {
        if std::env::var_os(LOCAL_CLUSTER).is_none_or(|value| value.is_empty()) {
            another_cluster(
                test,
                &format!("without {LOCAL_CLUSTER} nobody knows that the API server reaches this machine"),
            );
            return None;
        }
        for mut object in self.kubectl.manifests("webhook") {
            if object["kind"] != "MutatingWebhookConfiguration" {
                // Its namespace is where it runs; that of the configuration is the one that is left out.
                let moved = object.to_string().replace("\"imagevol-system\"", &format!("{:?}", self.other));
                object = serde_json::from_str(&moved).unwrap();
            }
            match object["kind"].as_str().unwrap() {
                "Deployment" | "Service" | "PodDisruptionBudget" => continue,
                "ClusterRole" => object["rules"][0]["resourceNames"] = json!([self.renamed("translate.imagevol.dev")]),
                "ClusterRoleBinding" => object["roleRef"]["name"] = json!(self.renamed("imagevol-webhook")),
                "MutatingWebhookConfiguration" => {
                    for webhook in object["webhooks"].as_array_mut().unwrap() {
                        let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
                        webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:1{path}")});
                        self.restrict(&mut webhook["namespaceSelector"]);
                    }
                }
                _ => {}
            }
            self.rename(&mut object);
            self.install(object);
        }
        Some(())
    }

    /// Starts it with the rights of its service account, and no other.
    pub(crate) fn start_webhook(&mut self) {
        let kubeconfig = TempDir::new().unwrap();
        let path = self.service_account_kubeconfig(&kubeconfig);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let supervisor = Supervisor::new("webhook");
        let options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            service: Options::SERVICE.to_owned(),
            namespace: self.other.clone(),
            secret: Options::SECRET.to_owned(),
            configuration: self.renamed(Options::CONFIGURATION),
            hostnames: vec!["127.0.0.1".to_owned()],
            kubeconfig: Some(path),
            drain: Duration::ZERO,
        };
        let address = runtime.block_on(webhook::run(options, &supervisor)).unwrap();
        self.webhook = Some(Process { runtime, supervisor, address, _kubeconfig: kubeconfig });
        self.point_configuration_at(&address.to_string());
    }

    /// As after a crash: nobody listens any more.
    pub(crate) fn stop_webhook(&mut self) -> Option<SocketAddr> {
        let Process { runtime, supervisor, address, .. } = self.webhook.take()?;
        assert!(runtime.block_on(supervisor.shut_down(Duration::from_secs(10))), "the webhook does not end");
        Some(address)
    }

    pub(crate) fn set_failure_policy(&self, policy: &str) {
        let patch = json!([
            {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": policy},
            {"op": "replace", "path": "/webhooks/1/failurePolicy", "value": policy},
        ]);
        self.patch_configuration(&patch);
    }

    /// What the API server trusts the webhook by.
    pub(crate) fn ca_bundle(&self) -> String {
        let template = "{{(index .webhooks 0).clientConfig.caBundle | base64decode}}";
        let name = self.renamed(Options::CONFIGURATION);
        let args = ["get", "mutatingwebhookconfiguration", &name, "-o", &format!("go-template={template}")];
        self.kubectl.must(&args, None)
    }

    fn point_configuration_at(&self, host: &str) {
        let patch = json!([
            {"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": format!("https://{host}/mutate")},
            {"op": "replace", "path": "/webhooks/1/clientConfig/url", "value": format!("https://{host}/mutate/annotated")},
        ]);
        self.patch_configuration(&patch);
    }

    fn patch_configuration(&self, patch: &Value) {
        let (name, patch) = (self.renamed(Options::CONFIGURATION), patch.to_string());
        self.kubectl.must(&["patch", "mutatingwebhookconfiguration", &name, "--type=json", "-p", &patch], None);
    }

    fn service_account_kubeconfig(&self, folder: &TempDir) -> PathBuf {
        let token = self.kubectl.must(&["create", "token", "imagevol-webhook", "-n", &self.other], None);
        let text = self.kubectl.must(&["config", "view", "--raw", "--minify", "-o", "json"], None);
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({"token": token});
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Names of objects outside namespaces are this test's own.
    fn rename(&self, object: &mut Value) {
        if object["metadata"].get("namespace").is_none() {
            let name = object["metadata"]["name"].as_str().unwrap();
            object["metadata"]["name"] = json!(self.renamed(name));
        }
    }

    fn renamed(&self, name: &str) -> String {
        match name.strip_suffix(".imagevol.dev") {
            Some(name) => format!("{name}.{}.imagevol.dev", self.run),
            None => format!("{name}-{}", self.run),
        }
    }

    /// It may be another's cluster: beside what the manifest selects, it has to be a namespace of this test.
    pub(crate) fn restrict(&self, selector: &mut Value) {
        let expressions = selector.as_object_mut().unwrap().entry("matchExpressions").or_insert(json!([]));
        expressions.as_array_mut().unwrap().push(json!({"key": RUN, "operator": "In", "values": [self.run]}));
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for object in &self.objects {
            let deleted = self
                .kubectl
                .run(&["delete", "--ignore-not-found", "--wait=false", "-f", "-"], Some(&object.to_string()));
            assert!(failed || deleted.is_ok(), "{deleted:?}");
        }
        let namespaces = ["delete", "namespace", "--wait=false", &self.selected, &self.other];
        let deleted = self.kubectl.run(&namespaces, None);
        assert!(failed || deleted.is_ok(), "{deleted:?}");
        if !failed {
            self.stop_webhook();
        }
    }
}

fn probe() -> Value {
    wrap("Pod", pod_of(&json!([{"name": "probe", "image": {"reference": "quay.io/demo/probe:v1"}}])))
}
