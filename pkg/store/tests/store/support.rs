//! A state directory for each test, and layers and images to put into it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::oci::{Algorithm, Digest, Reference};
use imagevol_base::{Digester, Holder};
use imagevol_store::{
    Compression, ContentKey, Form, ImageKind, ImageName, ImageRecord, LayerRecord, Limits, ManualClock, Report, Result,
    Store, StoreError, Stored, Usage,
};
use tempfile::TempDir;

/// A directory on a disk: files on tmpfs cannot be mounted without loop devices.
pub(crate) const DISK: &str = "/var/tmp";

/// Set in a process that was started again in a mount namespace of its own.
const ALONE: &str = "IMAGEVOL_STORE_TEST_ALONE";

/// A state directory, and the store in it.
pub(crate) struct Scratch {
    pub(crate) dir: TempDir,
    pub(crate) store: Option<Store>,
    pub(crate) limits: Limits,
    /// The node's time, which goes when it is told to.
    pub(crate) clock: ManualClock,
}

/// A piece of an image: its bytes are stored when it is put into one.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) bytes: Vec<u8>,
    pub(crate) form: Form,
    pub(crate) title: Option<String>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let dir = tempfile::tempdir_in(DISK).unwrap();
        Self::in_dir(dir, limits)
    }

    pub(crate) fn in_dir(dir: TempDir, limits: Limits) -> Self {
        let mut scratch = Self { dir, store: None, limits, clock: ManualClock::default() };
        scratch.reopen();
        scratch
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Closes the store, lets somebody work on its directory, and opens it.
    pub(crate) fn reopen_after(&mut self, work: impl FnOnce(&Path)) -> &Store {
        self.store = None;
        work(self.dir.path());
        let clock = Arc::new(self.clock.clone());
        self.store = Some(Store::open_with_clock(self.dir.path(), self.limits, clock).unwrap());
        self.store()
    }

    pub(crate) fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn reopen(&mut self) -> &Store {
        self.reopen_after(|_| {})
    }

    /// The store is right in itself, has no file that no row names, and counts its bytes exactly.
    pub(crate) fn assert_sound(&self) -> Report {
        assert_sound(self.store())
    }

    pub(crate) fn put(&self, piece: &Piece) -> Stored {
        put(self.store(), piece).unwrap()
    }
}

pub(crate) fn assert_sound(store: &Store) -> Report {
    let report = store.fsck().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let stray: Vec<_> = report.unfinished.iter().filter(|line| line.contains("no row names it")).collect();
    assert!(stray.is_empty(), "{stray:?}");
    let files = content_files(store.state_dir());
    let bytes: u64 = files.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(store.usage().unwrap(), (bytes, files.len() as u64));
    report
}

/// Everything on disk is in one row of what takes space.
pub(crate) fn assert_counted(store: &Store) -> Vec<Usage> {
    let usage = store.disk_usage().unwrap();
    let on_disk: u64 = files_below(store.state_dir()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert_eq!(usage.iter().map(|usage| usage.bytes).sum::<u64>(), on_disk, "{usage:?}");
    usage
}

/// All files below the directories of content and images.
pub(crate) fn content_files(state_dir: &Path) -> BTreeSet<PathBuf> {
    ["blobs", "layers", "images"].iter().flat_map(|family| files_below(&state_dir.join(family))).collect()
}

pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

pub(crate) fn put(store: &Store, piece: &Piece) -> Result<Stored> {
    let ingest = store.begin(&piece.digest(), piece.size(), piece.form.clone())?;
    let rest = &piece.bytes[usize::try_from(ingest.offset()).unwrap()..];
    ingest.run(rest)
}

impl Piece {
    pub(crate) fn blob(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), form: Form::Blob, title: Some(format!("file-{}", bytes.len())) }
    }

    /// A layer with its right diffID.
    pub(crate) fn layer(tar: &[u8], compression: Compression) -> Self {
        let form = Form::Layer { compression, diff_id: Some(Digester::sha256(tar)) };
        Self { bytes: pack(tar, compression), form, title: None }
    }

    /// A layer of which nobody says the diffID.
    pub(crate) fn archive(tar: &[u8], compression: Compression) -> Self {
        Self { form: Form::Layer { compression, diff_id: None }, ..Self::layer(tar, compression) }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digester::sha256(&self.bytes)
    }

    pub(crate) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

pub(crate) fn pack(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip | Compression::Detect => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

/// A tar of regular files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A small layer that is like no other of another name.
pub(crate) fn small_tar(name: &str) -> Vec<u8> {
    tar(&[(name, name.repeat(100).as_bytes())])
}

/// Stores what an image is made of, and says what to commit. The leases keep it until then.
pub(crate) fn record(store: &Store, name: &str, kind: ImageKind, pieces: &[Piece]) -> (ImageRecord, Vec<Stored>) {
    try_record(store, name, kind, pieces).unwrap()
}

pub(crate) fn try_record(
    store: &Store,
    name: &str,
    kind: ImageKind,
    pieces: &[Piece],
) -> Result<(ImageRecord, Vec<Stored>)> {
    let (manifest, config) = (format!("manifest of {name}"), format!("config of {name}"));
    let mut leases = vec![store.put_blob(&Digester::sha256(manifest.as_bytes()), manifest.as_bytes())?];
    if kind == ImageKind::Image {
        leases.push(store.put_blob(&Digester::sha256(config.as_bytes()), config.as_bytes())?);
    }
    let layers = pieces.iter().map(|piece| {
        let stored = put(store, piece)?;
        let layer = LayerRecord {
            digest: piece.digest(),
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            size: piece.size(),
            content: stored.lease.key().clone(),
            stored_size: stored.content.size,
            title: piece.title.clone(),
        };
        leases.push(stored);
        Ok(layer)
    });
    let record = ImageRecord {
        manifest: manifest_of(name),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        kind,
        artifact_type: None,
        config: Digester::sha256(config.as_bytes()),
        layers: layers.collect::<Result<_>>()?,
        annotations: BTreeMap::new(),
        size: 0,
        index_bytes: 0,
        index_digest: None,
        pulled_at: 0,
    };
    Ok((record, leases))
}

/// Pulls an image, so to speak: `name:1` and `name@digest` lead to it, and a command holds it no more.
pub(crate) fn pull(store: &Store, name: &str, pieces: &[Piece]) -> ImageRecord {
    let (record, leases) = record(store, name, ImageKind::Artifact, pieces);
    let image = store.commit_held(record, &names(name), &command(0)).unwrap();
    drop(leases);
    store.release(&command(0)).unwrap();
    image
}

/// Pulls a dozen images, of which some go again at once.
pub(crate) fn come_and_go(store: &Store, goes: fn(u64) -> bool) {
    for number in 0..12 {
        let layer = Piece::archive(&small_tar(&format!("l{number}")), Compression::Zstd);
        pull(store, &format!("i{number}"), &[layer]);
        if goes(number) {
            store.remove(&tag(&format!("i{number}"))).unwrap();
        }
    }
}

/// `name:1` and `name@digest`.
pub(crate) fn names(name: &str) -> Vec<Reference> {
    vec![reference(&format!("{}:1", repository(name))), reference(&digest_name(name))]
}

/// A name without `/` for tests: its repository is on a registry of its own.
pub(crate) fn repository(name: &str) -> String {
    format!("r.example:5000/{name}")
}

pub(crate) fn tag(name: &str) -> String {
    format!("{}:1", repository(name))
}

pub(crate) fn digest_name(name: &str) -> String {
    format!("{}@{}", repository(name), manifest_of(name))
}

pub(crate) fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

pub(crate) fn manifest_of(name: &str) -> Digest {
    Digester::sha256(format!("manifest of {name}").as_bytes())
}

pub(crate) fn volume(name: &str) -> Holder {
    format!("volume/0b5a7bd0-3b0b-4d33-9f3c-0123456789ab/{name}").parse().unwrap()
}

pub(crate) fn command(id: u64) -> Holder {
    Holder::Command { id }
}

pub(crate) fn sha512(bytes: &[u8]) -> Digest {
    Digester::of(Algorithm::Sha512, bytes)
}

pub(crate) fn layer_key(tar: &[u8]) -> ContentKey {
    ContentKey::Layer(Digester::sha256(tar))
}

/// The variant's name, so that tables can say which error they expect.
pub(crate) fn kind(error: &StoreError) -> String {
    format!("{error:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

/// Says what was not tested; where nothing may be left out, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED in CI: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Runs a test in a process of its own with a mount namespace of its own, in which all mounts are private and end with it.
pub(crate) fn in_namespace(test: &str, run: impl FnOnce()) {
    let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
    if !is_root {
        return skip("needs root");
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]);
    in_process(command, test, run);
}

/// Runs a test in a process of its own.
pub(crate) fn alone(test: &str, run: impl FnOnce()) {
    in_process(Command::new("env"), test, run);
}

fn in_process(mut command: Command, test: &str, run: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some_and(|name| name == test) {
        return run();
    }
    let exe = std::env::current_exe().unwrap();
    let output = command.arg(exe).args(["--exact", test, "--nocapture"]).env(ALONE, test).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Calls of holders that have said before what they want, as every caller does.
pub(crate) trait Held {
    fn commit_held(&self, image: ImageRecord, names: &[Reference], holder: &Holder) -> Result<ImageRecord, StoreError>;
    fn bind_held(&self, holder: &Holder, image: &Digest) -> Result<bool, StoreError>;
}

impl Held for Store {
    fn commit_held(&self, image: ImageRecord, names: &[Reference], holder: &Holder) -> Result<ImageRecord, StoreError> {
        let wanted = names.first().map_or_else(|| image.manifest.to_string(), ToString::to_string);
        let made = hold_once(self, holder, &wanted)?;
        let names: Vec<_> = names.iter().map(ImageName::new).collect();
        let committed = self.commit_image(image, &names, holder);
        if made && committed.is_err() {
            self.release(holder)?;
        }
        committed
    }

    fn bind_held(&self, holder: &Holder, image: &Digest) -> Result<bool, StoreError> {
        if self.resolve(&image.to_string())?.is_some() {
            hold_once(self, holder, &image.to_string())?;
        }
        self.bind(holder, image)
    }
}

/// A row that is there stays as it is. Whether one was made.
fn hold_once(store: &Store, holder: &Holder, wanted: &str) -> Result<bool, StoreError> {
    if store.references()?.iter().any(|(known, _)| known == holder) {
        return Ok(false);
    }
    store.hold(holder, wanted)?;
    Ok(true)
}
