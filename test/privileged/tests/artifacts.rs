//! Artifacts in Debian's registry: files, sub directories, a directory packed as ORAS packs it, and what skopeo makes of them.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use rstest::rstest;

use imagevol_base::Digester;
use imagevol_test_privileged::node::Node;
use imagevol_test_privileged::tools::{run, scratch, skopeo_copy};
use imagevol_test_privileged::tree::{Allowed, Kind, Tree};
use imagevol_test_support::daemon::{have, own_mounts};
use imagevol_test_support::docker_registry::DockerRegistry;
use imagevol_test_support::image::{Blob, Compression, ImageBuilder};

#[rstest]
fn files_and_sub_directories_are_where_their_titles_say(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "files and sub directories are where their titles say";
    if !own_mounts(test) || !have(test, &["docker-registry"]) {
        return;
    }
    let untitled = Blob::new("text/plain", "no title");
    let digest = untitled.digest.to_string();
    let artifact = ImageBuilder::artifact("application/vnd.test.model")
        .file("file", "text/plain", "1")
        .file("dir/file", "text/plain", "2")
        .file("dir/deeper/weights.bin", "application/octet-stream", vec![7_u8; 3 << 20])
        .file("empty", "text/plain", "")
        .file("twice", "text/plain", "first")
        .file("twice", "text/plain", "second")
        .blob(Blob::new("text/plain", "model").annotate("org.cncf.model.filepath", "model/by-cncf"))
        .blob(Blob::new("text/plain", "older").annotate("org.cnai.model.filepath", "model/by-cnai"))
        .blob(untitled)
        .build();
    let registry = DockerRegistry::start();
    let node = Node::start(backend, "");
    let root = node.mount("pod", &registry.push("an/artifact", "v1", &artifact));
    let read = |path: &str| String::from_utf8_lossy(&fs::read(root.join(path)).unwrap()).into_owned();
    let contents = [
        ("file", "1"),
        ("dir/file", "2"),
        ("empty", ""),
        ("twice", "second"),
        ("model/by-cncf", "model"),
        ("model/by-cnai", "older"),
        (digest.as_str(), "no title"),
    ];
    for (path, content) in contents {
        assert_eq!(read(path), content, "{path}");
    }
    let weights = fs::read(root.join("dir/deeper/weights.bin")).unwrap();
    assert_eq!(weights, vec![7_u8; 3 << 20]);
    let files = Tree::of(&root).items().filter(|(_, item)| item.kind != Kind::Directory).count();
    assert_eq!(files, contents.len() + 1);
    node.assert_sound();
}

#[rstest]
fn a_packed_directory_is_unpacked(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "a packed directory is unpacked";
    if !own_mounts(test) || !have(test, &["docker-registry", "skopeo", "tar"]) {
        return;
    }
    let dir = scratch();
    let source = dir.path().join("data");
    fill(&source);
    let artifact = ImageBuilder::artifact("application/vnd.test.data")
        .file("beside.txt", "text/plain", "beside")
        .blob(packed(dir.path(), "data"))
        .build();
    let registry = DockerRegistry::start();
    let pushed = registry.push("an/artifact", "v1", &artifact);
    let node = Node::start(backend, "");
    let root = node.mount("pushed", &pushed);
    Tree::of(&root.join("data")).assert_same(&Tree::of(&source), &Allowed::default());
    assert_eq!(fs::read_to_string(root.join("beside.txt")).unwrap(), "beside");
    // What skopeo carried elsewhere is the same artifact.
    let copied = registry.reference("copied/artifact", "v1");
    skopeo_copy(&["--preserve-digests"], &format!("docker://{pushed}"), &format!("docker://{copied}"));
    node.tree(&copied).assert_same(&Tree::of(&root), &Allowed::default());
    node.assert_sound();
}

/// Two artifacts share the empty config; a file of one must never be seen in the other.
#[rstest]
fn artifacts_of_one_config_stay_apart(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "artifacts of one config stay apart";
    if !own_mounts(test) || !have(test, &["docker-registry"]) {
        return;
    }
    let registry = DockerRegistry::start();
    let node = Node::start(backend, "");
    let artifact = |content: &str| {
        ImageBuilder::artifact("application/vnd.test").file("f", "text/plain", content.to_owned()).build()
    };
    let (one, two) = (artifact("one"), artifact("two"));
    assert_eq!(one.config.digest, two.config.digest);
    let roots = [("one", &one), ("two", &two)]
        .map(|(name, image)| node.mount(name, &registry.push("an/artifact", name, image)));
    assert_eq!(roots.map(|root| fs::read_to_string(root.join("f")).unwrap()), ["one", "two"]);
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("sub/empty")).unwrap();
    fs::write(source.join("sub/file"), "in a sub directory").unwrap();
    fs::write(source.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("sub/file", source.join("link")).unwrap();
}

/// A layer as `oras push` makes one of a directory: tar and gzip, entries below the directory's own name, and marked so.
fn packed(dir: &Path, name: &str) -> Blob {
    let archive = dir.join("packed.tar");
    let words = ["-C", dir.to_str().unwrap(), "--format=posix", "--numeric-owner", "--sort=name", "-cf"];
    run("tar", words.into_iter().chain([archive.to_str().unwrap(), name]));
    let tar = fs::read(&archive).unwrap();
    Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip.compress(&tar))
        .annotate("org.opencontainers.image.title", name)
        .annotate("io.deis.oras.content.digest", &Digester::sha256(&tar).to_string())
        .annotate("io.deis.oras.content.unpack", "true")
}
