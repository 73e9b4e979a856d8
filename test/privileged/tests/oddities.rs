//! Every odd file, name, owner and time: what a pod sees equals what `umoci unpack` makes of the same layers.

use std::sync::LazyLock;

use rstest::rstest;

use imagevol_test_privileged::node::Node;
use imagevol_test_privileged::oddities::{self, DROPPED, Layers};
use imagevol_test_privileged::tools::umoci_tree;
use imagevol_test_privileged::tree::{Allowed, Tree};
use imagevol_test_support::daemon::{have, own_mounts};
use imagevol_test_support::docker_registry::DockerRegistry;
use imagevol_test_support::image::Compression;

static LAYERS: LazyLock<Layers> = LazyLock::new(oddities::layers);

static UNPACKED: LazyLock<Tree> = LazyLock::new(|| umoci_tree(&oddities::image(&LAYERS.for_umoci, Compression::Gzip)));

/// An attribute with an empty value: Go's archive/tar, by which umoci reads, takes an empty record for none. GNU tar keeps it.
const LOST_BY_UMOCI: &[u8] = b"user.empty";

#[rstest]
fn odd_files_are_mounted_as_umoci_unpacks_them(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "odd files are mounted as umoci unpacks them";
    if !own_mounts(test) || !have(test, &["umoci", "docker-registry", "tar"]) {
        return;
    }
    let registry = DockerRegistry::start();
    let reference = registry.push("generated/oddities", "v1", &oddities::image(&LAYERS.mounted, Compression::Zstd));
    let node = Node::start(backend, "");
    let mounted = node.tree(&reference);
    for (name, _) in DROPPED {
        assert!(!mounted.get("hand/xattrs").unwrap().xattrs.contains_key(name.as_bytes()), "{name} is shown");
    }
    let mut expected = UNPACKED.clone();
    expected.drop_node_xattrs();
    let shown = mounted.get("hand/xattrs").unwrap().xattrs.get(LOST_BY_UMOCI);
    assert_eq!(shown.map(Vec::as_slice), Some(&b""[..]));
    expected.for_each(|path, item| {
        if path == b"hand/xattrs" {
            item.xattrs.insert(LOST_BY_UMOCI.to_vec(), Vec::new());
        }
    });
    mounted.assert_same(&expected, &Allowed::default());
    node.assert_sound();
}
