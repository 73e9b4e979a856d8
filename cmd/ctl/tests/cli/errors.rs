//! What is said when something is wrong with the daemon, and that nothing it says can command a terminal.

use serde_json::json;

use crate::fake::{Daemon, foreign, ok, raw, refused};
use crate::{imagevol, list, pod};

#[test]
fn a_missing_socket_has_a_hint() {
    let text = "\
error: cannot connect to the imagevol daemon at /nonexistent/sock
  caused by: No such file or directory (os error 2)
hint: is imagevold running? Another socket is given with --socket or IMAGEVOL_SOCKET
";
    imagevol().env("IMAGEVOL_SOCKET", "/nonexistent/sock").arg("status").assert().code(1).stdout("").stderr(text);
}

#[test]
fn a_dead_socket_has_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let assert = imagevol().arg("--socket").arg(&socket).args(["get", "pods"]).assert().code(1).stdout("");
    let error = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(error.contains("Connection refused") && error.contains("hint: is imagevold running?"), "{error}");
}

#[test]
fn something_that_is_no_daemon_is_named_so() {
    let daemon = Daemon::start([
        ("GET /status", vec![raw("<html>\u{1b}[2J</html>")]),
        ("GET /images", vec![foreign(404, "{\"message\":\"page not found\"}")]),
    ]);
    let text = "\
error: the answer to GET /status is not what an imagevol daemon says: \"<html>\\u{1b}[2J</html>\"
  caused by: expected value at line 1 column 1
hint: does another program, or another version of imagevold, listen at this socket?
";
    daemon.imagevol(&["status"]).assert().code(1).stderr(text);
    let text = "\
error: unexpected answer 404 Not Found to GET /images: \"{\\\"message\\\":\\\"page not found\\\"}\"
hint: does another program, or another version of imagevold, listen at this socket?
";
    daemon.imagevol(&["images"]).assert().code(1).stderr(text);
}

#[test]
fn something_that_speaks_no_http_is_named_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let other = std::thread::spawn(move || {
        use std::io::Write as _;
        listener.accept().unwrap().0.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
    });
    let assert = imagevol().arg("--socket").arg(&socket).arg("status").assert().code(1).stdout("");
    let error = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(error.starts_with("error: no proper HTTP answer to GET /status\n  caused by: "), "{error}");
    other.join().unwrap();
}

#[test]
fn refusals_are_kubectls() {
    let daemon = Daemon::start([
        ("GET /api/v1/namespaces/default/pods/x", vec![refused(404, "NotFound", "pods \"x\" not found")]),
        ("GET /api/v1/namespaces/default/pods", vec![refused(500, "", "broken\u{1b}[31m")]),
    ]);
    daemon
        .imagevol(&["get", "pod", "x"])
        .assert()
        .code(1)
        .stdout("")
        .stderr("Error from server (NotFound): pods \"x\" not found\n");
    daemon.imagevol(&["get", "pods"]).assert().code(1).stdout("").stderr("Error from server: broken\\u{1b}[31m\n");
}

#[test]
fn no_answer_commands_the_terminal() {
    let mut evil = pod("web", &json!({"phase": "Failed", "reason": "\u{1b}[2J"}));
    evil["metadata"]["name"] = "\u{1b}]0;x\u{7}\n\u{202e}".into();
    let daemon = Daemon::start([
        ("GET /api/v1/namespaces/default/pods", vec![ok(&list(&[evil]))]),
        ("GET /api/v1/namespaces/default/events", vec![ok(&list(&[]))]),
    ]);
    let commands: [&[&str]; 6] = [
        &["get", "pods"],
        &["get", "pods", "-o", "wide"],
        &["get", "pods", "-o", "json"],
        &["get", "pods", "-o", "yaml"],
        &["get", "pods", "-o", "name"],
        &["describe", "pods"],
    ];
    for arguments in commands {
        let text = crate::output(daemon.imagevol(arguments));
        assert!(text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{arguments:?}: {text:?}");
    }
}

#[test]
fn an_endless_line_is_not_read_for_ever() {
    let daemon = Daemon::start([("POST /images/pull", vec![raw(vec![b' '; 5 << 20])])]);
    let assert = daemon.imagevol(&["pull", "-q", "a:1"]).assert().code(1).stdout("");
    let error = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(error.starts_with("error: the answer to POST /images/pull is larger than "), "{error}");
}
