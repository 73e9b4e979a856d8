//! Staging and clones, on the running kernel, each test in a mount namespace of its own. Needs root.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use imagevol_cri::{
    ImageId, ImageMounts as _, ImageReferences as _, ImageService as _, ImageServiceError, ImageSpec, MountRequest,
};
use imagevol_mount::{Exec, Interface as _, Kernel, MountPoint, SafeDir};
use imagevol_test_support::daemon::own_mounts;
use imagevol_test_support::image::{ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::FakeRegistry;

use crate::support::{Node, volume};

/// Runs a test in a thread whose mounts are its own; the runtime's threads inherit them.
pub(crate) fn alone(name: &'static str, test: impl AsyncFnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if own_mounts(name) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

async fn pulled(node: &Node, registry: &FakeRegistry, pods: &[&str]) -> ImageId {
    let layer = LayerBuilder::new().file("file", "content").gzip();
    let reference = registry.push("team/data", "v1", &ImageBuilder::new().layer(layer).build());
    let mut id = None;
    for pod in pods {
        id = Some(node.pull(&reference, &volume(pod)).await.unwrap());
    }
    id.unwrap()
}

/// Mounts an image for a pod, as its volume.
pub(crate) async fn mount(node: &Node, id: &ImageId, pod: &str, exec: Exec) -> PathBuf {
    let mount = node.service.mount(MountRequest { image: id, sub_path: None, exec }).await.unwrap();
    let at = node.dir.path().join(pod);
    std::fs::create_dir_all(&at).unwrap();
    Kernel.attach(mount, SafeDir::open(&at).unwrap().as_fd()).unwrap();
    node.volumes.lock().unwrap().push((volume(pod), at.clone()));
    at
}

pub(crate) fn at(path: &Path) -> MountPoint {
    Kernel.mounted_at(path).unwrap().unwrap()
}

pub(crate) fn place(node: &Node, id: &ImageId) -> PathBuf {
    node.dir.path().join("staging").join(id.digest().hex())
}

#[test]
fn pods_share_one_superblock_until_the_last_lets_go() {
    alone("pods_share_one_superblock_until_the_last_lets_go", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a", "b"]).await;
        let (a, b) = (mount(&node, &id, "a", Exec::Allow).await, mount(&node, &id, "b", Exec::Allow).await);
        let staged = place(&node, &id);
        assert_eq!((at(&a).device, at(&b).device), (at(&staged).device, at(&staged).device));
        let spec = ImageSpec { image: id.to_string(), ..ImageSpec::default() };
        for (pod, path) in [("a", a), ("b", b)] {
            assert!(staged.exists());
            let error = node.service.remove(&spec).await.unwrap_err();
            assert!(matches!(error, ImageServiceError::InUse { .. }), "{error:?}");
            Kernel.unmount(&path).unwrap();
            node.service.release(&volume(pod)).await.unwrap();
        }
        assert!(!staged.exists());
        node.service.remove(&spec).await.unwrap();
        assert_eq!(node.service.list().await.unwrap(), []);
        node.assert_sound();
    });
}

#[test]
fn an_image_that_nobody_holds_is_not_mounted() {
    alone("an_image_that_nobody_holds_is_not_mounted", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a"]).await;
        node.service.release(&volume("a")).await.unwrap();
        let request = MountRequest { image: &id, sub_path: None, exec: Exec::Allow };
        assert!(matches!(node.service.mount(request).await, Err(ImageServiceError::Node { .. })));
        assert!(!place(&node, &id).exists(), "nobody would ever unmount it");
    });
}

/// A release that failed to unmount has removed its row; whoever called tries again.
#[test]
fn a_second_release_unmounts_what_the_first_left_staged() {
    alone("a_second_release_unmounts_what_the_first_left_staged", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a"]).await;
        Kernel.unmount(&mount(&node, &id, "a", Exec::Allow).await).unwrap();
        node.service.store().release(&volume("a")).unwrap();
        node.service.release(&volume("a")).await.unwrap();
        assert!(!place(&node, &id).exists(), "nobody else would unmount it");
    });
}

#[test]
fn the_next_process_finds_what_is_staged() {
    alone("the_next_process_finds_what_is_staged", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a", "b"]).await;
        let a = mount(&node, &id, "a", Exec::Allow).await;
        let node = node.again().await;
        let b = mount(&node, &id, "b", Exec::Allow).await;
        assert_eq!(at(&a).device, at(&b).device);
        for pod in ["a", "b"] {
            node.service.store().release(&volume(pod)).unwrap();
        }
        node.service.unstage_unused().await.unwrap();
        assert!(!place(&node, &id).exists());
        assert_eq!(std::fs::read_to_string(a.join("file")).unwrap(), "content", "clones live on");
    });
}

#[test]
fn lost_staging_is_cloned_from_a_volume_that_is_mounted() {
    alone("lost_staging_is_cloned_from_a_volume_that_is_mounted", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a", "b"]).await;
        let a = mount(&node, &id, "a", Exec::Deny).await;
        assert!(at(&a).has_option("noexec"));
        Kernel.unmount(&place(&node, &id)).unwrap();
        let volumes = node.volumes.lock().unwrap().clone();
        let node = node.again().await;
        *node.volumes.lock().unwrap() = volumes;
        let b = mount(&node, &id, "b", Exec::Allow).await;
        assert_eq!((at(&b).device, at(&place(&node, &id)).device), (at(&a).device, at(&a).device));
        assert!(!at(&b).has_option("noexec"), "a pod's own attributes are not handed on");
        assert_eq!(std::fs::read_to_string(b.join("file")).unwrap(), "content");
    });
}

#[test]
fn a_foreign_mount_at_a_volumes_place_is_not_taken_for_the_image() {
    alone("a_foreign_mount_at_a_volumes_place_is_not_taken_for_the_image", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a"]).await;
        // `/proc` is a mount of something else than an image.
        node.volumes.lock().unwrap().push((volume("a"), "/proc".into()));
        let a = mount(&node, &id, "b", Exec::Allow).await;
        assert_eq!(std::fs::read_to_string(a.join("file")).unwrap(), "content");
    });
}

#[test]
fn staging_that_is_unmounted_under_us_is_made_again() {
    alone("staging_that_is_unmounted_under_us_is_made_again", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let id = pulled(&node, &registry, &["a", "b"]).await;
        let a = mount(&node, &id, "a", Exec::Allow).await;
        Kernel.unmount(&place(&node, &id)).unwrap();
        let b = mount(&node, &id, "b", Exec::Allow).await;
        assert_eq!(at(&a).device, at(&b).device, "still one superblock");
    });
}
