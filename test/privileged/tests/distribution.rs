//! A generated distribution: what a pod sees equals what `umoci unpack` makes of the same layers.

use std::sync::LazyLock;

use rstest::rstest;

use imagevol_test_privileged::distribution::{self, IMPLIED, times_lost_by_umoci};
use imagevol_test_privileged::node::Node;
use imagevol_test_privileged::tools::umoci_tree;
use imagevol_test_privileged::tree::{Allowed, Tree};
use imagevol_test_support::daemon::{have, own_mounts};
use imagevol_test_support::docker_registry::DockerRegistry;
use imagevol_test_support::image::Compression;

/// umoci 0.4 cannot read zstd: the same layers with gzip.
static UNPACKED: LazyLock<Tree> = LazyLock::new(|| umoci_tree(&distribution::image(&[Compression::Gzip])));

#[rstest]
fn a_distribution_is_mounted_as_umoci_unpacks_it(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "a distribution is mounted as umoci unpacks it";
    if !own_mounts(test) || !have(test, &["umoci", "docker-registry"]) {
        return;
    }
    let mixed = [Compression::Gzip, Compression::Zstd, Compression::None, Compression::GzipMembers(3)];
    let image = distribution::image(&mixed);
    assert!(image.layers.len() >= 6);
    let registry = DockerRegistry::start();
    let reference = registry.push("generated/distribution", "v1", &image);
    let node = Node::start(backend, "");
    let mounted = node.tree(&reference);
    assert!(UNPACKED.len() > 20_000, "{} entries", UNPACKED.len());
    // Directories that no layer describes get umoci's time of unpacking, and the image's 1970.
    mounted.assert_same(&UNPACKED, &Allowed::default().times(IMPLIED).times(times_lost_by_umoci()));
    node.assert_sound();
}
