use rstest::rstest;

use super::*;
use crate::archive::{Archive, RawHeader};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn title(raw: &str) -> Title {
    Title::parse(raw).unwrap()
}

fn file(raw: &str, size: u64, device: u16) -> Item<'static> {
    Item::File { title: title(raw), size, device }
}

fn lookup(tree: &Tree, path: &str) -> Option<Node> {
    let id = path.split('/').try_fold(Tree::ROOT, |id, name| tree.lookup(id, name.as_bytes()))?;
    tree.node(id).cloned()
}

fn device(tree: &Tree, path: &str) -> Option<u16> {
    let Content::File { extents, .. } = lookup(tree, path)?.content else { panic!("{path} is no file") };
    extents.first().map(|extent| extent.device)
}

#[rstest]
#[case::plain("model.bin", Some("model.bin"))]
#[case::sub_directory("weights/part-1.bin", Some("weights/part-1.bin"))]
#[case::leading_dot("./a", Some("a"))]
#[case::directory("docs/", Some("docs"))]
#[case::backslashes("dir\\file", Some("dir\\file"))]
#[case::spaces_and_text(" ä \u{202e}", Some(" ä \u{202e}"))]
#[case::reserved_here(".wh.x", Some(".wh.x"))]
#[case::digest(DIGEST, Some(DIGEST))]
#[case::up("../../etc/passwd", None)]
#[case::absolute("/etc/passwd", None)]
#[case::down_and_up("a/../../b", None)]
#[case::dot(".", None)]
#[case::dots("..", None)]
#[case::empty("", None)]
#[case::nul("a\0b", None)]
#[case::newline("a\nb", None)]
#[case::escape("a\u{1b}[2J", None)]
#[case::next_line("a\u{85}b", None)]
fn titles(#[case] raw: &str, #[case] path: Option<&str>) {
    assert_eq!(Title::parse(raw).ok().as_ref().map(|title| title.path().as_bytes()), path.map(str::as_bytes));
}

#[test]
fn long_titles_are_refused() {
    assert!(Title::parse(&"a".repeat(255)).is_ok());
    assert!(Title::parse(&"a".repeat(256)).is_err());
    assert!(Title::parse(&"a/".repeat(2500)).is_err());
}

#[rstest]
#[case::title(&[("org.opencontainers.image.title", "t"), ("org.cncf.model.filepath", "c")], Some("t"))]
#[case::cncf(&[("org.cncf.model.filepath", "c"), ("org.cnai.model.filepath", "n")], Some("c"))]
#[case::cnai(&[("org.cnai.model.filepath", "n")], Some("n"))]
#[case::none(&[("other", "x")], Some(DIGEST))]
#[case::empty_is_none(&[("org.opencontainers.image.title", "")], Some(DIGEST))]
#[case::bad_is_refused(&[("org.opencontainers.image.title", "../x"), ("org.cncf.model.filepath", "c")], None)]
fn chooses_titles(#[case] annotations: &[(&str, &str)], #[case] expected: Option<&str>) {
    let annotations = annotations.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let chosen = title_for(&annotations, DIGEST).ok();
    assert_eq!(chosen.as_ref().map(|title| title.path().as_bytes()), expected.map(str::as_bytes));
}

#[rstest]
#[case("application/vnd.oci.image.layer.v1.tar", true)]
#[case("application/vnd.oci.image.layer.v1.tar+gzip", true)]
#[case("application/vnd.oci.image.layer.v1.tar+zstd", true)]
#[case("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", true)]
#[case("application/vnd.docker.image.rootfs.diff.tar.gzip", true)]
#[case("application/vnd.docker.image.rootfs.diff.tar", true)]
#[case("application/vnd.cncf.model.weight.v1.tar", true)]
#[case("application/vnd.cncf.helm.chart.content.v1.tar+gzip", true)]
#[case("application/x-tar; charset=binary", true)]
#[case("Application/TAR+GZIP", true)]
#[case("application/vnd.cncf.model.weight.v1.raw", false)]
#[case("application/octet-stream", false)]
#[case("application/gzip", false)]
#[case("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", false)]
#[case("application/x-guitar", false)]
#[case("tar", false)]
#[case("", false)]
fn recognises_tar_media_types(#[case] media_type: &str, #[case] is_tar: bool) {
    assert_eq!(is_tar_media_type(media_type), is_tar);
}

#[test]
fn blobs_become_read_only_files_in_directories() {
    let tree = assemble([file("dir/model.bin", 4097, 3), file("empty", 0, 4)], Limits::default()).unwrap();
    let extents = vec![Extent { file_offset: 0, device: 3, device_offset: 0, length: 4097 }];
    let expected = Node {
        attributes: Attributes { mode: 0o444, ..Attributes::default() },
        content: Content::File { size: 4097, extents },
    };
    assert_eq!(lookup(&tree, "dir/model.bin"), Some(expected));
    assert_eq!(lookup(&tree, "empty").unwrap().content, Content::File { size: 0, extents: vec![] });
    assert_eq!(lookup(&tree, "dir").unwrap().attributes, Attributes { mode: 0o755, ..Attributes::default() });
}

#[test]
fn of_two_files_of_one_name_the_later_wins() {
    let tree = assemble([file("a", 1, 0), file("A", 1, 1), file("a", 1, 2)], Limits::default()).unwrap();
    assert_eq!((device(&tree, "a"), device(&tree, "A")), (Some(2), Some(1)));
}

#[rstest]
#[case("a", "a/b", "a/b")]
#[case("a/b", "a", "a")]
fn a_name_is_not_a_file_and_a_directory(#[case] first: &str, #[case] second: &str, #[case] refused: &str) {
    let assembled = assemble([file(first, 1, 0), file(second, 1, 1)], Limits::default());
    assert_eq!(assembled.map(|_| ()), Err(LayerError::TitleConflict { title: Shown::new(refused.as_bytes()) }));
}

#[test]
fn archives_are_unpacked_where_they_belong() {
    let archive = Archive::default().dir("docs", 0o750).file("docs/readme", "x").index();
    let items = || vec![file("docs/extra", 1, 0), Item::Archive { index: &archive, device: 1, under: None }];
    let tree = assemble(items(), Limits::default()).unwrap();
    assert_eq!((device(&tree, "docs/readme"), device(&tree, "docs/extra")), (Some(1), Some(0)));
    assert_eq!(lookup(&tree, "docs").unwrap().attributes.mode, 0o750);
    let under = Item::Archive { index: &archive, device: 1, under: Some(title("a/b")) };
    let tree = assemble([under], Limits::default()).unwrap();
    assert_eq!(device(&tree, "a/b/docs/readme"), Some(1));
}

#[test]
fn an_archive_cannot_leave_its_directory() {
    let archive = Archive::default()
        .dir("./", 0o700)
        .symlink("up", "../../..")
        .symlink("abs", "/")
        .file("up/one", "x")
        .file("abs/two", "x")
        .file(".wh..wh..opq", "")
        .hard_link("three", "/up/one")
        .header(RawHeader::new("abs/.wh.outside", b'0'))
        .index();
    let under = Item::Archive { index: &archive, device: 1, under: Some(title("in")) };
    let tree = assemble([file("outside", 1, 0), under], Limits::default()).unwrap();
    assert_eq!(
        (device(&tree, "in/one"), device(&tree, "in/two"), device(&tree, "in/three")),
        (Some(1), Some(1), Some(1))
    );
    assert_eq!((device(&tree, "outside"), lookup(&tree, "in").unwrap().attributes.mode), (Some(0), 0o700));
    assert_eq!(tree.children(Tree::ROOT).unwrap().len(), 2);
}

#[test]
fn unpacking_is_marked_by_the_word_true() {
    let marked = |value: &str| is_marked_for_unpacking(&BTreeMap::from([(UNPACK_KEY.into(), value.into())]));
    assert!(marked("true"));
    assert!(!marked("false") && !marked("1") && !is_marked_for_unpacking(&BTreeMap::new()));
}

#[rstest]
#[case::of_oras("application/vnd.oci.image.layer.v1.tar", "hello.txt", true)]
#[case::with_directories("application/vnd.oci.image.layer.v1.tar", "dir/model.safetensors", true)]
#[case::a_tar_by_name("application/vnd.oci.image.layer.v1.tar", "data.tar", false)]
#[case::no_title("application/vnd.oci.image.layer.v1.tar", "", false)]
#[case::a_packed_directory("application/vnd.oci.image.layer.v1.tar+gzip", "data", false)]
#[case::a_tar_of_somebody_else("application/vnd.cncf.model.weight.v1.tar", "data", false)]
fn files_that_oras_calls_tars(#[case] media_type: &str, #[case] title: &str, #[case] is_file: bool) {
    let annotations = BTreeMap::from([("org.opencontainers.image.title".to_owned(), title.to_owned())]);
    assert_eq!(is_untyped_file(media_type, &annotations), is_file);
    assert!(!is_untyped_file(media_type, &BTreeMap::new()));
}
