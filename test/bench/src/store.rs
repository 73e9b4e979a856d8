//! A store of 10 000 images and 100 000 blobs: how long it takes to start over it, to list it, and to plan a collection.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::collection::{Goal, Wish};
use imagevol_base::{Digester, Holder};
use imagevol_store::{ContentKey, ImageKind, ImageName, ImageRecord, LayerRecord, Limits, Store};
use tokio::time::Instant;

use crate::ON_DISK;

/// Images of the store, from the targets.
const IMAGES: u64 = 10_000;
/// Layers that an image has for itself: with manifest and config, ten blobs.
const OWN_LAYERS: u64 = 8;
/// Layers that an image shares with others.
const SHARED_LAYERS: u64 = 4;
/// Layers to share, a hundred images each or more.
const SHARED_POOL: u64 = 400;
/// Volumes that hold an image.
const VOLUMES: u64 = 1_000;
/// Images in a transaction.
const AT_ONCE: u64 = 500;

/// What is measured, and what it may take on two cores.
const TARGETS: [(&str, Duration); 3] =
    [("start", Duration::from_secs(5)), ("list", Duration::from_millis(100)), ("gc plan", Duration::from_secs(2))];

/// What a call took.
#[derive(Debug, Clone, Copy, Default)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

/// Makes such a store, and prints the median of so many rounds of each.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let dir = tempfile::TempDir::with_prefix_in("imagevol-bench-store-", ON_DISK).context("make a work directory")?;
    let begun = Instant::now();
    fill(dir.path())?;
    let blobs = IMAGES * (OWN_LAYERS + 2) + SHARED_POOL;
    println!("store of {IMAGES} images and {blobs} blobs, {VOLUMES} volumes; made in {:.1?}", begun.elapsed());
    let mut times: [Vec<Took>; 3] = Default::default();
    for _ in 0..rounds.max(1) {
        for (times, time) in times.iter_mut().zip(round(dir.path())?) {
            times.push(time);
        }
    }
    for ((what, target), mut times) in TARGETS.into_iter().zip(times) {
        times.sort_by_key(|took| took.wall);
        let Took { wall, cpu } = times.get(times.len() / 2).copied().unwrap_or_default();
        let met = if wall <= target { "met" } else { "MISSED" };
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "{what:8} {:>8.1} ms, {:>8.1} ms of a core   target {:>6} ms   {met}",
            millis(wall),
            millis(cpu),
            target.as_millis()
        );
    }
    Ok(())
}

fn round(dir: &Path) -> Result<[Took; 3]> {
    let (store, start) = took(|| Store::open(dir, Limits::default()))?;
    let (images, list) = took(|| store.image_summaries())?;
    anyhow::ensure!(images.len() as u64 == IMAGES, "images are missing");
    let wish = Wish { goal: Goal::Everything, min_age: Duration::ZERO };
    let (planned, plan) = took(|| Ok(imagevol_store::plan(&store.census()?, wish)))?;
    anyhow::ensure!(planned.gone.len() as u64 == IMAGES - VOLUMES, "{} images would go", planned.gone.len());
    Ok([start, list, plan])
}

/// What a call takes: by the clock, and of a core, which tells what it would be on a quiet machine.
fn took<T>(call: impl FnOnce() -> imagevol_store::Result<T>) -> Result<(T, Took)> {
    let (begun, before) = (Instant::now(), on_core()?);
    let result = call()?;
    Ok((result, Took { wall: begun.elapsed(), cpu: on_core()?.saturating_sub(before) }))
}

/// Time of this thread on a core (Linux, `Documentation/scheduler/sched-stats.rst`).
fn on_core() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").context("read schedstat")?;
    let nanos = stat.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(nanos.parse().context("parse schedstat")?))
}

fn fill(dir: &Path) -> Result<()> {
    let store = Store::open(dir, Limits::default())?;
    for first in (0..IMAGES).step_by(usize::try_from(AT_ONCE)?) {
        let images = (first..first + AT_ONCE).map(|number| Ok((record(number), names(number)?)));
        store.generate(images.collect::<Result<_>>()?)?;
    }
    for number in 0..VOLUMES {
        let holder: Holder = format!("volume/pod-{number}/data").parse()?;
        store.hold(&holder, &tag(number))?;
    }
    Ok(store.pin(&"r.example/nobody/*".parse()?)?)
}

fn digest(what: &str, number: u64) -> Digest {
    Digester::sha256(format!("{what} {number}").as_bytes())
}

fn tag(number: u64) -> String {
    format!("r.example/team-{}/image-{number}:v1", number % 50)
}

fn names(number: u64) -> Result<Vec<ImageName>> {
    let reference = Reference::parse(&tag(number))?;
    let by_digest = reference.at_digest(&digest("manifest", number));
    Ok(vec![ImageName::new(&reference), ImageName::new(&by_digest)])
}

fn record(number: u64) -> ImageRecord {
    let own = (0..OWN_LAYERS).map(|layer| ("own", number * OWN_LAYERS + layer));
    let shared = (0..SHARED_LAYERS).map(|layer| ("shared", (number * SHARED_LAYERS + layer) % SHARED_POOL));
    let layer = |(kind, number): (&str, u64)| LayerRecord {
        digest: digest(&format!("blob of {kind}"), number),
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        size: 1000,
        content: ContentKey::Layer(digest(kind, number)),
        stored_size: 4096,
        title: None,
    };
    ImageRecord {
        manifest: digest("manifest", number),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        kind: ImageKind::Image,
        artifact_type: None,
        config: digest("config", number),
        layers: shared.chain(own).map(layer).collect(),
        annotations: BTreeMap::from([(
            "org.opencontainers.image.created".to_owned(),
            "2026-01-01T00:00:00Z".to_owned(),
        )]),
        size: 0,
        index_bytes: 0,
        index_digest: None,
        pulled_at: 0,
    }
}
