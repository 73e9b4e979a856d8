use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn mount(id: u64, parent: u64, at: &str) -> MountPoint {
    MountPoint {
        id,
        parent,
        device: DeviceNumber { major: 0, minor: 1 },
        root: "/".into(),
        at: at.into(),
        options: "ro".into(),
        fs_type: "erofs".into(),
        source: "none".into(),
        super_options: "ro".into(),
    }
}

/// The kernel's `mangle`: escapes space, tab, newline and backslash.
fn mangle(bytes: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![*byte],
    };
    bytes.iter().flat_map(escape).collect()
}

fn render(mount: &MountPoint, propagation: &str) -> Vec<u8> {
    [
        format!("{} {} {}", mount.id, mount.parent, mount.device).into_bytes(),
        mangle(mount.root.as_os_str().as_bytes()),
        mangle(mount.at.as_os_str().as_bytes()),
        format!("{}{propagation} -", mount.options).into_bytes(),
        mangle(mount.fs_type.as_bytes()),
        mangle(mount.source.as_bytes()),
        mangle(mount.super_options.as_bytes()),
    ]
    .join(&b' ')
}

#[test]
fn reads_the_manual_pages_example() {
    let line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n";
    let expected = MountPoint {
        id: 36,
        parent: 35,
        device: DeviceNumber { major: 98, minor: 0 },
        root: "/mnt1".into(),
        at: "/mnt2".into(),
        options: "rw,noatime".into(),
        fs_type: "ext3".into(),
        source: "/dev/root".into(),
        super_options: "rw,errors=continue".into(),
    };
    assert_eq!(parse(line).unwrap(), [expected]);
}

#[rstest]
#[case::no_propagation("1 2 0:5 / /a ro - erofs x ro", "/a", "x")]
#[case::three_propagation_fields("1 2 0:5 / /a ro shared:1 master:2 propagate_from:3 - erofs x ro", "/a", "x")]
#[case::escapes(r"1 2 0:5 / /a\040b\011c\012d\134e ro - erofs x\040y ro", "/a b\tc\nd\\e", "x y")]
#[case::escaped_backslash_before_digits(r"1 2 0:5 / /a\134040 ro - erofs x ro", r"/a\040", "x")]
#[case::lone_backslash(r"1 2 0:5 / /a\9\04 ro - erofs x ro", r"/a\9\04", "x")]
#[case::empty_source("1 2 0:5 / /a ro - erofs  ro", "/a", "")]
#[case::mount_point_named_hyphen("1 2 0:5 / - ro - erofs x ro", "-", "x")]
fn reads(#[case] line: &str, #[case] at: &str, #[case] source: &str) {
    let mounts = parse(line.as_bytes()).unwrap();
    assert_eq!((mounts[0].at.to_str(), mounts[0].source.to_str()), (Some(at), Some(source)));
    assert!(mounts[0].has_option("ro") && !mounts[0].has_option("r"));
}

#[rstest]
#[case("1 2 0:5 / /a ro")]
#[case("1 2 0:5 / /a ro shared:1 erofs x ro")]
#[case("x 2 0:5 / /a ro - erofs x ro")]
#[case("1 2 05 / /a ro - erofs x ro")]
#[case("1 2 0: / /a ro - erofs x ro")]
#[case("1 2 0:5 / /a ro - erofs x")]
fn refuses(#[case] line: &str) {
    let error = parse(line.as_bytes()).unwrap_err();
    assert!(matches!(error, MountError::MountTable { line: told } if told == line));
}

#[test]
fn the_top_of_a_stack_is_the_mount_that_no_other_lies_on() {
    let mounts = vec![mount(9, 4, "/a"), mount(4, 7, "/a"), mount(7, 1, "/a"), mount(12, 9, "/a/b")];
    assert_eq!(top_at(mounts.clone(), Path::new("/a")).unwrap().id, 9);
    assert!(top_at(mounts, Path::new("/a/c")).is_none());
}

#[test]
fn reads_the_running_kernels_table() {
    assert!(read().unwrap().iter().any(|mount| mount.at == Path::new("/")));
}

proptest! {
    #[test]
    fn what_the_kernel_writes_is_read_back(
        id: u64, parent: u64, major: u32, minor: u32,
        root in prop::collection::vec(1u8.., 0..20),
        at in prop::collection::vec(1u8.., 0..20),
        source in prop::collection::vec(1u8.., 0..20),
        propagation in prop::sample::select(vec!["", " shared:1", " shared:1 master:2", " unbindable"]),
    ) {
        let mount = MountPoint {
            id, parent,
            device: DeviceNumber { major, minor },
            root: OsString::from_vec(root).into(),
            at: OsString::from_vec(at).into(),
            source: OsString::from_vec(source),
            ..mount(0, 0, "")
        };
        prop_assert_eq!(parse(&render(&mount, propagation)).unwrap(), [mount]);
    }

    #[test]
    fn no_table_makes_it_panic(table in prop::collection::vec(any::<u8>(), 0..200)) {
        let _outcome = parse(&table);
    }

    #[test]
    fn no_line_of_likely_bytes_makes_it_panic(line in r"[0-9: \\/a,-]{0,60}") {
        let _outcome = parse(line.as_bytes());
    }
}
