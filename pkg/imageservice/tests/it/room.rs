//! Room: what is not there for an image is known before its layers come, and never taken.

use std::time::Duration;

use imagevol_cri::{ImageCollector as _, ImageReferences as _, ImageService as _, ImageServiceError};
use imagevol_imageservice::Limits;
use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::{FakeRegistry, Fault, Gate};
use tokio::sync::mpsc;

use crate::support::{Caps, Node, until, volume};

const KIB: usize = 1024;

fn artifact(name: &str, size: usize) -> Image {
    let content = name.bytes().cycle().take(size).collect::<Vec<_>>();
    ImageBuilder::artifact("application/vnd.test").file("file", "application/octet-stream", content).build()
}

fn zeros(name: &str, size: usize) -> LayerBuilder {
    LayerBuilder::new().file(name, vec![0; size])
}

fn stored(max_store_bytes: u64) -> Node {
    Node::with_limits(imagevol_store::Limits { max_store_bytes, ..imagevol_store::Limits::default() })
}

/// The same, and images may go at once when nobody needs them.
fn stored_and_collected(max_store_bytes: u64) -> Node {
    let store = imagevol_store::Limits { max_store_bytes, ..imagevol_store::Limits::default() };
    Node::with_caps(Caps { store, service: Limits { min_gc_age: Duration::ZERO, ..Limits::default() } })
}

async fn names(node: &Node) -> Vec<String> {
    let images = node.service.list().await.unwrap();
    let mut names: Vec<_> = images.into_iter().flat_map(|image| image.repo_tags).collect();
    names.sort();
    names
}

async fn refusal(node: &Node, reference: &str) -> String {
    match node.pull(reference, &volume("refused")).await {
        Err(ImageServiceError::NoRoom { message }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_does_not_fit_on_the_disk_is_not_fetched() {
    let limits = imagevol_store::Limits { min_free_bytes: 1 << 60, ..imagevol_store::Limits::default() };
    let (node, registry) = (Node::with_limits(limits), FakeRegistry::start().await);
    let packed = ImageBuilder::new().layer(zeros("f", 64 * KIB).gzip()).build();
    let at_least = registry.push("team/packed", "v1", &packed);
    let exact = registry.push("team/plain", "v1", &artifact("plain", 100 * KIB));
    for (reference, image, need) in
        [(&at_least, &packed, "at least 4.0 KiB"), (&exact, &artifact("plain", 100 * KIB), "100.0 KiB")]
    {
        let message = refusal(&node, reference).await;
        let head = format!("not enough disk space for image {reference}: needs {need}, ");
        assert!(message.starts_with(&head), "{message}");
        let tail = " of which 1048576.0 TiB are kept free, nothing could be freed by removing unused images";
        assert!(message.ends_with(tail), "{message}");
        assert_eq!(registry.gets(&image.layers[0].digest.to_string()), 0);
    }
    assert_eq!(node.ingest(), Vec::<String>::new());
    // Nothing has to be fetched: no room is needed.
    let empty = registry.push("team/empty", "v1", &ImageBuilder::new().build());
    node.pull(&empty, &volume("empty")).await.unwrap();
}

#[tokio::test]
async fn images_take_no_more_than_the_quota() {
    let (node, registry) = (stored(300 * KIB as u64), FakeRegistry::start().await);
    let first = registry.push("team/a", "v1", &artifact("first", 150 * KIB));
    let second = registry.push("team/b", "v1", &artifact("second", 200 * KIB));
    node.pull(&first, &volume("a")).await.unwrap();
    let message = refusal(&node, &second).await;
    assert!(message.contains("needs 200.0 KiB, images take 1"), "{message}");
    assert!(message.contains("of 300.0 KiB (limits.maxStoreBytes)"), "{message}");
    assert_eq!(registry.gets("/team/b/blobs/"), 0);
    // What is here costs nothing, and there is room once the other is gone.
    node.pull(&first, &volume("again")).await.unwrap();
    for pod in ["a", "again"] {
        node.service.release(&volume(pod)).await.unwrap();
    }
    node.service.remove_image(&first).await.unwrap();
    node.pull(&second, &volume("refused")).await.unwrap();
    node.assert_sound();
}

/// Two pulls at once share what there is: the second is told what the first was promised; and one that goes away takes its promise
/// along.
#[tokio::test]
async fn what_a_pull_was_promised_is_not_given_twice() {
    let (node, registry) = (stored(500 * KIB as u64), FakeRegistry::start().await);
    let first = registry.push("team/a", "v1", &artifact("first", 300 * KIB));
    let second = registry.push("team/b", "v1", &artifact("second", 300 * KIB));
    let gate = Gate::new();
    registry.faults().once("/team/a/blobs/", Fault::StallAt(1000, gate.clone()));
    let holder = volume("a");
    let (pulled, message) = tokio::join!(node.pull(&first, &holder), async {
        gate.arrived(1).await;
        let message = refusal(&node, &second).await;
        gate.open();
        message
    });
    pulled.unwrap();
    assert!(message.contains("300.0 KiB are promised to other pulls"), "{message}");
    let third = registry.push("team/c", "v1", &artifact("third", 150 * KIB));
    node.pull(&third, &volume("c")).await.unwrap();
}

#[tokio::test]
async fn a_layer_that_unpacks_beyond_the_quota_is_stopped() {
    let (node, registry) = (stored(8 << 20), FakeRegistry::start().await);
    let bomb = zeros("zeros", 48 << 20).gzip();
    assert!(bomb.blob.bytes.len() < 1 << 20);
    let blob = bomb.blob.digest.clone();
    let reference = registry.push("team/bomb", "v1", &ImageBuilder::new().layer(bomb).build());
    let message = refusal(&node, &reference).await;
    assert!(message.contains("images would take more than 8.0 MiB (limits.maxStoreBytes)"), "{message}");
    assert_eq!(node.ingest(), Vec::<String>::new(), "the disk has it back");
    // The next try need not fetch it to know.
    let message = refusal(&node, &reference).await;
    assert!(message.contains("needs at least 1") && message.contains(" MiB, images take "), "{message}");
    assert_eq!(registry.gets(&blob.to_string()), 1);
    node.assert_sound();
}

#[tokio::test]
async fn layers_that_are_small_each_are_stopped_together() {
    let service = Limits { max_image_bytes: 5 << 19, ..Limits::default() };
    let (node, registry) = (Node::with_caps(Caps { service, ..Caps::default() }), FakeRegistry::start().await);
    let image = |names: &[&str]| {
        let layers = names.iter().map(|name| zeros(name, 1 << 20).gzip());
        layers.fold(ImageBuilder::new(), ImageBuilder::layer).build()
    };
    let fits = registry.push("team/fits", "v1", &image(&["a", "b", "a", "b", "a"]));
    node.pull(&fits, &volume("a")).await.unwrap();
    let bomb = registry.push("team/bomb", "v1", &image(&["a", "b", "c"]));
    let error = node.pull(&bomb, &volume("b")).await.unwrap_err();
    let message = format!("image {bomb}: layers of the image unpack to more than 2.5 MiB (limits.maxImageBytes)");
    assert_eq!(error, ImageServiceError::Invalid { message });
    assert_eq!(node.service.list().await.unwrap().len(), 1);
    node.assert_sound();
}

#[tokio::test]
async fn entries_of_all_layers_count_together() {
    let limits = imagevol_store::Limits { max_entries: 10, ..imagevol_store::Limits::default() };
    let (node, registry) = (Node::with_limits(limits), FakeRegistry::start().await);
    // Each hides what the one before it holds: merged, they are few.
    let layer =
        |text: &str| (0..4).fold(LayerBuilder::new(), |layer, file| layer.file(&format!("f{file}"), text)).gzip();
    let image =
        |texts: &[&str]| texts.iter().map(|text| layer(text)).fold(ImageBuilder::new(), ImageBuilder::layer).build();
    node.pull(&registry.push("team/fits", "v1", &image(&["1", "2"])), &volume("a")).await.unwrap();
    let error = node.pull(&registry.push("team/bomb", "v1", &image(&["1", "2", "3"])), &volume("b")).await.unwrap_err();
    assert!(
        matches!(&error, ImageServiceError::Invalid { message } if message.contains("hold more than 10")),
        "{error:?}"
    );
    node.assert_sound();
}

#[tokio::test]
async fn unused_images_make_room_and_no_more_of_them_than_must() {
    let (node, registry) = (stored_and_collected(600 * KIB as u64), FakeRegistry::start().await);
    let push = |name: &str, size: usize| registry.push(&format!("team/{name}"), "v1", &artifact(name, size * KIB));
    let (first, second, used) = (push("first", 150), push("second", 150), push("used", 150));
    for (reference, pod) in [(&first, "a"), (&second, "b"), (&used, "c")] {
        node.pull(reference, &volume(pod)).await.unwrap();
    }
    for pod in ["a", "b"] {
        node.service.release(&volume(pod)).await.unwrap();
    }
    // Not even both would do: neither goes.
    let message = refusal(&node, &push("huge", 550)).await;
    assert!(message.ends_with("KiB could be freed by removing unused images"), "{message}");
    assert_eq!(names(&node).await.len(), 3);
    node.service.release(&volume("refused")).await.unwrap();
    let new = push("new", 200);
    node.pull(&new, &volume("d")).await.unwrap();
    let left = names(&node).await;
    assert!(left.contains(&new) && left.contains(&used) && left.len() == 3, "{left:?}");
    node.assert_sound();
}

/// A collection that has looked at the disk counts on it that nobody else frees anything; and what goes is told of.
#[tokio::test]
async fn room_is_made_in_turn_and_told_of() {
    let (mut node, registry) = (stored_and_collected(300 * KIB as u64), FakeRegistry::start().await);
    let (made, mut told) = mpsc::unbounded_channel();
    node.service = node.service.clone().telling_of_room(made);
    let old = registry.push("team/old", "v1", &artifact("old", 150 * KIB));
    let old_id = node.pull(&old, &volume("a")).await.unwrap();
    node.service.release(&volume("a")).await.unwrap();
    let new = registry.push("team/new", "v1", &artifact("new", 200 * KIB));
    let (turn, holder) = (node.service.turns().next().await, volume("b"));
    let mut pull = Box::pin(node.pull(&new, &holder));
    tokio::select! {
        pulled = &mut pull => panic!("{pulled:?} without a turn"),
        () = until(|| registry.gets("/team/new/manifests/") > 0) => {}
    }
    assert_eq!(names(&node).await, [old]);
    drop(turn);
    pull.await.unwrap();
    assert_eq!(names(&node).await, [new]);
    let collection = told.recv().await.unwrap();
    assert_eq!(collection.gone.iter().map(|gone| &gone.image).collect::<Vec<_>>(), [old_id.digest()]);
}

/// An image that was here a moment ago may be wanted by the next pod: it is no room for another.
#[tokio::test]
async fn young_images_make_no_room() {
    let (node, registry) = (stored(300 * KIB as u64), FakeRegistry::start().await);
    let first = registry.push("team/a", "v1", &artifact("first", 150 * KIB));
    node.pull(&first, &volume("a")).await.unwrap();
    node.service.release(&volume("a")).await.unwrap();
    let message = refusal(&node, &registry.push("team/b", "v1", &artifact("second", 200 * KIB))).await;
    assert!(message.ends_with("nothing could be freed by removing unused images"), "{message}");
    assert_eq!(names(&node).await, [first]);
}

/// Content that this very image is made of is no room for it, although the image that brought it may go.
#[tokio::test]
async fn what_is_here_of_an_image_is_not_removed_for_the_rest_of_it() {
    let (node, registry) = (stored_and_collected(500 * KIB as u64), FakeRegistry::start().await);
    let layer = |name: &str, size: usize| {
        LayerBuilder::new().file(name, name.bytes().cycle().take(size * KIB).collect::<Vec<_>>()).gzip()
    };
    let base = layer("base", 200);
    let old = registry.push("team/a", "v1", &ImageBuilder::new().layer(base.clone()).layer(layer("old", 200)).build());
    node.pull(&old, &volume("a")).await.unwrap();
    node.service.release(&volume("a")).await.unwrap();
    let plain =
        LayerBuilder::new().file("new", vec![1; 200 * KIB]).build(imagevol_test_support::image::Compression::None);
    let new = registry.push("team/a", "v2", &ImageBuilder::new().layer(base.clone()).layer(plain).build());
    node.pull(&new, &volume("b")).await.unwrap();
    assert_eq!(registry.gets(&base.blob.digest.to_string()), 1, "it was kept");
    assert_eq!(names(&node).await, [new]);
    node.assert_sound();
}
