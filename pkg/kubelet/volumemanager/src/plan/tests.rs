//! The four sentences that `plan` keeps, as properties over random worlds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_cri::ImageId;
use imagevol_volume::Goal;
use proptest::prelude::*;

use super::*;
use crate::state::{Decided, Operation, Wanted};

fn key(id: u8) -> Key {
    Key::of_pod(format!("pod-{}", id / 4).parse().unwrap(), format!("volume-{}", id % 4).parse().unwrap())
}

fn image() -> ImageId {
    ImageId::new(Digest::from_bytes(Algorithm::Sha256, &[7; 32]).unwrap())
}

fn wanted() -> Wanted {
    Wanted {
        pod: Arc::default(),
        volume: Arc::default(),
        claims: Arc::default(),
        platform: None,
        goal: Goal::Mounted,
        adopted: false,
    }
}

fn have() -> impl Strategy<Value = Have> {
    prop_oneof![
        Just(Have::Mounted(image())),
        Just(Have::Uncertain { decided: None }),
        Just(Have::Uncertain { decided: Some(Decided { image: image(), reference: "r:1".to_owned() }) }),
    ]
}

#[derive(Debug, Clone)]
struct World {
    want: DesiredStateOfWorld,
    have: ActualStateOfWorld,
    operations: Operations,
    now: Instant,
}

fn world() -> impl Strategy<Value = World> {
    let keys = || proptest::collection::btree_set(0..16_u8, 0..12);
    let actual = proptest::collection::btree_map(0..16_u8, have(), 0..12);
    let backoff = proptest::collection::btree_map(0..16_u8, 0..20_u64, 0..6);
    (keys(), any::<bool>(), actual, keys(), backoff).prop_map(|(want, ready, actual, pending, backoff)| {
        let start = Instant::now();
        World {
            want: DesiredStateOfWorld {
                volumes: want.into_iter().map(|id| (key(id), wanted())).collect(),
                all_sources_ready: ready,
            },
            have: ActualStateOfWorld { volumes: actual.into_iter().map(|(id, have)| (key(id), have)).collect() },
            operations: Operations {
                pending: pending.into_iter().map(|id| (key(id), Operation::Mount)).collect(),
                not_before: backoff.into_iter().map(|(id, s)| (key(id), start + Duration::from_secs(s))).collect(),
            },
            now: start + Duration::from_secs(10),
        }
    })
}

fn plan_of(world: &World) -> Vec<Action> {
    plan(&world.want, &world.have, &world.operations, world.now)
}

/// What the world is when every action has gone well.
fn apply(world: &mut World, actions: &[Action]) {
    for action in actions {
        match action {
            Action::Mount(key) | Action::Remount(key) => {
                world.have.volumes.insert(key.clone(), Have::Mounted(image()));
            }
            Action::Unmount(key) | Action::CleanOrphan(key) => {
                world.have.volumes.remove(key);
            }
        }
    }
}

proptest! {
    #[test]
    fn unmounts_come_before_mounts(world in world()) {
        let actions = plan_of(&world);
        let first_mount = actions.iter().position(|action| !action.removes()).unwrap_or(actions.len());
        prop_assert!(actions.iter().skip(first_mount).all(|action| !action.removes()));
    }

    #[test]
    fn nothing_is_unmounted_before_all_sources_were_seen(mut world in world()) {
        world.want.all_sources_ready = false;
        prop_assert!(plan_of(&world).iter().all(|action| !action.removes()));
    }

    #[test]
    fn what_is_uncertain_and_wanted_is_mounted_again(world in world()) {
        let actions = plan_of(&world);
        for (key, have) in &world.have.volumes {
            let again = matches!(have, Have::Uncertain { .. }) && world.want.volumes.contains_key(key);
            if again && !world.operations.is_busy(key, world.now) {
                prop_assert!(actions.contains(&Action::Remount(key.clone())));
            }
        }
    }

    #[test]
    fn a_busy_volume_is_left_alone(world in world()) {
        for action in plan_of(&world) {
            prop_assert!(!world.operations.is_busy(action.key(), world.now), "{action:?}");
        }
    }

    #[test]
    fn one_action_a_volume_and_applying_them_reaches_what_is_wanted(mut world in world()) {
        world.want.all_sources_ready = true;
        world.operations = Operations::default();
        let actions = plan_of(&world);
        let keys: std::collections::BTreeSet<_> = actions.iter().map(|action| action.key().clone()).collect();
        prop_assert_eq!(keys.len(), actions.len());
        apply(&mut world, &actions);
        let mounted: BTreeMap<_, _> = world.want.volumes.keys().map(|key| (key.clone(), Have::Mounted(image()))).collect();
        prop_assert_eq!(&world.have.volumes, &mounted);
        prop_assert_eq!(plan_of(&world), Vec::new(), "nothing is left to do");
    }
}
