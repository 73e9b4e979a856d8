//! How long a pod takes to be ready with the files of an image: by our volume, by the kubelet's own image volume, and by an init
//! container that copies them. On a real cluster, as whoever applies the pod sees it.
//!
//! Contestants take turns round by round, each with an image of its own for a pull, so that nobody finds what another has fetched; a pod
//! without any volume is the floor. The result is the median of the rounds' ratios to the kubelet's own way.
#![expect(clippy::print_stdout, reason = "a table on standard output is what this program is for")]

#[path = "../sample.rs"]
mod sample;

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use imagevol_test_support::image::{Entry, ImageBuilder, LayerBuilder};
use tempfile::TempDir;

use crate::sample::{ratio, seconds, text, timed};

/// Where everything of a run is.
const NAMESPACE: &str = "imagevol-bench";
/// A shell for all containers, of the local cluster's registry.
const SHELL: &str = "busybox:1";
/// A program that copies, for the init container's image.
const BUSYBOX: &str = "/bin/busybox";
const MIB: usize = 1 << 20;
/// Bytes from one random file to the next are told apart by this.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Measure how soon pods are ready, on the cluster of KUBECONFIG
#[derive(Debug, Parser)]
struct Options {
    /// The registry that nodes and this program reach by the same name, over plain HTTP
    #[arg(long, env = "IMAGEVOL_CLUSTER_REGISTRY", value_name = "HOST:PORT")]
    registry: String,
    /// How often each contestant runs
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Size of the image that is pulled
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    mib: usize,
}

/// How a pod comes by the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Nothing,
    Ours,
    Kubelets,
    Copy,
}

/// The times of all rounds, by way.
type Times = Vec<(Way, Vec<Duration>)>;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    kubectl(&["create", "namespace", NAMESPACE], None)?;
    let measured = measure(options);
    kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"], None)?;
    measured
}

fn measure(options: &Options) -> Result<()> {
    println!("{} rounds; seconds from `kubectl apply` until the pod is ready, medians", options.rounds);
    let small = push(options, "present", 1, 0)?;
    // Nobody pulls in the first part: every image has been used once before.
    for way in Way::ALL {
        start(options, way, &small, 0)?;
    }
    show("image present on the node", &rounds(options, |_, _| Ok(small.clone()))?);
    let mut seed = 1;
    let title = format!("image of {} MiB to be pulled", options.mib);
    let pulled = rounds(options, |way, round| {
        seed += 1;
        push(options, &format!("pulled-{}-{round}", way.name()), options.mib, seed)
    })?;
    show(&title, &pulled);
    Ok(())
}

fn rounds(options: &Options, mut image: impl FnMut(Way, usize) -> Result<String>) -> Result<Times> {
    let mut times: Times = Way::ALL.map(|way| (way, Vec::new())).to_vec();
    for round in 0..options.rounds {
        let turn = round % times.len();
        times.rotate_left(turn);
        for (way, times) in &mut times {
            let image = if *way == Way::Nothing { String::new() } else { image(*way, round)? };
            times.push(start(options, *way, &image, round + 1)?);
        }
        times.rotate_right(turn);
    }
    Ok(times)
}

/// Applies a pod, waits until it is ready, and takes it away.
fn start(options: &Options, way: Way, image: &str, round: usize) -> Result<Duration> {
    let name = format!("{}-{round}", way.name());
    let pod = way.pod(&name, image, &options.registry);
    let ready = format!("pod/{name}");
    let (time, ended) = timed(|| {
        kubectl(&["apply", "-n", NAMESPACE, "-f", "-"], Some(&pod))?;
        kubectl(&["wait", "-n", NAMESPACE, "--for=condition=Ready", &ready, "--timeout=900s"], None)
    });
    ended.with_context(|| format!("pod {name}"))?;
    kubectl(&["delete", "-n", NAMESPACE, &ready, "--grace-period=0", "--force"], None)?;
    kubectl(&["wait", "-n", NAMESPACE, "--for=delete", &ready, "--timeout=120s"], None)?;
    Ok(time)
}

fn show(title: &str, times: &Times) {
    let of = |wanted: Way| times.iter().find(|(way, _)| *way == wanted).map_or(&[] as &[Duration], |(_, times)| times);
    println!("\n{title}\n  {:<34}{:>9}{:>24}", "", "seconds", "of the kubelet's own");
    for way in Way::ALL {
        let relative = text(ratio(of(way), of(Way::Kubelets)), 2);
        println!("  {:<34}{:>9}{relative:>24}", way.title(), seconds(of(way)));
    }
}

/// Pushes an image of that many MiB which nothing compresses, beside a program to copy it with; its reference.
fn push(options: &Options, name: &str, mib: usize, seed: u64) -> Result<String> {
    let busybox = std::fs::read(BUSYBOX).with_context(|| format!("{BUSYBOX}: is busybox-static installed?"))?;
    let tools = LayerBuilder::new().file_with("bin/busybox", busybox, Entry::mode(0o755)).dir("data");
    let data = LayerBuilder::new().file("data/model.bin", noise(mib * MIB, seed));
    let image = ImageBuilder::new().layer(tools.gzip()).layer(data.gzip()).build();
    let dir = TempDir::new_in("/var/tmp").context("make a directory")?;
    image.write_layout(dir.path(), "1");
    let (from, reference) = (format!("oci:{}:1", dir.path().display()), format!("{}/bench/{name}:1", options.registry));
    let to = format!("docker://{reference}");
    run_program("skopeo", &["copy", "--quiet", "--dest-tls-verify=false", &from, &to], None)?;
    Ok(reference)
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_add(1).wrapping_mul(GOLDEN);
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(bytes / 8).flatten().collect()
}

fn kubectl(arguments: &[&str], input: Option<&str>) -> Result<()> {
    run_program("kubectl", arguments, input)
}

fn run_program(program: &str, arguments: &[&str], input: Option<&str>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let Some(mut stdin) = child.stdin.take() else { bail!("{program} has no standard input") };
    stdin.write_all(input.unwrap_or_default().as_bytes()).with_context(|| format!("tell {program}"))?;
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), complaint.trim());
    Ok(())
}

// === impl Way ===

impl Way {
    const ALL: [Self; 4] = [Self::Nothing, Self::Ours, Self::Kubelets, Self::Copy];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Ours => "ours",
            Self::Kubelets => "kubelets",
            Self::Copy => "copy",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Nothing => "no volume",
            Self::Ours => "imagevol, by CSI",
            Self::Kubelets => "volumes[].image of the kubelet",
            Self::Copy => "init container that copies",
        }
    }

    /// A pod that is ready once it can read the files.
    fn pod(self, name: &str, image: &str, registry: &str) -> String {
        let shell = format!("{registry}/{SHELL}");
        let (volume, init) = match self {
            Self::Nothing => ("emptyDir: {}".to_owned(), String::new()),
            Self::Ours => {
                let attributes = format!("{{reference: \"{image}\", pullPolicy: IfNotPresent}}");
                (
                    format!("csi: {{driver: csi.imagevol.dev, readOnly: true, volumeAttributes: {attributes}}}"),
                    String::new(),
                )
            }
            Self::Kubelets => (format!("image: {{reference: \"{image}\", pullPolicy: IfNotPresent}}"), String::new()),
            Self::Copy => {
                let copy = "command: [/bin/busybox, cp, -a, /data, /out/]";
                let mounts = "volumeMounts: [{name: v, mountPath: /out}]";
                let container = format!("{{name: copy, image: \"{image}\", {copy}, {mounts}}}");
                ("emptyDir: {}".to_owned(), format!("  initContainers: [{container}]\n"))
            }
        };
        let container = format!(
            "{{name: c, image: \"{shell}\", command: [sleep, inf], volumeMounts: [{{name: v, mountPath: /v}}]}}"
        );
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n\
             {init}  containers: [{container}]\n  volumes: [{{name: v, {volume}}}]\n"
        )
    }
}
