//! What an earlier run left: read from rows, from pods' directories and from the mount table.

use std::collections::BTreeMap;

use imagevol_base::Holder;
use imagevol_cri::ImageReferences;
use imagevol_volume::{Found, Host, VolumeError};

use crate::state::{ActualStateOfWorld, Decided, Have, Key};

/// Everything that was found enters as uncertain (Kubernetes, reconciler/reconstruct.go).
///
/// A volume that is mounted and whose row names an image was decided before: it is not decided again. What others have mounted at a
/// volume's place is no mount of it; whoever mounts or unmounts the volume is told of them.
pub(crate) async fn reconstruct(
    host: &Host,
    references: &dyn ImageReferences,
) -> Result<ActualStateOfWorld, VolumeError> {
    let mut rows: BTreeMap<Key, Option<Decided>> = BTreeMap::new();
    for (holder, reference, image) in references.holders().await? {
        if let Holder::Volume { pod, volume } = holder {
            rows.insert(Key { pod, volume }, image.map(|image| Decided { image, reference }));
        }
    }
    let host = host.clone();
    tokio::task::spawn_blocking(move || find(&host, rows)).await?
}

fn find(host: &Host, mut rows: BTreeMap<Key, Option<Decided>>) -> Result<ActualStateOfWorld, VolumeError> {
    let mounted = host.mounted_volumes()?;
    for Found { pod, volume } in host.find_volumes()?.into_iter().chain(mounted.iter().cloned()) {
        rows.entry(Key { pod, volume }).or_default();
    }
    let is_mounted = |key: &Key| mounted.contains(&Found { pod: key.pod.clone(), volume: key.volume.clone() });
    let uncertain = |(key, decided): (Key, Option<Decided>)| {
        let decided = decided.filter(|_| is_mounted(&key));
        (key, Have::Uncertain { decided })
    };
    Ok(ActualStateOfWorld { volumes: rows.into_iter().map(uncertain).collect() })
}
