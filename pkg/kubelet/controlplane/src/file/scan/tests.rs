use std::fs;
use std::os::unix::fs::symlink;

use rstest::rstest;
use serde_json::json;

use super::*;
use crate::WallClock;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn scanner(&self) -> Scanner {
        self.scanner_with(BTreeMap::new())
    }

    fn scanner_with(&self, remembered: BTreeMap<OsString, Vec<Loaded>>) -> Scanner {
        let host = Host { node_name: "node1".into(), clock: WallClock::system() };
        Scanner::new(self.0.path().to_owned(), host, remembered)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), content).unwrap();
    }
}

fn pod(name: &str, image: &str) -> String {
    let volume = json!({"name": "v", "image": {"reference": image}});
    let container = json!({"name": "c", "image": "debian", "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"volumes": [volume], "containers": [container]},
    })
    .to_string()
}

fn secret(name: &str, value: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"key": value}}).to_string()
}

fn scan(scanner: &mut Scanner) -> Manifests {
    scanner.scan(Complete::All);
    scanner.manifests()
}

fn pods(manifests: &Manifests) -> Vec<(&str, &str)> {
    let image = |entry: &'_ super::super::ManifestPod| {
        let spec = entry.pod.spec.as_ref().unwrap();
        spec.volumes.as_ref().unwrap()[0].image.as_ref().unwrap().reference.clone().unwrap()
    };
    let mut found: Vec<(&str, String)> =
        manifests.pods.values().map(|entry| (entry.pod.metadata.name.as_deref().unwrap(), image(entry))).collect();
    found.sort();
    found.into_iter().map(|(name, image)| (name, &*image.leak())).collect()
}

fn problems(manifests: &Manifests) -> Vec<(&str, &str)> {
    manifests.problems.iter().map(|problem| (problem.file.as_str(), problem.message.as_str())).collect()
}

#[test]
fn reads_every_file_but_hidden_ones() {
    let dir = Dir::new();
    dir.write("a.json", pod("a", "r:1"));
    dir.write("many", format!("{}\n---\n{}\n---\n{}", pod("b", "r:2"), pod("c", "r:3"), secret("s", "x")));
    dir.write(".hidden.json", pod("hidden", "r:1"));
    let manifests = scan(&mut dir.scanner());
    assert_eq!(pods(&manifests), [("a", "r:1"), ("b", "r:2"), ("c", "r:3")]);
    assert_eq!((problems(&manifests), manifests.ready), (vec![], true));
    assert!(manifests.secrets.contains_key(&("default".to_owned(), "s".to_owned())));
}

#[test]
fn a_pod_has_the_identity_of_a_static_pod_and_defaults() {
    let dir = Dir::new();
    dir.write("a.json", pod("a", "r:1"));
    let manifests = scan(&mut dir.scanner());
    let (uid, entry) = manifests.pod("default", "a").unwrap();
    let annotations = entry.pod.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.hash"], uid.as_str());
    assert_eq!(entry.pod.spec.as_ref().unwrap().node_name.as_deref(), Some("node1"));
    let volume = &entry.pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
    assert_eq!(volume.image.as_ref().unwrap().pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(&*entry.file, "a.json");
    assert_eq!(scan(&mut dir.scanner()).pods.keys().next(), Some(uid), "the same after a restart");
}

#[rstest]
#[case::half_written(r#"{"apiVersion": "v1", "kind": "Pod", "metad"#, "error parsing JSON")]
#[case::empty("", "manifest holds no object")]
#[case::comments_only("# nothing\n", "manifest holds no object")]
#[case::binary("\u{0}\u{1}", "YAML")]
#[case::unknown_field(
    r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spek": {}}"#,
    "unknown field \"spek\""
)]
#[case::invalid(
    r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "A"}, "spec": {"containers": []}}"#,
    "is invalid: "
)]
#[case::other_kind(
    r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}"#,
    "no matches for kind"
)]
#[case::hostile_uid(
    r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "uid": "../../etc"}}"#,
    "metadata.uid"
)]
fn a_file_that_cannot_be_used_keeps_what_it_held(#[case] content: &str, #[case] message: &str) {
    let dir = Dir::new();
    dir.write("a.json", pod("a", "r:1"));
    dir.write("b.json", pod("b", "r:1"));
    let mut scanner = dir.scanner();
    let good = scan(&mut scanner);
    dir.write("a.json", content);
    dir.write("b.json", pod("b", "r:2"));
    let manifests = scan(&mut scanner);
    assert_eq!(pods(&manifests), [("a", "r:1"), ("b", "r:2")]);
    assert_eq!(manifests.pod("default", "a"), good.pod("default", "a"));
    let [(file, problem)] = problems(&manifests)[..] else { panic!("{manifests:?}") };
    assert!(file == "a.json" && problem.contains(message) && !problem.contains('\n'), "{problem}");
    dir.write("a.json", pod("a", "r:3"));
    let manifests = scan(&mut scanner);
    assert_eq!((pods(&manifests), problems(&manifests)), (vec![("a", "r:3"), ("b", "r:2")], vec![]));
}

#[test]
fn a_file_is_taken_whole_or_not_at_all() {
    let dir = Dir::new();
    dir.write("a.yaml", format!("{}\n---\nkind: Po", pod("a", "r:1")));
    let manifests = scan(&mut dir.scanner());
    assert_eq!((pods(&manifests), manifests.problems.len()), (vec![], 1));
}

#[test]
fn what_a_bad_file_held_is_remembered_over_a_restart() {
    let dir = Dir::new();
    dir.write("a.json", pod("a", "r:1"));
    dir.write("gone.json", pod("gone", "r:1"));
    let mut scanner = dir.scanner();
    scanner.scan(Complete::All);
    let remembered = scanner.files.into_iter().map(|(name, file)| (name, file.good)).collect();
    dir.write("a.json", "{");
    fs::remove_file(dir.0.path().join("gone.json")).unwrap();
    let manifests = scan(&mut dir.scanner_with(remembered));
    assert_eq!((pods(&manifests), manifests.problems.len()), (vec![("a", "r:1")], 1));
}

#[test]
fn a_removed_file_takes_its_pods_along() {
    let dir = Dir::new();
    dir.write("a.json", pod("a", "r:1"));
    let mut scanner = dir.scanner();
    assert_eq!(scan(&mut scanner).pods.len(), 1);
    fs::remove_file(dir.0.path().join("a.json")).unwrap();
    assert_eq!(scan(&mut scanner).pods.len(), 0);
}

#[test]
fn special_files_are_named_and_others_go_on() {
    let dir = Dir::new();
    dir.write("good.json", pod("good", "r:1"));
    nix::unistd::mkfifo(&dir.0.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("good.json", dir.0.path().join("link")).unwrap();
    fs::create_dir(dir.0.path().join("sub")).unwrap();
    fs::File::create(dir.0.path().join("huge")).unwrap().set_len(100 << 20).unwrap();
    let mut scanner = dir.scanner();
    let manifests = scan(&mut scanner);
    assert_eq!(pods(&manifests), [("good", "r:1")]);
    let expected = [
        ("fifo", "fifo where a regular file is expected"),
        ("huge", "file has 104857600 bytes, a manifest at most 10485760"),
        ("link", "symbolic link where a regular file is expected"),
        ("sub", "directory where a regular file is expected"),
    ];
    assert_eq!(problems(&manifests), expected);
    assert_eq!(problems(&scan(&mut scanner)), expected, "and again");
}

#[test]
fn a_bomb_is_refused() {
    let dir = Dir::new();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let below = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb = format!("{bomb}a{i}: &a{i} [{below}]\n");
    }
    dir.write("bomb.yaml", bomb);
    dir.write("good.json", pod("good", "r:1"));
    let manifests = scan(&mut dir.scanner());
    assert_eq!((pods(&manifests), manifests.problems.len()), (vec![("good", "r:1")], 1));
}

#[test]
fn the_first_file_by_name_owns_a_pod() {
    let dir = Dir::new();
    dir.write("b.json", pod("same", "r:2"));
    dir.write("a.json", pod("same", "r:1"));
    let mut scanner = dir.scanner();
    let manifests = scan(&mut scanner);
    assert_eq!(pods(&manifests), [("same", "r:1")]);
    assert_eq!(problems(&manifests), [("b.json", "pod default/same is already defined in a.json")]);
    fs::remove_file(dir.0.path().join("a.json")).unwrap();
    let manifests = scan(&mut scanner);
    assert_eq!((pods(&manifests), problems(&manifests)), (vec![("same", "r:2")], vec![]));
}

#[test]
fn a_uid_belongs_to_one_pod() {
    let dir = Dir::new();
    for name in ["a", "b"] {
        dir.write(name, pod(name, "r:1").replace(r#""metadata":{"#, r#""metadata":{"uid":"same","#));
    }
    let manifests = scan(&mut dir.scanner());
    assert_eq!(pods(&manifests), [("a", "r:1")]);
    assert_eq!(problems(&manifests), [("b", "pod UID same is already used in a")]);
}

#[test]
fn the_uid_of_a_secret_is_its_content() {
    let dir = Dir::new();
    let uid = |value| {
        dir.write("s.json", secret("s", value));
        let manifests = scan(&mut dir.scanner());
        manifests.secrets.values().next().unwrap().0.metadata.uid.clone().unwrap()
    };
    assert_eq!(uid("x"), uid("x"));
    assert_ne!(uid("x"), uid("y"));
    assert_eq!(uid("x").len(), 32);
}

#[test]
fn a_secret_is_not_in_debug_output() {
    let dir = Dir::new();
    dir.write("s.json", secret("s", "hunter2"));
    dir.write(
        "bad.json",
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "S"}, "stringData": {"k": "hunter2"}}"#,
    );
    dir.write("worse.json", r#"{"apiVersion": "v1", "kind": "Secret", "data": {"k": "hunter2!"}}"#);
    let mut scanner = dir.scanner();
    let manifests = scan(&mut scanner);
    assert_eq!((manifests.secrets.len(), manifests.problems.len()), (1, 2));
    let text = format!("{manifests:?}{scanner:?}");
    let bytes = format!("{:?}", b"hunter2").trim_matches(['[', ']']).to_owned();
    assert!(!text.contains("hunter2") && !text.contains(&bytes), "{text}");
}

#[test]
fn a_file_name_cannot_spoil_a_log() {
    let dir = Dir::new();
    dir.write("a\n\u{1b}[2J", "{");
    let manifests = scan(&mut dir.scanner());
    assert_eq!(manifests.problems[0].file, "a\\n\\u{1b}[2J");
}

#[test]
fn a_file_that_just_changed_waits_unless_it_is_known_to_be_complete() {
    let dir = Dir::new();
    let mut scanner = dir.scanner();
    scanner.scan(Complete::All);
    dir.write("a.json", pod("a", "r:1"));
    scanner.scan(Complete::Only(&BTreeSet::new()));
    assert_eq!((scanner.manifests().pods.len(), scanner.has_young_files()), (0, true));
    scanner.scan(Complete::Only(&BTreeSet::from(["a.json".into()])));
    assert_eq!((scanner.manifests().pods.len(), scanner.has_young_files()), (1, false));
}

#[test]
fn an_unreadable_directory_changes_nothing() {
    let dir = Dir::new();
    let inner = dir.0.path().join("manifests");
    let host = Host { node_name: "node1".into(), clock: WallClock::system() };
    let mut scanner = Scanner::new(inner.clone(), host, BTreeMap::new());
    let manifests = scan(&mut scanner);
    assert!(!manifests.ready);
    assert_eq!(manifests.problems[0].file, "");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.json"), pod("a", "r:1")).unwrap();
    assert!(scan(&mut scanner).ready);
    fs::rename(&inner, dir.0.path().join("elsewhere")).unwrap();
    let manifests = scan(&mut scanner);
    assert_eq!((pods(&manifests), manifests.ready, manifests.problems.len()), (vec![("a", "r:1")], true, 1));
}

#[test]
fn ten_thousand_files_are_read() {
    let dir = Dir::new();
    for i in 0..10_000 {
        dir.write(&format!("{i}.json"), secret(&format!("s{i}"), "x"));
    }
    assert_eq!(scan(&mut dir.scanner()).secrets.len(), 10_000);
}
