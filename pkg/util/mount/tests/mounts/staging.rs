use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
};

use imagevol_mount::{Backend, Interface, Kernel, MountError, SafeDir, Source, probe::ProbeImage};
use nix::mount::MsFlags;
use rstest::rstest;

use crate::support::{Scratch, clone, clone_sub, has_mkfs, in_namespace, mount};

#[rstest]
fn an_image_on_two_devices_reads_right(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        let at = scratch.dir.join("staging");
        let staged = Kernel.stage(&scratch.two_devices_source(1), &at).unwrap();
        assert_eq!(fs::read(at.join(ProbeImage::NAME)).unwrap(), ProbeImage::content());
        // Files that lost their names keep serving.
        fs::remove_file(scratch.dir.join("two.erofs")).unwrap();
        fs::remove_file(scratch.dir.join("two.tar")).unwrap();
        let pod = scratch.attach(clone(&staged), "pod");
        assert_eq!(fs::read(pod.join(ProbeImage::NAME)).unwrap(), ProbeImage::content());
    });
}

#[rstest]
fn the_number_of_devices_must_be_right(
    #[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend,
    #[values(0, 2)] count: usize,
) {
    in_namespace(backend, move |scratch| {
        let error = Kernel.stage(&scratch.two_devices_source(count), &scratch.dir.join("staging")).unwrap_err();
        assert!(matches!(error, MountError::DeviceCount { needs: 1, given, .. } if given == count), "{error}");
        assert_eq!(Kernel.list(&scratch.dir).unwrap(), []);
    });
}

#[rstest]
fn devices_must_end_with_a_block(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        let source = scratch.two_devices_source(1);
        File::options().write(true).open(scratch.dir.join("two.tar")).unwrap().set_len(6537).unwrap();
        let error = Kernel.stage(&source, &scratch.dir.join("staging")).unwrap_err();
        assert!(matches!(error, MountError::UnalignedDevice { device: 1, size: 6537, block_size: 512, .. }), "{error}");
    });
}

#[rstest]
fn what_is_no_image_is_refused(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        for content in [vec![], vec![0; 8192]] {
            let path = scratch.dir.join("zeros");
            fs::write(&path, content).unwrap();
            let source = Source::new(scratch.backend, File::open(path).unwrap(), Vec::new());
            let error = Kernel.stage(&source, &scratch.dir.join("staging")).unwrap_err();
            assert!(matches!(error, MountError::NotErofs { .. }), "{error}");
        }
    });
}

#[rstest]
fn an_image_that_the_kernel_refuses_leaves_no_mount(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        let source = scratch.two_devices_source(1);
        // A feature that no kernel has: the top bit of feature_incompat.
        let mut image = ProbeImage::new().image;
        image[1024 + 83] |= 0x80;
        fs::write(scratch.dir.join("two.erofs"), image).unwrap();
        let error = Kernel.stage(&source, &scratch.dir.join("staging")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert!(matches!(error, MountError::Kernel { op: "fsconfig(create)", .. }), "{error}");
        assert_eq!(Kernel.list(&scratch.dir).unwrap(), []);
    });
}

#[rstest]
fn a_restarted_daemon_finds_what_it_staged(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let first = scratch.staged();
        let (device, at) = (first.device(), first.at().to_owned());
        drop(first);
        let again = Kernel.open_staged(&at).unwrap().unwrap();
        assert_eq!((again.device(), again.at()), (device, at.as_path()));
        let pod = scratch.attach(clone(&again), "pod");
        drop(again);

        // Staging is gone, a pod's mount is left: it is the same superblock.
        Kernel.unmount(&at).unwrap();
        assert!(Kernel.open_staged(&at).unwrap().is_none());
        let survivor = Kernel.open_staged(&pod).unwrap().unwrap();
        assert_eq!(survivor.device(), device);
        scratch.attach(clone(&survivor), "second");
        assert_eq!(fs::read(scratch.dir.join("second/file")).unwrap(), b"1");
    });
}

#[rstest]
fn only_whole_images_are_taken_for_staged(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        assert!(Kernel.open_staged(&scratch.dir.join("missing")).unwrap().is_none());
        assert!(Kernel.open_staged(&scratch.dir("empty")).unwrap().is_none());
        let other = scratch.dir("other");
        mount(None, &other, Some("tmpfs"), MsFlags::empty());
        assert!(not_an_image(&other, "tmpfs", "/"));
        let part = scratch.attach(clone_sub(&scratch.staged(), "dir").unwrap(), "part");
        assert!(not_an_image(&part, "erofs", "/dir"));
    });
}

fn not_an_image(path: &Path, fs_type: &str, root: &str) -> bool {
    matches!(
        Kernel.open_staged(path),
        Err(MountError::NotAnImage { at, fs_type: found, root: seen })
            if at == path && found == fs_type && seen == Path::new(root)
    )
}

#[rstest]
fn mounts_are_never_stacked(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let staged = scratch.staged();
        let again = Kernel.stage(&scratch.two_devices_source(1), staged.at()).unwrap_err();
        assert!(matches!(again, MountError::AlreadyMounted { at } if at == staged.at()));
        let pod = scratch.attach(clone(&staged), "pod");
        let target = SafeDir::open(&pod).unwrap();
        let error = Kernel.attach(clone(&staged), target.as_fd()).unwrap_err();
        assert!(matches!(error, MountError::AlreadyMounted { at } if at == pod));
        assert_eq!(Kernel.list(&scratch.dir).unwrap().len(), 2);
    });
}

#[rstest]
fn a_dropped_clone_leaves_nothing(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let staged = scratch.staged();
        drop(clone(&staged));
        assert_eq!(ats(scratch, &scratch.dir), ["staging"]);
    });
}

#[test]
fn lists_by_whole_path_components_and_odd_names() {
    if !has_mkfs() {
        return;
    }
    in_namespace(Backend::Erofs, |scratch| {
        let staged = scratch.staged();
        let names = ["a", "a/dir", "ab", "a b", "a\nb", "a\\040b", "a\u{e4}"];
        for name in names {
            scratch.attach(clone(&staged), name);
        }
        let mut all = names.to_vec();
        all.push("staging");
        all.sort_unstable();
        assert_eq!(ats(scratch, &scratch.dir), all);
        assert_eq!(ats(scratch, &scratch.dir.join("a")), ["a", "a/dir"]);
        assert_eq!(ats(scratch, &scratch.dir.join("a\\040b/")), ["a\\040b"]);
        assert!(ats(scratch, &scratch.dir.join("none")).is_empty());
        let slash = scratch.dir.join("a/");
        assert_eq!(Kernel.mounted_at(&slash).unwrap().unwrap().at, scratch.dir.join("a"));
    });
}

fn ats(scratch: &Scratch, under: &Path) -> Vec<String> {
    let name = |at: &Path| at.strip_prefix(&scratch.dir).unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = Kernel.list(under).unwrap().iter().map(|mount| name(&mount.at)).collect();
    names.sort_unstable();
    names
}
