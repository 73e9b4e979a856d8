use std::{fs, path::Path};

use imagevol_mount::{
    Backend, Interface, Kernel, Requested, choose,
    probe::{Outcome, probe},
};
use nix::mount::MsFlags;

use crate::support::{Scratch, bind, in_namespace, mount};

fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Fails { reason } => reason,
        Outcome::Works | Outcome::NotTried => panic!("{outcome:?}"),
    }
}

/// Neither a mount nor a file is left.
fn assert_clean(scratch: &Scratch, store: &Path) {
    assert!(Kernel.list(&scratch.dir.join("probe")).unwrap().is_empty());
    assert_eq!(fs::read_dir(store).unwrap().count(), 0);
}

#[test]
fn all_works_on_a_disk_with_small_sectors() {
    in_namespace(Backend::Erofs, |scratch| {
        let store = scratch.dir("store");
        let report = probe(&store, &scratch.dir.join("probe")).unwrap();
        assert_eq!((&report.erofs, &report.erofs_loop), (&Outcome::Works, &Outcome::Works), "{report:?}");
        assert_eq!(report.erofs_directio, Outcome::Works);
        assert_eq!(choose(Requested::Auto, &report), Ok(Backend::Erofs));
        assert_clean(scratch, &store);
    });
}

#[test]
fn tmpfs_can_do_loop_devices_only() {
    in_namespace(Backend::Erofs, |scratch| {
        let store = scratch.dir("store");
        mount(None, &store, Some("tmpfs"), MsFlags::empty());
        let report = probe(&store, &scratch.dir.join("probe")).unwrap();
        assert!(reason(&report.erofs).contains("not on tmpfs or overlayfs"), "{report:?}");
        assert_eq!(report.erofs_loop, Outcome::Works);
        assert_eq!(choose(Requested::Auto, &report), Ok(Backend::ErofsLoop));
        let refused = choose(Requested::Erofs, &report).unwrap_err();
        assert!(refused.to_string().contains("erofs: fsconfig(create) failed"), "{refused}");
        assert_clean(scratch, &store);
    });
}

#[test]
fn overlayfs_can_do_loop_devices_only() {
    in_namespace(Backend::Erofs, |scratch| {
        let store = scratch.dir("store");
        let options =
            ["lower", "upper", "work"].map(|name| format!("{name}dir={}", scratch.dir(name).display())).join(",");
        nix::mount::mount(None::<&str>, &store, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let report = probe(&store, &scratch.dir.join("probe")).unwrap();
        assert!(reason(&report.erofs).contains("not on tmpfs or overlayfs"), "{report:?}");
        assert_eq!(report.erofs_loop, Outcome::Works);
    });
}

#[test]
fn without_loop_devices_it_says_so() {
    in_namespace(Backend::Erofs, |scratch| {
        let store = scratch.dir("store");
        bind(&scratch.dir("dev"), Path::new("/dev"));
        let report = probe(&store, &scratch.dir.join("probe")).unwrap();
        assert_eq!(report.erofs, Outcome::Works);
        assert!(reason(&report.erofs_loop).contains("/dev/loop-control is missing"), "{report:?}");
    });
}

#[test]
fn files_are_not_tried_where_a_warning_would_stop_the_kernel() {
    in_namespace(Backend::Erofs, |scratch| {
        let set = scratch.dir.join("one");
        fs::write(&set, "1\n").unwrap();
        bind(&set, Path::new("/proc/sys/kernel/panic_on_warn"));
        let report = probe(&scratch.dir("store"), &scratch.dir.join("probe")).unwrap();
        assert_eq!((&report.erofs, &report.erofs_directio), (&Outcome::NotTried, &Outcome::NotTried));
        assert_eq!(choose(Requested::Auto, &report), Ok(Backend::ErofsLoop));
    });
}

#[test]
fn the_mount_of_a_killed_probe_is_removed() {
    in_namespace(Backend::Erofs, |scratch| {
        let at = scratch.dir.join("probe");
        Kernel.stage(&scratch.two_devices_source(1), &at).unwrap();
        let report = probe(&scratch.dir("store"), &at).unwrap();
        assert_eq!((report.erofs, report.erofs_loop), (Outcome::Works, Outcome::Works));
        assert!(Kernel.list(&at).unwrap().is_empty());
    });
}

#[test]
fn a_store_that_cannot_be_written_is_an_error() {
    in_namespace(Backend::Erofs, |scratch| {
        let error = probe(&scratch.dir.join("missing"), &scratch.dir.join("probe")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    });
}
