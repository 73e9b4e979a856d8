//! Misbehaviour: rules that tests set and requests meet.
//!
//! A request meets every rule that names it, but of rules that do the same thing only the oldest: `once` twice is for two requests.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

/// One way to misbehave. Those that name bytes count within the body of one answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers with this status, type and body instead.
    Answer {
        /// HTTP status.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Bytes,
    },
    /// Sends the client elsewhere: the target's path and query are those of the request, behind this base.
    RedirectTo {
        /// Such as `http://127.0.0.1:1234`.
        base: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// Closes the connection without an answer.
    Hangup,
    /// Waits for the gate before it answers as usual.
    Hold(Gate),
    /// Breaks the connection after so many bytes of the body.
    Truncate(u64),
    /// Says by its length that the body is only so long, and ends it properly there.
    Shorten(u64),
    /// Waits for the gate after so many bytes of the body.
    StallAt(u64, Gate),
    /// Flips a bit of the byte at this position.
    Corrupt(u64),
    /// Serves the whole blob with 200 where a range is asked for.
    IgnoreRange,
    /// Appends so many bytes to the body.
    Overlong(u64),
    /// Sends the body in chunks, without a length.
    NoLength,
    /// Sets, or with an empty value removes, a header of the answer.
    Header(String, String),
}

/// A door that a test opens: requests wait before it, and the test can wait until one does.
#[derive(Debug, Clone)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<usize>>,
}

/// The rules in force.
#[derive(Debug, Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
}

#[derive(Debug)]
struct Rule {
    part: String,
    left: Option<u32>,
    fault: Fault,
}

// === impl Fault ===

impl Fault {
    /// An answer with this status and no body.
    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// 429, with `Retry-After` where one is given.
    pub fn throttle(retry_after: Option<&str>) -> Self {
        let headers = retry_after.map(|value| ("retry-after".to_owned(), value.to_owned())).into_iter().collect();
        Self::Answer { status: 429, headers, body: Bytes::new() }
    }

    /// An error in the distribution spec's form.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        Self::json(status, &body)
    }

    /// A JSON answer.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self::Answer { status, headers, body: body.to_string().into() }
    }

    /// 200 with the page of a captive portal.
    pub fn web_page() -> Self {
        let headers = vec![("content-type".to_owned(), "text/html; charset=utf-8".to_owned())];
        Self::Answer { status: 200, headers, body: Bytes::from_static(b"<html><body>Please log in</body></html>") }
    }

    /// Faults of one kind cannot meet in one answer: those that replace it, and those that do the same thing to it.
    fn kind(&self) -> std::mem::Discriminant<Self> {
        match self {
            Self::Answer { .. } | Self::RedirectTo { .. } | Self::Hangup => std::mem::discriminant(&Self::Hangup),
            Self::Truncate(_) | Self::Shorten(_) => std::mem::discriminant(&Self::Truncate(0)),
            other @ (Self::Hold(_)
            | Self::StallAt(..)
            | Self::Corrupt(_)
            | Self::IgnoreRange
            | Self::Overlong(_)
            | Self::NoLength
            | Self::Header(..)) => std::mem::discriminant(other),
        }
    }

    /// 307 to the same path on another host.
    pub fn redirect_to(base: &str) -> Self {
        Self::RedirectTo { base: base.to_owned(), status: 307 }
    }
}

// === impl Gate ===

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed door.
    pub fn new() -> Self {
        Self { open: Arc::new(watch::Sender::new(false)), waiting: Arc::new(watch::Sender::new(0)) }
    }

    /// Lets through all that wait and all that come.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns when `count` requests have come to the door since it was made.
    pub async fn arrived(&self, count: usize) {
        // The sender lives in `self`, so that the wait cannot fail.
        drop(self.waiting.subscribe().wait_for(|waiting| *waiting >= count).await);
    }

    pub(crate) async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        drop(self.open.subscribe().wait_for(|open| *open).await);
    }
}

// === impl Faults ===

impl Faults {
    /// Every request whose `METHOD /path?query` contains `part` meets `fault`.
    pub fn always(&self, part: &str, fault: Fault) {
        self.add(part, None, fault);
    }

    /// The next `count` such requests meet it.
    pub fn times(&self, count: u32, part: &str, fault: Fault) {
        self.add(part, Some(count), fault);
    }

    /// The next such request meets it.
    pub fn once(&self, part: &str, fault: Fault) {
        self.add(part, Some(1), fault);
    }

    /// Everything works again.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// One fault of each kind at most, the oldest: equal kinds queue up for the requests to come.
    pub(super) fn meet(&self, line: &str) -> Vec<Fault> {
        let mut met: Vec<Fault> = Vec::new();
        for rule in self.lock().iter_mut().filter(|rule| line.contains(&rule.part)) {
            let taken = met.iter().any(|fault| fault.kind() == rule.fault.kind());
            match &mut rule.left {
                _ if taken => continue,
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
            }
            met.push(rule.fault.clone());
        }
        met
    }

    fn add(&self, part: &str, left: Option<u32>, fault: Fault) {
        self.lock().push(Rule { part: part.to_owned(), left, fault });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
