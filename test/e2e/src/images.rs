//! Images of the tests, pushed as users push them.

use std::process::Command;

use imagevol_test_support::image::{Image, ImageBuilder, LayerBuilder};
use tempfile::TempDir;

/// The user of the private registry.
pub const USER: &str = "alice";
/// Its password.
pub const PASSWORD: &str = "secret";

/// An image of one layer: `index.html` with the given text, a directory, and a file to mount alone.
pub fn site(says: &str) -> Image {
    let layer = LayerBuilder::new()
        .file("index.html", says)
        .dir("srv")
        .dir("srv/www")
        .file("srv/www/page.html", format!("page: {says}"))
        .dir("etc")
        .file("etc/site.conf", format!("conf: {says}"));
    ImageBuilder::new().layer(layer.gzip()).build()
}

/// An artifact of two files, one in a directory.
pub fn model(says: &str) -> Image {
    let artifact = ImageBuilder::artifact("application/vnd.imagevol.test.model.v1");
    artifact
        .file("weights.bin", "application/octet-stream", says.to_owned())
        .file("config/model.json", "application/json", "{\"layers\":1}")
        .build()
}

/// Pushes an image to a registry without users; its reference.
pub fn push(registry: &str, repository: &str, tag: &str, image: &Image) -> String {
    copy(registry, repository, tag, image, &[])
}

/// Pushes an image as the user of the private registry; its reference.
pub fn push_private(registry: &str, repository: &str, tag: &str, image: &Image) -> String {
    copy(registry, repository, tag, image, &[&format!("--dest-creds={USER}:{PASSWORD}")])
}

/// A document for `kubernetes.io/dockerconfigjson`.
pub fn docker_config(registry: &str, user: &str, password: &str) -> String {
    serde_json::json!({ "auths": { registry: { "username": user, "password": password } } }).to_string()
}

fn copy(registry: &str, repository: &str, tag: &str, image: &Image, options: &[&str]) -> String {
    let layout = TempDir::with_prefix("imagevol-e2e-").unwrap();
    image.write_layout(layout.path(), "image");
    let reference = format!("{registry}/{repository}:{tag}");
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]);
    command.args(options).arg(format!("oci:{}:image", layout.path().display())).arg(format!("docker://{reference}"));
    let copied = command.output().expect("run skopeo");
    assert!(copied.status.success(), "skopeo to {reference}: {}", String::from_utf8_lossy(&copied.stderr));
    reference
}
