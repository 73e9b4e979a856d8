//! Defaults of containers of every sort.

use crate::corev1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, Probe, ResourceRequirements,
    VolumeMount,
};

use super::{
    default_number, default_pull_policy, default_text, default_value, omit_empty, omit_empty_list, omit_false,
};

/// The fields that containers and ephemeral containers have in common and that have defaults.
pub(super) struct Common<'a> {
    image: &'a mut Option<String>,
    image_pull_policy: &'a mut Option<String>,
    termination_message: (&'a mut Option<String>, &'a mut Option<String>),
    working_dir: &'a mut Option<String>,
    resources: &'a mut Option<ResourceRequirements>,
    ports: &'a mut Option<Vec<ContainerPort>>,
    env: &'a mut Option<Vec<EnvVar>>,
    mounts: &'a mut Option<Vec<VolumeMount>>,
    words: [&'a mut Option<Vec<String>>; 2],
    probes: [&'a mut Option<Probe>; 3],
    lifecycle: &'a mut Option<Lifecycle>,
    terminal: [&'a mut Option<bool>; 3],
}

macro_rules! common_from {
    ($container:ty) => {
        impl<'a> From<&'a mut $container> for Common<'a> {
            fn from(container: &'a mut $container) -> Self {
                Self {
                    image: &mut container.image,
                    image_pull_policy: &mut container.image_pull_policy,
                    termination_message: (
                        &mut container.termination_message_path,
                        &mut container.termination_message_policy,
                    ),
                    working_dir: &mut container.working_dir,
                    resources: &mut container.resources,
                    ports: &mut container.ports,
                    env: &mut container.env,
                    mounts: &mut container.volume_mounts,
                    words: [&mut container.command, &mut container.args],
                    probes: [
                        &mut container.liveness_probe,
                        &mut container.readiness_probe,
                        &mut container.startup_probe,
                    ],
                    lifecycle: &mut container.lifecycle,
                    terminal: [&mut container.stdin, &mut container.stdin_once, &mut container.tty],
                }
            }
        }
    };
}

common_from!(Container);
common_from!(EphemeralContainer);

// === impl Common ===

impl Common<'_> {
    pub(super) fn set_defaults(self) {
        default_text(self.image_pull_policy, default_pull_policy(self.image.as_deref().unwrap_or_default()));
        // core/v1, `TerminationMessagePathDefault`.
        default_text(self.termination_message.0, "/dev/termination-log");
        default_text(self.termination_message.1, "File");
        omit_empty(self.image);
        omit_empty(self.working_dir);
        self.resources.get_or_insert_default();
        set_defaults_ports(self.ports);
        set_defaults_env(self.env);
        set_defaults_mounts(self.mounts);
        self.words.into_iter().for_each(omit_empty_list);
        self.probes.into_iter().flatten().for_each(set_defaults_probe);
        self.lifecycle.iter_mut().for_each(set_defaults_lifecycle);
        self.terminal.into_iter().for_each(omit_false);
    }
}

fn set_defaults_ports(ports: &mut Option<Vec<ContainerPort>>) {
    omit_empty_list(ports);
    for port in ports.iter_mut().flatten() {
        default_text(&mut port.protocol, "TCP");
        omit_empty(&mut port.name);
        port.host_port = port.host_port.filter(|port| *port != 0);
    }
}

fn set_defaults_env(env: &mut Option<Vec<EnvVar>>) {
    omit_empty_list(env);
    for variable in env.iter_mut().flatten() {
        omit_empty(&mut variable.value);
        let Some(source) = &mut variable.value_from else { continue };
        source.field_ref.iter_mut().for_each(|field| default_text(&mut field.api_version, "v1"));
        source.file_key_ref.iter_mut().for_each(|file| default_value(&mut file.optional, false));
    }
}

fn set_defaults_mounts(mounts: &mut Option<Vec<VolumeMount>>) {
    omit_empty_list(mounts);
    for mount in mounts.iter_mut().flatten() {
        omit_empty(&mut mount.sub_path);
        omit_empty(&mut mount.sub_path_expr);
        omit_false(&mut mount.read_only);
        omit_empty_list(&mut mount.bind_mount_options);
    }
}

fn set_defaults_probe(probe: &mut Probe) {
    default_number(&mut probe.timeout_seconds, 1);
    default_number(&mut probe.period_seconds, 10);
    default_number(&mut probe.success_threshold, 1);
    default_number(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(set_defaults_http_get);
    probe.grpc.iter_mut().for_each(|grpc| default_value(&mut grpc.service, String::new()));
}

fn set_defaults_lifecycle(lifecycle: &mut Lifecycle) {
    let handlers = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
    handlers.into_iter().flatten().filter_map(|handler| handler.http_get.as_mut()).for_each(set_defaults_http_get);
}

fn set_defaults_http_get(action: &mut HTTPGetAction) {
    default_text(&mut action.path, "/");
    default_text(&mut action.scheme, "HTTP");
}
