//! What comes from a registry, right and wrong.

use std::io::Read as _;

use imagevol_api::auth::Credential;
use imagevol_cri::{ImageReferences as _, ImageService as _, ImageServiceError, ImageSpec, Progress};
use imagevol_store::Limits;
use imagevol_test_support::image::{Blob, ImageBuilder, Index, LayerBuilder, OCI_CONFIG};
use imagevol_test_support::registry::{FakeRegistry, Fault, Gate};

use crate::support::{Node, until, volume};

fn artifact(content: Vec<u8>) -> imagevol_test_support::image::Image {
    ImageBuilder::artifact("application/vnd.test").file("file", "application/octet-stream", content).build()
}

/// The bytes of the only file of an artifact, as its mount reads them.
fn only_file(node: &Node, id: &imagevol_cri::ImageId) -> Vec<u8> {
    let files = node.service.store().open_image(id.digest()).unwrap();
    let size = node.service.store().resolve(&id.to_string()).unwrap().unwrap().layers[0].stored_size;
    let mut bytes = Vec::new();
    std::io::Read::take(&files.devices[0], size).read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_body_that_breaks_off_is_gone_on_with() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let content: Vec<u8> = (0..400_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let reference = registry.push("team/data", "v1", &artifact(content.clone()));
    registry.faults().once("/blobs/", Fault::Truncate(123_456));
    let id = node.pull(&reference, &volume("a")).await.unwrap();
    assert!(only_file(&node, &id) == content);
    let ranges: Vec<_> =
        registry.requests().iter().filter_map(|request| request.headers.get("range").cloned()).collect();
    assert!(ranges.contains(&http::HeaderValue::from_static("bytes=123456-")), "{ranges:?}");
}

#[tokio::test]
async fn the_next_process_goes_on_with_what_is_on_disk() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let content: Vec<u8> = (0..700_000_u32).map(|number| (number / 7).to_le_bytes()[0]).collect();
    let reference = registry.push("team/data", "v1", &artifact(content.clone()));
    registry.faults().once("/blobs/", Fault::StallAt(300_000, Gate::new()));
    let (progress, holder) = (Progress::default(), volume("a"));
    let came = || progress.snapshot().first().is_some_and(|blob| blob.done == 300_000);
    tokio::select! {
        result = node.pull_with(&reference, &holder, &progress) => panic!("ended early: {result:?}"),
        () = until(came) => {}
    }
    let node = node.again().await;
    registry.clear_requests();
    let id = node.pull(&reference, &holder).await.unwrap();
    assert!(only_file(&node, &id) == content);
    let blobs: Vec<_> = registry.requests().into_iter().filter(|request| request.path.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 1);
    assert_eq!(blobs[0].headers["range"], "bytes=300000-", "every byte comes once");
    node.assert_sound();
}

#[tokio::test]
async fn wrong_bytes_of_an_earlier_try_are_fetched_anew_at_once() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let reference = registry.push("team/data", "v1", &artifact(vec![5; 300_000]));
    registry.faults().once("/blobs/", Fault::StallAt(100_000, Gate::new()));
    let (progress, holder) = (Progress::default(), volume("a"));
    let came = || progress.snapshot().first().is_some_and(|blob| blob.done == 100_000);
    tokio::select! {
        result = node.pull_with(&reference, &holder, &progress) => panic!("ended early: {result:?}"),
        () = until(came) => {}
    }
    let node = node.again().await;
    let data = node.dir.path().join("state/ingest").join(&node.ingest()[0]).join("data");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[50_000] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let id = node.pull(&reference, &holder).await.unwrap();
    assert!(only_file(&node, &id) == vec![5; 300_000]);
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused_and_not_kept() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    for (name, image) in [
        ("file", artifact(vec![1; 100_000])),
        ("gzip", ImageBuilder::new().layer(LayerBuilder::new().file("f", vec![2; 100_000]).gzip()).build()),
        ("zstd", ImageBuilder::new().layer(LayerBuilder::new().file("f", vec![3; 100_000]).zstd()).build()),
    ] {
        let reference = registry.push(&format!("team/{name}"), "v1", &image);
        registry.faults().always(&format!("{}", image.layers[0].digest), Fault::Corrupt(40));
        let error = node.pull(&reference, &volume("a")).await.unwrap_err();
        assert!(matches!(error, ImageServiceError::Invalid { .. }), "{name}: {error:?}");
        let (error, layer) = (error.to_string(), &image.layers[0].digest);
        let expected = format!(
            "image {reference}: layer {layer}: content does not match its digest: expected {layer}, got sha256:"
        );
        assert!(error.starts_with(&expected) && error.ends_with("; it is not stored"), "{name}: {error}");
    }
    assert_eq!(node.ingest(), Vec::<String>::new());
    assert_eq!(node.service.list().await.unwrap(), []);
    node.assert_sound();
}

/// Whoever reads of it in a pod's status sees the one line, and has to find the image, the layer and the file by it.
#[tokio::test]
async fn what_is_wrong_with_an_image_names_it_and_the_layer() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let nameless = LayerBuilder::new().file("fine", "1").file("dir/.wh..", "").gzip();
    let cut = {
        let whole = LayerBuilder::new().file("f", vec![1; 100_000]).plain().blob.bytes;
        Blob::new("application/vnd.oci.image.layer.v1.tar", whole.slice(..50_000))
    };
    for (name, image, wrong) in [
        ("nameless", ImageBuilder::new().layer(nameless).build(), "dir/.wh.."),
        ("cut", ImageBuilder::artifact("application/vnd.test").blob(cut).build(), "cut off"),
    ] {
        let reference = registry.push(&format!("team/{name}"), "v1", &image);
        let error = node.pull(&reference, &volume("a")).await.unwrap_err().to_string();
        let layer = format!("layer {}", image.layers[0].digest);
        assert!(error.starts_with(&format!("image {reference}: {layer}")), "{name}: {error}");
        assert!(error.contains(wrong), "{name}: {error}");
    }
    let image = artifact(vec![1; 1000]);
    let reference = registry.push("team/short", "v1", &image);
    registry.faults().always("/blobs/", Fault::Overlong(1));
    let error = node.pull(&reference, &volume("a")).await.unwrap_err().to_string();
    assert!(error.contains(&reference) && error.contains(&image.layers[0].digest.to_string()), "{error}");
    node.assert_sound();
}

#[tokio::test]
async fn wrong_bytes_of_a_mirror_are_fetched_from_the_registry() {
    let (mirror, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = artifact(vec![9; 50_000]);
    mirror.push("team/data", "v1", &image);
    let reference = registry.push("team/data", "v1", &image);
    mirror.faults().always("/blobs/", Fault::Corrupt(7));
    let hosts = format!(
        "server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.url(),
        mirror.url()
    );
    let node = Node::with_hosts(&registry.host(), &hosts);
    let id = node.pull(&reference, &volume("a")).await.unwrap();
    assert!(only_file(&node, &id) == vec![9; 50_000]);
    assert_eq!((mirror.gets("/blobs/"), registry.gets("/blobs/")), (1, 1));
}

#[tokio::test]
async fn a_layer_that_unpacks_to_more_than_is_allowed_is_refused() {
    let limits = Limits { max_layer_bytes: 1 << 20, ..Limits::default() };
    let (node, registry) = (Node::with_limits(limits), FakeRegistry::start().await);
    let bomb = LayerBuilder::new().file("zeros", vec![0; 32 << 20]).gzip();
    assert!(bomb.blob.bytes.len() < 1 << 20);
    let reference = registry.push("team/bomb", "v1", &ImageBuilder::new().layer(bomb).build());
    let error = node.pull(&reference, &volume("a")).await.unwrap_err();
    assert!(matches!(error, ImageServiceError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("image {reference}: layer sha256:")), "{error}");
    assert_eq!(node.ingest(), Vec::<String>::new());
    node.assert_sound();
}

#[tokio::test]
async fn an_image_without_layers_is_an_empty_directory() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let config = Blob::new(OCI_CONFIG, r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}"#);
    let reference = registry.push("team/empty", "v1", &ImageBuilder::new().config(config).build());
    let id = node.pull(&reference, &volume("a")).await.unwrap();
    assert!(node.service.store().open_image(id.digest()).unwrap().devices.is_empty());
    node.assert_sound();
}

#[tokio::test]
async fn an_artifacts_config_is_not_fetched() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = artifact(b"content".to_vec());
    let reference = registry.push("team/data", "v1", &image);
    registry.remove_blob("team/data", &image.config.digest);
    let id = node.pull(&reference, &volume("a")).await.unwrap();
    assert_eq!(only_file(&node, &id), b"content");
    assert_eq!(registry.gets(&image.config.digest.to_string()), 0);
    node.assert_sound();
}

#[tokio::test]
async fn files_that_somebody_deleted_are_fetched_again() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let layer = LayerBuilder::new().file("file", "content").gzip();
    let image = ImageBuilder::new().layer(layer.clone()).build();
    let reference = registry.push("team/data", "v1", &image);
    let state = node.dir.path().join("state");
    let (holder, diff_id) = (volume("a"), layer.diff_id.hex().to_owned());
    let files = [format!("layers/sha256/{diff_id}.tar"), format!("images/sha256/{}.erofs", image.digest.hex())];
    for file in files {
        node.pull(&reference, &holder).await.unwrap();
        std::fs::remove_file(state.join(&file)).unwrap();
        let id = node.pull(&reference, &holder).await.unwrap();
        assert!(state.join(&file).exists(), "{file}");
        node.service.store().open_image(id.digest()).unwrap();
        node.assert_sound();
    }
    assert_eq!(registry.gets(&format!("/blobs/{}", layer.blob.digest)), 2, "what is there is not fetched");
}

#[tokio::test]
async fn a_tag_that_moves_leads_to_the_new_image() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (old, new) = (artifact(b"old".to_vec()), artifact(b"new".to_vec()));
    let reference = registry.push("team/data", "v1", &old);
    node.pull(&reference, &volume("a")).await.unwrap();
    registry.push("team/data", "v1", &new);
    node.pull(&reference, &volume("b")).await.unwrap();
    let found = async |name: &str| node.service.find_image(name).await.unwrap().map(|image| image.manifest);
    assert_eq!(found(&reference).await, Some(new.digest.clone()));
    let pinned = registry.reference_at("team/data", &old.digest);
    assert_eq!(found(&pinned).await, Some(old.digest.clone()));
    assert_eq!(found(&old.digest.to_string()).await, Some(old.digest.clone()), "by its identity");
    let bound: Vec<_> = node.service.holders().await.unwrap().into_iter().filter_map(|(_, _, id)| id).collect();
    assert_eq!(bound.iter().map(|id| id.digest().clone()).collect::<Vec<_>>(), [old.digest, new.digest]);
}

#[tokio::test]
async fn names_lead_to_the_image_of_an_index() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = |platform: &str| {
        let layer = LayerBuilder::new().file("platform", platform).gzip();
        ImageBuilder::new().platform("linux", platform, None).layer(layer).build()
    };
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    let index = Index::new([arm64, amd64.clone()]);
    let reference = registry.push_index("team/data", "v1", &index);
    let id = node.pull(&reference, &volume("a")).await.unwrap();
    assert_eq!(*id.digest(), amd64.digest);
    let pinned = registry.reference_at("team/data", &index.digest);
    // With a digest the tag beside it is not asked, and no name of the image.
    let tagged = pinned.replace('@', ":other@");
    for name in [&reference, &pinned, &tagged, &registry.reference_at("team/data", &amd64.digest)] {
        let spec = ImageSpec { image: name.clone(), ..ImageSpec::default() };
        let found = node.service.status(&spec).await.unwrap();
        assert_eq!(found.map(|image| image.id), Some(id.clone()), "{name}");
    }
    assert_eq!(node.pull(&tagged, &volume("b")).await.unwrap(), id);
    let image = node.service.list().await.unwrap().remove(0);
    assert_eq!(image.repo_tags, [reference]);
}

/// Of one tag and one index, there is an image for each platform, and each is found as what it was asked for.
#[tokio::test]
async fn a_name_leads_to_an_image_for_each_platform() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let image = |platform: &str| {
        let layer = LayerBuilder::new().file("platform", platform).gzip();
        ImageBuilder::new().platform("linux", platform, None).layer(layer).build()
    };
    let (amd64, arm64) = (image("amd64"), image("arm64"));
    let index = Index::new([arm64.clone(), amd64.clone()]);
    let tag = registry.push_index("team/data", "v1", &index);
    let spec = |name: &str, platform: Option<&str>| {
        let platform = platform.map(|platform| platform.parse().unwrap());
        ImageSpec { image: name.to_owned(), platform, ..ImageSpec::default() }
    };
    let found = async |name: &str, platform| {
        let found = node.service.status(&spec(name, platform)).await.unwrap();
        found.map(|image| image.id.digest().clone())
    };
    let pull = async |pod: &str, name: &str, platform| {
        let (holder, progress) = (volume(pod), Progress::default());
        node.service.hold(&holder, name).await.unwrap();
        let pulled = node.service.pull(&spec(name, platform), &Credential::Anonymous, &holder, &progress).await;
        pulled.map(|id| id.digest().clone())
    };
    let (arm, own) = (Some("linux/arm64"), Some("linux/amd64"));
    let [of_index, of_arm64] = [&index.digest, &arm64.digest].map(|digest| registry.reference_at("team/data", digest));
    assert_eq!(pull("a", &tag, arm).await.unwrap(), arm64.digest);
    for name in [&tag, &of_index] {
        assert_eq!(found(name, None).await, None, "{name} is not here for the platform of the node");
        assert_eq!(found(name, own).await, None);
        assert_eq!(found(name, Some("linux/s390x")).await, None);
        assert_eq!(found(name, arm).await.as_ref(), Some(&arm64.digest), "{name}");
    }
    assert_eq!(pull("b", &tag, None).await.unwrap(), amd64.digest);
    for name in [&tag, &of_index] {
        assert_eq!(found(name, None).await.as_ref(), Some(&amd64.digest), "{name}");
        assert_eq!(found(name, own).await.as_ref(), Some(&amd64.digest), "its own platform is no other");
        assert_eq!(found(name, Some("linux/aarch64")).await.as_ref(), Some(&arm64.digest), "by another word for it");
    }
    for platform in [None, arm] {
        assert_eq!(found(&of_arm64, platform).await.as_ref(), Some(&arm64.digest), "a manifest is one image");
        assert_eq!(found(&arm64.digest.to_string(), platform).await.as_ref(), Some(&arm64.digest));
    }
    assert!(pull("c", &tag, Some("linux/s390x")).await.is_err());
    let tags: Vec<_> = node.service.list().await.unwrap().into_iter().flat_map(|image| image.repo_tags).collect();
    let extra_tag = format!("{tag} linux/arm64");
    assert!(tags.len() == 2 && tags.contains(&tag) && tags.contains(&extra_tag), "{tags:?}");
    node.service.release(&volume("a")).await.unwrap();
    node.service.release(&volume("c")).await.unwrap();
    node.service.remove_image(&extra_tag).await.unwrap();
    assert_eq!((found(&tag, arm).await, found(&tag, None).await), (None, Some(amd64.digest)));
    node.assert_sound();
}

#[tokio::test]
async fn a_config_that_is_also_a_layer_is_both() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let blob = Blob::new("application/vnd.test.config", "shared");
    let image = ImageBuilder::artifact("application/vnd.test").config(blob.clone()).blob(blob).build();
    let id = node.pull(&registry.push("team/data", "v1", &image), &volume("a")).await.unwrap();
    assert_eq!(only_file(&node, &id), b"shared");
    node.assert_sound();
}
