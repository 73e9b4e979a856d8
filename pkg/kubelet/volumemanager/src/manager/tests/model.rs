//! Random lives of random pods against a plugin that fails at random.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// The pods from now on, by number, each wanting image 0 or 1.
    Pods(BTreeMap<u8, u8>),
    Wait(u64),
    NextMount(u8, Do),
    NextUnmount(u8, Do),
    /// The daemon is killed and started.
    Restart,
}

fn behaviour() -> impl Strategy<Value = Do> {
    prop_oneof![
        (0..3000_u64).prop_map(|millis| Do::Take(Duration::from_millis(millis))),
        Just(Do::Fail),
        Just(Do::Panic),
        (0..20_u64, 0..3000_u64).prop_map(|(bytes, millis)| Do::Bring(bytes, Duration::from_millis(millis))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::btree_map(0..4_u8, 0..2_u8, 0..4).prop_map(Step::Pods),
        4 => (0..4000_u64).prop_map(Step::Wait),
        2 => (0..4_u8, behaviour()).prop_map(|(pod, what)| Step::NextMount(pod, what)),
        2 => (0..4_u8, behaviour()).prop_map(|(pod, what)| Step::NextUnmount(pod, what)),
        1 => Just(Step::Restart),
    ]
}

const IMAGES: [&str; 2] = ["localhost:5000/data:1", "localhost:5000/data:2"];

fn pods_of(wanted: &BTreeMap<u8, u8>) -> Vec<Pod> {
    let pod = |(pod, image): (&u8, &u8)| {
        let image = IMAGES[usize::from(*image)];
        pod_of(&format!("p{pod}"), &[("a", image), ("b", image)], "Always")
    };
    wanted.iter().map(pod).collect()
}

/// After a restart the fake plugin's table is what the kernel would have: it is told by directories alone.
fn leave_directories(disk: &Disk) {
    for path in disk.plugin.mounted() {
        let (pod, volume) = path.split_once('/').unwrap();
        let key = key(pod, volume);
        std::fs::create_dir_all(disk.host().path(&key)).unwrap();
    }
}

async fn live(steps: Vec<Step>) {
    let disk = Disk::new();
    let (mut node, mut wanted) = (disk.start(), BTreeMap::new());
    node.set(&[]);
    for step in steps {
        match step {
            Step::Pods(pods) => {
                wanted = pods;
                node.set(&pods_of(&wanted));
            }
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Step::NextMount(pod, what) => disk.plugin.next_mount(key(&format!("p{pod}"), "a"), what),
            Step::NextUnmount(pod, what) => disk.plugin.next_unmount(key(&format!("p{pod}"), "b"), what),
            Step::Restart => {
                node.supervisor.shut_down(10 * SECOND).await;
                leave_directories(&disk);
                node = disk.start();
                disk.plugin.forbid_unmounts(true);
                node.set_while(false, &pods_of(&wanted).split_off(wanted.len() / 2));
                node.after(1).await;
                disk.plugin.forbid_unmounts(false);
                node.set(&pods_of(&wanted));
            }
        }
    }
    node.after(2000).await;
    let expected: Vec<_> = wanted.keys().flat_map(|pod| [format!("p{pod}/a"), format!("p{pod}/b")]).collect();
    assert_eq!(disk.plugin.mounted(), expected, "what is mounted is what is wanted");
    for (pod, image) in &wanted {
        let reports = node.reports.borrow().clone().unwrap();
        let expected = VolumeState::Mounted { image: plugin::image_of(IMAGES[usize::from(*image)]).digest().clone() };
        assert!(reports[&key(&format!("p{pod}"), "a").pod].volumes.values().all(|state| *state == expected));
    }
    assert_eq!(node.reports.borrow().as_ref().unwrap().len(), wanted.len());
    assert_eq!(disk.plugin.wrongs(), Vec::<String>::new());
    node.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_the_world_becomes_as_wanted(steps in proptest::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(live(steps));
    }
}
