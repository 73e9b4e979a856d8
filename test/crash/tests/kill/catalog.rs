//! The registry, what it serves, and what each image must look like when it is mounted.

use std::collections::{BTreeMap, BTreeSet};

use imagevol_api::oci::Digest;
use imagevol_base::Digester;
use imagevol_test_support::image::{Compression, Image, ImageBuilder, Layer, LayerBuilder};
use imagevol_test_support::registry::{AuthMode, FakeRegistry, Fault};
use tokio::runtime::Runtime;

use crate::moment::{Armed, Moment};
use crate::node::Node;
use crate::random::Random;

/// Regular files by path, with the digests of their contents.
pub(crate) type Tree = BTreeMap<String, Digest>;

/// What becomes of a pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It succeeds.
    Good,
    /// The registry says that there is no such tag.
    Missing,
    /// The registry wants a user.
    Denied,
    /// A byte of a blob is another than the digest says.
    Corrupt,
}

/// One image of the registry.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) reference: String,
    pub(crate) repository: String,
    pub(crate) digest: Digest,
    /// Digests and sizes of its layers in the registry.
    pub(crate) blobs: Vec<(Digest, u64)>,
    pub(crate) tree: Tree,
    pub(crate) fate: Fate,
    /// What is served.
    pub(crate) image: Image,
}

/// A registry that is filled as the test goes on.
pub(crate) struct Catalog {
    pub(crate) registry: FakeRegistry,
    pub(crate) images: Vec<Served>,
    bases: Vec<Made>,
    runtime: Runtime,
}

/// A layer and what it does to the tree below it.
#[derive(Clone)]
struct Made {
    layer: Layer,
    files: Tree,
    gone: BTreeSet<String>,
}

const CODECS: [Compression; 4] = [Compression::Gzip, Compression::GzipMembers(3), Compression::Zstd, Compression::None];
/// Directories of images: few, so that layers meet.
const DIRS: [&str; 3] = ["bin", "etc/conf", "share/data/deep"];

// === impl Catalog ===

impl Catalog {
    pub(crate) fn new(random: &mut Random) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let registry = runtime.block_on(FakeRegistry::builder().auth(AuthMode::Basic).start());
        registry.add_user("alice", "secret");
        let bases = (0..3).map(|_| layer(random, &Tree::new(), 400_000)).collect();
        Self { registry, images: Vec::new(), bases, runtime }
    }

    /// Begins to watch for a moment of a daemon that pulls from here.
    pub(crate) fn arm(&self, moment: Moment, node: &Node) -> Armed<'_> {
        Armed::new(moment, node.daemon.dir(), &self.registry, self.runtime.handle())
    }

    pub(crate) fn image(&self, index: usize) -> &Served {
        &self.images[index]
    }

    /// The image of a digest, if it can be pulled.
    pub(crate) fn good(&self, digest: &str) -> Option<&Served> {
        self.images.iter().find(|image| image.fate == Fate::Good && image.digest.to_string() == digest)
    }

    /// A new image or artifact; its index.
    pub(crate) fn make(&mut self, random: &mut Random, fate: Fate) -> usize {
        if random.chance(60) { self.make_image(random, fate) } else { self.make_artifact(random, fate) }
    }

    /// Several layers, some of which other images have too.
    pub(crate) fn make_image(&mut self, random: &mut Random, fate: Fate) -> usize {
        let mut builder = ImageBuilder::new().config_field("created", self.images.len().to_string().into());
        if random.chance(20) {
            builder = builder.docker();
        }
        let mut tree = Tree::new();
        let bases: Vec<Made> = self.bases.iter().filter(|_| random.chance(50)).cloned().collect();
        for made in bases {
            builder = made.onto(builder, &mut tree);
        }
        for _ in 0..random.between(1, 3) {
            let made = layer(random, &tree, 300_000);
            builder = made.onto(builder, &mut tree);
        }
        self.serve(&builder.build(), tree, fate)
    }

    /// Several files, one of which may be some MiB.
    pub(crate) fn make_artifact(&mut self, random: &mut Random, fate: Fate) -> usize {
        let mut builder = ImageBuilder::artifact("application/vnd.test.model");
        let mut tree = Tree::new();
        for number in 0..random.between(1, 4) {
            let most = if random.chance(25) { 3_000_000 } else { 200_000 };
            let length = random.between(1, most);
            let content = random.bytes(length);
            let title = if random.chance(50) { format!("model/part-{number}.bin") } else { format!("file-{number}") };
            tree.insert(title.clone(), Digester::sha256(&content));
            builder = builder.file(&title, "application/octet-stream", content);
        }
        self.serve(&builder.build(), tree, fate)
    }

    /// An artifact of one file.
    pub(crate) fn make_file(&mut self, content: Vec<u8>) -> usize {
        let tree = Tree::from([("file".to_owned(), Digester::sha256(&content))]);
        let image =
            ImageBuilder::artifact("application/vnd.test").file("file", "application/octet-stream", content).build();
        self.serve(&image, tree, Fate::Good)
    }

    fn serve(&mut self, image: &Image, tree: Tree, fate: Fate) -> usize {
        let repository = format!("team/image-{}", self.images.len());
        let mut reference = self.registry.push(&repository, "v1", image);
        let last = image.layers.last().unwrap();
        match fate {
            Fate::Good => {}
            Fate::Missing => reference = self.registry.reference(&repository, "v2"),
            Fate::Denied => self.registry.protect(&repository, &["alice"]),
            Fate::Corrupt => {
                let at = last.bytes.len() as u64 / 2;
                self.registry.faults().always(&format!("/{repository}/blobs/{}", last.digest), Fault::Corrupt(at));
            }
        }
        let blobs = image.layers.iter().map(|blob| (blob.digest.clone(), blob.bytes.len() as u64)).collect();
        let (digest, image) = (image.digest.clone(), image.clone());
        self.images.push(Served { reference, repository, digest, blobs, tree, fate, image });
        self.images.len() - 1
    }
}

// === impl Made ===

impl Made {
    fn onto(self, builder: ImageBuilder, tree: &mut Tree) -> ImageBuilder {
        tree.retain(|path, _| !self.gone.contains(path));
        tree.extend(self.files);
        builder.layer(self.layer)
    }
}

/// New files, some over old ones, and some old ones gone.
fn layer(random: &mut Random, below: &Tree, most: usize) -> Made {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for _ in 0..random.between(1, 5) {
        let path = format!("{}/file-{}", random.pick(&DIRS).unwrap(), random.below(6));
        let length = random.below(most);
        // Half of it compresses well.
        let mut content = random.bytes(length / 2);
        content.resize(length, b'x');
        files.insert(path, content);
    }
    let gone: BTreeSet<String> =
        below.keys().filter(|path| !files.contains_key(*path) && random.chance(20)).cloned().collect();
    let mut builder = LayerBuilder::new();
    for (path, content) in &files {
        builder = builder.file(path, content);
    }
    for path in &gone {
        builder = builder.whiteout(path);
    }
    let files = files.into_iter().map(|(path, content)| (path, Digester::sha256(&content))).collect();
    Made { layer: builder.build(*random.pick(&CODECS).unwrap()), files, gone }
}
