//! Holders of images as people know them.

use std::collections::BTreeMap;

use imagevol_api::daemon::{HolderState, WhyHolder};
use imagevol_base::collection::NodeTime;
use imagevol_base::volumes::VolumeState;
use imagevol_base::{Holder, Target};
use imagevol_store::Reference;
use imagevol_volumemanager::DoorState;
use jiff::Timestamp;

use crate::node::Node;

/// What is known of holders beside their rows, at one moment.
pub(super) struct Holders {
    names: BTreeMap<String, String>,
    /// Rows' keys of those whose volume is mounted.
    mounted: Vec<String>,
    /// References of pulls under way.
    pulling: Vec<String>,
    clock: Clock,
}

/// The node's own time and the wall's, read together.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    node: NodeTime,
    wall: Timestamp,
}

// === impl Holders ===

impl Holders {
    pub(super) fn of(node: &Node) -> Self {
        let pulling = node.service.running_pulls().into_iter().map(|pull| pull.reference).collect();
        Self { names: user_names(node), mounted: mounted(node), pulling, clock: Clock::of(node) }
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    pub(super) fn name(&self, holder: &Holder) -> String {
        self.names.get(&holder.to_string()).cloned().unwrap_or_else(|| holder_name(holder))
    }

    /// A row, told in full.
    pub(super) fn explain(&self, holder: &Holder, row: &Reference) -> WhyHolder {
        WhyHolder {
            name: self.name(holder),
            reference: row.reference.clone(),
            state: self.state(holder, row),
            since: wall(row.since),
            expires: row.expires.map(|expires| self.clock.tell(expires)),
        }
    }

    fn state(&self, holder: &Holder, row: &Reference) -> HolderState {
        match &row.image {
            Some(_) if self.mounted.contains(&holder.to_string()) => HolderState::Mounted,
            Some(_) => HolderState::Held,
            None if self.pulling.contains(&row.reference) => HolderState::Pulling,
            None => HolderState::Wanted,
        }
    }
}

// === impl Clock ===

impl Clock {
    pub(super) fn of(node: &Node) -> Self {
        Self { node: node.service.store().now(), wall: Timestamp::now() }
    }

    pub(super) fn now(self) -> NodeTime {
        self.node
    }

    /// When a moment of the node's time comes if the node goes on running, RFC 3339 in whole seconds.
    pub(super) fn tell(self, time: NodeTime) -> String {
        let time = self.wall.checked_add(time.since(self.node)).unwrap_or(Timestamp::MAX);
        wall(time.as_second())
    }
}

/// Holders as people know them, by the row's key.
pub(super) fn user_names(node: &Node) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for pod in node.control.pods(None) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (namespace, name) =
            (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default());
        for (volume, _) in imagevol_api::core::image_volumes(&pod) {
            let key = format!("volume/{uid}/{}", volume.name);
            names.insert(key, format!("pod {namespace}/{name} volume {}", volume.name));
        }
    }
    for (target, volume) in node.volumes.list() {
        let metadata = &volume.pod.metadata;
        if let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) {
            let what = format!("pod {namespace}/{name} volume {}", target.volume);
            names.insert(Holder::Csi(target).to_string(), what);
        }
    }
    names
}

/// A holder that no known pod explains.
pub(super) fn holder_name(holder: &Holder) -> String {
    match holder {
        Holder::Volume { pod, volume } => format!("pod {pod} volume {volume}"),
        Holder::Csi(Target { pod, volume, .. }) => format!("pod {pod} CSI volume {volume}"),
        Holder::Command { .. } => "pull command".to_owned(),
        Holder::Prefetch { list, .. } if list.as_str() == Holder::PREFETCH_COMMAND => "prefetch command".to_owned(),
        Holder::Prefetch { list, .. } => format!("prefetch list {list}"),
        Holder::External { owner, name } => format!("{owner} {name}"),
    }
}

/// Seconds since 1970 as RFC 3339; empty for what no calendar has.
pub(super) fn wall(seconds: i64) -> String {
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

fn mounted(node: &Node) -> Vec<String> {
    let reports = node.volume_reports();
    let of_pods = reports.iter().flat_map(|(pod, report)| {
        let mounted = report.volumes.iter().filter(|(_, state)| matches!(state, VolumeState::Mounted { .. }));
        mounted.map(|(volume, _)| Holder::Volume { pod: pod.clone(), volume: volume.clone() }.to_string())
    });
    let doors = node.volumes.list().into_iter().filter(|(_, volume)| matches!(volume.state, DoorState::Mounted(_)));
    of_pods.chain(doors.map(|(target, _)| Holder::Csi(target).to_string())).collect()
}
