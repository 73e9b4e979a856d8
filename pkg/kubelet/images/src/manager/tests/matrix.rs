//! The matrix of KEP-2535, whole: every policy, by what is recorded, by what a pod shows through whichever door, by pull policy.
//!
//! What is expected is said by an oracle that speaks of tenants and what they have proved, and shares no code with what is tested.

use imagevol_api::config::Allowlist;
use imagevol_api::metav1::Time;
use imagevol_api::records::{
    ImagePullCredentials, ImagePullSecret, ImagePullServiceAccount, ImagePulledRecord, Record as _, file_name,
};

use rstest::rstest;

use super::claims::{docker_config, inline, plugin};
use super::*;
use crate::claims::ServiceAccountClaim;
use crate::keyring::{CredentialSource, DockerConfig, Keyring};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    NeverVerify,
    Preloaded,
    /// The image is on the list.
    Listed,
    /// Another is.
    Unlisted,
    Always,
}

/// What the node knows of the image that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing: it was there before.
    Nothing,
    /// That a pull of it was begun, and not how that ended.
    Begun,
    /// That it was pulled, and not for whom: left by a crash.
    Empty,
    Open,
    ByNamed,
    ByInline,
    ByAccount,
    Unreadable,
    /// The same image, opened and pulled under another name.
    OpenElsewhere,
    ByNamedElsewhere,
}

/// What a pod shows. `A` are alice's, whom the registry lets have the image; `B` are bob's, whom it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Nothing,
    NamedA,
    NamedARotated,
    NamedAInOtherNamespace,
    NamedB,
    /// The name of A's secret, in another namespace.
    NamedBLikeA,
    InlineA,
    InlineARotated,
    InlineAInOtherNamespace,
    InlineB,
    Account,
    AccountMadeAnew,
    AccountInOtherNamespace,
    AccountWithoutUid,
}

/// An intent that an interrupted pull has left stays until the next start: it comes last.
const KNOWN: [Known; 10] = [
    Known::Nothing,
    Known::Empty,
    Known::Open,
    Known::ByNamed,
    Known::ByInline,
    Known::ByAccount,
    Known::Unreadable,
    Known::OpenElsewhere,
    Known::ByNamedElsewhere,
    Known::Begun,
];
const SHOWN: [Shown; 14] = [
    Shown::Nothing,
    Shown::NamedA,
    Shown::NamedARotated,
    Shown::NamedAInOtherNamespace,
    Shown::NamedB,
    Shown::NamedBLikeA,
    Shown::InlineA,
    Shown::InlineARotated,
    Shown::InlineAInOtherNamespace,
    Shown::InlineB,
    Shown::Account,
    Shown::AccountMadeAnew,
    Shown::AccountInOtherNamespace,
    Shown::AccountWithoutUid,
];
const PULL_POLICIES: [PullPolicy; 3] = [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never];

/// What becomes of a request: whether the registry is asked, and what the pod gets.
#[derive(Debug, PartialEq, Eq)]
struct Becomes {
    asked: bool,
    reason: &'static str,
}

/// Whose image it is, without asking the registry.
fn may_use(policy: Policy, known: Known, shown: Shown) -> bool {
    use Shown::{InlineA, InlineAInOtherNamespace, NamedA, NamedAInOtherNamespace, NamedARotated};
    let exempt = match policy {
        Policy::NeverVerify | Policy::Listed => true,
        Policy::Preloaded => known == Known::Nothing,
        Policy::Unlisted | Policy::Always => false,
    };
    let same_content = matches!(shown, NamedA | NamedAInOtherNamespace | InlineA | InlineAInOtherNamespace);
    let proved = match known {
        Known::Open => true,
        // A secret with a name stays the same when its content changes.
        Known::ByNamed => same_content || shown == NamedARotated,
        Known::ByInline => same_content,
        Known::ByAccount => shown == Shown::Account,
        Known::Nothing
        | Known::Begun
        | Known::Empty
        | Known::Unreadable
        | Known::OpenElsewhere
        | Known::ByNamedElsewhere => false,
    };
    exempt || proved
}

/// Whom the registry lets have the image.
fn is_alice(shown: Shown) -> bool {
    !matches!(shown, Shown::Nothing | Shown::NamedB | Shown::NamedBLikeA | Shown::InlineB)
}

fn expected(policy: Policy, known: Known, shown: Shown, pull_policy: PullPolicy) -> Becomes {
    let may_use = may_use(policy, known, shown);
    let asked = match pull_policy {
        PullPolicy::Always => true,
        PullPolicy::IfNotPresent => !may_use,
        PullPolicy::Never => false,
    };
    let reason = match (asked, may_use) {
        (true, _) if is_alice(shown) => "",
        (true, _) => "ErrImagePull",
        (false, true) => "",
        (false, false) => "ErrImageNeverPull",
    };
    Becomes { asked, reason }
}

fn node(policy: Policy, plugins: &tempfile::TempDir) -> World {
    let list = |name: &str| VerificationPolicy::NeverVerifyAllowlistedImages(Allowlist::parse(&[name]).unwrap());
    let policy = match policy {
        Policy::NeverVerify => VerificationPolicy::NeverVerify,
        Policy::Preloaded => VerificationPolicy::NeverVerifyPreloadedImages,
        Policy::Listed => list("localhost:5000/data"),
        Policy::Unlisted => list("localhost:5000/other"),
        Policy::Always => VerificationPolicy::AlwaysVerify,
    };
    let providers = plugin(plugins.path(), "alice", false);
    let world = World::with(Settings { policy, providers, ..Settings::default() });
    world.service.offer_to(IMAGE, "private", 1, &["alice"]);
    world.service.preload(IMAGE, "private", 1);
    world
}

impl World {
    /// Puts a record, or none, in place of what an earlier request left.
    fn know(&self, known: Known) {
        let id = FakeImageService::id_of("private").to_string();
        let path = self.dir.path().join("image_manager/pulled").join(file_name(&id));
        let (repository, credentials) = match known {
            Known::Nothing | Known::Begun => return drop(std::fs::remove_file(path)),
            Known::Unreadable => return std::fs::write(path, "{").unwrap(),
            Known::Empty => ("localhost:5000/data", None),
            Known::Open => ("localhost:5000/data", Some(ImagePullCredentials::for_all_pods())),
            Known::OpenElsewhere => ("localhost:5000/other", Some(ImagePullCredentials::for_all_pods())),
            Known::ByNamed => ("localhost:5000/data", Some(by_secret("s", "uid-n-s"))),
            Known::ByNamedElsewhere => ("localhost:5000/other", Some(by_secret("s", "uid-n-s"))),
            Known::ByInline => ("localhost:5000/data", Some(by_secret("", ""))),
            Known::ByAccount => ("localhost:5000/data", Some(by_account())),
        };
        let mut record = ImagePulledRecord::new(id, Time(jiff::Timestamp::UNIX_EPOCH));
        record.credential_mapping.extend(credentials.map(|credentials| (repository.to_owned(), credentials)));
        std::fs::write(path, record.encode().unwrap()).unwrap();
    }

    fn show_through_a_door(&self, pod: &str, shown: Shown) {
        let named = |namespace, name, user, password| {
            self.give_data(pod, namespace, name, &docker_config(user, password));
        };
        let inline = |namespace, user, password| {
            let secrets = vec![inline(namespace, user, password)];
            self.claim(pod, Claims { secrets, ..Claims::default() });
        };
        let account = |namespace: &str, uid: &str| {
            let tokens = BTreeMap::from([("registry".to_owned(), format!("token of {pod}").into())]);
            let [namespace, name, uid] = [namespace, "a", uid].map(str::to_owned);
            let account = ServiceAccountClaim { namespace, name, uid, annotations: BTreeMap::new(), tokens };
            self.claim(pod, Claims { service_account: Some(account), ..Claims::default() });
        };
        match shown {
            Shown::Nothing => {}
            Shown::NamedA => named("n", "s", "alice", "one"),
            Shown::NamedARotated => named("n", "s", "alice", "two"),
            Shown::NamedAInOtherNamespace => named("m", "t", "alice", "one"),
            Shown::NamedB => named("n", "t", "bob", "one"),
            Shown::NamedBLikeA => named("m", "s", "bob", "one"),
            Shown::InlineA => inline("n", "alice", "one"),
            Shown::InlineARotated => inline("n", "alice", "two"),
            Shown::InlineAInOtherNamespace => inline("m", "alice", "one"),
            Shown::InlineB => inline("n", "bob", "one"),
            Shown::Account => account("n", "u"),
            Shown::AccountMadeAnew => account("n", "x"),
            Shown::AccountInOtherNamespace => account("m", "w"),
            Shown::AccountWithoutUid => account("n", ""),
        }
    }
}

/// Alice's secret `one` in namespace `n`.
fn by_secret(name: &str, uid: &str) -> ImagePullCredentials {
    let mut ring = Keyring::default();
    ring.add(
        &CredentialSource::Node,
        DockerConfig::from_config_json(docker_config("alice", "one").as_bytes()).unwrap(),
    );
    let credential_hash = ring.lookup("localhost:5000/data")[0].hash.to_string();
    let [namespace, name, uid] = ["n", name, uid].map(str::to_owned);
    let secret = ImagePullSecret { uid, namespace, name, credential_hash };
    ImagePullCredentials { kubernetes_secrets: vec![secret], ..ImagePullCredentials::default() }
}

fn by_account() -> ImagePullCredentials {
    let [uid, namespace, name] = ["u", "n", "a"].map(str::to_owned);
    let account = ImagePullServiceAccount { uid, namespace, name };
    ImagePullCredentials { kubernetes_service_accounts: vec![account], ..ImagePullCredentials::default() }
}

/// 420 requests for each policy, none of which gets an image to which its pod has no right; each is answered as the oracle says, and who
/// has proved his right at the registry need not go there again.
#[rstest]
#[case(Policy::NeverVerify)]
#[case(Policy::Preloaded)]
#[case(Policy::Listed)]
#[case(Policy::Unlisted)]
#[case(Policy::Always)]
#[tokio::test]
async fn nobody_uses_an_image_without_a_right_to_it(#[case] policy: Policy) {
    let plugins = tempfile::tempdir().unwrap();
    let (world, mut requests) = (node(policy, &plugins), 0);
    for known in KNOWN {
        if known == Known::Begun {
            let mut intent = world.manager.records.record_pull_intent(IMAGE).await.unwrap();
            intent.begin();
        }
        for (shown, pull_policy) in SHOWN.into_iter().flat_map(|shown| PULL_POLICIES.map(|policy| (shown, policy))) {
            requests += 1;
            let pod = format!("pod-{requests}");
            world.know(known);
            world.show_through_a_door(&pod, shown);
            check(&world, &pod, (policy, known, shown, pull_policy)).await;
        }
    }
    assert_eq!(requests, 420);
}

async fn check(world: &World, pod: &str, case: (Policy, Known, Shown, PullPolicy)) {
    let (policy, known, shown, pull_policy) = case;
    let got = world.ensure(pod, IMAGE, pull_policy).await;
    let reason = got.as_ref().err().map_or("", ImageError::reason);
    let asked = !world.pulls().is_empty();
    assert!(got.is_err() || may_use(policy, known, shown) || is_alice(shown), "unauthorised: {case:?}");
    assert_eq!(Becomes { asked, reason }, expected(policy, known, shown, pull_policy), "{case:?}");
    let bound = world.service.bound(&holder(pod, "volume"));
    assert_eq!(bound.is_some(), got.is_ok(), "{case:?}");
    if got.is_ok() && asked {
        let again = world.ensure(pod, IMAGE, PullPolicy::Never).await.is_ok();
        // What was pulled is preloaded no more. An account that could be any of its name is not remembered.
        let known = if known == Known::Nothing { Known::Empty } else { known };
        let remembered = shown != Shown::AccountWithoutUid || may_use(policy, known, shown);
        assert_eq!(again, remembered, "after the pull: {case:?}");
    }
}
