//! A map that forgets what was used least recently.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most `capacity` entries.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    entries: HashMap<K, (u64, V)>,
    by_use: BTreeMap<u64, K>,
    uses: u64,
    capacity: usize,
}

// === impl Lru ===

impl<K: Clone + Eq + Hash, V> Lru<K, V> {
    /// An empty map.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, capacity }
    }

    /// Takes an entry out, to be put back with [`Lru::put`].
    pub(crate) fn take<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (used, value) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }

    /// Puts an entry as the one used last; the one used least recently goes if there are too many.
    pub(crate) fn put(&mut self, key: K, value: V) {
        self.uses += 1;
        if let Some((used, _)) = self.entries.insert(key.clone(), (self.uses, value)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.uses, key);
        while self.entries.len() > self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_used_least_recently() {
        let mut lru = Lru::new(2);
        lru.put("a", 1);
        lru.put("b", 2);
        let a = lru.take("a").unwrap();
        lru.put("a", a);
        lru.put("c", 3);
        assert_eq!((lru.take("a"), lru.take("b"), lru.take("c")), (Some(1), None, Some(3)));
        assert!(lru.by_use.is_empty());
    }

    #[test]
    fn a_second_put_replaces() {
        let mut lru = Lru::new(2);
        lru.put("a", 1);
        lru.put("a", 2);
        lru.put("b", 3);
        assert_eq!((lru.take("a"), lru.take("b")), (Some(2), Some(3)));
    }
}
