//! The kubelet, the driver, or both begin anew, in each order, while volumes are mounted and while one is pulled.

use std::time::Duration;

use imagevol_test_support::kubelet::{Kubelet, KubeletPod, KubeletVolume};
use rstest::rstest;
use tonic::Code;

use crate::node::{Node, Run};

const IMAGE: &str = "r.io/models:1";

/// Who restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Kubelet,
    Driver,
}

fn volume() -> KubeletVolume {
    KubeletVolume::inline("models", IMAGE).attribute("pullPolicy", "Always")
}

/// The kubelet with what it knows; after a restart of the driver it dials the new one.
fn after(node: &Node, kubelet: &Kubelet, run: Run, who: Who) -> (Kubelet, Run) {
    match who {
        Who::Kubelet => (kubelet.restarted(), run),
        Who::Driver => {
            run.supervisor.cancel();
            let run = node.run();
            (kubelet.dialling(run.driver()), run)
        }
    }
}

#[rstest]
#[case(&[Who::Kubelet])]
#[case(&[Who::Driver])]
#[case(&[Who::Kubelet, Who::Driver])]
#[case(&[Who::Driver, Who::Kubelet])]
#[tokio::test(start_paused = true)]
async fn mounted_volumes_stay_and_are_not_pulled_again(#[case] restarts: &[Who]) {
    let node = Node::new();
    let (mut run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let mut kubelet = node.kubelet(&run);
    kubelet.start(&pod, &volume()).await;
    for who in restarts {
        (kubelet, run) = after(&node, &kubelet, run, *who);
    }
    if restarts.contains(&Who::Kubelet) {
        assert!(kubelet.is_uncertain(&pod, &volume()), "files tell of the volume");
        assert_eq!(kubelet.start(&pod, &volume()).await.calls.len(), 1);
    }
    assert!(kubelet.is_mounted(&pod, &volume()));
    assert_eq!(node.volumes.count("pull"), 1);
    assert_eq!(kubelet.delete("uid-1", "models").await.failures.len(), 0);
    assert!(node.volumes.wanted().is_empty());
    drop(run);
}

#[rstest]
#[case(&[Who::Kubelet])]
#[case(&[Who::Driver])]
#[case(&[Who::Kubelet, Who::Driver])]
#[case(&[Who::Driver, Who::Kubelet])]
#[tokio::test(start_paused = true)]
async fn a_pull_goes_on_over_restarts(#[case] restarts: &[Who]) {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 60);
    let (mut run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let mut kubelet = node.kubelet(&run);
    // The kubelet's call dies with the kubelet.
    tokio::time::timeout(Duration::from_secs(10), kubelet.set_up(&pod, &volume())).await.unwrap_err();
    for who in restarts {
        (kubelet, run) = after(&node, &kubelet, run, *who);
    }
    kubelet.start(&pod, &volume()).await;
    assert!(kubelet.is_mounted(&pod, &volume()));
    assert_eq!(node.volumes.count("pull"), 1);
    drop(run);
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_ends_answers_the_calls_it_holds() {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 60);
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let kubelet = node.kubelet(&run);
    let ended = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        run.supervisor.cancel();
    };
    let volume = volume();
    let (held, ()) = tokio::join!(kubelet.set_up(&pod, &volume), ended);
    let failure = held.unwrap_err();
    assert_eq!((failure.code(), failure.message()), (Code::Unavailable, "imagevold is shutting down"));
    assert!(kubelet.is_uncertain(&pod, &volume), "the next driver is to be asked again");
}

#[tokio::test(start_paused = true)]
async fn what_a_restarted_kubelet_does_not_know_it_unpublishes() {
    let node = Node::new();
    let (run, gone, stays) = (node.run(), KubeletPod::new("uid-1"), KubeletPod::new("uid-2"));
    let kubelet = node.kubelet(&run);
    kubelet.start(&gone, &volume()).await;
    kubelet.start(&stays, &volume()).await;
    let kubelet = kubelet.restarted();
    for (pod, volume) in kubelet.orphans(&[&stays]) {
        kubelet.delete(&pod, &volume).await;
    }
    assert_eq!(node.volumes.wanted(), ["uid-2/models"]);
}

#[tokio::test(start_paused = true)]
async fn deletion_waits_for_a_driver_that_is_away() {
    let node = Node::new();
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let kubelet = node.kubelet(&run);
    kubelet.start(&pod, &volume()).await;
    node.volumes.stop();
    let back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        node.volumes.go_on();
    };
    let (story, ()) = tokio::join!(kubelet.delete("uid-1", "models"), back);
    // 0, 0.5, 1.5, 3.5, 7.5, 15.5 and, as the first after 20 s, 31.5.
    let calls: Vec<_> = story.calls.iter().map(Duration::as_secs_f64).collect();
    assert_eq!(calls.len(), 7, "{calls:?}");
    assert!(node.volumes.wanted().is_empty());
}
