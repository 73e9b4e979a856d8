//! How the daemon starts, refuses to start, and ends: the program itself, as its user runs it.

use std::path::Path;

use assert_cmd::Command;
use imagevol_test_support::daemon::{Daemon, own_mounts};

fn imagevold() -> Command {
    Command::new(env!("CARGO_BIN_EXE_imagevold"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn says_its_version() {
    let output = imagevold().arg("--version").output().unwrap();
    assert_eq!(text(&output.stdout), format!("imagevold {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_bad_configuration_ends_it_with_a_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, "apiVersion: imagevol.dev/v1alpha1\nkind: ImagevolConfiguration\npullDeadline: soon\n")
        .unwrap();
    let output = imagevold().arg("--config").arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let error = text(&output.stderr);
    assert!(error.starts_with("error: configuration file ") && error.contains("pullDeadline"), "{error}");
}

#[test]
fn fsck_of_nothing_says_where_it_looked() {
    let output = imagevold().args(["fsck", "--state-dir", "/nonexistent/state"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/state"), "{}", text(&output.stderr));
}

#[test]
fn a_second_daemon_over_one_state_refuses_to_start() {
    if !own_mounts("a_second_daemon_over_one_state_refuses_to_start") {
        return;
    }
    let mut daemon = Daemon::new();
    daemon.start();
    let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
    let output = imagevold()
        .args([flag("state-dir", &daemon.state_dir()), flag("run-dir", &daemon.dir().join("other-run"))])
        .args([flag("manifest-dir", &daemon.manifest_dir()), "--metrics-address=127.0.0.1:0".to_owned()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another imagevold runs on "), "{}", text(&output.stderr));
}

#[test]
fn ends_well_on_sigterm_and_leaves_a_tree_that_fsck_likes() {
    if !own_mounts("ends_well_on_sigterm_and_leaves_a_tree_that_fsck_likes") {
        return;
    }
    let mut daemon = Daemon::new();
    daemon.start();
    assert!(daemon.terminate(), "{}", daemon.log());
    assert!(!daemon.dir().join("run/imagevold.sock").exists(), "the socket is taken away");
    let mut fsck = imagevold();
    fsck.arg("fsck").arg("--state-dir").arg(daemon.state_dir()).arg("--run-dir").arg(daemon.dir().join("run"));
    let output = fsck.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "Checked 0 images, 0 blobs with 0B, and 0 mounts.\nNo problems found.\n");
}

#[test]
fn the_socket_and_its_directory_are_for_root_only() {
    use std::os::unix::fs::PermissionsExt as _;
    if !own_mounts("the_socket_and_its_directory_are_for_root_only") {
        return;
    }
    let mut daemon = Daemon::new();
    daemon.start();
    let mode = |path: &str| std::fs::metadata(daemon.dir().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/imagevold.sock"), mode("state")), (0o700, 0o600, 0o700));
}
