//! What a mounted image is: read-only, without setuid and devices, one superblock for all pods of a node.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use rstest::rstest;
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tar::EntryType;

use imagevol_test_privileged::node::{Mounting, Node, manifest};
use imagevol_test_privileged::tree::{Kind, Tree};
use imagevol_test_support::daemon::{Daemon, have, own_mounts};
use imagevol_test_support::docker_registry::DockerRegistry;
use imagevol_test_support::image::{Entry, Image, ImageBuilder, LayerBuilder};

/// Pods of one image at once.
const MANY: usize = 50;

/// A registry with one image, and a node that mounts it.
struct Setup {
    registry: DockerRegistry,
    reference: String,
    node: Node,
}

#[rstest]
fn nothing_can_be_written(#[values("erofs", "erofs-loop")] backend: &str) {
    let Some(setup) = Setup::new("nothing can be written", backend, "") else { return };
    let root = setup.node.mount("pod", &setup.reference);
    let refused = |outcome: std::io::Result<()>| assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    refused(fs::write(root.join("new"), "x"));
    refused(fs::write(root.join("dir/file"), "x"));
    refused(fs::remove_file(root.join("dir/file")));
    refused(fs::create_dir(root.join("dir/new")));
    refused(fs::rename(root.join("dir"), root.join("other")));
    refused(fs::set_permissions(root.join("dir/file"), fs::Permissions::from_mode(0o777)));
    refused(std::os::unix::fs::chown(root.join("dir/file"), Some(1), None));
    let remounted = rustix::fs::statvfs(&root).unwrap();
    assert!(remounted.f_flag.contains(StatVfsMountFlags::RDONLY));
}

#[rstest]
fn devices_and_setuid_do_nothing_and_programs_run(#[values("erofs", "erofs-loop")] backend: &str) {
    let Some(setup) = Setup::new("devices and setuid do nothing and programs run", backend, "") else { return };
    let root = setup.node.mount("pod", &setup.reference);
    let flags = rustix::fs::statvfs(&root).unwrap().f_flag;
    assert!(flags.contains(StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV), "{flags:?}");
    assert!(!flags.contains(StatVfsMountFlags::NOEXEC), "{flags:?}");
    // path_resolution(7): opening a device on a nodev mount is EACCES, for root too.
    assert_eq!(errno(&File::open(root.join("null")).unwrap_err()), Errno::ACCESS);
    let said = Command::new(root.join("run")).output().unwrap();
    assert_eq!(said.stdout, b"ran\n");
}

#[rstest]
fn programs_do_not_run_where_the_configuration_says_so(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "programs do not run where the configuration says so";
    let Some(setup) = Setup::new(test, backend, "noexec: true") else { return };
    let root = setup.node.mount("pod", &setup.reference);
    assert!(rustix::fs::statvfs(&root).unwrap().f_flag.contains(StatVfsMountFlags::NOEXEC));
    assert_eq!(errno(&Command::new(root.join("run")).output().unwrap_err()), Errno::ACCESS);
    let file = setup.node.mount_sub_path("sub", &setup.reference, "run");
    assert_eq!(errno(&Command::new(file).output().unwrap_err()), Errno::ACCESS);
}

#[rstest]
fn fifty_pods_share_one_superblock(#[values("erofs", "erofs-loop")] backend: &str) {
    let Some(Setup { reference, node, registry: _registry }) =
        Setup::new("fifty pods share one superblock", backend, "")
    else {
        return;
    };
    let names: Vec<String> = (0..MANY).map(|pod| format!("pod-{pod}")).collect();
    let pods: Vec<String> = names.iter().map(|pod| manifest(pod, &reference, &Mounting::default())).collect();
    node.daemon.apply(&pods.join("---\n"));
    let wait = ["wait", "pod", "--for=mounted", "--timeout=120s"].map(str::to_owned);
    node.daemon.must(wait.iter().chain(&names));
    let devices: Vec<u64> =
        names.iter().map(|pod| fs::metadata(node.daemon.path(pod, "content")).unwrap().dev()).collect();
    assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
    assert_eq!(node.pod_mounts().len(), MANY);
    assert_eq!(node.daemon.mounts().len(), MANY + 1, "and the staging mount: {:?}", node.daemon.mounts());
    node.assert_sound();
    let delete = ["delete", "pod"].map(str::to_owned);
    node.daemon.must(delete.iter().chain(&names));
    node.wait_until("the pods are unmounted", || node.pod_mounts().is_empty());
    node.assert_sound();
}

#[rstest]
fn pods_of_two_tags_of_one_image_share_one_superblock(#[values("erofs", "erofs-loop")] backend: &str) {
    let test = "pods of two tags of one image share one superblock";
    let Some(Setup { reference, node, registry }) = Setup::new(test, backend, "") else { return };
    let other = registry.push("some/image", "v2", &image());
    let devices = [("one", &reference), ("two", &other)]
        .map(|(pod, reference)| fs::metadata(node.mount(pod, reference)).unwrap().dev());
    assert_eq!(devices[0], devices[1]);
}

#[rstest]
fn sub_paths_are_directories_or_files(#[values("erofs", "erofs-loop")] backend: &str) {
    let Some(setup) = Setup::new("sub paths are directories or files", backend, "") else { return };
    let directory = setup.node.mount_sub_path("directory", &setup.reference, "dir");
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "2");
    let file = setup.node.mount_sub_path("file", &setup.reference, "dir/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "2");
    let through = setup.node.mount_sub_path("through-a-link", &setup.reference, "link/file");
    assert_eq!(fs::read_to_string(through).unwrap(), "2");
    for mounted in [&directory, &file] {
        let flags = rustix::fs::statvfs(mounted).unwrap().f_flag;
        let wanted = StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
        assert!(flags.contains(wanted), "{}: {flags:?}", mounted.display());
    }
    setup.node.assert_sound();
}

/// As `umount` does: a volume, the mount that volumes are cloned from, or all that there is of an image.
#[rstest]
fn what_somebody_else_unmounts_is_mounted_again(#[values("erofs", "erofs-loop")] backend: &str) {
    let Some(Setup { reference, node, registry: _registry }) =
        Setup::new("what somebody else unmounts is mounted again", backend, "")
    else {
        return;
    };
    let unmount = |at: &Path| rustix::mount::unmount(at, UnmountFlags::DETACH).unwrap();
    let (whole, part) = (node.mount("whole", &reference), node.mount_sub_path("part", &reference, "dir"));
    let device = fs::metadata(&whole).unwrap().dev();
    unmount(&whole);
    unmount(&part);
    assert!(!whole.join("dir/file").exists() && !part.join("file").exists());
    node.wait_until("the volumes are mounted again", || whole.join("dir/file").exists() && part.join("file").exists());
    let logged = node.daemon.log().matches("somebody else has unmounted the volume").count();
    assert_eq!((fs::metadata(&whole).unwrap().dev(), logged), (device, 2), "{}", node.daemon.log());

    let staged = |daemon: &Daemon| daemon.mounts().into_iter().find(|at| at.starts_with(daemon.dir().join("run")));
    unmount(&staged(&node.daemon).unwrap());
    let late = node.mount("late", &reference);
    assert_eq!(fs::metadata(&late).unwrap().dev(), device, "cloned from a volume that is left");
    assert!(staged(&node.daemon).is_some());

    let mounts = node.daemon.mounts();
    for at in &mounts {
        unmount(at);
    }
    node.wait_until("all is mounted again", || node.daemon.mounts().len() == mounts.len());
    assert_eq!(fs::read_to_string(late.join("dir/file")).unwrap(), "2");
    node.assert_sound();
    node.daemon.must(["delete", "pod", "whole", "part", "late"]);
    node.wait_until("all is unmounted for good", || node.daemon.mounts().is_empty());
    node.assert_sound();
}

#[rstest]
fn an_image_in_use_is_not_removed(#[values("erofs", "erofs-loop")] backend: &str) {
    let Some(Setup { reference, node, registry: _registry }) =
        Setup::new("an image in use is not removed", backend, "")
    else {
        return;
    };
    let root = node.mount("user-of-it", &reference);
    let refused = node.daemon.ctl(["rmi", &reference]);
    assert!(!refused.ok && refused.stderr.contains("user-of-it"), "{}{}", refused.stderr, refused.stdout);
    assert_eq!(fs::read_to_string(root.join("dir/file")).unwrap(), "2");
    node.daemon.must(["delete", "pod", "user-of-it"]);
    node.wait_until("the image can be removed", || node.daemon.ctl(["rmi", &reference]).ok);
    for place in ["images", "layers"] {
        let left = Tree::of(&node.daemon.state_dir().join(place));
        assert!(left.items().all(|(_, item)| item.kind == Kind::Directory), "{place}: {left:?}");
    }
    assert!(node.daemon.mounts().is_empty(), "{:?}", node.daemon.mounts());
    node.assert_sound();
}

// === impl Setup ===

impl Setup {
    /// `None`, said aloud, if this machine lacks something.
    fn new(test: &str, backend: &str, config: &str) -> Option<Self> {
        if !own_mounts(test) || !have(test, &["docker-registry"]) {
            return None;
        }
        let registry = DockerRegistry::start();
        let reference = registry.push("some/image", "v1", &image());
        Some(Self { registry, reference, node: Node::start(backend, config) })
    }
}

fn image() -> Image {
    let lower = LayerBuilder::new().dir("dir").file("dir/file", "1").file("dir/gone", "0");
    let upper = LayerBuilder::new()
        .file("dir/file", "2")
        .whiteout("dir/gone")
        .symlink("link", "/dir")
        .node("null", EntryType::Char, 1, 3)
        .file_with("run", "#!/bin/sh\necho ran\n", Entry::mode(0o6755));
    ImageBuilder::new().layer(lower.gzip()).layer(upper.zstd()).build()
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap()
}
