//! Tenants who share a node: nobody gets content from it that his registry does not give him.

use http::Method;
use imagevol_api::auth::{AuthConfig, Credential};
use imagevol_api::oci::Digest;
use imagevol_cri::{ImageReferences as _, ImageService as _, ImageServiceError, Progress};
use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::{AuthMode, FakeRegistry, Fault, Gate};

use crate::support::{Node, until, volume};

/// Large enough that a download can stall in the middle of it.
const SIZE: usize = 300_000;

/// An image of somebody, with content that nobody else has.
fn secret() -> Image {
    ImageBuilder::new().layer(LayerBuilder::new().file("secret", vec![7; SIZE]).zstd()).build()
}

fn file(content: Vec<u8>) -> Image {
    ImageBuilder::artifact("application/vnd.test").file("file", "application/octet-stream", content).build()
}

/// Requests for a blob, by method and in order.
fn asked(registry: &FakeRegistry, part: &str, digest: &Digest) -> Vec<Method> {
    let path = format!("/{part}/blobs/{digest}");
    let wanted = registry.requests().into_iter().filter(|request| request.path.ends_with(&path));
    wanted.map(|request| request.method).collect()
}

fn user(name: &str) -> Credential {
    let auth = AuthConfig { username: name.to_owned(), password: "right".into(), ..AuthConfig::default() };
    Credential::Auth(auth)
}

fn is_refused<T: std::fmt::Debug>(result: &Result<T, ImageServiceError>) -> bool {
    matches!(result, Err(ImageServiceError::NotFound { .. } | ImageServiceError::Denied { .. }))
}

#[tokio::test]
async fn a_config_that_names_somebody_elses_layer_does_not_open_it() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let private = LayerBuilder::new().file("secret", "of a").gzip();
    let of_a = ImageBuilder::new().layer(private.clone()).build();
    node.pull(&registry.push("team/a", "v1", &of_a), &volume("a")).await.unwrap();
    let mut lying = LayerBuilder::new().file("own", "of b").gzip();
    let own = lying.blob.digest.clone();
    lying.diff_id = private.diff_id;
    let of_b = registry.push("team/b", "v1", &ImageBuilder::new().layer(lying).build());
    let error = node.pull(&of_b, &volume("b")).await.unwrap_err();
    assert!(matches!(&error, ImageServiceError::Invalid { message } if message.contains("diffID")), "{error:?}");
    assert_eq!(asked(&registry, "team/b", &own), [Method::GET], "its own layer is fetched, and is another");
    node.assert_sound();
}

#[rstest::rstest]
#[case::layer(secret())]
#[case::file(file(vec![9; SIZE]))]
#[tokio::test]
async fn a_manifest_that_names_somebody_elses_blob_does_not_open_it(#[case] private: Image) {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    node.pull(&registry.push("team/a", "v1", &private), &volume("a")).await.unwrap();
    // The same manifest, and another one over the same blob; the repository has neither blob.
    let other = Image::clone(&private);
    for (repository, image) in [("team/b", &private), ("team/c", &other)] {
        let reference = registry.push(repository, "v1", image);
        let blob = &image.layers[0].digest;
        registry.remove_blob(repository, blob);
        let result = node.pull(&reference, &volume("b")).await;
        assert!(is_refused(&result), "{result:?}");
        assert_eq!(asked(&registry, repository, blob), [Method::HEAD]);
    }
    let bound = node.service.holders().await.unwrap().into_iter().filter(|(_, _, image)| image.is_some());
    assert_eq!(bound.count(), 1, "only who could pull it has it");
    node.assert_sound();
}

#[tokio::test]
async fn somebody_elses_config_is_fetched_and_not_found() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = secret();
    node.pull(&registry.push("team/a", "v1", &image), &volume("a")).await.unwrap();
    let reference = registry.push("team/b", "v1", &image);
    registry.remove_blob("team/b", &image.config.digest);
    let result = node.pull(&reference, &volume("b")).await;
    assert!(is_refused(&result), "{result:?}");
}

#[tokio::test]
async fn who_may_have_it_is_asked_once_and_gets_what_is_here() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (base, image) = (LayerBuilder::new().file("base", vec![1; SIZE]).gzip(), |layers: Vec<_>| {
        layers.into_iter().fold(ImageBuilder::new(), ImageBuilder::layer).build()
    });
    let own = LayerBuilder::new().file("own", "1").gzip();
    node.pull(&registry.push("team/a", "v1", &image(vec![base.clone()])), &volume("a")).await.unwrap();
    let other = image(vec![base.clone(), own.clone(), base.clone()]);
    node.pull(&registry.push("team/b", "v1", &other), &volume("b")).await.unwrap();
    assert_eq!(asked(&registry, "team/b", &base.blob.digest), [Method::HEAD]);
    assert_eq!(asked(&registry, "team/b", &own.blob.digest), [Method::GET], "who has fetched it need not ask");
    registry.clear_requests();
    // A repository whose images are here: who may read its manifests may read its blobs.
    let newer = image(vec![base.clone(), LayerBuilder::new().file("own", "2").gzip()]);
    node.pull(&registry.push("team/b", "v2", &newer), &volume("c")).await.unwrap();
    assert!(asked(&registry, "team/b", &base.blob.digest).is_empty());
    // The same image as another repository's: all of it is asked for, and nothing of it fetched but the config.
    registry.clear_requests();
    node.pull(&registry.push("team/c", "v1", &other), &volume("d")).await.unwrap();
    assert_eq!(registry.gets("/team/c/blobs/"), 1);
    assert_eq!(asked(&registry, "team/c", &base.blob.digest), [Method::HEAD]);
    registry.clear_requests();
    node.pull(&registry.reference("team/c", "v1"), &volume("e")).await.unwrap();
    assert!(
        registry.requests().iter().all(|request| request.path.contains("/manifests/")),
        "it is known from there now"
    );
    node.assert_sound();
}

#[tokio::test]
async fn a_registry_without_head_is_asked_for_a_byte() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = secret();
    let blob = &image.layers[0].digest;
    node.pull(&registry.push("team/a", "v1", &image), &volume("a")).await.unwrap();
    registry.faults().always("HEAD ", Fault::status(405));
    let reference = registry.push("team/b", "v1", &image);
    node.pull(&reference, &volume("b")).await.unwrap();
    assert_eq!(asked(&registry, "team/b", blob), [Method::HEAD, Method::GET]);
    let range = registry.requests().into_iter().find_map(|request| request.headers.get("range").cloned());
    assert_eq!(range.unwrap(), "bytes=0-0");
    let reference = registry.push("team/c", "v1", &image);
    registry.remove_blob("team/c", blob);
    assert!(is_refused(&node.pull(&reference, &volume("c")).await));
}

#[tokio::test]
async fn another_registrys_word_is_worth_nothing() {
    let (node, honest, liar) = (Node::new(), FakeRegistry::start().await, FakeRegistry::start().await);
    let image = secret();
    let blob = &image.layers[0].digest;
    node.pull(&honest.push("team/a", "v1", &image), &volume("a")).await.unwrap();
    let reference = liar.push("team/b", "v1", &image);
    liar.remove_blob("team/b", blob);
    liar.faults().always("HEAD ", Fault::status(200));
    let result = node.pull(&reference, &volume("b")).await;
    assert!(is_refused(&result), "{result:?}");
    // One that has it shows it once, and its word counts from then on.
    let other = FakeRegistry::start().await;
    node.pull(&other.push("team/c", "v1", &image), &volume("c")).await.unwrap();
    assert_eq!(asked(&other, "team/c", blob), [Method::GET]);
    node.pull(&other.push("team/d", "v1", &image), &volume("d")).await.unwrap();
    assert_eq!(asked(&other, "team/d", blob), [Method::HEAD]);
    node.assert_sound();
}

#[tokio::test]
async fn a_download_is_joined_by_who_may_have_it_and_by_nobody_else() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = secret();
    let blob = image.layers[0].digest.clone();
    let private = registry.push("team/a", "v1", &image);
    let (stranger, entitled) = (registry.push("team/b", "v1", &image), registry.push("team/c", "v1", &image));
    registry.remove_blob("team/b", &blob);
    let gate = Gate::new();
    registry.faults().once(&format!("/team/a/blobs/{blob}"), Fault::StallAt(10, gate.clone()));
    let (a, b, c) = (volume("a"), volume("b"), volume("c"));
    let (first, second, third) = tokio::join!(
        node.pull(&private, &a),
        async {
            gate.arrived(1).await;
            // He is told while the other's download goes on.
            let refused = node.pull(&stranger, &b).await;
            until(|| asked(&registry, "team/c", &blob) == [Method::HEAD]).await;
            gate.open();
            refused
        },
        async {
            gate.arrived(1).await;
            node.pull(&entitled, &c).await
        },
    );
    assert_eq!(first.unwrap(), third.unwrap());
    assert!(is_refused(&second), "{second:?}");
    assert_eq!(registry.gets(&blob.to_string()), 1, "it came once");
    node.assert_sound();
}

/// What an earlier pull has fetched is not fetched again, although no image names it yet, and not by another process either.
#[tokio::test]
async fn layers_of_a_pull_that_failed_are_kept_for_the_next() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = |name: &str| LayerBuilder::new().file(name, name).gzip();
    let (first, second) = (layer("first"), layer("second"));
    let image = ImageBuilder::new().layer(first.clone()).layer(second.clone()).build();
    let reference = registry.push("team/a", "v1", &image);
    registry.remove_blob("team/a", &second.blob.digest);
    assert!(is_refused(&node.pull(&reference, &volume("a")).await));
    until(|| asked(&registry, "team/a", &first.blob.digest) == [Method::GET]).await;
    let node = node.again().await;
    registry.push("team/a", "v1", &image);
    node.pull(&reference, &volume("a")).await.unwrap();
    assert_eq!(asked(&registry, "team/a", &first.blob.digest), [Method::GET, Method::HEAD]);
}

/// Whoever comes second to a private image is asked for his own right to its manifest, whatever of it is under way or here, and
/// whoever comes first.
#[rstest::rstest]
#[case::config("config")]
#[case::layer("layer")]
#[case::committed("")]
#[tokio::test]
async fn two_pods_with_one_reference_each_prove_their_right(#[case] stalled: &str) {
    let node = Node::new();
    let registry = FakeRegistry::builder().auth(AuthMode::Token).start().await;
    let image = secret();
    let reference = registry.push("team/a", "v1", &image);
    registry.add_user("anna", "right");
    registry.add_user("bert", "right");
    registry.protect("team/a", &["anna"]);
    let pull = async |who: Credential, pod: &str| {
        let (holder, progress) = (volume(pod), Progress::default());
        node.pull_as(&who, &reference, &holder, &progress).await
    };
    let strangers = async |round: &str| {
        for (number, who) in [user("bert"), Credential::Anonymous].into_iter().enumerate() {
            let result = pull(who, &format!("{round}-{number}")).await;
            assert!(matches!(result, Err(ImageServiceError::Denied { .. })), "{round} {number}: {result:?}");
        }
    };
    strangers("before").await;
    let gate = Gate::new();
    let blob = if stalled == "config" { &image.config.digest } else { &image.layers[0].digest };
    if !stalled.is_empty() {
        registry.faults().once(&format!("GET /v2/team/a/blobs/{blob}"), Fault::StallAt(10, gate.clone()));
    }
    let (pulled, ()) = tokio::join!(pull(user("anna"), "anna"), async {
        if !stalled.is_empty() {
            gate.arrived(1).await;
            strangers("meanwhile").await;
        }
        gate.open();
    });
    pulled.unwrap();
    strangers("after").await;
    pull(user("anna"), "anna-again").await.unwrap();
    assert_eq!(node.service.list().await.unwrap().len(), 1);
    node.assert_sound();
}
