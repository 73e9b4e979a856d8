//! The pulls under way, for whoever shows them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_cri::Progress;

/// A pull under way.
#[derive(Debug, Clone)]
pub struct RunningPull {
    /// The reference, normalized.
    pub reference: String,
    /// Its counters.
    pub progress: Progress,
}

/// All pulls under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    next: u64,
    running: BTreeMap<u64, RunningPull>,
}

/// Shows a pull until it is dropped.
#[derive(Debug)]
pub(crate) struct Shown {
    pulls: Pulls,
    id: u64,
}

// === impl Pulls ===

impl Pulls {
    pub(crate) fn show(&self, reference: String, progress: Progress) -> Shown {
        let mut board = self.lock();
        board.next += 1;
        let id = board.next;
        board.running.insert(id, RunningPull { reference, progress });
        Shown { pulls: self.clone(), id }
    }

    pub(crate) fn list(&self) -> Vec<RunningPull> {
        self.lock().running.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Shown ===

impl Drop for Shown {
    fn drop(&mut self) {
        self.pulls.lock().running.remove(&self.id);
    }
}
