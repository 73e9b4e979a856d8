use rstest::rstest;
use serde_json::{Value, json};

use imagevol_api::text::chain;
use imagevol_test_support::apiserver::ApiFault;
use imagevol_test_support::registry::Gate;

use super::super::testing::Fixture;
use super::*;

const SECRETS_A: &str = "/api/v1/namespaces/a/secrets";

/// The manifests of this node: they have every secret.
struct Manifests;

#[async_trait]
impl PullSecrets for Manifests {
    async fn for_pod(&self, _pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        Ok(PodPullSecrets { missing: vec!["of the manifests".into()], ..PodPullSecrets::default() })
    }
}

fn secret(name: &str, type_: &str) -> Value {
    // {}
    json!({"metadata": {"name": name}, "type": type_, "data": {".dockerconfigjson": "e30=", "key": "e30="}})
}

fn pod(secrets: &[&str]) -> Pod {
    let secrets: Vec<_> = secrets.iter().map(|name| json!({"name": name})).collect();
    serde_json::from_value(
        json!({"metadata": {"namespace": "a"}, "spec": {"containers": [], "imagePullSecrets": secrets}}),
    )
    .unwrap()
}

fn pull_secrets(fixture: &Fixture) -> ClusterPullSecrets {
    fixture.fake.put(SECRETS_A, secret("one", "kubernetes.io/dockerconfigjson"));
    fixture.fake.put(SECRETS_A, secret("two", "kubernetes.io/dockerconfigjson"));
    fixture.fake.put(SECRETS_A, secret("other", "Opaque"));
    ClusterPullSecrets::new(fixture.server.clone(), Arc::new(Manifests), &fixture.supervisor)
}

fn names(secrets: &PodPullSecrets) -> (Vec<&str>, Vec<&str>) {
    let found = secrets.found.iter().map(|secret| secret.coordinates.name.as_str());
    (found.collect(), secrets.missing.iter().map(String::as_str).collect())
}

#[tokio::test(start_paused = true)]
async fn finds_the_secrets_in_the_order_of_the_pod() {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    let found = secrets.for_pod(&pod(&["two", "", "absent", "other", "../b/x", "one"])).await.unwrap();
    assert_eq!(names(&found), (vec!["two", "one"], vec!["absent", "../b/x"]));
    assert_eq!(found.found[0].coordinates.namespace, "a");
    assert_eq!(fixture.fake.requests().len(), 4);
}

#[rstest]
#[case::of_a_file(Some("file"), true)]
#[case::of_the_socket(Some("http"), true)]
#[case::of_the_api(Some("api"), false)]
#[case::unmarked(None, false)]
#[tokio::test(start_paused = true)]
async fn asks_where_the_pod_came_from(#[case] source: Option<&str>, #[case] of_manifests: bool) {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    let mut pod = pod(&["one"]);
    pod.metadata.annotations = source.map(|source| [(SOURCE_ANNOTATION.to_owned(), source.to_owned())].into());
    let found = secrets.for_pod(&pod).await.unwrap();
    let wanted = if of_manifests { (vec![], vec!["of the manifests"]) } else { (vec!["one"], vec![]) };
    assert_eq!(names(&found), wanted);
    let without = ManifestPullSecrets::new(Arc::new(Manifests)).for_pod(&pod).await.unwrap();
    assert_eq!(names(&without), if of_manifests { wanted } else { (vec![], vec![]) });
}

#[tokio::test(start_paused = true)]
async fn reads_a_secret_again_after_a_minute() {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    for _ in 0..3 {
        secrets.for_pod(&pod(&["one", "absent"])).await.unwrap();
    }
    assert_eq!((fixture.fake.count("secrets/one"), fixture.fake.count("secrets/absent")), (1, 1));
    fixture.fake.remove(SECRETS_A, "one");
    tokio::time::sleep(FRESH).await;
    assert_eq!(names(&secrets.for_pod(&pod(&["one"])).await.unwrap()), (vec![], vec!["one"]));
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_make_one_request() {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    let gate = Gate::new();
    fixture.fake.fail(1, "secrets/one", ApiFault::Hold(gate.clone()));
    let pod = pod(&["one"]);
    let asking = futures_util::future::join_all((0..5).map(|_| secrets.for_pod(&pod)));
    let opening = async {
        gate.arrived(1).await;
        gate.open();
    };
    let (found, ()) = tokio::join!(asking, opening);
    assert!(found.iter().all(|found| names(found.as_ref().unwrap()).0 == ["one"]));
    assert_eq!(fixture.fake.count("secrets/one"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_serves_for_a_while_when_the_server_is_away() {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    secrets.for_pod(&pod(&["one"])).await.unwrap();
    fixture.fake.fail(100, "", ApiFault::status(503));
    tokio::time::sleep(USABLE.saturating_sub(Duration::from_secs(1))).await;
    assert_eq!(names(&secrets.for_pod(&pod(&["one"])).await.unwrap()).0, ["one"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let error = secrets.for_pod(&pod(&["one"])).await.unwrap_err();
    assert_eq!(
        chain(&error),
        "failed to get the pull secrets of the pod: a pull secret could not be read: cannot get secrets a/one: \
         the API server answered 503: the fake API server says 503 "
    );
    fixture.fake.heal();
    assert_eq!(names(&secrets.for_pod(&pod(&["one"])).await.unwrap()).0, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_told_with_its_cure() {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    fixture.fake.fail(1, "", ApiFault::Status { code: 403, reason: "Forbidden" });
    let error = chain(&secrets.for_pod(&pod(&["one"])).await.unwrap_err());
    assert!(error.contains("kubernetes.imagePullSecrets") && error.contains("cannot get secrets a/one"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_secret_is_not_shown() {
    let fixture = Fixture::new();
    let secrets = pull_secrets(&fixture);
    let body = r#"{"kind": "Secret", "data": "s3cret"}"#;
    fixture.fake.fail(1, "", ApiFault::Answer { code: 200, body: body.into() });
    let error = secrets.for_pod(&pod(&["one"])).await.unwrap_err();
    let text = format!("{} {error:?}", chain(&error));
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn keeps_a_bounded_number_for_a_bounded_time() {
    let (mut kept, start) = (Kept::default(), Instant::now());
    let name = |number: usize| ("a".to_owned(), number.to_string());
    for number in 0..MAX_KEPT + 2 {
        kept.put(name(number), Held::Missing, start + Duration::from_millis(number.try_into().unwrap()));
    }
    assert_eq!(kept.0.len(), MAX_KEPT);
    assert!(kept.get(&name(1), USABLE, start).is_none() && kept.get(&name(2), USABLE, start).is_some());
    kept.put(name(0), Held::Missing, start + 2 * USABLE);
    assert_eq!(kept.0.len(), 1);
}
