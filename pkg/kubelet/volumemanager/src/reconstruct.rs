//! What an earlier run left: read from rows, from pods' directories and from the mount table.

use std::collections::BTreeMap;

use imagevol_base::Holder;
use imagevol_cri::{ImageId, ImageReferences};
use imagevol_volume::{Host, VolumeError};

use crate::state::{ActualStateOfWorld, Have, Key};

/// Everything that was found enters as uncertain (Kubernetes, reconciler/reconstruct.go).
///
/// A volume that is mounted and whose row names an image was decided before: it is not decided again.
pub(crate) async fn reconstruct(
    host: &Host,
    references: &dyn ImageReferences,
) -> Result<ActualStateOfWorld, VolumeError> {
    let mut rows: BTreeMap<Key, Option<ImageId>> = BTreeMap::new();
    for (holder, _, image) in references.holders().await? {
        if let Holder::Volume { pod, volume } = holder {
            rows.insert(Key { pod, volume }, image);
        }
    }
    let host = host.clone();
    let found = tokio::task::spawn_blocking(move || find(&host, rows)).await;
    found.map_err(|error| VolumeError::Task(error.to_string()))?
}

fn find(host: &Host, mut rows: BTreeMap<Key, Option<ImageId>>) -> Result<ActualStateOfWorld, VolumeError> {
    for found in host.find_volumes()? {
        rows.entry(Key { pod: found.pod, volume: found.volume }).or_default();
    }
    let mut volumes = BTreeMap::new();
    for (key, image) in rows {
        let mounted = host.is_mounted(&host.volume_path(&key.pod, &key.volume))?;
        volumes.insert(key, Have::Uncertain { decided: image.filter(|_| mounted) });
    }
    Ok(ActualStateOfWorld { volumes })
}
