//! Pods and pull secrets from a directory of manifests, as a kubelet reads static pods.
//!
//! Every file whose name does not begin with a dot is read: YAML or JSON, any number of documents, at most 10 MiB. inotify says when a file is
//! complete; a slow rescan finds the rest. A file is taken whole or not at all, and **one that cannot be used keeps what it held when it was last
//! good**, over a restart too: a half-written file must not tear down running pods. Removing a pod means removing it from a file that is valid, or
//! the file. Links, fifos, sockets, directories and devices are refused. Of two files that name the same object the first by name wins.
//! A directory that cannot be read changes nothing; until it has been read once, the source is not ready.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imagevol_base::{DirectoryWatch, Happened, blocking};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

mod load;
mod read;
mod scan;
mod snapshot;

pub use snapshot::{ManifestPod, Manifests, Problem};

pub(crate) use load::{Host, Loaded, Refused, prepare, with_causes};
pub(crate) use scan::{Complete, Scanner};
#[cfg(test)]
pub(crate) use snapshot::HeldSecret;
pub(crate) use snapshot::ObjectKey;

/// How often every file is looked at (`fileCheckFrequency`, default of KubeletConfiguration).
pub const DEFAULT_FILE_CHECK_FREQUENCY: Duration = Duration::from_secs(20);
/// How soon a file is looked at again that had just changed, and nobody said that it is complete.
const YOUNG_FILE_CHECK: Duration = Duration::from_secs(1);

/// The directory and what it holds. Clones share both.
#[derive(Debug, Clone)]
pub(crate) struct FileSource {
    directory: PathBuf,
    scanner: Arc<Mutex<Scanner>>,
    published: watch::Sender<Arc<Manifests>>,
    check_frequency: Duration,
}

// === impl FileSource ===

impl FileSource {
    /// A source that has read nothing yet; `remembered` is what each file held in the last run.
    pub(crate) fn new(
        directory: PathBuf,
        host: Host,
        remembered: BTreeMap<OsString, Vec<Loaded>>,
        check_frequency: Duration,
    ) -> Self {
        let scanner = Arc::new(Mutex::new(Scanner::new(directory.clone(), host, remembered)));
        Self { directory, scanner, published: watch::Sender::new(Arc::default()), check_frequency }
    }

    /// What the directory holds, from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Manifests>> {
        self.published.subscribe()
    }

    /// What the directory holds.
    pub(crate) fn manifests(&self) -> Arc<Manifests> {
        Arc::clone(&self.published.borrow())
    }

    /// Runs blocking work on the scanner, then publishes what has become of the files. Nothing is read or published in between.
    pub(crate) async fn with_scanner<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Scanner) -> T + Send + 'static,
    ) -> T {
        let source = self.clone();
        blocking(move || {
            let mut scanner = source.scanner.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut scanner);
            source.publish(scanner.manifests());
            result
        })
        .await
    }

    /// Follows the directory until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut watch = None;
        let mut complete = None;
        loop {
            watch = watch.or_else(|| self.watch());
            let young = self.rescan(complete.take()).await;
            let pause = if young { YOUNG_FILE_CHECK.min(self.check_frequency) } else { self.check_frequency };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => complete = Some(BTreeSet::new()),
                happened = happened(watch.as_ref()) => {
                    if happened.lost {
                        watch = None;
                    }
                    complete = Some(happened.complete);
                }
            }
        }
    }

    /// Looks at every file; whether one is to be looked at again soon. Without `complete` all files are taken as they are.
    async fn rescan(&self, complete: Option<BTreeSet<OsString>>) -> bool {
        self.with_scanner(move |scanner| {
            scanner.scan(complete.as_ref().map_or(Complete::All, Complete::Only));
            scanner.has_young_files()
        })
        .await
    }

    /// A watch on the directory; without one, rescans have to do.
    fn watch(&self) -> Option<DirectoryWatch> {
        let directory = &self.directory;
        DirectoryWatch::new(directory)
            .inspect_err(
                |error| tracing::warn!(?directory, %error, "cannot watch the manifest directory: relying on rescans"),
            )
            .ok()
    }

    fn publish(&self, new: Manifests) {
        self.published.send_if_modified(|published| {
            if published.is_same_as(&new) {
                return false;
            }
            log_changes(&published.problems, &new.problems);
            *published = Arc::new(new);
            true
        });
    }
}

/// Waits for ever where nothing is watched.
async fn happened(watch: Option<&DirectoryWatch>) -> Happened {
    let Some(watch) = watch else { return std::future::pending().await };
    watch.happened().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the watch on the manifest directory failed");
        Happened { lost: true, ..Happened::default() }
    })
}

/// Each problem once, when it comes and when it goes.
fn log_changes(before: &[Problem], now: &[Problem]) {
    let (before, now): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), now.iter().collect());
    for Problem { file, message } in now.difference(&before) {
        tracing::warn!(file, message, "manifest is not used");
    }
    for Problem { file, message } in before.difference(&now) {
        tracing::info!(file, message, "manifest is no longer refused for this");
    }
}

#[cfg(test)]
mod tests;
