//! Runs kubectl, where somebody has asked for tests on a cluster.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

/// Runs the tests where it is `1`.
pub(crate) const SWITCH: &str = "IMAGEVOL_E2E";

/// What a command printed, as text.
#[derive(Debug)]
pub struct Kubectl {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

// === impl Kubectl ===

impl Kubectl {
    /// Runs kubectl on the cluster of the environment, with something on its standard input.
    pub fn run(args: &[&str], input: Option<&str>) -> Self {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut command = Command::new("kubectl");
        let mut child = command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(input) = input {
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { ok: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Starts kubectl and does not wait for its end.
    pub(crate) fn start(args: &[&str]) -> Child {
        let mut command = Command::new("kubectl");
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Standard output of what must have succeeded.
    pub fn must(self, args: &[&str]) -> String {
        assert!(self.ok, "kubectl {args:?}: {}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Whether somebody has asked for tests on a cluster; if not, that is said aloud.
///
/// `cargo test --workspace` runs them too, on machines without a cluster, with `CI=true` or not: there the switch is absent, and they do
/// not count as skipped. Where it is set, a cluster that is missing is a failure.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub fn is_asked_for(test: &str) -> bool {
    if std::env::var(SWITCH).as_deref() != Ok("1") {
        eprintln!("SKIPPED: {test}: needs a cluster; `make e2e` makes one and sets {SWITCH}=1");
        return false;
    }
    assert!(std::env::var_os("KUBECONFIG").is_some(), "{SWITCH}=1, and KUBECONFIG names no cluster");
    true
}
