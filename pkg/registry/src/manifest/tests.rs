use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::config::Limits;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", "0a".repeat(32)), "size": 7 })
}

fn manifest() -> Value {
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG), "layers": [descriptor(LAYER)] })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST)] })
}

#[expect(clippy::needless_pass_by_value, reason = "cases write their changes in place")]
fn with(mut document: Value, changes: Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        if value == "REMOVE" {
            document.as_object_mut().unwrap().remove(key);
        } else {
            document[key] = value.clone();
        }
    }
    document
}

fn read(document: &Value, content_type: Option<&str>) -> Result<Document, ManifestError> {
    parse(document.to_string().as_bytes(), content_type, &Limits::default())
}

fn complaint(document: &Value, content_type: Option<&str>) -> String {
    read(document, content_type).unwrap_err().to_string()
}

#[rstest]
#[case::agreeing(manifest(), Some(MANIFEST))]
#[case::with_parameters(manifest(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"))]
#[case::generic_header(manifest(), Some("application/json"))]
#[case::no_header(manifest(), None)]
#[case::header_alone(with(manifest(), json!({ "mediaType": "REMOVE" })), Some(MANIFEST))]
#[case::no_layers(with(manifest(), json!({ "layers": [] })), Some(MANIFEST))]
#[case::null_layers(with(manifest(), json!({ "layers": null })), Some(MANIFEST))]
#[case::unknown_fields(with(manifest(), json!({ "subject": { "digest": "../../x" }, "x": [[[]]] })), Some(MANIFEST))]
#[case::foreign_urls(with(manifest(), json!({ "layers": [with(descriptor(LAYER), json!({ "urls": ["http://x"], "data": "!" }))] })), None)]
fn accepts_manifests(#[case] document: Value, #[case] content_type: Option<&str>) {
    assert!(matches!(read(&document, content_type), Ok(Document::Manifest(_))));
}

#[test]
fn accepts_docker_documents() {
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let document = with(index(), json!({ "mediaType": list }));
    assert!(matches!(read(&document, Some(list)), Ok(Document::Index(entries)) if entries.len() == 1));
    let single = "application/vnd.docker.distribution.manifest.v2+json";
    assert!(matches!(read(&with(manifest(), json!({ "mediaType": single })), None), Ok(Document::Manifest(_))));
}

#[rstest]
#[case::header_differs(manifest(), Some(INDEX), "document says media type")]
#[case::both_shapes(with(manifest(), json!({ "manifests": [] })), None, "an image manifest has no manifests")]
#[case::index_with_layers(with(index(), json!({ "layers": [] })), None, "an index has neither config nor layers")]
#[case::index_with_config(with(index(), json!({ "config": descriptor(CONFIG) })), None, "an index has neither config nor layers")]
#[case::manifest_said_to_be_index(with(manifest(), json!({ "mediaType": "REMOVE" })), Some(INDEX), "an index has neither config nor layers")]
#[case::no_type(with(manifest(), json!({ "mediaType": "REMOVE" })), None, "neither the document nor the answer has a media type")]
#[case::no_type_but_json(with(manifest(), json!({ "mediaType": "REMOVE" })), Some("application/json"), "neither the document")]
#[case::no_config(with(manifest(), json!({ "config": "REMOVE" })), None, "an image manifest has a config")]
#[case::no_manifests(with(index(), json!({ "manifests": "REMOVE" })), None, "an index has manifests")]
#[case::version(with(manifest(), json!({ "schemaVersion": 3 })), None, "schemaVersion is not 2")]
#[case::no_version(with(manifest(), json!({ "schemaVersion": "REMOVE" })), None, "schemaVersion is not 2")]
#[case::schema1(json!({ "schemaVersion": 1, "fsLayers": [] }), None, "Docker image manifest version 1 is not supported")]
#[case::signed(with(manifest(), json!({ "signatures": [] })), None, "Docker image manifest version 1")]
#[case::old_artifact(with(manifest(), json!({ "mediaType": "application/vnd.oci.artifact.manifest.v1+json" })), None, "neither an image manifest nor an index")]
#[case::not_an_object(json!([1, 2]), None, "not a valid document")]
#[case::null(Value::Null, None, "not a valid document")]
fn rejects(#[case] document: Value, #[case] content_type: Option<&str>, #[case] expected: &str) {
    let found = complaint(&document, content_type);
    assert!(found.contains(expected), "{found}");
}

#[rstest]
#[case(json!({ "digest": "sha256:../../etc/passwd" }))]
#[case(json!({ "digest": format!("sha256:{}", "0A".repeat(32)) }))]
#[case(json!({ "digest": "md5:d41d8cd98f00b204e9800998ecf8427e" }))]
#[case(json!({ "digest": "" }))]
#[case(json!({ "digest": "REMOVE" }))]
#[case(json!({ "size": -1 }))]
#[case(json!({ "size": "7" }))]
#[case(json!({ "size": 7.5 }))]
#[case(json!({ "size": "REMOVE" }))]
#[case(json!({ "mediaType": "REMOVE" }))]
#[case(json!({ "mediaType": "" }))]
#[case(json!({ "mediaType": "a/b\n" }))]
#[case(json!({ "mediaType": "a".repeat(256) }))]
#[case(json!({ "annotations": { "a": 1 } }))]
fn rejects_bad_descriptors_everywhere(#[case] change: Value) {
    let bad = with(descriptor(LAYER), change);
    assert!(read(&with(manifest(), json!({ "layers": [bad] })), None).is_err());
    assert!(read(&with(manifest(), json!({ "config": bad })), None).is_err());
    assert!(read(&with(index(), json!({ "manifests": [bad] })), None).is_err());
}

#[test]
fn counts_layers_and_entries() {
    let many = |count| Value::Array(vec![descriptor(LAYER); count]);
    assert!(read(&with(manifest(), json!({ "layers": many(512) })), None).is_ok());
    let found = complaint(&with(manifest(), json!({ "layers": many(513) })), None);
    assert_eq!(found, "513 layers; at most 512 are supported");
    assert!(read(&with(index(), json!({ "manifests": many(1025) })), None).is_err());
}

#[rstest]
#[case(b"")]
#[case(b"\xef\xbb\xbf{}")]
#[case(b"{\"schemaVersion\":2,\"schemaVersion\":2}")]
#[case(b"{\"mediaType\":\"\xff\"}")]
#[case(b"{\"x\":1e999999}")]
fn rejects_hostile_json(#[case] bytes: &[u8]) {
    assert!(parse(bytes, Some(MANIFEST), &Limits::default()).is_err());
}

#[test]
fn deep_nesting_is_no_stack_overflow() {
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(deep.as_bytes(), Some(MANIFEST), &Limits::default()).is_err());
}

#[rstest]
#[case(CONFIG, &[LAYER], ManifestKind::Image)]
#[case(CONFIG, &[], ManifestKind::Image)]
#[case("application/vnd.docker.container.image.v1+json", &["application/vnd.docker.image.rootfs.diff.tar.gzip"], ManifestKind::Image)]
#[case(CONFIG, &["application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.layer.nondistributable.v1.tar"], ManifestKind::Image)]
#[case(CONFIG, &[LAYER, "text/plain"], ManifestKind::Artifact)]
#[case(CONFIG, &["application/vnd.oci.image.layer.v1.tar+encrypted"], ManifestKind::Artifact)]
#[case("application/vnd.oci.empty.v1+json", &[LAYER], ManifestKind::Artifact)]
#[case("application/vnd.cncf.model.config.v1+json", &["application/vnd.cncf.model.weight.v1.tar"], ManifestKind::Artifact)]
fn tells_images_from_artifacts(#[case] config: &str, #[case] layers: &[&str], #[case] kind: ManifestKind) {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(layer)).collect();
    let document = with(manifest(), json!({ "config": descriptor(config), "layers": layers }));
    let Ok(Document::Manifest(manifest)) = read(&document, None) else { panic!("no manifest") };
    assert_eq!(manifest.kind(), kind);
}

proptest! {
    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&bytes, None, &Limits::default()));
    }
}
