//! One running operation per key, which all who ask join, and which outlives each of them.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, Shared};

use crate::Supervisor;

type Flight<T> = Shared<BoxFuture<'static, Option<T>>>;

/// Joins callers of equal keys to one operation, run as a task of its own.
pub struct SingleFlight<K, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
    supervisor: Supervisor,
}

// === impl SingleFlight ===

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Operations run as tasks of `supervisor`.
    pub fn new(supervisor: Supervisor) -> Self {
        Self { flights: Arc::default(), supervisor }
    }

    /// Joins the operation of `key`, or starts `operation` as it. `None` if the operation panicked.
    pub async fn run<F>(&self, key: K, operation: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.join_or_start(key, operation).await
    }

    /// Whether an operation of `key` runs.
    pub fn is_running(&self, key: &K) -> bool {
        self.lock().contains_key(key)
    }

    fn join_or_start<F>(&self, key: K, operation: impl FnOnce() -> F) -> Flight<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let flight = receiver.map(Result::ok).boxed().shared();
        flights.insert(key.clone(), flight.clone());
        let landing = Landing { flights: Arc::clone(&self.flights), key };
        let future = operation();
        self.supervisor.spawn("single-flight", async move {
            let value = future.await;
            drop(landing);
            // Nobody waits any more: the operation's effects stand all the same.
            drop(sender.send(value));
        });
        flight
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> std::fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

/// Takes the flight off the board however it ends, by a panic too.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn callers_of_one_key_share_one_run() {
        let flights = SingleFlight::<&str, usize>::new(Supervisor::new("test"));
        let runs = Arc::new(AtomicUsize::new(0));
        let operation = || {
            let runs = Arc::clone(&runs);
            async move {
                tokio::task::yield_now().await;
                runs.fetch_add(1, Ordering::SeqCst)
            }
        };
        let (a, b) = tokio::join!(flights.run("key", operation), flights.run("key", operation));
        assert_eq!((a, b), (Some(0), Some(0)));
        assert_eq!(flights.run("key", operation).await, Some(1), "a finished run is not joined");
    }

    #[tokio::test]
    async fn a_panic_frees_the_key_and_reaches_those_who_wait() {
        let flights = SingleFlight::<&str, usize>::new(Supervisor::new("test"));
        assert_eq!(flights.run("key", || async { panic!("expected by the test") }).await, None);
        assert!(!flights.is_running(&"key"));
    }
}
