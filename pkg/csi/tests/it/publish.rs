//! How long a pod waits for its volume, and what is left when it goes.

use std::time::Duration;

use imagevol_base::volumes::FailureCause;
use imagevol_test_support::kubelet::{KubeletPod, KubeletVolume, is_final};
use rstest::rstest;
use tonic::Code;

use crate::node::{HOLD, Node};

const IMAGE: &str = "r.io/models:1";

fn volume() -> KubeletVolume {
    KubeletVolume::inline("models", IMAGE)
}

#[tokio::test(start_paused = true)]
async fn a_present_image_takes_one_call() {
    let node = Node::new();
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let kubelet = node.kubelet(&run);
    let story = kubelet.start(&pod, &volume()).await;
    assert_eq!((story.calls.len(), story.failures.len()), (1, 0));
    assert!(kubelet.is_mounted(&pod, &volume()) && volume().target(node.root.path(), &pod).is_dir());
    assert_eq!(kubelet.delete("uid-1", "models").await.calls.len(), 1);
    assert!(node.volumes.wanted().is_empty() && !node.root.path().join("pods/uid-1").exists());
}

// A call that is held meets the end of the pull in person, as long as the kubelet's back-off has not grown.
#[rstest]
#[case::a_minute(60, 1)]
#[case::five_minutes(300, 3)]
#[case::ten_minutes(600, 6)]
#[tokio::test(start_paused = true)]
async fn a_slow_pull_is_waited_for_and_not_longer(#[case] seconds: u64, #[case] calls: usize) {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, seconds);
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let begun = tokio::time::Instant::now();
    let story = node.kubelet(&run).start(&pod, &volume()).await;
    assert_eq!((begun.elapsed().as_secs(), story.calls.len()), (seconds, calls));
    assert!(story.failures.iter().all(|failure| failure.code() == Code::Aborted), "{story:?}");
    assert_eq!(node.volumes.count("pull"), 1);
    if let Some(failure) = story.failures.first() {
        assert_eq!(failure.message(), "pulling \"r.io/models:1\": 1 of 2 bytes");
    }
}

#[rstest]
#[case(FailureCause::NotFound, Code::NotFound)]
#[case(FailureCause::Denied, Code::PermissionDenied)]
#[case(FailureCause::NeverPull, Code::FailedPrecondition)]
#[tokio::test(start_paused = true)]
async fn a_final_error_comes_at_once_and_leaves_nothing(#[case] cause: FailureCause, #[case] code: Code) {
    let node = Node::new();
    node.volumes.pull_fails(IMAGE, 3, cause);
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let kubelet = node.kubelet(&run);
    let begun = tokio::time::Instant::now();
    let failure = kubelet.set_up(&pod, &volume()).await.unwrap_err();
    assert_eq!((begun.elapsed().as_secs(), failure.code(), is_final(&failure)), (3, code, true));
    assert_eq!(failure.message(), format!("no {IMAGE}: {cause:?}"));
    // Nobody will unpublish: nothing may be wanted.
    assert!(kubelet.delete("uid-1", "models").await.calls.is_empty());
    assert!(node.volumes.wanted().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_uncertain_is_unpublished() {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 1000);
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let kubelet = node.kubelet(&run);
    kubelet.set_up(&pod, &volume()).await.unwrap_err();
    assert!(kubelet.is_uncertain(&pod, &volume()));
    assert_eq!(node.volumes.wanted(), ["uid-1/models"]);
    assert_eq!(kubelet.delete("uid-1", "models").await.calls.len(), 1);
    assert!(node.volumes.wanted().is_empty());
}

/// Deletes a pod 10 s into a pull; how long it stays.
async fn stay_of_a_deleted_pod(told: bool) -> (Duration, Code) {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 1000);
    let (run, pod) = (node.run(), KubeletPod::new("uid-1"));
    let kubelet = node.kubelet(&run);
    let deleted = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        if told {
            node.volumes.forsake("uid-1");
        }
        let begun = tokio::time::Instant::now();
        kubelet.delete("uid-1", "models").await;
        begun.elapsed()
    };
    let volume = volume();
    let (story, stay) = tokio::join!(kubelet.start(&pod, &volume), deleted);
    assert_eq!(story.calls.len(), 1, "a deleted pod is not tried again");
    assert!(node.volumes.wanted().is_empty() && !node.root.path().join("pods/uid-1").exists());
    (stay, story.failures[0].code())
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_known_to_be_deleted_does_not_wait_for_its_call() {
    assert_eq!(stay_of_a_deleted_pod(true).await, (Duration::ZERO, Code::Aborted));
}

#[tokio::test(start_paused = true)]
async fn without_the_api_server_a_deleted_pod_waits_for_its_call() {
    let (stay, code) = stay_of_a_deleted_pod(false).await;
    assert_eq!((stay.as_secs(), code), (HOLD.as_secs() - 10, Code::Aborted));
}

#[tokio::test(start_paused = true)]
async fn many_pods_of_one_image_wait_for_one_pull() {
    let node = Node::new();
    node.volumes.pull_takes(IMAGE, 150);
    let run = node.run();
    let (kubelet, volume) = (node.kubelet(&run), volume());
    let begun = tokio::time::Instant::now();
    let pods: Vec<_> = (0..100).map(|number| KubeletPod::new(&format!("uid-{number}"))).collect();
    let stories = futures_util::future::join_all(pods.iter().map(|pod| kubelet.start(pod, &volume))).await;
    assert!(stories.iter().all(|story| story.calls.len() == 2));
    assert_eq!((begun.elapsed().as_secs(), node.volumes.count("pull")), (150, 1));
}
