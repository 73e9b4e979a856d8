//! Which events become one, and which are dropped: the rules of client-go's `EventCorrelator` (tools/record/events_cache.go).
//!
//! Three steps in this order: *aggregate* (many texts of one kind become one event), *observe* (the same event again becomes a
//! count), *filter* (one object cannot flood). As there, an event that the filter drops has been counted all the same, so that the
//! next one that passes tells the whole number. Pure: time is an argument, the caches are the only state.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use imagevol_api::corev1::ObjectReference;
use imagevol_base::EventKind;

use crate::lru::Lru;

/// Entries in each of the three caches (client-go `maxLruCacheEntries`).
const CACHE_ENTRIES: usize = 4096;
/// Distinct texts from which events are combined (client-go `defaultAggregateMaxEvents`).
const AGGREGATE_MAX_EVENTS: usize = 10;
/// How long after the last similar event a group is forgotten, in seconds (client-go `defaultAggregateIntervalInSeconds`).
const AGGREGATE_INTERVAL_SECONDS: f64 = 600.0;
/// What a combined event's text begins with (client-go `EventAggregatorByReasonMessageFunc`).
const AGGREGATE_PREFIX: &str = "(combined from similar events): ";
/// Events that one object may have at once (client-go `defaultSpamBurst`).
const SPAM_BURST: f64 = 25.0;
/// Seconds until one more is allowed after that (client-go `defaultSpamQPS`: 1/300 per second).
const SPAM_REFILL_SECONDS: f64 = 300.0;

/// Longest name of an object (Kubernetes `validation.DNS1123SubdomainMaxLength`).
const MAX_NAME: usize = 253;

/// What was recorded, before correlation.
#[derive(Debug, Clone)]
pub(super) struct Observation {
    pub(super) about: ObjectReference,
    pub(super) kind: EventKind,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// What is to be stored: a new event, or an earlier one with its new count, time and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    /// `metadata.name`.
    pub(super) name: String,
    pub(super) message: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
}

/// The state of the three steps. The source (component and host) is part of client-go's keys; it is the same for all events here.
#[derive(Debug)]
pub(super) struct Correlator {
    aggregates: Lru<AggregateKey, Similar>,
    observed: Lru<EventKey, Observed>,
    buckets: Lru<SpamKey, Bucket>,
    last_name: i128,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ObjectKey {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    api_version: Option<String>,
}

/// client-go `EventAggregatorByReasonFunc`: neither the text nor the field path. Each object is in all three caches, twice: keys share
/// what they are made of, or full caches are the daemon's largest piece.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct AggregateKey {
    object: Arc<ObjectKey>,
    kind: EventKind,
    reason: &'static str,
}

/// client-go `getEventKey`, or the aggregate's key for a combined event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum EventKey {
    Single { group: AggregateKey, field_path: Option<Arc<str>>, message: Arc<str> },
    Combined(AggregateKey),
}

/// client-go `getSpamKey`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SpamKey {
    object: Arc<ObjectKey>,
    kind: EventKind,
}

#[derive(Debug)]
struct Similar {
    messages: BTreeSet<Arc<str>>,
    last: Timestamp,
}

#[derive(Debug)]
struct Observed {
    name: String,
    count: i32,
    first: Timestamp,
}

/// A token bucket counted in seconds, so that whole seconds add up exactly: an event costs [`SPAM_REFILL_SECONDS`].
#[derive(Debug)]
struct Bucket {
    seconds: f64,
    filled: Timestamp,
}

// === impl Correlator ===

impl Correlator {
    /// A correlator that has seen nothing.
    pub(super) fn new() -> Self {
        Self {
            aggregates: Lru::new(CACHE_ENTRIES),
            observed: Lru::new(CACHE_ENTRIES),
            buckets: Lru::new(CACHE_ENTRIES),
            last_name: 0,
        }
    }

    /// What to store for one observation; `None` if the object has had too many.
    pub(super) fn correlate(&mut self, event: &Observation) -> Option<Counted> {
        let object = Arc::new(ObjectKey::of(&event.about));
        let (key, message) = self.aggregate(event, Arc::clone(&object));
        let counted = self.observe(event, key, message);
        self.admit(event, object).then_some(counted)
    }

    fn aggregate(&mut self, event: &Observation, object: Arc<ObjectKey>) -> (EventKey, String) {
        let group = AggregateKey { object, kind: event.kind, reason: event.reason };
        let message: Arc<str> = event.message.as_str().into();
        let fresh = || Similar { messages: BTreeSet::new(), last: event.at };
        let recent = |similar: &Similar| seconds_between(similar.last, event.at) <= AGGREGATE_INTERVAL_SECONDS;
        let mut similar = self.aggregates.take(&group).filter(recent).unwrap_or_else(fresh);
        similar.messages.insert(Arc::clone(&message));
        similar.last = event.at;
        let combine = similar.messages.len() >= AGGREGATE_MAX_EVENTS;
        if combine {
            // The set stays one short of the limit, so that memory is bounded and the next text combines again.
            similar.messages.pop_first();
        }
        self.aggregates.put(group.clone(), similar);
        if combine {
            return (EventKey::Combined(group), format!("{AGGREGATE_PREFIX}{}", event.message));
        }
        let field_path = event.about.field_path.as_deref().map(Arc::from);
        (EventKey::Single { group, field_path, message }, event.message.clone())
    }

    fn observe(&mut self, event: &Observation, key: EventKey, message: String) -> Counted {
        let mut observed = match self.observed.take(&key) {
            Some(observed) => observed,
            None => Observed { name: self.name(event), count: 0, first: event.at },
        };
        observed.count = observed.count.saturating_add(1);
        let counted = Counted { name: observed.name.clone(), message, count: observed.count, first: observed.first };
        self.observed.put(key, observed);
        counted
    }

    fn admit(&mut self, event: &Observation, object: Arc<ObjectKey>) -> bool {
        let key = SpamKey { object, kind: event.kind };
        let capacity = SPAM_BURST * SPAM_REFILL_SECONDS;
        let full = || Bucket { seconds: capacity, filled: event.at };
        let mut bucket = self.buckets.take(&key).unwrap_or_else(full);
        bucket.seconds = (bucket.seconds + seconds_between(bucket.filled, event.at)).min(capacity);
        bucket.filled = event.at;
        let admitted = bucket.seconds >= SPAM_REFILL_SECONDS;
        if admitted {
            bucket.seconds -= SPAM_REFILL_SECONDS;
        }
        self.buckets.put(key, bucket);
        admitted
    }

    /// `<object>.<hex of unix nanoseconds>`; never the same twice, even if the clock stands still or goes back. Of an object's name that would
    /// make it too long for a name, only the beginning.
    fn name(&mut self, event: &Observation) -> String {
        self.last_name = event.at.as_nanosecond().max(self.last_name.saturating_add(1));
        let suffix = format!(".{:x}", self.last_name);
        let object = event.about.name.as_deref().unwrap_or_default();
        let room = MAX_NAME.saturating_sub(suffix.len());
        let shown = object.get(..room).map_or(object, |start| start.trim_end_matches(['-', '.']));
        format!("{shown}{suffix}")
    }
}

// === impl keys ===

impl ObjectKey {
    fn of(about: &ObjectReference) -> Self {
        Self {
            kind: about.kind.clone(),
            namespace: about.namespace.clone(),
            name: about.name.clone(),
            uid: about.uid.clone(),
            api_version: about.api_version.clone(),
        }
    }
}

/// Zero if the clock went back.
fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests;
