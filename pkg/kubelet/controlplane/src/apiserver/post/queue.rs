//! Events that wait to be posted: in the order in which they came, each once.

use std::collections::{HashMap, VecDeque};

use imagevol_api::corev1::Event;

/// Events that may wait (client-go `maxQueuedEvents`, tools/record/event.go).
const MAX_WAITING: usize = 1000;

/// Namespace and name.
pub(super) type EventName = (String, String);

/// The queue. Pure.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<EventName>,
    waiting: HashMap<EventName, Waiting>,
}

/// An event that waits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) event: Event,
    /// Whether the server is likely to have it, with a smaller count.
    pub(super) known: bool,
    /// How often it was tried.
    pub(super) tries: u32,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It waits at the end.
    Queued,
    /// It takes the place of its earlier self.
    Merged,
    /// There is no room.
    Full,
}

// === impl Queue ===

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds an event, or brings the one that waits up to date.
    pub(super) fn put(&mut self, event: Event) -> Put {
        let name = name_of(&event);
        if let Some(waiting) = self.waiting.get_mut(&name) {
            waiting.event = event;
            return Put::Merged;
        }
        if self.waiting.len() >= MAX_WAITING {
            return Put::Full;
        }
        let known = event.count.is_some_and(|count| count > 1);
        self.order.push_back(name.clone());
        self.waiting.insert(name, Waiting { event, known, tries: 0 });
        Put::Queued
    }

    /// Takes the event that waits longest.
    pub(super) fn next(&mut self) -> Option<Waiting> {
        let name = self.order.pop_front()?;
        self.waiting.remove(&name)
    }

    /// Puts an event back behind all others.
    pub(super) fn put_back(&mut self, waiting: Waiting) {
        self.restore(waiting, VecDeque::push_back);
    }

    /// Puts an event back to where it was.
    pub(super) fn put_first(&mut self, waiting: Waiting) {
        self.restore(waiting, VecDeque::push_front);
    }

    /// Room is not asked for: it was there before. What came in meanwhile of the same event is newer, but was not tried as often, and counts on
    /// what is put back being there.
    fn restore(&mut self, waiting: Waiting, push: impl FnOnce(&mut VecDeque<EventName>, EventName)) {
        let name = name_of(&waiting.event);
        if let Some(newer) = self.waiting.get_mut(&name) {
            (newer.known, newer.tries) = (waiting.known, waiting.tries);
            return;
        }
        push(&mut self.order, name.clone());
        self.waiting.insert(name, waiting);
    }
}

pub(super) fn name_of(event: &Event) -> EventName {
    let metadata = &event.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use imagevol_api::metav1::ObjectMeta;

    use super::*;

    fn event(name: &str, count: i32) -> Event {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        Event { metadata, count: Some(count), ..Event::default() }
    }

    fn shown(waiting: Option<Waiting>) -> (String, i32, bool, u32) {
        let Waiting { event, known, tries } = waiting.unwrap();
        (event.metadata.name.unwrap(), event.count.unwrap(), known, tries)
    }

    fn is(name: &str, count: i32, known: bool, tries: u32) -> (String, i32, bool, u32) {
        (name.to_owned(), count, known, tries)
    }

    #[test]
    fn keeps_the_order_and_posts_repetitions_once() {
        let mut queue = Queue::default();
        assert_eq!(queue.put(event("a", 1)), Put::Queued);
        assert_eq!(queue.put(event("b", 7)), Put::Queued);
        assert_eq!(queue.put(event("a", 2)), Put::Merged);
        assert_eq!(shown(queue.next()), is("a", 2, false, 0));
        assert_eq!(shown(queue.next()), is("b", 7, true, 0));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn puts_back_first_or_last() {
        let mut queue = Queue::default();
        for name in ["a", "b", "c"] {
            queue.put(event(name, 1));
        }
        let a = queue.next().unwrap();
        queue.put_back(Waiting { tries: 1, ..a });
        let b = queue.next().unwrap();
        queue.put_first(b);
        let names = [queue.next(), queue.next(), queue.next()].map(|waiting| shown(waiting).0);
        assert_eq!(names, ["b", "c", "a"]);
    }

    #[test]
    fn a_newer_self_takes_over_what_was_tried() {
        let mut queue = Queue::default();
        queue.put(event("a", 1));
        let tried = queue.next().unwrap();
        queue.put(event("a", 2));
        queue.put_back(Waiting { tries: 3, ..tried });
        assert_eq!(shown(queue.next()), is("a", 2, false, 3));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn is_bounded() {
        let mut queue = Queue::default();
        let full = (0..=MAX_WAITING).map(|n| queue.put(event(&n.to_string(), 1))).filter(|put| *put == Put::Full);
        assert_eq!(full.count(), 1);
        assert_eq!(queue.put(event("0", 2)), Put::Merged);
        assert_eq!(queue.len(), MAX_WAITING);
    }
}
