use std::{fs, path::Path, process::Command};

use imagevol_mount::{Attributes, Backend, Exec, Interface, Kernel, MountKind};
use nix::mount::MsFlags;
use rstest::rstest;

use crate::support::{bind, clone, errno, has_mkfs, in_namespace, mount};

#[rstest]
fn a_clone_is_read_only_and_inert(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let staged = scratch.staged();
        let detached = clone(&staged);
        assert_eq!(detached.kind(), MountKind::Directory);
        let pod = scratch.attach(detached, "pod");
        assert_eq!(fs::read(pod.join("dir/file")).unwrap(), b"2");
        for at in [pod.as_path(), staged.at()] {
            assert_eq!(errno(fs::write(at.join("new"), "")), libc::EROFS);
            assert_eq!(errno(fs::File::options().write(true).open(at.join("file"))), libc::EROFS);
            assert_eq!(errno(fs::remove_file(at.join("file"))), libc::EROFS);
            let listed = Kernel.mounted_at(at).unwrap().unwrap();
            assert!(["ro", "nosuid", "nodev"].iter().all(|option| listed.has_option(option)), "{listed:?}");
            assert!(!listed.has_option("noexec"));
            assert_eq!((listed.fs_type.as_str(), listed.root.as_path()), ("erofs", Path::new("/")));
            assert_eq!(listed.device, staged.device());
        }
    });
}

#[rstest]
fn programs_run_unless_denied(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        let staged = scratch.staged();
        let with = |exec| Kernel.clone_of(&staged, None, Attributes { exec }).unwrap();
        let allowed = scratch.attach(with(Exec::Allow), "allowed");
        let denied = scratch.attach(with(Exec::Deny), "denied");
        assert_eq!(Command::new(allowed.join("script")).status().unwrap().code(), Some(7));
        assert_eq!(errno(Command::new(denied.join("script")).status()), libc::EACCES);
        assert!(Kernel.mounted_at(&denied).unwrap().unwrap().has_option("noexec"));

        // A pod's mount that survived serves as the staged one, without handing its attributes on.
        let survivor = Kernel.open_staged(&denied).unwrap().unwrap();
        let next = scratch.attach(clone(&survivor), "next");
        assert!(!Kernel.mounted_at(&next).unwrap().unwrap().has_option("noexec"));
    });
}

#[rstest]
fn a_mount_reaches_the_peers_of_a_shared_place_only(#[values(Backend::Erofs, Backend::ErofsLoop)] backend: Backend) {
    if !has_mkfs() {
        return;
    }
    in_namespace(backend, |scratch| {
        // As on a node: the place is shared, and another namespace or container sees it at another path.
        let (place, peer) = (scratch.dir("place"), scratch.dir("peer"));
        bind(&place, &place);
        mount(None, &place, None, MsFlags::MS_SHARED);
        bind(&place, &peer);
        let staged = Kernel.stage(&scratch.source(), &place.join("staging")).unwrap();
        assert_eq!(fs::read(peer.join("staging/file")).unwrap(), b"1");

        // A clone of a shared mount that goes to a private place stays without peers.
        let private = scratch.attach(clone(&staged), "private");
        let inner = private.join("dir");
        mount(None, &inner, Some("tmpfs"), MsFlags::empty());
        assert!(place.join("staging/dir/file").exists() && peer.join("staging/dir/file").exists());

        let pod = scratch.attach(clone(&staged), "place/pod");
        assert_eq!(fs::read(peer.join("pod/file")).unwrap(), b"1");
        Kernel.unmount(&pod).unwrap();
        assert!(!peer.join("pod/file").exists());
    });
}
