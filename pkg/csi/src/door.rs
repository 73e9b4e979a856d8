//! Keeps a socket in its place, and hands over who comes in.
//!
//! The kubelet's directories may be wiped while we run; whoever connects by path then finds nobody, and the kubelet takes notice of a
//! plugin only when its socket appears. So the file is looked at, slowly, and made anew when it is gone.

use imagevol_base::blocking;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::socket::{Bound, Parent, SocketError, SocketFile};

/// How often the file is looked at: a system call. Half of what a kubelet needs to give up a dial (plugin registration, 10 s).
const LOOK: Duration = Duration::from_secs(5);
/// After a failed accept, which is of the whole process: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket to keep.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) path: PathBuf,
    pub(crate) parent: Parent,
    /// Where accepted connections go.
    pub(crate) comers: mpsc::Sender<io::Result<UnixStream>>,
    /// Told when the socket has to appear again although it is there.
    pub(crate) renew: Arc<Notify>,
    /// Who may come in, besides root: the daemon's own user.
    pub(crate) owner: u32,
}

/// Why an open socket is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// It is to end.
    Stopped,
    /// It has to be made anew.
    Gone,
}

// === impl Door ===

impl Door {
    /// The user whose daemon this is.
    pub(crate) fn owner() -> io::Result<u32> {
        Ok(std::fs::metadata("/proc/self")?.uid())
    }

    /// Keeps the socket until `stop`, then removes its file. `bound`, if it is open already.
    pub(crate) async fn keep(self, bound: Option<Bound>, stop: CancellationToken) {
        let mut bound = bound;
        loop {
            let Some(now) = self.ready(bound.take(), &stop).await else { return };
            let file = now.file.clone();
            let left = match UnixListener::from_std(now.listener) {
                Ok(listener) => self.watch(&listener, &file, &stop).await,
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "cannot listen on socket");
                    self.rest(&stop).await
                }
            };
            if left == Left::Stopped {
                remove(file).await;
                return;
            }
        }
    }

    /// The socket, as soon as it can be had; `None` if it is to end before.
    async fn ready(&self, bound: Option<Bound>, stop: &CancellationToken) -> Option<Bound> {
        let mut bound = bound;
        let mut told = false;
        loop {
            if stop.is_cancelled() {
                if let Some(bound) = bound {
                    remove(bound.file).await;
                }
                return None;
            }
            if bound.is_some() {
                return bound;
            }
            match self.open().await {
                Ok(open) => bound = Some(open),
                Err(error) => {
                    self.tell(&error, &mut told);
                    self.rest(stop).await;
                }
            }
        }
    }

    async fn open(&self) -> Result<Bound, SocketError> {
        let (path, parent) = (self.path.clone(), self.parent);
        let bound = blocking(move || Bound::new(&path, parent)).await?;
        tracing::info!(path = %self.path.display(), "listening");
        Ok(bound)
    }

    /// Once for a row of failures: a kubelet that is not there yet is nothing to fill a log with.
    fn tell(&self, error: &SocketError, told: &mut bool) {
        if !std::mem::replace(told, true) {
            let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(path = %self.path.display(), %error, cause, "cannot open socket, trying on");
        }
    }

    async fn rest(&self, stop: &CancellationToken) -> Left {
        tokio::select! {
            () = stop.cancelled() => Left::Stopped,
            () = tokio::time::sleep(LOOK) => Left::Gone,
        }
    }

    async fn watch(&self, listener: &UnixListener, file: &SocketFile, stop: &CancellationToken) -> Left {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Left::Stopped,
                () = self.renew.notified() => return Left::Gone,
                _ = look.tick() => if !self.is_there(file).await { return Left::Gone },
                comer = listener.accept() => self.let_in(comer.map(|(stream, _)| stream)).await,
            }
        }
    }

    /// What cannot be looked at is taken as there: a second socket would not make it better.
    async fn is_there(&self, file: &SocketFile) -> bool {
        let file = file.clone();
        let found = blocking(move || file.is_there()).await;
        match found {
            Ok(false) => tracing::warn!(path = %self.path.display(), "the socket's file has gone; making it anew"),
            Err(ref error) => tracing::warn!(path = %self.path.display(), %error, "cannot look at socket"),
            Ok(true) => {}
        }
        found.unwrap_or(true)
    }

    async fn let_in(&self, comer: io::Result<UnixStream>) {
        let stream = match comer {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot accept a connection");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        match stream.peer_cred().map(|peer| peer.uid()) {
            // An error means that nobody serves any more, which ends this task as well.
            Ok(uid) if uid == 0 || uid == self.owner => drop(self.comers.send(Ok(stream)).await),
            Ok(uid) => tracing::warn!(path = %self.path.display(), uid, "refused a connection of another user"),
            Err(error) => tracing::warn!(path = %self.path.display(), %error, "refused a connection of nobody"),
        }
    }
}

async fn remove(file: SocketFile) {
    if let Err(error) = blocking(move || file.remove()).await {
        tracing::warn!(%error, "cannot remove socket");
    }
}
