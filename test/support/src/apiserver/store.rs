//! Objects, their versions, and who watches them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Path of the kind without its namespace, namespace (empty for none), name.
type Key = (String, String, String);

/// All that the server knows.
#[derive(Default)]
pub(super) struct Store {
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// What happened after this version is known.
    compacted: u64,
    history: Vec<Change>,
    watchers: Vec<Watcher>,
    pub(super) terminating: BTreeSet<String>,
    pub(super) page: Option<usize>,
    /// Lists that are read in pages, by the version that they are of.
    snapshots: BTreeMap<u64, Vec<Value>>,
}

struct Change {
    version: u64,
    of: Collection,
    before: Option<Value>,
    now: Option<Value>,
}

struct Watcher {
    of: Collection,
    selector: Selector,
    lines: mpsc::UnboundedSender<Bytes>,
}

/// Objects of one kind, of one namespace or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collection {
    kind: String,
    namespace: Option<String>,
}

/// A field selector: fields by their path, and the values that they must have.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector(Vec<(String, String)>);

/// One page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Value>,
    pub(super) version: u64,
    pub(super) next: Option<String>,
}

/// The version is forgotten.
#[derive(Debug)]
pub(super) struct Expired;

// === impl Store ===

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn put(&mut self, collection: &str, mut object: Value) -> Value {
        let of = Collection::of(collection);
        let key = of.key(object["metadata"]["name"].as_str().unwrap());
        let before = self.objects.get(&key).cloned();
        self.version += 1;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("resourceVersion".into(), json!(self.version.to_string()));
        if let Some(namespace) = &of.namespace {
            metadata.insert("namespace".into(), json!(namespace));
        }
        let uid = before.as_ref().map_or_else(|| json!(uid(self.version)), |before| before["metadata"]["uid"].clone());
        metadata.entry("uid").or_insert(uid);
        self.objects.insert(key, object.clone());
        self.happened(of, before, Some(object.clone()));
        object
    }

    pub(super) fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.objects.get(&Collection::of(collection).key(name)).cloned()
    }

    pub(super) fn remove(&mut self, collection: &str, name: &str) -> bool {
        let of = Collection::of(collection);
        let Some(mut gone) = self.objects.remove(&of.key(name)) else { return false };
        self.version += 1;
        gone["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.happened(of, Some(gone), None);
        true
    }

    pub(super) fn list(&self, collection: &str) -> Vec<Value> {
        self.selected(&Collection::of(collection), &Selector::default())
    }

    /// A page from `after` on, of the list that was begun at the version that it says.
    pub(super) fn page(
        &mut self,
        of: &Collection,
        selector: &Selector,
        limit: Option<usize>,
        after: Option<&str>,
    ) -> Result<Page, Expired> {
        let (version, skip) = match after {
            None => (self.version, 0),
            Some(token) => {
                let (version, skip) = token.split_once('-').ok_or(Expired)?;
                (version.parse().map_err(|_| Expired)?, skip.parse().map_err(|_| Expired)?)
            }
        };
        let all = match after {
            None => self.selected(of, selector),
            Some(_) => self.snapshots.get(&version).cloned().ok_or(Expired)?,
        };
        let limit = limit.unwrap_or(usize::MAX);
        let next = (skip + limit.min(all.len()) < all.len()).then(|| format!("{version}-{}", skip + limit));
        let items = all.iter().skip(skip).take(limit).cloned().collect();
        self.snapshots.insert(version, all);
        Ok(Page { items, version, next })
    }

    /// The lines of a watch from a version on; the first are what happened since.
    pub(super) fn watch(
        &mut self,
        of: Collection,
        selector: Selector,
        from: u64,
    ) -> Result<mpsc::UnboundedReceiver<Bytes>, Expired> {
        if from != 0 && from < self.compacted {
            return Err(Expired);
        }
        let (lines, receiver) = mpsc::unbounded_channel();
        let watcher = Watcher { of, selector, lines };
        self.history.iter().filter(|change| change.version > from).for_each(|change| watcher.tell(change));
        self.watchers.push(watcher);
        Ok(receiver)
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
        self.snapshots.clear();
    }

    pub(super) fn bookmark(&mut self) {
        let metadata = json!({"resourceVersion": self.version.to_string()});
        let line = line("BOOKMARK", &json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata}));
        self.watchers.retain(|watcher| watcher.lines.send(line.clone()).is_ok());
    }

    pub(super) fn cut_watches(&mut self) -> usize {
        let running = self.watches();
        self.watchers.clear();
        running
    }

    pub(super) fn watches(&mut self) -> usize {
        self.watchers.retain(|watcher| !watcher.lines.is_closed());
        self.watchers.len()
    }

    fn selected(&self, of: &Collection, selector: &Selector) -> Vec<Value> {
        let in_it = |((kind, namespace, _), object): &(&Key, &Value)| {
            *kind == of.kind && of.namespace.as_ref().is_none_or(|wanted| wanted == namespace) && selector.takes(object)
        };
        self.objects.iter().filter(in_it).map(|(_, object)| object.clone()).collect()
    }

    fn happened(&mut self, of: Collection, before: Option<Value>, now: Option<Value>) {
        let change = Change { version: self.version, of, before, now };
        self.watchers.retain(|watcher| !watcher.lines.is_closed());
        self.watchers.iter().for_each(|watcher| watcher.tell(&change));
        self.history.push(change);
    }
}

// === impl Watcher ===

impl Watcher {
    fn tell(&self, Change { of, before, now, version }: &Change) {
        if self.of.kind != of.kind
            || self.of.namespace.as_ref().is_some_and(|wanted| Some(wanted) != of.namespace.as_ref())
        {
            return;
        }
        let selected = |object: &Option<Value>| object.clone().filter(|object| self.selector.takes(object));
        let told = match (selected(before), selected(now)) {
            (None, None) => return,
            (None, Some(now)) => line("ADDED", &now),
            (Some(_), Some(now)) => line("MODIFIED", &now),
            (Some(mut before), None) => {
                before["metadata"]["resourceVersion"] = json!(version.to_string());
                line("DELETED", &before)
            }
        };
        // A watcher that went is found when the next looks.
        drop(self.lines.send(told));
    }
}

// === impl Collection ===

impl Collection {
    /// `/api/v1/namespaces/a/pods`, `/api/v1/pods`, `/apis/g/v1/things`.
    pub(super) fn of(path: &str) -> Self {
        match path.split_once("/namespaces/").and_then(|(base, rest)| Some((base, rest.split_once('/')?))) {
            Some((base, (namespace, plural))) => {
                Self { kind: format!("{base}/{plural}"), namespace: Some(namespace.to_owned()) }
            }
            None => Self { kind: path.to_owned(), namespace: None },
        }
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    fn key(&self, name: &str) -> Key {
        (self.kind.clone(), self.namespace.clone().unwrap_or_default(), name.to_owned())
    }
}

// === impl Selector ===

impl Selector {
    /// `a.b=c,d=e`, with `\` before what is meant as it is.
    pub(super) fn of(text: &str) -> Self {
        let (mut fields, mut key, mut word, mut escaped) = (Vec::new(), String::new(), String::new(), false);
        for c in text.chars() {
            match c {
                _ if escaped => {
                    word.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '=' => key = std::mem::take(&mut word),
                ',' => fields.push((std::mem::take(&mut key), std::mem::take(&mut word))),
                _ => word.push(c),
            }
        }
        if !key.is_empty() {
            fields.push((key, word));
        }
        Self(fields)
    }

    fn takes(&self, object: &Value) -> bool {
        let field = |path: &str| path.split('.').try_fold(object, |object, part| object.get(part));
        self.0.iter().all(|(path, wanted)| field(path).and_then(Value::as_str).unwrap_or_default() == wanted)
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

/// Of the form of a UUID, and another for each version.
fn uid(version: u64) -> String {
    format!("{version:08x}-0000-4000-8000-000000000000")
}
