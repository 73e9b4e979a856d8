//! A small map that forgets what was used longest ago.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// At most `capacity` entries, found by comparison: meant for tens of them.
pub(crate) struct Lru<K, V> {
    capacity: usize,
    /// The most recently used is last.
    entries: Mutex<Vec<(K, V)>>,
}

// === impl Lru ===

impl<K: PartialEq, V: Clone> Lru<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, entries: Mutex::new(Vec::new()) }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut entries = self.lock();
        let position = entries.iter().position(|(known, _)| known == key)?;
        let entry = entries.remove(position);
        let value = entry.1.clone();
        entries.push(entry);
        Some(value)
    }

    pub(crate) fn put(&self, key: K, value: V) {
        let mut entries = self.lock();
        entries.retain(|(known, _)| *known != key);
        if entries.len() >= self.capacity {
            entries.remove(0);
        }
        entries.push((key, value));
    }

    pub(crate) fn remove(&self, key: &K) {
        self.lock().retain(|(known, _)| known != key);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(K, V)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> std::fmt::Debug for Lru<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lru").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_least_recently_used() {
        let lru = Lru::new(2);
        lru.put('a', 1);
        lru.put('b', 2);
        assert_eq!(lru.get(&'a'), Some(1));
        lru.put('c', 3);
        assert_eq!((lru.get(&'a'), lru.get(&'b'), lru.get(&'c')), (Some(1), None, Some(3)));
    }
}
