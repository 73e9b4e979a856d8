//! The cluster of the environment, by way of kubectl.

use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;

use crate::driver::Driver;
use crate::kubectl::{Kubectl, SWITCH, is_asked_for};
use crate::namespace::Namespace;

/// A cluster to test with.
#[derive(Debug, Clone)]
pub struct Cluster {
    registry: String,
    private_registry: String,
    root: Option<PathBuf>,
}

// === impl Cluster ===

impl Cluster {
    /// The cluster of the environment. `None`, said aloud, where nobody asked for these tests.
    pub fn find(test: &str) -> Option<Self> {
        if !is_asked_for(test) {
            return None;
        }
        let registry = variable("IMAGEVOL_CLUSTER_REGISTRY");
        let private_registry = variable("IMAGEVOL_CLUSTER_PRIVATE_REGISTRY");
        Some(Self { registry, private_registry, root: std::env::var_os("IMAGEVOL_CLUSTER").map(PathBuf::from) })
    }

    /// As [`Cluster::find`], for tests that look at files, mounts and loopback sockets of the node: `None` also where the node is another
    /// machine or container than this one, which is said aloud.
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    pub fn find_local(test: &str) -> Option<Self> {
        let cluster = Self::find(test)?;
        if cluster.root.is_none() {
            eprintln!("SKIPPED: {test}: the node is not this machine (IMAGEVOL_CLUSTER is not set)");
            return None;
        }
        Some(cluster)
    }

    /// `HOST:PORT` of the open registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `HOST:PORT` of the registry that asks for a password.
    pub fn private_registry(&self) -> &str {
        &self.private_registry
    }

    /// The root of the local cluster, for tests of [`Cluster::find_local`].
    pub fn root(&self) -> &Path {
        self.root.as_deref().expect("a test of find_local")
    }

    /// What containers of the tests run.
    pub fn busybox(&self) -> String {
        format!("{}/busybox:1", self.registry)
    }

    /// A namespace of a test's own.
    pub fn namespace(&self, test: &str) -> Namespace {
        Namespace::create(self.clone(), test, &[])
    }

    /// A namespace with more labels (`key=value`).
    pub fn labelled_namespace(&self, test: &str, labels: &[&str]) -> Namespace {
        Namespace::create(self.clone(), test, labels)
    }

    /// The driver on a node.
    pub fn driver(&self, node: &str) -> Driver {
        Driver::on(self.clone(), node)
    }

    /// The only node of a cluster of one; the first of several that takes pods.
    pub fn node(&self) -> String {
        let nodes = self.json(&["get", "nodes"]);
        let tainted = |node: &Value| node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty());
        let mut free = nodes["items"].as_array().unwrap().iter().filter(|node| !tainted(node));
        text(&free.next().expect("a node that takes pods")["metadata"]["name"])
    }

    /// Runs kubectl.
    pub fn kubectl(&self, args: &[&str]) -> Kubectl {
        Kubectl::run(args, None)
    }

    /// Starts kubectl and does not wait for its end.
    pub fn start_kubectl(&self, args: &[&str]) -> Child {
        Kubectl::start(args)
    }

    /// Runs kubectl, which must succeed; its standard output.
    pub fn must(&self, args: &[&str]) -> String {
        self.kubectl(args).must(args)
    }

    /// Runs kubectl with something on its standard input; it must succeed.
    pub fn must_with(&self, args: &[&str], input: &str) -> String {
        Kubectl::run(args, Some(input)).must(args)
    }

    /// Runs kubectl with `-o json`; it must succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.must(&[args, &["-o", "json"]].concat())).unwrap()
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{SWITCH}=1, and {name} is not set"))
}

/// The text of a JSON value, empty where it is none.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
