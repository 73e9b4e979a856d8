use std::{
    fs::{self, File},
    io::Read,
    os::fd::AsFd,
    os::unix::fs::symlink,
};

use imagevol_mount::{Backend, DirError, Interface, Kernel, SafeDir, Unmounted, is_mount_point, is_mounted_at};
use nix::mount::MsFlags;
use rstest::rstest;

use crate::support::{bind, clone, clone_sub, has_mkfs, in_namespace, mount};

#[rstest]
fn removes_all_that_is_stacked(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let pod = scratch.attach(clone(&scratch.staged()), "pod");
        mount(None, &pod, Some("tmpfs"), MsFlags::empty());
        bind(&scratch.dir("tree"), &pod);
        assert_eq!(Kernel.list(&pod).unwrap().len(), 3);
        assert_eq!(Kernel.mounted_at(&pod).unwrap().unwrap().fs_type, "ext4");
        assert_eq!(Kernel.unmount(&pod).unwrap(), Unmounted::Removed { mounts: 3 });
        assert_eq!(Kernel.list(&pod).unwrap(), []);
        assert_eq!(Kernel.unmount(&pod).unwrap(), Unmounted::WasNotMounted);
    });
}

#[test]
fn what_is_not_mounted_is_no_error() {
    in_namespace(Backend::Erofs, |scratch| {
        fs::write(scratch.dir.join("file"), "").unwrap();
        for path in [scratch.dir("plain"), scratch.dir.join("file"), scratch.dir.join("none"), "/none/at/all".into()] {
            assert_eq!(Kernel.unmount(&path).unwrap(), Unmounted::WasNotMounted);
            assert!(!is_mounted_at(&path).unwrap());
        }
    });
}

#[rstest]
fn open_files_outlast_the_mount(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let staged = scratch.staged();
        let pod = scratch.attach(clone(&staged), "pod");
        let mut file = File::open(pod.join("dir/file")).unwrap();
        assert!(is_mounted_at(&pod).unwrap());
        Kernel.unmount(&pod).unwrap();
        Kernel.unmount(staged.at()).unwrap();
        assert!(!is_mounted_at(&pod).unwrap() && !is_mounted_at(staged.at()).unwrap());
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content, "2");
    });
}

#[test]
fn a_symlink_to_a_mount_is_not_followed() {
    if !has_mkfs() {
        return;
    }
    in_namespace(Backend::Erofs, |scratch| {
        let pod = scratch.attach(clone(&scratch.staged()), "pod");
        let link = scratch.dir.join("link");
        symlink(&pod, &link).unwrap();
        assert!(!is_mounted_at(&link).unwrap());
        assert_eq!(Kernel.unmount(&link).unwrap(), Unmounted::WasNotMounted);
        assert!(is_mounted_at(&pod).unwrap());
    });
}

#[test]
fn mount_points_are_told_by_descriptor_and_by_name() {
    if !has_mkfs() {
        return;
    }
    in_namespace(Backend::Erofs, |scratch| {
        let place = SafeDir::open(&scratch.dir).unwrap();
        let before = place.make_dir("pod", 0o750).unwrap();
        scratch.attach(clone(&scratch.staged()), "pod");
        assert!(place.is_mount_point("pod").unwrap());
        assert!(is_mount_point(place.open_path("pod").unwrap().as_fd()).unwrap());
        assert!(is_mount_point(place.open_dir("pod").unwrap().as_fd()).unwrap());
        // The directory beneath is none, though it can only be reached by a descriptor from before.
        assert!(!is_mount_point(before.as_fd()).unwrap());
        assert!(!place.is_mount_point("tree").unwrap());
    });
}

#[rstest]
fn a_tree_with_a_mount_in_it_is_left_alone(
    #[values(".", "dir", "file")] sub_path: &'static str,
    #[values("", "volumes/v", "volumes/deep/er")] below: &'static str,
) {
    if !has_mkfs() {
        return;
    }
    in_namespace(Backend::Erofs, move |scratch| {
        let detached = clone_sub(&scratch.staged(), sub_path).unwrap();
        let place = SafeDir::open(&scratch.dir).unwrap();
        let parent = SafeDir::open(&scratch.dir(&format!("pod/{below}"))).unwrap();
        for name in ["0-before", "zz-after"] {
            parent.make_file(name).unwrap();
        }
        if sub_path == "file" {
            Kernel.attach(detached, parent.make_file("mount").unwrap().as_fd()).unwrap();
        } else {
            Kernel.attach(detached, parent.make_dir("mount", 0o700).unwrap().as_fd()).unwrap();
        }
        let error = place.remove_tree_no_xdev("pod").unwrap_err();
        let expected = parent.path().join("mount");
        assert!(matches!(&error, DirError::MountInside { at } if *at == expected), "{error}");
        assert_eq!(parent.entries().unwrap().len(), fs::read_dir(parent.path()).unwrap().count());
        assert!(parent.path().join("0-before").exists() && parent.path().join("zz-after").exists());
        // Also from the mount itself downwards.
        assert!(matches!(
            parent.remove_tree_no_xdev("mount").unwrap_err(),
            DirError::MountInside { at } if at == expected
        ));
        Kernel.unmount(&expected).unwrap();
        place.remove_tree_no_xdev("pod").unwrap();
        assert!(!scratch.dir.join("pod").exists());
    });
}

#[test]
fn a_bind_mount_of_the_same_file_system_counts_as_well() {
    in_namespace(Backend::Erofs, |scratch| {
        fs::write(scratch.dir("precious").join("data"), "").unwrap();
        let at = scratch.dir("tree/a/b");
        bind(&scratch.dir.join("precious"), &at);
        let error = SafeDir::open(&scratch.dir).unwrap().remove_tree_no_xdev("tree").unwrap_err();
        assert!(matches!(error, DirError::MountInside { at: told } if told == at));
        assert!(scratch.dir.join("precious/data").exists());
    });
}
