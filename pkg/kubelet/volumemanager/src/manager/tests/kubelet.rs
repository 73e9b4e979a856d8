//! Volumes that a kubelet asks for, beside the pods' own.

use imagevol_base::Target;

use super::*;
use crate::doors::{DoorState, PublishError, VolumeRequest, Volumes};

pub(super) fn target(pod: &str) -> Target {
    Target { pod: pod.parse().unwrap(), volume: "v".parse().unwrap(), leaf: "mount".parse().unwrap() }
}

fn key_of(pod: &str) -> Key {
    target(pod).into()
}

pub(super) fn request(pod: &str, reference: &str) -> VolumeRequest {
    let pod = Arc::new(self::pod(pod, &[]));
    VolumeRequest { pod, reference: reference.to_owned(), policy: None, claims: Arc::default(), platform: None }
}

pub(super) async fn publish(volumes: &Volumes, pod: &str) -> Result<ImageId, PublishError> {
    volumes.publish(&target(pod), request(pod, IMAGE), Instant::now() + 110 * SECOND).await
}

fn states(volumes: &Volumes) -> Vec<(String, DoorState)> {
    volumes.list().into_iter().map(|(target, volume)| (target.pod.to_string(), volume.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_published_volume_comes_and_goes_beside_pods_of_our_own() {
    let disk = Disk::new();
    let node = disk.start();
    node.set_while(false, &[]);
    let image = publish(&node.volumes, "k").await.unwrap();
    assert_eq!(publish(&node.volumes, "k").await, Ok(image), "again");
    assert_eq!(disk.plugin.take_calls(), ["mount k/v", "mount k/v decided"], "the plugin looks whether it is mounted");
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(node.reports.borrow().as_ref().unwrap().len(), 1, "pods are told of their own volumes alone");
    node.volumes.unpublish(&target("k")).await.unwrap();
    node.volumes.unpublish(&target("never-heard-of")).await.unwrap();
    assert_eq!(disk.plugin.mounted(), ["p/v"]);
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", "unmount k/v", "unmount never-heard-of/v"]);
    assert_eq!(disk.plugin.wrongs(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_expected_image_is_fetched_before_the_kubelet_asks_and_mounted_once_it_does() {
    let disk = Disk::new();
    let node = disk.start();
    node.volumes.expect([(target("k"), request("k", IMAGE))].into());
    node.settle().await;
    assert!(matches!(states(&node.volumes).as_slice(), [(_, DoorState::Present(_))]), "{:?}", states(&node.volumes));
    node.after(1000).await;
    assert_eq!(disk.plugin.take_calls(), ["prepare k/v"], "once");
    publish(&node.volumes, "k").await.unwrap();
    assert_eq!(disk.plugin.take_calls(), ["mount k/v decided"]);
    node.volumes.expect([].into());
    node.settle().await;
    assert!(
        matches!(states(&node.volumes).as_slice(), [(_, DoorState::Mounted(_))]),
        "published: the kubelet's to end"
    );
}

#[tokio::test(start_paused = true)]
async fn an_expected_image_is_kept_once_that_has_settled() {
    let disk = Disk::new();
    disk.plugin.next_mount(key_of("k"), Do::Wait);
    let node = disk.start();
    node.volumes.expect([(target("k"), request("k", IMAGE))].into());
    node.volumes.settle().await;
    assert_eq!(disk.service.rows().into_keys().collect::<Vec<_>>(), [key_of("k").holder()]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pods_pull_ends_and_its_mount_stays() {
    let disk = Disk::new();
    let node = disk.start();
    publish(&node.volumes, "running").await.unwrap();
    disk.plugin.next_mount(key_of("pulling"), Do::Wait);
    let (pulling, ()) = tokio::join!(publish(&node.volumes, "pulling"), async {
        node.settle().await;
        node.volumes.forsake(["running", "pulling"].map(|pod| pod.parse().unwrap()).into());
    });
    assert_eq!(pulling, Err(PublishError::PodDeleted));
    node.settle().await;
    assert_eq!(disk.plugin.mounted(), ["running/v"]);
}

/// The kubelet does not notice a restart of ours, and asks again after one of its own.
#[tokio::test(start_paused = true)]
async fn what_was_published_is_so_after_a_restart() {
    let disk = Disk::new();
    let image = disk.service.preload(IMAGE, "content", 1);
    for pod in ["mounted", "ready", "begun"] {
        let holder = key_of(pod).holder();
        disk.service.hold(&holder, IMAGE).await.unwrap();
        if pod != "begun" {
            disk.service.bind(&holder, &image).await.unwrap();
        }
    }
    let at = disk.host().path(&key_of("mounted"));
    std::fs::create_dir_all(&at).unwrap();
    disk.service.mounts().put("erofs", "/", &at);
    disk.plugin.left(key_of("mounted"));
    let node = disk.start();
    node.after(10).await;
    let listed = states(&node.volumes);
    assert!(
        matches!(listed.as_slice(), [(one, DoorState::Mounted(_)), (two, DoorState::Present(_))]
            if one == "mounted" && two == "ready"),
        "{listed:?}"
    );
    assert_eq!(disk.plugin.take_calls(), ["unmount begun/v", "mount mounted/v decided"]);
    publish(&node.volumes, "ready").await.unwrap();
    publish(&node.volumes, "mounted").await.unwrap();
    assert_eq!(disk.plugin.take_calls(), ["mount ready/v decided", "mount mounted/v decided"]);
}

#[tokio::test(start_paused = true)]
async fn an_unpublish_tells_why_it_failed_and_tries_at_once_when_asked_again() {
    let disk = Disk::new();
    let node = disk.start();
    publish(&node.volumes, "k").await.unwrap();
    disk.plugin.next_unmount(key_of("k"), Do::Fail);
    let began = Instant::now();
    node.volumes.unpublish(&target("k")).await.unwrap_err();
    node.volumes.unpublish(&target("k")).await.unwrap();
    assert!(began.elapsed() < SECOND / 10, "no back-off stands between");
    assert_eq!(disk.plugin.mounted(), Vec::<String>::new());
}

/// A caller that went away leaves its wish; one that comes back joins it.
#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_pull_running() {
    let disk = Disk::new();
    let node = disk.start();
    disk.plugin.next_mount(key_of("k"), Do::Take(200 * SECOND));
    let first = publish(&node.volumes, "k").await;
    assert!(matches!(first, Err(PublishError::Waiting { .. })), "{first:?}");
    publish(&node.volumes, "k").await.unwrap();
    assert_eq!(disk.plugin.take_calls(), ["mount k/v"], "one pull for both");
}

#[tokio::test(start_paused = true)]
async fn a_long_pull_is_told_of_in_events() {
    let disk = Disk::new();
    let node = disk.start();
    disk.plugin.next_mount(key_of("k"), Do::Pull(100));
    node.volumes.expect([(target("k"), request("k", IMAGE))].into());
    node.after(200).await;
    let text = |done| format!("PullProgress Pulling image {IMAGE:?}: {done} B of 100 B ({done}%) @pod");
    // The byte of that very second comes after the look.
    assert_eq!(node.events.take(), [(30, text(29)), (90, text(89))]);
}

/// The kubelet's back-off of mounts (goroutinemap/exponentialbackoff): it has another than that of pulls.
async fn kubelet_asks(volumes: &Volumes, seconds: u64, reference: &str) -> usize {
    let (until, mut pause, mut answers) = (Instant::now() + SECOND * u32::try_from(seconds).unwrap(), SECOND / 2, 0);
    while Instant::now() < until {
        let request = request("k", reference);
        let deadline = (Instant::now() + 110 * SECOND).min(until);
        volumes.publish(&target("k"), request, deadline).await.unwrap_err();
        answers += 1;
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    answers
}

/// A kubelet that was told a final error forgets the volume, and unpublishes nothing. What looks for pods that have gone gives it up.
#[tokio::test(start_paused = true)]
async fn a_refused_volume_that_is_given_up_leaves_no_row_and_is_not_pulled_again() {
    let disk = Disk::new();
    let node = disk.start_real();
    let wanted = request("k", "localhost:5000/none:1");
    node.volumes.publish(&target("k"), wanted, Instant::now() + 110 * SECOND).await.unwrap_err();
    assert_eq!(
        disk.service.holders().await.unwrap().len(),
        1,
        "the kubelet may ask again, and the image is looked for meanwhile"
    );
    node.volumes.give_up(&target("k"));
    node.settle().await;
    assert!(disk.service.holders().await.unwrap().is_empty() && node.volumes.list().is_empty());
    node.events.take();
    node.after(3600).await;
    assert_eq!(node.events.take(), []);
}

/// Three pulls and three reminders in 45 seconds, as a kubelet's own image volume has, whoever asks and however often.
#[rstest::rstest]
#[case::pods_are_followed(true)]
#[case::nobody_tells_of_pods(false)]
#[tokio::test(start_paused = true)]
async fn a_kubelet_that_asks_again_does_not_hasten_pulls(#[case] follows: bool) {
    let disk = Disk::new();
    let node = disk.start_real();
    if follows {
        node.volumes.forsake([].into());
        node.volumes.expect([(target("k"), request("k", "localhost:5000/none:1"))].into());
    }
    kubelet_asks(&node.volumes, 45, "localhost:5000/none:1").await;
    let told = node.events.take();
    let seconds = |reason: &str| -> Vec<u64> {
        told.iter().filter(|(_, text)| text.starts_with(reason)).map(|(second, _)| *second).collect()
    };
    assert_eq!((seconds("Pulling "), seconds("BackOff ")), (vec![0, 10, 30], vec![1, 11, 31]), "{told:?}");
}
