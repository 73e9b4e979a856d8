//! Images of the store under the running kernel: what is mounted stays, and shows the right bytes.

use std::fs;
use std::path::Path;

use imagevol_mount::{Backend, Interface as _, Kernel, Source};
use imagevol_store::{Compression, ImageKind, Store};

use crate::support::{
    Held as _, Piece, Scratch, command, content_files, in_namespace, kind, manifest_of, names, pull, record, tag, tar,
};

/// Mounts an image until it is unmounted.
fn stage(store: &Store, image: &str, at: &Path, backend: Backend) {
    let files = store.open_image(&manifest_of(image)).unwrap();
    Kernel.stage(&Source::new(backend, files.image, files.devices), at).unwrap();
}

/// Runs the test for each back end.
fn with_image(run: impl Fn(&mut Scratch, &Path, Backend)) {
    for backend in [Backend::Erofs, Backend::ErofsLoop] {
        let mut scratch = Scratch::new();
        let at = tempfile::tempdir_in(crate::support::DISK).unwrap();
        let layer = Piece::archive(&tar(&[("dir/a", b"from the layer"), ("b", &[b'b'; 5000])]), Compression::Gzip);
        let file = Piece { title: Some("model/weights".into()), ..Piece::blob(&vec![b'w'; 123_457]) };
        let none = Piece { title: Some("nothing".into()), ..Piece::blob(b"") };
        pull(scratch.store(), "i", &[layer, file, none]);
        run(&mut scratch, at.path(), backend);
    }
}

#[test]
fn a_mounted_image_shows_its_files_and_is_not_removed() {
    in_namespace("mounts::a_mounted_image_shows_its_files_and_is_not_removed", || {
        with_image(|scratch, at, backend| {
            stage(scratch.store(), "i", at, backend);
            assert_eq!(fs::read(at.join("dir/a")).unwrap(), b"from the layer");
            assert_eq!(fs::read(at.join("b")).unwrap(), [b'b'; 5000]);
            assert_eq!(fs::read(at.join("model/weights")).unwrap(), vec![b'w'; 123_457]);
            assert_eq!(fs::read(at.join("nothing")).unwrap(), b"");
            let before = content_files(scratch.dir.path());
            for name in [tag("i"), manifest_of("i").to_string()] {
                assert_eq!(kind(&scratch.store().remove(&name).unwrap_err()), "Mounted");
            }
            assert_eq!(content_files(scratch.dir.path()), before);
            scratch.assert_sound();
            Kernel.unmount(at).unwrap();
            scratch.store().remove(&tag("i")).unwrap();
            assert!(content_files(scratch.dir.path()).is_empty());
        });
    });
}

#[test]
fn layers_that_come_again_leave_a_mount_as_it_is() {
    in_namespace("mounts::layers_that_come_again_leave_a_mount_as_it_is", || {
        with_image(|scratch, at, backend| {
            stage(scratch.store(), "i", at, backend);
            let tar = tar(&[("dir/a", b"from the layer"), ("b", &[b'b'; 5000])]);
            for compression in [Compression::None, Compression::Zstd] {
                drop(scratch.put(&Piece::layer(&tar, compression)));
            }
            pull(scratch.store(), "j", &[Piece::layer(&tar, Compression::Zstd)]);
            assert_eq!(fs::read(at.join("b")).unwrap(), [b'b'; 5000]);
            Kernel.unmount(at).unwrap();
            scratch.assert_sound();
        });
    });
}

#[test]
fn what_recovery_drops_stays_readable_where_it_is_mounted() {
    in_namespace("mounts::what_recovery_drops_stays_readable_where_it_is_mounted", || {
        with_image(|scratch, at, backend| {
            stage(scratch.store(), "i", at, backend);
            let erofs = format!("images/sha256/{}.erofs", manifest_of("i").hex());
            scratch.reopen_after(|dir| fs::remove_file(dir.join(erofs)).unwrap());
            assert!(scratch.store().images().unwrap().is_empty());
            assert_eq!(fs::read(at.join("dir/a")).unwrap(), b"from the layer");
            assert_eq!(fs::read(at.join("model/weights")).unwrap(), vec![b'w'; 123_457]);
            Kernel.unmount(at).unwrap();
        });
    });
}

/// All rows are lost, and a pod reads on: nothing is deleted under it, and what nobody reads is.
#[test]
fn a_mounted_file_that_lost_its_row_stays_until_it_is_unmounted() {
    in_namespace("mounts::a_mounted_file_that_lost_its_row_stays_until_it_is_unmounted", || {
        with_image(|scratch, at, backend| {
            stage(scratch.store(), "i", at, backend);
            pull(scratch.store(), "idle", &[Piece::blob(b"idle")]);
            scratch.reopen_after(|dir| fs::remove_file(dir.join("db.redb")).unwrap());
            let left = content_files(scratch.dir.path());
            // The EROFS file, the layer's tar, the artifact's file.
            assert_eq!(left.len(), 3, "{left:?}");
            assert_eq!(scratch.store().fsck().unwrap().unfinished.len(), 3);
            assert_eq!(fs::read(at.join("dir/a")).unwrap(), b"from the layer");
            Kernel.unmount(at).unwrap();
            scratch.reopen();
            assert!(content_files(scratch.dir.path()).is_empty());
        });
    });
}

#[test]
fn a_census_sees_what_is_mounted() {
    in_namespace("mounts::a_census_sees_what_is_mounted", || {
        with_image(|scratch, at, backend| {
            let mounted = |scratch: &Scratch| scratch.store().census().unwrap().images[0].mounted;
            assert!(!mounted(scratch));
            stage(scratch.store(), "i", at, backend);
            assert!(mounted(scratch));
            let now = scratch.store().now();
            assert_eq!(kind(&scratch.store().remove_unneeded(&manifest_of("i"), now).unwrap_err()), "Mounted");
            Kernel.unmount(at).unwrap();
            assert!(!mounted(scratch));
        });
    });
}

#[test]
fn layers_are_stacked_and_an_empty_image_mounts() {
    in_namespace("mounts::layers_are_stacked_and_an_empty_image_mounts", || {
        let scratch = Scratch::new();
        let at = tempfile::tempdir_in(crate::support::DISK).unwrap();
        let lower = Piece::layer(&tar(&[("gone", b"1"), ("kept", b"2"), ("changed", b"3")]), Compression::Gzip);
        let upper = Piece::layer(&tar(&[(".wh.gone", b""), ("changed", b"4")]), Compression::Zstd);
        for (name, layers) in
            [("stack", vec![lower.clone(), upper, lower.clone()]), ("flat", vec![lower]), ("empty", vec![])]
        {
            let (record, _leases) = record(scratch.store(), name, ImageKind::Image, &layers);
            scratch.store().commit_held(record, &names(name), &command(1)).unwrap();
        }
        let list = |image: &str| {
            stage(scratch.store(), image, at.path(), Backend::ErofsLoop);
            let entries = fs::read_dir(at.path()).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<_> = entries
                .map(|path| {
                    let name = path.file_name().unwrap().to_string_lossy().into_owned();
                    (name, fs::read_to_string(path).unwrap())
                })
                .collect();
            files.sort();
            Kernel.unmount(at.path()).unwrap();
            files
        };
        let files = |names: &[(&str, &str)]| {
            names.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(list("flat"), files(&[("changed", "3"), ("gone", "1"), ("kept", "2")]));
        assert_eq!(list("stack"), files(&[("changed", "3"), ("gone", "1"), ("kept", "2")]));
        assert_eq!(list("empty"), files(&[]));
        let (record, _leases) = {
            let lower = Piece::layer(&tar(&[("gone", b"1"), ("kept", b"2")]), Compression::Gzip);
            let upper = Piece::layer(&tar(&[(".wh.gone", b"")]), Compression::Gzip);
            record(scratch.store(), "whiteout", ImageKind::Image, &[lower, upper])
        };
        scratch.store().commit_held(record, &names("whiteout"), &command(1)).unwrap();
        assert_eq!(list("whiteout"), files(&[("kept", "2")]));
    });
}
