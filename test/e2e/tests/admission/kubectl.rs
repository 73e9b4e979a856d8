//! A cluster, by way of kubectl.

use std::path::Path;

use imagevol_test_e2e::is_asked_for;
use imagevol_test_support::daemon::have;
use serde_json::Value;

/// Tries until something that takes a moment is given up; each takes kubectl a tenth of a second or more.
const TRIES: usize = 300;

/// The cluster of the environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kubectl;

/// Says aloud that a test is for clusters of another kind. No failure, even where nothing may be skipped: one kind has
/// the feature, the other has not, and the suite is for both.
#[expect(clippy::print_stderr, reason = "a test that did nothing must be seen")]
pub(crate) fn another_cluster(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: not for this cluster: {why}");
}

impl Kubectl {
    /// The cluster of the environment.
    pub(crate) fn find(test: &str) -> Option<Self> {
        (is_asked_for(test) && have(test, &["kubectl"])).then_some(Self)
    }

    /// Runs it; what it says on standard error when it fails.
    #[expect(clippy::unused_self, reason = "who has it has asked for the cluster")]
    pub(crate) fn run(self, args: &[&str], input: Option<&str>) -> Result<String, String> {
        let ran = imagevol_test_e2e::Kubectl::run(args, input);
        if ran.ok { Ok(ran.stdout) } else { Err(ran.stderr) }
    }

    /// Runs it, and it has to work.
    pub(crate) fn must(self, args: &[&str], input: Option<&str>) -> String {
        self.run(args, input).unwrap_or_else(|error| panic!("kubectl {args:?}: {error}"))
    }

    /// An object as the API server would store it.
    pub(crate) fn dry_run(self, namespace: &str, object: &Value) -> Result<Value, String> {
        let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
        self.run(&args, Some(&object.to_string())).map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Applies an object in one of kubectl's ways, and says what is stored then.
    pub(crate) fn apply(self, namespace: &str, object: &Value, how: &[&str]) -> Value {
        let args = [&["apply", "-n", namespace, "-o", "json", "-f", "-"], how].concat();
        serde_json::from_str(&self.must(&args, Some(&object.to_string()))).unwrap()
    }

    pub(crate) fn get(self, namespace: &str, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.must(&["get", "-n", namespace, kind, name, "-o", "json"], None)).unwrap()
    }

    /// The objects of a folder for kustomize.
    pub(crate) fn manifests(self, folder: &str) -> Vec<Value> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/admission").join(folder);
        let yaml = self.must(&["kustomize", folder.to_str().unwrap()], None);
        let json = self.must(&["create", "--dry-run=client", "-o", "json", "-f", "-"], Some(&yaml));
        let objects = serde_json::Deserializer::from_str(&json).into_iter::<Value>().map(Result::unwrap);
        objects.flat_map(|object| object["items"].as_array().cloned().unwrap_or_else(|| vec![object])).collect()
    }

    /// Asks until the answer is there: API servers learn of policies and webhooks a moment after they are stored.
    pub(crate) fn until<T>(self, what: &str, mut ask: impl FnMut(Self) -> Option<T>) -> T {
        for _ in 0..TRIES {
            if let Some(answer) = ask(self) {
                return answer;
            }
        }
        panic!("did not happen: {what}");
    }
}
