use std::{fs::File, sync::mpsc};

use imagevol_mount::{Backend, Interface, Kernel, WriteLease, in_use};
use nix::sched::CloneFlags;
use rstest::rstest;

use crate::support::{clone, in_namespace};

#[rstest]
fn a_mounted_image_keeps_all_its_files_in_use(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        let at = scratch.dir.join("staging");
        let staged = Kernel.stage(&scratch.two_devices_source(1), &at).unwrap();
        let pod = scratch.attach(clone(&staged), "pod");
        drop(staged);
        let files = ["two.erofs", "two.tar"].map(|name| File::open(scratch.dir.join(name)).unwrap());
        assert!(files.iter().all(|file| in_use(file).unwrap()));
        // One clone is enough.
        Kernel.unmount(&at).unwrap();
        assert!(files.iter().all(|file| in_use(file).unwrap()));
        Kernel.unmount(&pod).unwrap();
        assert!(files.iter().all(|file| !in_use(file).unwrap()));
    });
}

#[rstest]
fn a_mount_in_another_namespace_counts_as_well(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        let at = scratch.dir.join("staging");
        drop(Kernel.stage(&scratch.two_devices_source(1), &at).unwrap());
        let file = File::open(scratch.dir.join("two.tar")).unwrap();
        let (copied, wait_for_copy) = mpsc::channel();
        let (done, wait_for_done) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let at = &at;
            scope.spawn(move || {
                nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
                copied.send(()).unwrap();
                wait_for_done.recv().unwrap();
                Kernel.unmount(at).unwrap();
            });
            wait_for_copy.recv().unwrap();
            Kernel.unmount(at).unwrap();
            assert_eq!(Kernel.list(at).unwrap(), []);
            assert!(in_use(&file).unwrap());
            done.send(()).unwrap();
        });
        assert!(!in_use(&file).unwrap());
    });
}

#[rstest]
fn mounting_waits_for_a_lease(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    in_namespace(backend, |scratch| {
        let (_, device) = scratch.two_devices();
        let file = File::open(device).unwrap();
        let lease = WriteLease::take(&file).unwrap().unwrap();
        std::thread::scope(|scope| {
            let staging = scope.spawn(|| Kernel.stage(&scratch.two_devices_source(1), &scratch.dir.join("staging")));
            drop(lease);
            staging.join().unwrap().unwrap();
        });
        assert!(in_use(&file).unwrap());
    });
}
