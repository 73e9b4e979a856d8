//! Looks, plans and does, again and again.

mod observe;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::daemon::PrefetchCount;
use imagevol_base::{KeyedBackoff, Supervisor, blocking};
use imagevol_cri::{ImageId, ImageServiceError, Progress};
use imagevol_images::PullPolicy;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::images::{NodeImages, PullFailed, Wanted};
use crate::item::{Completeness, Key, Lists};
use crate::metrics::Metrics;
use crate::plan::{Action, Phase, plan};
use crate::started::{Noted, Started};

/// The waits after failed pulls (Kubernetes, `pkg/kubelet/kubelet.go`, `imageBackOffPeriod` and `MaxImageBackOff`).
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// How often everything is looked at: rows end, and images go, without a word.
const LOOK: Duration = Duration::from_secs(30);
/// Plans in a row before the next look is waited for: each of them does something, so that more means that it has no effect.
const MOST_PLANS: usize = 10;

/// The wall clock, which deadlines and schedules go by.
pub type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What a keeper is made of.
pub struct Parts<I> {
    /// The node's images.
    pub images: Arc<I>,
    /// What the files say.
    pub lists: watch::Receiver<Arc<Lists>>,
    /// Where it remembers which rows have been given an end.
    pub state_dir: PathBuf,
    /// The time.
    pub wall: Wall,
    /// Where phases are counted.
    pub metrics: Metrics,
    /// Owner of the pulls.
    pub supervisor: Supervisor,
}

/// Keeps the images of lists present.
pub struct Keeper<I> {
    parts: Parts<I>,
    state: State,
    published: watch::Sender<Arc<Overview>>,
    ended: (mpsc::UnboundedSender<Ended>, mpsc::UnboundedReceiver<Ended>),
}

/// How far all images of lists are.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// By list, in its order.
    pub items: Vec<Shown>,
    /// Files that cannot be used, a sentence each.
    pub problems: Vec<String>,
}

/// How far one image is.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Whose it is.
    pub key: Key,
    /// The reference as it is written.
    pub written: String,
    /// How far it is.
    pub phase: Phase,
    /// What its row keeps.
    pub image: Option<ImageId>,
    /// Why the last pull failed, or why there is none.
    pub message: Option<String>,
    /// When the registry is asked again.
    pub next_pull: Option<Timestamp>,
    /// When it is no longer kept.
    pub expires: Option<Timestamp>,
    /// Of a pull under way.
    pub progress: Option<Progress>,
}

/// What one run remembers.
struct State {
    started: Started,
    pulls: BTreeMap<Key, Running>,
    backoff: KeyedBackoff<Key>,
    failures: BTreeMap<Key, String>,
    asked: BTreeMap<Key, Timestamp>,
    /// Tells pulls of one image apart.
    next_pull: u64,
}

#[derive(Debug, Clone)]
struct Running {
    id: u64,
    progress: Progress,
    cancel: CancellationToken,
}

/// How a pull ended.
#[derive(Debug)]
struct Ended {
    key: Key,
    id: u64,
    reference: String,
    /// `None` if it was broken off.
    pulled: Option<Result<ImageId, PullFailed>>,
}

// === impl Keeper ===

impl<I: NodeImages> Keeper<I> {
    /// A keeper that has done nothing yet. Blocking: it reads what an earlier run remembered.
    pub fn new(parts: Parts<I>) -> Self {
        let state = State {
            started: Started::open(&parts.state_dir),
            pulls: BTreeMap::new(),
            backoff: KeyedBackoff::new(FIRST_WAIT, LONGEST_WAIT),
            failures: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_pull: 0,
        };
        Self { parts, state, published: watch::Sender::new(Arc::default()), ended: mpsc::unbounded_channel() }
    }

    /// How far everything is, from now on.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Overview>> {
        self.published.subscribe()
    }

    /// Keeps images present until cancelled. Pulls under way end with it; their rows stay.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let lists = Arc::clone(&self.parts.lists.borrow_and_update());
            let pause = self.settle(&lists).await;
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                Some(ended) = self.ended.1.recv() => self.note(ended).await,
                changed = self.parts.lists.changed() => if changed.is_err() { break },
            }
        }
        self.state.pulls.values().for_each(|pull| pull.cancel.cancel());
    }

    /// Does what there is to do; says how long nothing else will be.
    async fn settle(&mut self, lists: &Lists) -> Duration {
        self.state.forget_unlisted(lists);
        for _ in 0..MOST_PLANS {
            let known = match self.observe(lists).await {
                Ok(known) => known,
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the images of prefetch lists");
                    return LOOK;
                }
            };
            let now = (self.parts.wall)();
            let actions = plan(lists, &known, now);
            if actions.is_empty() {
                self.publish(lists, &known, now);
                return self.pause(lists, &known, now);
            }
            if !self.carry_out(actions).await {
                self.publish(lists, &known, now);
                return LOOK;
            }
        }
        tracing::warn!("prefetch lists do not come to rest");
        LOOK
    }

    /// Whether all was done.
    async fn carry_out(&mut self, actions: Vec<Action>) -> bool {
        let mut done = true;
        for action in actions {
            if let Err(error) = self.carry_out_one(&action).await {
                tracing::warn!(%error, ?action, "cannot do what a prefetch list asks for");
                done = false;
            }
        }
        done
    }

    async fn carry_out_one(&mut self, action: &Action) -> Result<(), ImageServiceError> {
        let images = &self.parts.images;
        match action {
            Action::Hold(key, reference) => images.hold(&key.holder(), reference).await,
            Action::Bind(key, image) => images.bind(&key.holder(), image).await,
            Action::Release(key) => images.release(&key.holder()).await,
            Action::StartClock(key, reference, lasts) => {
                // Killed here: noted, and the row has no end yet; the next run gives it one.
                self.set(key, Noted::Started).await?;
                self.parts.images.hold_for(&key.holder(), reference, *lasts).await
            }
            Action::Forget(key) => self.set(key, Noted::Forgotten).await,
            Action::Cancel(key) => {
                if let Some(pull) = self.state.pulls.remove(key) {
                    pull.cancel.cancel();
                }
                Ok(())
            }
            Action::Pull(key, reference, policy) => {
                self.pull(key, reference, *policy);
                Ok(())
            }
        }
    }

    async fn set(&mut self, key: &Key, noted: Noted) -> Result<(), ImageServiceError> {
        let (mut started, key) = (self.state.started.clone(), key.clone());
        let changed = blocking(move || started.set(&key, noted).map(|()| started)).await;
        let failed =
            |error| ImageServiceError::Node { message: format!("cannot write the memory of prefetches: {error}") };
        self.state.started = changed.map_err(failed)?;
        Ok(())
    }

    fn pull(&mut self, key: &Key, reference: &str, policy: PullPolicy) {
        self.state.next_pull += 1;
        let id = self.state.next_pull;
        let running = Running { id, progress: Progress::default(), cancel: CancellationToken::new() };
        self.state.pulls.insert(key.clone(), running.clone());
        let (images, ended) = (Arc::clone(&self.parts.images), self.ended.0.clone());
        let (key, reference) = (key.clone(), reference.to_owned());
        tracing::info!(list = %key.list, reference, "pulling an image of a prefetch list");
        self.parts.supervisor.spawn("prefetch pull", async move {
            let holder = key.holder();
            let wanted = Wanted { holder: &holder, reference: &reference, policy };
            let pulled = tokio::select! {
                () = running.cancel.cancelled() => None,
                pulled = images.pull(wanted, &running.progress) => Some(pulled),
            };
            // A keeper that has ended needs no news.
            drop(ended.send(Ended { key, id, reference, pulled }));
        });
    }

    /// Takes the end of a pull in.
    async fn note(&mut self, Ended { key, id, reference, pulled }: Ended) {
        let is_known = self.state.pulls.get(&key).is_some_and(|pull| pull.id == id);
        let Some(pulled) = pulled.filter(|_| is_known) else { return };
        self.state.pulls.remove(&key);
        match self.confirmed(pulled, &reference).await {
            Ok(image) => {
                tracing::info!(list = %key.list, reference, %image, "an image of a prefetch list is here");
                self.state.asked.insert(key.clone(), (self.parts.wall)());
                self.state.failures.remove(&key);
                self.state.backoff.retain(|other| *other != key);
            }
            Err(PullFailed { message }) => {
                let wait = self.state.backoff.next(key.clone(), Instant::now());
                tracing::warn!(list = %key.list, reference, message, ?wait, "cannot pull an image of a prefetch list");
                self.state.failures.insert(key, message);
            }
        }
    }

    /// A pull whose image is not here failed: without this it would begin again at once.
    async fn confirmed(&self, pulled: Result<ImageId, PullFailed>, reference: &str) -> Result<ImageId, PullFailed> {
        let image = pulled?;
        match self.parts.images.present(reference).await {
            Ok(Some(_)) => Ok(image),
            Ok(None) => Err(PullFailed { message: format!("image {image} is gone again") }),
            Err(error) => Err(PullFailed { message: error.to_string() }),
        }
    }
}

impl<I> fmt::Debug for Keeper<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("state_dir", &self.parts.state_dir).finish_non_exhaustive()
    }
}

impl<I> fmt::Debug for Parts<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("state_dir", &self.state_dir).finish_non_exhaustive()
    }
}

// === impl Overview ===

impl Overview {
    /// How many images lists want, and how many of them are here.
    pub fn count(&self) -> PrefetchCount {
        let of = |phase: &dyn Fn(Phase) -> bool| self.items.iter().filter(|item| phase(item.phase)).count() as u64;
        PrefetchCount { wanted: of(&|phase| phase != Phase::Ended), present: of(&|phase| phase == Phase::Present) }
    }
}

// === impl State ===

impl State {
    /// What a list no longer names begins anew if it comes back.
    fn forget_unlisted(&mut self, lists: &Lists) {
        if lists.complete == Completeness::Partial {
            return;
        }
        let listed: BTreeSet<_> = lists.items.iter().map(|item| &item.key).collect();
        self.backoff.retain(|key| listed.contains(key));
        self.failures.retain(|key, _| listed.contains(key));
        self.asked.retain(|key, _| listed.contains(key));
    }
}

#[cfg(test)]
mod tests;
