use imagevol_api::records::{Record, file_name};
use imagevol_base::Digester;
use rstest::rstest;

use super::*;

const IMAGE: &str = "r.io/a:1";

/// A state directory, and the records in it.
struct Node {
    dir: tempfile::TempDir,
    manager: PullManager,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manager = PullManager::open(dir.path(), VerificationPolicy::default(), Metrics::default()).unwrap();
        Self { dir, manager }
    }

    /// The node after a kill.
    fn restarted(self) -> Self {
        let Self { dir, manager } = self;
        drop(manager);
        let manager = PullManager::open(dir.path(), VerificationPolicy::default(), Metrics::default()).unwrap();
        Self { dir, manager }
    }

    fn folder(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("image_manager").join(name)
    }

    fn has_intent(&self) -> bool {
        self.folder("pulling").join(file_name(IMAGE)).exists()
    }

    fn record(&self, id: &ImageId) -> Option<ImagePulledRecord> {
        let bytes = std::fs::read(self.folder("pulled").join(file_name(&id.to_string()))).ok()?;
        Some(ImagePulledRecord::decode(&bytes).unwrap())
    }

    async fn check(&self, image: &str, id: &ImageId) -> Verdict {
        let reference = Reference::parse(image).unwrap().with_default_tag();
        self.manager.check(Request { image: image.to_owned(), reference, id: id.clone() }).await
    }

    async fn intent(&self) -> Intent {
        self.manager.record_pull_intent(IMAGE).await.unwrap()
    }
}

fn id(content: &str) -> ImageId {
    ImageId::new(Digester::sha256(content.as_bytes()))
}

fn open_to_the_node() -> ImagePullCredentials {
    ImagePullCredentials { node_pods_accessible: true, ..ImagePullCredentials::default() }
}

fn image(id: &ImageId, tags: &[&str], digests: &[&str]) -> Image {
    let [repo_tags, repo_digests] = [tags, digests].map(|names| names.iter().map(ToString::to_string).collect());
    Image { id: id.clone(), repo_tags, repo_digests, size: 1, pinned: false }
}

fn preloaded() -> Verdict {
    Verdict::Use(CheckResult::CredentialPolicyAllowed)
}

fn must_prove() -> Verdict {
    Verdict::Pull(CheckResult::MustAuthenticate)
}

#[tokio::test]
async fn an_intent_is_on_disk_until_the_last_pull_ends() {
    let node = Node::new();
    let (first, second) = (node.intent().await, node.intent().await);
    first.withdraw().await;
    assert!(node.has_intent());
    second.withdraw().await;
    assert!(!node.has_intent());
}

#[tokio::test]
async fn a_success_leaves_a_record_in_place_of_the_intent() {
    let (node, id) = (Node::new(), id("a"));
    let mut intent = node.intent().await;
    intent.begin();
    assert_eq!(node.check(IMAGE, &id).await, must_prove());
    intent.succeed(&id, open_to_the_node()).await;
    assert!(!node.has_intent());
    assert_eq!(node.record(&id).unwrap().credential_mapping["r.io/a"], open_to_the_node());
    assert_eq!(node.check(IMAGE, &id).await, Verdict::Use(CheckResult::CredentialRecordFound));
}

#[tokio::test]
async fn names_are_recorded_in_full() {
    let (node, id) = (Node::new(), id("a"));
    node.manager.record_pull_intent("busybox:latest").await.unwrap().succeed(&id, open_to_the_node()).await;
    let keys: Vec<_> = node.record(&id).unwrap().credential_mapping.into_keys().collect();
    assert_eq!(keys, ["docker.io/library/busybox"]);
}

#[tokio::test]
async fn a_pull_that_was_left_keeps_its_intent() {
    let (node, id) = (Node::new(), id("a"));
    let mut left = node.intent().await;
    left.begin();
    drop(left);
    assert!(node.has_intent());
    assert_eq!(node.check(IMAGE, &id).await, must_prove(), "what it brings later is not preloaded");
    node.intent().await.withdraw().await;
    assert!(node.has_intent(), "a later failure says nothing about the one that was left");
}

#[tokio::test]
async fn a_pull_that_never_began_takes_its_intent_back_when_dropped() {
    let node = Node::new();
    drop(node.intent().await);
    while node.has_intent() {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.check(IMAGE, &id("a")).await, preloaded());
}

#[tokio::test]
async fn an_intent_dropped_outside_the_runtime_goes_too() {
    let node = Node::new();
    let intent = node.intent().await;
    std::thread::spawn(move || drop(intent)).join().unwrap();
    assert!(!node.has_intent());
}

#[tokio::test]
async fn a_record_that_cannot_be_written_keeps_the_intent() {
    let (node, id) = (Node::new(), id("a"));
    let mut intent = node.intent().await;
    intent.begin();
    std::fs::remove_dir(node.folder("pulled")).unwrap();
    intent.succeed(&id, open_to_the_node()).await;
    assert!(node.has_intent());
    let node = node.restarted();
    node.manager.recover(vec![image(&id, &[IMAGE], &[])], EarlierPulls::Ended).await.unwrap();
    assert!(!node.has_intent());
    assert!(node.record(&id).unwrap().credential_mapping.is_empty());
}

#[tokio::test]
async fn an_intent_that_cannot_be_written_is_an_error_and_counts_nothing() {
    let node = Node::new();
    std::fs::remove_dir(node.folder("pulling")).unwrap();
    let error = node.manager.record_pull_intent(IMAGE).await.unwrap_err();
    assert!(matches!(error, RecordError::Write { .. }));
    assert_eq!(node.check(IMAGE, &id("a")).await, preloaded());
}

/// Crash between intent and result: nobody gets the image without proof, whatever name it shows.
#[rstest]
#[case::by_tag(IMAGE, &["r.io/a:1"], &[], true)]
#[case::by_short_name("busybox:latest", &["docker.io/library/busybox:latest"], &[], true)]
#[case::by_digest("r.io/a@sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", &[], &[], true)]
#[case::by_tag_and_digest("r.io/a:1@sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", &[], &[], true)]
#[case::by_another_images_digest("r.io/a@sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d", &[], &["r.io/a@sha256:3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"], true)]
#[case::not_there(IMAGE, &["r.io/a:2"], &[], false)]
#[case::not_a_reference("UPPER", &["r.io/a:2"], &[], false)]
#[tokio::test]
async fn a_start_settles_left_over_intents(
    #[case] pulling: &str,
    #[case] tags: &[&str],
    #[case] digests: &[&str],
    #[case] settled: bool,
) {
    let (node, id) = (Node::new(), id("a"));
    let mut left = node.manager.record_pull_intent(pulling).await.unwrap();
    left.begin();
    drop(left);
    let node = node.restarted();
    node.manager.recover(vec![image(&id, tags, digests)], EarlierPulls::MayGoOn).await.unwrap();
    assert_eq!(!node.folder("pulling").join(file_name(pulling)).exists(), settled);
    assert_eq!(node.record(&id).is_some(), settled);
    if settled {
        assert_eq!(node.check(pulling, &id).await, must_prove());
    }
}

/// A pull for another platform is told of by the same intent.
#[tokio::test]
async fn a_start_settles_the_images_of_all_platforms() {
    let (node, [own, other]) = (Node::new(), ["a", "b"].map(id));
    let mut left = node.intent().await;
    left.begin();
    drop(left);
    let node = node.restarted();
    let named = format!("{IMAGE} linux/arm64");
    let images = vec![image(&own, &[IMAGE], &[]), image(&other, &[&named], &[])];
    node.manager.recover(images, EarlierPulls::Ended).await.unwrap();
    assert!(node.record(&own).is_some() && node.record(&other).is_some());
    assert!(!node.has_intent());
}

/// An image service that ended with the daemon brings nothing more. But what it brought may have lost its name since.
#[rstest]
#[case::nothing_here(EarlierPulls::Ended, &[], true)]
#[case::others_here(EarlierPulls::Ended, &["r.io/b:1"], true)]
#[case::of_the_repository(EarlierPulls::Ended, &["r.io/a:other"], false)]
#[case::runtime_goes_on(EarlierPulls::MayGoOn, &[], false)]
#[tokio::test]
async fn a_start_takes_intents_of_nothing_back(
    #[case] earlier: EarlierPulls,
    #[case] tags: &[&str],
    #[case] gone: bool,
) {
    let (node, id) = (Node::new(), id("a"));
    let mut left = node.intent().await;
    left.begin();
    drop(left);
    let node = node.restarted();
    let images: Vec<_> = tags.iter().map(|tag| image(&id, &[tag], &[])).collect();
    node.manager.recover(images.clone(), earlier).await.unwrap();
    assert_eq!(!node.folder("pulling").join(file_name(IMAGE)).exists(), gone);
    if !gone && !tags.is_empty() {
        node.intent().await.succeed(&id, open_to_the_node()).await;
        let node = node.restarted();
        node.manager.recover(images, earlier).await.unwrap();
        assert!(!node.folder("pulling").join(file_name(IMAGE)).exists(), "known by a record now");
    }
}

#[tokio::test]
async fn a_start_keeps_what_was_recorded() {
    let (node, id) = (Node::new(), id("a"));
    node.intent().await.succeed(&id, open_to_the_node()).await;
    let mut left = node.intent().await;
    left.begin();
    drop(left);
    let node = node.restarted();
    node.manager.recover(vec![image(&id, &[IMAGE], &[])], EarlierPulls::Ended).await.unwrap();
    assert_eq!(node.check(IMAGE, &id).await, Verdict::Use(CheckResult::CredentialRecordFound));
}

#[tokio::test]
async fn a_reference_by_digest_sees_pulls_of_its_repository() {
    let (node, id) = (Node::new(), id("a"));
    let _intent = node.intent().await;
    assert_eq!(node.check(&format!("r.io/a@{id}"), &id).await, must_prove());
    assert_eq!(node.check(&format!("r.io/b@{id}"), &id).await, preloaded());
    assert_eq!(node.check("r.io/a:2", &id).await, preloaded());
}

/// Two ways to write one name are one image.
#[rstest]
#[case("busybox:latest", "docker.io/library/busybox:latest", true)]
#[case("docker.io/library/busybox:latest", "busybox:latest", true)]
#[case("index.docker.io/library/busybox:latest", "busybox:latest", true)]
#[case("busybox:1", "busybox:2", false)]
#[case("r.io/a:1@sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "r.io/a:1", true)]
#[case("r.io/a@sha256:ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", "r.io/a:1", false)]
#[tokio::test]
async fn an_intent_counts_however_it_is_written(#[case] pulling: &str, #[case] wanted: &str, #[case] counts: bool) {
    let node = Node::new();
    let _intent = node.manager.record_pull_intent(pulling).await.unwrap();
    let expected = if counts { must_prove() } else { preloaded() };
    assert_eq!(node.check(wanted, &id("a")).await, expected);
}

/// An id is no name: what is allowed or recorded of repositories says nothing of it, and any pull may have brought its image.
#[tokio::test]
async fn an_image_by_its_id_is_of_no_repository() {
    let node = Node::new();
    let (image, named) = (id("a"), id("a").to_string());
    assert_eq!(node.check(&named, &image).await, preloaded());
    let intent = node.intent().await;
    assert_eq!(node.check(&named, &image).await, must_prove());
    assert_eq!(node.check(&named, &id("b")).await, preloaded(), "a tag of docker.io/library/sha256");
    intent.succeed(&image, open_to_the_node()).await;
    assert_eq!(node.check(&named, &image).await, must_prove(), "it was opened under another name");
    let list = imagevol_api::config::Allowlist::parse(&["docker.io/library/*"]).unwrap();
    let policy = VerificationPolicy::NeverVerifyAllowlistedImages(list);
    let manager = PullManager::open(node.dir.path(), policy, Metrics::default()).unwrap();
    let node = Node { manager, ..node };
    assert_eq!(node.check(&named, &image).await, must_prove());
    assert_eq!(node.check("busybox", &image).await, preloaded());
}

#[tokio::test]
async fn prunes_records_of_images_that_are_gone() {
    let (node, [kept, gone, young]) = (Node::new(), ["a", "b", "c"].map(id));
    for id in [&kept, &gone] {
        node.intent().await.succeed(id, open_to_the_node()).await;
    }
    // Records hold whole seconds: the later record has to be of a later one.
    let until = jiff::Timestamp::now() + std::time::Duration::from_secs(1);
    let mut record = node.record(&gone).unwrap();
    record.image_ref = young.to_string();
    record.last_updated_time = Time(until);
    std::fs::write(node.folder("pulled").join(record.file_name()), record.encode().unwrap()).unwrap();
    node.manager.prune(BTreeSet::from([kept.clone()]), until).await.unwrap();
    let left = [&kept, &gone, &young].map(|id| node.record(id).is_some());
    assert_eq!(left, [true, false, true]);
}

#[tokio::test]
async fn pulls_of_many_images_end_clean() {
    let node = Node::new();
    let pulls = (0..20).map(|number| {
        let manager = node.manager.clone();
        async move {
            let image = format!("r.io/a:{}", number % 4);
            let mut intent = manager.record_pull_intent(&image).await.unwrap();
            intent.begin();
            if number % 2 == 0 {
                intent.succeed(&id(&number.to_string()), open_to_the_node()).await;
            } else {
                intent.withdraw().await;
            }
        }
    });
    futures_util::future::join_all(pulls).await;
    assert_eq!(std::fs::read_dir(node.folder("pulling")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(node.folder("pulled")).unwrap().count(), 10);
    assert!(node.manager.0.intents().is_empty());
}
