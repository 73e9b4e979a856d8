//! Directories and real mounts: each test in a mount namespace of its own, as root.

use std::fs;
use std::os::unix::fs::symlink;

use imagevol_base::Target;
use imagevol_mount::probe::ProbeImage;
use imagevol_mount::{Attributes, Kernel, Requested, Source, StagedImage, SubPath, choose, probe};
use imagevol_test_support::daemon::own_mounts;
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

use super::*;

/// Where file-backed mounts work: `/tmp` may be a tmpfs.
const ON_DISK: &str = "/var/tmp";

/// A node with one staged image, whose only file is `probe`.
struct Node {
    host: Host,
    staged: StagedImage,
    dir: TempDir,
}

fn pod() -> PodUid {
    "pod-1".parse().unwrap()
}

fn volume(name: &str) -> VolumeName {
    name.parse().unwrap()
}

fn key(name: &str) -> Key {
    Key::of_pod(pod(), volume(name))
}

fn whole(name: &str) -> Place {
    Place::volume(&pod(), &volume(name))
}

fn sub(name: &str, index: u32) -> Place {
    Place::sub_path(&pod(), &volume(name), &"c".parse().unwrap(), index)
}

impl Node {
    fn new(test: &str) -> Option<Self> {
        if !own_mounts(test) {
            return None;
        }
        let dir = TempDir::new_in(ON_DISK).unwrap();
        let ProbeImage { image, device } = ProbeImage::new();
        fs::write(dir.path().join("image"), image).unwrap();
        fs::write(dir.path().join("device"), device).unwrap();
        fs::create_dir(dir.path().join("scratch")).unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let report = probe(dir.path(), &dir.path().join("scratch")).unwrap();
        let backend = choose(Requested::Auto, &report).unwrap();
        let open = |name: &str| File::open(dir.path().join(name)).unwrap();
        let source = Source::new(backend, open("image"), vec![open("device")]);
        let staged = Kernel.stage(&source, &dir.path().join("staged")).unwrap();
        let host = Host::new(dir.path().join("root"), Arc::new(Kernel));
        Some(Self { host, staged, dir })
    }

    fn clone_of(&self, sub_path: Option<&str>) -> DetachedMount {
        let sub_path = sub_path.map(|path| SubPath::parse(path).unwrap());
        Kernel.clone_of(&self.staged, sub_path.as_ref(), Attributes::default()).unwrap()
    }

    fn attach(&self, sub_path: Option<&str>, place: &Place) {
        self.host.attach(self.clone_of(sub_path), place).unwrap();
    }

    fn path(&self, place: &Place) -> PathBuf {
        place.below(&self.dir.path().join("root"))
    }

    fn mounts(&self) -> usize {
        Kernel.list(&self.dir.path().join("root")).unwrap().len()
    }

    fn pods(&self) -> Vec<PathBuf> {
        let pods = self.dir.path().join("root/pods");
        fs::read_dir(pods).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn tmpfs(at: &Path) {
    fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write(at.join("canary"), "alive").unwrap();
}

impl Drop for Node {
    fn drop(&mut self) {
        for mount in Kernel.list(self.dir.path()).unwrap_or_default().into_iter().rev() {
            drop(Kernel.unmount(&mount.at));
        }
    }
}

#[test]
fn a_volume_comes_and_goes_with_its_sub_paths() {
    let Some(node) = Node::new("a_volume_comes_and_goes_with_its_sub_paths") else { return };
    node.attach(None, &whole("v"));
    node.attach(Some("probe"), &sub("v", 0));
    node.attach(Some("."), &sub("v", 1));
    assert_eq!(fs::read(node.path(&whole("v")).join("probe")).unwrap(), ProbeImage::content());
    assert_eq!(fs::read(node.path(&sub("v", 0))).unwrap(), ProbeImage::content(), "a single file");
    assert_eq!(node.host.mounted(&sub("v", 0)).unwrap().unwrap().root, Path::new("/probe"));
    assert_eq!(node.host.path(&key("v")), node.path(&whole("v")));

    node.host.remove_volume(&key("v")).unwrap();
    assert_eq!(node.mounts(), 0);
    assert_eq!(node.pods(), Vec::<PathBuf>::new(), "empty parents go");
    node.host.remove_volume(&key("v")).unwrap();
}

#[test]
fn what_others_unmount_is_lost() {
    let Some(node) = Node::new("what_others_unmount_is_lost") else { return };
    let target = |pod: &str| Target { pod: pod.parse().unwrap(), volume: volume("v"), leaf: "mount".parse().unwrap() };
    let csi = |pod: &str| Place::of(&target(pod).into());
    let places = [whole("v"), whole("covered"), sub("v", 0), csi("kept"), csi("removed")];
    for pod in ["kept", "removed"] {
        fs::create_dir_all(node.path(&csi(pod)).parent().unwrap()).unwrap();
    }
    for place in &places {
        node.attach(None, place);
    }
    let lost = || node.host.lost(places.clone().into()).unwrap();
    assert_eq!(lost(), BTreeSet::new());
    tmpfs(&node.path(&whole("covered")));
    assert_eq!(lost(), BTreeSet::new(), "it is there, beneath");

    for place in [whole("v"), sub("v", 0), csi("kept"), csi("removed")] {
        Kernel.unmount(&node.path(&place)).unwrap();
    }
    fs::remove_dir(node.path(&csi("removed"))).unwrap();
    assert_eq!(lost(), [whole("v"), sub("v", 0), csi("kept")].into(), "whoever removes a kubelet's directory means it");
    fs::remove_dir_all(node.path(&csi("removed")).parent().unwrap().parent().unwrap()).unwrap();
    assert_eq!(lost().len(), 3);
}

#[test]
fn other_volumes_of_the_pod_stay() {
    let Some(node) = Node::new("other_volumes_of_the_pod_stay") else { return };
    node.attach(None, &whole("a"));
    node.attach(None, &whole("b"));
    fs::create_dir_all(node.path(&whole("a")).ancestors().nth(2).unwrap().join("kubernetes.io~empty-dir/x")).unwrap();
    node.host.remove_volume(&key("a")).unwrap();
    assert!(node.host.mounted(&whole("b")).unwrap().is_some());
    node.host.remove_volume(&key("b")).unwrap();
    assert_eq!(node.pods().len(), 1, "somebody else's volume keeps the pod's directory");
}

#[test]
fn a_mount_that_is_in_use_goes_at_once() {
    let Some(node) = Node::new("a_mount_that_is_in_use_goes_at_once") else { return };
    node.attach(None, &whole("v"));
    let open = File::open(node.path(&whole("v")).join("probe")).unwrap();
    node.host.remove_volume(&key("v")).unwrap();
    assert_eq!(node.mounts(), 0);
    assert_eq!(io::read_to_string(&open).map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
}

#[test]
fn what_others_mounted_is_never_unmounted() {
    let Some(node) = Node::new("what_others_mounted_is_never_unmounted") else { return };
    // In the place of a volume, on top of a volume, and among the sub paths of a volume.
    tmpfs(&node.path(&whole("in-place")));
    node.attach(None, &whole("beneath"));
    tmpfs(&node.path(&whole("beneath")));
    node.attach(None, &whole("sub"));
    tmpfs(&node.path(&sub("sub", 0)));
    for name in ["in-place", "beneath", "sub"] {
        let before = node.mounts();
        let error = node.host.remove_volume(&key(name)).unwrap_err();
        assert!(matches!(&error, VolumeError::Foreign { fs_type, .. } if fs_type == "tmpfs"), "{name}: {error}");
        assert_eq!(node.mounts(), before, "{name}: nothing was touched");
    }
    for place in [whole("in-place"), whole("beneath"), sub("sub", 0)] {
        assert!(matches!(node.host.mounted(&place), Err(VolumeError::Foreign { .. })));
        assert_eq!(fs::read_to_string(node.path(&place).join("canary")).unwrap(), "alive");
    }
    // They do not hide the others.
    let mounted = node.host.mounted_volumes().unwrap();
    assert_eq!(mounted.into_iter().map(|found| found.volume.to_string()).collect::<Vec<_>>(), ["sub"]);
    assert_eq!(node.host.find_volumes().unwrap().len(), 3);
}

/// A kubelet binds each sub path of whatever volume below `volume-subpaths`; those of a CSI volume of ours are of our file system.
#[test]
fn sub_paths_of_a_kubelet_are_not_ours() {
    let Some(node) = Node::new("sub_paths_of_a_kubelet_are_not_ours") else { return };
    tmpfs(&node.path(&sub("config", 0)));
    node.attach(None, &sub("data", 0));
    node.attach(None, &whole("v"));
    node.attach(None, &sub("v", 0));
    assert_eq!(node.host.find_volumes().unwrap(), [key("v")].into());
    assert_eq!(node.host.mounted_volumes().unwrap(), [key("v")].into());
    let listed = node.host.mounts().unwrap();
    assert_eq!(listed.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key("v"), key("v")]);
}

#[test]
fn the_removal_of_directories_never_crosses_a_mount() {
    let Some(node) = Node::new("the_removal_of_directories_never_crosses_a_mount") else { return };
    // The pod's directory is itself a mount of others, in which the volume has a plain directory.
    tmpfs(node.path(&whole("v")).ancestors().nth(3).unwrap());
    fs::create_dir_all(node.path(&whole("v"))).unwrap();
    let error = node.host.remove_volume(&key("v")).unwrap_err();
    assert!(matches!(error, VolumeError::Directory(_)), "{error}");
    assert_eq!(node.mounts(), 1);
}

#[test]
fn a_root_behind_a_symlink_is_found_in_the_mount_table() {
    let Some(mut node) = Node::new("a_root_behind_a_symlink_is_found_in_the_mount_table") else { return };
    symlink(node.dir.path().join("root"), node.dir.path().join("link")).unwrap();
    node.host = Host::new(node.dir.path().join("link"), Arc::new(Kernel));
    node.attach(None, &whole("v"));
    assert!(node.host.mounted(&whole("v")).unwrap().is_some());
    assert_eq!(node.host.mounted_volumes().unwrap().len(), 1);
    node.host.remove_volume(&key("v")).unwrap();
    assert_eq!(node.mounts(), 0);
}

#[test]
fn a_mount_of_the_same_file_is_known_by_its_inode() {
    let Some(node) = Node::new("a_mount_of_the_same_file_is_known_by_its_inode") else { return };
    node.attach(Some("probe"), &sub("v", 0));
    assert!(node.host.is_same(&sub("v", 0), &node.clone_of(Some("probe"))).unwrap());
    assert!(!node.host.is_same(&sub("v", 0), &node.clone_of(None)).unwrap());
}

#[test]
fn sub_paths_of_another_spec_go() {
    let Some(node) = Node::new("sub_paths_of_another_spec_go") else { return };
    node.attach(Some("probe"), &sub("v", 0));
    node.attach(Some("."), &sub("v", 1));
    node.attach(Some("probe"), &sub("other", 0));
    node.host.remove_sub_paths(&pod(), &volume("v"), |place| *place == sub("v", 1)).unwrap();
    assert!(node.host.mounted(&sub("v", 0)).unwrap().is_none());
    assert!(node.host.mounted(&sub("v", 1)).unwrap().is_some());
    assert!(node.host.mounted(&sub("other", 0)).unwrap().is_some());
    // A directory goes where a file was.
    node.attach(Some("."), &sub("v", 0));
    node.host.remove_sub_paths(&pod(), &volume("v"), |_| false).unwrap();
    assert!(!node.path(&sub("v", 0)).parent().unwrap().exists());
}

/// What somebody put where a directory of ours belongs is neither followed nor removed.
#[rstest::rstest]
#[case::volume_is_a_symlink("pods/pod-1/volumes/kubernetes.io~image/v", true)]
#[case::volume_is_a_file("pods/pod-1/volumes/kubernetes.io~image/v", false)]
#[case::plugin_is_a_symlink("pods/pod-1/volumes/kubernetes.io~image", true)]
#[case::sub_paths_are_a_symlink("pods/pod-1/volume-subpaths", true)]
#[case::pod_is_a_symlink("pods/pod-1", true)]
#[case::pods_is_a_symlink("pods", true)]
fn planted_files_are_not_followed(#[case] planted: &str, #[case] is_link: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (dir.path().join("root"), dir.path().join("elsewhere"));
    fs::create_dir_all(elsewhere.join("v/canary")).unwrap();
    let at = root.join(planted);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    if is_link {
        symlink(&elsewhere, &at).unwrap();
    } else {
        fs::write(&at, "data").unwrap();
    }

    let service = imagevol_test_support::mounts::FakeMounts::default();
    let host = Host::new(root, Arc::new(service.clone()));
    let error = host.remove_volume(&key("v")).unwrap_err();
    assert!(matches!(error, VolumeError::Directory(_)), "{error}");
    let content = DetachedMount::new(File::open("/").unwrap().into(), MountKind::Directory);
    let attached = host.attach(content, if planted.contains("subpaths") { &SUB } else { &WHOLE });
    assert!(matches!(attached, Err(VolumeError::Directory(_))));
    assert!(elsewhere.join("v/canary").exists());
    assert!(at.symlink_metadata().is_ok(), "it is for its owner to remove");
    assert!(service.take_log().is_empty());
    // Whoever looks for volumes goes on.
    match host.find_volumes() {
        Ok(found) => assert!(found.iter().all(|found| found.pod == pod())),
        Err(error) => assert_eq!(planted, "pods", "{error}"),
    }
}

static WHOLE: std::sync::LazyLock<Place> = std::sync::LazyLock::new(|| whole("v"));
static SUB: std::sync::LazyLock<Place> = std::sync::LazyLock::new(|| sub("v", 0));
