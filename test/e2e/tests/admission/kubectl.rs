//! A cluster, by way of kubectl.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imagevol_test_support::daemon::have;
use serde_json::Value;

/// The kubeconfig of the cluster to test with.
const KUBECONFIG: &str = "IMAGEVOL_E2E_KUBECONFIG";
/// Runs the tests where it is `1`.
const SWITCH: &str = "IMAGEVOL_E2E";
/// Tries until something that takes a moment is given up; each takes kubectl a tenth of a second or more.
const TRIES: usize = 300;

#[derive(Debug, Clone)]
pub(crate) struct Kubectl {
    kubeconfig: PathBuf,
}

/// Says aloud that a test is for clusters of another kind. No failure, even where nothing may be skipped: one kind has
/// the feature, the other has not, and the suite is for both.
#[expect(clippy::print_stderr, reason = "a test that did nothing must be seen")]
pub(crate) fn another_cluster(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: not for this cluster: {why}");
}

impl Kubectl {
    /// The cluster of the environment. Without one the tests of the workspace have nothing to skip; `make e2e` makes one.
    #[expect(clippy::print_stderr, reason = "a test that did nothing must be seen")]
    pub(crate) fn find(test: &str) -> Option<Self> {
        let kubeconfig = std::env::var_os(KUBECONFIG).filter(|value| !value.is_empty());
        let wanted = std::env::var(SWITCH).is_ok_and(|value| value == "1");
        let Some(kubeconfig) = kubeconfig else {
            assert!(!wanted, "{SWITCH}=1, and {KUBECONFIG} names no cluster");
            eprintln!("SKIPPED: {test}: needs a cluster; `make e2e` makes one and sets {SWITCH}=1");
            return None;
        };
        have(test, &["kubectl"]).then(|| Self { kubeconfig: kubeconfig.into() })
    }

    /// Runs it; what it says on standard error when it fails.
    pub(crate) fn run(&self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(input) = input {
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Runs it, and it has to work.
    pub(crate) fn must(&self, args: &[&str], input: Option<&str>) -> String {
        self.run(args, input).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    /// An object as the API server would store it.
    pub(crate) fn dry_run(&self, namespace: &str, object: &Value) -> Result<Value, String> {
        let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
        self.run(&args, Some(&object.to_string())).map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Applies an object in one of kubectl's ways, and says what is stored then.
    pub(crate) fn apply(&self, namespace: &str, object: &Value, how: &[&str]) -> Value {
        let args = [&["apply", "-n", namespace, "-o", "json", "-f", "-"], how].concat();
        serde_json::from_str(&self.must(&args, Some(&object.to_string()))).unwrap()
    }

    pub(crate) fn get(&self, namespace: &str, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.must(&["get", "-n", namespace, kind, name, "-o", "json"], None)).unwrap()
    }

    /// The objects of a folder for kustomize.
    pub(crate) fn manifests(&self, folder: &str) -> Vec<Value> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/admission").join(folder);
        let yaml = self.must(&["kustomize", folder.to_str().unwrap()], None);
        let json = self.must(&["create", "--dry-run=client", "-o", "json", "-f", "-"], Some(&yaml));
        let objects = serde_json::Deserializer::from_str(&json).into_iter::<Value>().map(Result::unwrap);
        objects.flat_map(|object| object["items"].as_array().cloned().unwrap_or_else(|| vec![object])).collect()
    }

    /// Asks until the answer is there: API servers learn of policies and webhooks a moment after they are stored.
    pub(crate) fn until<T>(&self, what: &str, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        for _ in 0..TRIES {
            if let Some(answer) = ask(self) {
                return answer;
            }
        }
        panic!("did not happen: {what}");
    }
}
