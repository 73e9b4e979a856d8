//! Who may use what with which claims: the matrix of KEP-2535 at the doors, and of KEP-4412.

use std::os::unix::fs::symlink;
use std::path::Path;

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::claims::ServiceAccountClaim;
use crate::providers::CredentialProviders;

/// What a pod shows.
#[derive(Debug, Clone, Copy)]
enum Shows {
    Nothing,
    /// A secret that it names, with a password for alice.
    Named {
        namespace: &'static str,
        name: &'static str,
        password: &'static str,
    },
    /// A secret that came with its request.
    Inline {
        namespace: &'static str,
        password: &'static str,
    },
    /// Its service account, which a plugin takes for alice.
    Account {
        namespace: &'static str,
        name: &'static str,
        uid: &'static str,
    },
}

const INLINE: Shows = Shows::Inline { namespace: "n", password: "one" };
const INLINE_ELSEWHERE: Shows = Shows::Inline { namespace: "m", password: "one" };
const INLINE_ROTATED: Shows = Shows::Inline { namespace: "n", password: "two" };
const NAMED: Shows = Shows::Named { namespace: "n", name: "s", password: "one" };
const NAMED_ELSEWHERE: Shows = Shows::Named { namespace: "m", name: "s", password: "one" };
const NAMED_ROTATED: Shows = Shows::Named { namespace: "n", name: "s", password: "two" };
const NAMED_OTHER: Shows = Shows::Named { namespace: "n", name: "other", password: "two" };
const ACCOUNT: Shows = Shows::Account { namespace: "n", name: "a", uid: "u" };
const ACCOUNT_OTHER: Shows = Shows::Account { namespace: "n", name: "b", uid: "v" };
const ACCOUNT_ELSEWHERE: Shows = Shows::Account { namespace: "m", name: "a", uid: "w" };
const ACCOUNT_MADE_ANEW: Shows = Shows::Account { namespace: "n", name: "a", uid: "x" };
const ACCOUNT_UNKNOWN: Shows = Shows::Account { namespace: "n", name: "a", uid: "" };

pub(super) fn docker_config(user: &str, password: &str) -> String {
    json!({"auths": {"localhost:5000": {"username": user, "password": password}}}).to_string()
}

pub(super) fn inline(namespace: &str, user: &str, password: &str) -> PullSecret {
    let data = docker_config(user, password).into_bytes();
    PullSecret::inline(namespace, PullSecretKind::DockerConfigJson, data)
}

/// A plugin that answers service accounts, and with `anybody` others too, with `user`.
pub(super) fn plugin(dir: &Path, user: &str, anybody: bool) -> CredentialProviders {
    let name = format!("plugin-{user}");
    symlink("/bin/sh", dir.join(&name)).unwrap();
    let version = "credentialprovider.kubelet.k8s.io/v1";
    let auth = json!({"localhost:5000": {"username": user, "password": "of the plugin"}});
    let answer =
        json!({"kind": "CredentialProviderResponse", "apiVersion": version, "cacheKeyType": "Image", "auth": auth});
    let tokens = json!({"serviceAccountTokenAudience": "registry", "cacheType": "ServiceAccount", "requireServiceAccount": true});
    let mut plugin = json!({"name": name, "matchImages": ["localhost:5000"], "defaultCacheDuration": "1h",
        "apiVersion": version, "args": ["-c", "printf '%s' \"$ANSWER\""], "env": [{"name": "ANSWER", "value": answer.to_string()}]});
    if !anybody {
        plugin.as_object_mut().unwrap().insert("tokenAttributes".to_owned(), tokens);
    }
    let config =
        json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [plugin]});
    std::fs::write(dir.join("plugins.yaml"), config.to_string()).unwrap();
    CredentialProviders::load(&dir.join("plugins.yaml"), dir, &Metrics::default()).unwrap()
}

/// Alice's image is on the registry; accounts are taken for alice.
fn private() -> (World, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let world = World::with(Settings { providers: plugin(dir.path(), "alice", false), ..Settings::default() });
    world.service.offer_to(IMAGE, "private", 1, &["alice"]);
    (world, dir)
}

impl World {
    pub(super) fn claim(&self, pod: &str, claims: Claims) {
        self.claims.lock().unwrap().insert(pod.to_owned(), claims);
    }

    fn show(&self, pod: &str, shows: Shows) {
        match shows {
            Shows::Nothing => {}
            Shows::Named { namespace, name, password } => {
                self.give_data(pod, namespace, name, &docker_config("alice", password));
            }
            Shows::Inline { namespace, password } => {
                let secrets = vec![inline(namespace, "alice", password)];
                self.claim(pod, Claims { secrets, ..Claims::default() });
            }
            Shows::Account { namespace, name, uid } => {
                let tokens = BTreeMap::from([("registry".to_owned(), format!("token of {pod}").into())]);
                let [namespace, name, uid] = [namespace, name, uid].map(str::to_owned);
                let account = ServiceAccountClaim { namespace, name, uid, annotations: BTreeMap::new(), tokens };
                self.claim(pod, Claims { service_account: Some(account), ..Claims::default() });
            }
        }
    }

    pub(super) fn pulls(&self) -> Vec<Call> {
        self.service.take_calls().into_iter().filter(|call| matches!(call, Call::Pull(..))).collect()
    }
}

/// A second pod asks for the private image that a first has pulled. Who proves nothing is refused a copy that may not be pulled,
/// and else sent to the registry.
#[rstest]
#[case::inline_then_nothing(INLINE, Shows::Nothing, false)]
#[case::inline_then_the_same(INLINE, INLINE, true)]
#[case::inline_then_the_same_elsewhere(INLINE, INLINE_ELSEWHERE, true)]
#[case::inline_then_rotated(INLINE, INLINE_ROTATED, false)]
#[case::inline_then_a_named_one_of_the_same_content(INLINE, NAMED_ELSEWHERE, true)]
#[case::inline_then_a_named_one(INLINE, NAMED_ROTATED, false)]
#[case::named_then_the_same_content_inline(NAMED, INLINE_ELSEWHERE, true)]
#[case::named_then_other_content_inline(NAMED, INLINE_ROTATED, false)]
#[case::named_then_rotated(NAMED, NAMED_ROTATED, true)]
#[case::named_then_same_content_elsewhere(NAMED, NAMED_ELSEWHERE, true)]
#[case::named_then_another(NAMED, NAMED_OTHER, false)]
#[case::account_then_nothing(ACCOUNT, Shows::Nothing, false)]
#[case::account_then_the_same(ACCOUNT, ACCOUNT, true)]
#[case::account_then_another(ACCOUNT, ACCOUNT_OTHER, false)]
#[case::account_then_of_that_name_elsewhere(ACCOUNT, ACCOUNT_ELSEWHERE, false)]
#[case::account_then_made_anew(ACCOUNT, ACCOUNT_MADE_ANEW, false)]
#[case::account_then_uid_not_known(ACCOUNT, ACCOUNT_UNKNOWN, false)]
#[case::unknown_account_then_itself(ACCOUNT_UNKNOWN, ACCOUNT_UNKNOWN, false)]
#[case::account_then_a_secret(ACCOUNT, INLINE, false)]
#[case::secret_then_an_account(INLINE, ACCOUNT, false)]
#[tokio::test]
async fn a_private_image_is_used_by_who_proves_his_right(
    #[case] first: Shows,
    #[case] second: Shows,
    #[case] proved: bool,
) {
    let (world, _dir) = private();
    world.show("first", first);
    world.ensure("first", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(world.pulls().len(), 1);
    world.show("second", second);
    let never = world.ensure("second", IMAGE, PullPolicy::Never).await;
    assert_eq!(never.err().map_or("", |error| error.reason()), if proved { "" } else { "ErrImageNeverPull" });
    let pulled = world.ensure("second", IMAGE, PullPolicy::IfNotPresent).await;
    assert_eq!(pulled.is_ok(), proved || !matches!(second, Shows::Nothing));
    assert_eq!(world.pulls().len(), usize::from(!proved), "who proves it need not ask the registry");
}

/// What one proved at the registry is remembered beside what others did, and does not take its place.
#[tokio::test]
async fn all_who_proved_it_may_use_it_without_the_registry() {
    let (world, _dir) = private();
    let all = [INLINE, INLINE_ROTATED, NAMED_OTHER, ACCOUNT, ACCOUNT_OTHER, ACCOUNT_MADE_ANEW];
    for (number, shows) in all.into_iter().enumerate() {
        world.show(&format!("p{number}"), shows);
        world.ensure(&format!("p{number}"), IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    }
    for (number, shows) in all.into_iter().enumerate() {
        assert!(world.ensure(&format!("p{number}"), IMAGE, PullPolicy::Never).await.is_ok(), "{shows:?}");
    }
    let nobody = world.ensure("nobody", IMAGE, PullPolicy::Never).await;
    assert_eq!(nobody.unwrap_err().reason(), "ErrImageNeverPull");
}

#[tokio::test]
async fn an_anonymous_pull_opens_it_to_claims_of_all_kinds() {
    let (world, _dir) = private();
    world.service.offer(IMAGE, "public", 1);
    world.ensure("first", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    for (pod, shows) in [("q", Shows::Nothing), ("r", INLINE), ("s", ACCOUNT)] {
        world.show(pod, shows);
        assert!(world.ensure(pod, IMAGE, PullPolicy::Never).await.is_ok(), "{shows:?}");
    }
}

/// Both wait for the same image at the same time: each shows the registry its own.
#[tokio::test]
async fn of_two_at_a_time_the_wrong_one_gains_nothing() {
    let (world, _dir) = private();
    world.service.close_gate();
    world.show("good", INLINE);
    world.claim("bad", Claims { secrets: vec![inline("n", "bob", "one")], ..Claims::default() });
    let (good, bad, ()) = tokio::join!(
        world.ensure("good", IMAGE, PullPolicy::IfNotPresent),
        world.ensure("bad", IMAGE, PullPolicy::IfNotPresent),
        async {
            until(|| world.service.pulling() == 2).await;
            world.service.let_through(2);
        }
    );
    assert!(good.is_ok());
    assert_eq!(bad.unwrap_err().message(), "localhost:5000/data:1: bob may not pull");
    let after = world.ensure("bad", IMAGE, PullPolicy::Never).await;
    assert_eq!(after.unwrap_err().reason(), "ErrImageNeverPull");
}

/// The daemon dies between the end of a pull and its record: the image is there, and nobody's.
#[rstest]
#[case(INLINE)]
#[case(ACCOUNT)]
#[tokio::test]
async fn after_a_crash_everybody_proves_it_again(#[case] shows: Shows) {
    let (world, _dir) = private();
    let mut intent = world.manager.records.record_pull_intent(IMAGE).await.unwrap();
    intent.begin();
    std::mem::forget(intent);
    world.service.preload(IMAGE, "private", 1);
    let records = PullManager::open(world.dir.path(), VerificationPolicy::default(), Metrics::default()).unwrap();
    let world = World { manager: ImageManager { records, ..world.manager }, ..world };
    world.manager.recover(EarlierPulls::Ended).await.unwrap();
    world.show("p", shows);
    assert_eq!(world.ensure("p", IMAGE, PullPolicy::Never).await.unwrap_err().reason(), "ErrImageNeverPull");
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    assert!(world.ensure("p", IMAGE, PullPolicy::Never).await.is_ok());
}

#[tokio::test]
async fn the_pods_secrets_come_first_then_claims_then_the_nodes_files_then_plugins() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::with(Settings { providers: plugin(dir.path(), "erin", true), ..Settings::default() });
    world.service.offer_to(IMAGE, "private", 1, &["erin"]);
    world.give_secret("p", "n", "bob");
    world.claim("p", Claims { secrets: vec![inline("n", "carol", "c")], ..Claims::default() });
    std::fs::write(world.dir.path().join("config.json"), docker_config("dave", "d")).unwrap();
    world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(world.pulls(), ["bob", "carol", "dave", "erin"].map(|user| pull_as(IMAGE, user)));
    assert!(world.ensure("q", IMAGE, PullPolicy::Never).await.is_ok(), "what a plugin gives to all opens it to all");
}

#[tokio::test]
async fn a_plugin_for_accounts_is_not_asked_for_a_pod_whose_account_is_not_proved() {
    let (world, _dir) = private();
    let error = world.ensure("p", IMAGE, PullPolicy::IfNotPresent).await.unwrap_err();
    assert_eq!(world.pulls(), [pull(IMAGE)]);
    assert_eq!(error.reason(), "ErrImagePull");
}

#[tokio::test]
async fn a_broken_secret_of_a_request_is_said_without_a_name() {
    let (world, _dir) = private();
    let secret = PullSecret::inline("n", PullSecretKind::DockerCfg, b"{\"hunter2".to_vec());
    world.claim("p", Claims { secrets: vec![secret], ..Claims::default() });
    let error = world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err();
    let text = "failed to read the pull secret that came with the request: not a docker configuration: unexpected end at line 1 column 9";
    assert_eq!((error.is_final(), &*error.message()), (true, text));
}

/// A door asks for the image as soon as it knows of the pod, and is handed secrets or tokens later.
#[rstest]
#[case(INLINE)]
#[case(ACCOUNT)]
#[tokio::test]
async fn who_shows_more_than_before_need_not_wait(#[case] shows: Shows) {
    let (world, _dir) = private();
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), reason);
    }
    world.show("p", shows);
    world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap();
}

#[tokio::test]
async fn who_shows_other_content_waits_for_what_failed() {
    let (world, _dir) = private();
    for (password, reason) in [("one", "ErrImagePull"), ("two", "ImagePullBackOff")] {
        world.claim("p", Claims { secrets: vec![inline("n", "bob", password)], ..Claims::default() });
        assert_eq!(world.ensure("p", IMAGE, PullPolicy::Always).await.unwrap_err().reason(), reason);
    }
}
