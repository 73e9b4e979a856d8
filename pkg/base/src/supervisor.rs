//! Supervision: every task has an owner that sees its panic and waits for its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks and ends them. Clones and children share one fate: [`Supervisor::shut_down`] of a parent ends its children.
#[derive(Debug, Clone)]
pub struct Supervisor {
    name: &'static str,
    cancel: CancellationToken,
    tasks: TaskTracker,
    panics: Arc<AtomicU64>,
}

// === impl Supervisor ===

impl Supervisor {
    /// The root of a tree of supervisors.
    pub fn new(name: &'static str) -> Self {
        Self { name, cancel: CancellationToken::new(), tasks: TaskTracker::new(), panics: Arc::default() }
    }

    /// A supervisor whose tasks end when the parent's do, and that can end earlier.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        Self { name, cancel: self.cancel.child_token(), tasks: self.tasks.clone(), panics: Arc::clone(&self.panics) }
    }

    /// Runs a task. It should watch [`Supervisor::cancelled`] and end soon after; a panic is logged and counted.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that spawns")]
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (owner, panics) = (self.name, Arc::clone(&self.panics));
        let watched = async move {
            if std::panic::AssertUnwindSafe(task).catch_unwind().await.is_err() {
                panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!(owner, task = name, "task panicked");
            }
        };
        drop(tokio::spawn(self.tasks.track_future(watched)));
    }

    /// Resolves when the tasks are asked to end.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// The token that [`Supervisor::cancelled`] watches.
    pub fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// How many tasks have panicked since start; any makes the process unhealthy.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Asks the tasks of this supervisor and of its children to end, without waiting.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Asks every task of the tree to end and waits for them; `false` if some still ran after `grace`.
    pub async fn shut_down(&self, grace: Duration) -> bool {
        self.cancel.cancel();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_counted_and_others_go_on() {
        let supervisor = Supervisor::new("test");
        let child = supervisor.child("child");
        child.spawn("bad", async { panic!("expected by the test") });
        let token = child.token();
        child.spawn("good", async move { token.cancelled().await });
        assert!(supervisor.shut_down(Duration::from_secs(5)).await);
        assert_eq!(supervisor.panics(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn says_when_a_task_does_not_end() {
        let supervisor = Supervisor::new("test");
        supervisor.spawn("stuck", std::future::pending());
        assert!(!supervisor.shut_down(Duration::from_secs(1)).await);
    }
}
