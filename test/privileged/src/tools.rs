//! Other people's tools: how they are called, and what they leave.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use imagevol_test_support::image::Image;

use crate::tree::Tree;

/// A directory on a disk: its file system keeps times to the nanosecond, owners, devices and extended attributes.
pub fn scratch() -> TempDir {
    TempDir::with_prefix_in("imagevol-tools-", "/var/tmp").expect("a directory on disk")
}

/// Runs a program, which must succeed; its standard output.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stderr),
        text(&output.stdout)
    );
    text(&output.stdout)
}

/// What `umoci unpack` makes of `tag` of an OCI layout.
pub fn umoci_unpack(layout: &Path, tag: &str) -> Tree {
    let dir = scratch();
    let bundle = dir.path().join("bundle");
    run("umoci", ["unpack".as_ref(), "--image".as_ref(), image_at(layout, tag).as_os_str(), bundle.as_os_str()]);
    Tree::of(&bundle.join("rootfs"))
}

/// What `umoci unpack` makes of an image in memory.
pub fn umoci_tree(image: &Image) -> Tree {
    let dir = scratch();
    image.write_layout(dir.path(), "latest");
    umoci_unpack(dir.path(), "latest")
}

/// `skopeo copy` with these options, between any two places.
pub fn skopeo_copy(options: &[&str], from: &str, to: &str) {
    let fixed = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"];
    run("skopeo", fixed.iter().chain(options).copied().chain([from, to]));
}

/// `<layout>:<tag>`, as umoci writes it, and skopeo and buildah after `oci:`.
pub fn image_at(layout: &Path, tag: &str) -> PathBuf {
    let mut place = layout.as_os_str().to_owned();
    place.push(":");
    place.push(tag);
    place.into()
}
