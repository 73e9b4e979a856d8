//! Whoever wants a blob: it is fetched once.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use imagevol_cri::{ImageReferences as _, ImageService as _, ImageServiceError, Progress};
use imagevol_test_support::image::{Blob, Compression, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::{FakeRegistry, Fault, Gate};

use crate::support::{Node, until, volume};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_pods_fetch_each_blob_of_their_image_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = |name: &str| LayerBuilder::new().file(name, vec![7; 100_000]).gzip();
    let image = ImageBuilder::new().layer(layer("a")).layer(layer("b")).layer(layer("c")).layer(layer("d")).build();
    let reference = registry.push("team/data", "v1", &image);
    let holders: Vec<_> = (0..100).map(|pod| volume(&format!("pod-{pod}"))).collect();
    let ids = try_join_all(holders.iter().map(|holder| node.pull(&reference, holder))).await.unwrap();
    assert!(ids.iter().all(|id| *id.digest() == image.digest));
    for blob in &image.layers {
        assert_eq!(registry.gets(&format!("/blobs/{}", blob.digest)), 1);
    }
    assert_eq!(registry.gets("/blobs/"), image.layers.len() + 1, "and the config");
    let rows = node.service.holders().await.unwrap();
    assert_eq!(rows.len(), 100);
    assert!(rows.iter().all(|(_, _, id)| id.as_ref() == Some(&ids[0])));
    assert_eq!(node.ingest(), Vec::<String>::new());
    node.assert_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_images_fetch_their_base_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let base = LayerBuilder::new().file("base", vec![1; 300_000]).zstd();
    let references: Vec<_> = (0..32)
        .map(|number| {
            let own = LayerBuilder::new().file("own", format!("{number}")).gzip();
            let image = ImageBuilder::new().layer(base.clone()).layer(own).build();
            registry.push(&format!("team/app-{number}"), "v1", &image)
        })
        .collect();
    let holders: Vec<_> = (0..32).map(|pod| volume(&format!("pod-{pod}"))).collect();
    let pulls = references.iter().zip(&holders).map(|(reference, holder)| node.pull(reference, holder));
    try_join_all(pulls).await.unwrap();
    assert_eq!(registry.gets(&format!("/blobs/{}", base.blob.digest)), 1);
    let images = node.service.list().await.unwrap();
    assert_eq!(images.len(), 32);
    assert!(images.iter().all(|image| image.repo_tags.len() == 1 && image.repo_digests.len() == 1));
    node.assert_sound();
}

#[tokio::test]
async fn who_joins_a_download_sees_how_far_it_is() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = ImageBuilder::artifact("application/vnd.test").file("big", "text/plain", vec![1; 500_000]).build();
    let reference = registry.push("team/data", "v1", &image);
    let gate = Gate::new();
    registry.faults().once("/blobs/", Fault::StallAt(200_000, gate.clone()));
    let (one, other) = (Progress::default(), Progress::default());
    let done = |progress: &Progress| progress.snapshot().first().map_or(0, |blob| blob.done);
    let (a, b) = (volume("a"), volume("b"));
    let (first, second, ()) = tokio::join!(
        node.pull_with(&reference, &a, &one),
        async {
            until(|| done(&one) == 200_000).await;
            node.pull_with(&reference, &b, &other).await
        },
        async {
            until(|| done(&other) == 200_000).await;
            assert_eq!(node.service.running_pulls().len(), 2);
            gate.open();
        },
    );
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!((one.snapshot(), done(&one)), (other.snapshot(), 500_000));
    assert!(node.service.running_pulls().is_empty());
}

#[tokio::test]
async fn who_joined_a_download_that_was_denied_asks_with_his_own_right() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = ImageBuilder::artifact("application/vnd.test").file("file", "text/plain", "content").build();
    let denied = registry.push("team/denied", "v1", &image);
    let allowed = registry.push("team/allowed", "v1", &image);
    let gate = Gate::new();
    registry.faults().always("/team/denied/blobs/", Fault::Hold(gate.clone()));
    registry.faults().always("/team/denied/blobs/", Fault::error(403, "DENIED", "not you"));
    let (a, b, c) = (volume("a"), volume("b"), volume("c"));
    let (first, second, third, ()) = tokio::join!(
        node.pull(&denied, &a),
        async {
            gate.arrived(1).await;
            node.pull(&allowed, &b).await
        },
        async {
            gate.arrived(1).await;
            node.pull(&allowed, &c).await
        },
        async {
            until(|| registry.gets("/team/allowed/manifests/") == 2).await;
            gate.open();
        },
    );
    assert!(matches!(first, Err(ImageServiceError::Denied { .. })), "{first:?}");
    assert_eq!(second.unwrap(), third.unwrap());
    assert_eq!(registry.gets("/team/allowed/blobs/"), 1);
}

#[tokio::test]
async fn who_joined_a_config_that_was_denied_asks_with_his_own_right() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = ImageBuilder::new().layer(LayerBuilder::new().file("file", "content").gzip()).build();
    let denied = registry.push("team/denied", "v1", &image);
    let allowed = registry.push("team/allowed", "v1", &image);
    let gate = Gate::new();
    registry.faults().always("/team/denied/blobs/", Fault::Hold(gate.clone()));
    registry.faults().always("/team/denied/blobs/", Fault::error(403, "DENIED", "not you"));
    let (a, b) = (volume("a"), volume("b"));
    let (first, second, ()) = tokio::join!(
        node.pull(&denied, &a),
        async {
            gate.arrived(1).await;
            node.pull(&allowed, &b).await
        },
        async {
            until(|| registry.gets("/team/allowed/manifests/") == 1).await;
            gate.open();
        },
    );
    assert!(matches!(first, Err(ImageServiceError::Denied { .. })), "{first:?}");
    assert_eq!(*second.unwrap().digest(), image.digest);
}

/// Another image with the same config and the same layer: its manifest is all that there is to fetch. But what is damaged is.
#[rstest::rstest]
#[case::whole(false, 1)]
#[case::damaged(true, 2)]
#[tokio::test]
async fn a_config_that_is_here_is_not_fetched(#[case] damage: bool, #[case] fetched: usize) {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = |note: &str| {
        let layer = LayerBuilder::new().file("file", "content").gzip();
        ImageBuilder::new().layer(layer).annotate("note", note).build()
    };
    let (first, second) = (image("first"), image("second"));
    let [one, other] = [("one", &first), ("other", &second)].map(|(tag, image)| registry.push("team/data", tag, image));
    assert_eq!(first.config.digest, second.config.digest);
    node.pull(&one, &volume("a")).await.unwrap();
    if damage {
        let path = node.dir.path().join("state/blobs/sha256").join(first.config.digest.hex());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(*node.pull(&other, &volume("b")).await.unwrap().digest(), second.digest);
    assert_eq!(registry.gets(&format!("/blobs/{}", first.config.digest)), fetched);
}

#[tokio::test]
async fn all_who_wait_for_a_registry_that_fails_are_told_at_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = ImageBuilder::artifact("application/vnd.test").file("file", "text/plain", "content").build();
    let reference = registry.push("team/data", "v1", &image);
    let gate = Gate::new();
    registry.faults().once("/blobs/", Fault::Hold(gate.clone()));
    registry.faults().always("/blobs/", Fault::status(503));
    let holders: Vec<_> = (0..10).map(|pod| volume(&format!("pod-{pod}"))).collect();
    let (results, ()) = tokio::join!(join_all(holders.iter().map(|holder| node.pull(&reference, holder))), async {
        until(|| registry.gets("/manifests/") == 10).await;
        gate.arrived(1).await;
        gate.open();
    });
    for result in results {
        assert!(matches!(result, Err(ImageServiceError::Unavailable { .. })), "{result:?}");
    }
    assert!(registry.gets("/blobs/") <= 6, "one download with its retries, and one of who came too late for it");
}

#[tokio::test]
async fn one_blob_may_be_a_file_and_a_layer_at_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = LayerBuilder::new().file("inside", "1").build(Compression::Gzip);
    let plain = Blob::new("application/octet-stream", layer.blob.bytes.clone());
    let file = plain.annotate("org.opencontainers.image.title", "layer.tgz");
    let image = registry.push("team/image", "v1", &ImageBuilder::new().layer(layer).build());
    let artifact =
        registry.push("team/artifact", "v1", &ImageBuilder::artifact("application/vnd.test").blob(file).build());
    let (a, b) = (volume("a"), volume("b"));
    let (image, artifact) = tokio::join!(node.pull(&image, &a), node.pull(&artifact, &b));
    assert_ne!(image.unwrap(), artifact.unwrap());
    node.assert_sound();
}

#[tokio::test]
async fn a_wrong_diff_id_is_refused_even_beside_a_right_one() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = LayerBuilder::new().file("file", "content").gzip();
    let good = registry.push("team/good", "v1", &ImageBuilder::new().layer(layer.clone()).build());
    let mut lying = layer;
    lying.diff_id = imagevol_base::Digester::sha256(b"something else");
    let bad = registry.push("team/bad", "v1", &ImageBuilder::new().layer(lying).build());
    let (a, b) = (volume("a"), volume("b"));
    let (good, bad) = tokio::join!(node.pull(&good, &a), node.pull(&bad, &b));
    good.unwrap();
    assert!(matches!(bad, Err(ImageServiceError::Invalid { .. })), "{bad:?}");
    node.assert_sound();
}

#[tokio::test]
async fn a_layer_that_is_listed_twice_is_fetched_and_shown_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = LayerBuilder::new().file("file", "content").gzip();
    let image = ImageBuilder::new().layer(layer.clone()).layer(layer.clone()).layer(layer.clone()).build();
    let (reference, progress) = (registry.push("team/data", "v1", &image), Progress::default());
    node.pull_with(&reference, &volume("a"), &progress).await.unwrap();
    assert_eq!(registry.gets(&format!("/blobs/{}", layer.blob.digest)), 1);
    assert_eq!(progress.snapshot().len(), 1);
    node.assert_sound();
}

#[tokio::test]
async fn a_download_goes_on_for_the_next_who_wants_it() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = ImageBuilder::artifact("application/vnd.test").file("big", "text/plain", vec![1; 500_000]).build();
    let reference = registry.push("team/data", "v1", &image);
    let gate = Gate::new();
    registry.faults().once("/blobs/", Fault::StallAt(1000, gate.clone()));
    let deleted = volume("deleted");
    let first = tokio::select! {
        result = node.pull(&reference, &deleted) => Some(result),
        () = gate.arrived(1) => None,
    };
    assert!(first.is_none(), "the pull ended before its bytes came");
    gate.open();
    node.pull(&reference, &volume("replaced")).await.unwrap();
    assert_eq!(registry.gets("/blobs/"), 1);
    assert!(Duration::from_secs(30) == imagevol_imageservice::Concurrency::default().abandoned_grace);
}
