//! Random operations, a kill at a random moment, perhaps another in the recovery, and the proof; again and again over one state.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;

use imagevol_test_support::daemon::own_mounts;
use imagevol_test_support::registry::{Fault, Gate};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::catalog::{Catalog, Fate};
use crate::moment::Moment;
use crate::node::Node;
use crate::proof;
use crate::random::{self, Random};
use crate::world::{Pod, Presence, World};

/// Kills in all, where `IMAGEVOL_CRASH_RUNS` says nothing.
const RUNS: usize = 208;
/// Parts of them that run beside each other.
const SHARDS: usize = 4;
/// Pods that are there at once, and images that nobody holds, before some go.
const MANY: usize = 4;

/// What is done in one run.
pub(crate) struct Plan {
    pub(crate) operations: Vec<Operation>,
    pub(crate) moment: Moment,
    pub(crate) signal: Signal,
    /// A door in the middle of a pull, opened after the kill.
    pub(crate) gate: Option<Gate>,
    /// Kills in the recovery.
    pub(crate) again: Vec<Moment>,
}

/// One thing that a user does.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Apply(Box<Pod>),
    /// Deletes a pod, if there is one.
    Delete,
    /// Applies a pod again that was deleted.
    ApplyAgain,
    /// Removes an image, which is refused where it is in use.
    Remove(String),
    Pull(String),
    /// Collects every image that nobody needs.
    Collect,
    Pin(String),
    Unpin(String),
    /// Imports a directory.
    Import(PathBuf),
    /// Imports the tar in a file on standard input.
    ImportPiped(PathBuf),
    Prefetch(String),
    /// Ends a prefetch.
    Forget(String),
    /// Takes out of use what is corrupt.
    Repair,
    /// Tries a failed pod again.
    Retry,
    Look,
}

/// A daemon over its registry, what it was asked, and what has been seen.
pub(crate) struct Crash {
    pub(crate) node: Node,
    pub(crate) catalog: Catalog,
    pub(crate) world: World,
    pub(crate) random: Random,
    events: BTreeSet<String>,
    tally: Tally,
}

/// Where the kills fell.
#[derive(Debug, Default)]
struct Tally {
    runs: usize,
    kills: usize,
    mid_pull: usize,
    mid_mount: usize,
    mid_unmount: usize,
    mid_recovery: usize,
    recoveries: usize,
    mounted: usize,
}

// === impl Crash ===

impl Crash {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let catalog = Catalog::new(&mut random);
        let mut node = Node::new();
        node.start();
        Self { node, catalog, world: World::default(), random, events: BTreeSet::new(), tally: Tally::default() }
    }

    /// One run: operations until the kill, then restarts and proofs.
    pub(crate) fn run(&mut self, plan: Plan) {
        let before = self.pulls();
        self.operate(plan.operations, plan.moment, plan.signal);
        plan.gate.iter().for_each(Gate::open);
        self.tally.runs += 1;
        let drained = self.node.daemon.terminate();
        assert!(drained == (plan.signal == Signal::SIGTERM), "{}", self.node.daemon.log());
        self.classify(&before);
        proof::promises(&self.node, &self.world);
        if self.random.chance(25) {
            proof::offline(&self.node);
        }
        for moment in plan.again {
            let armed = self.catalog.arm(moment, &self.node);
            self.node.start_and_kill(armed);
            self.tally.mid_recovery += 1;
            proof::promises(&self.node, &self.world);
        }
        self.recover();
    }

    /// An operation that is killed over a disk that has lost bits: of the store nothing is proved before the next operation.
    pub(crate) fn interrupt(&mut self, operation: Operation, moment: Moment) {
        let before = self.pulls();
        self.operate(vec![operation], moment, Signal::SIGKILL);
        assert!(!self.node.daemon.terminate(), "{}", self.node.daemon.log());
        self.tally.runs += 1;
        self.classify(&before);
        proof::promises(&self.node, &self.world);
        self.node.start();
        self.tally.recoveries += 1;
        proof::restarted(&self.node, &mut self.world, &self.events);
    }

    /// An operation that nothing interrupts.
    pub(crate) fn live(&mut self, operation: Operation) {
        operation.carry_out(&self.node, &mut self.world, &mut self.random);
        proof::settled(&self.node, &mut self.world, &self.catalog);
    }

    /// Deletes and removes everything, and sees that nothing is left.
    pub(crate) fn empty(&mut self) {
        proof::emptied(&self.node, &mut self.world, &self.catalog);
        self.events = proof::event_names(&self.node);
    }

    pub(crate) fn tell(&self, name: &str) {
        let Tally { runs, kills, mid_pull, mid_mount, mid_unmount, mid_recovery, recoveries, mounted } = &self.tally;
        say(&format!(
            "crash {name}: {runs} runs, {kills} ends ({mid_pull} in a pull, {mid_mount} in a mount, {mid_unmount} in an unmount) \
             and {mid_recovery} kills in a recovery, {recoveries} recoveries, {mounted} pods found mounted after them"
        ));
    }

    fn recover(&mut self) {
        self.node.start();
        self.tally.recoveries += 1;
        proof::restarted(&self.node, &mut self.world, &self.events);
        proof::settled(&self.node, &mut self.world, &self.catalog);
        self.tally.mounted += self.world.promised().count();
        self.remove_unused();
        self.events = proof::event_names(&self.node);
    }

    /// Keeps the state small, so that proving it stays quick.
    fn remove_unused(&self) {
        let images = self.node.items(&["images"]);
        let unused = images.iter().filter(|image| image["usedBy"] == serde_json::json!([]));
        let unused: Vec<&str> = unused.filter_map(|image| image["id"].as_str()).collect();
        if unused.len() > MANY {
            self.node.daemon.must([&["rmi"][..], unused.as_slice()].concat());
        }
    }

    fn operate(&mut self, operations: Vec<Operation>, moment: Moment, signal: Signal) {
        let Self { node, catalog, world, random, .. } = self;
        let node = &*node;
        let armed = catalog.arm(moment, node);
        std::thread::scope(|scope| {
            let (done, ended) = tokio::sync::oneshot::channel();
            scope.spawn(move || node.end_at(armed, signal, ended));
            let mut operations = operations.into_iter();
            while let Some(operation) = operations.next().filter(|_| !node.is_ending()) {
                operation.carry_out(node, world, random);
            }
            node.until("the kill, or rest", || {
                world.look(node);
                if node.is_ending() || !world.is_waiting() { Ok(()) } else { Err(format!("{world:?}")) }
            });
            drop(done);
        });
    }

    /// Downloads and intents that are on disk.
    fn pulls(&self) -> BTreeSet<String> {
        self.node.names("state/ingest").union(&self.node.names("state/image_manager/pulling")).cloned().collect()
    }

    /// What the kill interrupted, as far as that can be seen on disk.
    fn classify(&mut self, before: &BTreeSet<String>) {
        self.tally.kills += 1;
        let dirs = self.node.names("kubelet/pods");
        let has_dir = |pod: &&Pod| pod.uid.as_ref().is_some_and(|uid| dirs.contains(uid));
        let pods = || self.world.pods.values().filter(has_dir);
        self.tally.mid_pull += usize::from(!self.pulls().is_subset(before));
        self.tally.mid_mount += usize::from(pods().any(|pod| !pod.is_promised() && pod.presence == Presence::There));
        self.tally.mid_unmount += usize::from(pods().any(|pod| pod.presence != Presence::There));
    }

    fn random_plan(&mut self) -> Plan {
        let mut operations = Vec::new();
        let (gated, mut gate) = (self.random.chance(30), None);
        for _ in 0..self.random.between(1, 5) {
            operations.push(self.random_operation(gated, &mut gate));
            if self.random.chance(20) {
                operations.push(Operation::Look);
            }
        }
        if self.world.there().count() > MANY {
            operations.extend([Operation::Delete, Operation::Delete]);
        }
        // A pull that is held comes to no other moment.
        let moment = gate.clone().map_or_else(|| self.random_moment(), Moment::Gate);
        let signal = if self.random.chance(8) { Signal::SIGTERM } else { Signal::SIGKILL };
        let mut again = Vec::new();
        while again.len() < 2 && self.random.chance(35) {
            again.push(self.random_moment());
        }
        Plan { operations, moment, signal, gate, again }
    }

    fn random_moment(&mut self) -> Moment {
        let random = &mut self.random;
        match random.below(10) {
            0 => Moment::Idle,
            1 | 2 => Moment::Millis(random.below(250) as u64),
            3 => Moment::Requests(random.between(1, 15)),
            4 | 5 => Moment::Mounts(random.between(1, 10)),
            _ => Moment::Files(random.between(1, 160)),
        }
    }

    fn random_operation(&mut self, gated: bool, gate: &mut Option<Gate>) -> Operation {
        match self.random.below(100) {
            0..50 => self.random_apply(gated, gate),
            50..70 => Operation::Delete,
            70..76 => Operation::ApplyAgain,
            76..88 => match self.random.pick(&self.catalog.images).cloned() {
                Some(image) if self.random.chance(50) => Operation::Remove(image.reference),
                Some(image) => Operation::Remove(image.digest.to_string()),
                None => Operation::Look,
            },
            88..92 => Operation::Collect,
            92..96 => {
                let image = self.catalog.make(&mut self.random, Fate::Good);
                Operation::Pull(self.catalog.image(image).reference.clone())
            }
            _ => Operation::Retry,
        }
    }

    fn random_apply(&mut self, gated: bool, gate: &mut Option<Gate>) -> Operation {
        let mut images = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            images.push(self.random_image());
        }
        if gated && gate.is_none() {
            *gate = images.iter().find_map(|image| self.random_gate(*image));
        }
        Operation::Apply(Box::new(self.world.make_pod(&mut self.random, &self.catalog, &images)))
    }

    /// Mostly a new one, now and then one that was served before.
    fn random_image(&mut self) -> usize {
        let good = |index: &usize| self.catalog.image(*index).fate == Fate::Good;
        let known: Vec<usize> = (0..self.catalog.images.len()).filter(good).collect();
        if let Some(known) = self.random.pick(&known).copied().filter(|_| self.random.chance(35)) {
            return known;
        }
        let fate = match self.random.below(100) {
            0..4 => Fate::Missing,
            4..8 => Fate::Denied,
            8..12 => Fate::Corrupt,
            _ => Fate::Good,
        };
        self.catalog.make(&mut self.random, fate)
    }

    /// A door in the middle of the image's pull.
    fn random_gate(&mut self, image: usize) -> Option<Gate> {
        let image = self.catalog.image(image);
        let (blob, size) = self.random.pick(&image.blobs)?;
        let at = self.random.below(usize::try_from(*size).unwrap().max(1)) as u64;
        let gate = Gate::new();
        let (part, fault) = match self.random.below(3) {
            0 => (format!("GET /v2/{}/manifests/", image.repository), Fault::Hold(gate.clone())),
            1 => (format!("GET /v2/{}/blobs/{blob}", image.repository), Fault::Hold(gate.clone())),
            _ => (format!("GET /v2/{}/blobs/{blob}", image.repository), Fault::StallAt(at, gate.clone())),
        };
        self.catalog.registry.faults().once(&part, fault);
        Some(gate)
    }
}

// === impl Operation ===

impl Operation {
    fn carry_out(self, node: &Node, world: &mut World, random: &mut Random) {
        match self {
            Self::Apply(pod) => world.apply(node, *pod),
            Self::Delete => {
                if let Some(name) = chosen(world, random, |pod| pod.presence == Presence::There) {
                    world.delete(node, &name);
                }
            }
            Self::ApplyAgain => {
                if let Some(name) = chosen(world, random, |pod| pod.presence == Presence::Gone) {
                    let pod = world.pods[&name].clone();
                    world.apply(node, pod);
                }
            }
            Self::Remove(name) => remove(node, world, &name),
            Self::Pull(reference) => drop(node.acknowledges(&["pull", "-q", &reference])),
            Self::Collect => drop(node.acknowledges(&["gc", "--all"])),
            Self::Pin(reference) => drop(node.acknowledges(&["pin", &reference])),
            Self::Unpin(reference) => drop(node.acknowledges(&["unpin", &reference])),
            Self::Import(dir) => drop(node.acknowledges(&["import", "-q", dir.to_str().unwrap()])),
            Self::ImportPiped(file) => drop(node.acknowledges_reading(&file, &["import", "-q", "-"])),
            Self::Prefetch(reference) => drop(node.acknowledges(&["prefetch", "-q", &reference])),
            Self::Forget(reference) => drop(node.acknowledges(&["prefetch", "--forget", &reference])),
            Self::Repair => drop(node.acknowledges(&["fsck", "--repair"])),
            Self::Retry => {
                if let Some(name) = chosen(world, random, |pod| pod.bad && pod.presence == Presence::There) {
                    world.retry(node, &name);
                }
            }
            Self::Look => world.look(node),
        }
    }
}

fn chosen(world: &World, random: &mut Random, fit: impl Fn(&Pod) -> bool) -> Option<String> {
    let names: Vec<&String> = world.pods.iter().filter(|(_, pod)| fit(pod)).map(|(name, _)| name).collect();
    random.pick(&names).map(|name| (*name).clone())
}

/// What is in use must stay; a digest names the image itself.
fn remove(node: &Node, world: &World, name: &str) {
    let Some(ran) = node.ask(["rmi", name]).filter(|ran| ran.ok) else { return };
    let held = world.promised().any(|pod| pod.images().any(|image| image.to_string() == name));
    assert!(!held, "{name} is in use and was removed: {}\n{}", ran.stdout, node.daemon.log());
}

/// To the terminal, past the capture of test output: a seed must be seen.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap();
}

#[rstest]
fn what_was_acknowledged_survives_every_kill(#[values(0, 1, 2, 3)] shard: usize) {
    if !own_mounts("kill") {
        return;
    }
    let runs: usize = std::env::var("IMAGEVOL_CRASH_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let seed = random::seed().wrapping_add(shard as u64);
    say(&format!("crash shard {shard}: IMAGEVOL_CRASH_SEED={}", seed.wrapping_sub(shard as u64)));
    let mut crash = Crash::new(seed);
    for _ in 0..runs.div_ceil(SHARDS) {
        let plan = crash.random_plan();
        crash.run(plan);
    }
    crash.empty();
    crash.tell(&format!("shard {shard}"));
}
