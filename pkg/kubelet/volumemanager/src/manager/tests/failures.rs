//! Operations that fail, hang or panic.

use imagevol_base::volumes::{Outlook, SubPathError, SubPathErrors};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_mount_that_the_node_fails_backs_off_and_keeps_its_decision() {
    let disk = Disk::new();
    for _ in 0..4 {
        disk.plugin.next_mount(key("p", "v"), Do::Fail);
    }
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(node.state("p", "v"), "FailedMount");
    node.after(30).await;
    assert_eq!(node.state("p", "v"), "Mounted");
    let text = "FailedMount MountVolume.SetUp failed for volume \"v\" : image service failed: no loop device @pod";
    let told: Vec<_> = [0, 0, 1, 3].into_iter().map(|second| (second, text.to_owned())).collect();
    assert_eq!(node.events.take(), told, "after 0.5 s, 1 s, 2 s");
    let again = "mount p/v decided";
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", again, again, again, again]);
    assert_eq!(node.counted(), [1, 1, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_unmount_that_fails_is_told_and_tried_again_at_its_own_pace() {
    let disk = Disk::new();
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    for _ in 0..3 {
        disk.plugin.next_unmount(key("p", "v"), Do::Fail);
    }
    node.set(&[]);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls(), ["mount p/v", "unmount p/v"]);
    // Others come and go: that is no reason to hurry.
    for other in ["a", "b", "c"] {
        node.set(&[pod(other, &["v"])]);
        node.settle().await;
    }
    node.after(10).await;
    assert_eq!(disk.plugin.take_calls().iter().filter(|call| *call == "unmount p/v").count(), 3);
    assert_eq!(disk.plugin.mounted(), ["c/v"]);
    let text =
        "FailedUnmount UnmountVolume.TearDown failed for volume \"v\" : image service failed: no loop device @pod";
    assert_eq!(node.events.take(), [(0, text.to_owned()), (0, text.to_owned()), (1, text.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_does_not_wait_for_its_back_off() {
    let disk = Disk::new();
    for _ in 0..10 {
        disk.plugin.next_mount(key("p", "v"), Do::Fail);
    }
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.after(60).await;
    node.set(&[]);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls().last().unwrap(), "unmount p/v");
    // And if it comes back, it begins anew.
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls(), ["mount p/v"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_somebody_retries_does_not_wait_for_its_back_off() {
    let disk = Disk::new();
    for pod in ["p", "q"] {
        (0..10).for_each(|_| disk.plugin.next_mount(key(pod, "v"), Do::Fail));
    }
    let node = disk.start();
    node.set(&[pod("p", &["v"]), pod("q", &["v"])]);
    node.after(60).await;
    disk.plugin.take_calls();
    node.volumes.retry(&key("p", "v").pod);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls(), ["mount p/v decided"]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure() {
    let disk = Disk::new();
    disk.plugin.next_mount(key("p", "v"), Do::Panic);
    disk.plugin.next_unmount(key("p", "v"), Do::Panic);
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.after(5).await;
    assert_eq!(node.state("p", "v"), "Mounted");
    node.set(&[]);
    node.after(5).await;
    assert_eq!(disk.plugin.mounted(), Vec::<String>::new());
    let told: Vec<_> = node.events.take().into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        told,
        [
            "FailedMount MountVolume.SetUp failed for volume \"v\" : operation panicked @pod",
            "FailedUnmount UnmountVolume.TearDown failed for volume \"v\" : operation panicked @pod",
        ]
    );
    assert_eq!(node.supervisor.panics(), 2);
}

#[tokio::test(start_paused = true)]
async fn slow_volumes_hold_nobody_up() {
    let disk = Disk::new();
    for number in 0..100 {
        disk.plugin.next_mount(key("slow", &format!("v{number}")), Do::Wait);
    }
    disk.plugin.next_unmount(key("gone", "v"), Do::Take(1000 * SECOND));
    disk.leave("gone", "v", IMAGE).await;
    let node = disk.start();
    let slow: Vec<String> = (0..100).map(|number| format!("v{number}")).collect();
    let slow = pod("slow", &slow.iter().map(String::as_str).collect::<Vec<_>>());
    node.set(&[slow, pod("fast", &["v"])]);
    node.settle().await;
    assert_eq!((node.state("slow", "v99"), node.state("fast", "v")), ("Pulling", "Mounted"));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sub_path_errors_are_told_once_to_each_container() {
    let disk = Disk::new();
    let error = |reason, message: &str| SubPathError { reason, message: message.to_owned() };
    let errors = SubPathErrors::from([
        (("c".parse().unwrap(), 0), error("CreateContainerError", "first")),
        (("c".parse().unwrap(), 1), error("CreateContainerError", "second")),
        (("d".parse().unwrap(), 0), error("CreateContainerConfigError", "third")),
    ]);
    disk.plugin.next_mount(key("p", "v"), Do::Spoil(errors.clone()));
    disk.plugin.next_mount(key("p", "v"), Do::Spoil(errors.clone()));
    let node = disk.start();
    let mut wanted = pod("p", &["v"]);
    let mut other = wanted.spec.as_ref().unwrap().containers[0].clone();
    other.name = "d".to_owned();
    wanted.spec.as_mut().unwrap().containers.push(other);
    node.set(std::slice::from_ref(&wanted));
    node.settle().await;
    let told = [
        (0, "Failed Error: first @spec.containers{c}".to_owned()),
        (0, "Failed Error: third @spec.containers{d}".to_owned()),
    ];
    assert_eq!(node.events.take(), told);
    assert_eq!(node.reports.borrow().as_ref().unwrap()[&key("p", "v").pod].sub_path_errors, errors);
    assert_eq!((node.state("p", "v"), node.counted()), ("Mounted", [1, 1, 3]));
    // Mounted again for another reason, with the same errors.
    wanted.spec.as_mut().unwrap().containers[0].image = Some("newer".to_owned());
    node.set(&[wanted]);
    node.after(100).await;
    assert_eq!((disk.plugin.take_calls().len(), node.events.take()), (2, vec![]));
}

#[tokio::test(start_paused = true)]
async fn failing_counts_from_the_first_failure_since_bytes_came_in() {
    let disk = Disk::new();
    let began = Instant::now();
    let failing_since = |node: &Node| {
        let reports = node.reports.borrow().clone().unwrap();
        match &reports[&key("p", "v").pod].volumes[&key("p", "v").volume] {
            VolumeState::Failed(failure) => match failure.outlook {
                Outlook::Passing { failing_since } => Some(failing_since.duration_since(began).as_secs()),
                Outlook::Final => None,
            },
            VolumeState::Waiting | VolumeState::Pulling | VolumeState::Mounted { .. } => None,
        }
    };
    for what in [Do::Bring(0, SECOND), Do::Bring(0, SECOND), Do::Bring(10, 100 * SECOND), Do::Bring(10, 10 * SECOND)] {
        disk.plugin.next_mount(key("p", "v"), what);
    }
    disk.plugin.next_mount(key("p", "v"), Do::Wait);
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    tokio::time::sleep_until(began + Duration::from_millis(1200)).await;
    assert_eq!(failing_since(&node), Some(1));
    tokio::time::sleep_until(began + Duration::from_millis(2700)).await;
    assert_eq!(failing_since(&node), Some(1), "the second failure changes nothing");
    // The third try began at 3.5 s, and its bytes are seen a second later.
    tokio::time::sleep_until(began + 5 * SECOND).await;
    assert_eq!(node.state("p", "v"), "Pulling", "a pull that goes well after a failure meets no deadline");
    tokio::time::sleep_until(began + 104 * SECOND).await;
    assert_eq!(failing_since(&node), Some(103));
    // The fourth finds the same bytes, and no more.
    tokio::time::sleep_until(began + 130 * SECOND).await;
    assert_eq!(failing_since(&node), Some(103), "what is here already is no progress");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_mount_table_is_read_before_anything_is_done() {
    let disk = Disk::new();
    disk.leave("gone", "v", IMAGE).await;
    disk.service.mounts().fail_lists(2);
    let node = disk.start();
    node.set(&[pod("p", &["v"])]);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls(), Vec::<String>::new());
    node.after(20).await;
    assert_eq!(disk.plugin.mounted(), ["p/v"]);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_mount_hides_nobody_else() {
    let disk = Disk::new();
    disk.leave("kept", "v", IMAGE).await;
    disk.leave("foreign", "v", IMAGE).await;
    disk.leave_mount("foreign", "v", "tmpfs");
    let node = disk.start();
    node.set(&[pod("kept", &["v"]), pod("foreign", &["v"])]);
    node.settle().await;
    assert_eq!(disk.plugin.take_calls(), ["mount foreign/v", "mount kept/v decided"]);
}
