use std::fs;
use std::path::Path;

use imagevol_base::Supervisor;
use serde_json::json;

use super::*;
use crate::WallClock;

/// Ends a test that would hang; nothing waits for it when all is well.
const HANGS: Duration = Duration::from_mins(2);

fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "debian"}]},
    })
    .to_string()
}

fn start(directory: &Path, check_frequency: Duration) -> (watch::Receiver<Arc<Manifests>>, Supervisor) {
    let host = Host { node_name: "node1".into(), clock: WallClock::system() };
    let source = FileSource::new(directory.to_owned(), host, BTreeMap::new(), check_frequency);
    let supervisor = Supervisor::new("test");
    let manifests = source.subscribe();
    supervisor.spawn("files", source.run(supervisor.token()));
    (manifests, supervisor)
}

async fn until(manifests: &mut watch::Receiver<Arc<Manifests>>, names: &[&str]) {
    let same = |manifests: &Arc<Manifests>| {
        let mut found: Vec<_> =
            manifests.pods.values().filter_map(|entry| entry.pod.metadata.name.as_deref()).collect();
        found.sort_unstable();
        manifests.ready && found == names
    };
    tokio::time::timeout(HANGS, manifests.wait_for(same)).await.expect("the files should be seen").unwrap();
}

#[tokio::test]
async fn sees_changes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.json"), pod("a")).unwrap();
    let (mut manifests, supervisor) = start(dir.path(), HANGS * 10);
    until(&mut manifests, &["a"]).await;
    fs::write(dir.path().join("b.json"), pod("b")).unwrap();
    until(&mut manifests, &["a", "b"]).await;
    fs::write(dir.path().join(".c"), pod("c")).unwrap();
    fs::rename(dir.path().join(".c"), dir.path().join("c.json")).unwrap();
    until(&mut manifests, &["a", "b", "c"]).await;
    fs::remove_file(dir.path().join("a.json")).unwrap();
    until(&mut manifests, &["b", "c"]).await;
    assert!(supervisor.shut_down(HANGS).await);
}

/// A hard link makes no event that is watched.
#[tokio::test(start_paused = true)]
async fn a_rescan_finds_what_no_event_told() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    fs::write(outside.path().join("x"), pod("linked")).unwrap();
    let (mut manifests, supervisor) = start(dir.path(), DEFAULT_FILE_CHECK_FREQUENCY);
    until(&mut manifests, &[]).await;
    fs::hard_link(outside.path().join("x"), dir.path().join("x")).unwrap();
    manifests.wait_for(|manifests| manifests.pods.len() == 1).await.unwrap();
    assert!(supervisor.shut_down(HANGS).await);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_comes_later_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    let (mut manifests, supervisor) = start(&inner, DEFAULT_FILE_CHECK_FREQUENCY);
    let told = manifests.wait_for(|manifests| !manifests.problems.is_empty()).await.unwrap().clone();
    assert!(!told.ready);
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.json"), pod("a")).unwrap();
    manifests.wait_for(|manifests| manifests.ready && manifests.pods.len() == 1).await.unwrap();
    assert!(supervisor.shut_down(HANGS).await);
}

#[tokio::test]
async fn a_directory_that_is_made_anew_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    let (mut manifests, supervisor) = start(&inner, Duration::from_millis(10));
    until(&mut manifests, &[]).await;
    fs::rename(&inner, dir.path().join("old")).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.json"), pod("a")).unwrap();
    until(&mut manifests, &["a"]).await;
    fs::write(inner.join("b.json"), pod("b")).unwrap();
    until(&mut manifests, &["a", "b"]).await;
    assert!(supervisor.shut_down(HANGS).await);
}

#[tokio::test]
async fn an_unchanged_directory_publishes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.json"), pod("a")).unwrap();
    fs::write(dir.path().join("bad.json"), "{").unwrap();
    let host = Host { node_name: "node1".into(), clock: WallClock::system() };
    let source = FileSource::new(dir.path().to_owned(), host, BTreeMap::new(), HANGS);
    let mut manifests = source.subscribe();
    source.rescan(None).await;
    assert!(manifests.has_changed().unwrap());
    manifests.mark_unchanged();
    // The files are young, so they are read again.
    source.rescan(None).await;
    assert!(!manifests.has_changed().unwrap());
}
