//! What the disk loses is found before a mount and by the scrub; who reads it goes on, and who comes gets good bytes.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imagevol_api::oci::Digest;
use imagevol_base::Supervisor;
use imagevol_cri::{ImageId, ImageMounts as _, ImageReferences as _, ImageServiceError, MountRequest};
use imagevol_imageservice::ScrubSettings;
use imagevol_mount::{Exec, Interface as _, Kernel};
use imagevol_store::Remedy;
use imagevol_test_support::image::{ImageBuilder, LayerBuilder};
use imagevol_test_support::registry::FakeRegistry;

use crate::mounts::{alone, at, mount, place};
use crate::support::{Node, volume};

/// An image with a large file, what leads to it, and its layer.
struct Pulled {
    reference: String,
    id: ImageId,
    diff_id: Digest,
    blob: Digest,
}

const SCRUB: ScrubSettings = ScrubSettings { interval: Duration::from_hours(24), bytes_per_second: 1 << 20 };

async fn pulled(node: &Node, registry: &FakeRegistry, pod: &str) -> Pulled {
    let layer = LayerBuilder::new().file("file", "content").file("large", vec![b'l'; 3 << 20]).gzip();
    let (diff_id, blob) = (layer.diff_id.clone(), layer.blob.digest.clone());
    let other = LayerBuilder::new().file("other", "more").gzip();
    let reference = registry.push("team/data", "v1", &ImageBuilder::new().layer(layer).layer(other).build());
    let id = node.pull(&reference, &volume(pod)).await.unwrap();
    Pulled { reference, id, diff_id, blob }
}

impl Pulled {
    fn layer_file(&self, node: &Node) -> PathBuf {
        node.dir.path().join(format!("state/layers/sha256/{}.tar", self.diff_id.hex()))
    }

    fn index_file(&self, node: &Node) -> PathBuf {
        node.dir.path().join(format!("state/images/sha256/{}.erofs", self.id.digest().hex()))
    }
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn read(at: &Path) -> String {
    std::fs::read_to_string(at.join("file")).unwrap()
}

#[test]
fn a_corrupt_index_is_made_again_before_it_is_mounted() {
    alone("a_corrupt_index_is_made_again", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let image = pulled(&node, &registry, "a").await;
        let mut found = node.service.integrity().subscribe();
        flip(&image.index_file(&node), 1300);
        let a = mount(&node, &image.id, "a", Exec::Allow).await;
        assert_eq!(read(&a), "content");
        assert_eq!(found.try_recv().unwrap().remedy, Remedy::Rebuilt);
        // And again under the mount: whoever comes then gets a superblock of its own, and nothing is cloned from the first.
        flip(&image.index_file(&node), 1300);
        assert_eq!(node.pull(&image.reference, &volume("b")).await.unwrap(), image.id);
        let b = mount(&node, &image.id, "b", Exec::Allow).await;
        assert_eq!((read(&a), read(&b)), ("content".to_owned(), "content".to_owned()));
        assert_ne!(at(&a).device, at(&b).device);
        assert_eq!(at(&place(&node, &image.id)).device, at(&b).device);
        assert_eq!(found.try_recv().unwrap().images[0].holders, [volume("a"), volume("b")]);
        assert_eq!(node.service.integrity().corrupt().images, 2);
        assert_eq!(registry.gets("/blobs/"), 3, "nothing comes again");
        node.assert_sound();
    });
}

#[test]
fn the_same_file_is_hashed_once_and_mounted_often() {
    alone("the_same_file_is_hashed_once", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let image = pulled(&node, &registry, "a").await;
        let a = mount(&node, &image.id, "a", Exec::Allow).await;
        let b = mount(&node, &image.id, "b", Exec::Allow).await;
        assert_eq!(at(&a).device, at(&b).device);
        assert_eq!(node.service.integrity().corrupt().images, 0);
    });
}

/// Scrubs until something is found.
async fn scrub_until_found(node: &Node) -> std::sync::Arc<imagevol_store::Quarantined> {
    let mut found = node.service.integrity().subscribe();
    tokio::select! {
        () = node.service.scrub(SCRUB) => unreachable!(),
        found = found.recv() => found.unwrap(),
    }
}

#[test]
fn a_corrupt_layer_stays_with_who_reads_it_and_comes_anew_for_others() {
    alone("a_corrupt_layer_stays_with_who_reads_it", async || {
        tokio::time::pause();
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let image = pulled(&node, &registry, "a").await;
        let a = mount(&node, &image.id, "a", Exec::Allow).await;
        flip(&image.layer_file(&node), 2 << 20);
        let found = scrub_until_found(&node).await;
        assert_eq!((found.part.digest(), found.remedy), (&image.diff_id, Remedy::Pull));
        assert_eq!(found.images[0].holders, [volume("a")]);
        assert!(!place(&node, &image.id).exists(), "nothing new is cloned from it");
        assert_eq!(read(&a), "content");
        // The next process has what is mounted, and makes nothing of it either.
        let node = node.again().await;
        node.volumes.lock().unwrap().push((volume("a"), a.clone()));
        let request = MountRequest { image: &image.id, sub_path: None, exec: Exec::Allow };
        assert!(matches!(node.service.mount(request).await, Err(ImageServiceError::NotFound { .. })));
        registry.clear_requests();
        assert_eq!(node.pull(&image.reference, &volume("b")).await.unwrap(), image.id);
        // A config is no larger than the question whether a pod may have it.
        assert_eq!(registry.gets("/blobs/"), 2, "the config, and what was lost: {:?}", registry.requests());
        assert_eq!(registry.gets(&image.blob.to_string()), 1);
        let b = mount(&node, &image.id, "b", Exec::Allow).await;
        assert_ne!(at(&a).device, at(&b).device);
        assert_eq!(std::fs::read(b.join("large")).unwrap(), vec![b'l'; 3 << 20]);
        // Staging that is lost comes back from the good one.
        Kernel.unmount(&place(&node, &image.id)).unwrap();
        let node = node.again().await;
        *node.volumes.lock().unwrap() = vec![(volume("a"), a.clone()), (volume("b"), b.clone())];
        node.pull(&image.reference, &volume("c")).await.unwrap();
        let c = mount(&node, &image.id, "c", Exec::Allow).await;
        assert_eq!(at(&c).device, at(&b).device);
        // And ends as any other.
        for (pod, path) in [("a", a), ("b", b), ("c", c)] {
            Kernel.unmount(&path).unwrap();
            node.service.release(&volume(pod)).await.unwrap();
        }
        assert!(!place(&node, &image.id).exists());
        node.assert_sound();
    });
}

#[test]
fn a_repair_beside_a_mount_leaves_it_alone() {
    alone("a_repair_beside_a_mount", async || {
        let (node, registry) = (Node::new(), FakeRegistry::start().await);
        let image = pulled(&node, &registry, "a").await;
        let a = mount(&node, &image.id, "a", Exec::Allow).await;
        let report = node.service.repair().await.unwrap();
        assert_eq!((report.problems.len(), report.repaired.len(), report.images), (0, 0, 1));
        assert!(place(&node, &image.id).exists());
        flip(&image.layer_file(&node), 2 << 20);
        let report = node.service.repair().await.unwrap();
        assert_eq!((report.problems.len(), report.repaired.len()), (0, 1), "{report:?}");
        assert!(!place(&node, &image.id).exists());
        assert_eq!(read(&a), "content");
        assert_eq!(node.service.repair().await.unwrap().repaired, Vec::<String>::new());
    });
}

#[tokio::test(start_paused = true)]
async fn the_scrub_reads_at_its_pace_and_begins_again_after_its_interval() {
    let (node, registry) = (Node::new(), FakeRegistry::start().await);
    pulled(&node, &registry, "a").await;
    let service = node.service.clone();
    let stored = service.store().fsck().unwrap().bytes;
    let begin = tokio::time::Instant::now();
    let supervisor = Supervisor::new("test");
    supervisor.spawn("scrub", async move { service.scrub(SCRUB).await });
    let integrity = node.service.integrity();
    while integrity.scrubbed_all_at().is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(integrity.scrubbed_bytes(), stored, "every byte once");
    assert!(begin.elapsed() >= Duration::from_secs(stored >> 20), "{:?}", begin.elapsed());
    assert!(begin.elapsed() <= Duration::from_secs((stored >> 20) + 3), "{:?}", begin.elapsed());
    tokio::time::sleep(Duration::from_hours(12)).await;
    assert_eq!(integrity.scrubbed_bytes(), stored);
    tokio::time::sleep(Duration::from_hours(13)).await;
    assert_eq!(integrity.scrubbed_bytes(), 2 * stored);
}
