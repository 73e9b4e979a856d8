//! Images without a registry: imported, exported, and found in additional stores.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use imagevol_test_support::daemon::have;
use imagevol_test_support::image::{Image, Index};

use crate::lab::{Lab, artifact, image};
use crate::manifest::pod;

/// A registry that nobody can reach: the port of discard, on which nothing listens.
const NOWHERE: &str = "localhost:9/team/data";

/// The tar of a layout, as everybody packs one.
fn packed(layout: &Path, options: &[&str]) -> PathBuf {
    let archive = layout.with_extension("tar");
    let mut tar = std::process::Command::new("tar");
    tar.args(options).args(["-cf".as_ref(), archive.as_os_str(), "-C".as_ref(), layout.as_os_str(), ".".as_ref()]);
    assert!(tar.status().unwrap().success());
    archive
}

fn layout(lab: &Lab, image: &Image, name: &str) -> PathBuf {
    let dir = lab.daemon.dir().join("layout");
    image.write_layout(&dir, name);
    dir
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn assert_sound(lab: &Lab) {
    let fsck = lab.daemon.ctl(["fsck"]);
    assert!(fsck.ok && !fsck.stdout.contains("download of which"), "{}{}", fsck.stdout, fsck.stderr);
    let left = fs::read_dir(lab.daemon.state_dir().join("ingest")).unwrap().count();
    assert_eq!(left, 0, "nothing unfinished is left");
}

#[test]
fn a_pod_starts_from_an_import() {
    for policy in ["Never", "IfNotPresent"] {
        start_from_an_import(policy);
    }
}

fn start_from_an_import(policy: &str) {
    let Some(lab) = Lab::started("import", "") else { return };
    let (image, name) = (image("name", "content"), format!("{NOWHERE}:v1"));
    let archive = packed(&layout(&lab, &image, &name), &[]);
    let ran = lab.daemon.ctl(["import", text(&archive)]);
    assert_eq!((ran.ok, ran.stdout.as_str()), (true, format!("{}\n", image.digest).as_str()), "{}", ran.stderr);
    let said: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(said[0], format!("Importing {}", archive.display()));
    assert!(said[1].starts_with(&format!("Imported {name} (")), "{said:?}");
    lab.daemon.apply(&pod("web", &name, policy).json());
    lab.daemon.wait_mounted("web");
    assert_eq!(lab.read("web", "volume", "name"), "content");
    assert_sound(&lab);
}

#[test]
fn what_comes_in_any_form_is_imported() {
    let Some(lab) = Lab::started("import_forms", "") else { return };
    let image = image("name", "content");
    let dir = layout(&lab, &image, "v1");
    let (named, repository) = (format!("{NOWHERE}:named"), ["--repository", NOWHERE]);
    let quiet = |arguments: &[&str]| lab.daemon.must(["import", "-q"].iter().chain(arguments).copied());
    assert_eq!(quiet(&[&[text(&dir)][..], &repository].concat()), format!("{}\n", image.digest));
    let find = |name: &str| lab.daemon.json(["inspect", name])["summary"]["id"].as_str().unwrap().to_owned();
    assert_eq!(find(&format!("{NOWHERE}:v1")), image.digest.to_string(), "a directory");
    quiet(&[text(&packed(&dir, &["-z"])), "--name", &named]);
    assert_eq!(find(&named), image.digest.to_string(), "a compressed tar");
    let piped = fs::File::open(packed(&dir, &["--format=posix"])).unwrap();
    let ran = lab.daemon.ctl_command().args(["import", "-", "--name", "r.io/piped:1"]).stdin(piped).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(find("r.io/piped:1"), image.digest.to_string(), "standard input");
    assert_sound(&lab);
}

#[test]
fn what_is_no_archive_is_refused_with_a_reason() {
    let Some(lab) = Lab::started("import_refused", "") else { return };
    let refused = |arguments: &[&str]| {
        let ran = lab.daemon.ctl(["import"].iter().chain(arguments).copied());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
        ran.stderr
    };
    let file = |name: &str, content: &[u8]| {
        let path = lab.daemon.dir().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let noise: Vec<u8> = (0..20_000_000_u32).map(|number| (number / 3).to_le_bytes()[0]).collect();
    assert!(refused(&[&file("noise", &noise)]).contains("archive is no tar that can be read"));
    assert!(refused(&[&file("empty", b"")]).contains("archive is no tar that can be read"));
    assert!(refused(&["/nowhere/archive.tar"]).contains("cannot read /nowhere/archive.tar"));
    assert!(refused(&[text(lab.daemon.dir())]).contains("is no OCI image layout: it has no oci-layout"));
    let mut image = image("name", "content");
    let dir = layout(&lab, &image, "r.io/a:1");
    assert!(refused(&[text(&dir), "--name", "Not A Name"]).contains("name \"Not A Name\": invalid reference format"));
    assert!(refused(&[text(&dir), "--repository", "r.io/a:1"]).contains("without tag or digest"));
    let blob = dir.join("blobs/sha256").join(image.layers.remove(0).digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[20] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let said = refused(&[text(&dir)]);
    assert!(said.contains("does not match its digest"), "{said}");
    assert_eq!(lab.daemon.must(["images", "--no-headers"]), "");
    assert_sound(&lab);
}

#[test]
fn an_export_is_imported_elsewhere_as_the_same_tree() {
    let Some(lab) = Lab::started("export", "") else { return };
    let registry = lab.registry();
    let (image, artifact) = (image("name", "content"), artifact());
    let (tree, files) = (registry.push("team/tree", "v1", &image), registry.push("team/files", "v1", &artifact));
    lab.daemon.must(["pull", "-q", &tree]);
    lab.daemon.must(["pull", "-q", &files]);
    let archive = lab.daemon.dir().join("out.tar");
    let ran = lab.daemon.ctl(["export", &tree, &files, "-o", text(&archive)]);
    assert!(ran.ok && ran.stdout.is_empty(), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("Exported {files}, {}\n", artifact.digest)), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("Exported {tree}, {}\n  as sha256:", image.digest)), "{}", ran.stderr);
    let piped = lab.daemon.ctl_command().args(["export", "-q", &tree, &files]).output().unwrap();
    assert!(piped.stdout == fs::read(&archive).unwrap(), "the same each time, and on standard output");
    let Some(other) = Lab::started("export_there", "") else { return };
    assert_eq!(other.daemon.must(["import", "-q", text(&archive)]).lines().nth(1), Some(&*artifact.digest.to_string()));
    for (name, reference) in [("tree", &tree), ("files", &files)] {
        other.daemon.apply(&pod(name, reference, "Never").json());
        other.daemon.wait_mounted(name);
        assert_eq!(other.read(name, "volume", "dir/file"), "2\n");
    }
    assert_eq!(other.read("tree", "volume", "name"), "content");
    let again = other.daemon.ctl_command().args(["export", "-q", &tree, &files]).output().unwrap();
    assert!(again.stdout == piped.stdout, "what was exported once does not change any more");
    let missing = lab.daemon.ctl(["export", "r.io/none:1", "-o", text(&archive)]);
    assert!(missing.stderr.contains("no image \"r.io/none:1\" on this node"), "{}", missing.stderr);
    assert_sound(&other);
}

#[test]
fn other_tools_read_an_export() {
    let Some(lab) = Lab::started("export_tools", "") else { return };
    if !have("export_tools", &["skopeo", "umoci"]) {
        return;
    }
    let reference = format!("{NOWHERE}:v1");
    let dir = layout(&lab, &image("name", "content"), &reference);
    lab.daemon.must(["import", "-q", text(&dir)]);
    let (archive, there) = (lab.daemon.dir().join("out.tar"), lab.daemon.dir().join("there"));
    lab.daemon.must(["export", "-q", &reference, "-o", text(&archive)]);
    let run = |program: &str, arguments: &[&str]| {
        let ran = std::process::Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
        assert!(ran.status.success(), "{program}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    let from = format!("oci-archive:{}:{reference}", archive.display());
    run("skopeo", &["copy", "-q", "--insecure-policy", &from, &format!("oci:{}:v1", there.display())]);
    let bundle = lab.daemon.dir().join("bundle");
    run("umoci", &["unpack", "--image", &format!("{}:v1", there.display()), text(&bundle)]);
    assert_eq!(fs::read_to_string(bundle.join("rootfs/name")).unwrap(), "content");
    // And back, in the form of `docker save`.
    let saved = lab.daemon.dir().join("saved.tar");
    let to = format!("docker-archive:{}:r.io/saved:1", saved.display());
    run("skopeo", &["copy", "-q", "--insecure-policy", &format!("oci:{}:v1", there.display()), &to]);
    lab.daemon.must(["import", "-q", text(&saved)]);
    lab.daemon.apply(&pod("saved", "r.io/saved:1", "Never").json());
    lab.daemon.wait_mounted("saved");
    assert_eq!(lab.read("saved", "volume", "name"), "content");
    assert_sound(&lab);
}

#[test]
fn a_pod_starts_from_an_additional_store() {
    for policy in ["Never", "IfNotPresent"] {
        start_from_an_additional_store(policy);
    }
}

fn start_from_an_additional_store(policy: &str) {
    let Some(lab) = Lab::new("additional_store") else { return };
    let store = lab.daemon.dir().join("layout");
    let config = format!("additionalImageStores: [{{path: {}, repository: '{NOWHERE}'}}]", store.display());
    let mut lab = lab.config(&config);
    lab.daemon.start();
    let name = format!("{NOWHERE}:v1");
    assert!(!lab.daemon.ctl(["pull", &name]).ok, "no registry is reachable");
    // The store comes after the daemon, and changes under it.
    let index = Index::new([image("name", "content")]);
    index.write_layout(&store, "v1");
    lab.daemon.apply(&pod("web", &name, policy).json());
    lab.daemon.wait_mounted("web");
    assert_eq!(lab.read("web", "volume", "name"), "content");
    let second = image("name", "second");
    second.write_layout(&store, "v2");
    let pinned = format!("{NOWHERE}@{}", second.digest);
    lab.daemon.apply(&pod("second", &pinned, policy).json());
    lab.daemon.wait_mounted("second");
    assert_eq!(lab.read("second", "volume", "name"), "second");
    assert_sound(&lab);
}

#[test]
fn a_broken_additional_store_has_no_images_and_says_so() {
    let Some(lab) = Lab::new("broken_store") else { return };
    let (store, gone) = (lab.daemon.dir().join("layout"), lab.daemon.dir().join("gone"));
    let config = format!("additionalImageStores: [{{path: {}}}, {{path: {}}}]", gone.display(), store.display());
    let mut lab = lab.config(&config);
    let (image, name) = (image("name", "content"), format!("{NOWHERE}:v1"));
    image.write_layout(&store, &name);
    let blob = store.join("blobs/sha256").join(image.layers[0].digest.hex());
    let mut bytes = fs::read(&blob).unwrap();
    bytes[20] ^= 1;
    fs::write(&blob, bytes).unwrap();
    lab.daemon.start();
    lab.daemon.apply(&pod("web", &name, "Never").json());
    lab.wait_failed("web");
    let log = lab.daemon.log();
    assert!(log.contains("does not match its digest") && log.contains("additional image store"), "{log}");
    assert!(log.contains("gone"), "{log}");
    assert_sound(&lab);
}

#[test]
fn blobs_of_an_additional_store_are_not_fetched() {
    let Some(lab) = Lab::new("store_blobs") else { return };
    let store = lab.daemon.dir().join("layout");
    let mut lab = lab.config(&format!("additionalImageStores: [{{path: {}}}]", store.display()));
    let image = image("name", "content");
    image.write_layout(&store, "unnamed");
    lab.daemon.start();
    let registry = lab.registry();
    let reference = registry.push("team/data", "v1", &image);
    lab.daemon.must(["pull", "-q", &reference]);
    assert_eq!((registry.gets("/manifests/"), registry.gets("/blobs/")), (1, 0), "{:?}", registry.requests());
    assert_sound(&lab);
}

/// An import that waits in the middle of its archive.
fn half_an_import(lab: &Lab, archive: &Path) -> Child {
    let mut command = lab.daemon.ctl_command();
    command.args(["import", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let bytes = fs::read(archive).unwrap();
    let half = &bytes[..bytes.len() / 2];
    child.stdin.as_mut().unwrap().write_all(half).unwrap();
    let ingest = lab.daemon.state_dir().join("ingest");
    lab.until("the archive", || {
        let dir = fs::read_dir(&ingest).ok()?.next()?.ok()?;
        (fs::metadata(dir.path().join("data")).ok()?.len() > 0).then_some(())
    });
    child
}

#[test]
fn a_kill_in_the_middle_of_an_import_leaves_nothing() {
    let Some(mut lab) = Lab::started("import_kill", "") else { return };
    let (image, name) = (image("name", &"content".repeat(500_000)), format!("{NOWHERE}:v1"));
    let archive = packed(&layout(&lab, &image, &name), &[]);
    let mut child = half_an_import(&lab, &archive);
    lab.daemon.kill();
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success());
    lab.daemon.start();
    assert_sound(&lab);
    lab.daemon.must(["import", "-q", text(&archive)]);
    lab.daemon.apply(&pod("web", &name, "Never").json());
    lab.daemon.wait_mounted("web");
    assert_sound(&lab);
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let Some(lab) = Lab::started("import_gone", "") else { return };
    let image = image("name", &"content".repeat(500_000));
    let archive = packed(&layout(&lab, &image, &format!("{NOWHERE}:v1")), &[]);
    let mut child = half_an_import(&lab, &archive);
    child.kill().unwrap();
    child.wait().unwrap();
    let ingest = lab.daemon.state_dir().join("ingest");
    lab.until("the end of the import", || fs::read_dir(&ingest).unwrap().next().is_none().then_some(()));
    assert_sound(&lab);
}
