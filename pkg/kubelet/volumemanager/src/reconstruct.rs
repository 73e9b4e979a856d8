//! What an earlier run left: read from rows, from pods' directories and from the mount table.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_cri::ImageReferences;
use imagevol_volume::{Door, Host, Key, VolumeError};

use crate::state::{ActualStateOfWorld, Decided, Have};

/// What an earlier run left.
pub(crate) struct Found {
    /// All of it, as uncertain (Kubernetes, reconciler/reconstruct.go).
    pub(crate) have: ActualStateOfWorld,
    /// What is mounted.
    pub(crate) mounted: BTreeSet<Key>,
}

/// A volume that is mounted and whose row names an image was decided before: it is not decided again. So was one that a kubelet has
/// yet to ask for. What others have mounted at a volume's place is no mount of it; whoever mounts or unmounts the volume is told of them.
pub(crate) async fn reconstruct(host: &Host, references: &dyn ImageReferences) -> Result<Found, VolumeError> {
    let mut rows: BTreeMap<Key, Option<Decided>> = BTreeMap::new();
    for (holder, reference, image) in references.holders().await? {
        if let Some(key) = Key::of_holder(holder) {
            rows.insert(key, image.map(|image| Decided { image, reference }));
        }
    }
    let host = host.clone();
    tokio::task::spawn_blocking(move || find(&host, rows)).await?
}

fn find(host: &Host, mut rows: BTreeMap<Key, Option<Decided>>) -> Result<Found, VolumeError> {
    let mounted = host.mounted_volumes()?;
    // A directory or a mount of a kubelet's CSI volume may be another driver's: only rows tell of ours.
    let of_pods = |key: &Key| key.door == Door::Pod;
    for key in host.find_volumes()?.into_iter().chain(mounted.iter().cloned()).filter(of_pods) {
        rows.entry(key).or_default();
    }
    let uncertain = |(key, decided): (Key, Option<Decided>)| {
        let decided = decided.filter(|_| key.door != Door::Pod || mounted.contains(&key));
        (key, Have::Uncertain { decided })
    };
    Ok(Found { have: ActualStateOfWorld { volumes: rows.into_iter().map(uncertain).collect() }, mounted })
}
