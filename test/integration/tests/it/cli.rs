//! The command line as its users type it, against a real daemon: what it prints, where, and with which exit code.

use imagevol_test_support::daemon::Ran;
use imagevol_test_support::registry::FakeRegistry;
use serde_json::Value;

use crate::lab::{Lab, artifact, image};
use crate::manifest::{documents, pod};

/// A node with pod `web` mounted, pod `bad` failed, and an artifact that nobody uses.
struct Desk {
    lab: Lab,
    registry: FakeRegistry,
    reference: String,
    unused: String,
}

impl Desk {
    fn new(test: &str) -> Option<Self> {
        let lab = Lab::started(test, "")?;
        let registry = lab.registry();
        let reference = registry.push("team/data", "v1", &image("name", "content"));
        let unused = registry.push("team/artifact", "v2", &artifact());
        lab.daemon.must(["pull", "-q", &unused]);
        let bad = pod("bad", &registry.reference("team/data", "none"), "IfNotPresent");
        lab.daemon.apply(&documents(&[pod("web", &reference, "IfNotPresent").value(), bad.value()]));
        lab.daemon.wait_mounted("web");
        lab.wait_failed("bad");
        Some(Self { lab, registry, reference, unused })
    }

    fn run(&self, line: &str) -> Ran {
        self.lab.daemon.ctl(line.split(' '))
    }

    fn out(&self, line: &str) -> String {
        self.lab.daemon.must(line.split(' '))
    }

    /// Exit code and standard error of a command that must print nothing else.
    fn refused(&self, line: &str) -> (i32, String) {
        let ran = self.run(line);
        assert_eq!(ran.stdout, "", "{line}");
        (ran.code.unwrap(), ran.stderr)
    }
}

/// The words of a table, without the widths of its columns.
fn words(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn pods_events_and_images_in_every_form() {
    let Some(desk) = Desk::new("forms_of_get") else { return };
    let table = desk.out("get pods");
    let rows = words(&table);
    assert_eq!(rows[0], ["NAME", "VOLUMES", "STATUS", "AGE"]);
    assert_eq!((&rows[1][..3], &rows[2][..3]), (&["bad", "0/1", "Failed"][..], &["web", "1/1", "Mounted"][..]));
    for alias in ["get pod", "get po", "get pods -n default"] {
        assert_eq!(words(&desk.out(alias)).len(), 3, "{alias}");
    }
    assert!(desk.out("get pods -o wide").contains(&desk.reference));
    assert!(desk.out("get pods -A").starts_with("NAMESPACE "));
    assert!(!desk.out("get pods --no-headers").contains("NAME"));
    assert_eq!(desk.out("get pods -o name"), "pod/bad\npod/web\n");
    assert_eq!(desk.out("get images -o name").lines().count(), 2);
    assert!(desk.out("get events -o name").starts_with("event/"));
    for what in ["pods", "events", "images"] {
        let list: Value = serde_json::from_str(&desk.out(&format!("get {what} -o json"))).unwrap();
        assert!(!list["items"].as_array().unwrap().is_empty(), "{what}");
        assert!(desk.out(&format!("get {what} -o yaml")).contains("items:\n- "), "{what}");
    }
    let one: Value = serde_json::from_str(&desk.out("get pod web -o json")).unwrap();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&"Pod".into(), &"web".into()));
    assert!(desk.out("get events --for pod/web").contains("Successfully pulled image"));
}

#[test]
fn images_are_listed_inspected_and_removed() {
    let Some(desk) = Desk::new("images") else { return };
    let table = desk.out("images");
    assert!(table.starts_with("REPOSITORY "), "{table}");
    let row = |kind: &str| table.lines().find(|line| line.contains(kind)).unwrap().to_owned();
    assert!(row(" Artifact ").trim_end().ends_with("<none>"), "{table}");
    assert!(row(" Image ").contains("pod default/web volume volume"), "{table}");
    let detail = desk.lab.daemon.json(["inspect", &desk.reference]);
    assert_eq!(detail["summary"]["id"], image("name", "content").digest.to_string());
    assert!(desk.out(&format!("inspect {} -o yaml", desk.unused)).contains("dir/file"));
    let (code, said) = desk.refused(&format!("rmi {}", desk.reference));
    assert_eq!(code, 1);
    let in_use = format!(
        "Error from server (Conflict): image {:?} is in use by pod default/web volume volume\n",
        desk.reference
    );
    assert_eq!(said, in_use);
    let removed = desk.out(&format!("rmi {}", desk.unused));
    assert!(
        removed.starts_with(&format!("Untagged: {}\n", desk.unused)) && removed.contains("Deleted: sha256:"),
        "{removed}"
    );
    let (code, said) = desk.refused(&format!("rmi {}", desk.unused));
    assert!(
        code == 1 && said.starts_with("Error from server (NotFound): no image ") && said.contains(&desk.unused),
        "{said}"
    );
    assert!(desk.run(&format!("rmi --ignore-not-found {}", desk.unused)).ok);
}

#[test]
fn every_command_takes_a_digest_as_the_table_shows_it() {
    let Some(desk) = Desk::new("short_digests") else { return };
    let id = artifact().digest;
    let table = desk.out("images");
    assert!(table.contains(&format!(" {} ", id.short())), "{table}");
    for short in [id.short().to_owned(), format!("sha256:{}", id.short())] {
        let found = |line: &str| desk.lab.daemon.json(format!("{line} {short}").split(' '));
        assert_eq!(found("inspect")["summary"]["id"], id.to_string());
        assert_eq!(found("why")["images"][0]["id"], id.to_string());
        assert_eq!(found("get images")["items"][0]["id"], id.to_string());
        let archive = desk.lab.daemon.dir().join("short.tar").display().to_string();
        let ran = desk.lab.daemon.ctl(["export", &short, &id.to_string(), "-o", &archive]);
        assert!(ran.ok && ran.stderr.lines().count() == 1, "{}", ran.stderr);
        assert_eq!(desk.out(&format!("pin {short}")), format!("Pinned {id}: 1 image\n"));
        assert_eq!(desk.out(&format!("unpin {short}")), format!("Unpinned {short}\n"));
        assert_eq!(desk.out("get pins"), "");
    }
    assert!(desk.out(&format!("rmi {}", id.short())).contains(&format!("Deleted: {id}\n")));
}

#[test]
fn a_pull_tells_its_progress_in_lines() {
    let Some(desk) = Desk::new("pull_lines") else { return };
    let image = image("name", "another");
    let reference = desk.registry.push("team/other", "v1", &image);
    let ran = desk.run(&format!("pull {reference}"));
    assert_eq!((ran.ok, ran.stdout), (true, format!("{}\n", image.digest)), "{}", ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines[0], format!("Pulling {reference}"));
    assert!(lines.last().unwrap().starts_with(&format!("Pulled {reference} (")), "{lines:?}");
    let quiet = desk.run(&format!("pull --quiet {reference}"));
    assert_eq!((quiet.stdout, quiet.stderr), (format!("{}\n", image.digest), String::new()));
    let missing = desk.registry.reference("team/none", "v1");
    let ran = desk.run(&format!("pull {missing}"));
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
    assert!(
        ran.stderr.contains(&format!("error: failed to pull image {missing:?}: ")) && ran.stderr.contains("404"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_path_is_printed_only_where_something_is_mounted() {
    let Some(desk) = Desk::new("path") else { return };
    let path = desk.out("path pod web volume");
    let expected = desk.lab.daemon.root_dir().join("pods");
    assert!(
        path.starts_with(&expected.display().to_string()) && path.ends_with("/volumes/kubernetes.io~image/volume\n")
    );
    assert_eq!(desk.out("path pod/web volume"), path);
    let (code, said) = desk.refused("path pod bad volume");
    assert!(code == 1 && said.starts_with("error: volume \"volume\" of pod \"bad\" is not mounted\n"), "{said}");
    assert!(desk.out("path pod bad volume --allow-unmounted").contains("/kubernetes.io~image/volume"));
    let (_, said) = desk.refused("path pod web other");
    assert_eq!(said, "error: pod \"web\" has no image volume \"other\"; it has volume\n");
}

#[test]
fn what_is_wrong_is_said_as_kubectl_says_it() {
    let Some(mut desk) = Desk::new("refusals") else { return };
    let cases = [
        ("get pod none", 1, "Error from server (NotFound): pods \"none\" not found\n"),
        ("describe pod none", 1, "Error from server (NotFound): pods \"none\" not found\n"),
        ("delete pod none", 1, "Error from server (NotFound): pods \"none\" not found\n"),
        ("wait pod none --for=mounted", 1, "Error from server (NotFound): pods \"none\" not found\n"),
        ("path pod none volume", 1, "Error from server (NotFound): pods \"none\" not found\n"),
        ("get things", 1, "error: the server doesn't have a resource type \"things\"\n"),
        ("inspect none", 1, "Error from server (NotFound): no image \"none\" on this node\n"),
        ("inspect 0123456789ab", 1, "Error from server (NotFound): no image \"0123456789ab\" on this node\n"),
        ("why a:b:c", 1, "Error from server (BadRequest): \"a:b:c\": invalid reference format\n"),
        ("rmi a:b:c", 1, "Error from server (BadRequest): \"a:b:c\": invalid reference format\n"),
        ("unpin none", 1, "Error from server (NotFound): no pin \"docker.io/library/none:latest\"\nhint: "),
    ];
    for (line, code, said) in cases {
        let refused = desk.refused(line);
        assert_eq!(refused.0, code, "{line}");
        assert!(refused.1.starts_with(said), "{line}: {}", refused.1);
    }
    assert_eq!(desk.run("frobnicate").code, Some(1), "as kubectl");
    assert_eq!(desk.run("wait pod web --for=failed --timeout=0").code, Some(1));
    let none = desk.run("get pods -n elsewhere");
    assert_eq!((none.ok, none.stdout.as_str()), (true, ""));
    assert_eq!(none.stderr, "No resources found in elsewhere namespace.\n");
    desk.lab.daemon.kill();
    let (code, said) = desk.refused("get pods");
    assert!(code == 1 && said.contains("hint: is imagevold running?"), "{said}");
}

#[test]
fn the_node_tells_how_it_is() {
    let Some(desk) = Desk::new("node") else { return };
    let status = desk.out("status");
    for line in [
        "Ready:          True\n",
        "Pods:           2 pods\n",
        "Volumes:        1 volume mounted\n",
        "Images:         2 images, ",
    ] {
        assert!(status.contains(line), "{status}");
    }
    assert!(desk.out("fsck").ends_with("No problems found.\n"));
    let report: Value = serde_json::from_str(&desk.out("fsck -o json")).unwrap();
    assert_eq!(
        (&report["images"], &report["mounts"], &report["problems"]),
        (&2.into(), &2.into(), &Value::Array(vec![]))
    );
    assert!(desk.out("version").starts_with("Client Version: "));
    assert!(desk.out("version").contains("Kernel: "));
    let offline = desk.lab.daemon.ctl(["version", "--client", "-o", "json"]);
    assert!(offline.stdout.contains("clientVersion"));
}

#[test]
fn fsck_finds_a_byte_that_changed() {
    let Some(desk) = Desk::new("fsck") else { return };
    let diff_id = &image("name", "content").diff_ids[0];
    let tar = desk.lab.daemon.state_dir().join(format!("layers/sha256/{}.tar", diff_id.hex()));
    let mut bytes = std::fs::read(&tar).unwrap();
    bytes[600] ^= 1;
    std::fs::write(&tar, bytes).unwrap();
    let ran = desk.run("fsck");
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stdout.contains("Problems:\n") && !ran.stdout.contains("No problems found"), "{}", ran.stdout);
}
