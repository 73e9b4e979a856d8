//! Images that buildah and umoci made and skopeo carried, in each form that registries hold: what a pod sees equals what
//! `umoci unpack` makes of what the tool wrote. And directories of this machine, packed by GNU tar.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;
use rstest::rstest;
use tempfile::TempDir;

use imagevol_test_privileged::node::Node;
use imagevol_test_privileged::tools::{image_at, run, scratch, skopeo_copy, umoci_tree, umoci_unpack};
use imagevol_test_privileged::tree::{Allowed, Tree};
use imagevol_test_support::daemon::{have, own_mounts};
use imagevol_test_support::docker_registry::DockerRegistry;
use imagevol_test_support::image::{Compression, Image, ImageBuilder, Layer};

/// Who makes the image.
#[derive(Debug, Clone, Copy)]
enum Maker {
    Buildah,
    Umoci,
}

/// In what form skopeo carries it to the registry, and what the manifest there must name.
#[derive(Debug, Clone, Copy)]
enum Form {
    Oci,
    DockerSchema2,
    Zstd,
}

#[rstest]
fn images_of_other_tools_are_mounted_as_umoci_unpacks_them(
    #[values("erofs", "erofs-loop")] backend: &str,
    #[values(Maker::Buildah, Maker::Umoci)] maker: Maker,
) {
    let test = "images of other tools are mounted as umoci unpacks them";
    if !own_mounts(test) || !have(test, &["buildah", "umoci", "skopeo", "docker-registry"]) {
        return;
    }
    let dir = scratch();
    let layout = maker.make(&dir);
    let mut expected = umoci_unpack(&layout, "latest");
    expected.drop_node_xattrs();
    assert!(expected.len() > 20);
    let node = Node::start(backend, "");
    for form in [Form::Oci, Form::DockerSchema2, Form::Zstd] {
        // One registry each: skopeo takes a layer that the registry has in another compression rather than push its own.
        let registry = DockerRegistry::start();
        let reference = registry.reference("made/image", form.tag());
        form.carry(&layout, &dir, &reference);
        let mounted = node.tree(&reference);
        assert!(mounted.get("opt/content/removed").is_none(), "{maker:?}, {form:?}");
        mounted.assert_same(&expected, &Allowed::default());
    }
    node.assert_sound();
}

#[rstest]
fn packaged_content_is_mounted_as_umoci_unpacks_it(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "packaged content is mounted as umoci unpacks it";
    if !own_mounts(test) || !have(test, &["umoci", "docker-registry", "tar", "python3"]) {
        return;
    }
    let registry = DockerRegistry::start();
    let mixed = [Compression::Zstd, Compression::None, Compression::Gzip];
    let reference = registry.push("packaged/content", "v1", &packaged_image(mixed));
    let node = Node::start(backend, "");
    node.tree(&reference).assert_same(&PACKAGED_TREE, &Allowed::default());
    node.assert_sound();
}

/// Directories of this machine as tars.
static PACKAGED: LazyLock<[Bytes; 3]> = LazyLock::new(|| {
    let dir = scratch();
    let packed = [("gnu", "usr/share/doc"), ("posix", "usr/lib/python3"), ("ustar", "usr/share/zoneinfo")];
    packed.map(|(format, path)| pack(dir.path(), format, path).into())
});

static PACKAGED_TREE: LazyLock<Tree> = LazyLock::new(|| umoci_tree(&packaged_image([Compression::Gzip; 3])));

fn packaged_image(how: [Compression; 3]) -> Image {
    let layers = PACKAGED.iter().zip(how).map(|(tar, how)| Layer::from_tar(tar.clone(), how));
    layers.fold(ImageBuilder::new(), ImageBuilder::layer).build()
}

/// A tar of one directory of this machine, with entries for all directories above it.
fn pack(dir: &Path, format: &str, path: &str) -> Vec<u8> {
    let archive = dir.join(format);
    let (archive_name, format) = (archive.to_str().unwrap(), format!("--format={format}"));
    let above = Path::new(path).ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    let mut above: Vec<&str> = above.map(|above| above.to_str().unwrap()).collect();
    above.reverse();
    let pack = |names: &[&str], flags: &[&str]| {
        let fixed = ["-C", "/", "--numeric-owner", "--sort=name", "-f", archive_name, &format];
        run("tar", fixed.iter().chain(flags).chain(names).copied());
    };
    pack(&[&["."], above.as_slice()].concat(), &["-c", "--no-recursion"]);
    pack(&[path], &["-r"]);
    fs::read(&archive).unwrap()
}

// === impl Maker ===

impl Maker {
    /// An OCI layout with an image `latest` of several layers.
    fn make(self, dir: &TempDir) -> PathBuf {
        let layout = dir.path().join("layout");
        let content = content(dir.path());
        match self {
            Self::Buildah => buildah(dir.path(), &layout, &content),
            Self::Umoci => umoci(dir.path(), &layout, &content),
        }
        layout
    }
}

/// What goes into the image: files of several owners and modes, links, and names of other alphabets.
fn content(dir: &Path) -> PathBuf {
    let content = dir.join("content");
    fs::create_dir_all(content.join("sub/empty")).unwrap();
    for file in 0..20 {
        let path = content.join(format!("file-{file}"));
        fs::write(&path, format!("content of {file}").repeat(file * 100)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + u32::try_from(file).unwrap())).unwrap();
    }
    fs::write(content.join("removed"), "not for long").unwrap();
    fs::write(content.join("sub/Größe 大小"), "name").unwrap();
    fs::hard_link(content.join("file-1"), content.join("sub/file-1-too")).unwrap();
    symlink("../file-2", content.join("sub/link")).unwrap();
    chown(content.join("file-3"), Some(1000), Some(2000)).unwrap();
    content
}

/// Two commits: the content, then one file less and one changed.
fn buildah(dir: &Path, layout: &Path, content: &Path) {
    let store = ["root", "runroot"].map(|name| dir.join(name).to_str().unwrap().to_owned());
    let fixed = ["--root", &store[0], "--runroot", &store[1], "--storage-driver", "vfs"];
    let buildah = |arguments: &[&str]| run("buildah", fixed.iter().chain(arguments).copied()).trim().to_owned();
    let latest = format!("oci:{}:latest", layout.display());
    let container = buildah(&["from", "scratch"]);
    buildah(&["copy", "--quiet", &container, content.to_str().unwrap(), "/opt/content"]);
    buildah(&["commit", "--quiet", &container, "first"]);
    let container = buildah(&["from", "localhost/first"]);
    let root = PathBuf::from(buildah(&["mount", &container]));
    fs::remove_file(root.join("opt/content/removed")).unwrap();
    fs::write(root.join("opt/content/file-4"), "changed").unwrap();
    fs::create_dir_all(root.join("srv/new")).unwrap();
    buildah(&["commit", "--quiet", &container, &latest]);
}

/// A repacked bundle, then an inserted directory, an inserted opaque one and an inserted whiteout.
fn umoci(dir: &Path, layout: &Path, content: &Path) {
    let image = image_at(layout, "latest");
    let image = image.to_str().unwrap();
    let bundle = dir.join("bundle");
    run("umoci", ["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", ["new", "--image", image]);
    run("umoci", ["unpack", "--image", image, bundle.to_str().unwrap()]);
    fs::create_dir_all(bundle.join("rootfs/opt/hidden")).unwrap();
    fs::write(bundle.join("rootfs/opt/hidden/old"), "old").unwrap();
    run("umoci", ["repack", "--image", image, bundle.to_str().unwrap()]);
    let insert = |words: &[&str]| run("umoci", ["insert", "--image", image].iter().chain(words).copied());
    insert(&[content.to_str().unwrap(), "/opt/content"]);
    insert(&["--opaque", content.join("sub").to_str().unwrap(), "/opt/hidden"]);
    insert(&["--whiteout", "/opt/content/removed"]);
}

// === impl Form ===

impl Form {
    fn tag(self) -> &'static str {
        match self {
            Self::Oci => "oci",
            Self::DockerSchema2 => "docker",
            Self::Zstd => "zstd",
        }
    }

    /// Copies the image to the registry, and makes sure that it is there in this form.
    fn carry(self, layout: &Path, dir: &TempDir, reference: &str) {
        let from = format!("oci:{}", image_at(layout, "latest").display());
        let to = format!("docker://{reference}");
        match self {
            Self::Oci => skopeo_copy(&["--format", "oci"], &from, &to),
            Self::DockerSchema2 => skopeo_copy(&["--format", "v2s2"], &from, &to),
            // skopeo compresses only what is not: by way of a directory of plain tars.
            Self::Zstd => {
                let plain = format!("dir:{}", dir.path().join("plain").display());
                skopeo_copy(&["--dest-decompress"], &from, &plain);
                skopeo_copy(&["--format", "oci", "--dest-compress-format", "zstd"], &plain, &to);
            }
        }
        let manifest = run("skopeo", ["inspect", "--tls-verify=false", "--raw", &to]);
        assert!(manifest.contains(self.sign()), "not {self:?}: {manifest}");
    }

    /// A media type that only this form has.
    fn sign(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::DockerSchema2 => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}
