//! One writer for each download: whoever comes second waits until the first has ended.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The downloads that somebody writes to.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    taken: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// The right to write to one download, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    name: String,
}

// === impl Claims ===

impl Claims {
    /// Claims a download. Blocks while another has it: a cancelled one ends as soon as its source does.
    pub(crate) fn wait_for(self: &Arc<Self>, name: &str) -> Claim {
        let taken = self.lock();
        let mut taken =
            self.freed.wait_while(taken, |taken| taken.contains(name)).unwrap_or_else(PoisonError::into_inner);
        taken.insert(name.to_owned());
        Claim { claims: Arc::clone(self), name: name.to_owned() }
    }

    /// Claims a download if nobody has it.
    pub(crate) fn try_take(self: &Arc<Self>, name: &str) -> Option<Claim> {
        let free = self.lock().insert(name.to_owned());
        free.then(|| Claim { claims: Arc::clone(self), name: name.to_owned() })
    }

    /// How many downloads somebody writes to.
    pub(crate) fn count(&self) -> u64 {
        self.lock().len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Claim ===

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.name);
        self.claims.freed.notify_all();
    }
}
