//! Cold pulls: nothing is there, and at the end a file can be read.

use std::time::Duration;

use anyhow::Result;
use imagevol_test_support::daemon;

use crate::bounds::Stages;
use crate::images::{NAMES, Published};
use crate::memory::Peak;
use crate::peers::{self, Peer, Pull};
use crate::sample::{ratio, seconds, text};
use crate::{Bench, cores};

/// All rounds of one image.
struct Rounds {
    imagevol: Vec<Pull>,
    peak: Peak,
    stages: Vec<Stages>,
    peers: Vec<Opponent>,
}

struct Opponent {
    peer: Peer,
    pulls: Vec<Pull>,
    /// Why it takes no part.
    out: Option<String>,
}

/// Prints the tables of cold pulls.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let mut notes = Vec::new();
    let wanted: Vec<_> = NAMES.into_iter().filter(|name| bench.wants(name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    println!(
        "\nCold pull until a file is read. Of a peer: seconds, and how many times imagevol's; in brackets with a sync after both.\n"
    );
    let peers = Peer::ALL.map(Peer::name).join(" | ");
    println!("| image | imagevol s | + sync s | x bound | bound s | {peers} | peak MB: anonymous | resident |");
    println!("{}|", "|---".repeat(7 + Peer::ALL.len()));
    let mut stages = Vec::new();
    for name in wanted {
        let published = bench.publish(name)?;
        let rounds = Rounds::measure(bench, &published)?;
        println!("{}", rounds.row(&published));
        notes.extend(rounds.peers.iter().filter_map(|opponent| {
            Some(format!("{name}: {} cannot: {}", opponent.peer.name(), opponent.out.as_ref()?))
        }));
        stages.push((published.name, rounds.stages));
    }
    for note in &notes {
        println!("\n{note}");
    }
    print_stages(&stages);
    Ok(())
}

fn print_stages(images: &[(&'static str, Vec<Stages>)]) {
    println!(
        "\nStages by themselves, all layers on one core, seconds; the bound is the longest of one stream, or all work on {} cores.\n",
        cores()
    );
    println!("| image | receive | CPU of both ends | sha256 blob | inflate | sha256 tar | write | sync |");
    println!("|---|---|---|---|---|---|---|---|");
    for (name, stages) in images {
        let column = |of: fn(&Stages) -> Duration| seconds(&stages.iter().map(of).collect::<Vec<_>>());
        let first =
            [column(|s| s.receive), column(|s| s.transfer), column(|s| s.hash_blob), column(|s| s.inflate)].join(" | ");
        let second = [column(|s| s.hash_tar), column(|s| s.write), column(|s| s.sync)].join(" | ");
        println!("| {name} | {first} | {second} |");
    }
}

// === impl Rounds ===

impl Rounds {
    fn measure(bench: &Bench, published: &Published) -> Result<Self> {
        let peers =
            Peer::ALL.into_iter().filter(|peer| !bench.options.alone && daemon::have(peer.name(), peer.programs()));
        let peers = peers.map(|peer| Opponent { peer, pulls: Vec::new(), out: None }).collect();
        let mut rounds = Self { imagevol: Vec::new(), peak: Peak::default(), stages: Vec::new(), peers };
        for round in 0..bench.options.rounds {
            // Who comes first changes.
            if round % 2 == 0 {
                rounds.imagevol(published)?;
                rounds.stages.push(Stages::measure(bench, published)?);
                rounds.peers.iter_mut().for_each(|opponent| opponent.pull(bench, published, round));
            } else {
                rounds.peers.iter_mut().rev().for_each(|opponent| opponent.pull(bench, published, round));
                rounds.stages.push(Stages::measure(bench, published)?);
                rounds.imagevol(published)?;
            }
        }
        Ok(rounds)
    }

    fn imagevol(&mut self, published: &Published) -> Result<()> {
        let (pull, peak) = peers::imagevol(published)?;
        self.imagevol.push(pull);
        self.peak.anonymous = self.peak.anonymous.max(peak.anonymous);
        self.peak.resident = self.peak.resident.max(peak.resident);
        Ok(())
    }

    fn row(&self, published: &Published) -> String {
        let layers = published.contents.len();
        let bounds: Vec<Duration> = self.stages.iter().map(|stages| stages.bound(layers)).collect();
        let times: Vec<Duration> = self.imagevol.iter().map(|pull| pull.time).collect();
        let syncs: Vec<Duration> = self.imagevol.iter().map(|pull| pull.sync).collect();
        let column = |peer: Peer| {
            let opponent = self.peers.iter().find(|opponent| opponent.peer == peer);
            opponent.map_or_else(|| "-".to_owned(), |opponent| opponent.cell(&self.imagevol))
        };
        format!(
            "| {} | {} | {} | **{}** | {} | {} | {:.0} | {:.0} |",
            published.name,
            seconds(&times),
            seconds(&syncs),
            text(ratio(&times, &bounds), 2),
            seconds(&bounds),
            Peer::ALL.map(column).join(" | "),
            self.peak.anonymous,
            self.peak.resident,
        )
    }
}

// === impl Opponent ===

impl Opponent {
    fn pull(&mut self, bench: &Bench, published: &Published, round: usize) {
        if self.out.is_some() {
            return;
        }
        let dir = bench.dir().join(format!("{}-{}-{round}", published.name, self.peer.name()));
        match self.peer.pull(published, &dir) {
            Ok(pull) => self.pulls.push(pull),
            Err(error) => self.out = Some(format!("{error:#}")),
        }
    }

    /// Seconds, and ratios to imagevol.
    fn cell(&self, imagevol: &[Pull]) -> String {
        if self.out.is_some() {
            return "cannot".to_owned();
        }
        let times = |pulls: &[Pull]| pulls.iter().map(|pull| pull.time).collect::<Vec<_>>();
        let durable = |pulls: &[Pull]| pulls.iter().map(|pull| pull.time + pull.sync).collect::<Vec<_>>();
        let plain = text(ratio(&times(&self.pulls), &times(imagevol)), 1);
        let synced = text(ratio(&durable(&self.pulls), &durable(imagevol)), 1);
        format!("{}, **{plain}** ({synced})", seconds(&times(&self.pulls)))
    }
}
