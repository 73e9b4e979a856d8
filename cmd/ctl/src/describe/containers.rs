//! The blocks of containers.

use imagevol_api::corev1::{
    Container, ContainerPort, ContainerState, ContainerStatus, EphemeralContainer, Pod, PodSpec, PodStatus, Probe,
    ResourceRequirements, VolumeMount,
};
use imagevol_api::metav1::Time;
use serde_json::Value;

use super::{Sheet, capital, environment, filled, text_of};
use crate::text::{self, Clock};

/// Indentation of a container's fields.
const LEVEL: usize = 2;

/// Init containers, containers and ephemeral containers.
pub(super) fn all(sheet: &mut Sheet, pod: &Pod, spec: &PodSpec, status: &PodStatus, clock: &Clock) {
    let mut block = Block { sheet, pod, clock };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    if !init.is_empty() {
        block.containers("Init Containers:", init, status.init_container_statuses.as_deref());
    }
    let label = if spec.containers.is_empty() { "Containers: <none>" } else { "Containers:" };
    block.containers(label, &spec.containers, status.container_statuses.as_deref());
    let ephemeral: Vec<Container> = spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    if !ephemeral.is_empty() {
        block.containers("Ephemeral Containers:", &ephemeral, status.ephemeral_container_statuses.as_deref());
    }
}

struct Block<'a> {
    sheet: &'a mut Sheet,
    pod: &'a Pod,
    clock: &'a Clock,
}

// === impl Block ===

impl Block<'_> {
    fn containers(&mut self, label: &str, containers: &[Container], statuses: Option<&[ContainerStatus]>) {
        self.sheet.line(0, label);
        for container in containers {
            let status = statuses.unwrap_or_default().iter().find(|status| status.name == container.name);
            self.container(container, status);
        }
    }

    fn container(&mut self, container: &Container, status: Option<&ContainerStatus>) {
        identity(self.sheet, container, status);
        lines(self.sheet, "Command:", container.command.as_deref());
        lines(self.sheet, "Args:", container.args.as_deref());
        if let Some(status) = status {
            self.status(status);
        }
        resources(self.sheet, LEVEL, &container.resources.clone().unwrap_or_default());
        let probes = [
            ("Liveness", &container.liveness_probe),
            ("Readiness", &container.readiness_probe),
            ("Startup", &container.startup_probe),
        ];
        for (label, probe) in probes {
            self.sheet.optional(LEVEL, label, probe.as_ref().map(described_probe));
        }
        environment::all(self.sheet, self.pod, container);
        mounts(self.sheet, container);
    }

    fn status(&mut self, status: &ContainerStatus) {
        self.state("State", status.state.as_ref());
        if let Some(last) = status.last_state.as_ref().filter(|state| state.terminated.is_some()) {
            self.state("Last State", Some(last));
        }
        self.sheet.field(LEVEL, "Ready", capital(status.ready));
        self.sheet.field(LEVEL, "Restart Count", status.restart_count);
    }

    /// A state; what is waited for has its reason here, its message only in the events.
    fn state(&mut self, label: &str, state: Option<&ContainerState>) {
        let sheet = &mut *self.sheet;
        match state {
            Some(ContainerState { running: Some(running), .. }) => {
                sheet.field(LEVEL, label, "Running");
                sheet.field(LEVEL + 1, "Started", date(running.started_at.as_ref(), self.clock));
            }
            Some(ContainerState { terminated: Some(ended), .. }) => {
                sheet.field(LEVEL, label, "Terminated");
                sheet.optional(LEVEL + 1, "Reason", filled(ended.reason.as_ref()));
                sheet.optional(LEVEL + 1, "Message", filled(ended.message.as_ref()));
                sheet.field(LEVEL + 1, "Exit Code", ended.exit_code);
                sheet.optional(LEVEL + 1, "Signal", ended.signal.filter(|signal| *signal > 0));
                sheet.field(LEVEL + 1, "Started", date(ended.started_at.as_ref(), self.clock));
                sheet.field(LEVEL + 1, "Finished", date(ended.finished_at.as_ref(), self.clock));
            }
            Some(ContainerState { waiting, .. }) => {
                sheet.field(LEVEL, label, "Waiting");
                sheet.optional(
                    LEVEL + 1,
                    "Reason",
                    waiting.as_ref().and_then(|waiting| filled(waiting.reason.as_ref())),
                );
            }
            None => sheet.field(LEVEL, label, "Waiting"),
        }
    }
}

/// Limits and requests, where there are any.
pub(super) fn resources(sheet: &mut Sheet, level: usize, resources: &ResourceRequirements) {
    for (label, amounts) in [("Limits:", &resources.limits), ("Requests:", &resources.requests)] {
        let Some(amounts) = amounts.as_ref().filter(|amounts| !amounts.is_empty()) else { continue };
        sheet.line(level, label);
        for (name, quantity) in amounts {
            sheet.field(level + 1, name, &quantity.0);
        }
    }
}

fn identity(sheet: &mut Sheet, container: &Container, status: Option<&ContainerStatus>) {
    sheet.line(1, &format!("{}:", container.name));
    sheet.optional(LEVEL, "Container ID", status.map(|status| text_of(status.container_id.as_ref())));
    sheet.field(LEVEL, "Image", text_of(container.image.as_ref()));
    sheet.optional(LEVEL, "Image ID", status.map(|status| status.image_id.as_str()));
    let ports = container.ports.as_deref().unwrap_or_default();
    ports_line(sheet, "Port", ports, |port| port.container_port);
    ports_line(sheet, "Host Port", ports, |port| port.host_port.unwrap_or_default());
    if let Some(profile) = container.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref()) {
        sheet.field(LEVEL, "SeccompProfile", &profile.type_);
        sheet.optional(LEVEL + 1, "LocalhostProfile", profile.localhost_profile.as_ref());
    }
}

fn ports_line(sheet: &mut Sheet, label: &str, ports: &[ContainerPort], number: impl Fn(&ContainerPort) -> i32) {
    let shown: Vec<_> =
        ports.iter().map(|port| format!("{}/{}", number(port), port.protocol.as_deref().unwrap_or("TCP"))).collect();
    match shown.as_slice() {
        [] => sheet.field(LEVEL, label, "<none>"),
        [one] => sheet.field(LEVEL, label, one),
        several => sheet.field(LEVEL, &format!("{label}s"), several.join(", ")),
    }
}

/// Words of a command, each on a line, or on several where it has line ends.
fn lines(sheet: &mut Sheet, label: &str, words: Option<&[String]>) {
    let words = words.unwrap_or_default();
    if words.is_empty() {
        return;
    }
    sheet.line(LEVEL, label);
    for line in words.iter().flat_map(|word| word.split('\n')) {
        sheet.line(LEVEL + 1, line);
    }
}

fn mounts(sheet: &mut Sheet, container: &Container) {
    let mut mounts: Vec<&VolumeMount> = container.volume_mounts.iter().flatten().collect();
    mounts.sort_by_key(|mount| &mount.mount_path);
    if mounts.is_empty() {
        sheet.field(LEVEL, "Mounts", "<none>");
    } else {
        sheet.line(LEVEL, "Mounts:");
    }
    for mount in mounts {
        // The spec's word, as in kubectl: an image volume is read-only whatever stands here.
        let mut flags = if mount.read_only == Some(true) { "ro".to_owned() } else { "rw".to_owned() };
        if let Some(path) = filled(mount.sub_path.as_ref()) {
            text::append(&mut flags, format_args!(",path={path:?}"));
        }
        sheet.line(LEVEL + 1, &format!("{} from {} ({flags})", mount.mount_path, mount.name));
    }
    let mut devices: Vec<_> = container.volume_devices.iter().flatten().collect();
    devices.sort_by_key(|device| &device.device_path);
    if !devices.is_empty() {
        sheet.line(LEVEL, "Devices:");
    }
    for device in devices {
        sheet.line(LEVEL + 1, &format!("{} from {}", device.device_path, device.name));
    }
}

/// kubectl, `DescribeProbe`. Numbers that are not set are the zeros that Go would have.
fn described_probe(probe: &Probe) -> String {
    let number = |number: Option<i32>| number.unwrap_or_default();
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number(probe.initial_delay_seconds),
        number(probe.timeout_seconds),
        number(probe.period_seconds),
        number(probe.success_threshold),
        number(probe.failure_threshold),
    );
    format!("{} {attributes}", probe_action(probe))
}

fn probe_action(probe: &Probe) -> String {
    if let Some(exec) = &probe.exec {
        return format!("exec [{}]", exec.command.clone().unwrap_or_default().join(" "));
    }
    if let Some(get) = &probe.http_get {
        let scheme = text_of(get.scheme.as_ref()).to_ascii_lowercase();
        let separator = if scheme.is_empty() { "//" } else { "://" };
        let (host, port) = (text_of(get.host.as_ref()), port(&serde_json::json!(get.port)));
        let path = text_of(get.path.as_ref());
        let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
        return format!("http-get {scheme}{separator}{host}:{port}{slash}{path}");
    }
    if let Some(socket) = &probe.tcp_socket {
        return format!("tcp-socket {}:{}", text_of(socket.host.as_ref()), port(&serde_json::json!(socket.port)));
    }
    if let Some(grpc) = &probe.grpc {
        return format!("grpc <pod>:{} {}", grpc.port, text_of(grpc.service.as_ref()));
    }
    "unknown".to_owned()
}

/// A port's number or name.
fn port(port: &Value) -> String {
    port.as_str().map_or_else(|| port.to_string(), str::to_owned)
}

fn date(time: Option<&Time>, clock: &Clock) -> String {
    // Go's zero time, which is what kubectl shows for an unset one.
    time.map_or_else(|| "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(), |time| clock.date(time.0))
}

fn as_container(ephemeral: &EphemeralContainer) -> Container {
    Container {
        name: ephemeral.name.clone(),
        image: ephemeral.image.clone(),
        command: ephemeral.command.clone(),
        args: ephemeral.args.clone(),
        ports: ephemeral.ports.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        resources: ephemeral.resources.clone(),
        volume_mounts: ephemeral.volume_mounts.clone(),
        volume_devices: ephemeral.volume_devices.clone(),
        liveness_probe: ephemeral.liveness_probe.clone(),
        readiness_probe: ephemeral.readiness_probe.clone(),
        startup_probe: ephemeral.startup_probe.clone(),
        security_context: ephemeral.security_context.clone(),
        ..Container::default()
    }
}
