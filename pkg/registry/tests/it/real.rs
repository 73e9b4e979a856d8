//! Against Debian's docker-registry, filled by skopeo: neither the server nor the image's tool is ours.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use imagevol_api::auth::Credential;
use imagevol_registry::{ManifestKind, RegistryError};
use imagevol_test_support::image::{ImageBuilder, LayerBuilder};

use crate::harness::{amd64, client, parse, read, user};

/// `alice:hunter2`, in bcrypt.
const HTPASSWD: &str = "alice:$2y$05$D5VcXQHXJOD4AwG5CHaxj.ytGLj3mZdPG9CIx9M6OJnma40p1T7AC\n";

struct DockerRegistry {
    process: Child,
    host: String,
}

impl DockerRegistry {
    fn start(dir: &Path, auth: &str) -> Self {
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {0}/data\nhttp:\n  addr: 127.0.0.1:0\n{auth}",
            dir.display()
        );
        std::fs::write(dir.join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.join("config.yml")).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut found = None;
        let mut lines = lines.map_while(Result::ok);
        for line in lines.by_ref() {
            if let Some((_, rest)) = line.split_once("listening on ") {
                found = rest.split('"').next().map(str::to_owned);
                break;
            }
        }
        // A closed pipe would end the registry at its next log line.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, host: found.unwrap() }
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Whether the tools are there; where they are not, says so, and fails in CI.
fn tools() -> bool {
    let missing: Vec<_> = ["docker-registry", "skopeo"]
        .into_iter()
        .filter(|tool| {
            Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
        })
        .collect();
    assert!(missing.is_empty() || std::env::var("CI").is_err(), "missing in CI: {missing:?}");
    if !missing.is_empty() {
        eprintln!("SKIPPED: a real registry: {missing:?} not installed");
    }
    missing.is_empty()
}

fn push(layout: &Path, registry: &DockerRegistry, name: &str, options: &[&str]) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--dest-tls-verify=false"]).args(options);
    command.arg(format!("oci:{}:x", layout.display())).arg(format!("docker://{}/{name}", registry.host));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn pulls_what_skopeo_pushed() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path(), "");
    let image = ImageBuilder::new().layer(LayerBuilder::new().dir("dir").file("dir/file", "2").gzip()).build();
    image.write_layout(&dir.path().join("layout"), "x");
    push(&dir.path().join("layout"), &registry, "team/data:v1", &[]);
    let (client, nobody) = (client(), Credential::Anonymous);
    let reference = parse(&format!("{}/team/data:v1", registry.host));
    let resolved = client.resolve(&reference, &amd64(), &nobody).await.unwrap();
    assert_eq!(resolved.manifest_digest, image.digest);
    assert_eq!((resolved.manifest.kind(), resolved.warnings), (ManifestKind::Image, Vec::new()));
    let layer = &resolved.manifest.layers[0];
    for from in [0, 1, layer.size - 1] {
        let stream = client.fetch(&reference, layer, from, &nobody).await.unwrap();
        assert_eq!(read(stream).await.unwrap(), image.layers[0].bytes[usize::try_from(from).unwrap()..]);
    }
    assert_eq!(client.tags(&reference, &nobody).await.unwrap(), ["v1"]);
    assert_eq!(client.referrers(&reference, &image.digest, None, &nobody).await.unwrap(), []);
    let absent = client.resolve(&parse(&format!("{}/team/data:v2", registry.host)), &amd64(), &nobody).await;
    let expected =
        format!("registry {}: manifest unknown (404 Not Found): repository \"team/data\", tag \"v2\"", registry.host);
    assert_eq!(absent.unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn shows_a_password_to_a_registry_that_wants_one() {
    if !tools() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
    let auth =
        format!("auth:\n  htpasswd:\n    realm: test, \"quoted\"\n    path: {}/htpasswd\n", dir.path().display());
    let registry = DockerRegistry::start(dir.path(), &auth);
    let image = ImageBuilder::artifact("application/vnd.test").file("file", "text/plain", "1").build();
    image.write_layout(&dir.path().join("layout"), "x");
    push(&dir.path().join("layout"), &registry, "data:v1", &["--dest-creds=alice:hunter2"]);
    let client = client();
    let reference = parse(&format!("{}/data:v1", registry.host));
    let alice = user("alice", "hunter2");
    let resolved = client.resolve(&reference, &amd64(), &alice).await.unwrap();
    assert_eq!(resolved.manifest.kind(), ManifestKind::Artifact);
    let stream = client.fetch(&reference, &resolved.manifest.layers[0], 0, &alice).await.unwrap();
    assert_eq!(read(stream).await.unwrap(), b"1");
    assert_eq!(client.tags(&reference, &alice).await.unwrap(), ["v1"]);
    for stranger in [Credential::Anonymous, user("alice", "wrong")] {
        let error = client.resolve(&reference, &amd64(), &stranger).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unauthorized(_)), "{error:?}");
        assert!(client.tags(&reference, &stranger).await.is_err());
    }
}
