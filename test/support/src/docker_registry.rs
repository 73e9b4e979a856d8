//! Debian's `docker-registry`: a registry that other people wrote, on a free port of this machine.
//! A harness: whatever fails here panics, and so fails the test that uses it.
#![expect(clippy::missing_panics_doc, reason = "every function of the harness may panic, as the head says")]
#![expect(clippy::expect_used, clippy::panic, reason = "whatever fails here fails the test that uses it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use tempfile::TempDir;

use crate::image::{Blob, Image};

/// A running `docker-registry`; it ends with this value, and what it stored goes too.
#[derive(Debug)]
pub struct DockerRegistry {
    // Declared first: the process has ended (`Drop`) before its directory goes.
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

struct Answer {
    status: u16,
    head: String,
}

// === impl DockerRegistry ===

impl DockerRegistry {
    /// Starts it, and waits until it listens. The program must be installed (see [`crate::daemon::have`]).
    pub fn start() -> Self {
        let dir = TempDir::with_prefix_in("imagevol-registry-", crate::daemon::ON_DISK).expect("a directory on disk");
        let config = dir.path().join("config.yaml");
        std::fs::write(&config, configuration(&dir)).expect("write the registry's configuration");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start docker-registry");
        let log = child.stderr.take().expect("a pipe");
        Self { child, address: address_in(log), _dir: dir }
    }

    /// `127.0.0.1:PORT`: what stands before the first `/` of a reference.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `host/repository:tag`.
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Pushes an image byte for byte as it was built, and returns its reference.
    ///
    /// Tools that push compress, convert or refuse; this is for what they would not let through.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> String {
        for blob in image.blobs() {
            self.push_blob(repository, blob);
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.send(&format!("PUT {path}"), &image.media_type, &image.manifest);
        self.reference(repository, tag)
    }

    /// Distribution specification, "Pushing a blob monolithically": POST then PUT.
    fn push_blob(&self, repository: &str, blob: &Blob) {
        let begun = self.send(&format!("POST /v2/{repository}/blobs/uploads/"), "application/octet-stream", b"");
        let location = begun.location();
        let place = location.find("/v2/").and_then(|at| location.get(at..)).expect("a location in the registry");
        let joint = if place.contains('?') { '&' } else { '?' };
        let put = format!("PUT {place}{joint}digest={}", blob.digest);
        self.send(&put, "application/octet-stream", &blob.bytes);
    }

    /// One request on a connection of its own; panics unless the registry created or accepted something.
    fn send(&self, what: &str, media_type: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).expect("connect to docker-registry");
        let head = format!(
            "{what} HTTP/1.1\r\nHost: {}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("send to docker-registry");
        stream.write_all(body).expect("send to docker-registry");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("hear from docker-registry");
        let answer = Answer::parse(&String::from_utf8_lossy(&answer));
        assert!(matches!(answer.status, 201 | 202), "docker-registry: {what}: {} {}", answer.status, answer.head);
        answer
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

// === impl Answer ===

impl Answer {
    fn parse(text: &str) -> Self {
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Self { status, head: text.to_owned() }
    }

    fn location(&self) -> String {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found = headers.filter(|(name, _)| name.eq_ignore_ascii_case("location"));
        found.next().map(|(_, value)| value.trim().to_owned()).expect("a location")
    }
}

fn configuration(dir: &TempDir) -> String {
    format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n",
        dir.path().join("data").display()
    )
}

/// Reads the log until it says where the registry listens; the rest of it is read on a thread, so that the registry never waits.
fn address_in(log: ChildStderr) -> SocketAddr {
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let mut seen = String::new();
    let address = lines.by_ref().find_map(|line| {
        let found = listening_on(&line);
        seen.push_str(&line);
        seen.push('\n');
        found
    });
    std::thread::spawn(move || lines.for_each(drop));
    address.unwrap_or_else(|| panic!("docker-registry did not start:\n{seen}"))
}

fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on ")?;
    after.split([' ', '"', ',']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ImageBuilder, LayerBuilder};

    #[test]
    fn takes_an_image_as_it_is() {
        if !crate::daemon::have("docker-registry takes an image as it is", &["docker-registry"]) {
            return;
        }
        let registry = DockerRegistry::start();
        let image = ImageBuilder::new().layer(LayerBuilder::new().file("a", "1").plain()).build();
        let reference = registry.push("some/where", "v1", &image);
        assert_eq!(reference, format!("{}/some/where:v1", registry.host()));
    }
}
