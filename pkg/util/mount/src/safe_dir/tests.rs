use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn scratch() -> (tempfile::TempDir, SafeDir) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let safe = SafeDir::open(dir.path()).unwrap();
    (dir, safe)
}

fn names(dir: &SafeDir) -> Vec<(String, FileKind)> {
    let mut names: Vec<_> =
        dir.entries().unwrap().into_iter().map(|entry| (entry.name.into_string().unwrap(), entry.kind)).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names
}

#[rstest]
#[case("")]
#[case(".")]
#[case("..")]
#[case("a/b")]
#[case("/")]
#[case("a\0")]
#[case(&"x".repeat(256))]
fn refuses_what_is_no_name(#[case] name: &str) {
    let (_dir, safe) = scratch();
    let refused = [
        safe.open_dir(name).map(drop),
        safe.make_dir(name, 0o700).map(drop),
        safe.make_file(name).map(drop),
        safe.open_path(name).map(drop),
        safe.open_file(name).map(drop),
        safe.remove_file(name),
        safe.remove_dir(name),
        safe.remove_tree_no_xdev(name),
        safe.is_mount_point(name).map(drop),
    ];
    assert!(refused.iter().all(|result| matches!(result, Err(DirError::Name { .. }))));
}

#[test]
fn makes_a_directory_with_its_exact_mode_and_takes_one_that_exists() {
    let (dir, safe) = scratch();
    let made = safe.make_dir("a", 0o777).unwrap();
    assert_eq!(made.path(), dir.path().join("a"));
    assert_eq!(fs::metadata(made.path()).unwrap().permissions().mode() & 0o7777, 0o777);
    safe.make_dir("a", 0o700).unwrap();
    assert_eq!(fs::metadata(made.path()).unwrap().permissions().mode() & 0o7777, 0o777);
}

#[test]
fn makes_an_empty_file_once() {
    let (dir, safe) = scratch();
    safe.make_file("f").unwrap();
    fs::write(dir.path().join("f"), "kept").unwrap();
    safe.make_file("f").unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"kept");
}

#[test]
fn symlinks_are_never_followed() {
    let (dir, safe) = scratch();
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(outside.path().join("file"), "").unwrap();
    symlink(outside.path(), dir.path().join("dir")).unwrap();
    symlink(outside.path().join("file"), dir.path().join("file")).unwrap();
    symlink("nowhere", dir.path().join("dangling")).unwrap();
    assert_eq!(safe.open_dir("dir").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert_eq!(safe.open_path("file").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    let way = [
        safe.make_dir("dir", 0o700).unwrap_err(),
        safe.make_file("file").unwrap_err(),
        safe.make_file("dangling").unwrap_err(),
    ];
    assert!(way.iter().all(|error| matches!(error, DirError::InTheWay { kind: FileKind::Symlink, .. })));
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn the_wrong_kind_in_the_way_is_told() {
    let (dir, safe) = scratch();
    safe.make_file("f").unwrap();
    safe.make_dir("d", 0o700).unwrap();
    let expected = format!("{} exists and is a regular file", dir.path().join("f").display());
    assert_eq!(safe.make_dir("f", 0o700).unwrap_err().to_string(), expected);
    assert!(matches!(safe.make_file("d").unwrap_err(), DirError::InTheWay { kind: FileKind::Directory, .. }));
}

#[test]
fn a_moved_directory_is_still_the_same() {
    let (dir, safe) = scratch();
    let inner = safe.make_dir("a", 0o700).unwrap();
    fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
    symlink("/etc", dir.path().join("a")).unwrap();
    inner.make_file("here").unwrap();
    assert!(dir.path().join("b/here").exists());
}

#[test]
fn entries_tell_name_and_kind() {
    let (dir, safe) = scratch();
    assert_eq!(names(&safe), []);
    safe.make_dir("d", 0o700).unwrap();
    safe.make_file("f").unwrap();
    symlink("x", dir.path().join("s")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("p"), Mode::S_IRUSR).unwrap();
    let expected = [
        ("d".to_owned(), FileKind::Directory),
        ("f".to_owned(), FileKind::Regular),
        ("p".to_owned(), FileKind::Fifo),
        ("s".to_owned(), FileKind::Symlink),
    ];
    assert_eq!(names(&safe), expected);
    // Reading does not move a cursor that a second reading would start from.
    assert_eq!(names(&safe), expected);
}

#[test]
fn removes_files_and_empty_directories_only() {
    let (dir, safe) = scratch();
    safe.make_dir("d", 0o700).unwrap().make_file("f").unwrap();
    assert_eq!(safe.remove_dir("d").unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(safe.remove_file("d").unwrap_err().raw_os_error(), Some(libc::EISDIR));
    assert!(safe.remove_file("missing").unwrap_err().is_not_found());
    symlink("d", dir.path().join("s")).unwrap();
    safe.remove_file("s").unwrap();
    assert_eq!(names(&safe), [("d".to_owned(), FileKind::Directory)]);
}

#[test]
fn removes_a_tree_without_following_symlinks() {
    let (dir, safe) = scratch();
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(outside.path().join("kept"), "").unwrap();
    let deep = safe.make_dir("t", 0o700).unwrap().make_dir("a", 0o700).unwrap().make_dir("b", 0o700).unwrap();
    deep.make_file("f").unwrap();
    symlink(outside.path(), deep.path().join("s")).unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    safe.remove_tree_no_xdev("t").unwrap();
    assert_eq!(safe.remove_tree_no_xdev("link").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert!(safe.remove_tree_no_xdev("t").unwrap_err().is_not_found());
    assert!(outside.path().join("kept").exists());
    assert_eq!(names(&safe), [("link".to_owned(), FileKind::Symlink)]);
}

#[test]
fn refuses_a_tree_that_is_too_deep() {
    let (_dir, safe) = scratch();
    let mut deepest = safe.make_dir("t", 0o700).unwrap();
    for _ in 0..100 {
        deepest = deepest.make_dir("t", 0o700).unwrap();
    }
    assert!(matches!(safe.remove_tree_no_xdev("t"), Err(DirError::TooDeep { .. })));
    assert!(deepest.path().exists());
    // One level less is removed.
    let inner = safe.open_dir("t").unwrap();
    inner.remove_tree_no_xdev("t").unwrap();
    safe.remove_tree_no_xdev("t").unwrap();
}

#[test]
fn knows_mount_points_from_plain_entries() {
    let root = SafeDir::open(Path::new("/")).unwrap();
    assert!(root.is_mount_point("proc").unwrap());
    assert!(!root.is_mount_point("etc").unwrap());
    assert!(!root.is_mount_point("no such name").unwrap());
}

proptest! {
    #[test]
    fn no_name_reaches_outside(name in "[./a\0]{0,6}") {
        let (dir, safe) = scratch();
        if let Ok(made) = safe.make_dir(&name, 0o700) {
            prop_assert_eq!(made.path().parent(), Some(dir.path()));
            prop_assert!(dir.path().join(&name).is_dir());
            prop_assert_eq!(names(&safe).len(), 1);
        }
    }
}

#[test]
fn reads_regular_files_alone() {
    let (dir, safe) = scratch();
    fs::write(dir.path().join("file"), "content").unwrap();
    symlink("file", dir.path().join("link")).unwrap();
    nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
    safe.make_dir("dir", 0o700).unwrap();
    assert_eq!(io::read_to_string(safe.open_file("file").unwrap()).unwrap(), "content");
    for other in ["link", "pipe", "dir"] {
        assert!(matches!(safe.open_file(other), Err(DirError::InTheWay { .. })), "{other}");
    }
    assert!(safe.open_file("none").unwrap_err().is_not_found());
}
