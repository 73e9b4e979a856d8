//! Follows the directory of lists.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagevol_base::{DirectoryWatch, Happened, blocking};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::item::Lists;
use crate::scan::{Complete, Scanner};

/// How soon a file is looked at again that had just changed, and nobody said that it is complete.
const YOUNG_FILE_CHECK: Duration = Duration::from_secs(1);

/// A directory of files of kind `ImagePrefetch`, each taken whole or not at all: one that cannot be used keeps what it held when it
/// was last good.
#[derive(Debug)]
pub struct ListSource {
    directory: PathBuf,
    scanner: Arc<Mutex<Scanner>>,
    published: watch::Sender<Arc<Lists>>,
    check_frequency: Duration,
}

// === impl ListSource ===

impl ListSource {
    /// A source that has read nothing yet. Everything is read again after `check_frequency`, whatever the kernel says.
    pub fn new(directory: PathBuf, check_frequency: Duration) -> Self {
        let scanner = Arc::new(Mutex::new(Scanner::new(directory.clone())));
        Self { directory, scanner, published: watch::Sender::new(Arc::default()), check_frequency }
    }

    /// What the files say, from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Lists>> {
        self.published.subscribe()
    }

    /// Follows the directory until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (mut watch, mut complete) = (None, Complete::All);
        loop {
            watch = watch.or_else(|| DirectoryWatch::new(&self.directory).ok());
            let young = self.rescan(complete).await;
            let pause = if young { YOUNG_FILE_CHECK.min(self.check_frequency) } else { self.check_frequency };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => complete = Complete::Only(BTreeSet::new()),
                happened = happened(watch.as_ref()) => {
                    if happened.lost {
                        watch = None;
                    }
                    complete = Complete::Only(happened.complete);
                }
            }
        }
    }

    /// Reads every file; whether one is to be read again soon.
    async fn rescan(&self, complete: Complete) -> bool {
        let scanner = Arc::clone(&self.scanner);
        let (lists, young) = blocking(move || {
            let mut scanner = scanner.lock().unwrap_or_else(PoisonError::into_inner);
            scanner.scan(&complete);
            (scanner.lists(), scanner.has_young_files())
        })
        .await;
        self.published.send_if_modified(|published| {
            if **published == lists {
                return false;
            }
            log_changes(&published.problems, &lists.problems);
            *published = Arc::new(lists);
            true
        });
        young
    }
}

/// Waits for ever where nothing is watched: rescans have to do.
async fn happened(watch: Option<&DirectoryWatch>) -> Happened {
    let Some(watch) = watch else { return std::future::pending().await };
    watch.happened().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the watch on the directory of prefetch lists failed");
        Happened { lost: true, ..Happened::default() }
    })
}

/// Each problem once, when it comes and when it goes.
fn log_changes(before: &[String], now: &[String]) {
    for problem in now.iter().filter(|problem| !before.contains(problem)) {
        tracing::warn!(problem, "prefetch list is not used");
    }
    for problem in before.iter().filter(|problem| !now.contains(problem)) {
        tracing::info!(problem, "prefetch list is no longer refused for this");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use imagevol_base::Supervisor;

    use super::*;
    use crate::item::Completeness;

    /// Ends a test that would hang; nothing waits for it when all is well.
    const HANGS: Duration = Duration::from_mins(2);

    fn list(reference: &str) -> String {
        format!(
            "apiVersion: imagevol.dev/v1alpha1\nkind: ImagePrefetch\nmetadata: {{name: x}}\nspec: {{images: [{{reference: '{reference}'}}]}}\n"
        )
    }

    async fn until(lists: &mut watch::Receiver<Arc<Lists>>, references: &[&str]) {
        let same = |lists: &Arc<Lists>| {
            let found: Vec<_> = lists.items.iter().map(|item| item.image.written.as_str()).collect();
            lists.complete == Completeness::Complete && found == references
        };
        tokio::time::timeout(HANGS, lists.wait_for(same)).await.expect("the lists should be seen").unwrap();
    }

    #[tokio::test]
    async fn changes_are_seen_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let source = ListSource::new(dir.path().to_owned(), HANGS * 10);
        let (mut lists, supervisor) = (source.subscribe(), Supervisor::new("test"));
        supervisor.spawn("lists", source.run(supervisor.token()));
        until(&mut lists, &[]).await;
        fs::write(dir.path().join("a.yaml"), list("a:1")).unwrap();
        until(&mut lists, &["a:1"]).await;
        fs::write(dir.path().join(".new"), list("a:2")).unwrap();
        fs::rename(dir.path().join(".new"), dir.path().join("a.yaml")).unwrap();
        until(&mut lists, &["a:2"]).await;
        fs::remove_file(dir.path().join("a.yaml")).unwrap();
        until(&mut lists, &[]).await;
        assert!(supervisor.shut_down(HANGS).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_that_comes_later_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("prefetch");
        let source = ListSource::new(inner.clone(), Duration::from_secs(20));
        let (mut lists, supervisor) = (source.subscribe(), Supervisor::new("test"));
        supervisor.spawn("lists", source.run(supervisor.token()));
        lists.wait_for(|lists| lists.complete == Completeness::Complete).await.unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("a.yaml"), list("a:1")).unwrap();
        lists.wait_for(|lists| lists.items.len() == 1).await.unwrap();
        assert!(supervisor.shut_down(HANGS).await);
    }
}
