//! The plugin over an image service and a mount table in memory, with the real image manager between.

use std::fs;
use std::sync::Mutex;

use imagevol_api::corev1::ObjectReference;
use imagevol_base::{EventKind, EventRecorder};
use imagevol_cri::Progress;
use imagevol_images::{
    BackoffLimits, ImageError, Metrics, NodeConfigPaths, Parts, PodPullSecrets, PullLimits, PullManager, PullSecrets,
    PullSecretsError, VerificationPolicy,
};
use imagevol_mount::Interface as _;
use imagevol_test_support::image_service::{Call, FakeImageService};
use imagevol_test_support::mounts::FakeMounts;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;

const IMAGE: &str = "localhost:5000/data:1";

struct Node {
    service: FakeImageService,
    plugin: ImagePlugin<FakeImageService>,
    dir: TempDir,
}

#[derive(Default)]
struct Events(Mutex<Vec<String>>);

struct NoSecrets;

impl EventRecorder for Events {
    fn record(&self, _: &ObjectReference, _: EventKind, reason: &'static str, _: String) {
        self.0.lock().unwrap().push(reason.to_owned());
    }
}

#[async_trait]
impl PullSecrets for NoSecrets {
    async fn for_pod(&self, _: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        Ok(PodPullSecrets::default())
    }
}

impl Node {
    fn new() -> Self {
        let (dir, service) = (tempfile::tempdir().unwrap(), FakeImageService::default());
        service.offer(IMAGE, "content", 1);
        let metrics = Metrics::default();
        let images = ImageManager::new(Parts {
            service: Arc::new(service.clone()),
            events: Arc::new(Events::default()),
            secrets: Arc::new(NoSecrets),
            node_config: NodeConfigPaths { config_json_dirs: vec![], dockercfg_dirs: vec![] },
            providers: imagevol_images::CredentialProviders::default(),
            records: PullManager::open(dir.path(), VerificationPolicy::default(), metrics.clone()).unwrap(),
            limits: PullLimits::default(),
            backoff: BackoffLimits::default(),
            metrics,
        });
        let host = Host::new(dir.path().to_owned(), Arc::new(service.mounts().clone()));
        let plugin = ImagePlugin::new(Arc::new(images), Arc::new(service.clone()), host, Exec::Allow);
        Self { service, plugin, dir }
    }

    fn mounts(&self) -> &FakeMounts {
        self.service.mounts()
    }

    async fn set_up(&self, mounts: &serde_json::Value) -> Result<Mounted, SetUpFailed> {
        self.set_up_with(mounts, SetUp::default()).await
    }

    async fn again(&self, mounts: &serde_json::Value, decided: &ImageId) -> Result<Mounted, SetUpFailed> {
        self.set_up_with(mounts, SetUp { decided: Some(decided.clone()), ..SetUp::default() }).await
    }

    async fn set_up_with(&self, mounts: &serde_json::Value, how: SetUp) -> Result<Mounted, SetUpFailed> {
        let pod = pod(mounts);
        let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
        let spec = Spec { key: key(), volume: Arc::new(volume), claims: Arc::default(), platform: None };
        assert!(self.plugin.can_support(&spec));
        self.plugin.new_mounter(&spec, Arc::new(pod)).unwrap().set_up(how).await
    }

    async fn tear_down(&self) -> Result<()> {
        self.plugin.new_unmounter(&key()).tear_down().await
    }

    /// What is mounted, as `<root in the image> at <place below the pod>`.
    fn mounted(&self) -> Vec<String> {
        let below = |at: &PathBuf| at.strip_prefix(self.dir.path().join("pods/uid")).unwrap().display().to_string();
        let root = |at: &PathBuf| self.mounts().root_at(at).unwrap().display().to_string();
        self.mounts().mounted().iter().map(|at| format!("{} at {}", root(at), below(at))).collect()
    }

    fn place(&self, below_pod: &str) -> PathBuf {
        self.dir.path().join("pods/uid").join(below_pod)
    }
}

fn key() -> Key {
    Key::of_pod("uid".parse().unwrap(), "v".parse().unwrap())
}

/// A pod with one image volume `v` and one container `c`.
fn pod(mounts: &serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "uid"},
        "spec": {
            "volumes": [{"name": "v", "image": {"reference": IMAGE, "pullPolicy": "Always"}}],
            "containers": [{"name": "c", "volumeMounts": mounts}],
        },
    }))
    .unwrap()
}

fn mount(sub_path: &str) -> serde_json::Value {
    json!({"name": "v", "mountPath": "/m", "subPath": sub_path})
}

const WHOLE: &str = "/ at volumes/kubernetes.io~image/v";

#[tokio::test]
async fn mounts_the_whole_and_every_sub_path() {
    let node = Node::new();
    let mounts =
        json!([mount(""), mount("dir"), {"name": "other", "mountPath": "/o"}, mount("dir/file"), mount("dir")]);
    let mounted = node.set_up(&mounts).await.unwrap();
    assert_eq!(mounted.image, FakeImageService::id_of("content"));
    assert!(mounted.sub_path_errors.is_empty());
    let sub_paths =
        ["/dir at volume-subpaths/v/c/1", "/dir/file at volume-subpaths/v/c/3", "/dir at volume-subpaths/v/c/4"];
    assert_eq!(node.mounted(), [sub_paths.as_slice(), &[WHOLE]].concat());
    assert!(node.place("volume-subpaths/v/c/3").is_file(), "a file covers a file");
    assert!(node.place("volume-subpaths/v/c/1").is_dir());

    node.tear_down().await.unwrap();
    assert_eq!(node.mounted(), Vec::<String>::new());
    assert!(node.service.rows().is_empty());
    assert!(!node.place("").exists());
    node.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_bad_sub_path_fails_its_container_alone() {
    let node = Node::new();
    let expression = json!({"name": "v", "mountPath": "/m", "subPathExpr": "$(NONE)"});
    let mounted = node.set_up(&json!([mount("nowhere"), mount("dir"), expression])).await.unwrap();
    let errors: Vec<_> = mounted.sub_path_errors.iter().map(|((_, index), error)| (*index, error.reason)).collect();
    assert_eq!(errors, [(0, "CreateContainerError"), (2, "CreateContainerConfigError")]);
    let text = &mounted.sub_path_errors[&("c".parse().unwrap(), 0)].message;
    assert!(text.starts_with("failed to mount image volume \"v\": sub path"), "{text}");
    assert_eq!(node.mounted(), ["/dir at volume-subpaths/v/c/1", WHOLE]);
}

#[tokio::test]
async fn what_was_decided_and_mounted_stays_after_a_restart() {
    let node = Node::new();
    let mounts = json!([mount("dir"), mount("link")]);
    let image = node.set_up(&mounts).await.unwrap().image;
    node.mounts().take_log();
    node.service.take_calls();
    // The tag has moved meanwhile, and the policy is Always.
    node.service.offer(IMAGE, "newer", 1);
    assert_eq!(node.again(&mounts, &image).await.unwrap().image, image);
    assert!(node.service.take_calls().is_empty(), "not decided again");
    let touched = node.mounts().take_log();
    assert!(touched.iter().all(|line| !line.contains("kubernetes.io~image") && !line.ends_with("/c/0")), "{touched:?}");
}

#[tokio::test]
async fn what_survived_needs_no_image() {
    let node = Node::new();
    let mounts = json!([mount("dir"), mount("file")]);
    let image = node.set_up(&mounts).await.unwrap().image;
    node.service.evict(&image);
    node.mounts().take_log();
    assert_eq!(node.again(&mounts, &image).await.unwrap().image, image);
    assert!(node.mounts().take_log().is_empty());
}

#[tokio::test]
async fn an_image_that_is_gone_is_decided_anew_once_it_is_needed() {
    let node = Node::new();
    let image = node.set_up(&json!([mount("")])).await.unwrap().image;
    node.service.evict(&image);
    let failed = node.again(&json!([mount("dir")]), &image).await.unwrap_err();
    assert!(matches!(failed.error, VolumeError::Service(ImageServiceError::NotFound { .. })));
    assert_eq!(failed.decided, None);
    node.set_up(&json!([mount("dir")])).await.unwrap();
    assert_eq!(node.mounted(), ["/dir at volume-subpaths/v/c/0", WHOLE]);
}

#[tokio::test]
async fn sub_paths_follow_a_changed_spec() {
    let node = Node::new();
    let image = node.set_up(&json!([mount("dir"), mount("file"), mount("dir")])).await.unwrap().image;
    node.again(&json!([mount("file"), mount("dir/inner")]), &image).await.unwrap();
    assert_eq!(
        node.mounted(),
        ["/file at volume-subpaths/v/c/0", "/dir/inner at volume-subpaths/v/c/1", WHOLE],
        "a file where a directory was, a directory where a file was, and one less"
    );
    node.again(&json!([mount("nowhere")]), &image).await.unwrap();
    node.again(&json!([mount("")]), &image).await.unwrap();
    assert_eq!(node.mounted(), [WHOLE]);
    assert!(!node.place("volume-subpaths/v/c").exists());
}

#[tokio::test]
async fn what_is_mounted_stays_when_its_image_goes() {
    let node = Node::new();
    let mounts = json!([mount(""), mount("dir"), mount("link")]);
    let image = node.set_up(&mounts).await.unwrap().image;
    let before = node.mounted();
    node.service.evict(&image);
    node.service.offer(IMAGE, "newer", 1);
    assert_eq!(node.again(&mounts, &image).await.unwrap().image, image);
    assert_eq!(node.mounted(), before);
}

#[tokio::test]
async fn what_is_not_mounted_is_decided_anew_when_its_image_goes() {
    let node = Node::new();
    let mounts = json!([mount("dir")]);
    let image = node.set_up(&mounts).await.unwrap().image;
    for at in node.mounts().mounted() {
        node.mounts().unmount(&at).unwrap();
    }
    node.service.evict(&image);
    node.service.offer(IMAGE, "newer", 1);
    assert_eq!(node.again(&mounts, &image).await.unwrap().image, FakeImageService::id_of("newer"));
    assert_eq!(node.mounted().len(), 2);
}

#[tokio::test]
async fn leftovers_go_before_a_new_decision() {
    let node = Node::new();
    node.set_up(&json!([mount("dir")])).await.unwrap();
    node.service.offer(IMAGE, "newer", 1);
    node.mounts().take_log();
    node.service.close_gate();
    let how = SetUp { cancel: CancellationToken::new(), ..SetUp::default() };
    let cancel = how.cancel.clone();
    let mounts = json!([mount("dir")]);
    let during = async {
        while node.service.pulling() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(node.mounted(), Vec::<String>::new(), "the row leads to the new image as soon as it is pulled");
        cancel.cancel();
    };
    let (failed, ()) = tokio::join!(node.set_up_with(&mounts, how), during);
    assert!(matches!(failed.unwrap_err().error, VolumeError::Cancelled));
    assert_eq!(node.service.pulling(), 0, "nobody waits for the pull any more");
    node.tear_down().await.unwrap();
    assert!(node.service.rows().is_empty());
}

#[tokio::test]
async fn a_failed_mount_keeps_its_decision() {
    let node = Node::new();
    let node_error = ImageServiceError::Node { message: "no loop device".to_owned() };
    node.mounts().fail_mount(node_error);
    let failed = node.set_up(&json!([])).await.unwrap_err();
    assert_eq!(failed.error.with_causes(), "image service failed: no loop device");
    node.mounts().fail_attaches(1);
    let failed = node.again(&json!([]), &failed.decided.unwrap()).await.unwrap_err();
    assert!(failed.error.with_causes().contains("move_mount failed for "), "{}", failed.error.with_causes());
    node.again(&json!([]), &failed.decided.unwrap()).await.unwrap();
    let pulls = node.service.take_calls().into_iter().filter(|call| matches!(call, Call::Pull(..))).count();
    assert_eq!(pulls, 1, "a mount that fails pulls nothing again");
}

#[tokio::test]
async fn no_mount_no_row_lost_when_an_unmount_fails() {
    let node = Node::new();
    node.set_up(&json!([mount("dir")])).await.unwrap();
    node.mounts().fail_unmounts(2);
    for left in [2, 2, 0] {
        assert_eq!(node.tear_down().await.is_err(), left > 0);
        assert_eq!(node.mounted().len(), left);
        assert_eq!(node.service.rows().len(), usize::from(left > 0), "the image is kept while it is mounted");
    }
}

#[tokio::test]
async fn something_else_in_the_place_is_told_and_left() {
    let node = Node::new();
    let at = node.place("volumes/kubernetes.io~image/v");
    fs::create_dir_all(&at).unwrap();
    node.mounts().put("tmpfs", "/", &at);
    let failed = node.set_up(&json!([])).await.unwrap_err();
    let expected = format!("{} is a mount of tmpfs, which imagevol did not make", at.display());
    assert_eq!(failed.error.with_causes(), expected);
    assert!(node.service.take_calls().is_empty(), "told before anything is pulled");
    assert!(node.tear_down().await.is_err());
    assert_eq!(node.mounts().mounted(), [at]);
}

#[tokio::test]
async fn an_image_error_is_passed_on() {
    let node = Node::new();
    node.service.fail_pull(ImageServiceError::Denied { message: "no".to_owned() });
    let failed = node.set_up(&json!([])).await.unwrap_err();
    assert!(matches!(failed.error.as_image(), Some(ImageError::Pull { .. })));
    assert_eq!(failed.decided, None);
    let retried = node.set_up(&json!([])).await.unwrap_err();
    assert!(matches!(retried.error.as_image(), Some(ImageError::PullBackOff { .. })));
    // A pod that comes back under its UID starts afresh.
    node.tear_down().await.unwrap();
    node.set_up(&json!([])).await.unwrap();
}

#[tokio::test]
async fn a_hundred_volumes_at_the_same_time() {
    let node = Node::new();
    let spec = |name: &str| {
        let volume = json!({"name": name, "image": {"reference": IMAGE, "pullPolicy": "IfNotPresent"}});
        let key = Key::of_pod("uid".parse().unwrap(), name.parse().unwrap());
        Spec { key, volume: Arc::new(serde_json::from_value(volume).unwrap()), claims: Arc::default(), platform: None }
    };
    let names: Vec<String> = (0..100).map(|number| format!("v{number}")).collect();
    let pod = Arc::new(pod(&json!([])));
    let set_ups = names.iter().map(|name| {
        let mounter = node.plugin.new_mounter(&spec(name), Arc::clone(&pod)).unwrap();
        async move { mounter.set_up(SetUp { progress: Progress::default(), ..SetUp::default() }).await.map(drop) }
    });
    let ended = futures_util::future::join_all(set_ups).await;
    assert!(ended.iter().all(Result::is_ok));
    assert_eq!(node.mounted().len(), 100);
    let tear_downs = names.iter().map(|name| {
        let unmounter = node.plugin.new_unmounter(&Key::of_pod("uid".parse().unwrap(), name.parse().unwrap()));
        async move { unmounter.tear_down().await }
    });
    assert!(futures_util::future::join_all(tear_downs).await.iter().all(Result::is_ok));
    assert!(!node.dir.path().join("pods/uid").exists());
}

/// A kubelet's volume, in the directory that the kubelet has made for it.
struct OfKubelet {
    node: Node,
    key: Key,
}

impl OfKubelet {
    fn new() -> Self {
        let node = Node::new();
        fs::create_dir_all(node.place("volumes/kubernetes.io~csi/pv.1")).unwrap();
        let target = imagevol_base::Target {
            pod: "uid".parse().unwrap(),
            volume: "pv.1".parse().unwrap(),
            leaf: "mount".parse().unwrap(),
        };
        Self { node, key: target.into() }
    }

    async fn set_up(&self, goal: Goal) -> Result<Mounted, SetUpFailed> {
        let pod = pod(&json!([mount("dir")]));
        let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
        let spec = Spec { key: self.key.clone(), volume: Arc::new(volume), claims: Arc::default(), platform: None };
        let mounter = self.node.plugin.new_mounter(&spec, Arc::new(pod)).unwrap();
        mounter.set_up(SetUp { goal, ..SetUp::default() }).await
    }

    async fn holders(&self) -> Vec<String> {
        self.node.service.holders().await.unwrap().into_iter().map(|(holder, ..)| holder.to_string()).collect()
    }
}

#[tokio::test]
async fn a_kubelets_volume_is_mounted_whole_in_its_directory_and_taken_away_alone() {
    let kubelet = OfKubelet::new();
    kubelet.set_up(Goal::Mounted).await.unwrap();
    assert_eq!(kubelet.node.mounted(), ["/ at volumes/kubernetes.io~csi/pv.1/mount"], "sub paths are the kubelet's");
    assert_eq!(kubelet.holders().await, ["csi/uid/pv.1/mount"]);
    for _ in 0..2 {
        kubelet.node.plugin.new_unmounter(&kubelet.key).tear_down().await.unwrap();
        assert_eq!((kubelet.node.mounted(), kubelet.holders().await), (vec![], vec![]));
        let left = kubelet.node.place("volumes/kubernetes.io~csi/pv.1");
        assert_eq!(fs::read_dir(left).unwrap().count(), 0, "the kubelet's own directory stays, empty");
    }
}

#[tokio::test]
async fn an_image_that_is_only_to_be_present_is_held_and_not_mounted() {
    let kubelet = OfKubelet::new();
    let present = kubelet.set_up(Goal::Present).await.unwrap();
    assert_eq!(kubelet.node.mounted(), Vec::<String>::new());
    assert!(!kubelet.node.place("volumes/kubernetes.io~csi/pv.1/mount").exists());
    let (_, _, image) = kubelet.node.service.holders().await.unwrap().remove(0);
    assert_eq!(image, Some(present.image));
}

#[tokio::test]
async fn a_kubelets_directory_is_not_made_and_its_content_not_hidden() {
    let kubelet = OfKubelet::new();
    let leaf = kubelet.node.place("volumes/kubernetes.io~csi/pv.1/mount");
    fs::create_dir(&leaf).unwrap();
    fs::write(leaf.join("file"), "").unwrap();
    kubelet.set_up(Goal::Mounted).await.unwrap_err();
    assert!(leaf.join("file").exists());
    fs::remove_dir_all(kubelet.node.place("volumes")).unwrap();
    let failed = kubelet.set_up(Goal::Mounted).await.unwrap_err();
    assert!(matches!(failed.error, VolumeError::Directory(_)), "{failed:?}");
    assert!(!kubelet.node.place("volumes").exists());
}
