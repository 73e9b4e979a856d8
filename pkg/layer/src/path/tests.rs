use proptest::prelude::*;
use rstest::rstest;

use super::*;

#[rstest]
#[case::plain(b"etc/x", b"etc/x")]
#[case::absolute(b"/etc/x", b"etc/x")]
#[case::doubled(b"//etc//x", b"etc/x")]
#[case::dots(b"/./etc/./x/", b"etc/x")]
#[case::root(b"/", b"")]
#[case::dot(b".", b"")]
#[case::empty(b"", b"")]
#[case::three_dots(b"...", b"...")]
#[case::not_text(b"\xff\n\\ ", b"\xff\n\\ ")]
fn normalises(#[case] raw: &[u8], #[case] path: &[u8]) {
    assert_eq!(EntryPath::parse(raw).unwrap().as_bytes(), path);
}

#[rstest]
#[case::up(b"../x", PathProblem::Parent)]
#[case::down_and_up(b"a/../../x", PathProblem::Parent)]
#[case::ends_up(b"a/..", PathProblem::Parent)]
#[case::nul(b"a\0b", PathProblem::Nul)]
#[case::name(&[b'a'; 256], PathProblem::NameTooLong)]
#[case::path(&b"a/".repeat(2500), PathProblem::TooLong)]
fn refuses(#[case] raw: &[u8], #[case] problem: PathProblem) {
    assert_eq!(EntryPath::parse(raw), Err(problem));
}

fn path(raw: &[u8]) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

#[rstest]
#[case::plain(b"d/x", Ok(Meaning::Present(path(b"d/x"))))]
#[case::root(b"", Ok(Meaning::Present(path(b""))))]
#[case::whiteout(b"d/.wh.x", Ok(Meaning::Whiteout(path(b"d/x"))))]
#[case::whiteout_at_root(b".wh.x", Ok(Meaning::Whiteout(path(b"x"))))]
#[case::whiteout_of_wh(b".wh.wh.x", Ok(Meaning::Whiteout(path(b"wh.x"))))]
#[case::whiteout_of_dotfile(b".wh..x", Ok(Meaning::Whiteout(path(b".x"))))]
#[case::opaque(b"d/.wh..wh..opq", Ok(Meaning::Opaque(path(b"d"))))]
#[case::opaque_root(b".wh..wh..opq", Ok(Meaning::Opaque(path(b""))))]
#[case::aufs(b".wh..wh.plnk", Ok(Meaning::Nothing))]
#[case::inside_aufs(b".wh..wh.plnk/1.2", Ok(Meaning::Nothing))]
#[case::inside_opaque(b"d/.wh..wh..opq/x", Ok(Meaning::Nothing))]
#[case::whiteout_as_parent(b".wh.etc/x", Ok(Meaning::Present(path(b".wh.etc/x"))))]
#[case::bare(b".wh.", Err(PathProblem::Whiteout))]
#[case::of_itself(b"d/.wh..", Err(PathProblem::Whiteout))]
#[case::of_parent(b"d/.wh...", Err(PathProblem::Whiteout))]
fn reads_names_as_layers_do(#[case] raw: &[u8], #[case] meaning: Result<Meaning, PathProblem>) {
    assert_eq!(Meaning::of(path(raw)), meaning);
}

proptest! {
    #[test]
    fn parsed_paths_are_stable_and_confined(raw in prop::collection::vec(prop::sample::select(b"ab./\x00w".to_vec()), 0..40)) {
        if let Ok(path) = EntryPath::parse(&raw) {
            prop_assert_eq!(&EntryPath::parse(path.as_bytes()).unwrap(), &path);
            prop_assert!(path.components().all(|component| !matches!(component, b"" | b"." | b"..")));
            prop_assert!(!path.as_bytes().starts_with(b"/"));
        }
    }
}
