//! Volumes by CSI: a kubelet that is played, everything else is real.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use imagevol_test_support::image::Image;
use imagevol_test_support::kubelet::{Kubelet, KubeletPod, KubeletVolume, PluginWatcher, is_final};
use imagevol_test_support::registry::{Fault, Gate};
use tonic::{Code, Status};

use crate::lab::{Lab, artifact, image};
use crate::manifest::docker_config;

/// What no output, log or file may hold.
const PLANTED: &str = "pl4nted-passw0rd";

/// A daemon with the door open, and a kubelet that has found it.
struct Node {
    lab: Lab,
    kubelet: Kubelet,
}

impl Node {
    fn started(test: &str, config: &str) -> Option<Self> {
        let mut lab = Lab::new(test)?.config(config);
        let root = lab.daemon.root_dir();
        let mut watcher = lab.run(async { PluginWatcher::new(&root) });
        lab.daemon.start();
        let plugin = lab.run(watcher.register()).unwrap();
        let kubelet = Kubelet::new(&root, plugin.driver);
        Some(Self { lab, kubelet })
    }

    fn target(&self, pod: &KubeletPod, volume: &KubeletVolume) -> PathBuf {
        volume.target(&self.lab.daemon.root_dir(), pod)
    }

    fn start(&self, pod: &KubeletPod, volume: &KubeletVolume) -> Vec<Status> {
        self.lab.run(self.kubelet.start(pod, volume)).failures
    }

    /// One call, which fails.
    fn fails(&self, pod: &KubeletPod, volume: &KubeletVolume) -> Status {
        self.lab.run(self.kubelet.set_up(pod, volume)).unwrap_err()
    }

    /// How often the driver was asked to unpublish.
    fn delete(&self, pod: &KubeletPod, volume: &KubeletVolume) -> usize {
        self.lab.run(self.kubelet.delete(&pod.uid, &volume.name)).calls.len()
    }

    /// Mounts of pods' volumes.
    fn mounted(&self) -> Vec<PathBuf> {
        let root = self.lab.daemon.root_dir();
        self.lab.daemon.mounts().into_iter().filter(|mount| mount.starts_with(&root)).collect()
    }

    /// How many hold images, as the daemon says.
    fn users(&self) -> usize {
        let images = self.lab.daemon.json(["images"]);
        let users = images["items"].as_array().unwrap().iter().filter_map(|image| image["usedBy"].as_array());
        users.map(Vec::len).sum()
    }
}

/// The call alone, into whatever lies there.
fn publish(node: &Node, volume: &KubeletVolume) -> Result<(), Status> {
    node.lab.run(node.kubelet.publish(&pod(), volume))
}

fn unpublish(node: &Node, volume: &KubeletVolume) -> Result<(), Status> {
    node.lab.run(node.kubelet.unpublish("uid-1", &volume.name))
}

fn pod() -> KubeletPod {
    KubeletPod::new("uid-1")
}

fn push(lab: &Lab, image: &Image) -> (imagevol_test_support::registry::FakeRegistry, KubeletVolume) {
    let registry = lab.registry();
    let reference = registry.push("models", "1", image);
    (registry, KubeletVolume::inline("models", &reference))
}

/// The options of a mount, in the calling thread's namespace.
fn options(at: &Path) -> String {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == at));
    line.unwrap().split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn a_volume_is_mounted_read_only_and_goes_without_a_trace() {
    let Some(node) = Node::started("csi_mounts", "csi: {}") else { return };
    let (registry, volume) = push(&node.lab, &image("name", "content"));
    assert!(node.start(&pod(), &volume).is_empty());
    let target = node.target(&pod(), &volume);
    assert_eq!(fs::read_to_string(target.join("name")).unwrap(), "content");
    assert_eq!(fs::read_to_string(target.join("dir/file")).unwrap(), "2\n");
    let error = fs::write(target.join("new"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    assert!(options(&target).starts_with("ro,nosuid,nodev"), "{}", options(&target));
    assert_eq!((node.users(), node.mounted()), (1, vec![target]));
    // A kubelet that asks again costs nothing, whatever the policy.
    registry.clear_requests();
    let again = volume.attribute("pullPolicy", "");
    assert!(node.start(&pod(), &again).is_empty() && registry.requests().is_empty());
    assert_eq!(node.delete(&pod(), &again), 1);
    assert!(node.mounted().is_empty() && !node.lab.daemon.root_dir().join("pods/uid-1").exists());
    assert_eq!(node.users(), 0);
}

#[test]
fn an_artifact_and_a_persistent_volume_are_mounted_alike() {
    let Some(node) = Node::started("csi_artifact", "csi: {}") else { return };
    let (_registry, mut volume) = push(&node.lab, &artifact());
    volume.lifecycle = imagevol_test_support::kubelet::Lifecycle::Persistent;
    assert!(node.start(&pod(), &volume).is_empty());
    assert_eq!(fs::read_to_string(node.target(&pod(), &volume).join("dir/file")).unwrap(), "2\n");
    assert_eq!(node.delete(&pod(), &volume), 1);
}

#[test]
fn final_errors_come_at_once_and_leave_nothing() {
    let Some(node) = Node::started("csi_final", "csi: {}") else { return };
    let (registry, volume) = push(&node.lab, &image("name", "content"));
    let absent = KubeletVolume::inline("absent", &registry.reference("models", "absent"));
    let never = KubeletVolume::inline("never", &registry.reference("models", "1")).attribute("pullPolicy", "Never");
    let wrong = KubeletVolume::inline("wrong", "not a reference");
    let typo = volume.clone().attribute("pullpolicy", "Never");
    for (volume, code) in [
        (absent, Code::NotFound),
        (never, Code::FailedPrecondition),
        (wrong, Code::InvalidArgument),
        (typo, Code::InvalidArgument),
    ] {
        let failure = node.fails(&pod(), &volume);
        assert_eq!((failure.code(), is_final(&failure)), (code, true), "{failure:?}");
        assert_eq!(node.delete(&pod(), &volume), 0, "the kubelet does not unpublish");
        assert!(!node.target(&pod(), &volume).exists());
    }
    assert!(node.mounted().is_empty());
    assert_eq!(node.users(), 0);
}

#[test]
fn each_tenant_proves_its_right_and_no_secret_gets_out() {
    let Some(node) = Node::started("csi_tenants", "csi: {}") else { return };
    let registry = node.lab.run(
        imagevol_test_support::registry::FakeRegistry::builder()
            .auth(imagevol_test_support::registry::AuthMode::Basic)
            .start(),
    );
    registry.add_user("alice", PLANTED);
    registry.protect("models", &["alice"]);
    let reference = registry.push("models", "1", &image("name", "private"));
    let volume = |password: Option<&str>| {
        let mut volume = KubeletVolume::inline("models", &reference).attribute("pullPolicy", "IfNotPresent");
        if let Some(password) = password {
            let config = docker_config(&registry.host(), ("alice", password)).to_string();
            volume.secrets.insert(".dockerconfigjson".to_owned(), config);
        }
        volume
    };
    assert!(node.start(&pod(), &volume(Some(PLANTED))).is_empty());
    // The image is there now, for whoever can prove access.
    for (uid, password) in [("uid-2", None), ("uid-3", Some("guessed"))] {
        let failure = node.fails(&KubeletPod::new(uid), &volume(password));
        assert_eq!(failure.code(), Code::PermissionDenied, "{failure:?}");
    }
    registry.clear_requests();
    assert!(node.start(&KubeletPod::new("uid-4"), &volume(Some(PLANTED))).is_empty());
    assert_eq!(node.mounted().len(), 2);
    assert!(!node.lab.daemon.log().contains(PLANTED));
}

#[test]
fn a_slow_pull_answers_with_its_progress_and_goes_on() {
    let Some(node) = Node::started("csi_slow", "csi: {publishTimeout: 1s}") else { return };
    let image = image("name", "slow");
    let (registry, volume) = push(&node.lab, &image);
    let layer = format!("/blobs/{}", image.layers[0].digest);
    let gate = Gate::new();
    registry.faults().always(&layer, Fault::Hold(gate.clone()));
    let failure = node.fails(&pod(), &volume);
    assert_eq!(failure.code(), Code::Aborted);
    assert!(failure.message().starts_with(&format!("pulling {:?}", volume.attributes["reference"])), "{failure:?}");
    gate.open();
    let stories = node.start(&pod(), &volume);
    assert!(stories.iter().all(|failure| failure.code() == Code::Aborted), "{stories:?}");
    assert_eq!(registry.gets(&layer), 1);
    assert_eq!(node.delete(&pod(), &volume), 1);
}

#[test]
fn passing_errors_are_retried_within_the_call() {
    let Some(node) = Node::started("csi_passing", "csi: {}") else { return };
    let (registry, volume) = push(&node.lab, &image("name", "content"));
    registry.faults().times(4, "/manifests/", Fault::status(503));
    assert!(node.start(&pod(), &volume).is_empty(), "each answered error would cost the pod the kubelet's back-off");
}

#[test]
fn a_pod_deleted_in_the_middle_of_a_pull_leaves_nothing() {
    let Some(node) = Node::started("csi_deleted", "csi: {publishTimeout: 1s}") else { return };
    let image = image("name", "slow");
    let (registry, volume) = push(&node.lab, &image);
    registry.faults().always("/blobs/", Fault::Hold(Gate::new()));
    node.fails(&pod(), &volume);
    assert_eq!(node.users() + node.mounted().len(), 0);
    assert_eq!(node.delete(&pod(), &volume), 1);
    let status = node.lab.daemon.json(["status"]);
    assert!(node.mounted().is_empty(), "{status}");
}

#[test]
fn many_pods_of_one_image_fetch_it_once() {
    let Some(node) = Node::started("csi_many", "csi: {}") else { return };
    let image = image("name", "shared");
    let (registry, volume) = push(&node.lab, &image);
    let pods: Vec<_> = (0..50).map(|number| KubeletPod::new(&format!("uid-{number}"))).collect();
    let starts = pods.iter().map(|pod| node.kubelet.start(pod, &volume));
    let stories = node.lab.run(futures_util::future::join_all(starts));
    assert!(stories.iter().all(|story| story.failures.is_empty()), "{stories:?}");
    assert_eq!(registry.gets(&format!("/blobs/{}", image.layers[0].digest)), 1);
    assert_eq!((node.mounted().len(), node.users()), (50, 50));
    let ends = pods.iter().map(|pod| node.kubelet.delete(&pod.uid, "models"));
    node.lab.run(futures_util::future::join_all(ends));
    assert_eq!((node.mounted().len(), node.users()), (0, 0));
}

/// Who begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Kubelet,
    Daemon,
    KilledDaemon,
}

impl Node {
    fn restart(&mut self, who: Who) {
        let root = self.lab.daemon.root_dir();
        if who == Who::Kubelet {
            self.kubelet = self.kubelet.restarted();
            return;
        }
        if who == Who::Daemon {
            assert!(self.lab.daemon.terminate());
            assert_eq!(fs::read_dir(root.join("plugins_registry")).unwrap().count(), 0, "it takes its leave");
        } else {
            self.lab.daemon.kill();
        }
        let mut watcher = self.lab.run(async { PluginWatcher::new(&root) });
        if who == Who::KilledDaemon {
            self.lab.run(watcher.appears());
        }
        self.lab.daemon.start();
        let plugin = self.lab.run(watcher.register()).unwrap();
        self.kubelet = self.kubelet.dialling(plugin.driver);
    }
}

#[test]
fn published_volumes_outlive_restarts_in_every_order() {
    let Some(mut node) = Node::started("csi_restarts", "csi: {}") else { return };
    let (registry, volume) = push(&node.lab, &image("name", "content"));
    let volume = volume.attribute("pullPolicy", "Always");
    assert!(node.start(&pod(), &volume).is_empty());
    // From here on there is no registry.
    node.lab.run(registry.stop());
    let file = node.target(&pod(), &volume).join("name");
    let open = fs::File::open(&file).unwrap();
    let orders: [&[Who]; 5] = [
        &[Who::Kubelet],
        &[Who::Daemon],
        &[Who::KilledDaemon],
        &[Who::Kubelet, Who::KilledDaemon],
        &[Who::KilledDaemon, Who::Kubelet],
    ];
    for order in orders {
        for who in order {
            node.restart(*who);
        }
        assert_eq!(node.mounted().len(), 1, "{order:?}");
        assert!(node.start(&pod(), &volume).is_empty(), "{order:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "content", "{order:?}");
        assert_eq!(node.users(), 1, "{order:?}");
    }
    drop(open);
    assert_eq!(node.delete(&pod(), &volume), 1);
    assert!(node.mounted().is_empty());
    assert_eq!(node.users(), 0);
}

#[test]
fn a_pull_outlives_restarts_of_the_daemon() {
    let Some(mut node) = Node::started("csi_restarted_pull", "csi: {publishTimeout: 1s}") else { return };
    let image = image("name", "content");
    let (registry, volume) = push(&node.lab, &image);
    let gate = Gate::new();
    registry.faults().always("/blobs/", Fault::Hold(gate.clone()));
    assert_eq!(node.fails(&pod(), &volume).code(), Code::Aborted);
    for who in [Who::KilledDaemon, Who::Daemon, Who::Kubelet] {
        node.restart(who);
        assert!(node.kubelet.is_uncertain(&pod(), &volume), "{who:?}");
    }
    gate.open();
    registry.faults().clear();
    let failures = node.start(&pod(), &volume);
    assert!(failures.iter().all(|failure| failure.code() == Code::Aborted), "{failures:?}");
    assert_eq!(fs::read_to_string(node.target(&pod(), &volume).join("name")).unwrap(), "content");
}

#[test]
fn after_a_reboot_volumes_are_mounted_again_without_a_registry() {
    let Some(mut node) = Node::started("csi_reboot", "csi: {}") else { return };
    let (registry, volume) = push(&node.lab, &image("name", "content"));
    let volume = volume.attribute("pullPolicy", "IfNotPresent");
    assert!(node.start(&pod(), &volume).is_empty());
    node.lab.run(registry.stop());
    node.lab.daemon.kill();
    for mount in node.lab.daemon.mounts().iter().rev() {
        nix::mount::umount(mount).unwrap();
    }
    node.restart(Who::KilledDaemon);
    node.restart(Who::Kubelet);
    assert!(node.start(&pod(), &volume).is_empty());
    assert_eq!(fs::read_to_string(node.target(&pod(), &volume).join("name")).unwrap(), "content");
}

#[test]
fn what_was_published_before_the_daemon_lost_its_state_is_unpublished() {
    let Some(mut node) = Node::started("csi_lost_state", "csi: {}") else { return };
    let (_registry, volume) = push(&node.lab, &image("name", "content"));
    assert!(node.start(&pod(), &volume).is_empty());
    node.lab.daemon.kill();
    fs::remove_dir_all(node.lab.daemon.state_dir()).unwrap();
    node.restart(Who::KilledDaemon);
    assert_eq!(node.delete(&pod(), &volume), 1);
    assert!(node.mounted().is_empty());
}

#[test]
fn nothing_is_mounted_where_a_link_leads() {
    let Some(node) = Node::started("csi_links", "csi: {publishTimeout: 1s}") else { return };
    let (_registry, volume) = push(&node.lab, &image("name", "content"));
    let (pods, elsewhere) = (node.lab.daemon.root_dir().join("pods"), node.lab.daemon.dir().join("elsewhere"));
    for part in ["uid-1", "uid-1/volumes", "uid-1/volumes/kubernetes.io~csi", "uid-1/volumes/kubernetes.io~csi/models"]
    {
        let link = pods.join(part);
        // Wherever the link is followed from, the rest of the way is there.
        for rest in ["models", "kubernetes.io~csi/models", "volumes/kubernetes.io~csi/models"] {
            fs::create_dir_all(elsewhere.join(rest)).unwrap();
        }
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&elsewhere, &link).unwrap();
        publish(&node, &volume).expect_err(part);
        let mounts = node.lab.daemon.mounts();
        assert!(mounts.iter().all(|mount| !mount.starts_with(&elsewhere) && !mount.starts_with(&pods)), "{part}");
        let unpublished = unpublish(&node, &volume);
        assert!(elsewhere.join("models").is_dir(), "{part}: {unpublished:?}");
        fs::remove_file(link).unwrap();
        fs::remove_dir_all(&elsewhere).unwrap();
        unpublish(&node, &volume).unwrap();
    }
}

#[test]
fn the_last_directory_is_the_drivers_unless_something_is_in_it() {
    let Some(node) = Node::started("csi_occupied", "csi: {publishTimeout: 1s}") else { return };
    let (_registry, volume) = push(&node.lab, &image("name", "content"));
    let (target, elsewhere) = (node.target(&pod(), &volume), node.lab.daemon.dir().join("elsewhere"));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    // What an earlier driver may have left.
    let leftovers: [&dyn Fn(); 3] =
        [&|| fs::create_dir(&target).unwrap(), &|| fs::write(&target, "").unwrap(), &|| {
            symlink(&elsewhere, &target).unwrap();
        }];
    fs::create_dir(&elsewhere).unwrap();
    for leave in leftovers {
        leave();
        publish(&node, &volume).unwrap();
        assert_eq!(node.mounted(), [target.as_path()]);
        unpublish(&node, &volume).unwrap();
        assert!(fs::symlink_metadata(&target).is_err() && elsewhere.is_dir());
    }
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), "x").unwrap();
    publish(&node, &volume).unwrap_err();
    unpublish(&node, &volume).unwrap_err();
    assert_eq!(fs::read_to_string(target.join("precious")).unwrap(), "x");
}
