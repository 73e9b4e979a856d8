//! A download that ends with the daemon goes on after it, from the bytes that are on disk.

use std::path::PathBuf;

use imagevol_test_support::daemon::own_mounts;
use imagevol_test_support::registry::{Fault, Gate};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::catalog::Catalog;
use crate::node::Node;
use crate::proof;
use crate::random::{self, Random};
use crate::world::World;

const SIZE: usize = 4 << 20;
/// Where the registry stops to send.
const SENT: u64 = 3 << 20;
/// What must be on disk of that: the daemon writes in pieces.
const WRITTEN: u64 = 2 << 20;

#[rstest]
#[case::drained(Signal::SIGTERM)]
#[case::killed(Signal::SIGKILL)]
fn a_download_goes_on_where_it_was(#[case] signal: Signal) {
    if !own_mounts("drain") {
        return;
    }
    let mut random = Random::new(random::seed());
    let mut catalog = Catalog::new(&mut random);
    let image = catalog.make_file(random.bytes(SIZE));
    let (blob, _) = catalog.image(image).blobs[0].clone();
    let gate = Gate::new();
    catalog.registry.faults().once(&format!("/blobs/{blob}"), Fault::StallAt(SENT, gate.clone()));
    let (mut node, mut world) = (Node::new(), World::default());
    node.start();
    let pod = world.make_pod(&mut random, &catalog, &[image]);
    world.apply(&node, pod);
    let data = wait_for_bytes(&node);
    if signal == Signal::SIGTERM {
        assert!(node.daemon.terminate(), "{}", node.daemon.log());
    } else {
        node.daemon.kill();
    }
    let kept = data.metadata().unwrap().len();
    assert!((WRITTEN..=SENT).contains(&kept), "{kept} bytes are kept");
    proof::offline(&node);
    gate.open();
    catalog.registry.clear_requests();
    node.start();
    proof::restarted(&node, &mut world, &std::collections::BTreeSet::new());
    proof::settled(&node, &mut world, &catalog);
    let asked: Vec<_> = catalog
        .registry
        .requests()
        .into_iter()
        .filter(|request| request.path.contains("/blobs/") && request.path.ends_with(&blob.to_string()))
        .collect();
    let ranges: Vec<_> =
        asked.iter().map(|request| request.headers.get("range").and_then(|range| range.to_str().ok())).collect();
    assert_eq!(ranges, [Some(format!("bytes={kept}-").as_str())], "{asked:?}");
    proof::emptied(&node, &mut world, &catalog);
}

/// The file of the download, as soon as there is enough in it.
fn wait_for_bytes(node: &Node) -> PathBuf {
    node.until("bytes on disk", || {
        let downloads: Vec<String> = node.names("state/ingest").into_iter().collect();
        let [download] = downloads.as_slice() else { return Err(format!("{downloads:?}")) };
        let data = node.daemon.state_dir().join("ingest").join(download).join("data");
        let length = data.metadata().map_or(0, |data| data.len());
        if length >= WRITTEN { Ok(data) } else { Err(format!("{length} bytes")) }
    })
}
