use imagevol_erofs::Extent;
use proptest::prelude::*;
use rstest::rstest;

use super::model::{self, Model};
use super::*;
use crate::archive::{Archive, RawHeader};
use crate::entry::{Entry, Kind, Segment};
use crate::error::Shown;
use crate::index::IndexBuilder;

fn tar() -> Archive {
    Archive::default()
}

fn image(layers: Vec<Archive>) -> Result<Tree> {
    let layers: Vec<LayerIndex> = layers.into_iter().map(Archive::index).collect();
    merge(&layers, Limits::default())
}

/// One line for each path: name, then mode and type for a directory, device and size for a file, target for a symlink.
fn lines(tree: &Tree) -> Vec<String> {
    let flat = model::flat(tree).into_iter().filter(|(path, _)| !path.is_empty());
    flat.map(|(path, (mode, content))| {
        let path = path.join("/");
        if content == "dir" { format!("{path}/ {mode:o}") } else { format!("{path} {content}") }
    })
    .collect()
}

fn same(tree: &Tree, one: &str, other: &str) -> bool {
    let paths = model::walk(tree);
    let find = |path: &str| paths[&path.split('/').map(String::from).collect::<Vec<_>>()];
    find(one) == find(other)
}

fn etc() -> Archive {
    tar().dir("etc", 0o770).file("/etc/passwd", "inside")
}

/// Attempts to break out of the root through symlinks, in one layer and through a lower one: all land inside.
#[rstest]
#[case::symlink_absolute(vec![tar().dir("etc", 0o755).symlink("localetc", "/etc").file("/localetc/unbroken", "x")], &["etc/ 755", "etc/unbroken file 0 1", "localetc link /etc"])]
#[case::symlink_up_and_out(vec![tar().dir("etc", 0o755).dir("dummy", 0o755).symlink("localetc", "/dummy/../etc").file("/localetc/unbroken", "x")], &["dummy/ 755", "etc/ 755", "etc/unbroken file 0 1", "localetc link /dummy/../etc"])]
#[case::symlink_multiple_absolute(vec![tar().dir("etc", 0o755).dir("dummy", 0o755).symlink("/dummy/etc", "/etc").symlink("localetc", "/dummy/etc").file("/localetc/unbroken", "x")], &["dummy/ 755", "dummy/etc link /etc", "etc/ 755", "etc/unbroken file 0 1", "localetc link /dummy/etc"])]
#[case::symlink_multiple_relative(vec![tar().dir("etc", 0o755).dir("dummy", 0o755).symlink("/dummy/etc", "/etc").symlink("localetc", "./dummy/etc").file("/dummy/etc/unbroken", "x")], &["dummy/ 755", "dummy/etc link /etc", "etc/ 755", "etc/unbroken file 0 1", "localetc link ./dummy/etc"])]
#[case::symlink_empty_file(vec![tar().dir("etc", 0o755).file("etc/emptied", "notempty").symlink("localetc", "/etc").file("/localetc/emptied", "x")], &["etc/ 755", "etc/emptied file 0 1", "localetc link /etc"])]
#[case::out_of_the_root(vec![tar().symlink("d", "../../..").file("d/etc/x", "x")], &["d link ../../..", "etc/ 755", "etc/x file 0 1"])]
#[case::through_a_lower_layer(vec![tar().symlink("d", "/host"), tar().file("d/x", "x")], &["d link /host", "host/ 755", "host/x file 1 1"])]
#[case::dangling(vec![tar().symlink("d", "/a/b").file("d/x", "x")], &["a/ 755", "a/b/ 755", "a/b/x file 0 1", "d link /a/b"])]
#[case::up_from_missing(vec![tar().symlink("d", "m/../k").file("d/x", "x")], &["d link m/../k", "k/ 755", "k/x file 0 1"])]
#[case::chain(vec![tar().symlink("a", "b").symlink("b", "c").symlink("c", "..").file("a/x", "x")], &["a link b", "b link c", "c link ..", "x file 0 1"])]
#[case::swapped_and_swapped_back(vec![tar().dir("d", 0o755).file("d/a", "x").symlink("d", "/e").file("d/b", "x").dir("d", 0o700).file("d/c", "x")], &["d/ 700", "d/c file 0 1", "e/ 755", "e/b file 0 1"])]
#[case::directory_over_symlink(vec![tar().dir("e", 0o711).symlink("d", "e").dir("d", 0o777)], &["d/ 777", "e/ 711"])]
#[case::symlink_over_directory(vec![tar().dir("d", 0o755).file("d/x", "x").symlink("d", "/tmp")], &["d link /tmp"])]
fn symlinks_stay_inside(#[case] layers: Vec<Archive>, #[case] expected: &[&str]) {
    assert_eq!(lines(&image(layers).unwrap()), expected);
}

/// Hard links whose target goes through symlinks, or is one.
#[rstest]
#[case::relative(etc().dir("breakouts", 0o755).symlink("breakouts/d1", "../../etc").hard_link("breakouts/mypasswd", "/breakouts/d1/passwd"), "breakouts/mypasswd", "etc/passwd")]
#[case::down_and_out(etc().dir("breakouts", 0o755).dir("downandout", 0o755).symlink("breakouts/d1", "../downandout/../../etc").hard_link("breakouts/mypasswd", "/breakouts/d1/passwd"), "breakouts/mypasswd", "etc/passwd")]
#[case::absolute(etc().symlink("localetc", "/etc").hard_link("localpasswd", "/localetc/passwd"), "localpasswd", "etc/passwd")]
#[case::relative_long(etc().symlink("localetc", "../../../../../../../etc").hard_link("localpasswd", "/localetc/passwd"), "localpasswd", "etc/passwd")]
#[case::relative_up_and_out(etc().symlink("localetc", "upandout/../../../etc").hard_link("localpasswd", "/localetc/passwd"), "localpasswd", "etc/passwd")]
#[case::direct_absolute(etc().hard_link("localpasswd", "/etc/passwd"), "localpasswd", "etc/passwd")]
#[case::slash_ended(etc().dir("localetc/", 0o770).hard_link("/localetc/localpasswd", "/etc/passwd"), "localetc/localpasswd", "etc/passwd")]
#[case::symlink_relative(etc().symlink("passwdlink", "../../../../../etc/passwd").hard_link("localpasswd", "/passwdlink"), "localpasswd", "passwdlink")]
#[case::symlink_absolute(etc().symlink("passwdlink", "/etc/passwd").hard_link("localpasswd", "/passwdlink"), "localpasswd", "passwdlink")]
#[case::symlink_before_its_target(tar().dir("etc", 0o770).symlink("l", "/etc/passwd").hard_link("dup", "l").file("/etc/passwd", "x"), "dup", "l")]
fn hard_links_share_an_inode_inside(#[case] layer: Archive, #[case] link: &str, #[case] target: &str) {
    assert!(same(&image(vec![layer]).unwrap(), link, target));
}

#[rstest]
#[case::symlink_override_directory(tar().symlink("localetc", "/etc"))]
#[case::symlink_override_directory_relative(tar().symlink("localetc", "../../etc"))]
fn a_symlink_over_a_lower_directory_leads_inside(#[case] upper: Archive) {
    let lower = etc().dir("localetc", 0o755);
    let tree = image(vec![lower, upper.hard_link("/localetc/localpasswd", "/etc/passwd")]).unwrap();
    assert!(same(&tree, "etc/localpasswd", "etc/passwd"));
}

#[test]
fn a_directory_over_a_lower_symlink_is_a_new_one() {
    let lower = || etc().symlink("localetc", "/etc").hard_link("/localetc/localpasswd", "/etc/passwd");
    let linked = tar().dir("/localetc/", 0o755).hard_link("/localetc/localpasswd", "/etc/passwd");
    assert!(same(&image(vec![lower(), linked]).unwrap(), "localetc/localpasswd", "etc/passwd"));
    let different = tar().dir("/localetc/", 0o755).file("/localetc/localpasswd", "different");
    assert!(!same(&image(vec![lower(), different]).unwrap(), "localetc/localpasswd", "etc/passwd"));
}

/// A link's own attributes mean nothing: those of the inode stay, also through a symlink.
#[test]
fn hard_links_change_no_attributes() {
    let chmod = |target: &str| RawHeader::new("l", b'1').link(target).mode(0o6777);
    let tree = image(vec![etc().symlink("s", "etc/passwd").header(chmod("etc/passwd"))]).unwrap();
    assert_eq!(model::flat(&tree)[&vec!["l".to_owned()]].0, 0o644);
    let tree = image(vec![etc().symlink("s", "etc/passwd").header(chmod("s"))]).unwrap();
    let flat = model::flat(&tree);
    assert_eq!(flat[&vec!["l".to_owned()]], (0o777, "link etc/passwd".into()));
    assert_eq!(flat[&vec!["etc".to_owned(), "passwd".to_owned()]].0, 0o644);
}

#[test]
fn hard_links_to_nothing_are_refused() {
    let shown = |name: &str| Shown::new(name.as_bytes());
    let missing = |target| Err(LayerError::HardLinkMissing { path: shown("l"), target: shown(target) });
    let merged = |layer: Archive| image(vec![layer]).map(|_| ());
    assert_eq!(merged(tar().hard_link("l", "gone")), missing("gone"));
    assert_eq!(merged(tar().hard_link("l", "later").file("later", "")), missing("later"));
    assert_eq!(merged(tar().hard_link("l", "d/x")), missing("d/x"));
    assert_eq!(merged(etc().hard_link("l", "etc/passwd/x")), missing("etc/passwd/x"));
    assert_eq!(merged(tar().file("l/b", "").hard_link("l", "l/b")), missing("l/b"));
    assert_eq!(merged(tar().file("l", "").hard_link("l", "l")), Err(LayerError::HardLinkToSelf { path: shown("l") }));
    let directory = LayerError::HardLinkToDirectory { path: shown("l"), target: shown("d") };
    assert_eq!(merged(tar().dir("d", 0o755).hard_link("l", "d")), Err(directory));
}

/// Layers on layers.
#[rstest]
#[case::merge_directories(vec![tar().dir("d", 0o700).file("d/a", "x"), tar().dir("d", 0o711).file("d/b", "x")], &["d/ 711", "d/a file 0 1", "d/b file 1 1"])]
#[case::keep_undescribed(vec![tar().dir("d", 0o700).file("d/a", "x"), tar().file("d/b", "x")], &["d/ 700", "d/a file 0 1", "d/b file 1 1"])]
#[case::file_over_file(vec![tar().file("a", "x"), tar().file("a", "yy")], &["a file 1 2"])]
#[case::file_over_directory(vec![tar().file("d/a", "x"), tar().file("d", "yy")], &["d file 1 2"])]
#[case::directory_over_file(vec![tar().file("d", "x"), tar().dir("d", 0o700).file("d/a", "y")], &["d/ 700", "d/a file 1 1"])]
#[case::symlink_over_directory(vec![tar().file("d/a", "x"), tar().symlink("d", "e")], &["d link e"])]
#[case::last_of_one_layer_wins(vec![tar().file("a", "x").file("a", "yy").dir("d", 0o700).dir("d", 0o711).symlink("f", "x").file("f", "zzz")], &["a file 0 2", "d/ 711", "f file 0 3"])]
#[case::child_before_parent(vec![tar().file("d/a", "x").dir("d", 0)], &["d/ 0", "d/a file 0 1"])]
#[case::parents_missing(vec![tar().file("p/q/a", "x")], &["p/ 755", "p/q/ 755", "p/q/a file 0 1"])]
#[case::case_and_normal_form_matter(vec![tar().file("a", "x").file("A", "x").file("\u{e9}", "x").file("e\u{301}", "x")], &["A file 0 1", "a file 0 1", "e\u{301} file 0 1", "\u{e9} file 0 1"])]
#[case::usr_merge(vec![tar().dir("usr/lib", 0o755).symlink("lib", "usr/lib"), tar().file("lib/x.so", "x")], &["lib link usr/lib", "usr/ 755", "usr/lib/ 755", "usr/lib/x.so file 1 1"])]
#[case::overlay_whiteout_hides_nothing(vec![tar().file("d/x", "x"), tar().header(RawHeader::new("d/y", b'3'))], &["d/ 755", "d/x file 0 1", "d/y char 0:0"])]
fn layers_stack(#[case] layers: Vec<Archive>, #[case] expected: &[&str]) {
    assert_eq!(lines(&image(layers).unwrap()), expected);
}

#[test]
fn a_link_to_a_lower_file_makes_both_names_one_inode() {
    let tree = image(vec![tar().file("d/a", "x"), tar().hard_link("b", "d/a")]).unwrap();
    assert!(same(&tree, "b", "d/a"));
    // Replacing one name leaves the other.
    let tree = image(vec![tar().file("a", "x").hard_link("b", "a"), tar().file("a", "yy")]).unwrap();
    assert_eq!(lines(&tree), ["a file 1 2", "b file 0 1"]);
}

/// Whiteouts.
#[rstest]
#[case::file(vec![tar().file("d/a", "x").file("d/b", "x"), tar().file("d/.wh.a", "")], &["d/ 755", "d/b file 0 1"])]
#[case::directory(vec![tar().file("d/a", "x"), tar().file(".wh.d", "")], &[])]
#[case::in_the_first_layer(vec![tar().file(".wh.a", "").file("d/.wh..wh..opq", "")], &[])]
#[case::of_nothing(vec![tar().file("a", "x"), tar().file(".wh.b", "").file("new/.wh.x", "").file("a/.wh.x", "")], &["a file 0 1"])]
#[case::not_of_its_own_layer_before(vec![tar().file("a", "x"), tar().file(".wh.a", "").file("a", "yy")], &["a file 1 2"])]
#[case::not_of_its_own_layer_after(vec![tar().file("a", "x"), tar().file("a", "yy").file(".wh.a", "")], &["a file 1 2"])]
#[case::own_children_stay_before(vec![tar().dir("d", 0o711).file("d/a", "x"), tar().file("d/b", "y").file(".wh.d", "")], &["d/ 755", "d/b file 1 1"])]
#[case::own_children_stay_after(vec![tar().dir("d", 0o711).file("d/a", "x"), tar().file(".wh.d", "").file("d/b", "y")], &["d/ 755", "d/b file 1 1"])]
#[case::own_link_to_a_lower_inode_stays(vec![tar().file("a", "x").file("b", "y"), tar().hard_link("b", "a").file(".wh.a", "").file(".wh.b", "")], &["b file 0 1"])]
#[case::opaque_first(vec![tar().dir("d", 0o711).file("d/a", "x"), tar().file("d/.wh..wh..opq", "").file("d/b", "y")], &["d/ 711", "d/b file 1 1"])]
#[case::opaque_last_and_twice(vec![tar().dir("d", 0o711).file("d/a", "x"), tar().file("d/b", "y").file("d/.wh..wh..opq", "").file("d/.wh..wh..opq", "")], &["d/ 711", "d/b file 1 1"])]
#[case::opaque_hides_lower_sub_directories(vec![tar().dir("d/e", 0o711).file("d/e/a", "x"), tar().file("d/e/b", "y").file("d/.wh..wh..opq", "")], &["d/ 755", "d/e/ 755", "d/e/b file 1 1"])]
#[case::opaque_root(vec![tar().file("a", "x").file("d/b", "x"), tar().file(".wh..wh..opq", "").file("c", "y")], &["c file 1 1"])]
#[case::opaque_in_no_directory(vec![tar().file("a", "x"), tar().file("a/.wh..wh..opq", "").file("n/.wh..wh..opq", "")], &["a file 0 1"])]
#[case::opaque_directory_with_content(vec![tar().file("d/a", "x"), tar().dir("d/.wh..wh..opq", 0o755).file("d/.wh..wh..opq/evil", "y")], &["d/ 755"])]
#[case::of_a_symlink_not_its_target(vec![etc().symlink("localetc", "/etc"), tar().file(".wh.localetc", "")], &["etc/ 770", "etc/passwd file 0 6"])]
#[case::through_a_symlink(vec![etc().file("etc/gone", "x").symlink("localetc", "/etc"), tar().file("localetc/.wh.gone", "")], &["etc/ 770", "etc/passwd file 0 6", "localetc link /etc"])]
#[case::through_a_dangling_symlink(vec![etc().symlink("localetc", "/dne"), tar().file("localetc/.wh.etc", "")], &["etc/ 770", "etc/passwd file 0 6", "localetc link /dne"])]
#[case::out_of_the_root(vec![etc().symlink("d", "../.."), tar().file("d/.wh.etc", "")], &["d link ../.."])]
#[case::a_whiteout_as_parent(vec![etc(), tar().file(".wh.etc/somefile", "x")], &[".wh.etc/ 755", ".wh.etc/somefile file 1 1", "etc/ 770", "etc/passwd file 0 6"])]
#[case::one_layer_only(vec![tar().file("a", "x"), tar().file(".wh.a", ""), tar().file("a", "zzz")], &["a file 2 3"])]
fn whiteouts_hide_lower_layers(#[case] layers: Vec<Archive>, #[case] expected: &[&str]) {
    assert_eq!(lines(&image(layers).unwrap()), expected);
}

#[test]
fn the_root_has_the_attributes_of_its_last_entry() {
    let root = |layers| image(layers).unwrap().node(Tree::ROOT).unwrap().attributes.clone();
    assert_eq!(root(vec![tar().file("a", "")]), implicit());
    let described = root(vec![tar().dir("./", 0o700), tar().dir("/", 0o1777), tar().file("a", "")]);
    assert_eq!((described.mode, described.mtime), (0o1777, 100));
}

#[test]
fn files_point_into_the_tar_of_their_layer() {
    let tree = image(vec![tar(), tar().file("a", [1; 600])]).unwrap();
    let id = tree.lookup(Tree::ROOT, b"a").unwrap();
    let extents = vec![Extent { file_offset: 0, device: 1, device_offset: 512, length: 600 }];
    assert_eq!(tree.node(id).unwrap().content, Content::File { size: 600, extents });
}

#[rstest]
#[case::below_a_file(vec![tar().file("a", "x"), tar().file("a/b", "x")])]
#[case::below_a_fifo(vec![tar().header(RawHeader::new("a", b'6')).file("a/b", "x")])]
#[case::below_a_symlink_to_a_file(vec![tar().file("f", "x").symlink("a", "f").file("a/b", "x")])]
fn nothing_is_made_below_what_is_no_directory(#[case] layers: Vec<Archive>) {
    assert_eq!(image(layers).map(|_| ()), Err(LayerError::ParentNotDirectory { path: Shown::new(b"a/b") }));
}

#[rstest]
#[case::self_loop(tar().symlink("a", "a").file("a/x", ""), "a/x")]
#[case::loop_of_two(tar().symlink("a", "b").symlink("b", "a").file("a/x", ""), "a/x")]
#[case::loop_in_a_link_target(tar().symlink("a", "a").hard_link("l", "a/x"), "l")]
#[case::loop_in_a_whiteout(tar().symlink("a", "a").file("a/.wh.x", ""), "a/x")]
fn symlink_loops_are_refused(#[case] layer: Archive, #[case] path: &str) {
    assert_eq!(image(vec![layer]).map(|_| ()), Err(LayerError::SymlinkLoop { path: Shown::new(path.as_bytes()) }));
}

#[test]
fn forty_symlinks_are_followed_and_no_more() {
    let chain = |links: usize| {
        let all = (0..links).fold(tar(), |all, number| all.symlink(format!("s{number}"), format!("s{}", number + 1)));
        image(vec![all.dir(format!("s{links}"), 0o755).file("s0/x", "")])
    };
    assert!(chain(MAX_SYMLINKS).is_ok());
    assert!(matches!(chain(MAX_SYMLINKS + 1), Err(LayerError::SymlinkLoop { .. })));
}

/// Depth beyond what any path can say, built with symlinks; and long walks through them again and again.
#[test]
fn depth_and_walks_are_bounded() {
    let deep = "a/".repeat(1500);
    let layer = || {
        tar().long(b'L', deep.as_bytes()).dir("x", 0o755).pax(b'x', &[("linkpath", deep.as_bytes())]).symlink("s", "")
    };
    let deeper = layer().long(b'L', format!("s/{deep}").as_bytes()).dir("x", 0o755);
    assert!(matches!(image(vec![deeper]), Err(LayerError::TooDeep { .. })));
    let again = (0..10).fold(layer(), |all, number| all.file(format!("s/{number}"), ""));
    let limits = Limits { max_symlink_steps: 10_000, ..Limits::default() };
    assert!(matches!(merge(&[again.index()], limits), Err(LayerError::SymlinkSteps { .. })));
}

#[test]
fn nodes_and_layers_are_bounded() {
    let limits = Limits { max_entries: 3, ..Limits::default() };
    assert!(merge(&[tar().file("a/b", "").index()], limits).is_ok());
    assert!(matches!(merge(&[tar().file("a/b/c", "").index()], limits), Err(LayerError::TooManyEntries { limit: 3 })));
    let empty = tar().index();
    let many = vec![&empty; 65_537];
    assert_eq!(merge(many[..65_536].iter().copied(), limits).map(|_| ()), Ok(()));
    assert_eq!(merge(many, limits).map(|_| ()), Err(LayerError::TooManyLayers));
}

/// Would take hours if it were quadratic.
#[test]
fn markers_without_number_cost_no_more_than_entries() {
    const COUNT: u32 = 100_000;
    let attributes = implicit();
    let file = || Kind::File { attributes: attributes.clone(), size: 0, segments: Vec::new() };
    let lower: Vec<_> = (0..COUNT).map(|number| (format!("d/f{number}"), file())).collect();
    let links = (1..COUNT).map(|number| (format!("l/{number}"), Kind::HardLink { target: path("d/f0") })).collect();
    let mut upper = Vec::new();
    for number in 0..COUNT {
        upper.push((format!("d/f{number}"), Kind::Whiteout));
        upper.push((format!("d/n{number}"), file()));
        upper.push(("d".into(), Kind::Opaque));
        upper.push(("d".into(), Kind::Whiteout));
        upper.push((String::new(), Kind::Opaque));
    }
    let tree = merge(&[index(lower.clone()), index(links), index(upper)], Limits::default()).unwrap();
    let directory = tree.lookup(Tree::ROOT, b"d").unwrap();
    assert_eq!(tree.children(directory).unwrap().len(), 100_000);
    assert!(tree.lookup(Tree::ROOT, b"l").is_none());
    let one = index(vec![("d/f0".into(), Kind::Whiteout)]);
    let tree = merge(&[index(lower), one], Limits::default()).unwrap();
    assert_eq!(tree.children(tree.lookup(Tree::ROOT, b"d").unwrap()).unwrap().len(), 99_999);
}

#[test]
fn five_hundred_layers_of_changes_stack() {
    let layers: Vec<LayerIndex> = (0..500)
        .map(|layer| {
            let (name, gone) = (format!("d/own-{}", layer + 1), format!("d/.wh.own-{layer}"));
            tar().dir("d", 0o700 + layer % 8).file("d/shared", "x").file(name, "y").file(gone, "").index()
        })
        .collect();
    let tree = merge(&layers, Limits::default()).unwrap();
    assert_eq!(lines(&tree), ["d/ 703", "d/own-500 file 499 1", "d/shared file 499 1"]);
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw.as_bytes()).unwrap()
}

fn index(entries: Vec<(String, Kind)>) -> LayerIndex {
    let mut builder = IndexBuilder::default();
    for (raw, kind) in entries {
        builder.push(&Entry { path: path(&raw), kind }, &Limits::default()).unwrap();
    }
    builder.finish(1 << 30)
}

fn a_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

/// Entries over few names, so that they meet. `links` adds symlinks and hard links.
fn an_entry(links: bool) -> impl Strategy<Value = (String, Kind)> {
    let mode = || prop::sample::select(vec![0o700_u16, 0o711, 0o644]);
    let described = |mode| Attributes { mode, ..Attributes::default() };
    let file = (mode(), 1_u64..9).prop_map(move |(mode, size)| Kind::File {
        attributes: described(mode),
        size,
        segments: vec![Segment { file_offset: 0, tar_offset: 512, length: size }],
    });
    let symlink = prop::sample::select(vec!["a", "/b", "../c", "b/c", "..", "/", "missing/../a", "new"])
        .prop_map(move |target| Kind::Symlink { attributes: described(0o777), target: target.into() });
    let link = a_path().prop_map(|target| Kind::HardLink { target: path(&target) });
    let weight = u32::from(links);
    let kind = prop_oneof![
        4 => file,
        4 => mode().prop_map(move |mode| Kind::Directory(described(mode))),
        3 => Just(Kind::Whiteout),
        2 => Just(Kind::Opaque),
        2 * weight => symlink,
        2 * weight => link,
    ];
    (a_path(), kind)
}

fn layers(links: bool) -> impl Strategy<Value = Vec<Vec<(String, Kind)>>> {
    prop::collection::vec(prop::collection::vec(an_entry(links), 0..9), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Entries that the model refuses must be refused; left out, the rest must give what the model gives.
    #[test]
    fn merging_is_what_the_model_says(layers in layers(true)) {
        let mut model = Model::new();
        let mut applied: Vec<Vec<(String, Kind)>> = Vec::new();
        for layer in layers {
            model.next_layer();
            applied.push(Vec::new());
            for (raw, kind) in layer {
                let before = model.clone();
                let entry = Entry { path: path(&raw), kind };
                let refused = model.apply(&entry).is_err();
                applied.last_mut().unwrap().push((raw, entry.kind));
                if refused {
                    model = before;
                    let indexes: Vec<_> = applied.iter().cloned().map(index).collect();
                    prop_assert!(merge(&indexes, Limits::default()).is_err());
                    applied.last_mut().unwrap().pop();
                }
            }
        }
        let indexes: Vec<_> = applied.into_iter().map(index).collect();
        let tree = merge(&indexes, Limits::default()).unwrap();
        prop_assert_eq!(model::flat(&tree), model.flat());
        prop_assert_eq!(model::groups(&tree), model.groups());
    }

    /// Where no symlinks lead elsewhere, a marker's place in its layer makes no difference.
    #[test]
    fn markers_hide_the_same_wherever_they_stand(layers in layers(false)) {
        let is_marker = |kind: &Kind| matches!(kind, Kind::Whiteout | Kind::Opaque);
        let sorted = |markers_first: bool| -> Vec<LayerIndex> {
            let sort = |mut layer: Vec<(String, Kind)>| {
                layer.sort_by_key(|(_, kind)| is_marker(kind) != markers_first);
                index(layer)
            };
            layers.iter().cloned().map(sort).collect()
        };
        let first = merge(&sorted(true), Limits::default());
        let last = merge(&sorted(false), Limits::default());
        if let (Ok(first), Ok(last)) = (first, last) {
            prop_assert_eq!(model::flat(&first), model::flat(&last));
        }
    }
}
