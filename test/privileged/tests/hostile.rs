//! Images that mean harm, through the whole daemon: refused or confined, nothing left behind, and the node goes on.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::Path;

use rstest::rstest;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use imagevol_test_privileged::hostile::{Case, MAX_LAYER_BYTES, Outcome, cases};
use imagevol_test_privileged::node::Node;
use imagevol_test_privileged::tools::scratch;
use imagevol_test_privileged::tree::Tree;
use imagevol_test_support::daemon::own_mounts;
use imagevol_test_support::image::{ImageBuilder, LayerBuilder, OCI_MANIFEST};
use imagevol_test_support::registry::FakeRegistry;

/// A directory outside of every image, and how it was.
struct Canary {
    dir: TempDir,
    before: Tree,
}

#[rstest]
fn hostile_images_are_refused_or_confined(#[values("erofs", "erofs-loop")] backend: &str) {
    if !own_mounts("hostile images are refused or confined") {
        return;
    }
    let runtime = Runtime::new().unwrap();
    let registry = runtime.block_on(FakeRegistry::start());
    let node = Node::start(backend, &format!("limits:\n  maxLayerBytes: \"{MAX_LAYER_BYTES}\""));
    let good = ImageBuilder::new().layer(LayerBuilder::new().file("good", "1").gzip()).build();
    let good = registry.push("good", "v1", &good);
    let canary = Canary::new();
    let failures: Vec<String> =
        cases(canary.path()).iter().filter_map(|case| case.verdict(&registry, &node, &canary)).collect();
    assert!(failures.is_empty(), "{} cases:\n{}\nlog:\n{}", failures.len(), failures.join("\n"), node.daemon.log());
    assert_eq!(fs::read_to_string(node.mount("good", &good).join("good")).unwrap(), "1");
    node.assert_sound();
}

#[rstest]
fn hostile_manifests_are_refused(#[values("erofs", "erofs-loop")] backend: &str) {
    if !own_mounts("hostile manifests are refused") {
        return;
    }
    let runtime = Runtime::new().unwrap();
    let registry = runtime.block_on(FakeRegistry::start());
    let node = Node::start(backend, "");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let manifests: [(&str, &[u8]); 8] = [
        ("empty", b""),
        ("null", b"null"),
        ("array", b"[]"),
        ("page", b"<html>sign in</html>"),
        ("cut-off", br#"{"schemaVersion":2,"config":{"#),
        ("not-utf8", b"{\"schemaVersion\":2,\"x\":\"\xff\"}"),
        ("schema-1", br#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#),
        ("deep", deep.as_bytes()),
    ];
    for (name, bytes) in manifests {
        registry.put_manifest("bad", name, OCI_MANIFEST, bytes.to_vec());
        let ran = node.daemon.ctl(["pull", "--quiet", &registry.reference("bad", name)]);
        assert!(!ran.ok && !ran.stderr.is_empty(), "{name}: {}", ran.stdout);
    }
    assert!(node.ingest().is_empty(), "{:?}", node.ingest());
    assert!(node.daemon.mounts().is_empty());
    node.assert_sound();
}

/// What this case adds to [`cases`]: how it went, if not as it must.
trait Verdict {
    fn verdict(&self, registry: &FakeRegistry, node: &Node, canary: &Canary) -> Option<String>;
}

impl Verdict for Case {
    fn verdict(&self, registry: &FakeRegistry, node: &Node, canary: &Canary) -> Option<String> {
        let reference = registry.push("hostile", self.name, &self.image);
        let pulled = node.daemon.ctl(["pull", "--quiet", &reference]);
        let problem = match &self.outcome {
            Outcome::Refused(_) if pulled.ok => Some("was pulled".to_owned()),
            Outcome::Refused(why) if !pulled.stderr.contains(why) => {
                Some(format!("said {:?}, not {why:?}", pulled.stderr))
            }
            Outcome::Refused(_) => left_behind(node),
            Outcome::Confined(..) if !pulled.ok => Some(format!("was refused: {}", pulled.stderr)),
            Outcome::Confined(there, not_there) => misplaced(&node.tree(&reference), there, not_there),
        };
        let problem = problem.or_else(|| (!canary.is_untouched()).then(|| "touched the canary".to_owned()));
        problem.map(|problem| format!("{}: {problem}", self.name))
    }
}

fn left_behind(node: &Node) -> Option<String> {
    let left = [node.ingest(), node.pod_mounts()].concat();
    (!left.is_empty()).then(|| format!("left {left:?}"))
}

fn misplaced(tree: &Tree, there: &[String], not_there: &[String]) -> Option<String> {
    let missing = there.iter().filter(|path| tree.get(path).is_none());
    let strange = not_there.iter().filter(|path| tree.get(path).is_some());
    let wrong: Vec<_> = missing.chain(strange).collect();
    (!wrong.is_empty()).then(|| {
        format!(
            "{wrong:?} in {:?}",
            tree.paths().map(<[u8]>::escape_ascii).map(|path| path.to_string()).collect::<Vec<_>>()
        )
    })
}

// === impl Canary ===

impl Canary {
    fn new() -> Self {
        let dir = scratch();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("file"), "canary").unwrap();
        fs::hard_link(dir.path().join("file"), dir.path().join("sub/link")).unwrap();
        let before = Tree::of(dir.path());
        Self { dir, before }
    }

    fn is_untouched(&self) -> bool {
        Tree::of(self.path()) == self.before
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}
