//! Collection: what nobody needs goes, by the plan, and nothing else.

use std::time::Duration;

use imagevol_base::collection::{Collection, Execution, Goal, Stay, Wish};
use imagevol_cri::{
    Holder, ImageCollector as _, ImageId, ImageMounts as _, ImageReferences as _, ImageService as _, ImageSpec,
    MountRequest,
};
use imagevol_mount::Exec;
use imagevol_store::{Terms, Until};
use imagevol_test_support::image::{ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::FakeRegistry;

use crate::mounts::alone;
use crate::support::{Node, volume};

/// Pulls an image with a layer of its own that nobody holds afterwards.
async fn idle(node: &Node, registry: &FakeRegistry, name: &str) -> (String, ImageId) {
    let layer = LayerBuilder::new().file("file", name).gzip();
    let reference = registry.push(name, "v1", &ImageBuilder::new().layer(layer).build());
    let id = node.pull(&reference, &volume("puller")).await.unwrap();
    node.service.release(&volume("puller")).await.unwrap();
    (reference, id)
}

async fn collect(node: &Node, goal: Goal, execution: Execution) -> Collection {
    let turn = node.service.turns().next().await;
    node.service.collect(&turn, Wish { goal, min_age: Duration::ZERO }, execution).await.unwrap()
}

fn gone(collection: &Collection) -> Vec<ImageId> {
    assert!(collection.failed.is_empty(), "{:?}", collection.failed);
    collection.gone.iter().map(|image| ImageId::new(image.image.clone())).collect()
}

async fn is_here(node: &Node, reference: &str) -> bool {
    let spec = ImageSpec { image: reference.to_owned(), ..ImageSpec::default() };
    node.service.status(&spec).await.unwrap().is_some()
}

#[tokio::test]
async fn what_nobody_needs_goes_and_a_dry_run_says_so_before() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (held, _) = idle(&node, &registry, "held").await;
    let (pinned, _) = idle(&node, &registry, "pinned").await;
    let (_, unneeded) = idle(&node, &registry, "unneeded").await;
    let lease = Terms { lasts: Some(Duration::from_hours(1)), until: Until::Released };
    let external: Holder = "external/backup/nightly".parse().unwrap();
    node.service.hold_for(&external, &held, lease).await.unwrap();
    node.service.store().pin(&pinned.parse().unwrap()).unwrap();
    let images = node.service.list().await.unwrap();
    assert_eq!(images.iter().filter(|image| image.pinned).count(), 1);
    let before = node.service.fs_info().await.unwrap().used_bytes;
    let planned = collect(&node, Goal::Everything, Execution::DryRun).await;
    assert_eq!(gone(&planned), [unneeded]);
    let mut stayed: Vec<_> = planned.stayed.iter().map(|image| image.because.clone()).collect();
    stayed.sort_by_key(|because| matches!(because, Stay::Pinned(_)));
    assert_eq!(stayed, [Stay::Held(vec![external]), Stay::Pinned(vec![pinned.clone()])]);
    assert_eq!(node.service.list().await.unwrap().len(), 3);
    let done = collect(&node, Goal::Everything, Execution::Delete).await;
    assert_eq!(gone(&done), gone(&planned));
    assert_eq!(done.freed_bytes(), planned.freed_bytes());
    assert_eq!(before - node.service.fs_info().await.unwrap().used_bytes, done.freed_bytes());
    assert!(is_here(&node, &held).await && is_here(&node, &pinned).await);
    node.assert_sound();
}

#[tokio::test]
async fn no_more_goes_than_is_wanted() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    for name in ["a", "b", "c"] {
        idle(&node, &registry, name).await;
    }
    let done = collect(&node, Goal::Free(1), Execution::Delete).await;
    assert_eq!((done.gone.len(), done.stayed.len()), (1, 2));
    assert!(done.stayed.iter().all(|image| image.because == Stay::NotNeeded));
    assert_eq!(collect(&node, Goal::Free(0), Execution::Delete).await.gone.len(), 0);
    assert_eq!(collect(&node, Goal::UnusedFor(Duration::from_hours(1)), Execution::Delete).await.gone.len(), 0);
}

#[tokio::test]
async fn one_that_cannot_be_removed_is_told_and_made_up_for() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    let (_, first) = idle(&node, &registry, "first").await;
    let (_, second) = idle(&node, &registry, "second").await;
    let all = gone(&collect(&node, Goal::Everything, Execution::DryRun).await);
    assert!(all.contains(&first) && all.contains(&second));
    // Something in the place of the first to go that cannot be unstaged.
    let place = node.dir.path().join("staging").join(all[0].digest().hex());
    std::fs::create_dir_all(place.join("in the way")).unwrap();
    let done = collect(&node, Goal::Free(1), Execution::Delete).await;
    assert_eq!(done.gone.iter().map(|image| &image.image).collect::<Vec<_>>(), [all[1].digest()]);
    let [(image, message)] = &done.failed[..] else { panic!("{:?}", done.failed) };
    assert_eq!((image, message.starts_with("cannot remove ")), (all[0].digest(), true), "{message}");
}

#[test]
fn what_is_mounted_stays_though_no_row_says_so() {
    alone("what_is_mounted_stays_though_no_row_says_so", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let (reference, id) = idle(&node, &registry, "mounted").await;
        node.service.hold(&volume("a"), &reference).await.unwrap();
        node.service.bind(&volume("a"), &id).await.unwrap().unwrap();
        let mount = node.service.mount(MountRequest { image: &id, sub_path: None, exec: Exec::Deny }).await.unwrap();
        node.service.release(&volume("a")).await.unwrap();
        let done = collect(&node, Goal::Everything, Execution::Delete).await;
        assert_eq!(done.stayed.iter().map(|image| &image.because).collect::<Vec<_>>(), [&Stay::Mounted]);
        drop(mount);
        assert_eq!(gone(&collect(&node, Goal::Everything, Execution::Delete).await), [id]);
        node.assert_sound();
    });
}
