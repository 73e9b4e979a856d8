use std::{
    fs::{self, File},
    path::Path,
};

use imagevol_mount::{Backend, Interface, Kernel, MountError, probe::ProbeImage};

use crate::support::{Scratch, bind, clone, in_namespace};

/// Devices bound to a file beneath a directory.
fn bound(dir: &Path) -> usize {
    let backing = |device: fs::DirEntry| fs::read_to_string(device.path().join("loop/backing_file")).ok();
    let devices = fs::read_dir("/sys/block").unwrap().map(Result::unwrap);
    devices.filter_map(backing).filter(|file| Path::new(file).starts_with(dir)).count()
}

fn stage(scratch: &Scratch, name: &str) -> Result<imagevol_mount::StagedImage, MountError> {
    Kernel.stage(&scratch.two_devices_source(1), &scratch.dir.join(name))
}

#[test]
fn devices_last_as_long_as_the_mount() {
    in_namespace(Backend::ErofsLoop, |scratch| {
        let staged = stage(scratch, "staging").unwrap();
        assert_eq!(bound(&scratch.dir), 2);
        assert_eq!(staged.device().major, 7);
        let pod = scratch.attach(clone(&staged), "pod");
        Kernel.unmount(staged.at()).unwrap();
        drop(staged);
        assert_eq!(bound(&scratch.dir), 2);
        Kernel.unmount(&pod).unwrap();
        assert_eq!(bound(&scratch.dir), 0);
    });
}

#[test]
fn a_failed_mount_frees_its_devices() {
    in_namespace(Backend::ErofsLoop, |scratch| {
        let source = scratch.two_devices_source(1);
        let mut image = ProbeImage::new().image;
        image[1024 + 83] |= 0x80;
        fs::write(scratch.dir.join("two.erofs"), image).unwrap();
        Kernel.stage(&source, &scratch.dir.join("staging")).unwrap_err();
        assert_eq!(bound(&scratch.dir), 0);
    });
}

#[test]
fn devices_are_read_only() {
    in_namespace(Backend::ErofsLoop, |scratch| {
        // Files that are open for writing: the device must be none the less.
        let (image, device) = scratch.two_devices();
        let open = |path| File::options().read(true).write(true).open(path).unwrap();
        let source = imagevol_mount::Source::new(scratch.backend, open(image), vec![open(device)]);
        let staged = Kernel.stage(&source, &scratch.dir.join("staging")).unwrap();
        let node = format!("/sys/dev/block/{}/ro", staged.device());
        assert_eq!(fs::read_to_string(node).unwrap().trim(), "1");
    });
}

#[test]
fn many_take_devices_at_the_same_time() {
    in_namespace(Backend::ErofsLoop, |scratch| {
        scratch.two_devices();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    for round in 0..5 {
                        let at = scratch.dir.join(format!("staging-{thread}-{round}"));
                        let open = |name| File::open(scratch.dir.join(name)).unwrap();
                        let source =
                            imagevol_mount::Source::new(scratch.backend, open("two.erofs"), vec![open("two.tar")]);
                        Kernel.stage(&source, &at).unwrap();
                        assert_eq!(fs::read(at.join(ProbeImage::NAME)).unwrap(), ProbeImage::content());
                        Kernel.unmount(&at).unwrap();
                    }
                });
            }
        });
        assert_eq!(Kernel.list(&scratch.dir).unwrap(), []);
    });
}

#[test]
fn says_when_there_are_no_loop_devices() {
    in_namespace(Backend::ErofsLoop, |scratch| {
        bind(&scratch.dir("dev"), Path::new("/dev"));
        let error = stage(scratch, "staging").unwrap_err();
        assert!(matches!(&error, MountError::NoLoopControl { .. }), "{error}");
    });
}

#[test]
fn says_when_a_loop_devices_node_is_missing() {
    in_namespace(Backend::ErofsLoop, |scratch| {
        // As in a container that was given the control device only.
        let control = scratch.dir("dev").join("loop-control");
        File::create(&control).unwrap();
        bind(Path::new("/dev/loop-control"), &control);
        bind_recursively(&scratch.dir("dev"), Path::new("/dev"));
        let error = stage(scratch, "staging").unwrap_err();
        assert!(matches!(&error, MountError::LoopNodeMissing { node } if node.starts_with("/dev")), "{error}");
        assert!(error.to_string().contains("devtmpfs"), "{error}");
    });
}

fn bind_recursively(source: &Path, at: &Path) {
    crate::support::mount(Some(source), at, None, nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC);
}
