//! Values that all who work on one key share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One value for each key, for as long as anybody has it.
#[derive(Debug)]
pub(crate) struct PerKey<K, V>(Mutex<HashMap<K, Weak<V>>>);

// === impl PerKey ===

impl<K, V> Default for PerKey<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V> PerKey<K, V> {
    /// The value that others have, or a new one.
    pub(crate) fn get_or_make(&self, key: K, make: impl FnOnce() -> V) -> Arc<V> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get(&key).and_then(Weak::upgrade) {
            return value;
        }
        // Keys that nobody has are few: work under way is bounded.
        values.retain(|_, value| value.strong_count() > 0);
        let value = Arc::new(make());
        values.insert(key, Arc::downgrade(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lives_as_long_as_somebody_has_it() {
        let values = PerKey::default();
        let first = values.get_or_make("key", || 1);
        assert_eq!(*values.get_or_make("key", || 2), 1);
        assert_eq!(*values.get_or_make("other", || 3), 3);
        drop(first);
        assert_eq!(*values.get_or_make("key", || 4), 4);
        assert_eq!(values.0.lock().unwrap().len(), 1, "what nobody has is forgotten");
    }
}
