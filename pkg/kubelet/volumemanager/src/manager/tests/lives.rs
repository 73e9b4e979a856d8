//! Pods that come, go, come back and change, at bad moments.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pod_comes_and_goes() {
    let disk = Disk::new();
    let node = disk.start();
    node.set(&[pod("p", &["a", "b"])]);
    node.settle().await;
    assert_eq!((node.state("p", "a"), node.state("p", "b")), ("Mounted", "Mounted"));
    assert_eq!(disk.plugin.mounted(), ["p/a", "p/b"]);
    assert_eq!(node.counted(), [2, 2, 0]);
    node.after(1000).await;
    assert_eq!(disk.plugin.take_calls(), ["mount p/a", "mount p/b"], "once, however long the pod lives");

    node.set(&[]);
    node.settle().await;
    assert_eq!(node.state("p", "a"), "-");
    assert_eq!(disk.plugin.mounted(), Vec::<String>::new());
    assert_eq!(node.events.take(), []);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_unmounted_or_said_before_all_sources_were_seen() {
    let disk = Disk::new();
    disk.leave("gone", "v", IMAGE).await;
    disk.leave("late", "v", IMAGE).await;
    disk.plugin.forbid_unmounts(true);
    let node = disk.start();
    node.set_while(false, &[pod("early", &["v"])]);
    node.after(100).await;
    assert_eq!(disk.plugin.mounted(), ["early/v", "gone/v", "late/v"], "what is wanted is mounted at once");
    assert!(node.reports.borrow().is_none());
    // A pod that one source has lost may come from another.
    node.set_while(false, &[]);
    node.after(100).await;
    assert_eq!(disk.plugin.mounted(), ["early/v", "gone/v", "late/v"]);

    disk.plugin.forbid_unmounts(false);
    node.set(&[pod("late", &["v"])]);
    node.settle().await;
    assert_eq!(disk.plugin.mounted(), ["late/v"]);
    assert_eq!(node.state("late", "v"), "Mounted");
    assert_eq!(node.reports.borrow().as_ref().unwrap().len(), 1);
    assert_eq!(disk.plugin.wrongs(), Vec::<String>::new());
}

/// The plugin of these tests writes no rows: what is there, the manager wrote.
#[tokio::test(start_paused = true)]
async fn images_are_kept_before_anything_is_reported_of_their_pods() {
    let disk = Disk::new();
    disk.plugin.next_mount(key("early", "v"), Do::Wait);
    let mut node = disk.start();
    node.set_while(false, &[pod("early", &["v"])]);
    node.settle().await;
    node.set(&[pod("early", &["v"]), pod("late", &["a", "b"])]);
    node.reports.wait_for(Option::is_some).await.unwrap();
    let kept = [("early", "v"), ("late", "a"), ("late", "b")].map(|(pod, volume)| key(pod, volume).holder());
    let rows = disk.service.rows();
    assert_eq!(rows.keys().cloned().collect::<Vec<_>>(), kept);
    assert!(rows.values().all(|row| *row == (IMAGE.to_owned(), None)), "{rows:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_mounted_is_shown_at_once_after_a_restart() {
    let disk = Disk::new();
    let image = disk.leave("p", "v", IMAGE).await;
    disk.plugin.next_mount(key("p", "v"), Do::Take(60 * SECOND));
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    let reports = node.reports.borrow().clone().unwrap();
    let expected = VolumeState::Mounted { image: image.digest().clone() };
    assert_eq!(reports[&key("p", "v").pod].volumes[&key("p", "v").volume], expected);
    assert_eq!(disk.plugin.take_calls(), ["mount p/v decided"]);
    node.stop().await;
}

/// A row of the full reference, and a pod that writes it in short or wants another.
#[rstest::rstest]
#[case::in_full("docker.io/library/debian:latest", "debian", "mount p/v decided")]
#[case::another("docker.io/library/debian:latest", "debian:12", "mount p/v")]
#[tokio::test(start_paused = true)]
async fn a_decision_holds_for_its_reference_alone(#[case] row: &str, #[case] wanted: &str, #[case] call: &str) {
    let disk = Disk::new();
    disk.leave("p", "v", row).await;
    let node = disk.start();
    node.set(&[pod_of("p", &[("v", wanted)], "Always")]);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls(), [call]);
}

#[rstest::rstest]
#[case::while_pulling(Do::Wait)]
#[case::while_mounting(Do::Take(5 * SECOND))]
#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_early_leaves_nothing(#[case] what: Do) {
    let disk = Disk::new();
    disk.plugin.next_mount(key("p", "v"), what);
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "Pulling");
    node.set(&[]);
    node.after(10).await;
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", "unmount p/v"]);
    assert_eq!(disk.plugin.mounted(), Vec::<String>::new());
    assert_eq!((node.state("p", "v"), node.events.take()), ("-", vec![]));
    assert_eq!(node.counted(), [1, 0, 0], "what nobody wanted any more is neither a success nor an error");
}

/// Under the same UID, a moment later: what the first life asked for is not used for the second.
#[rstest::rstest]
#[case::while_pulling(Do::Wait)]
#[case::while_mounting(Do::Take(5 * SECOND))]
#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_back_is_mounted_anew(#[case] what: Do, #[values(false, true)] other_image: bool) {
    let disk = Disk::new();
    disk.plugin.next_mount(key("p", "v"), what);
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    node.set(&[]);
    tokio::task::yield_now().await;
    let image = if other_image { "localhost:5000/other:1" } else { IMAGE };
    node.set(&[pod_of("p", &[("v", image)], "Always")]);
    node.after(10).await;
    let reports = node.reports.borrow().clone().unwrap();
    let expected = VolumeState::Mounted { image: plugin::image_of(image).digest().clone() };
    assert_eq!(reports[&key("p", "v").pod].volumes[&key("p", "v").volume], expected);
    assert_eq!(disk.plugin.mounted(), ["p/v"]);
    assert_eq!(disk.plugin.wrongs(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_comes_back_while_it_is_unmounted_is_not_shown_as_mounted() {
    let disk = Disk::new();
    disk.plugin.next_unmount(key("p", "v"), Do::Take(5 * SECOND));
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    node.set(&[]);
    node.settle().await;
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "Waiting");
    node.after(10).await;
    assert_eq!(node.state("p", "v"), "Mounted");
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", "unmount p/v", "mount p/v"]);
    assert_eq!(disk.plugin.wrongs(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn another_image_under_the_same_uid_is_decided_anew() {
    let disk = Disk::new();
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    disk.plugin.next_mount(key("p", "v"), Do::Take(5 * SECOND));
    node.set(&[pod_of("p", &[("v", "localhost:5000/other:1")], "Always")]);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "Pulling", "the old image is not what is wanted");
    node.after(10).await;
    assert_eq!(node.state("p", "v"), "Mounted");
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", "mount p/v"]);
}

/// The volume is the same and its sub paths may not be: the image stays.
#[rstest::rstest]
#[case::when_mounted(None)]
#[case::while_mounting(Some(Do::Take(5 * SECOND)))]
#[tokio::test(start_paused = true)]
async fn another_container_under_the_same_uid_keeps_the_image(#[case] what: Option<Do>) {
    let disk = Disk::new();
    if let Some(what) = what {
        disk.plugin.next_mount(key("p", "v"), what);
    }
    let node = disk.start();
    let mut changed = pod("p", &["v"]);
    node.set(std::slice::from_ref(&changed));
    node.settle().await;
    changed.spec.as_mut().unwrap().containers[0].volume_mounts.as_mut().unwrap()[0].sub_path = Some("dir".to_owned());
    node.set(&[changed]);
    node.after(10).await;
    assert_eq!(node.state("p", "v"), "Mounted");
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", "mount p/v decided"]);
}
