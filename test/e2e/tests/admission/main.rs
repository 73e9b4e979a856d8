//! `volumes[].image` at a real API server: what is stored, by policy and by webhook, with the feature on and off.
//!
//! The cluster is that of KUBECONFIG: one of 1.36 or later, and one of 1.34 (`hack/local-up-cluster.sh up
//! --control-plane-only --kubernetes=1.34`), whose ImageVolume feature is off. Each test has namespaces, and policies or webhooks that look at these
//! alone.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure is a failed test"
)]

mod corpus;
mod door;
mod kubectl;
mod manifests;

use rstest::rstest;
use serde_json::{Value, json};

use crate::corpus::corpus;
use crate::door::{Door, Kind};
use crate::kubectl::another_cluster;
use crate::manifests::{
    KINDS, ORIGINAL, as_written, by_hand, image, normal, pod_of, template_of, template_of_mut, wrap,
};

/// A name for the door of one case of a test.
fn named(test: &str, kind: Kind) -> String {
    format!("{test}-{}", if kind == Kind::Policy { "p" } else { "w" })
}

#[rstest]
#[case(Kind::Policy)]
#[case(Kind::Webhook)]
fn what_is_stored_is_what_one_would_have_written_by_hand(#[case] kind: Kind) {
    let Some(door) = Door::open(&named("stored", kind), kind) else { return };
    for kind in KINDS {
        let stored = door.kubectl.dry_run(&door.selected, &wrap(kind, as_written())).unwrap();
        let expected = door.kubectl.dry_run(&door.other, &wrap(kind, by_hand())).unwrap();
        assert_eq!(normal(&stored), normal(&expected), "{kind}");
    }
}

#[rstest]
#[case(Kind::Policy)]
#[case(Kind::Webhook)]
fn annotation_wins_over_namespace(#[case] kind: Kind) {
    let Some(door) = Door::open(&named("annotation", kind), kind) else { return };
    for (selected, annotation, translated) in
        [(true, None, true), (true, Some("false"), false), (false, None, false), (false, Some("true"), true)]
    {
        for kind in KINDS {
            let mut pod = as_written();
            if let Some(annotation) = annotation {
                pod["metadata"]["annotations"]["imagevol.dev/translate"] = json!(annotation);
            }
            let namespace = if selected { &door.selected } else { &door.other };
            let stored = door.kubectl.dry_run(namespace, &wrap(kind, pod)).unwrap();
            let annotations = &template_of(kind, &stored)["metadata"]["annotations"];
            assert_eq!(annotations.get(ORIGINAL).is_some(), translated, "{kind} in {namespace}: {annotations}");
        }
    }
}

/// What applying a manifest again does to the objects of one kind.
fn apply_again(door: &Door, kind: &str, how: &[&str]) {
    let manifest = wrap(kind, as_written());
    let first = door.kubectl.apply(&door.selected, &manifest, how);
    assert_eq!(
        template_of(kind, &first)["spec"]["volumes"],
        template_of(kind, &wrap(kind, by_hand()))["spec"]["volumes"]
    );
    let second = door.kubectl.apply(&door.selected, &manifest, how);
    for field in ["spec", "metadata/generation", "metadata/uid"] {
        let field = format!("/{field}");
        assert_eq!(first.pointer(&field), second.pointer(&field), "{kind} {how:?}: {field} changed");
    }
    if !matches!(kind, "Pod" | "Job") {
        change_and_remove(door, kind, how, manifest);
    }
    door.kubectl.must(&["delete", "-n", &door.selected, kind, "x", "--wait=true", "--now"], None);
}

/// Templates may change: another reference, then one volume less.
fn change_and_remove(door: &Door, kind: &str, how: &[&str], mut manifest: Value) {
    let pod = template_of_mut(kind, &mut manifest);
    pod["spec"]["volumes"][0]["image"]["reference"] = json!("quay.io/demo/site:v2");
    let changed = door.kubectl.apply(&door.selected, &manifest, how);
    let volumes = &template_of(kind, &changed)["spec"]["volumes"];
    assert_eq!(volumes[0]["csi"]["volumeAttributes"]["reference"], "quay.io/demo/site:v2", "{kind} {how:?}");
    assert!(volumes[0].get("image").is_none(), "{kind} {how:?}: {volumes}");
    let pod = template_of_mut(kind, &mut manifest);
    pod["spec"]["volumes"].as_array_mut().unwrap().remove(2);
    pod["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().remove(2);
    let removed = door.kubectl.apply(&door.selected, &manifest, how);
    let volumes = template_of(kind, &removed)["spec"]["volumes"].as_array().unwrap();
    let names: Vec<_> = volumes.iter().map(|volume| &volume["name"]).collect();
    assert_eq!(names, ["site", "cache"], "{kind} {how:?}");
}

#[rstest]
#[case(Kind::Policy, &[])]
#[case(Kind::Policy, &["--server-side"])]
#[case(Kind::Webhook, &[])]
#[case(Kind::Webhook, &["--server-side"])]
fn applying_again_changes_nothing(#[case] kind: Kind, #[case] how: &[&str]) {
    let Some(door) = Door::open(&named(if how.is_empty() { "apply" } else { "apply-ss" }, kind), kind) else { return };
    for kind in KINDS {
        apply_again(&door, kind, how);
    }
}

/// Changes each object, and nothing of its volumes.
fn touch(door: &Door, label: &str) {
    for kind in KINDS {
        let before = door.kubectl.get(&door.other, kind, "x");
        door.kubectl.must(&["label", "-n", &door.other, kind, "x", &format!("{label}=yes")], None);
        let after = door.kubectl.get(&door.other, kind, "x");
        assert_eq!(after["metadata"]["labels"][label], "yes");
        assert_eq!(after["spec"], before["spec"], "{kind}");
    }
}

/// Whoever selects a namespace rolls nothing out, and nothing that cannot change is changed.
#[rstest]
#[case(Kind::Policy)]
#[case(Kind::Webhook)]
fn what_is_stored_natively_stays(#[case] kind: Kind) {
    let Some(mut door) = Door::open(&named("native", kind), kind) else { return };
    if door.native_volume().is_none_or(|volume| volume.get("image").is_none()) {
        return another_cluster("native", "the API server stores no image volumes");
    }
    for kind in KINDS {
        door.kubectl.apply(&door.other, &wrap(kind, as_written()), &[]);
    }
    door.kubectl.must(&["label", "namespace", &door.other, "--overwrite", "imagevol.dev/translate=enabled"], None);
    let probe = wrap("Pod", pod_of(&json!([image("v", "quay.io/demo/site:v1")])));
    door.kubectl.until("the namespace is selected", |kubectl| {
        let mut probe = probe.clone();
        probe["metadata"]["name"] = json!("probe");
        kubectl.dry_run(&door.other, &probe).unwrap()["spec"]["volumes"][0].get("csi").map(drop)
    });
    touch(&door, "once");
    if door.stop_webhook().is_some() {
        touch(&door, "while-the-webhook-is-away");
    }
    door.kubectl.must(&["patch", "-n", &door.other, "job", "x", "-p", r#"{"spec": {"suspend": false}}"#], None);
}

/// A manifest takes its volumes back where nothing translates any more; server-side apply cannot, and says so.
#[rstest]
#[case(Kind::Policy)]
#[case(Kind::Webhook)]
fn manifest_takes_the_translation_back(#[case] kind: Kind) {
    let Some(door) = Door::open(&named("back", kind), kind) else { return };
    if door.native_volume().is_none() {
        return another_cluster("back", "the API server stores no image volumes");
    }
    let (mut manifest, mut by_server) = (wrap("Deployment", as_written()), wrap("Deployment", as_written()));
    by_server["metadata"]["name"] = json!("by-server");
    door.kubectl.apply(&door.selected, &manifest, &[]);
    door.kubectl.apply(&door.selected, &by_server, &["--server-side"]);
    for object in [&mut manifest, &mut by_server] {
        object["spec"]["template"]["metadata"]["annotations"]["imagevol.dev/translate"] = json!("false");
    }
    let stored = door.kubectl.apply(&door.selected, &manifest, &[]);
    let volumes = &stored["spec"]["template"]["spec"]["volumes"];
    assert_eq!(volumes[0], image("site", "quay.io/demo/site:v1"));
    let args = ["apply", "-n", &door.selected, "--server-side", "-f", "-"];
    let error = door.kubectl.run(&args, Some(&by_server.to_string())).unwrap_err();
    assert!(error.contains("may not specify more than 1 volume type"), "{error}");
}

#[test]
fn policy_and_webhook_do_the_same() {
    let Some(policy) = Door::open("same-p", Kind::Policy) else { return };
    let Some(webhook) = Door::open("same-w", Kind::Webhook) else { return };
    for (number, pod) in corpus().into_iter().enumerate() {
        for kind in ["Pod", "Deployment", "CronJob"] {
            let object = wrap(kind, pod.clone());
            let stored = |door: &Door| door.kubectl.dry_run(&door.selected, &object).map(|stored| normal(&stored));
            match (stored(&policy), stored(&webhook)) {
                (Ok(one), Ok(other)) => assert_eq!(one, other, "{kind} {number}"),
                (Err(_), Err(_)) => {}
                (one, other) => panic!("{kind} {number}: by policy {one:?}, by webhook {other:?}"),
            }
        }
    }
}

#[rstest]
#[case(Kind::Policy)]
#[case(Kind::Webhook)]
fn refusals_say_why(#[case] kind: Kind) {
    let Some(door) = Door::open(&named("refusals", kind), kind) else { return };
    for (volume, expected) in [
        (json!({"name": "v", "image": {}}), "spec.volumes[0].image.reference: Required value"),
        (
            json!({"name": "v", "image": {"reference": "r", "pullPolicy": "Sometimes"}}),
            "spec.volumes[0].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"name": "v", "image": {"reference": "r"}, "emptyDir": {}}),
            "spec.volumes[0].image: Forbidden: may not specify more than 1 volume type",
        ),
    ] {
        let error = door.kubectl.dry_run(&door.selected, &wrap("Pod", pod_of(&json!([volume])))).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

/// A template knows nothing of its pods' service account; the pods do.
#[rstest]
#[case(Kind::Policy)]
#[case(Kind::Webhook)]
fn service_accounts_secret_reaches_pods_of_templates(#[case] kind: Kind) {
    let Some(door) = Door::open(&named("account", kind), kind) else { return };
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller", "namespace": door.selected},
        "imagePullSecrets": [{"name": "of-the-account"}],
    });
    door.kubectl.must(&["create", "-f", "-"], Some(&account.to_string()));
    let mut template = pod_of(&json!([image("v", "quay.io/demo/site:v1")]));
    template["spec"]["serviceAccountName"] = json!("puller");
    let mut deployment = wrap("Deployment", template);
    deployment["spec"]["replicas"] = json!(1);
    let stored = door.kubectl.apply(&door.selected, &deployment, &[]);
    assert!(template_of("Deployment", &stored)["spec"]["volumes"][0]["csi"].get("nodePublishSecretRef").is_none());
    let pod = door.kubectl.until("the deployment has a pod", |kubectl| {
        let pods: Value =
            serde_json::from_str(&kubectl.must(&["get", "pods", "-n", &door.selected, "-o", "json"], None)).unwrap();
        pods["items"].get(0).cloned()
    });
    assert_eq!(pod["spec"]["volumes"][0]["csi"]["nodePublishSecretRef"], json!({"name": "of-the-account"}));
}

#[test]
fn webhook_that_is_away_stops_image_volumes_and_nothing_else() {
    let Some(mut door) = Door::open("away", Kind::Webhook) else { return };
    let (with_image, without) = (pod_of(&json!([image("v", "r:1")])), pod_of(&json!([{"name": "v", "emptyDir": {}}])));
    let refused = with_image.clone();
    let native = door.native_volume();
    door.stop_webhook().unwrap();
    for kind in KINDS {
        let error = door.kubectl.dry_run(&door.selected, &wrap(kind, refused.clone())).unwrap_err();
        assert!(error.contains("failed calling webhook"), "{kind}: {error}");
        door.kubectl.dry_run(&door.selected, &wrap(kind, without.clone())).unwrap();
        door.kubectl.dry_run(&door.other, &wrap(kind, with_image.clone())).unwrap();
        let mut says_no = with_image.clone();
        says_no["metadata"]["annotations"]["imagevol.dev/translate"] = json!("false");
        door.kubectl.dry_run(&door.selected, &wrap(kind, says_no)).unwrap();
    }
    door.set_failure_policy("Ignore");
    let stored = door.kubectl.until("failures are ignored", |kubectl| {
        kubectl.dry_run(&door.selected, &wrap("Pod", with_image.clone())).ok()
    });
    let volume = stored["spec"].get("volumes").map(|volumes| volumes[0].clone());
    assert_eq!(volume.is_some(), native.is_some(), "as the cluster does natively: {volume:?}");
    door.start_webhook();
    door.await_translation();
}

#[test]
fn webhook_replaces_a_lost_certificate() {
    let Some(mut door) = Door::open("lost", Kind::Webhook) else { return };
    let secret = |door: &Door| door.kubectl.get(&door.other, "secret", "imagevol-webhook-tls");
    let before = secret(&door);
    door.stop_webhook().unwrap();
    door.kubectl.must(&["patch", "-n", &door.other, "secret", "imagevol-webhook-tls", "-p", r#"{"data": null}"#], None);
    door.start_webhook();
    door.await_translation();
    assert_ne!(secret(&door)["data"]["tls.crt"], before["data"]["tls.crt"]);
    assert!(before["data"]["tls.crt"].is_string());
}

/// The middle of a renewal: the API server trusts what is served and what is to come, and two authorities of one name.
#[test]
fn two_authorities_are_trusted_at_once() {
    let Some(mut door) = Door::open("renewal", Kind::Webhook) else { return };
    door.stop_webhook().unwrap();
    // One that cannot be read is made anew, as one that is due would be.
    let next = json!({"stringData": {"next.tls.crt": "x", "next.tls.key": "x", "next.ca.crt": "x"}}).to_string();
    door.kubectl.must(&["patch", "-n", &door.other, "secret", "imagevol-webhook-tls", "-p", &next], None);
    door.start_webhook();
    door.kubectl.until("there are two authorities", |_| {
        let bundle = door.ca_bundle();
        (bundle.matches("BEGIN CERTIFICATE").count() == 2).then_some(())
    });
    door.await_translation();
    let stored = door.kubectl.get(&door.other, "secret", "imagevol-webhook-tls");
    assert!(stored["data"]["next.tls.crt"].as_str().unwrap().len() > 100, "a certificate");
}

/// A cluster whose ImageVolume feature is off.
#[test]
fn without_the_feature_the_webhook_rescues_what_is_dropped() {
    let Some(door) = Door::open("rescue", Kind::Webhook) else { return };
    if door.native_volume().is_some() {
        return another_cluster("rescue", "the API server stores image volumes");
    }
    for kind in KINDS {
        let lost = door.kubectl.dry_run(&door.other, &wrap(kind, as_written())).unwrap();
        let pod = template_of(kind, &lost);
        assert_eq!(pod["spec"]["volumes"], json!([{"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}}]), "{kind}");
        let kept = door.kubectl.dry_run(&door.selected, &wrap(kind, as_written())).unwrap();
        let volumes = &template_of(kind, &kept)["spec"]["volumes"];
        assert_eq!(*volumes, by_hand()["spec"]["volumes"], "{kind}");
    }
}

#[test]
fn allowed_registries_see_both_forms() {
    let Some(mut door) = Door::closed("registries") else { return };
    for mut object in door.kubectl.manifests("allowed-registries") {
        let name = format!("{}.imagevol.dev", door.selected);
        object["metadata"]["name"] = json!(name);
        if object["kind"] == "ValidatingAdmissionPolicyBinding" {
            object["spec"]["policyName"] = json!(name);
            door.restrict(&mut object["spec"]["matchResources"]["namespaceSelector"]);
        }
        door.install(object);
    }
    let csi = |attributes: Value| json!([{"name": "v", "csi": {"driver": "csi.imagevol.dev", "readOnly": true, "volumeAttributes": attributes}}]);
    let foreign = pod_of(&csi(json!({"reference": "quay.io.example.com/x:1"})));
    door.kubectl
        .until("the policy works", |kubectl| kubectl.dry_run(&door.selected, &wrap("Pod", foreign.clone())).err());
    let message = "image volumes from \"quay.io.example.com/x:1\" are not allowed here; allowed are: quay.io/, registry.example.com/team/";
    let mut refused = vec![
        foreign,
        pod_of(&csi(json!({"image": "quay.io.example.com/x:1"}))),
        pod_of(&csi(json!({"reference": "quay.io/x:1", "image": "quay.io.example.com/x:1"}))),
    ];
    let mut allowed = vec![
        pod_of(&csi(json!({"reference": "quay.io/x:1"}))),
        pod_of(&json!([{"name": "v", "csi": {"driver": "example.com", "volumeAttributes": {"reference": "other"}}}])),
        pod_of(&json!([])),
    ];
    if door.native_volume().is_some_and(|volume| volume.get("image").is_some()) {
        refused.push(pod_of(&json!([image("v", "quay.io.example.com/x:1")])));
        allowed.push(pod_of(&json!([image("v", "registry.example.com/team/x:1")])));
    }
    for kind in KINDS {
        for pod in &refused {
            let error = door.kubectl.dry_run(&door.selected, &wrap(kind, pod.clone())).unwrap_err();
            assert!(error.contains(message), "{kind}: {error}");
        }
        for pod in &allowed {
            door.kubectl.dry_run(&door.selected, &wrap(kind, pod.clone())).unwrap();
        }
    }
}
