//! Every way in which a pod asks for an image.

use imagevol_test_e2e::manifests::{csi, deployment, pod, pod_with};
use imagevol_test_e2e::{Cluster, Namespace, SOON, images, until};
use serde_json::{Value, json};

/// Pushes an image of its own for a test, so that nobody has it.
fn pushed(cluster: &Cluster, test: &str) -> String {
    images::push(cluster.registry(), &format!("e2e/{test}"), "v1", &images::site(test))
}

#[test]
fn an_inline_volume_is_read() {
    let Some(cluster) = Cluster::find("an_inline_volume_is_read") else { return };
    let namespace = cluster.namespace("inline");
    let reference = pushed(&cluster, "inline");
    namespace.run(&pod(&cluster, "web", &[csi("site", &reference)]));
    assert_eq!(namespace.read("web", "/site/index.html"), "inline");
    assert_eq!(namespace.read("web", "/site/srv/www/page.html"), "page: inline");
}

/// A `PersistentVolume` that names the image, and a claim of it: users of the namespace need not know the reference.
fn persistent_volume(name: &str, reference: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name, "labels": { "imagevol.dev/e2e": "true" } },
        "spec": {
            "capacity": { "storage": "1Mi" }, "accessModes": ["ReadOnlyMany"], "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "csi": {
                "driver": "csi.imagevol.dev", "volumeHandle": name, "readOnly": true,
                "volumeAttributes": { "reference": reference },
            },
        },
    })
}

fn claim(name: &str, volume: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": volume,
            "resources": { "requests": { "storage": "1Mi" } },
        },
    })
}

/// Takes the volume away, which is in no namespace.
struct Persistent<'a>(&'a Namespace, String);

impl Drop for Persistent<'_> {
    fn drop(&mut self) {
        self.0.cluster().kubectl(&["delete", "persistentvolume", &self.1, "--wait=false"]);
    }
}

#[test]
fn a_persistent_volume_is_read_by_two_pods() {
    let Some(cluster) = Cluster::find("a_persistent_volume_is_read_by_two_pods") else { return };
    let namespace = cluster.namespace("persistent");
    let reference = pushed(&cluster, "persistent");
    let name = namespace.name().to_owned();
    let _volume = Persistent(&namespace, name.clone());
    namespace.apply(&persistent_volume(&name, &reference));
    namespace.apply(&claim("site", &name));
    let volume = json!({ "name": "site", "persistentVolumeClaim": { "claimName": "site", "readOnly": true } });
    for web in ["web-1", "web-2"] {
        namespace.run(&pod(&cluster, web, std::slice::from_ref(&volume)));
        assert_eq!(namespace.read(web, "/site/index.html"), "persistent");
    }
    assert_eq!(namespace.json(&["get", "persistentvolumeclaim", "site"])["status"]["phase"], "Bound");
}

#[test]
fn each_pod_of_a_deployment_reads_it() {
    let Some(cluster) = Cluster::find("each_pod_of_a_deployment_reads_it") else { return };
    let namespace = cluster.namespace("deployment");
    let reference = pushed(&cluster, "deployment");
    namespace.apply(&deployment(&pod(&cluster, "web", &[csi("site", &reference)]), 3));
    namespace.must(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let pods = namespace.json(&["get", "pods", "-l", "app=web"]);
    let names = pods["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap());
    let read: Vec<_> = names.map(|name| namespace.read(name, "/site/index.html")).collect();
    assert_eq!(read, ["deployment", "deployment", "deployment"]);
}

/// The policy of `deploy/admission`, which looks at labelled namespaces alone; one test at a time has it.
struct Policy<'a>(&'a Cluster);

const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/admission/policy");

impl<'a> Policy<'a> {
    fn install(cluster: &'a Cluster) -> Self {
        cluster.must(&["apply", "-k", POLICY]);
        Self(cluster)
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        self.0.kubectl(&["delete", "-k", POLICY, "--ignore-not-found"]);
    }
}

/// The documentation's pod, as the Kubernetes documentation writes image volumes.
fn documented(cluster: &Cluster, reference: &str) -> Value {
    let volume = json!({ "name": "volume", "image": { "reference": reference, "pullPolicy": "IfNotPresent" } });
    pod_with(cluster, "image-volume", &[volume], &[json!({ "name": "volume", "mountPath": "/volume" })])
}

#[test]
fn an_image_volume_is_translated_and_read() {
    let Some(cluster) = Cluster::find("an_image_volume_is_translated_and_read") else { return };
    let namespace = cluster.labelled_namespace("translated", &["imagevol.dev/translate=enabled"]);
    // An artifact, which the container runtime's own image volumes show as an empty directory.
    let reference = images::push(cluster.registry(), "e2e/translated", "v1", &images::model("weights"));
    let _policy = Policy::install(&cluster);
    let object = documented(&cluster, &reference);
    until("the API server knows the policy", SOON, || {
        let arguments = ["-n", namespace.name(), "create", "--dry-run=server", "-o", "json", "-f", "-"];
        let stored = cluster.must_with(&arguments, &object.to_string());
        if stored.contains("csi.imagevol.dev") { Ok(()) } else { Err(stored) }
    });
    namespace.run(&object);
    assert_eq!(namespace.read("image-volume", "/volume/weights.bin"), "weights");
    namespace.apply(&deployment(
        &pod_with(
            &cluster,
            "many",
            object["spec"]["volumes"].as_array().unwrap(),
            &[json!({ "name": "volume", "mountPath": "/volume" })],
        ),
        2,
    ));
    namespace.must(&["rollout", "status", "deployment/many", "--timeout=60s"]);
    let read = namespace.must(&["exec", "deployment/many", "--", "cat", "/volume/config/model.json"]);
    assert_eq!(read, "{\"layers\":1}");
}
