//! Events on their way to the API server: those about its own pods, and about this node.
//!
//! The recorder correlates and stores events as ever; what it stores is also offered here, and never waits. One task creates each event, or patches its
//! count, time and text, as client-go does (`tools/record/event.go`, `recordToSink`). It differs where that loses events: while the server cannot be
//! reached they wait, however often it was tried, until the server itself would have forgotten them; one that only it answers badly goes
//! to the back of the queue, and is given up after twelve tries. An event that happens again while it waits is posted once, with its last count.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use imagevol_api::corev1::{Event, ObjectReference};
use imagevol_api::metav1::ObjectMeta;
use imagevol_base::Supervisor;

use super::fault::{RequestError, RequestFault};
use super::object::EVENTS;
use super::retry::{Retry, chance};
use super::server::ApiServer;
use crate::clock::WallClock;
use crate::events::DEFAULT_EVENT_TTL;
use crate::lru::Lru;

mod pace;
mod queue;

use pace::Pace;
use queue::{Put, Queue, Waiting};

/// Events on their way from the recorder to the queue, which is read while requests run.
const HANDED_OVER: usize = 256;
/// How often an event is tried that only the server's answer keeps back (client-go `maxTriesPerEvent`).
const MAX_TRIES: u32 = 12;
/// For what is queued when the process ends.
const FLUSH: Duration = Duration::from_secs(3);
/// Pods of manifests that are remembered after they went: their unmounts may still have something to say.
const MAX_STATIC_PODS: usize = 4096;

/// Where the recorder offers events. The queue ends when this does.
#[derive(Debug)]
pub(crate) struct EventSink {
    queue: mpsc::Sender<Event>,
    subjects: Subjects,
    counts: Posting,
}

/// Which objects live in the API server.
#[derive(Debug, Clone)]
pub(crate) struct Subjects {
    node_name: String,
    static_pods: Arc<Mutex<Lru<String, ()>>>,
}

/// What became of events about objects of the API server. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Posting {
    posted: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
}

/// The task.
struct Poster {
    server: ApiServer,
    clock: WallClock,
    intake: Intake,
    pace: Pace,
    retry: Retry,
}

/// The queue, and where it comes from.
struct Intake {
    incoming: mpsc::Receiver<Event>,
    open: bool,
    queue: Queue,
    counts: Posting,
}

/// What to do about an event that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Nobody will ever see it: its namespace goes, or is gone.
    Pointless,
    /// It will never be taken.
    Refused,
    /// Try it again, after the others.
    Later,
    /// Nothing is taken at present.
    Outage,
}

/// Starts the task that posts events.
pub(crate) fn start(server: ApiServer, subjects: Subjects, clock: WallClock, supervisor: &Supervisor) -> EventSink {
    let (queue, incoming) = mpsc::channel(HANDED_OVER);
    let counts = Posting::default();
    let intake = Intake { incoming, open: true, queue: Queue::default(), counts: counts.clone() };
    let poster = Poster { server, clock, intake, pace: Pace::default(), retry: Retry::default() };
    supervisor.spawn("apiserver-events", poster.run(supervisor.token()));
    EventSink { queue, subjects, counts }
}

// === impl EventSink ===

impl EventSink {
    /// Takes an event if it is about an object of the API server. Never waits: what does not fit is counted and lost.
    pub(crate) fn offer(&self, event: &Event) {
        if !self.subjects.live_there(&event.involved_object) {
            return;
        }
        if self.queue.try_send(event.clone()).is_err() {
            self.counts.lose("too many are waiting");
        }
    }

    pub(crate) fn counts(&self) -> Posting {
        self.counts.clone()
    }
}

// === impl Subjects ===

impl Subjects {
    pub(crate) fn new(node_name: String) -> Self {
        Self { node_name, static_pods: Arc::new(Mutex::new(Lru::new(MAX_STATIC_PODS))) }
    }

    /// Pods with these UIDs come from manifests: the API server does not know them.
    pub(crate) fn note_static<'u>(&self, uids: impl IntoIterator<Item = &'u str>) {
        let mut pods = self.static_pods.lock().unwrap_or_else(PoisonError::into_inner);
        uids.into_iter().for_each(|uid| pods.put(uid.to_owned(), ()));
    }

    fn live_there(&self, about: &ObjectReference) -> bool {
        match about.kind.as_deref() {
            Some("Pod") => !self.is_static(about.uid.as_deref().unwrap_or_default()),
            Some("Node") => about.name.as_deref() == Some(&self.node_name),
            _ => false,
        }
    }

    fn is_static(&self, uid: &str) -> bool {
        let mut pods = self.static_pods.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pods.take(uid).is_some();
        if known {
            pods.put(uid.to_owned(), ());
        }
        known
    }
}

// === impl Posting ===

impl Posting {
    /// Events that the API server has taken, repetitions included.
    pub fn posted(&self) -> u64 {
        self.posted.load(Ordering::Relaxed)
    }

    /// Events that it has not and will not: there were too many, they had become too old, or it refused them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lose(&self, why: &str) {
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // A flood of events must not become a flood of log lines.
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, why, "an event does not get to the API server");
        }
    }
}

// === impl Poster ===

impl Poster {
    async fn run(mut self, cancel: CancellationToken) {
        let patience = async move {
            cancel.cancelled().await;
            tokio::time::sleep(FLUSH).await;
        };
        tokio::select! {
            () = self.work() => {}
            () = patience => tracing::warn!(left = self.intake.queue.len(), "stopping before all events were posted"),
        }
    }

    async fn work(&mut self) {
        while let Some(waiting) = self.intake.next().await {
            if self.is_too_old(&waiting.event) {
                self.intake.counts.lose("it waited for too long");
                continue;
            }
            let pause = self.pace.next(Instant::now());
            self.intake.meanwhile(tokio::time::sleep(pause)).await;
            let posted = self.intake.meanwhile(post(&self.server, &waiting)).await;
            if let Some(pause) = self.settle(waiting, posted) {
                self.intake.meanwhile(tokio::time::sleep(pause)).await;
            }
        }
    }

    /// Counts a success, or decides about a failure; how long to pause.
    fn settle(&mut self, mut waiting: Waiting, posted: Result<(), RequestError>) -> Option<Duration> {
        let Err(error) = posted else {
            self.intake.counts.posted.fetch_add(1, Ordering::Relaxed);
            self.retry.reset();
            return None;
        };
        let verdict = verdict(&error.source);
        tracing::debug!(error = &error as &dyn std::error::Error, ?verdict, "an event was not posted");
        waiting.tries = waiting.tries.saturating_add(1);
        match verdict {
            Verdict::Pointless => return None,
            Verdict::Refused => self.intake.counts.lose(&error.source.to_string()),
            Verdict::Later if waiting.tries >= MAX_TRIES => self.intake.counts.lose(&error.source.to_string()),
            Verdict::Later => self.intake.queue.put_back(waiting),
            Verdict::Outage => self.intake.queue.put_first(Waiting { tries: 0, ..waiting }),
        }
        (verdict != Verdict::Refused).then(|| self.retry.after_failure(chance()))
    }

    /// Older than the API server would have kept it, or from a clock that has gone back as far.
    fn is_too_old(&self, event: &Event) -> bool {
        let seen = event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let ttl = SignedDuration::try_from(DEFAULT_EVENT_TTL).unwrap_or(SignedDuration::MAX);
        self.clock.now().duration_since(seen).abs() > ttl
    }
}

// === impl Intake ===

impl Intake {
    /// The event that waits longest; `None` once there are no more and never will be.
    async fn next(&mut self) -> Option<Waiting> {
        loop {
            while let Ok(event) = self.incoming.try_recv() {
                self.take(event);
            }
            if let Some(waiting) = self.queue.next() {
                return Some(waiting);
            }
            let event = self.incoming.recv().await?;
            self.take(event);
        }
    }

    /// Takes in events until `work` is done.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                event = self.incoming.recv(), if self.open => match event {
                    Some(event) => self.take(event),
                    None => self.open = false,
                },
            }
        }
    }

    fn take(&mut self, event: Event) {
        match self.queue.put(event) {
            Put::Queued | Put::Merged => {}
            Put::Full => self.counts.lose("too many are waiting"),
        }
    }
}

/// Creates the event, or brings it up to date; whichever it is, the other if the server sees it so.
async fn post(server: &ApiServer, Waiting { event, known, .. }: &Waiting) -> Result<(), RequestError> {
    let (namespace, name) = queue::name_of(event);
    let object = EVENTS.of(&namespace, &name);
    let create = || object.create(&created(event));
    let patch = || {
        object.patch(&json!({"count": event.count, "lastTimestamp": event.last_timestamp, "message": event.message}))
    };
    let first = server.send(if *known { patch()? } else { create()? }).await;
    match first {
        // An earlier attempt got there, its answer did not come back.
        Err(RequestError { source: RequestFault::AlreadyExists, .. }) => server.send(patch()?).await,
        // The server has forgotten it: events live for an hour there.
        Err(RequestError { source: RequestFault::NotFound, .. }) if *known => server.send(create()?).await,
        other => other,
    }
}

/// What the server is to store: versions and times of the object are its own.
fn created(event: &Event) -> Event {
    let ObjectMeta { name, namespace, .. } = event.metadata.clone();
    Event { metadata: ObjectMeta { name, namespace, ..ObjectMeta::default() }, ..event.clone() }
}

fn verdict(fault: &RequestFault) -> Verdict {
    match fault {
        RequestFault::NamespaceTerminating | RequestFault::NotFound => Verdict::Pointless,
        RequestFault::Unauthorized
        | RequestFault::Unreachable(_)
        | RequestFault::Timeout(_)
        | RequestFault::Credentials { .. } => Verdict::Outage,
        RequestFault::AlreadyExists
        | RequestFault::Conflict
        | RequestFault::Expired
        | RequestFault::Failing { .. }
        | RequestFault::Undecodable => Verdict::Later,
        RequestFault::Name { .. }
        | RequestFault::Build(_)
        | RequestFault::Forbidden { .. }
        | RequestFault::Refused { .. } => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests;
