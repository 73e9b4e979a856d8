//! Events: recorded from anywhere without waiting, correlated as client-go does, kept for a while and over restarts.
//!
//! [`Recorder::record`] stamps the time and queues; one task correlates what is queued, shows it at once through [`Events::list`] and writes
//! it to `status.redb` in one transaction per batch. What is queued or being written when the process is killed is lost; nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use imagevol_api::corev1::{Event, EventSource, ObjectReference};
use imagevol_api::metav1::{ObjectMeta, Time};
use imagevol_base::{EventKind, EventRecorder, Supervisor, blocking};

use crate::apiserver::post::EventSink;
use crate::clock::WallClock;
use crate::db::{Changes, Result, StatusDb};
use crate::text::one_line;

mod correlator;

use correlator::{Correlator, Counted, Observation};

/// How long an event is kept after it was last seen (kube-apiserver `--event-ttl`, default 1h).
pub const DEFAULT_EVENT_TTL: Duration = Duration::from_hours(1);
/// Events that may wait to be correlated (client-go `maxQueuedEvents`, tools/record/event.go).
const MAX_QUEUED_EVENTS: usize = 1000;
/// Events kept at most, so that memory is bounded whatever is recorded: 25 of each type for 300 pods.
const MAX_EVENTS: usize = 15_000;
/// Bytes of a message, so that a registry's page cannot fill the store: four times `NoteLengthLimit` of events.k8s.io, whose
/// 1024 bytes would cut the digests off long pull errors.
const MAX_MESSAGE: usize = 4096;
/// `source.component` of every event.
const COMPONENT: &str = "imagevol";
/// Namespace of events about objects without one (client-go `makeEvent`).
const DEFAULT_NAMESPACE: &str = "default";

/// Takes events from any thread. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Observation>,
    dropped: Arc<AtomicU64>,
    clock: WallClock,
}

/// The events that are known. Clones share them.
#[derive(Debug, Clone)]
pub struct Events {
    kept: Arc<Mutex<BTreeMap<EventName, Event>>>,
    clock: WallClock,
    ttl: SignedDuration,
}

/// How events are kept.
#[derive(Debug, Clone)]
pub struct EventSettings {
    /// `source.host`: name of this node.
    pub node_name: String,
    /// How long an event is kept after it was last seen.
    pub ttl: Duration,
    /// Stamps the events.
    pub clock: WallClock,
}

/// Namespace and name: the order in which the API server lists events, and within an object the order of creation.
type EventName = (String, String);

/// The task that correlates and writes.
struct Writer {
    queue: mpsc::Receiver<Observation>,
    correlator: Correlator,
    events: Events,
    /// Made or changed since the last write that succeeded.
    unsaved: BTreeSet<EventName>,
    node_name: String,
    db: StatusDb,
    sink: Option<EventSink>,
}

/// Reads the events of the last run and starts the task that keeps new ones; it ends, with all that is queued written, when `supervisor` does.
pub async fn start(settings: EventSettings, db: StatusDb, supervisor: &Supervisor) -> Result<(Recorder, Events)> {
    start_with(settings, None, db, supervisor).await
}

/// The same, and what is kept is offered to `sink`.
pub(crate) async fn start_with(
    settings: EventSettings,
    sink: Option<EventSink>,
    db: StatusDb,
    supervisor: &Supervisor,
) -> Result<(Recorder, Events)> {
    let (sender, queue) = mpsc::channel(MAX_QUEUED_EVENTS);
    let ttl = SignedDuration::try_from(settings.ttl).unwrap_or(SignedDuration::MAX);
    let events = Events { kept: Arc::default(), clock: settings.clock.clone(), ttl };
    let recorder = Recorder { queue: sender, dropped: Arc::default(), clock: settings.clock };
    let node_name = settings.node_name;
    let (correlator, unsaved) = (Correlator::new(), BTreeSet::new());
    let writer = Writer { queue, correlator, events: events.clone(), unsaved, node_name, db, sink };
    let writer = writer.load().await?;
    supervisor.spawn("events", writer.run(supervisor.token()));
    Ok((recorder, events))
}

// === impl Recorder ===

impl Recorder {
    /// How many events were lost because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl EventRecorder for Recorder {
    fn record(&self, about: &ObjectReference, kind: EventKind, reason: &'static str, message: String) {
        let message = one_line(&message, MAX_MESSAGE);
        let observation = Observation { about: about.clone(), kind, reason, message, at: self.clock.now() };
        if self.queue.try_send(observation).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            // A flood of events must not become a flood of log lines.
            if dropped.is_power_of_two() {
                tracing::warn!(reason, dropped, "an event was dropped: too many are waiting");
            }
        }
    }
}

// === impl Events ===

impl Events {
    /// The events of a namespace, or all; within an object in the order in which they were made.
    pub fn list(&self, namespace: Option<&str>) -> Vec<Event> {
        let now = self.clock.now();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |((of, _), event): &(&EventName, &Event)| {
            namespace.is_none_or(|namespace| namespace == of) && !self.expired(event, now)
        };
        kept.iter().filter(wanted).map(|(_, event)| event.clone()).collect()
    }

    /// Puts events and forgets old ones; what was forgotten.
    fn keep(&self, new: impl IntoIterator<Item = Event>) -> Vec<EventName> {
        let now = self.clock.now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(new.into_iter().map(|event| (name_of(&event), event)));
        let mut old: Vec<_> =
            kept.iter().filter(|(_, event)| self.expired(event, now)).map(|(n, _)| n.clone()).collect();
        old.extend(oldest(&kept, kept.len().saturating_sub(MAX_EVENTS.saturating_add(old.len()))));
        for name in &old {
            kept.remove(name);
        }
        old
    }

    fn known(&self, name: &EventName) -> Option<Event> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Older than the limit; or so far in the future that the clock must have gone back.
    fn expired(&self, event: &Event, now: Timestamp) -> bool {
        now.duration_since(last_seen(event)).abs() > self.ttl
    }
}

// === impl Writer ===

impl Writer {
    /// Shows the events of the last run and removes those that have become too old.
    async fn load(mut self) -> Result<Self> {
        blocking(move || {
            let rows = self.db.events()?;
            let old = self.events.keep(rows.into_iter().map(|(_, event)| event));
            self.write_or_log(&old);
            Ok(self)
        })
        .await
    }

    async fn run(mut self, cancel: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                received = self.queue.recv_many(&mut batch, MAX_QUEUED_EVENTS) => if received == 0 { break },
            }
            self = self.store(std::mem::take(&mut batch)).await;
        }
        self.queue.close();
        while self.queue.recv_many(&mut batch, MAX_QUEUED_EVENTS).await > 0 {
            self = self.store(std::mem::take(&mut batch)).await;
        }
    }

    /// Correlates and writes a batch.
    async fn store(mut self, batch: Vec<Observation>) -> Self {
        blocking(move || {
            let old = self.correlate(batch);
            self.write_or_log(&old);
            self
        })
        .await
    }

    /// Shows what is new, and forgets what is old; its names.
    fn correlate(&mut self, batch: Vec<Observation>) -> Vec<EventName> {
        let mut changed = BTreeMap::new();
        for observation in batch {
            let Some(counted) = self.correlator.correlate(&observation) else { continue };
            let event = self.event(&observation, counted, &changed);
            changed.insert(name_of(&event), event);
        }
        if let Some(sink) = &self.sink {
            for event in changed.values() {
                sink.offer(event);
            }
        }
        self.unsaved.extend(changed.keys().cloned());
        self.events.keep(changed.into_values())
    }

    /// A failed write is logged: the events are visible, and go with the next batch. The disk may be full, for a start too.
    fn write_or_log(&mut self, old: &[EventName]) {
        if let Err(error) = self.write(old) {
            tracing::error!(error = &error as &dyn std::error::Error, "events could not be written");
        }
    }

    fn write(&mut self, old: &[EventName]) -> Result<()> {
        let named = |name: EventName| self.events.known(&name).map(|event| (name, event));
        let unsaved: Vec<_> = std::mem::take(&mut self.unsaved).into_iter().filter_map(named).collect();
        if unsaved.is_empty() && old.is_empty() {
            return Ok(());
        }
        // Whatever comes of it, those that were forgotten meanwhile need no row: names do not pile up.
        self.unsaved = unsaved.iter().map(|(name, _)| name.clone()).collect();
        let put = unsaved.into_iter().map(|(name, event)| (key_of(&name), event)).collect();
        // A kill before the commit in `change_events` loses what is unsaved only: events are a report, nothing is built on them. Old rows that
        // stay go with the next start.
        self.db.change_events(&Changes { put, remove: old.iter().map(key_of).collect() })?;
        self.unsaved.clear();
        Ok(())
    }

    /// The stored object. Of an event that is there, only count, time and text change: that is what client-go patches.
    fn event(&self, observation: &Observation, counted: Counted, batch: &BTreeMap<EventName, Event>) -> Event {
        let namespace = observation.about.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        let name = (namespace, counted.name);
        let known = batch.get(&name).cloned().or_else(|| self.events.known(&name));
        let mut event = known.unwrap_or_else(|| self.new_event(name, observation));
        event.count = Some(counted.count);
        event.first_timestamp = Some(Time(counted.first));
        event.last_timestamp = Some(Time(observation.at));
        event.message = Some(counted.message);
        event
    }

    fn new_event(&self, (namespace, name): EventName, observation: &Observation) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace),
                creation_timestamp: Some(Time(observation.at)),
                ..ObjectMeta::default()
            },
            involved_object: observation.about.clone(),
            type_: Some(observation.kind.as_str().to_owned()),
            reason: Some(observation.reason.to_owned()),
            source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: Some(self.node_name.clone()) }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}

/// What an event about this node refers to (kubelet `nodeRef`: the UID is the node's name, for `kubectl describe node` looks for that).
pub fn node_ref(node_name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Node".to_owned()),
        name: Some(node_name.to_owned()),
        uid: Some(node_name.to_owned()),
        ..ObjectReference::default()
    }
}

fn name_of(event: &Event) -> EventName {
    let metadata = &event.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

fn key_of((namespace, name): &EventName) -> String {
    format!("{namespace}/{name}")
}

/// The epoch for an event without times, so that it expires.
fn last_seen(event: &Event) -> Timestamp {
    event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// The `count` events that were seen last the longest ago.
fn oldest(kept: &BTreeMap<EventName, Event>, count: usize) -> Vec<EventName> {
    if count == 0 {
        return Vec::new();
    }
    let mut by_age: Vec<_> = kept.iter().map(|(name, event)| (last_seen(event), name)).collect();
    by_age.sort();
    by_age.into_iter().take(count).map(|(_, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests;
