use std::collections::BTreeMap;

use imagevol_erofs::Attributes;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::archive::{Archive, RawHeader, parse, parse_in};
use crate::entry::{Entry, Kind, Segment};
use crate::error::Shown;
use crate::{EntryPath, PathProblem};

fn entries(index: &LayerIndex) -> Vec<Entry> {
    index.entries().collect::<Result<_>>().unwrap()
}

fn names(archive: Archive) -> Vec<String> {
    let entries = entries(&archive.index());
    entries.iter().map(|entry| String::from_utf8_lossy(entry.path.as_bytes()).into_owned()).collect()
}

fn only(archive: Archive) -> Entry {
    let mut entries = entries(&archive.index());
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

fn attributes(archive: Archive) -> Attributes {
    only(archive).kind.attributes().unwrap().clone()
}

fn path_error(raw: &[u8], problem: PathProblem) -> LayerError {
    LayerError::Path { path: Shown::new(raw), problem }
}

fn tar() -> Archive {
    Archive::default()
}

fn file(name: &str) -> RawHeader {
    RawHeader::new(name, b'0')
}

#[test]
fn reads_every_type_with_its_place_in_the_archive() {
    let index = tar()
        .dir("d/", 0o1755)
        .file("d/f", "hello")
        .symlink("d/s", "../../x")
        .hard_link("d/h", "/d/f")
        .header(RawHeader::new("c", b'3').with(329, b"0000001\0").with(337, b"0000003\0"))
        .header(RawHeader::new("b", b'4').with(329, b"0000010\0"))
        .header(RawHeader::new("p", b'6'))
        .file("d/.wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .index();
    let plain = |mode| Attributes { mode, mtime: 100, ..Attributes::default() };
    let path = |raw: &str| EntryPath::parse(raw.as_bytes()).unwrap();
    let segments = vec![Segment { file_offset: 0, tar_offset: 1024, length: 5 }];
    let expected = [
        ("d", Kind::Directory(plain(0o1755))),
        ("d/f", Kind::File { attributes: plain(0o644), size: 5, segments }),
        ("d/s", Kind::Symlink { attributes: plain(0o644), target: b"../../x".to_vec() }),
        ("d/h", Kind::HardLink { target: path("d/f") }),
        ("c", Kind::CharDevice { attributes: plain(0o644), major: 1, minor: 3 }),
        ("b", Kind::BlockDevice { attributes: plain(0o644), major: 8, minor: 0 }),
        ("p", Kind::Fifo(plain(0o644))),
        ("d/gone", Kind::Whiteout),
        ("d", Kind::Opaque),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(name, kind)| Entry { path: path(name), kind }).collect();
    assert_eq!(entries(&index), expected);
    assert_eq!(index.tar_size(), 12 * 512);
    let counts = index.counts();
    assert_eq!((counts.entries(), counts.files, counts.file_bytes, counts.special, counts.whiteouts), (9, 1, 5, 3, 2));
}

/// Names.
#[rstest]
#[case::absolute(file("/etc/x"), Ok("etc/x"))]
#[case::doubled_slash(file("//etc/x"), Ok("etc/x"))]
#[case::dots(file("/./x"), Ok("x"))]
#[case::up(file("../x"), Err(PathProblem::Parent))]
#[case::up_and_out(file("a/../../x"), Err(PathProblem::Parent))]
#[case::ends_up(file("a/.."), Err(PathProblem::Parent))]
#[case::up_to_whiteout(file("dne/../.wh.etc"), Err(PathProblem::Parent))]
#[case::symlink_named_up(RawHeader::new("..", b'2').link("/etc/"), Err(PathProblem::Parent))]
#[case::dot_symlink(RawHeader::new(".", b'2').link("/"), Err(PathProblem::Root))]
#[case::dot_slash_symlink(RawHeader::new("./", b'2').link("/"), Err(PathProblem::Root))]
#[case::dot_hard_link(RawHeader::new(".", b'1').link("x"), Err(PathProblem::Root))]
#[case::root_file(file("/"), Err(PathProblem::Root))]
#[case::empty_file(file(""), Err(PathProblem::Root))]
#[case::empty_symlink(RawHeader::new("", b'2').link("/etc/"), Err(PathProblem::Root))]
#[case::root_directory(RawHeader::new("/", b'5'), Ok(""))]
#[case::dot_directory(RawHeader::new("./", b'5'), Ok(""))]
#[case::empty_directory(RawHeader::new("", b'5'), Ok(""))]
#[case::bare_whiteout(file(".wh."), Err(PathProblem::Whiteout))]
#[case::whiteout_of_itself(file(".wh.."), Err(PathProblem::Whiteout))]
#[case::whiteout_of_parent(file("d/.wh..."), Err(PathProblem::Whiteout))]
#[case::whiteout_of_wh(file(".wh.wh.x"), Ok("wh.x"))]
#[case::whiteout_of_any_type(RawHeader::new("d/.wh.x", b'2'), Ok("d/x"))]
#[case::opaque_of_any_type(RawHeader::new("d/.wh..wh..opq/", b'5'), Ok("d"))]
#[case::file_with_a_slash(file("f/"), Ok("f"))]
#[case::odd_bytes(RawHeader::new(b"\xff \n\\\xe2\x80\xae ", b'0'), Ok("\u{fffd} \n\\\u{202e} "))]
#[case::our_own_markers(file("manifest.json"), Ok("manifest.json"))]
fn names_are_confined_or_refused(#[case] header: RawHeader, #[case] expected: Result<&str, PathProblem>) {
    let raw: Vec<u8> = header.0[..100].split(|byte| *byte == 0).next().unwrap().to_vec();
    match expected {
        Ok(name) => assert_eq!(names(tar().header(header)), [name]),
        Err(problem) => assert_eq!(tar().header(header).parse(), Err(path_error(&raw, problem))),
    }
}

#[test]
fn aufs_bookkeeping_is_skipped() {
    let archive =
        tar().dir(".wh..wh.plnk/", 0o700).file(".wh..wh.plnk/1.2", "secret").file(".wh..wh.aufs", "").file("f", "");
    assert_eq!(names(archive), ["f"]);
}

/// Long names.
#[rstest]
#[case::component(&[b'a'; 256], PathProblem::NameTooLong)]
#[case::path(&b"a/".repeat(2500), PathProblem::TooLong)]
fn long_names_are_refused(#[case] name: &[u8], #[case] problem: PathProblem) {
    let refused = path_error(name, problem);
    assert_eq!(tar().long(b'L', name).file("x", "").parse(), Err(refused.clone()));
    assert_eq!(tar().pax(b'x', &[("path", name)]).file("x", "").parse(), Err(refused));
}

#[test]
fn long_names_up_to_the_limits_are_read() {
    let name = ["a".repeat(255).as_str(); 16].join("/");
    assert_eq!(names(tar().long(b'L', name.as_bytes()).file("x", "")), [name.as_str()]);
    assert_eq!(names(tar().pax(b'x', &[("path", name.as_bytes())]).file("x", "")), [name]);
    let link = tar().long(b'K', b"target/of/link").header(RawHeader::new("l", b'2').gnu());
    assert!(matches!(only(link).kind, Kind::Symlink { target, .. } if target == b"target/of/link"));
}

#[rstest]
#[case::ustar(file("n").with(345, b"a/prefix"), "a/prefix/n")]
#[case::star(file("n").with(345, b"a/prefix").with(508, b"tar\0"), "a/prefix/n")]
#[case::gnu_has_none(file("n").gnu().with(345, b"00000000000\0"), "n")]
#[case::gnu_as_old_go_wrote_it(file("n").gnu().with(345, b"a/prefix"), "a/prefix/n")]
#[case::v7_has_none(file("n").with(257, &[0; 8]).with(345, b"a/prefix"), "n")]
fn prefixes(#[case] header: RawHeader, #[case] name: &str) {
    assert_eq!(names(tar().header(header)), [name]);
}

/// Types.
#[rstest]
#[case::contiguous(RawHeader::new("f", b'7'), "file")]
#[case::v7(RawHeader::new("f", 0).with(257, &[0; 8]), "file")]
#[case::v7_directory(RawHeader::new("f/", 0).with(257, &[0; 8]), "directory")]
#[case::overlay_whiteout_is_an_inert_node(RawHeader::new("f", b'3'), "char")]
fn types(#[case] header: RawHeader, #[case] expected: &str) {
    let kind = only(tar().header(header)).kind;
    let seen = [
        ("file", matches!(kind, Kind::File { .. })),
        ("directory", matches!(kind, Kind::Directory(_))),
        ("char", matches!(kind, Kind::CharDevice { major: 0, minor: 0, .. })),
    ];
    assert!(seen.contains(&(expected, true)), "{kind:?}");
}

#[rstest]
#[case(b'D')]
#[case(b'V')]
#[case(b'M')]
#[case(b'N')]
#[case(b'X')]
#[case(b'8')]
#[case(0xff)]
fn unknown_types_are_refused(#[case] flag: u8) {
    let refused = LayerError::UnknownType { path: Shown::new(b"f"), flag };
    assert_eq!(tar().entry(RawHeader::new("f", flag), "data").parse(), Err(refused));
}

#[rstest]
#[case::major_most(b"0007777\0", b"3777777\0", true)]
#[case::major_too_large(b"0010000\0", b"0000000\0", false)]
#[case::minor_too_large(b"0000000\0", b"4000000\0", false)]
#[case::negative(b"\xff\xff\xff\xff\xff\xff\xff\xff", b"0000000\0", false)]
#[case::beyond_32_bits(b"\x80\0\0\x01\0\0\0\0", b"0000000\0", false)]
fn device_numbers(#[case] major: &[u8; 8], #[case] minor: &[u8; 8], #[case] fits: bool) {
    let header = RawHeader::new("d", b'4').with(329, major).with(337, minor);
    let parsed = tar().header(header).parse();
    assert_eq!(parsed.is_ok(), fits);
    assert!(fits || parsed == Err(LayerError::Device { path: Shown::new(b"d") }));
}

/// Owners.
#[rstest]
#[case::octal_edge(file("f").with(108, b"7777777\0"), Some(0o7_777_777))]
#[case::above_2_31(file("f").with(108, b"\x80\0\0\0\x80\0\0\x01"), Some(0x8000_0001))]
#[case::most(file("f").with(108, b"\x80\0\0\0\xff\xff\xff\xfe"), Some(0xffff_fffe))]
#[case::minus_one(file("f").with(108, b"\x80\0\0\0\xff\xff\xff\xff"), None)]
#[case::wraps_to_root(file("f").with(108, b"\x80\0\0\x01\0\0\0\0"), None)]
#[case::negative(file("f").with(108, b"\xff\xff\xff\xff\xff\xff\xff\xff"), None)]
fn owners_in_headers(#[case] header: RawHeader, #[case] uid: Option<u32>) {
    let archive = tar().header(header);
    match uid {
        Some(uid) => assert_eq!(attributes(archive).uid, uid),
        None => assert_eq!(archive.parse(), Err(LayerError::Owner { path: Shown::new(b"f"), field: "uid" })),
    }
}

#[rstest]
#[case(b"4294967294", Some(0xffff_fffe))]
#[case(b"4294967295", None)]
#[case(b"4294967296", None)]
#[case(b"-1", None)]
fn owners_in_pax(#[case] gid: &[u8], #[case] expected: Option<u32>) {
    let archive = tar().pax(b'x', &[("gid", gid)]).file("f", "");
    match expected {
        Some(gid) => assert_eq!(attributes(archive).gid, gid),
        None => assert_eq!(archive.parse(), Err(LayerError::Owner { path: Shown::new(b"f"), field: "gid" })),
    }
}

/// Times.
#[rstest]
#[case::header(tar().file("f", ""), (100, 0))]
#[case::negative_header(tar().header(file("f").with(136, &[0xff; 12])), (-1, 0))]
#[case::fraction(tar().pax(b'x', &[("mtime", b"1.25")]).file("f", ""), (1, 250_000_000))]
#[case::negative(tar().pax(b'x', &[("mtime", b"-1.25")]).file("f", ""), (-2, 750_000_000))]
#[case::year_9999(tar().pax(b'x', &[("mtime", b"253402300799")]).file("f", ""), (253_402_300_799, 0))]
#[case::huge(tar().pax(b'x', &[("mtime", &[b'9'; 300])]).file("f", ""), (i64::MAX, 0))]
fn times(#[case] archive: Archive, #[case] expected: (i64, u32)) {
    let attributes = attributes(archive);
    assert_eq!((attributes.mtime, attributes.mtime_nsec), expected);
}

/// Modes.
#[test]
fn type_bits_above_the_mode_are_cut_off() {
    assert_eq!(attributes(tar().header(file("f").mode(0o106_755))).mode, 0o6755);
}

/// Extended attributes.
#[test]
fn only_inert_xattrs_reach_the_image() {
    let names = [
        "user.a",
        "security.capability",
        "security.selinux",
        "security.ima",
        "trusted.overlay.opaque",
        "trusted.x",
        "user.overlay.redirect",
        "system.posix_acl_access",
        "com.apple.x",
    ];
    let keys: Vec<String> = names.iter().map(|name| format!("SCHILY.xattr.{name}")).collect();
    let records: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), b"\0v\n".as_slice())).collect();
    let kept: BTreeMap<_, _> = ["security.capability", "user.a"]
        .into_iter()
        .map(|name| (name.as_bytes().to_vec(), b"\0v\n".to_vec()))
        .collect();
    assert_eq!(attributes(tar().pax(b'x', &records).file("f", "")).xattrs, kept);
}

#[rstest]
#[case::most(65_535, 1, true)]
#[case::value_too_long(65_536, 1, false)]
#[case::thousand(20, 1000, true)]
#[case::too_much_together(40_000, 4, false)]
fn xattrs_are_bounded(#[case] length: usize, #[case] count: usize, #[case] fits: bool) {
    let value = vec![b'v'; length];
    let keys: Vec<String> = (0..count).map(|number| format!("SCHILY.xattr.user.{number}")).collect();
    let records: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), value.as_slice())).collect();
    let parsed = tar().pax(b'x', &records).file("f", "").parse();
    assert_eq!(parsed.is_ok(), fits);
    assert!(fits || parsed == Err(LayerError::Xattr { path: Shown::new(b"f") }));
}

/// Link targets.
#[rstest]
#[case::absolute("/etc/passwd", Ok("etc/passwd"))]
#[case::relative_means_the_root("passwd", Ok("passwd"))]
#[case::up("../../../../etc/passwd", Err(PathProblem::Parent))]
#[case::root("/", Err(PathProblem::Root))]
#[case::empty("", Err(PathProblem::Root))]
fn hard_link_targets(#[case] target: &str, #[case] expected: Result<&str, PathProblem>) {
    let archive = tar().hard_link("d/l", target);
    match expected {
        Ok(path) => {
            let target = EntryPath::parse(path.as_bytes()).unwrap();
            assert_eq!(only(archive).kind, Kind::HardLink { target });
        }
        Err(problem) => {
            assert_eq!(archive.parse(), Err(LayerError::LinkTarget { path: Shown::new(b"d/l"), problem }));
        }
    }
}

#[test]
fn symlink_targets_are_bounded_text() {
    let refused = |problem| Err(LayerError::LinkTarget { path: Shown::new(b"l"), problem });
    assert_eq!(tar().symlink("l", "").parse(), refused(PathProblem::Root));
    let link = |target: &[u8]| tar().pax(b'x', &[("linkpath", target)]).header(RawHeader::new("l", b'2')).parse();
    assert!(link(&[b'a'; 4095]).is_ok());
    assert_eq!(link(&[b'a'; 4096]), refused(PathProblem::TooLong));
}

/// Sizes. PAX counts; what no reader agrees about is refused.
#[test]
fn pax_size_counts_over_the_header() {
    let inner = tar().file("smuggled", "x").0;
    let length = inner.len().to_string();
    for header_size in [0, 3] {
        let archive = tar().pax(b'x', &[("size", length.as_bytes())]).header(file("f").size(header_size)).raw(&inner);
        assert_eq!(names(archive.file("g", "")), ["f", "g"]);
    }
}

#[test]
fn base_256_size_is_read() {
    let archive = tar().header(file("f").with(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x05")).padded("hello");
    assert!(matches!(only(archive).kind, Kind::File { size: 5, .. }));
}

#[rstest]
#[case::negative(file("f").with(124, &[0xff; 12]))]
#[case::wraps_to_five(file("f").with(124, b"\x80\0\0\x01\0\0\0\0\0\0\0\x05"))]
#[case::no_number(file("f").with(124, b"0000000000x\0"))]
#[case::position_overflows(file("f").with(124, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"))]
fn sizes_out_of_range_are_refused(#[case] header: RawHeader) {
    let parsed = tar().header(header).parse();
    assert!(
        matches!(parsed, Err(LayerError::Number { field: "size", .. } | LayerError::Truncated { .. })),
        "{parsed:?}"
    );
}

/// Go ignores the size of what has no data, and so must we: else one archive has two contents.
#[rstest]
#[case(b'1')]
#[case(b'2')]
#[case(b'3')]
#[case(b'4')]
#[case(b'5')]
#[case(b'6')]
fn types_without_data_have_none_whatever_their_size(#[case] flag: u8) {
    let archive = tar().header(RawHeader::new("e", flag).link("f").size(512)).file("f", "");
    assert_eq!(names(archive), ["e", "f"]);
}

/// Extended headers.
#[test]
fn extended_headers_describe_the_next_entry_only() {
    let archive = tar().pax(b'x', &[("uid", b"7"), ("comment", b"x")]).long(b'L', b"long").file("a", "").file("b", "");
    let entries = entries(&archive.index());
    let owners: Vec<_> = entries.iter().map(|entry| entry.kind.attributes().unwrap().uid).collect();
    assert_eq!((entries[0].path.as_bytes(), owners), (b"long".as_slice(), vec![7, 0]));
}

#[test]
fn global_headers_hold_until_taken_back() {
    let archive = tar()
        .pax(b'g', &[("gid", b"5"), ("mtime", b"9")])
        .file("a", "")
        .pax(b'x', &[("gid", b"6")])
        .file("b", "")
        .pax(b'x', &[("gid", b"")])
        .file("c", "");
    let entries = entries(&archive.index());
    let seen: Vec<_> = entries.iter().map(|entry| entry.kind.attributes().unwrap()).map(|a| (a.gid, a.mtime)).collect();
    assert_eq!(seen, [(5, 9), (6, 9), (0, 9)]);
}

#[rstest]
#[case::two_pax(tar().pax(b'x', &[("uid", b"7")]).pax(b'x', &[("uid", b"8")]).file("f", ""), LayerError::Repeated { at: 1024, extension: Extension::Pax })]
#[case::two_names(tar().long(b'L', b"a").long(b'L', b"b").file("f", ""), LayerError::Repeated { at: 1024, extension: Extension::LongName })]
#[case::two_links(tar().long(b'K', b"a").long(b'K', b"b").file("f", ""), LayerError::Repeated { at: 1024, extension: Extension::LongLink })]
#[case::at_the_end(tar().pax(b'x', &[("uid", b"7")]), LayerError::Dangling { at: 1024 })]
#[case::before_a_global_one(tar().pax(b'x', &[("uid", b"7")]).pax(b'g', &[]).file("f", ""), LayerError::Dangling { at: 1024 })]
#[case::two_names_for_one(tar().pax(b'x', &[("path", b"a")]).long(b'L', b"b").file("f", ""), LayerError::ContradictingNames { at: 2048 })]
#[case::global_path(tar().pax(b'g', &[("path", b"a")]), LayerError::PaxGlobal { at: 0, key: Shown::new(b"path") })]
#[case::global_size(tar().pax(b'g', &[("size", b"1")]), LayerError::PaxGlobal { at: 0, key: Shown::new(b"size") })]
#[case::malformed(tar().entry(RawHeader::new("p", b'x'), "8 uid=7\n\0"), LayerError::PaxRecord { at: 0 })]
fn ambiguous_extended_headers_are_refused(#[case] archive: Archive, #[case] refused: LayerError) {
    assert_eq!(archive.parse(), Err(refused));
}

/// Metadata.
#[rstest]
#[case::pax_of_1_gib(tar().header(RawHeader::new("p", b'x').size(1 << 30)))]
#[case::global_of_1_gib(tar().header(RawHeader::new("p", b'g').size(1 << 30)))]
#[case::name_of_2_mib(tar().header(RawHeader::new("p", b'L').size(2 << 20)))]
#[case::together(tar().long(b'L', &b"a".repeat(600_000)).long(b'K', &b"b".repeat(600_000)))]
fn metadata_is_bounded(#[case] archive: Archive) {
    assert!(matches!(archive.parse(), Err(LayerError::MetadataTooLarge { limit: 1_048_576, .. })));
}

#[test]
fn a_million_records_cost_no_more_than_their_bytes() {
    let records: Vec<(&str, &[u8])> = vec![("a", b"".as_slice()); 200_000];
    assert_eq!(names(tar().pax(b'x', &records[..190_000]).file("f", "")), ["f"]);
}

/// Sparse files.
fn old_gnu(runs: &[(u64, u64)], size: u64, more: u8) -> RawHeader {
    let mut header = RawHeader::new("s", b'S').gnu();
    for (number, (offset, length)) in runs.iter().enumerate() {
        header.put(386 + number * 24, format!("{offset:011o}\0{length:011o}\0").as_bytes());
    }
    header.0[482] = more;
    header.with(483, format!("{size:011o}\0").as_bytes())
}

fn block(runs: &[(u64, u64)], more: u8) -> Vec<u8> {
    let mut block: Vec<u8> =
        runs.iter().flat_map(|(offset, length)| format!("{offset:011o}\0{length:011o}\0").into_bytes()).collect();
    block.resize(504, 0);
    block.push(more);
    block.resize(512, 0);
    block
}

fn sparse_pax(records: &[(&str, &str)], data: Vec<u8>) -> Archive {
    let records: Vec<(&str, &[u8])> = records.iter().map(|(key, value)| (*key, value.as_bytes())).collect();
    tar().pax(b'x', &records).entry(file("GNUSparseFile.1/s"), data)
}

fn version_1_0(map: &str, size: &str, data: &[u8]) -> Archive {
    let mut bytes = map.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend_from_slice(data);
    let records =
        [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s"), ("GNU.sparse.realsize", size)];
    sparse_pax(&records, bytes)
}

/// The same file in each format: 512 bytes at 1024 and 100 at 4096, 4196 bytes in all; the data's place differs.
#[rstest]
#[case::old_gnu(tar().header(old_gnu(&[(1024, 512), (4096, 100)], 4196, 0).size(612)).padded([1; 612]), 512)]
#[case::old_gnu_in_blocks(tar().header(old_gnu(&[(1024, 512)], 4196, 1).size(612)).raw(block(&[], 1)).raw(block(&[(4096, 100)], 0)).padded([1; 612]), 1536)]
#[case::version_0_0(sparse_pax(&[("GNU.sparse.size", "4196"), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.offset", "1024"), ("GNU.sparse.numbytes", "512"), ("GNU.sparse.offset", "4096"), ("GNU.sparse.numbytes", "100"), ("path", "s")], vec![1; 612]), 1536)]
#[case::version_0_1(sparse_pax(&[("GNU.sparse.size", "4196"), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.name", "s"), ("GNU.sparse.map", "1024,512,4096,100")], vec![1; 612]), 1536)]
#[case::version_1_0(version_1_0("2\n1024\n512\n4096\n100\n", "4196", &[1; 612]), 2048)]
fn sparse_files_are_mapped(#[case] archive: Archive, #[case] data: u64) {
    let entries = entries(&archive.file("after", "").index());
    let segments = vec![
        Segment { file_offset: 1024, tar_offset: data, length: 512 },
        Segment { file_offset: 4096, tar_offset: data + 512, length: 100 },
    ];
    assert_eq!((entries[0].path.as_bytes(), entries[1].path.as_bytes()), (b"s".as_slice(), b"after".as_slice()));
    let Kind::File { size, segments: seen, .. } = &entries[0].kind else { panic!("{entries:?}") };
    assert_eq!((*size, seen), (4196, &segments));
}

#[test]
fn a_file_that_is_one_hole_has_no_segments() {
    let hole = tar().header(old_gnu(&[(4096, 0)], 4096, 0));
    assert!(matches!(only(hole).kind, Kind::File { size: 4096, segments, .. } if segments.is_empty()));
    let hole = version_1_0("1\n9223372036854775807\n0\n", "9223372036854775807", b"");
    assert!(matches!(only(hole).kind, Kind::File { size: 0x7fff_ffff_ffff_ffff, segments, .. } if segments.is_empty()));
}

#[rstest]
#[case::overlap(version_1_0("2\n0\n1024\n512\n512\n", "4096", &[1; 1536]), SparseProblem::Runs)]
#[case::backwards(version_1_0("2\n1024\n512\n0\n512\n", "4096", &[1; 1024]), SparseProblem::Runs)]
#[case::beyond_the_end(version_1_0("1\n4096\n512\n", "4096", &[1; 512]), SparseProblem::Runs)]
#[case::wraps(version_1_0("1\n18446744073709551104\n1024\n", "4096", &[1; 1024]), SparseProblem::Runs)]
#[case::more_than_the_data(version_1_0("1\n0\n1024\n", "4096", &[1; 512]), SparseProblem::Length)]
#[case::less_than_the_data(version_1_0("1\n0\n512\n", "4096", &[1; 1024]), SparseProblem::Length)]
#[case::unaligned(version_1_0("1\n100\n512\n", "4096", &[1; 512]), SparseProblem::Unaligned)]
#[case::unaligned_end(version_1_0("1\n0\n100\n", "4096", &[1; 100]), SparseProblem::Unaligned)]
#[case::no_number(version_1_0("1\n0\nx\n", "4096", b""), SparseProblem::Malformed)]
#[case::ten_million_runs_in_no_data(version_1_0("10000000\n", "4096", b""), SparseProblem::Malformed)]
#[case::eight_exbi_runs(version_1_0("9223372036854775808\n", "4096", b""), SparseProblem::Malformed)]
#[case::longer_than_any_number(version_1_0(&"1".repeat(30), "4096", b""), SparseProblem::Malformed)]
#[case::beyond_loff_t(version_1_0("0\n", "18446744073709551615", b""), SparseProblem::Runs)]
fn sparse_maps_that_cannot_be_pointed_at_are_refused(#[case] archive: Archive, #[case] problem: SparseProblem) {
    let archive = archive.file("after", "");
    match archive.parse() {
        Err(LayerError::Sparse { problem: seen, .. }) => assert_eq!(seen, problem),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::version(sparse_pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")], vec![]), SparseProblem::Version)]
#[case::odd(sparse_pax(&[("GNU.sparse.map", "0")], vec![]), SparseProblem::Malformed)]
#[case::count(sparse_pax(&[("GNU.sparse.map", "0,0"), ("GNU.sparse.numblocks", "2")], vec![]), SparseProblem::Malformed)]
#[case::directory(tar().pax(b'x', &[("GNU.sparse.map", b"0,0")]).dir("d", 0o755), SparseProblem::NotAFile)]
fn sparse_headers_that_make_no_sense_are_refused(#[case] archive: Archive, #[case] problem: SparseProblem) {
    assert!(matches!(archive.parse(), Err(LayerError::Sparse { problem: seen, .. }) if seen == problem));
}

#[test]
fn sparse_maps_are_bounded() {
    let mut archive = tar().header(old_gnu(&[(0, 512)], 1 << 40, 1).size(512));
    for _ in 0..2049 {
        archive = archive.raw(block(&[(512, 0); 21], 1));
    }
    assert!(matches!(archive.parse(), Err(LayerError::MetadataTooLarge { .. })));
    let endless = "1\n".repeat(1 << 20);
    let archive = version_1_0(&format!("{}\n{endless}", 1 << 20), "4096", b"");
    assert!(matches!(archive.parse(), Err(LayerError::MetadataTooLarge { .. })));
}

/// The file's bytes as its segments give them.
fn content(entry: &Entry, archive: &[u8]) -> Vec<u8> {
    let Kind::File { size, segments, .. } = &entry.kind else { panic!("{entry:?}") };
    let place = |offset: u64| usize::try_from(offset).unwrap();
    let mut bytes = vec![0; place(*size)];
    for segment in segments {
        let (to, from, length) = (place(segment.file_offset), place(segment.tar_offset), place(segment.length));
        bytes[to..to + length].copy_from_slice(&archive[from..from + length]);
    }
    bytes
}

/// `None` where there is no GNU tar, which in CI is a failure.
fn gnu_tar(arguments: &[&str], directory: &std::path::Path) -> Option<Vec<u8>> {
    let version = std::process::Command::new("tar").arg("--version").output();
    if !version.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)")) {
        assert!(std::env::var_os("CI").is_none(), "GNU tar is missing");
        eprintln!("SKIPPED: needs GNU tar");
        return None;
    }
    let output = std::process::Command::new("tar").args(arguments).arg("-cf-").arg("s").current_dir(directory).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

#[rstest]
#[case::old_gnu(&["--format=gnu", "-S"])]
#[case::version_0_0(&["--format=pax", "-S", "--sparse-version=0.0"])]
#[case::version_0_1(&["--format=pax", "-S", "--sparse-version=0.1"])]
#[case::version_1_0(&["--format=pax", "-S", "--sparse-version=1.0"])]
#[case::whole(&["--format=ustar"])]
#[case::v7(&["--format=v7"])]
fn what_gnu_tar_writes_reads_back(#[case] arguments: &[&str]) {
    use std::os::unix::fs::FileExt as _;
    let directory = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(directory.path().join("s")).unwrap();
    // More runs than fit in a header, or in one extension block.
    for number in 0..40_u8 {
        file.write_all_at(&[number + 1; 4096], u64::from(number) * 65_536).unwrap();
    }
    file.write_all_at(b"tail", 40 * 65_536).unwrap();
    let Some(archive) = gnu_tar(arguments, directory.path()) else { return };
    let entry = entries(&parse(&archive).unwrap()).remove(0);
    assert_eq!(entry.path.as_bytes(), b"s");
    assert!(content(&entry, &archive) == std::fs::read(directory.path().join("s")).unwrap());
}

/// Checksums.
#[test]
fn checksums_are_verified_unsigned_or_signed() {
    let mut wrong = tar().file("f", "").0;
    wrong[0] = b'g';
    assert_eq!(parse(&wrong), Err(LayerError::Checksum { at: 0 }));
    let mut signed = RawHeader::new(b"\xff\xff", b'0');
    signed.put(148, b"        ");
    let sum: i32 = signed.0.iter().map(|byte| i32::from(byte.cast_signed())).sum();
    signed.put(148, format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(parse(&tar().raw(signed.0).end()).unwrap().counts().files, 1);
    assert_eq!(parse(b"<!DOCTYPE html>".repeat(100).as_slice()), Err(LayerError::Checksum { at: 0 }));
}

/// Ends.
#[rstest]
#[case::no_end_blocks(tar().file("f", "x").0, Ok(1))]
#[case::one_end_block(tar().file("f", "x").raw([0; 512]).0, Ok(1))]
#[case::trailing_garbage(tar().file("f", "x").raw([0; 1024]).raw("garbage").0, Ok(1))]
#[case::second_archive(tar().file("f", "x").raw([0; 1024]).file("g", "").raw([0; 1024]).0, Ok(1))]
#[case::ends_with_zeros(vec![0; 10_240], Ok(0))]
#[case::one_zero_block(vec![0; 512], Ok(0))]
#[case::no_bytes(vec![], Err(LayerError::Empty))]
#[case::in_the_header(tar().file("f", "x").0[..500].to_vec(), Err(LayerError::Truncated { at: 500 }))]
#[case::in_the_data(tar().file("f", "xx").0[..513].to_vec(), Err(LayerError::Truncated { at: 513 }))]
#[case::in_the_padding(tar().file("f", "xx").0[..600].to_vec(), Ok(1))]
#[case::without_padding(tar().file("f", "xx").0[..514].to_vec(), Ok(1))]
#[case::in_the_padding_of_an_extended_header(tar().pax(b'x', &[("uid", b"1")]).0[..600].to_vec(), Err(LayerError::Truncated { at: 600 }))]
#[case::in_a_zero_block(tar().file("f", "").raw([0; 700]).0, Err(LayerError::Truncated { at: 1212 }))]
#[case::after_an_extended_header(tar().pax(b'x', &[("uid", b"1")]).0, Err(LayerError::Dangling { at: 1024 }))]
#[case::in_an_extended_header(tar().pax(b'x', &[("uid", b"1")]).0[..515].to_vec(), Err(LayerError::Truncated { at: 515 }))]
#[case::after_a_lone_zero_block(tar().raw([0; 512]).file("f", "").0, Err(LayerError::LoneZeroBlock { at: 512 }))]
fn ends(#[case] bytes: Vec<u8>, #[case] expected: Result<u64>) {
    let parsed = parse(&bytes);
    assert!(parsed.as_ref().map_or(true, |index| index.tar_size() == bytes.len() as u64));
    assert_eq!(parsed.map(|index| index.counts().entries()), expected);
}

#[test]
fn limits_end_in_errors() {
    let archive = tar().file("a", "").file("b", "").end();
    let few = Limits { max_entries: 1, ..Limits::default() };
    assert_eq!(parse_in(&archive, 512, few), Err(LayerError::TooManyEntries { limit: 1 }));
    let small = Limits { max_index_bytes: 10, ..Limits::default() };
    assert_eq!(parse_in(&archive, 512, small), Err(LayerError::IndexTooLarge { limit: 10 }));
}

#[test]
fn takes_nothing_after_an_error() {
    let mut parser = Parser::new(Limits::default());
    assert_eq!(parser.feed(&[1; 512]), Err(LayerError::Checksum { at: 0 }));
    assert_eq!(parser.feed(&[0; 512]), Err(LayerError::AlreadyRefused));
    assert_eq!(parser.finish(), Err(LayerError::AlreadyRefused));
}

#[test]
fn reads_what_the_tar_crate_writes() {
    let mut builder = ::tar::Builder::new(Vec::new());
    let long = format!("{}/end", "x".repeat(150));
    let mut header = ::tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o600);
    header.set_uid(3_000_000_000);
    builder.append_data(&mut header, &long, b"data".as_slice()).unwrap();
    let bytes = builder.into_inner().unwrap();
    let index = parse(&bytes).unwrap();
    let entry = entries(&index).remove(0);
    assert_eq!(content(&entry, &bytes), b"data");
    let owner = entry.kind.attributes().map(|attributes| attributes.uid);
    assert_eq!((entry.path.as_bytes(), owner), (long.as_bytes(), Some(3_000_000_000)));
}

/// An archive of everything, hostile or not.
fn archives() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec!["a", "b/c", "./d/", ".wh.a", "b/.wh..wh..opq", "/", "e/f/g"]);
    let piece = prop_oneof![
        (name.clone(), prop::collection::vec(any::<u8>(), 0..1500)).prop_map(|(name, data)| tar().file(name, data)),
        (name.clone(), any::<u8>()).prop_map(|(name, flag)| tar().header(RawHeader::new(name, flag).link("a"))),
        name.clone().prop_map(|name| tar().dir(name, 0o755)),
        name.clone().prop_map(|name| tar().pax(b'x', &[("path", name.as_bytes()), ("mtime", b"1.5")])),
        name.clone().prop_map(|name| tar().long(b'L', name.as_bytes())),
        Just(tar().pax(b'g', &[("uid", b"4")])),
        Just(tar().header(old_gnu(&[(1024, 512)], 4196, 1).size(612)).raw(block(&[(4096, 100)], 0)).padded([1; 612])),
        Just(version_1_0("2\n1024\n512\n4096\n100\n", "4196", &[1; 612])),
        prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| tar().raw(bytes)),
        Just(tar().raw([0; 512])),
    ];
    prop::collection::vec(piece, 0..6)
        .prop_map(|pieces| pieces.into_iter().fold(tar(), |all, piece| all.raw(piece.0)).0)
}

proptest! {
    #[test]
    fn pieces_make_no_difference(bytes in archives(), piece in 1_usize..1200) {
        let whole = parse(&bytes);
        prop_assert_eq!(parse_in(&bytes, piece, Limits::default()), whole.clone());
        prop_assert_eq!(parse_in(&bytes, 1, Limits::default()), whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(parse(&bytes).is_err() || bytes.starts_with(&[0; 512]));
    }

    /// A header of arbitrary bytes with the right checksum gets past the first check.
    #[test]
    fn arbitrary_headers_never_panic(raw in prop::collection::vec(any::<u8>(), 512), flag in prop::sample::select(b"01234567xgLKS\0".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..1024)) {
        let mut header = RawHeader::new("f", flag);
        let keep = header.clone();
        header.0.copy_from_slice(&raw);
        header.0[156] = flag;
        // Fields one by one, so that some of them are right.
        for (at, byte) in raw.iter().take(20).enumerate() {
            let start = at * 25;
            if byte % 4 != 0 { header.0[start..start + 25].copy_from_slice(&keep.0[start..start + 25]); }
        }
        header.0[156] = flag;
        if let Ok(index) = parse(&tar().header(header).raw(rest).0) {
            for entry in index.entries() {
                prop_assert!(entry.unwrap().is_sound(index.tar_size()));
            }
        }
    }

    #[test]
    fn what_is_parsed_is_sound_and_survives_storing(bytes in archives()) {
        if let Ok(index) = parse(&bytes) {
            prop_assert_eq!(LayerIndex::from_bytes(&index.to_bytes()).unwrap(), index);
        }
    }
}
