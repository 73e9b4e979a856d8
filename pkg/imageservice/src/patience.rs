//! How long a directory of others is waited for: one on NFS may never answer, and holds the thread that asks it.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use imagevol_base::blocking;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// How long nothing may be heard. A disk, or a server that is well, reads an index of thousands of images within a second; and every pod
/// whose image is not on the node waits for the look.
const LOOK: Duration = Duration::from_secs(5);
/// How long one that did not answer is left alone: longer than the looks that it would cost, shorter than anybody's patience once the
/// server is back (nfs(5): a `soft` mount gives up after one to three minutes).
const REST: Duration = Duration::from_mins(1);

/// Asks one directory, one question at a time: of one that hangs, a single thread is stuck.
#[derive(Debug)]
pub(crate) struct Patience {
    turn: Arc<Semaphore>,
    rest: Mutex<Rest>,
}

/// There is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silent {
    /// It is waited for no longer. Said once for a row of such questions.
    Now,
    /// It was not asked, for it has not answered before.
    Still,
}

/// Until when it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// It is not, and when it answered last.
    Answers(Option<Instant>),
    Until(Instant),
}

/// What may be done with a directory now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Ask it, and wait for whoever asks it now.
    Ask,
    /// Ask it if the question that it did not answer is over.
    Try,
    /// Leave it alone.
    Rest,
}

// === impl Patience ===

impl Default for Patience {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), rest: Mutex::new(Rest::Answers(None)) }
    }
}

impl Patience {
    /// The answer of a question that blocks. It is waited for as long as those who asked before get theirs, and after that for [`LOOK`];
    /// its thread ends when the kernel lets it.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Silent> {
        let leave = self.rest().leave(Instant::now());
        if leave == Leave::Rest || (leave == Leave::Try && self.turn.available_permits() == 0) {
            return Err(Silent::Still);
        }
        let turn = Arc::clone(&self.turn);
        let answered = async move {
            // Never closed. Kept by the question itself, which goes on if nobody waits for it.
            let turn = turn.acquire_owned().await;
            blocking(move || {
                let answer = question();
                drop(turn);
                answer
            })
            .await
        };
        let mut answered = pin!(answered);
        loop {
            let began = Instant::now();
            match timeout(LOOK, &mut answered).await {
                Ok(answer) => {
                    self.has_answered();
                    return Ok(answer);
                }
                Err(_) if self.rest().is_heard_since(began) => {}
                Err(_) => return Err(self.give_up()),
            }
        }
    }

    fn has_answered(&self) {
        *self.rest() = Rest::Answers(Some(Instant::now()));
    }

    /// It has not answered: it is left alone for a while.
    pub(crate) fn give_up(&self) -> Silent {
        let before = std::mem::replace(&mut *self.rest(), Rest::Until(Instant::now() + REST));
        if matches!(before, Rest::Answers(_)) { Silent::Now } else { Silent::Still }
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Rest ===

impl Rest {
    fn leave(self, now: Instant) -> Leave {
        match self {
            Self::Answers(_) => Leave::Ask,
            Self::Until(until) if now < until => Leave::Rest,
            Self::Until(_) => Leave::Try,
        }
    }

    fn is_heard_since(self, began: Instant) -> bool {
        matches!(self, Self::Answers(Some(last)) if last > began)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Questions that block until they are told to end.
    #[derive(Clone, Default)]
    struct Hung {
        asked: Arc<AtomicUsize>,
        waiting: Arc<Mutex<Vec<mpsc::Sender<()>>>>,
    }

    impl Hung {
        fn question(&self) -> impl FnOnce() + Send + 'static {
            let (release, released) = mpsc::channel();
            self.waiting.lock().unwrap().push(release);
            let asked = Arc::clone(&self.asked);
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                assert!(released.recv().is_err());
            }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn answer(&self) {
            self.waiting.lock().unwrap().clear();
        }
    }

    /// Time goes on although a thread is stuck, which stops the paused clock.
    async fn silence<T>(hung: &Hung, asked: impl Future<Output = Result<T, Silent>>) -> Option<Silent> {
        let advance = async {
            loop {
                tokio::task::yield_now().await;
                if hung.asked() == 0 {
                    continue;
                }
                tokio::time::advance(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            answer = asked => answer.err(),
            () = advance => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_answer_is_asked_once_and_again_when_he_answers() {
        let (patience, hung) = (Patience::default(), Hung::default());
        assert_eq!(patience.ask(|| 1).await, Ok(1));
        let began = Instant::now();
        assert_eq!(silence(&hung, patience.ask(hung.question())).await, Some(Silent::Now));
        assert_eq!((began.elapsed().as_secs(), hung.asked()), (LOOK.as_secs(), 1));

        let began = Instant::now();
        assert_eq!(patience.ask(hung.question()).await, Err(Silent::Still));
        tokio::time::advance(REST).await;
        assert_eq!(patience.ask(hung.question()).await, Err(Silent::Still), "its thread is stuck: no second one");
        assert_eq!((began.elapsed(), hung.asked()), (REST, 1), "and nobody waits");

        hung.answer();
        while patience.turn.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(patience.ask(|| 2).await, Ok(2));
        assert_eq!(patience.ask(|| 3).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_together_wait_together() {
        let (patience, hung) = (Patience::default(), Hung::default());
        let began = Instant::now();
        let both = async {
            let (one, two) = tokio::join!(patience.ask(hung.question()), patience.ask(hung.question()));
            match (one, two) {
                (Err(one), Err(two)) => {
                    let is_said_once = (one == Silent::Now) != (two == Silent::Now);
                    Err::<(), _>(if is_said_once { Silent::Now } else { Silent::Still })
                }
                _ => Ok(()),
            }
        };
        assert_eq!(silence(&hung, both).await, Some(Silent::Now), "it is said once");
        assert_eq!((began.elapsed().as_secs(), hung.asked()), (LOOK.as_secs(), 1));
        hung.answer();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_others_is_only_slow() {
        let patience = Patience::default();
        let other = Arc::clone(&patience.turn).acquire_owned().await.unwrap();
        let slow = async {
            tokio::time::sleep(LOOK / 2).await;
            patience.has_answered();
            tokio::time::sleep(LOOK).await;
            drop(other);
        };
        let (answer, ()) = tokio::join!(patience.ask(|| 1), slow);
        assert_eq!(answer, Ok(1));
    }
}
