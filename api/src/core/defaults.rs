//! What the API server fills in where a manifest is silent (Kubernetes 1.36, `pkg/apis/core/v1/defaults.go`).
//!
//! Fields that Go leaves out when they are empty are left out here too, so that a defaulted pod prints as kubectl
//! prints it. Defaults of admission plug-ins (service account, tolerations, priority) do not exist without a cluster.

mod container;
mod volume;

use crate::core::pod::qos_class;
use crate::corev1::{Container, Pod, PodSpec, PodStatus, Secret};
use crate::oci::Reference;

/// The namespace of objects that name none (meta/v1, `NamespaceDefault`).
const NAMESPACE: &str = "default";
/// Seconds (core/v1, `DefaultTerminationGracePeriodSeconds`).
const TERMINATION_GRACE_PERIOD: i64 = 30;

/// Fills in every default that does not depend on a cluster. Idempotent.
pub fn set_defaults_pod(pod: &mut Pod) {
    default_text(&mut pod.metadata.namespace, NAMESPACE);
    let spec = pod.spec.get_or_insert_default();
    omit_empty_fields(spec);
    default_text(&mut spec.dns_policy, "ClusterFirst");
    default_text(&mut spec.restart_policy, "Always");
    default_text(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(TERMINATION_GRACE_PERIOD);
    spec.enable_service_links.get_or_insert(true);
    spec.volumes.iter_mut().flatten().for_each(volume::set_defaults);
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        set_defaults_container(container, host_network);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        container::Common::from(container).set_defaults();
    }
}

/// What the registry of pods does to a new one: a status of its own, and no system field that the caller made up.
///
/// (Kubernetes, `pkg/registry/core/pod/strategy.go`, `PrepareForCreate`; apiserver, `registry/rest`,
/// `FillObjectMetaSystemFields`.) Identity (uid, creation time) is the pod source's affair.
pub fn prepare_for_create(pod: &mut Pod) {
    let metadata = &mut pod.metadata;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    metadata.self_link = None;
    metadata.managed_fields = None;
    metadata.generation = Some(1);
    pod.status = Some(PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some(qos_class(pod).as_str().to_owned()),
        ..PodStatus::default()
    });
}

/// Fills in a secret's namespace and type, and moves `stringData` into `data`, where it wins. Idempotent.
pub fn set_defaults_secret(secret: &mut Secret) {
    default_text(&mut secret.metadata.namespace, NAMESPACE);
    default_text(&mut secret.type_, "Opaque");
    if let Some(texts) = secret.string_data.take() {
        let bytes = texts.into_iter().map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes())));
        secret.data.get_or_insert_default().extend(bytes);
    }
}

/// The pull policy of a reference that comes with none: unparsable ones do not move.
pub fn default_pull_policy(reference: &str) -> &'static str {
    if Reference::parse(reference).is_ok_and(|reference| reference.moves()) { "Always" } else { "IfNotPresent" }
}

fn set_defaults_container(container: &mut Container, host_network: bool) {
    container::Common::from(&mut *container).set_defaults();
    if let Some(resources) = &mut container.resources {
        let limits = resources.limits.iter().flatten();
        let missing: Vec<_> = limits.map(|(name, limit)| (name.clone(), limit.clone())).collect();
        if !missing.is_empty() {
            let requests = resources.requests.get_or_insert_default();
            for (name, limit) in missing {
                requests.entry(name).or_insert(limit);
            }
        }
    }
    if host_network {
        container.ports.iter_mut().flatten().for_each(|port| default_value(&mut port.host_port, port.container_port));
    }
}

fn omit_empty_fields(spec: &mut PodSpec) {
    for text in [
        &mut spec.node_name,
        &mut spec.hostname,
        &mut spec.subdomain,
        &mut spec.service_account,
        &mut spec.service_account_name,
        &mut spec.priority_class_name,
    ] {
        omit_empty(text);
    }
    for flag in [&mut spec.host_ipc, &mut spec.host_network, &mut spec.host_pid] {
        omit_false(flag);
    }
    omit_empty_list(&mut spec.volumes);
    omit_empty_list(&mut spec.init_containers);
    omit_empty_list(&mut spec.ephemeral_containers);
    omit_empty_list(&mut spec.image_pull_secrets);
    omit_empty_list(&mut spec.tolerations);
    omit_empty_list(&mut spec.host_aliases);
}

fn default_text(text: &mut Option<String>, value: &str) {
    if text.as_deref().unwrap_or_default().is_empty() {
        *text = Some(value.to_owned());
    }
}

fn default_number(number: &mut Option<i32>, value: i32) {
    if number.unwrap_or_default() == 0 {
        *number = Some(value);
    }
}

fn default_value<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn omit_empty(text: &mut Option<String>) {
    if text.as_deref() == Some("") {
        *text = None;
    }
}

fn omit_false(flag: &mut Option<bool>) {
    if *flag == Some(false) {
        *flag = None;
    }
}

fn omit_empty_list<T>(list: &mut Option<Vec<T>>) {
    if list.as_ref().is_some_and(Vec::is_empty) {
        *list = None;
    }
}

#[cfg(test)]
mod tests;
