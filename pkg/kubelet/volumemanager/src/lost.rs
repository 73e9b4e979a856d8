//! Which volumes somebody else has unmounted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_volume::{Key, Place};

use crate::state::{ActualStateOfWorld, Decided, DesiredStateOfWorld, Have, Operations};

/// A volume that was mounted when the look at the mount table began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// All that is mounted of it.
    pub(crate) places: Vec<Place>,
    /// The attempt that mounted it.
    pub(crate) attempt: u64,
}

/// The volumes of which the look can tell something: mounted as far as is known, wanted, and nothing is being done to them. `places`: all
/// that is mounted of one; `attempts`: the last attempt that ended, of each.
pub(crate) fn expected(
    want: &DesiredStateOfWorld,
    have: &ActualStateOfWorld,
    operations: &Operations,
    attempts: &BTreeMap<Key, u64>,
    places: impl Fn(&Key) -> Vec<Place>,
) -> BTreeMap<Key, Expected> {
    let is_mounted = |(key, have): &(&Key, &Have)| {
        matches!(have, Have::Mounted(_)) && want.volumes.contains_key(key) && !operations.pending.contains_key(key)
    };
    let attempt = |key: &Key| attempts.get(key).copied().unwrap_or_default();
    let mounted = have.volumes.iter().filter(is_mounted).map(|(key, _)| key);
    mounted.map(|key| (key.clone(), Expected { places: places(key), attempt: attempt(key) })).collect()
}

/// The volumes of which something is not mounted any more, each with what was decided for it; `now` is [`expected`] after the look, `gone`
/// what it found missing. One that was unmounted or mounted by ourselves meanwhile is left out: the look may have seen the middle of that.
pub(crate) fn lost(
    before: &BTreeMap<Key, Expected>,
    now: &BTreeMap<Key, Expected>,
    gone: &BTreeSet<Place>,
) -> BTreeSet<Key> {
    let is_lost = |(key, expected): &(&Key, &Expected)| {
        now.get(key) == Some(expected) && expected.places.iter().any(|place| gone.contains(place))
    };
    before.iter().filter(is_lost).map(|(key, _)| key.clone()).collect()
}

/// That a volume may not be what it is known as: whoever mounts it looks, and mounts what is not mounted, of the image that was decided on.
pub(crate) fn doubt(key: &Key, want: &DesiredStateOfWorld, have: &mut ActualStateOfWorld) {
    if let (Some(wanted), Some(have @ Have::Mounted(_))) = (want.volumes.get(key), have.volumes.get_mut(key)) {
        let decided: Option<Decided> = have.decided(wanted);
        *have = Have::Uncertain { decided };
    }
}

#[cfg(test)]
mod tests {
    use imagevol_api::oci::{Algorithm, Digest};
    use imagevol_base::PodSet;
    use imagevol_cri::ImageId;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::state::Operation;

    fn key() -> Key {
        Key::of_pod("p".parse().unwrap(), "v".parse().unwrap())
    }

    fn mounted() -> Have {
        Have::Mounted(ImageId::new(Digest::from_bytes(Algorithm::Sha256, &[0; 32]).unwrap()))
    }

    fn wanted() -> DesiredStateOfWorld {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "p"},
            "spec": {"containers": [], "volumes": [{"name": "v", "image": {"reference": "r.io/i:1"}}]},
        }));
        let pods = [("p".parse().unwrap(), std::sync::Arc::new(pod.unwrap()))].into();
        DesiredStateOfWorld::of(&PodSet { pods, all_sources_ready: true })
    }

    fn look(
        want: &DesiredStateOfWorld,
        have: Have,
        pending: Option<Operation>,
        attempt: u64,
    ) -> BTreeMap<Key, Expected> {
        let have = ActualStateOfWorld { volumes: [(key(), have)].into() };
        let pending = pending.map(|operation| (key(), operation)).into_iter().collect();
        let operations = Operations { pending, ..Operations::default() };
        expected(want, &have, &operations, &[(key(), attempt)].into(), |key| vec![Place::of(key)])
    }

    /// What a volume is known as when the look has ended, one whose mount the look has not found.
    #[rstest]
    #[case::mounted(true, mounted(), None, 1, true)]
    #[case::nobody_wants_it(false, mounted(), None, 1, false)]
    #[case::being_unmounted(true, Have::Uncertain { decided: None }, Some(Operation::Unmount), 1, false)]
    #[case::being_mounted(true, mounted(), Some(Operation::Mount), 1, false)]
    #[case::mounted_anew(true, mounted(), None, 2, false)]
    fn a_volume_is_lost(
        #[case] is_wanted: bool,
        #[case] have: Have,
        #[case] pending: Option<Operation>,
        #[case] attempt: u64,
        #[case] is_lost: bool,
    ) {
        let before = look(&wanted(), mounted(), None, 1);
        let want = if is_wanted { wanted() } else { DesiredStateOfWorld::default() };
        let now = look(&want, have, pending, attempt);
        let lost_of = |gone: &BTreeSet<Place>| !lost(&before, &now, gone).is_empty();
        assert_eq!(lost_of(&[Place::of(&key())].into()), is_lost);
        assert!(!lost_of(&BTreeSet::new()));
    }
}
