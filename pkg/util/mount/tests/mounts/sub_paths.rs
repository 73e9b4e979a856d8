use std::{
    fs,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use imagevol_mount::{Backend, FileKind, Interface, Kernel, MountError, MountKind, SafeDir};
use rstest::rstest;

use crate::support::{Scratch, clone, clone_sub, has_mkfs, in_namespace};

const BOTH: [Backend; 2] = [Backend::Erofs, Backend::ErofsLoop];

#[rstest]
#[case::directory("dir", "file", "2")]
#[case::nested("dir/inner", "deep", "3")]
#[case::relative_link("relative", "deep", "3")]
#[case::absolute_link("absolute", "deep", "3")]
#[case::link_that_goes_up("dir/up", "passwd", "the image's own")]
#[case::root(".", "file", "1")]
fn mounts_a_directory(#[case] sub_path: &'static str, #[case] file: &'static str, #[case] content: &'static str) {
    each_backend(move |scratch| {
        let detached = clone_sub(&scratch.staged(), sub_path).unwrap();
        assert_eq!(detached.kind(), MountKind::Directory);
        let pod = scratch.attach(detached, "pod");
        assert_eq!(fs::read_to_string(pod.join(file)).unwrap(), content);
    });
}

#[rstest]
#[case::file("dir/file", "2")]
#[case::link_to_what_the_host_has_too("outside", "the image's own")]
#[case::link_above_the_root("far-outside", "the image's own")]
fn mounts_a_file(#[case] sub_path: &'static str, #[case] content: &'static str) {
    each_backend(move |scratch| {
        let detached = clone_sub(&scratch.staged(), sub_path).unwrap();
        assert_eq!(detached.kind(), MountKind::File);
        let target = SafeDir::open(&scratch.dir).unwrap().make_file("0").unwrap();
        Kernel.attach(detached, target.as_fd()).unwrap();
        let at = scratch.dir.join("0");
        assert_eq!(fs::read_to_string(&at).unwrap(), content);
        assert!(Kernel.mounted_at(&at).unwrap().unwrap().has_option("ro"));
        Kernel.unmount(&at).unwrap();
        assert_eq!(fs::read_to_string(&at).unwrap(), "");
    });
}

#[rstest]
#[case::missing("none")]
#[case::missing_below("dir/none")]
#[case::below_a_file("file/x")]
#[case::dangling_link("dangling")]
#[case::what_only_the_host_has("hosts-only")]
#[case::long_name(&*"x".repeat(300).leak())]
fn what_the_image_lacks_is_not_found(#[case] sub_path: &'static str) {
    each_backend(move |scratch| {
        let error = clone_sub(&scratch.staged(), sub_path).unwrap_err();
        assert!(matches!(error, MountError::SubPathNotFound { sub_path: told } if told.as_str() == sub_path));
    });
}

#[test]
fn other_kinds_of_files_are_refused() {
    each_backend(|scratch| {
        let error = clone_sub(&scratch.staged(), "fifo").unwrap_err();
        assert!(matches!(error, MountError::SubPathKind { kind: FileKind::Fifo, .. }), "{error}");
        let expected = r#"sub path "fifo" is a named pipe; only directories and regular files can be mounted"#;
        assert_eq!(error.to_string(), expected);
    });
}

#[test]
fn a_loop_of_links_is_refused() {
    each_backend(|scratch| {
        let error = clone_sub(&scratch.staged(), "loop").unwrap_err();
        assert!(matches!(error, MountError::SubPathRefused { .. }), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    });
}

#[test]
fn a_mount_inside_the_image_is_not_entered() {
    each_backend(|scratch| {
        let staged = scratch.staged();
        let inside = SafeDir::open(&staged.at().join("dir")).unwrap();
        Kernel.attach(clone(&staged), inside.as_fd()).unwrap();
        let error = clone_sub(&staged, "dir/inner").unwrap_err();
        assert!(matches!(error, MountError::SubPathRefused { .. }), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
    });
}

#[test]
fn the_target_must_be_of_the_same_kind() {
    each_backend(|scratch| {
        let staged = scratch.staged();
        let place = SafeDir::open(&scratch.dir).unwrap();
        let file = place.make_file("f").unwrap();
        let error = Kernel.attach(clone(&staged), file.as_fd()).unwrap_err();
        assert!(error.to_string().ends_with("/f is a regular file, on which a directory cannot be mounted"), "{error}");
        let directory = place.make_dir("d", 0o700).unwrap();
        let error = Kernel.attach(clone_sub(&staged, "file").unwrap(), directory.as_fd()).unwrap_err();
        assert!(error.to_string().ends_with("/d is a directory, on which a regular file cannot be mounted"), "{error}");
    });
}

/// The kernel gives up a scoped walk over `..` whenever anything is mounted meanwhile.
#[test]
fn links_that_go_up_resolve_while_the_node_mounts_and_unmounts() {
    if !has_mkfs() {
        return;
    }
    in_namespace(Backend::Erofs, |scratch| {
        let staged = scratch.staged();
        let other = scratch.dir("other");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    scratch.attach(clone(&staged), "other");
                    Kernel.unmount(&other).unwrap();
                }
            });
            let failures = (0..3000).filter(|_| clone_sub(&staged, "dir/up/passwd").is_err()).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(failures, 0);
        });
    });
}

fn each_backend(test: impl Fn(&Scratch) + Send + Copy + 'static) {
    if has_mkfs() {
        for backend in BOTH {
            in_namespace(backend, test);
        }
    }
}
