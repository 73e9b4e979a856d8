//! Whose turn it is to collect.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// How long somebody who waits for an answer waits for the first turn. A start knows its pods within moments; who waits longer should
/// hear why.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns to collect images: one at a time, for two would each free what one of them has to; and none before it is known who needs
/// which image, for a pod that came while nobody looked must not lose its own. Clones give the same turns.
#[derive(Debug, Clone)]
pub struct Turns {
    open: watch::Sender<bool>,
    one: Arc<Mutex<()>>,
}

/// The turn of one who collects, until its last clone is dropped.
#[derive(Debug, Clone)]
pub struct Turn {
    _one: Arc<OwnedMutexGuard<()>>,
}

/// Nobody collects yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not known yet who needs which image: the daemon has just started, and has not read all its pods")]
pub struct NotYet;

// === impl Turns ===

impl Turns {
    /// Gives none until they are opened.
    pub fn closed() -> Self {
        Self { open: watch::channel(false).0, one: Arc::default() }
    }

    /// From now on there are turns: all who need an image have said so.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Whether there are any.
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Waits for a turn, for as long as it takes.
    pub async fn next(&self) -> Turn {
        // Never an error: the sender is ours.
        drop(self.open.subscribe().wait_for(|open| *open).await);
        Turn { _one: Arc::new(Arc::clone(&self.one).lock_owned().await) }
    }

    /// The same for somebody who waits for an answer: a turn that another has is waited for, but for the first one only ten seconds.
    pub async fn soon(&self) -> Result<Turn, NotYet> {
        let mut open = self.open.subscribe();
        let opened = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open)).await.is_ok();
        if opened { Ok(self.next().await) } else { Err(NotYet) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_are_none_before_they_are_opened() {
        let turns = Turns::closed();
        assert_eq!(turns.soon().await.err(), Some(NotYet));
        let opened = async {
            tokio::time::sleep(2 * PATIENCE).await;
            turns.open();
        };
        let began = Instant::now();
        let (turn, ()) = tokio::join!(turns.next(), opened);
        assert_eq!(began.elapsed(), 2 * PATIENCE);
        drop(turn);
        turns.soon().await.unwrap();
    }

    /// However long another has it: that is no reason to give up.
    #[tokio::test(start_paused = true)]
    async fn one_has_the_turn_until_its_last_clone_is_gone() {
        let turns = Turns::closed();
        turns.open();
        let first = turns.next().await;
        let (clone, began) = (first.clone(), Instant::now());
        let ends = async {
            drop(first);
            tokio::time::sleep(10 * PATIENCE).await;
            drop(clone);
        };
        let (second, ()) = tokio::join!(turns.soon(), ends);
        second.unwrap();
        assert_eq!(began.elapsed(), 10 * PATIENCE);
    }
}
