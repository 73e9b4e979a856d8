//! One running operation per key, which all who ask join. It outlives each of them, and ends a grace after the last has left.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::watch;

use crate::Supervisor;

/// Joins callers of equal keys to one operation, run as a task of its own.
pub struct SingleFlight<K, T> {
    flights: Flights<K, T>,
    supervisor: Supervisor,
    grace: Duration,
}

type Flights<K, T> = Arc<Mutex<HashMap<K, Flight<T>>>>;

struct Flight<T> {
    result: Shared<BoxFuture<'static, Option<T>>>,
    waiting: watch::Sender<usize>,
}

/// Counts a caller for as long as it waits.
struct Waiting(watch::Sender<usize>);

/// Takes the flight off the board however it ends, by a panic too.
struct Landing<K: Eq + Hash, T> {
    flights: Flights<K, T>,
    key: K,
}

// === impl SingleFlight ===

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Operations run as tasks of `supervisor`; one that nobody waits for is dropped after `grace`.
    pub fn new(supervisor: Supervisor, grace: Duration) -> Self {
        Self { flights: Arc::default(), supervisor, grace }
    }

    /// Joins the operation of `key`, or starts `operation` as it. `None` if it panicked or was dropped.
    pub async fn run<F>(&self, key: K, operation: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (result, _waiting) = self.join_or_start(key, operation);
        result.await
    }

    /// Whether an operation of `key` runs.
    pub fn is_running(&self, key: &K) -> bool {
        lock(&self.flights).contains_key(key)
    }

    fn join_or_start<F>(
        &self,
        key: K,
        operation: impl FnOnce() -> F,
    ) -> (Shared<BoxFuture<'static, Option<T>>>, Waiting)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&key) {
            return (flight.result.clone(), Waiting::new(&flight.waiting));
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let flight = Flight { result: receiver.map(Result::ok).boxed().shared(), waiting: watch::Sender::new(0) };
        let joined = (flight.result.clone(), Waiting::new(&flight.waiting));
        let (abandoned, future) = (abandoned(flight.waiting.subscribe(), self.grace), operation());
        flights.insert(key.clone(), flight);
        let landing = Landing { flights: Arc::clone(&self.flights), key };
        self.supervisor.spawn("single-flight", async move {
            tokio::select! {
                value = future => {
                    drop(landing);
                    // Nobody waits any more: the operation's effects stand all the same.
                    drop(sender.send(value));
                }
                () = abandoned => drop(landing),
            }
        });
        joined
    }
}

impl<K, T> std::fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleFlight").field("grace", &self.grace).finish_non_exhaustive()
    }
}

// === impl Waiting ===

impl Waiting {
    fn new(waiting: &watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self(waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

// === impl Landing ===

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

/// Resolves when nobody has waited for the length of `grace`.
async fn abandoned(mut waiting: watch::Receiver<usize>, grace: Duration) {
    loop {
        if waiting.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        let joined = tokio::time::timeout(grace, waiting.wait_for(|count| *count > 0)).await;
        if !matches!(joined, Ok(Ok(_))) {
            return;
        }
    }
}

fn lock<K, T>(flights: &Flights<K, T>) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn callers_of_one_key_share_one_run() {
        let flights = SingleFlight::<&str, usize>::new(Supervisor::new("test"), GRACE);
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
        let flights = SingleFlight::<&str, usize>::new(Supervisor::new("test"), GRACE);
        assert_eq!(flights.run("key", || async { panic!("expected by the test") }).await, None);
        assert!(!flights.is_running(&"key"));
    }

    #[tokio::test(start_paused = true)]
    async fn ends_a_grace_after_the_last_caller_left() {
        let flights = SingleFlight::<&str, usize>::new(Supervisor::new("test"), GRACE);
        let leave = tokio::time::timeout(Duration::from_secs(1), flights.run("key", std::future::pending)).await;
        assert!(leave.is_err());
        tokio::time::advance(GRACE / 2).await;
        assert!(flights.is_running(&"key"), "a new caller could still join");
        tokio::time::sleep(GRACE * 2).await;
        assert!(!flights.is_running(&"key"), "nobody came back");
    }
}
