//! One question at a time: who asks the same meanwhile gets the same answer.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};

/// Operations under way. They are driven by those who wait for them, and end with the last of them.
pub(super) struct Flights<K, T: Clone>(Mutex<HashMap<K, Flight<T>>>);

type Flight<T> = WeakShared<BoxFuture<'static, T>>;

// === impl Flights ===

impl<K, T: Clone> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone> Flights<K, T> {
    /// Joins the operation of `key`, or begins `operation` as it.
    pub(super) async fn run<F>(&self, key: K, operation: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.join(key, operation).await
    }

    fn join<F>(&self, key: K, operation: impl FnOnce() -> F) -> Shared<BoxFuture<'static, T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key).and_then(under_way) {
            return flight;
        }
        flights.retain(|_, flight| under_way(flight).is_some());
        let flight = operation().boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key, weak);
        }
        flight
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The operation, if somebody still waits and it has not ended: an answer is not for those who ask after it.
fn under_way<T: Clone>(flight: &Flight<T>) -> Option<Shared<BoxFuture<'static, T>>> {
    flight.upgrade().filter(|flight| flight.peek().is_none())
}

impl<K, T: Clone> fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::poll;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn who_asks_meanwhile_joins_and_who_asks_after_does_not() {
        let (flights, begun) = (Flights::<&str, u32>::default(), AtomicU32::new(0));
        let (open, gate) = oneshot::channel::<()>();
        let number = || begun.fetch_add(1, Ordering::Relaxed);
        let first = flights.run("a", || {
            let number = number();
            async move { gate.await.map(|()| number).unwrap() }
        });
        let second = flights.run("a", || std::future::ready(number()));
        let (mut first, mut second) = (Box::pin(first), Box::pin(second));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(flights.run("b", || std::future::ready(number())).await, 1, "another question");
        drop(first);
        open.send(()).unwrap();
        assert_eq!(second.await, 0, "goes on without the one who began it");
        assert_eq!(flights.run("a", || std::future::ready(number())).await, 2);
        assert_eq!(flights.lock().len(), 1, "others are forgotten");
    }

    #[tokio::test]
    async fn ends_with_the_last_who_waits() {
        let flights = Flights::<&str, ()>::default();
        let (held, gone) = oneshot::channel::<()>();
        let mut only = Box::pin(flights.run("a", || async move {
            let _held = held;
            std::future::pending::<()>().await;
        }));
        assert!(poll!(&mut only).is_pending());
        drop(only);
        assert!(gone.await.is_err());
    }
}
