//! Many volumes and many cycles, by both doors: what a node sees in months. Nothing may grow, and nothing may be left.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use futures_util::stream;
use imagevol_test_support::daemon::Daemon;
use imagevol_test_support::kubelet::{Kubelet, KubeletPod, KubeletVolume, PluginWatcher};
use imagevol_test_support::registry::FakeRegistry;

use crate::lab::{Lab, image};
use crate::manifest::pod;

/// Runs the whole where it is `1`; `make soak` sets it.
const WHOLE: &str = "IMAGEVOL_SOAK";
/// Images that are always in use, and such that are staged and unstaged all the time.
const STANDING: usize = 6;
const VISITING: usize = 2;
/// Devices of an image on loop devices: its metadata and its one layer.
const LOOPS_OF_AN_IMAGE: usize = 2;
/// Volumes of one pod that stays.
const VOLUMES_OF_A_POD: usize = 10;
/// Calls of the kubelet at once: about as many pods as one that is restarted works on.
const AT_ONCE: usize = 8;
/// Cycles between two looks at manifests, and pods of manifests then.
const ROUND: usize = 50;
const STATIC_PODS: usize = 5;
/// Descriptors may differ by so many: connections that are about to close.
const SLACK: usize = 5;
/// Threads at most: a pool for blocking work keeps those that it had to make for a while, and each look uses some.
const THREADS: usize = 64;
/// Looks at the daemon before it is said not to come to rest. Each runs the command line, which takes some milliseconds.
const LOOKS: u32 = 1000;

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Plan {
    /// Volumes that stay mounted.
    volumes: usize,
    /// Publishes and unpublishes beside them, before memory is measured.
    warm_up: usize,
    /// And after it.
    cycles: usize,
    /// Growth of memory that is allowed, in KiB for each MiB there was: allocators of short runs have not come to rest.
    growth: u64,
}

/// What the daemon holds.
#[derive(Debug)]
struct Sample {
    descriptors: usize,
    threads: usize,
    anonymous_kib: u64,
    mounts: usize,
    loops: usize,
    users: usize,
    records: usize,
}

struct Soak {
    lab: Lab,
    kubelet: Kubelet,
    _registry: FakeRegistry,
    images: Vec<String>,
    loops_of_an_image: usize,
}

// === impl Plan ===

impl Plan {
    /// Seconds, or the target of the design: 1 000 volumes, 10 000 cycles, memory within 5 %.
    fn of_environment() -> Self {
        match std::env::var(WHOLE).as_deref() {
            Ok("1") => Self { volumes: 1000, warm_up: 5000, cycles: 10_000, growth: 51 },
            _ => Self { volumes: 50, warm_up: ROUND, cycles: 200, growth: 512 },
        }
    }
}

// === impl Sample ===

impl Sample {
    fn of(daemon: &Daemon) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
        let images = daemon.json(["images"]);
        let users = images["items"].as_array().unwrap().iter().filter_map(|image| image["usedBy"].as_array());
        Self {
            descriptors: entries(&proc.join("fd")),
            threads: entries(&proc.join("task")),
            anonymous_kib: anonymous(&proc),
            mounts: daemon.mounts().len(),
            loops: loops(daemon.dir()),
            users: users.map(Vec::len).sum(),
            records: entries(&daemon.state_dir().join("image_manager/pulled")),
        }
    }

    /// Whether nothing has come beside `before`. Memory is another question: it is asked once, when all else is as it was.
    fn is_like(&self, before: &Self) -> bool {
        let exact = |sample: &Self| [sample.mounts, sample.loops, sample.users, sample.records];
        exact(self) == exact(before) && self.descriptors <= before.descriptors + SLACK && self.threads <= THREADS
    }
}

// === impl Soak ===

impl Soak {
    fn started(test: &str, config: &str, loops_of_an_image: usize) -> Option<Self> {
        let mut lab = Lab::new(test)?.config("csi: {}\neventTTL: 10s").config(config);
        let root = lab.daemon.root_dir();
        let mut watcher = lab.run(async { PluginWatcher::new(&root) });
        lab.daemon.start();
        let kubelet = Kubelet::new(&root, lab.run(watcher.register()).unwrap().driver);
        let registry = lab.registry();
        let push = |number: usize| registry.push("data", &number.to_string(), &image("name", &number.to_string()));
        let images = (0..STANDING + VISITING).map(push).collect();
        Some(Self { lab, kubelet, _registry: registry, images, loops_of_an_image })
    }

    fn volume(&self, name: &str, image: usize) -> KubeletVolume {
        KubeletVolume::inline(name, &self.images[image % self.images.len()])
    }

    fn standing(&self, number: usize) -> (KubeletPod, KubeletVolume) {
        let pod = KubeletPod::new(&format!("standing-{}", number / VOLUMES_OF_A_POD));
        (pod, self.volume(&format!("v{}", number % VOLUMES_OF_A_POD), number % STANDING))
    }

    async fn publish(&self, pod: &KubeletPod, volume: &KubeletVolume, content: &str) {
        self.kubelet.set_up(pod, volume).await.unwrap();
        let file = volume.target(self.kubelet.root(), pod).join("name");
        assert_eq!(fs::read_to_string(file).unwrap(), content);
    }

    async fn unpublish(&self, pod: &KubeletPod, volume: &KubeletVolume) {
        let story = self.kubelet.delete(&pod.uid, &volume.name).await;
        assert!(story.calls.len() == 1 && story.failures.is_empty(), "{story:?}");
    }

    fn mount_standing(&self, plan: Plan) {
        let mount = |number| async move {
            let (pod, volume) = self.standing(number);
            self.publish(&pod, &volume, &(number % STANDING).to_string()).await;
        };
        self.lab.run(stream::iter(0..plan.volumes).for_each_concurrent(AT_ONCE, mount));
    }

    fn unmount_standing(&self, plan: Plan) {
        let unmount = |number| async move {
            let (pod, volume) = self.standing(number);
            self.unpublish(&pod, &volume).await;
        };
        self.lab.run(stream::iter(0..plan.volumes).for_each_concurrent(AT_ONCE, unmount));
    }

    /// Cycles by both doors.
    fn cycle(&self, cycles: usize) {
        for round in 0..cycles.div_ceil(ROUND) {
            let cycle = |number: usize| async move {
                let (pod, image) = (KubeletPod::new(&format!("cycle-{number}")), number % self.images.len());
                let volume = self.volume("models", image);
                self.publish(&pod, &volume, &image.to_string()).await;
                self.unpublish(&pod, &volume).await;
            };
            self.lab.run(stream::iter(0..ROUND - STATIC_PODS).for_each_concurrent(AT_ONCE, cycle));
            self.static_pods(round);
        }
    }

    fn static_pods(&self, round: usize) {
        // The same names again and again: the caches that tell events apart, by pod, are soon as full as they will be.
        let names: Vec<String> = (0..STATIC_PODS).map(|number| format!("static-{number}")).collect();
        let of_image = |number: usize| &self.images[(round + number) % self.images.len()];
        let pods = names.iter().enumerate().map(|(number, name)| pod(name, of_image(number), "IfNotPresent").json());
        self.lab.daemon.apply(&pods.collect::<Vec<_>>().join("\n---\n"));
        let command = |words: &[&'static str], last: &[&'static str]| -> Vec<String> {
            let words = words.iter().map(ToString::to_string);
            words.chain(names.iter().cloned()).chain(last.iter().map(ToString::to_string)).collect()
        };
        self.lab.daemon.must(command(&["wait", "pod"], &["--for=mounted", "--timeout=60s"]));
        self.lab.daemon.must(command(&["delete", "pod"], &[]));
    }

    fn sample(&self) -> Sample {
        Sample::of(&self.lab.daemon)
    }

    /// What the daemon holds once volumes that go have gone: `volumes` stay, and the images that they need.
    ///
    /// The kernel frees a loop device some time after its last mount is gone: what is taken for rest before that is never seen again.
    fn at_rest(&self, volumes: usize) -> Sample {
        let staged = STANDING.min(volumes);
        let loops = staged * self.loops_of_an_image;
        let is_all =
            |sample: &Sample| [sample.users, sample.mounts, sample.loops] == [volumes, volumes + staged, loops];
        self.look_until(is_all)
    }

    fn look_until(&self, seen: impl Fn(&Sample) -> bool) -> Sample {
        for _ in 0..LOOKS {
            let sample = self.sample();
            if seen(&sample) {
                return sample;
            }
        }
        let (images, mounts) = (self.lab.daemon.must(["images"]), self.lab.daemon.mounts());
        panic!("does not come to rest: {:?}\n{images}{mounts:?}\nlog:\n{}", self.sample(), self.lab.daemon.log())
    }
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Memory that is no file's (proc(5), `RssAnon`).
fn anonymous(proc: &Path) -> u64 {
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Loop devices whose file lies below the directory.
fn loops(dir: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file.trim()).starts_with(dir)).count()
}

#[expect(clippy::print_stdout, reason = "the numbers are what the whole run is for")]
fn nothing_grows(test: &str, config: &str, loops_of_an_image: usize) {
    let Some(mut soak) = Soak::started(test, config, loops_of_an_image) else { return };
    let plan = Plan::of_environment();
    // What the images and the parts of the daemon need once.
    soak.cycle(ROUND);
    let idle = soak.at_rest(0);
    soak.mount_standing(plan);
    soak.cycle(plan.warm_up);
    let before = soak.at_rest(plan.volumes);
    soak.cycle(plan.cycles);
    soak.at_rest(plan.volumes);
    let after = soak.look_until(|sample| sample.is_like(&before));
    println!("{test}: {plan:?}\nidle    {idle:?}\nbefore  {before:?}\nafter   {after:?}");
    let allowed = before.anonymous_kib + before.anonymous_kib * plan.growth / 1024;
    assert!(after.anonymous_kib <= allowed, "{} KiB, before {}", after.anonymous_kib, before.anonymous_kib);
    soak.unmount_standing(plan);
    soak.at_rest(0);
    println!("end     {:?}", soak.look_until(|sample| sample.is_like(&idle)));
    assert!(soak.lab.daemon.terminate(), "{}", soak.lab.daemon.log());
    let fsck = soak.lab.daemon.fsck_offline();
    assert!(fsck.ok, "{}{}", fsck.stdout, fsck.stderr);
}

#[test]
fn nothing_grows_on_files() {
    nothing_grows("soak_files", "imageBackend: erofs", 0);
}

#[test]
fn nothing_grows_on_loop_devices() {
    nothing_grows("soak_loop_devices", "imageBackend: erofs-loop", LOOPS_OF_AN_IMAGE);
}
