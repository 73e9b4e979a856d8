//! Docker archives (moby, image/spec/spec.md, "Combined Image JSON + Filesystem Changeset Format"; podman and skopeo `docker-archive`): the
//! config is taken as it is, each layer as it lies there, and a manifest is made that names them. The same archive makes the same manifest,
//! so that its digest can identify the image.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;

use bytes::Bytes;
use imagevol_api::oci::{Algorithm, Digest};
use imagevol_api::text::count;
use imagevol_base::Digester;
use imagevol_registry::{Descriptor, Entry, Limits};
use imagevol_store::{Compression, MAGIC_BYTES};
use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::error::{LayoutError, Result};
use crate::layout::{read_all, read_json};
use crate::name::IMAGE_NAME;
use crate::place::Place;

/// The entry point.
const MANIFEST: &str = "manifest.json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// Bytes that are hashed at once.
const CHUNK: usize = 256 * 1024;

/// Content by digest that lies under another name, or that was made here.
#[derive(Debug, Default)]
pub(crate) struct Converted(HashMap<Digest, Source>);

#[derive(Debug)]
enum Source {
    Member(String),
    Bytes(Bytes),
}

/// One image of the entry point. Go writes `null` for an empty list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

/// The fields in the order in which they are written.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'m> {
    schema_version: u8,
    media_type: &'static str,
    config: Pointer<'m>,
    layers: Vec<Pointer<'m>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pointer<'m> {
    media_type: &'m str,
    digest: &'m Digest,
    size: u64,
}

/// A layer of the archive.
struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
}

// === impl Converted ===

impl Converted {
    /// Opens what is known here; `None` for what is not.
    pub(crate) fn open(&self, digest: &Digest, place: &Place) -> Result<Option<Blob>> {
        match self.0.get(digest) {
            None => Ok(None),
            Some(Source::Member(path)) => place.open(path).map(Some),
            Some(Source::Bytes(bytes)) => Ok(Some(Blob::of_bytes(bytes.clone()))),
        }
    }
}

// === impl Layer ===

impl Layer {
    fn pointer(&self) -> Pointer<'_> {
        Pointer { media_type: &self.media_type, digest: &self.digest, size: self.size }
    }
}

/// Reads a docker archive as the entries of an index, each of one image by one name.
pub(crate) fn convert(place: &Place, limits: &Limits) -> Result<(Vec<Entry>, Converted)> {
    let images: Vec<Saved> = match read_json(place, MANIFEST, limits.manifest) {
        Err(error) if error.is_absent() => return Err(LayoutError::Unknown),
        read => read?,
    };
    if images.len() > limits.index_entries {
        return Err(refuse(format!("it has {} images; at most {} are supported", images.len(), limits.index_entries)));
    }
    let (mut entries, mut converted) = (Vec::new(), Converted::default());
    for image in images {
        let descriptor = convert_image(place, &image, limits, &mut converted)?;
        let tags = image.repo_tags.unwrap_or_default();
        let named = tags.into_iter().map(|tag| BTreeMap::from([(IMAGE_NAME.to_owned(), tag)])).collect::<Vec<_>>();
        let all = if named.is_empty() { vec![BTreeMap::new()] } else { named };
        entries.extend(
            all.into_iter().map(|annotations| Entry {
                descriptor: Descriptor { annotations, ..descriptor.clone() },
                platform: None,
            }),
        );
    }
    Ok((entries, converted))
}

fn convert_image(place: &Place, image: &Saved, limits: &Limits, converted: &mut Converted) -> Result<Descriptor> {
    let config = Bytes::from(read_all(place, &image.config, limits.config)?);
    let parsed: Config =
        serde_json::from_slice(&config).map_err(|source| LayoutError::Json { what: image.config.clone(), source })?;
    let diff_ids = parsed.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
    let paths = image.layers.as_deref().unwrap_or_default();
    check_layers(image, (paths.len(), diff_ids.len()), limits)?;
    let layers =
        paths.iter().zip(diff_ids).map(|(path, diff_id)| layer(place, path, diff_id)).collect::<Result<Vec<_>>>()?;
    let sources = paths.iter().zip(&layers).map(|(path, layer)| (layer.digest.clone(), Source::Member(path.clone())));
    converted.0.extend(sources);
    let config_digest = Digester::sha256(&config);
    let bytes = manifest((&config_digest, config.len() as u64), &layers)?;
    let digest = Digester::sha256(&bytes);
    let size = bytes.len() as u64;
    converted.0.insert(config_digest, Source::Bytes(config));
    converted.0.insert(digest.clone(), Source::Bytes(bytes));
    Ok(Descriptor { media_type: MANIFEST_TYPE.to_owned(), digest, size, annotations: BTreeMap::new() })
}

/// An artifact has no diffIDs: tools that write it so all the same, as `crane pull` does, lose what its layers are.
fn check_layers(image: &Saved, (layers, named): (usize, usize), limits: &Limits) -> Result<()> {
    if layers == named && layers <= limits.layers {
        return Ok(());
    }
    let name = image.repo_tags.as_deref().unwrap_or_default().first().unwrap_or(&image.config);
    let listed = count(layers as u64, "layer");
    Err(refuse(if layers > limits.layers {
        format!("{name:?} has {listed}; at most {} are supported", limits.layers)
    } else if named == 0 {
        format!("{name:?} has {listed}, and its config names none: artifacts have to come as an OCI image layout")
    } else {
        format!("{name:?} has {listed}, and its config names {named}")
    }))
}

/// A layer is a tar, as docker writes it, or a compressed one, as some other tools do. A tar's digest is its diffID, which is checked
/// when it is stored.
fn layer(place: &Place, path: &str, diff_id: Digest) -> Result<Layer> {
    let failed = |source| LayoutError::Read { what: path.to_owned(), source };
    let mut head = Vec::new();
    place.open(path)?.take(MAGIC_BYTES).read_to_end(&mut head).map_err(failed)?;
    let mut blob = place.open(path)?;
    let size = blob.size();
    let suffix = match Compression::of_magic(&head) {
        Compression::None | Compression::Detect => {
            return Ok(Layer { media_type: LAYER_TYPE.to_owned(), digest: diff_id, size });
        }
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    let digest = hash(&mut blob).map_err(failed)?;
    Ok(Layer { media_type: format!("{LAYER_TYPE}{suffix}"), digest, size })
}

fn hash(blob: &mut Blob) -> std::io::Result<Digest> {
    let (mut digester, mut buffer) = (Digester::new(Algorithm::Sha256), vec![0; CHUNK]);
    loop {
        let count = blob.read(&mut buffer)?;
        if count == 0 {
            return Ok(digester.finish());
        }
        digester.update(buffer.get(..count).unwrap_or_default());
    }
}

fn manifest((config, size): (&Digest, u64), layers: &[Layer]) -> Result<Bytes> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE,
        config: Pointer { media_type: CONFIG_TYPE, digest: config, size },
        layers: layers.iter().map(Layer::pointer).collect(),
    };
    let bytes = serde_json::to_vec(&manifest);
    bytes.map(Bytes::from).map_err(|source| LayoutError::Json { what: MANIFEST.to_owned(), source })
}

fn refuse(reason: String) -> LayoutError {
    LayoutError::Docker { reason }
}
