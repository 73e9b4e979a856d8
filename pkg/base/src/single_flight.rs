//! One running operation per key, which all who ask join. It outlives each of them, and ends a grace after the last has left.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::{oneshot, watch};

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
    /// How many callers wait. It grows only while the board is locked.
    waiting: watch::Sender<usize>,
}

/// Counts a caller for as long as it waits.
struct Waiting(watch::Sender<usize>);

/// Takes the flight off the board however it ends, by a panic too.
struct Landing<K: Eq + Hash, T> {
    flights: Flights<K, T>,
    key: K,
    waiting: watch::Sender<usize>,
}

// === impl SingleFlight ===

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// Operations run as tasks of `supervisor`, and are dropped when that ends; one that nobody waits for is dropped after `grace`.
    pub fn new(supervisor: Supervisor, grace: Duration) -> Self {
        Self { flights: Arc::default(), supervisor, grace }
    }

    /// Joins the operation of `key`, or starts `operation` as it: then, and only then, `operation` is called, before the first wait.
    /// `None` if it panicked, or was dropped because the supervisor ends.
    pub async fn run<F>(&self, key: K, operation: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (result, _waiting) = self.join_or_start(key, operation);
        result.await
    }

    /// Waits for the end of those operations that run now and whose key is meant, without keeping them up as those who join do.
    pub async fn ended(&self, meant: impl Fn(&K) -> bool) {
        let results = |flights: &HashMap<K, Flight<T>>| {
            let meant = flights.iter().filter(|(key, _)| meant(key));
            meant.map(|(_, flight)| flight.result.clone()).collect::<Vec<_>>()
        };
        let results = results(&lock(&self.flights));
        for result in results {
            result.await;
        }
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
        let (sender, receiver) = oneshot::channel();
        let flight = Flight { result: receiver.map(Result::ok).boxed().shared(), waiting: watch::Sender::new(0) };
        let joined = (flight.result.clone(), Waiting::new(&flight.waiting));
        let landing = Landing { flights: Arc::clone(&self.flights), key: key.clone(), waiting: flight.waiting.clone() };
        self.start(operation(), landing, sender);
        flights.insert(key, flight);
        joined
    }

    fn start(
        &self,
        operation: impl Future<Output = T> + Send + 'static,
        landing: Landing<K, T>,
        sender: oneshot::Sender<T>,
    ) {
        let (grace, ended) = (self.grace, self.supervisor.token());
        self.supervisor.spawn("single-flight", async move {
            let value = tokio::select! {
                biased;
                value = operation => Some(value),
                () = landing.abandoned(grace) => None,
                () = ended.cancelled() => None,
            };
            // Off the board first: whoever has the result and asks again gets a new run.
            drop(landing);
            if let Some(value) = value {
                // Nobody waits any more: the operation's effects stand all the same.
                drop(sender.send(value));
            }
        });
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

impl<K: Eq + Hash, T> Landing<K, T> {
    /// Resolves when nobody has waited for the length of `grace`; by then the flight is off the board, so that nobody joins what ends.
    async fn abandoned(&self, grace: Duration) {
        let mut waiting = self.waiting.subscribe();
        loop {
            // `self` holds a sender: no wait ends for want of one.
            drop(waiting.wait_for(|count| *count == 0).await);
            let joined = async { drop(waiting.wait_for(|count| *count > 0).await) };
            if tokio::time::timeout(grace, joined).await.is_err() && self.leave_if_nobody_waits() {
                return;
            }
        }
    }

    /// Somebody may have come in the last moment.
    fn leave_if_nobody_waits(&self) -> bool {
        let mut flights = lock(&self.flights);
        let abandoned = *self.waiting.borrow() == 0;
        if abandoned {
            self.leave(&mut flights);
        }
        abandoned
    }

    /// The board may have another flight of this key by now.
    fn leave(&self, flights: &mut HashMap<K, Flight<T>>) {
        if flights.get(&self.key).is_some_and(|flight| flight.waiting.same_channel(&self.waiting)) {
            flights.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.leave(&mut lock(&self.flights));
    }
}

fn lock<K, T>(flights: &Flights<K, T>) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
