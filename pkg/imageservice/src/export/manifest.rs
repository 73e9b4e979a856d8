//! The manifest that holds for what the store has: compressed layers are not kept, so that their descriptors change. Pure.

use imagevol_api::oci::Digest;
use imagevol_base::Digester;
use imagevol_store::{ImageKind, ImageRecord, LayerRecord};
use serde_json::{Map, Value, json};

/// The empty config (image spec, manifest.md, "Guidance for an Empty Descriptor").
pub(super) const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// A manifest of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exported {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) media_type: String,
    /// The config that takes the place of one that is not here.
    pub(super) empty_config: Option<Vec<u8>>,
}

/// The manifest of an image as it can be exported: the same bytes if everything that they name is here, else one of OCI's form that names
/// the uncompressed layers. `config` is the size of the config, if it is here.
pub(super) fn exported(image: &ImageRecord, manifest: &[u8], config: Option<u64>) -> Exported {
    if config.is_some() && image.layers.iter().all(is_as_it_came) {
        return Exported {
            bytes: manifest.to_vec(),
            digest: image.manifest.clone(),
            media_type: image.media_type.clone(),
            empty_config: None,
        };
    }
    // It was parsed before it was stored.
    let mut document: Map<String, Value> = serde_json::from_slice(manifest).unwrap_or_default();
    document.insert("schemaVersion".to_owned(), json!(2));
    document.insert("mediaType".to_owned(), json!(MANIFEST_TYPE));
    let layers = document.get("layers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let layers: Vec<Value> = layers.iter().zip(&image.layers).map(|(old, layer)| descriptor(old, layer)).collect();
    document.insert("layers".to_owned(), Value::Array(layers));
    let empty_config = config.is_none().then(|| EMPTY.to_vec());
    set_config(&mut document, image, empty_config.as_deref());
    // Strings, numbers and what was JSON before always can be written.
    let bytes = serde_json::to_vec(&document).unwrap_or_default();
    Exported { digest: Digester::sha256(&bytes), bytes, media_type: MANIFEST_TYPE.to_owned(), empty_config }
}

fn is_as_it_came(layer: &LayerRecord) -> bool {
    *layer.content.digest() == layer.digest
}

/// What the descriptor says besides stays; a place to fetch the compressed layer from would lead elsewhere.
fn descriptor(old: &Value, layer: &LayerRecord) -> Value {
    if is_as_it_came(layer) {
        return old.clone();
    }
    let mut fields = old.as_object().cloned().unwrap_or_default();
    fields.remove("urls");
    fields.insert("mediaType".to_owned(), json!(uncompressed(&layer.media_type)));
    fields.insert("digest".to_owned(), json!(layer.content.digest()));
    fields.insert("size".to_owned(), json!(layer.stored_size));
    Value::Object(fields)
}

/// An image's config keeps its bytes, and gets OCI's name for what it is. In place of an artifact's, which is not kept, stands the empty one,
/// and the artifact's type says what it was (image spec, manifest.md, `artifactType`).
fn set_config(document: &mut Map<String, Value>, image: &ImageRecord, empty: Option<&[u8]>) {
    if let Some(bytes) = empty {
        let config = json!({ "mediaType": EMPTY_TYPE, "digest": Digester::sha256(bytes), "size": bytes.len() });
        document.insert("config".to_owned(), config);
        document.insert("artifactType".to_owned(), json!(image.artifact_type));
        return;
    }
    let config = document.get_mut("config").and_then(Value::as_object_mut);
    if let (ImageKind::Image, Some(config)) = (image.kind, config) {
        config.insert("mediaType".to_owned(), json!(CONFIG_TYPE));
    }
}

/// The type of the same layer without its compression.
fn uncompressed(media_type: &str) -> String {
    if media_type.starts_with("application/vnd.docker.image.rootfs.") {
        return LAYER_TYPE.to_owned();
    }
    if media_type == "application/x-gtar" {
        return "application/x-tar".to_owned();
    }
    let suffixes = ["+gzip", "+zstd", ".gzip", ".zstd"];
    let plain = suffixes.iter().find_map(|suffix| media_type.strip_suffix(suffix));
    plain.unwrap_or(media_type).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use imagevol_store::ContentKey;
    use rstest::rstest;

    use super::*;

    fn digest(digit: &str) -> Digest {
        format!("sha256:{}", digit.repeat(64)).parse().unwrap()
    }

    fn image(kind: ImageKind, media_type: &str, content: ContentKey) -> ImageRecord {
        let layer = LayerRecord {
            digest: digest("1"),
            media_type: media_type.to_owned(),
            size: 10,
            content,
            stored_size: 2048,
            title: None,
        };
        ImageRecord {
            manifest: digest("a"),
            media_type: "application/vnd.docker.distribution.manifest.v2+json".to_owned(),
            kind,
            artifact_type: Some("application/vnd.test".to_owned()),
            config: digest("c"),
            layers: vec![layer],
            annotations: BTreeMap::new(),
            size: 0,
            index_bytes: 0,
            index_digest: None,
            pulled_at: 0,
        }
    }

    fn written() -> Vec<u8> {
        let layer =
            json!({ "mediaType": "x", "digest": digest("1"), "size": 10, "annotations": { "a": "b" }, "urls": ["u"] });
        let config =
            json!({ "mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest("c"), "size": 3 });
        json!({ "config": config, "layers": [layer], "annotations": { "key": "value" } }).to_string().into_bytes()
    }

    #[test]
    fn what_is_here_as_it_came_keeps_its_manifest() {
        for content in [ContentKey::Blob(digest("1")), ContentKey::Layer(digest("1"))] {
            let exported = exported(&image(ImageKind::Artifact, "text/plain", content), b"bytes", Some(2));
            assert_eq!((exported.bytes.as_slice(), exported.digest), (&b"bytes"[..], digest("a")));
        }
    }

    #[test]
    fn a_compressed_layer_changes_its_descriptor() {
        let image = image(
            ImageKind::Image,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ContentKey::Layer(digest("2")),
        );
        let exported = exported(&image, &written(), Some(3));
        let document: Value = serde_json::from_slice(&exported.bytes).unwrap();
        let layer =
            json!({ "mediaType": LAYER_TYPE, "digest": digest("2"), "size": 2048, "annotations": { "a": "b" } });
        assert_eq!(document["layers"], json!([layer]));
        assert_eq!(document["config"], json!({ "mediaType": CONFIG_TYPE, "digest": digest("c"), "size": 3 }));
        assert_eq!(
            (&document["mediaType"], &document["annotations"]),
            (&json!(MANIFEST_TYPE), &json!({ "key": "value" }))
        );
        assert_eq!(exported.digest, Digester::sha256(&exported.bytes));
    }

    #[test]
    fn a_config_that_is_not_kept_is_an_artifacts_type() {
        let image = image(ImageKind::Artifact, "text/plain", ContentKey::Blob(digest("1")));
        let document: Value = serde_json::from_slice(&exported(&image, &written(), None).bytes).unwrap();
        assert_eq!(document["config"]["mediaType"], EMPTY_TYPE);
        assert_eq!(document["artifactType"], "application/vnd.test");
        assert_eq!(document["layers"][0]["digest"], json!(digest("1")));
    }

    #[rstest]
    #[case("application/vnd.oci.image.layer.v1.tar+gzip", LAYER_TYPE)]
    #[case(
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
    )]
    #[case("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LAYER_TYPE)]
    #[case("application/vnd.cncf.model.weight.v1.tar+gzip", "application/vnd.cncf.model.weight.v1.tar")]
    #[case("application/x-gtar", "application/x-tar")]
    #[case("application/octet-stream", "application/octet-stream")]
    fn types_lose_their_compression(#[case] media_type: &str, #[case] expected: &str) {
        assert_eq!(uncompressed(media_type), expected);
    }
}
