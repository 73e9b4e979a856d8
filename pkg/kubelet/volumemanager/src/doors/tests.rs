//! What doors may ask for, whatever order they ask in.

use imagevol_base::volumes::FailureCause;
use rstest::rstest;
use tokio::task::JoinSet;

use super::*;

const IMAGE: &str = "localhost:5000/data:1";

fn key(pod: &str) -> Key {
    target(pod).into()
}

fn target(pod: &str) -> Target {
    Target { pod: pod.parse().unwrap(), volume: "v".parse().unwrap(), leaf: "mount".parse().unwrap() }
}

fn request(reference: &str, policy: Option<PullPolicy>) -> VolumeRequest {
    VolumeRequest {
        pod: Arc::default(),
        reference: reference.to_owned(),
        policy,
        claims: Arc::default(),
        platform: None,
    }
}

fn expected(pods: &[&str]) -> BTreeMap<Key, VolumeRequest> {
    pods.iter().map(|pod| (key(pod), request(IMAGE, None))).collect()
}

fn failure() -> VolumeFailure {
    VolumeFailure {
        reason: "ErrImagePull",
        message: "gone".to_owned(),
        outlook: Outlook::Final,
        cause: FailureCause::NotFound,
    }
}

fn goals(wishes: &Wishes) -> Vec<(String, Goal)> {
    wishes.entries.iter().map(|(key, entry)| (key.pod.to_string(), entry.wanted.goal)).collect()
}

#[rstest]
#[case::the_same(IMAGE, Some(PullPolicy::Always), true)]
#[case::another_policy(IMAGE, Some(PullPolicy::Never), false)]
#[case::another_image("localhost:5000/data:2", Some(PullPolicy::Always), false)]
fn a_target_is_published_once(#[case] reference: &str, #[case] policy: Option<PullPolicy>, #[case] same: bool) {
    let mut wishes = Wishes::default();
    wishes.publish(&key("p"), request(IMAGE, Some(PullPolicy::Always))).unwrap();
    let second = wishes.publish(&key("p"), request(reference, policy));
    let conflict = Err(PublishError::Conflict { reference: IMAGE.to_owned() });
    assert_eq!(second, if same { Ok(()) } else { conflict });
}

/// A row has the reference in its full form and no policy.
#[test]
fn what_a_row_tells_of_is_no_conflict() {
    let mut wishes = Wishes::default();
    let row = Decided { image: image(), reference: "docker.io/library/data:latest".to_owned() };
    wishes.adopt(&key("p"), adopted(&key("p"), &row), true);
    wishes.publish(&key("p"), request("data", Some(PullPolicy::Always))).unwrap();
    let other = wishes.publish(&key("p"), request("data:2", Some(PullPolicy::Always)));
    assert!(matches!(other, Err(PublishError::Conflict { .. })));
}

#[test]
fn what_is_expected_is_made_present_and_what_is_published_is_mounted() {
    let mut wishes = Wishes::default();
    wishes.expect(expected(&["a", "b"]));
    wishes.publish(&key("b"), request(IMAGE, None)).unwrap();
    wishes.publish(&key("c"), request(IMAGE, None)).unwrap();
    let goal = |name: &str, goal| (name.to_owned(), goal);
    assert_eq!(goals(&wishes), [goal("a", Goal::Present), goal("b", Goal::Mounted), goal("c", Goal::Mounted)]);
    wishes.expect(expected(&["c"]));
    assert_eq!(goals(&wishes), [goal("b", Goal::Mounted), goal("c", Goal::Mounted)], "a published one stays");
    wishes.fail(&key("b"));
    wishes.fail(&key("c"));
    wishes.expect(expected(&["c"]));
    let waiting = [goal("b", Goal::Present), goal("c", Goal::Present)];
    assert_eq!(goals(&wishes), waiting, "whoever asks again is not asked after");
    wishes.give_up(&key("b"));
    wishes.expect(expected(&[]));
    wishes.forsake(["c".parse().unwrap()].into());
    assert_eq!(goals(&wishes), []);
}

/// The kubelet unpublishes before the API server shows the pod as gone.
#[test]
fn an_unpublished_volume_is_not_expected_again_before_it_was_gone() {
    let mut wishes = Wishes::default();
    wishes.expect(expected(&["p"]));
    wishes.publish(&key("p"), request(IMAGE, None)).unwrap();
    wishes.withdraw(&key("p"));
    wishes.expect(expected(&["p"]));
    assert_eq!(goals(&wishes), []);
    wishes.expect(expected(&[]));
    wishes.expect(expected(&["p"]));
    assert_eq!(goals(&wishes).len(), 1);
    wishes.withdraw(&key("p"));
    wishes.publish(&key("p"), request(IMAGE, None)).unwrap();
    wishes.expect(expected(&["p"]));
    assert_eq!(goals(&wishes), [("p".to_owned(), Goal::Mounted)], "the kubelet knows best");
}

#[test]
fn a_deleted_pod_keeps_what_it_runs_with_and_gets_nothing_more() {
    let mut wishes = Wishes::default();
    for pod in ["running", "pulling", "waiting"] {
        wishes.publish(&key(pod), request(IMAGE, None)).unwrap();
    }
    wishes.entries.get_mut(&key("running")).unwrap().asked = Asked::Mounted;
    wishes.forsake(["running", "pulling"].map(|pod| pod.parse().unwrap()).into());
    assert_eq!(goals(&wishes).into_iter().map(|(pod, _)| pod).collect::<Vec<_>>(), ["running", "waiting"]);
    assert_eq!(wishes.publish(&key("pulling"), request(IMAGE, None)), Err(PublishError::PodDeleted));
    wishes.publish(&key("running"), request(IMAGE, None)).unwrap();
    wishes.expect(expected(&["pulling"]));
    assert_eq!(goals(&wishes).len(), 2);
    wishes.give_up(&key("running"));
    wishes.give_up(&key("waiting"));
    assert_eq!(goals(&wishes).into_iter().map(|(pod, _)| pod).collect::<Vec<_>>(), ["running"]);
}

/// Says what the manager would say after so many attempts.
fn says(volumes: &Volumes, ended: u64, state: impl Into<Option<DoorState>>) {
    let seen = volumes.take().version;
    let report = state.into().map(|state| (key("p"), DoorReport { ended, state }));
    volumes.report(DoorReports { seen, volumes: report.into_iter().collect() });
}

fn image() -> ImageId {
    ImageId::new(format!("sha256:{}", "a".repeat(64)).parse().unwrap())
}

/// A call under way.
struct Call<T>(JoinSet<T>);

impl<T: Send + 'static> Call<T> {
    /// A call that has made its wish known.
    async fn begin(call: impl Future<Output = T> + Send + 'static) -> Self {
        let mut calls = JoinSet::new();
        calls.spawn(call);
        tokio::task::yield_now().await;
        Self(calls)
    }

    /// Whether it waits, after all that can happen now has happened.
    async fn waits(&mut self) -> bool {
        tokio::task::yield_now().await;
        self.0.try_join_next().is_none()
    }

    async fn end(mut self) -> T {
        self.0.join_next().await.unwrap().unwrap()
    }
}

async fn publish(volumes: &Volumes, seconds: u64) -> Call<Result<ImageId, PublishError>> {
    let (volumes, until) = (volumes.clone(), Instant::now() + std::time::Duration::from_secs(seconds));
    Call::begin(async move { volumes.publish(&target("p"), request(IMAGE, None), until).await }).await
}

async fn unpublish(volumes: &Volumes) -> Call<Result<(), UnpublishError>> {
    let volumes = volumes.clone();
    Call::begin(async move { volumes.unpublish(&target("p")).await }).await
}

#[tokio::test(start_paused = true)]
async fn a_publish_ends_when_the_volume_is_mounted() {
    let volumes = Volumes::new();
    let mut publish = publish(&volumes, 110).await;
    says(&volumes, 0, DoorState::Pulling);
    assert!(publish.waits().await);
    says(&volumes, 1, DoorState::Mounted(image()));
    assert_eq!(publish.end().await, Ok(image()));
    let mut again = self::publish(&volumes, 110).await;
    assert!(again.waits().await, "somebody may have unmounted it since");
    says(&volumes, 2, DoorState::Mounted(image()));
    assert_eq!(again.end().await, Ok(image()));
}

#[tokio::test(start_paused = true)]
async fn passing_failures_are_held_and_told_at_the_end() {
    let volumes = Volumes::new();
    let publish = publish(&volumes, 110).await;
    let passing = VolumeFailure {
        outlook: Outlook::Passing { failing_since: Instant::now() },
        cause: FailureCause::Unavailable,
        ..failure()
    };
    let progress = Progress::default();
    let blob = imagevol_cri::progress::Blob::new(image().digest(), 100);
    progress.show(&blob);
    blob.add(31);
    volumes.pulls(&key("p"), Some(progress));
    says(&volumes, 1, DoorState::Failed(passing.clone()));
    let waiting = PublishError::Waiting { done: 31, total: 100, last: Some(passing) };
    assert_eq!(publish.end().await, Err(waiting));
    assert_eq!(volumes.list().len(), 1, "still wanted");
}

/// The image is still looked for, at its own pace: the next call may find it.
#[tokio::test(start_paused = true)]
async fn a_final_failure_is_told_once_no_mount_is_on_its_way() {
    let volumes = Volumes::new();
    let mut publish = publish(&volumes, 110).await;
    says(&volumes, 1, DoorState::Failed(failure()));
    let Taken { wanted, .. } = {
        tokio::task::yield_now().await;
        volumes.take()
    };
    assert!(publish.waits().await, "the manager has not heard of it");
    assert_eq!(wanted[&key("p")].goal, Goal::Present);
    says(&volumes, 1, DoorState::Failed(failure()));
    assert_eq!(publish.end().await, Err(PublishError::Failed(failure())));
}

/// Whoever asked must ask again or unpublish: something may be left.
#[tokio::test(start_paused = true)]
async fn a_final_failure_that_leaves_something_is_not_told_as_final() {
    let volumes = Volumes::new();
    let publish = publish(&volumes, 110).await;
    says(&volumes, 1, DoorState::Failed(failure()));
    tokio::task::yield_now().await;
    says(&volumes, 2, DoorState::Mounted(image()));
    assert!(matches!(publish.end().await, Err(PublishError::Waiting { last: Some(_), .. })));
}

#[tokio::test(start_paused = true)]
async fn a_held_call_ends_with_its_pod() {
    let volumes = Volumes::new();
    let publish = publish(&volumes, 110).await;
    says(&volumes, 0, DoorState::Pulling);
    volumes.forsake(["p".parse().unwrap()].into());
    says(&volumes, 1, DoorState::Leaving(None));
    assert_eq!(publish.end().await, Err(PublishError::PodDeleted));
    assert_eq!(self::publish(&volumes, 110).await.end().await, Err(PublishError::PodDeleted));
}

/// Where the end of pods is told, a call waits for the end of the back-off and for what comes then: the registry is not asked more often,
/// and the kubelet's own back-off does not come on top.
#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_end_of_an_attempt() {
    let volumes = Volumes::new();
    volumes.forsake([].into());
    volumes.expect([(target("p"), request(IMAGE, None))].into());
    says(&volumes, 1, DoorState::Failed(failure()));
    let mut publish = publish(&volumes, 110).await;
    assert!(publish.waits().await);
    says(&volumes, 2, DoorState::Mounted(image()));
    assert_eq!(publish.end().await, Ok(image()));
}

/// Elsewhere a call that waits would keep a deleted pod.
#[tokio::test(start_paused = true)]
async fn a_known_failure_is_the_answer_where_nobody_tells_of_deleted_pods() {
    let volumes = Volumes::new();
    let first = publish(&volumes, 110).await;
    says(&volumes, 1, DoorState::Failed(failure()));
    tokio::task::yield_now().await;
    says(&volumes, 1, DoorState::Failed(failure()));
    assert_eq!(first.end().await, Err(PublishError::Failed(failure())));
    let second = publish(&volumes, 110).await;
    tokio::task::yield_now().await;
    says(&volumes, 1, DoorState::Failed(failure()));
    assert_eq!(second.end().await, Err(PublishError::Failed(failure())));
}

#[tokio::test(start_paused = true)]
async fn an_unpublish_waits_until_nothing_is_left() {
    let volumes = Volumes::new();
    let mut unpublish = unpublish(&volumes).await;
    let Taken { unseen, version: seen, .. } = volumes.take();
    assert_eq!(unseen, [key("p")].into(), "the manager looks at the place itself");
    let leaving = |message: Option<&str>| DoorState::Leaving(message.map(str::to_owned));
    volumes.report(DoorReports { seen, volumes: [(key("p"), DoorReport { ended: 0, state: leaving(None) })].into() });
    assert!(unpublish.waits().await);
    volumes.report(DoorReports {
        seen,
        volumes: [(key("p"), DoorReport { ended: 0, state: leaving(Some("busy")) })].into(),
    });
    assert_eq!(unpublish.end().await, Err(UnpublishError::Failed { message: "busy".to_owned() }));
    let again = self::unpublish(&volumes).await;
    says(&volumes, 0, None);
    assert_eq!(again.end().await, Ok(()));
}
