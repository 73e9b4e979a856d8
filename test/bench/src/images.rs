//! The images that are pulled: made in memory, the same in every run, and pushed to a registry on loopback.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use imagevol_test_support::docker_registry::DockerRegistry;
use imagevol_test_support::image::{Compression, Image, ImageBuilder, Layer, LayerBuilder};

/// All images of the cold pulls.
pub(crate) const NAMES: [&str; 6] = ["tiny", "many-small", "model-gz", "model-zstd", "model-raw", "artifact-raw"];

/// Layers of `many-small`.
const LAYERS: u64 = 6;
/// Files of `many-small`, some 40,000 and 150 MB at the usual size.
const FILES_PER_LAYER: u64 = 6_700;
const FILES_PER_DIR: u64 = 50;
const MIB: usize = 1 << 20;
/// The size at which `many-small` is as said above.
const USUAL_MIB: usize = 512;

/// An image in the registry, and in memory.
pub(crate) struct Published {
    pub(crate) name: &'static str,
    pub(crate) reference: String,
    /// The registry, and the repository's path in it.
    pub(crate) repository: String,
    pub(crate) image: Image,
    /// Uncompressed layers, or the files of an artifact.
    pub(crate) contents: Vec<Content>,
    /// A file to be read at the end.
    pub(crate) file: &'static str,
}

/// One layer as it is stored.
pub(crate) struct Content {
    pub(crate) compression: Compression,
    pub(crate) bytes: Vec<u8>,
}

/// Marsaglia's xorshift64: fast, and the same everywhere.
struct Random(u64);

// === impl Published ===

impl Published {
    /// Makes an image of a known name and pushes it.
    pub(crate) fn new(name: &'static str, mib: usize, registry: &DockerRegistry) -> Result<Self> {
        let size = mib * MIB;
        let file = match name {
            "artifact-raw" | "read" => "0.bin",
            "tiny" | "many-small" => "d0/f0",
            _ => "model.bin",
        };
        let (builder, contents) = match name {
            "tiny" => image([tree(0, 4, Compression::Gzip)]),
            "many-small" => {
                let files = FILES_PER_LAYER * mib as u64 / USUAL_MIB as u64;
                image((0..LAYERS).map(|layer| tree(layer, files, Compression::Gzip)))
            }
            "model-gz" => image([model(size, Compression::Gzip)]),
            "model-zstd" => image([model(size, Compression::Zstd)]),
            "model-raw" => image([model(size, Compression::None)]),
            "artifact-raw" => artifact(&[size / 2, size / 2]),
            "read" => artifact(&[2 * size]),
            other => bail!("no image is called {other}"),
        };
        let image = builder.build();
        let repository = format!("bench/{name}");
        let reference = registry.push(&repository, "1", &image);
        Ok(Self { name, reference, repository, image, contents, file })
    }

    pub(crate) fn is_artifact(&self) -> bool {
        self.file == "0.bin"
    }

    /// A pod with this image as the volume `v`.
    pub(crate) fn pod(&self, name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: c\n    image: x\n    volumeMounts:\n    - name: v\n      mountPath: /v\n  volumes:\n  - name: v\n    image:\n      reference: {}\n      pullPolicy: IfNotPresent\n",
            self.reference
        )
    }
}

fn image(layers: impl IntoIterator<Item = Layer>) -> (ImageBuilder, Vec<Content>) {
    let mut builder = ImageBuilder::new();
    let mut contents = Vec::new();
    for layer in layers {
        contents.push(Content { compression: layer.compression, bytes: layer.tar.to_vec() });
        builder = builder.layer(layer);
    }
    (builder, contents)
}

fn artifact(sizes: &[usize]) -> (ImageBuilder, Vec<Content>) {
    let mut builder = ImageBuilder::artifact("application/vnd.example.model");
    let mut contents = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        let bytes = half_random(*size, number as u64);
        builder = builder.file(&format!("{number}.bin"), "application/octet-stream", bytes.clone());
        contents.push(Content { compression: Compression::None, bytes });
    }
    (builder, contents)
}

fn model(size: usize, compression: Compression) -> Layer {
    LayerBuilder::new().file("model.bin", half_random(size, 9)).build(compression)
}

/// Directories of small files, like a distribution's: a few hundred bytes to some KiB, of text.
fn tree(layer: u64, files: u64, compression: Compression) -> Layer {
    let mut random = Random(layer + 1);
    let mut builder = LayerBuilder::new();
    for number in 0..files {
        let dir = layer * files.div_ceil(FILES_PER_DIR) + number / FILES_PER_DIR;
        if number % FILES_PER_DIR == 0 {
            builder = builder.dir(&format!("d{dir}"));
        }
        builder = builder.file(&format!("d{dir}/f{number}"), words(&mut random));
    }
    builder.build(compression)
}

/// Text that compresses about as source code does.
fn words(random: &mut Random) -> String {
    // Sizes are skewed: most are small, some large.
    let count = 20 + random.next() % 900 * (random.next() % 1000) / 500;
    let mut text = String::new();
    for _ in 0..count {
        // Writing to a string does not fail.
        write!(text, "{:x} ", random.next() % 4096 * 0x9e37).unwrap_or_default();
    }
    text
}

/// Like weights in bfloat16: of each two bytes one is noise, the other one of a few.
fn half_random(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed + 1);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        let word = random.next();
        bytes.extend(
            (word & 0x00ff_00ff_00ff_00ff | 0x3800_3800_3800_3800 | word & 0x8300_8300_8300_8300).to_le_bytes(),
        );
    }
    bytes.truncate(size);
    bytes
}

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
