//! A node that cannot mount images: alone it says so and ends, in a cluster it says so and stays.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use imagevol_test_support::daemon::{Daemon, own_mounts};
use nix::mount::{MsFlags, mount};

/// How often the log is looked at before the test fails.
const LOOKS: usize = 5000;

/// A daemon whose store lies on a tmpfs, where EROFS mounts of files are refused (ENOTBLK).
fn daemon(test: &str, config: &str) -> Option<Daemon> {
    if !own_mounts(test) {
        return None;
    }
    let daemon = Daemon::new().config("imageBackend: erofs").config(config);
    std::fs::create_dir(daemon.state_dir()).unwrap();
    mount(Some("tmpfs"), &daemon.state_dir(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    Some(daemon)
}

/// What the log says next that begins so, up to the end of the word.
fn logged(daemon: &Daemon, before: &str) -> String {
    for _ in 0..LOOKS {
        let log = daemon.log();
        if let Some((_, after)) = log.split_once(before) {
            let word = after.split_whitespace().next().unwrap_or_default();
            if after.contains(char::is_whitespace) {
                return word.to_owned();
            }
        }
        // Running a program is what paces the looks.
        daemon.must(["version", "--client"]);
    }
    panic!("the log does not say {before:?}:\n{}", daemon.log());
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn alone_it_is_an_error_of_the_start() {
    let Some(mut daemon) = daemon("alone_it_is_an_error_of_the_start", "") else { return };
    daemon.spawn();
    logged(&daemon, "caused by: no image back end can be used here (erofs was asked for): erofs:");
    assert!(!daemon.terminate());
}

#[test]
fn a_driver_stays_and_registers_nothing() {
    let Some(mut daemon) = daemon("a_driver_stays_and_registers_nothing", "csi: {}") else { return };
    daemon.spawn();
    let address = logged(&daemon, "serving metrics address=");
    assert!(get(&address, "/livez").starts_with("HTTP/1.1 200"));
    let ready = get(&address, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("images cannot be mounted on this node"), "{ready}");
    assert!(!daemon.root_dir().join("plugins").exists() && !daemon.root_dir().join("plugins_registry").exists());
    assert!(daemon.log().contains("the CSI driver is not registered"), "{}", daemon.log());
    assert!(daemon.terminate());
}
