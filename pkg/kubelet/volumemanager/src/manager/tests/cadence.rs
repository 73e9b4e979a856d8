//! When what is tried and told: the real plugin and image manager over an image service in memory.

use async_trait::async_trait;
use imagevol_cri::{ImageReferences as _, ImageServiceError};
use imagevol_images::{
    BackoffLimits, ImageManager, NodeConfigPaths, PodPullSecrets, PullLimits, PullManager, PullSecrets,
    PullSecretsError, VerificationPolicy,
};
use imagevol_mount::Exec;
use imagevol_volume::ImagePlugin;

use super::*;

struct Secrets {
    fail: bool,
}

#[async_trait]
impl PullSecrets for Secrets {
    async fn for_pod(&self, _: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        if self.fail {
            return Err(PullSecretsError { source: "API server is away".into() });
        }
        Ok(PodPullSecrets::default())
    }
}

impl Disk {
    pub(super) fn start_real(&self) -> Node {
        self.start_real_with(Secrets { fail: false })
    }

    fn start_real_with(&self, secrets: Secrets) -> Node {
        let events = Arc::new(Events { began: Instant::now(), told: Mutex::default() });
        let metrics = imagevol_images::Metrics::default();
        let images = ImageManager::new(imagevol_images::Parts {
            service: Arc::new(self.service.clone()),
            events: Arc::<Events>::clone(&events),
            secrets: Arc::new(secrets),
            node_config: NodeConfigPaths { config_json_dirs: vec![], dockercfg_dirs: vec![] },
            providers: imagevol_images::CredentialProviders::default(),
            records: PullManager::open(self.dir.path(), VerificationPolicy::default(), metrics.clone()).unwrap(),
            limits: PullLimits::default(),
            backoff: BackoffLimits::default(),
            metrics,
        });
        let plugin = ImagePlugin::new(Arc::new(images), Arc::new(self.service.clone()), self.host(), Exec::Allow);
        self.start_with(PluginManager::new(vec![Arc::new(plugin)]), events)
    }

    fn registry_fails(&self, times: usize) {
        for _ in 0..times {
            self.service.fail_pull(ImageServiceError::Unavailable { message: "registry is down".to_owned() });
        }
    }
}

/// Second, reason, and where the message is not always the same, its beginning.
fn short(events: Vec<(u64, String)>) -> Vec<(u64, String)> {
    let short = |text: String| match text.split_once(' ') {
        Some(("Pulling" | "Pulled" | "BackOff" | "InspectFailed" | "ErrImageNeverPull", _)) => {
            text.split(' ').next().unwrap_or_default().to_owned()
        }
        Some(("Failed", rest)) if rest.starts_with("Failed to pull image") => "Failed".to_owned(),
        _ => text,
    };
    events.into_iter().map(|(second, text)| (second, short(text))).collect()
}

fn told(events: &[(u64, &str)]) -> Vec<(u64, String)> {
    events.iter().map(|(second, text)| (*second, (*text).to_owned())).collect()
}

const ERR_IMAGE_PULL: &str = "Failed Error: ErrImagePull @spec.containers{c}";
const BACK_OFF: &str = "Failed Error: ImagePullBackOff @spec.containers{c}";

#[tokio::test(start_paused = true)]
async fn each_back_off_window_is_told_once() {
    let disk = Disk::new();
    disk.registry_fails(4);
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "ErrImagePull");
    node.after(2).await;
    assert_eq!(node.state("p", "v"), "ImagePullBackOff");
    node.after(200).await;
    let window = |began: u64, told: &[&'static str]| told.iter().map(|text| (began, *text)).collect::<Vec<_>>();
    let expected: Vec<_> = [0, 10, 30, 70]
        .into_iter()
        .flat_map(|began| {
            let mut events = window(began, &["Pulling", "Failed", ERR_IMAGE_PULL]);
            events.extend(window(began + 1, &["BackOff", BACK_OFF]));
            events
        })
        .chain(window(150, &["Pulling", "Pulled"]))
        .collect();
    assert_eq!(short(node.events.take()), told(&expected));
    assert_eq!(node.state("p", "v"), "Mounted");
    assert_eq!(node.counted(), [1, 1, 0], "a failed pull is no failed mount");
}

#[tokio::test(start_paused = true)]
async fn texts_are_the_kubelets() {
    let disk = Disk::new();
    disk.registry_fails(1);
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.after(2).await;
    let expected = [
        (0, "Pulling Pulling image \"localhost:5000/data:1\" @pod"),
        (0, "Failed Failed to pull image \"localhost:5000/data:1\": registry is down @pod"),
        (0, ERR_IMAGE_PULL),
        (1, "BackOff Back-off pulling image \"localhost:5000/data:1\" @pod"),
        (1, BACK_OFF),
    ];
    assert_eq!(node.events.take(), told(&expected));
}

/// What is no failed pull is looked at as often as the kubelet syncs a pod, and heals by itself.
#[rstest::rstest]
#[case::never_and_absent(IMAGE, "Never", "ErrImageNeverPull", "ErrImageNeverPull")]
#[case::bad_name("Not:A:Name", "Always", "InspectFailed", "InvalidImageName")]
#[tokio::test(start_paused = true)]
async fn what_has_no_back_off_is_told_every_ten_seconds(
    #[case] image: &str,
    #[case] policy: &str,
    #[case] reason: &str,
    #[case] waiting: &str,
) {
    let disk = Disk::new();
    let node = disk.start_real();
    node.set(&[pod_of("p", &[("v", image)], policy)]);
    node.after(25).await;
    let error = format!("Failed Error: {waiting} @spec.containers{{c}}");
    let expected: Vec<_> =
        [0, 10, 20].into_iter().flat_map(|second| [(second, reason), (second, error.as_str())]).collect();
    assert_eq!(short(node.events.take()), told(&expected));
    assert_eq!(node.state("p", "v"), waiting);
    if policy == "Never" {
        disk.service.preload(IMAGE, "content", 1);
        node.after(10).await;
        assert_eq!(short(node.events.take()), told(&[(30, "Pulled")]));
        assert_eq!(node.state("p", "v"), "Mounted");
    }
}

#[tokio::test(start_paused = true)]
async fn secrets_that_cannot_be_read_are_not_asked_for_every_second() {
    let disk = Disk::new();
    let node = disk.start_real_with(Secrets { fail: true });
    node.set(&[pod("p", &["v"])]);
    node.after(25).await;
    let expected: Vec<_> =
        [0, 10, 20].into_iter().flat_map(|second| [(second, "Failed"), (second, ERR_IMAGE_PULL)]).collect();
    assert_eq!(short(node.events.take()), told(&expected));
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_no_container_mounts_has_the_image_managers_events_alone() {
    let disk = Disk::new();
    disk.registry_fails(1);
    let node = disk.start_real();
    let mut unused = pod("p", &["v"]);
    unused.spec.as_mut().unwrap().containers[0].volume_mounts = None;
    node.set(&[unused]);
    node.after(2).await;
    assert_eq!(short(node.events.take()), told(&[(0, "Pulling"), (0, "Failed"), (1, "BackOff")]));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_while_pulling_leaves_no_row_and_no_mount() {
    let disk = Disk::new();
    disk.service.close_gate();
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!((disk.service.pulling(), disk.service.rows().len()), (1, 1), "the row is there before the bytes");
    node.set(&[]);
    node.settle().await;
    assert_eq!((disk.service.pulling(), disk.service.rows().len()), (0, 0));
    assert!(!disk.dir.path().join("pods/p").exists());
    // And back within a moment, under the same UID: the pull begins again.
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    node.set(&[]);
    tokio::task::yield_now().await;
    node.set(&[pod("p", &["v"])]);
    disk.service.let_through(5);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "Mounted");
    assert_eq!(disk.service.mounts().mounted().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_back_after_a_failure_pulls_at_once() {
    let disk = Disk::new();
    disk.registry_fails(3);
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.after(35).await;
    assert_eq!(node.state("p", "v"), "ImagePullBackOff");
    node.set(&[]);
    node.settle().await;
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "Mounted");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_pods_with_one_image() {
    let disk = Disk::new();
    let node = disk.start_real();
    let pods: Vec<_> = (0..100).map(|number| pod(&format!("p{number}"), &["a", "b"])).collect();
    node.set(&pods);
    node.settle().await;
    assert_eq!(disk.service.mounts().mounted().len(), 200);
    assert_eq!(disk.service.rows().len(), 200);
    assert!(pods.iter().all(|pod| node.state(pod.metadata.name.as_deref().unwrap(), "b") == "Mounted"));
    node.stop().await;

    // After a restart half of them are gone.
    disk.service.mounts().take_log();
    let node = disk.start_real();
    node.set(&pods[..50]);
    node.settle().await;
    assert_eq!(disk.service.mounts().mounted().len(), 100);
    assert_eq!(disk.service.rows().len(), 100);
    assert!(
        disk.service.mounts().take_log().iter().all(|line| line.starts_with("unmount")),
        "nothing is mounted twice"
    );
    assert_eq!(node.events.take(), [], "and nothing is said about what goes on as before");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_mount_is_told_and_left_and_blocks_nobody() {
    let disk = Disk::new();
    disk.leave_mount("p", "foreign", "tmpfs");
    let node = disk.start_real();
    node.set(&[pod("p", &["foreign", "v"])]);
    node.settle().await;
    assert_eq!((node.state("p", "foreign"), node.state("p", "v")), ("FailedMount", "Mounted"));
    let at = disk.host().path(&key("p", "foreign"));
    let why = format!("{} is a mount of tmpfs, which imagevol did not make", at.display());
    let text = format!("FailedMount MountVolume.SetUp failed for volume \"foreign\" : {why} @pod");
    assert!(node.events.take().contains(&(0, text)));
    node.set(&[]);
    node.settle().await;
    assert_eq!(disk.service.mounts().mounted(), [at], "not even when the pod goes");
    let text = format!("FailedUnmount UnmountVolume.TearDown failed for volume \"foreign\" : {why} @pod");
    assert_eq!(node.events.take(), [(0, text)]);
}

#[tokio::test(start_paused = true)]
async fn rows_and_directories_that_nobody_wants_go() {
    let disk = Disk::new();
    let holder = |pod: &str| Holder::Volume { pod: pod.parse().unwrap(), volume: "v".parse().unwrap() };
    disk.service.hold(&holder("row-alone"), IMAGE).await.unwrap();
    let directory = disk.host().path(&key("directory-alone", "v"));
    std::fs::create_dir_all(&directory).unwrap();
    disk.leave_mount("mount-alone", "v", "erofs");
    disk.leave("all", "v", IMAGE).await;
    // A mount without a row is no decision.
    disk.leave_mount("wanted", "v", "erofs");
    let node = disk.start_real();
    node.set(&[pod("wanted", &["v"])]);
    node.settle().await;
    assert_eq!(disk.service.rows().into_keys().collect::<Vec<_>>(), [holder("wanted")]);
    let pods: Vec<_> = std::fs::read_dir(disk.dir.path().join("pods")).unwrap().collect();
    assert_eq!((pods.len(), disk.service.mounts().mounted().len()), (1, 1));
    assert_eq!(short(node.events.take()), told(&[(0, "Pulled")]));
}
