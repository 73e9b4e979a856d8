//! Mounts that somebody else takes away, over the real plugin.

use imagevol_mount::Interface as _;

use super::kubelet::{publish, target};
use super::*;

/// A pod whose container mounts the volume whole, and the sub path `dir` of it.
fn pod_with_sub_path() -> Pod {
    let mut pod = pod("p", &["v"]);
    let mounts = pod.spec.as_mut().unwrap().containers[0].volume_mounts.as_mut().unwrap();
    let mut sub_path = mounts[0].clone();
    sub_path.sub_path = Some("dir".to_owned());
    mounts.push(sub_path);
    pod
}

impl Disk {
    /// Somebody unmounts, and the kernel says so.
    fn take_away(&self, node: &Node, at: &std::path::Path) {
        self.service.mounts().unmount(at).unwrap();
        self.service.mounts().take_log();
        node.mount_table.send_replace(());
    }

    fn mounted(&self) -> Vec<String> {
        let pods = self.dir.path().join("pods");
        let mounted = self.service.mounts().mounted();
        mounted.iter().map(|at| at.strip_prefix(&pods).unwrap().display().to_string()).collect()
    }
}

#[rstest::rstest]
#[case::the_volume(0)]
#[case::a_sub_path(1)]
#[tokio::test(start_paused = true)]
async fn what_others_unmount_is_mounted_again(#[case] which: usize) {
    let disk = Disk::new();
    let node = disk.start_real();
    node.set(&[pod_with_sub_path()]);
    node.settle().await;
    let (paths, mounted) = (disk.service.mounts().mounted(), disk.mounted());
    assert_eq!(mounted, ["p/volume-subpaths/v/c/1", "p/volumes/kubernetes.io~image/v"]);
    node.events.take();
    disk.take_away(&node, &paths[which]);
    node.after(4).await;
    assert_eq!(disk.mounted().len(), 1, "whoever removes the directories next is not met in the middle");
    node.after(2).await;
    assert_eq!(disk.mounted(), mounted);
    assert_eq!((node.state("p", "v"), node.events.take()), ("Mounted", vec![]));
    assert_eq!(disk.service.mounts().take_log().len(), 1, "the other was left alone");
}

#[tokio::test(start_paused = true)]
async fn that_it_cannot_be_mounted_again_is_told() {
    let disk = Disk::new();
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    node.events.take();
    disk.service.mounts().fail_attaches(1);
    disk.take_away(&node, &disk.host().path(&key("p", "v")));
    node.mount_table.send_replace(());
    tokio::time::sleep(Duration::from_millis(5100)).await;
    assert_eq!(node.state("p", "v"), "FailedMount");
    let told = node.events.take();
    assert!(
        matches!(told.as_slice(), [(5, text)] if text.starts_with("FailedMount MountVolume.SetUp failed")),
        "{told:?}"
    );
    node.after(1).await;
    assert_eq!((node.state("p", "v"), disk.mounted().len()), ("Mounted", 1));
}

/// The mount table changes because we unmount.
#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_is_not_mounted_again() {
    let disk = Disk::new();
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    disk.take_away(&node, &disk.host().path(&key("p", "v")));
    node.set(&[]);
    node.after(60).await;
    assert_eq!((disk.mounted(), disk.service.mounts().take_log()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_read_is_read_again() {
    let disk = Disk::new();
    let node = disk.start_real();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    disk.take_away(&node, &disk.host().path(&key("p", "v")));
    disk.service.mounts().fail_lists(1);
    node.after(6).await;
    assert_eq!(disk.mounted().len(), 0);
    node.after(5).await;
    assert_eq!(disk.mounted().len(), 1);
}

/// Asked again, the volume is there when the call ends; it does not wait for the next look.
#[rstest::rstest]
#[case::the_directory_is_left(false)]
#[case::the_kubelet_has_made_it_anew(true)]
#[tokio::test(start_paused = true)]
async fn a_publish_that_is_repeated_mounts_again(#[case] anew: bool) {
    let disk = Disk::new();
    let node = disk.start_real();
    let at = disk.host().path(&target("k").into());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    let image = publish(&node.volumes, "k").await.unwrap();
    assert_eq!(disk.service.mounts().mounted(), std::slice::from_ref(&at));
    disk.service.mounts().unmount(&at).unwrap();
    if anew {
        std::fs::remove_dir(&at).unwrap();
    }
    let began = Instant::now();
    assert_eq!(publish(&node.volumes, "k").await, Ok(image));
    assert_eq!((disk.service.mounts().mounted(), began.elapsed().as_secs()), (vec![at], 0));
}

#[tokio::test(start_paused = true)]
async fn a_kubelets_volume_is_mounted_again_unless_its_directory_has_gone_too() {
    let disk = Disk::new();
    let node = disk.start_real();
    let at = ["unmounted", "removed"].map(|pod| disk.host().path(&target(pod).into()));
    for (pod, at) in ["unmounted", "removed"].iter().zip(&at) {
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        publish(&node.volumes, pod).await.unwrap();
        disk.take_away(&node, at);
    }
    std::fs::remove_dir_all(at[1].parent().unwrap()).unwrap();
    node.after(60).await;
    assert_eq!(disk.service.mounts().mounted(), &at[..1]);
    node.volumes.unpublish(&target("removed")).await.unwrap();
    assert_eq!(node.events.take().iter().filter(|(_, text)| text.contains("FailedMount")).count(), 0);
}
