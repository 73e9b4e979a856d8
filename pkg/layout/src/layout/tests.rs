use std::fs;
use std::io::Read as _;
use std::os::unix::fs::symlink;

use imagevol_test_support::image::{Image, ImageBuilder, Index, LayerBuilder, OCI_INDEX};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{ArchiveLimits, Catalog};

fn image(architecture: &str) -> Image {
    let layer = LayerBuilder::new().file("architecture", architecture).gzip();
    ImageBuilder::new().platform("linux", architecture, None).layer(layer).build()
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn open(dir: &TempDir) -> Result<Layout> {
    Layout::open(dir.path(), Limits::default())
}

/// A layout of blobs that are there already, with another index.
fn write_index(dir: &TempDir, entries: &[Value]) {
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
}

fn named(mut descriptor: Value, key: &str, name: &str) -> Value {
    descriptor["annotations"] = json!({ key: name });
    descriptor
}

/// What is at a path of the layout, as a tar.
fn packed(dir: &TempDir) -> Result<Layout> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", dir.path()).unwrap();
    let (bytes, file) = (tar.into_inner().unwrap(), tempfile::tempfile().unwrap());
    let mut out = file.try_clone().unwrap();
    let archive = Archive::keep(&bytes[..], &mut out, file, ArchiveLimits { max_bytes: 1 << 30 })?;
    Layout::of_archive(archive, Limits::default())
}

fn resolve_all(layout: &Layout) -> Vec<(Vec<String>, Digest)> {
    let names = |candidate: &Candidate| candidate.names.iter().map(Reference::to_string).collect();
    let candidates = layout.candidates(None);
    candidates.iter().map(|it| (names(it), layout.resolve(it, &amd64()).unwrap().manifest_digest)).collect()
}

#[test]
fn an_image_is_found_in_a_directory_and_in_its_tar() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image("amd64"));
    image.write_layout(dir.path(), "quay.io/team/data:v1");
    for layout in [open(&dir).unwrap(), packed(&dir).unwrap()] {
        assert_eq!(resolve_all(&layout), [(vec!["quay.io/team/data:v1".to_owned()], image.digest.clone())]);
        let layer = &image.layers[0];
        let (mut bytes, size) = (Vec::new(), layer.bytes.len() as u64);
        let mut blob = layout.blob(&layer.digest, size).unwrap();
        blob.skip(2);
        blob.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, layer.bytes[2..]);
        assert!(matches!(layout.blob(&layer.digest, size + 1), Err(LayoutError::Size { .. })));
    }
}

#[test]
fn the_platform_is_chosen_as_in_a_pull() {
    let (arm64, amd64_image) = (image("arm64"), image("amd64"));
    let index = Index::new([arm64.clone(), amd64_image.clone()]);
    let dir = tempfile::tempdir().unwrap();
    index.write_layout(dir.path(), "r.io/a:1");
    let layout = open(&dir).unwrap();
    let candidate = &layout.candidates(None)[0];
    let found = layout.resolve(candidate, &amd64()).unwrap();
    assert_eq!((&found.manifest_digest, &found.root_digest), (&amd64_image.digest, &index.digest));
    let missing = layout.resolve(candidate, &Platform::new("linux", "s390x", None)).unwrap_err();
    assert_eq!(missing.to_string(), "no image for platform linux/s390x; there is linux/arm64, linux/amd64");
    // Two entries of one name are one image for two platforms.
    let name = "org.opencontainers.image.ref.name";
    write_index(&dir, &[&arm64, &amd64_image].map(|image| named(image.descriptor(), name, "r.io/a:1")));
    let layout = open(&dir).unwrap();
    assert_eq!(resolve_all(&layout), [(vec!["r.io/a:1".to_owned()], amd64_image.digest.clone())]);
    // What is there alone is taken, whatever it is for.
    write_index(&dir, &[named(arm64.descriptor(), name, "r.io/a:1")]);
    assert_eq!(resolve_all(&open(&dir).unwrap())[0].1, arm64.digest);
}

#[test]
fn a_layout_may_lack_other_platforms() {
    let (v3, v2) = (image("amd64"), image("386"));
    let dir = tempfile::tempdir().unwrap();
    Index::new([v3.clone(), v2.clone()]).write_layout(dir.path(), "r.io/a:1");
    fs::remove_file(dir.path().join("blobs/sha256").join(v3.digest.hex())).unwrap();
    assert_eq!(resolve_all(&open(&dir).unwrap())[0].1, v2.digest, "the next best that is there");
    fs::remove_file(dir.path().join("blobs/sha256").join(v2.digest.hex())).unwrap();
    let layout = open(&dir).unwrap();
    let missing = layout.resolve(&layout.candidates(None)[0], &amd64()).unwrap_err();
    assert_eq!(missing.to_string(), format!("blob {} is missing", v2.digest));
}

#[test]
fn several_names_of_one_image_are_one_image() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image("amd64"));
    image.write_layout(dir.path(), "unused");
    let entry = |name| named(image.descriptor(), "io.containerd.image.name", name);
    write_index(&dir, &[entry("r.io/a:1"), entry("r.io/b:2"), image.descriptor()]);
    let names = vec!["r.io/a:1".to_owned(), "r.io/b:2".to_owned()];
    assert_eq!(resolve_all(&open(&dir).unwrap()), [(names, image.digest)]);
}

#[test]
fn references_lead_to_images_of_a_catalog() {
    let (arm64, own) = (image("arm64"), image("amd64"));
    let index = Index::new([arm64.clone(), own.clone()]);
    let dir = tempfile::tempdir().unwrap();
    index.write_layout(dir.path(), "v1");
    let layout = open(&dir).unwrap();
    let repository = Reference::parse("r.io/team/data").unwrap();
    let catalog = Catalog::new(&layout, Some(&repository)).unwrap();
    let found = |text: &str| {
        let candidate = catalog.find(&Reference::parse(text).unwrap().with_default_tag())?;
        Some(layout.resolve(candidate, &amd64()).unwrap().manifest_digest)
    };
    assert_eq!(found("r.io/team/data:v1"), Some(own.digest.clone()));
    assert_eq!(found(&format!("r.io/team/data@{}", index.digest)), Some(own.digest.clone()));
    assert_eq!(found(&format!("other.io/a@{}", arm64.digest)), Some(arm64.digest.clone()), "a manifest is one image");
    assert_eq!(found(&format!("r.io/team/data:v1@{}", own.digest)), Some(own.digest.clone()));
    assert_eq!((found("r.io/team/data:v2"), found("r.io/other/data:v1")), (None, None));
    let nameless = Catalog::new(&layout, None).unwrap();
    assert!(nameless.find(&Reference::parse("r.io/team/data:v1").unwrap()).is_none());
}

#[test]
fn links_out_of_the_directory_are_not_followed() {
    let (dir, outside, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), image("amd64"));
    image.write_layout(dir.path(), "r.io/a:1");
    let blob = dir.path().join("blobs/sha256").join(image.digest.hex());
    fs::rename(&blob, outside.path().join("blob")).unwrap();
    symlink(outside.path().join("blob"), &blob).unwrap();
    let layout = open(&dir).unwrap();
    let refused = layout.resolve(&layout.candidates(None)[0], &amd64()).unwrap_err();
    assert!(matches!(refused, LayoutError::Open { .. }), "{refused:?}");
    fs::rename(dir.path().join("blobs"), outside.path().join("blobs")).unwrap();
    symlink(outside.path().join("blobs"), dir.path().join("blobs")).unwrap();
    assert!(open(&dir).unwrap().resolve(&layout.candidates(None)[0], &amd64()).is_err());
}

#[test]
fn wrong_documents_are_refused() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image("amd64"));
    assert!(matches!(open(&dir), Err(LayoutError::Open { .. })), "there is no index");
    assert!(matches!(packed(&dir), Err(LayoutError::Unknown)));
    image.write_layout(dir.path(), "r.io/a:1");
    let blob = dir.path().join("blobs/sha256").join(image.digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() = b' ';
    fs::write(&blob, &bytes).unwrap();
    let layout = open(&dir).unwrap();
    assert!(matches!(layout.resolve(&layout.candidates(None)[0], &amd64()), Err(LayoutError::Digest { .. })));
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(matches!(open(&dir), Err(LayoutError::Version { version }) if version == "2.0.0"));
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.path().join("index.json"), vec![b' '; 5 << 20]).unwrap();
    assert!(matches!(open(&dir), Err(LayoutError::TooLarge { .. })));
    write_index(&dir, &vec![image.descriptor(); 2000]);
    assert!(matches!(open(&dir), Err(LayoutError::Manifest { .. })));
}

/// An index that names itself, and one that names many others, end.
#[test]
fn indexes_without_end_are_refused() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image("amd64"));
    let mut index = Index::new([image]);
    for _ in 0..10 {
        index = Index::nested([], [index]);
    }
    index.write_layout(dir.path(), "r.io/a:1");
    let layout = open(&dir).unwrap();
    assert_eq!(layout.candidates(None)[0].entries[0].descriptor.media_type, OCI_INDEX);
    assert!(matches!(layout.resolve(&layout.candidates(None)[0], &amd64()), Err(LayoutError::Manifest { .. })));
}

#[test]
fn a_changed_index_has_another_stamp() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image("amd64"));
    image.write_layout(dir.path(), "r.io/a:1");
    let before = open(&dir).unwrap().stamp();
    assert_eq!(Some(Layout::stamp_of(dir.path()).unwrap()), before);
    fs::write(dir.path().join("new"), "{}").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("index.json")).unwrap();
    assert_ne!(Some(Layout::stamp_of(dir.path()).unwrap()), before);
}

/// `docker save` before version 25, and podman and skopeo today: configs and layers under names of their own.
fn docker_archive(dir: &TempDir, compressed: bool, tags: &Value) -> Image {
    let layer = LayerBuilder::new().dir("dir").file("dir/file", "content");
    let (layer, second) = (layer.plain(), LayerBuilder::new().file("second", "2"));
    let second = if compressed { second.gzip() } else { second.plain() };
    let image = ImageBuilder::new().layer(layer.clone()).layer(second.clone()).layer(layer.clone()).build();
    for (path, bytes) in [("first/layer.tar", &layer.blob.bytes), ("second/layer.tar", &second.blob.bytes)] {
        fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        fs::write(dir.path().join(path), bytes).unwrap();
    }
    fs::create_dir_all(dir.path().join("third")).unwrap();
    symlink("../first/layer.tar", dir.path().join("third/layer.tar")).unwrap();
    fs::write(dir.path().join("config.json"), &image.config.bytes).unwrap();
    let layers = ["first/layer.tar", "second/layer.tar", "third/layer.tar"];
    let manifest = json!([{ "Config": "config.json", "RepoTags": tags, "Layers": layers }]);
    fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
    image
}

#[test]
fn a_docker_archive_is_converted() {
    for compressed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let image = docker_archive(&dir, compressed, &json!(["busybox:1.36", "r.io/other:v2"]));
        let layout = packed(&dir).unwrap();
        let all = resolve_all(&layout);
        assert_eq!(all[0].0, ["docker.io/library/busybox:1.36", "r.io/other:v2"]);
        assert_eq!(all, resolve_all(&packed(&dir).unwrap()), "the same archive makes the same image");
        let found = layout.resolve(&layout.candidates(None)[0], &amd64()).unwrap();
        assert_eq!(Digester::sha256(&found.manifest_bytes), found.manifest_digest);
        assert_eq!(found.manifest.config.digest, image.config.digest);
        assert_eq!(layout.small(&found.manifest.config, 1 << 20).unwrap(), image.config.bytes);
        for (layer, expected) in found.manifest.layers.iter().zip(&image.layers) {
            assert_eq!((&layer.digest, &layer.media_type), (&expected.digest, &expected.media_type));
            let mut bytes = Vec::new();
            layout.blob(&layer.digest, layer.size).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, expected.bytes);
        }
    }
}

#[test]
fn a_docker_archive_without_names_has_an_image_without_names() {
    let dir = tempfile::tempdir().unwrap();
    docker_archive(&dir, false, &Value::Null);
    assert_eq!(resolve_all(&packed(&dir).unwrap())[0].0, Vec::<String>::new());
}

#[test]
fn an_archive_that_is_both_is_a_layout() {
    let (dir, oci) = (tempfile::tempdir().unwrap(), image("amd64"));
    docker_archive(&dir, false, &json!(["r.io/a:docker"]));
    oci.write_layout(dir.path(), "r.io/a:oci");
    assert_eq!(resolve_all(&packed(&dir).unwrap()), [(vec!["r.io/a:oci".to_owned()], oci.digest)]);
}

#[test]
fn a_docker_archive_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    docker_archive(&dir, false, &Value::Null);
    for (layers, config) in
        [(json!(["first/layer.tar"]), "config.json"), (json!([]), "../config.json"), (Value::Null, "none")]
    {
        let manifest = json!([{ "Config": config, "RepoTags": [], "Layers": layers }]);
        fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
        assert!(packed(&dir).is_err(), "{manifest}");
    }
}

#[rstest]
#[case::artifact(&[], "\"r.io/a:1\" has 1 layer, and its config names none: artifacts have to come as an OCI image layout")]
#[case::other_count(&['a', 'b'], "\"r.io/a:1\" has 1 layer, and its config names 2")]
fn a_docker_archive_says_which_image_has_other_layers_than_its_config(#[case] diff_ids: &[char], #[case] reason: &str) {
    let dir = tempfile::tempdir().unwrap();
    docker_archive(&dir, false, &Value::Null);
    let diff_ids: Vec<_> = diff_ids.iter().map(|digit| format!("sha256:{}", digit.to_string().repeat(64))).collect();
    fs::write(dir.path().join("config.json"), json!({"rootfs": {"diff_ids": diff_ids}}).to_string()).unwrap();
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["r.io/a:1"], "Layers": ["first/layer.tar"] }]);
    fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
    assert_eq!(packed(&dir).unwrap_err().to_string(), format!("manifest.json cannot be used: {reason}"));
}
