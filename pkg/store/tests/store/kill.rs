//! SIGKILL in the middle of everything: what was acknowledged is there, what is there is whole, and nothing is left over.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use imagevol_store::{Compression, Limits, Store};

use crate::strace::Victim;
use crate::support::{Held as _, Piece, assert_sound, content_files, pull, small_tar, tag, volume};

/// Tells a process of this test that it is the one to be killed, and where its store lies.
const VICTIM: &str = "IMAGEVOL_STORE_TEST_VICTIM";

/// How often it is killed.
const KILLS: u64 = 40;

/// Images that the victim plays with.
const IMAGES: u64 = 5;

/// Pulls, holds, binds, lets go and removes without end; says a line before and after each.
fn work_until_killed(state_dir: &Path, mut seed: u64) {
    let store = Store::open(state_dir, Limits::default()).unwrap();
    println!("opened");
    for step in 0_u64.. {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = format!("i{}", (seed >> 33) % IMAGES);
        let reply = match (seed >> 40) % 3 {
            0 => {
                println!("removing {name}");
                format!("removed {name} {}", store.remove(&tag(&name)).is_ok())
            }
            1 => {
                println!("releasing {name}");
                store.release(&volume(&name)).unwrap();
                format!("released {name}")
            }
            _ => {
                println!("binding {name}");
                store.hold(&volume(&name), &tag(&name)).unwrap();
                let image = pull(&store, &name, &pieces(&name, step));
                assert!(store.bind_held(&volume(&name), &image.manifest).unwrap());
                format!("bound {name}")
            }
        };
        println!("{reply}");
        std::io::stdout().flush().unwrap();
    }
}

fn pieces(name: &str, step: u64) -> Vec<Piece> {
    let compression = [Compression::None, Compression::Gzip, Compression::Zstd][usize::try_from(step % 3).unwrap()];
    vec![
        Piece::archive(&small_tar("shared"), Compression::Gzip),
        Piece::archive(&small_tar(name), compression),
        Piece { title: Some("file".into()), ..Piece::blob(name.as_bytes()) },
    ]
}

fn start(state_dir: &Path, seed: u64) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kill::nothing_is_torn_by_a_kill", "--nocapture"]);
    command.env(VICTIM, state_dir).env("IMAGEVOL_STORE_TEST_SEED", seed.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    (child, BufReader::new(stdout))
}

/// Kills the process after so many lines, and returns all that it said.
fn kill_after(lines: u64, mut child: Child, output: BufReader<ChildStdout>) -> Vec<String> {
    let mut said = Vec::new();
    for line in output.lines() {
        said.push(line.unwrap());
        if said.len() as u64 == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    said
}

/// The images that were bound and not touched since, by what was acknowledged.
fn bound(said: &[String], images: &mut std::collections::BTreeSet<String>) {
    for line in said {
        match line.split(' ').collect::<Vec<_>>()[..] {
            // Begun: nobody knows how far it came.
            ["releasing" | "binding", name] => drop(images.remove(name)),
            ["bound", name] => drop(images.insert(name.to_owned())),
            _ => {}
        }
    }
}

#[test]
fn nothing_is_torn_by_a_kill() {
    if let Some(state_dir) = std::env::var_os(VICTIM) {
        let seed = std::env::var("IMAGEVOL_STORE_TEST_SEED").unwrap().parse().unwrap();
        return work_until_killed(Path::new(&state_dir), seed);
    }
    let dir = tempfile::tempdir_in(crate::support::DISK).unwrap();
    let first_seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut held = std::collections::BTreeSet::new();
    for seed in first_seed..first_seed + KILLS {
        println!("seed {seed}");
        let (child, output) = start(dir.path(), seed);
        // The harness says some lines of its own.
        let said = kill_after(4 + seed % 23, child, output);
        bound(&said, &mut held);
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        assert_sound(&store);
        for name in &held {
            let image = store.resolve(&tag(name)).unwrap().unwrap();
            assert!(store.holders_of(&image).unwrap().contains(&volume(name)), "{name}");
            assert_eq!(store.open_image(&image.manifest).unwrap().devices.len(), 3);
        }
        // A process that is killed while it clears up is one more kill, of the next round's start.
        drop(store);
    }
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    for name in (0..IMAGES).map(|number| format!("i{number}")) {
        store.release(&volume(&name)).unwrap();
        if store.resolve(&tag(&name)).unwrap().is_some() {
            store.remove(&tag(&name)).unwrap();
        }
    }
    drop(store);
    let store = Store::open(dir.path(), Limits::default()).unwrap();
    let report = assert_sound(&store);
    assert_eq!((report.images, content_files(dir.path()).len()), (0, report.unfinished.len()));
}

/// Pulls an image, binds it, lets it go, removes it; and the same again in part.
fn work_once(state_dir: &Path) {
    let store = Store::open(state_dir, Limits::default()).unwrap();
    store.hold(&volume("once"), &tag("i0")).unwrap();
    let image = pull(&store, "i0", &pieces("i0", 1));
    assert!(store.bind_held(&volume("once"), &image.manifest).unwrap());
    store.release(&volume("once")).unwrap();
    pull(&store, "i1", &pieces("i1", 0));
    store.remove(&tag("i0")).unwrap();
    store.expire().unwrap();
    println!("done");
}

/// As many kills as there are changes, each followed by one in the start that clears up after it.
#[test]
#[ignore = "needs strace, and a minute"]
fn nothing_is_torn_at_any_change() {
    if let Some(state_dir) = std::env::var_os(VICTIM) {
        return work_once(Path::new(&state_dir));
    }
    let victim = Victim { test: "kill::nothing_is_torn_at_any_change", variable: VICTIM };
    let kills = victim.kill_at_each_change(
        || tempfile::tempdir_in(crate::support::DISK).unwrap(),
        |dir, _, when| {
            victim.work_until(dir, "pwrite64", 1 + when % 17);
            assert_sound(&Store::open(dir, Limits::default()).unwrap());
        },
    );
    assert!(kills > 200, "{kills}");
}
