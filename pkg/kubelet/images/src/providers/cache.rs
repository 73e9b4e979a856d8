//! Answers of one plugin, for as long as they hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imagevol_api::credentialprovider::CacheKeyType;
use tokio::time::Instant;

use super::identity::Identity;
use crate::keyring::DockerConfig;

/// How often answers that nobody asks for again are cleared away (Kubernetes, `cachePurgeInterval`).
const PURGE_INTERVAL: Duration = Duration::from_mins(15);
/// More answers are not kept: tokens come and go with pods. Ours: some MiB.
const ENTRIES_MAX: usize = 10_000;

/// Answers by what they are for and who may have them.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    purged_at: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    identity: Identity,
}

/// For which images an answer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    Image(String),
    Registry(String),
    Global,
}

#[derive(Debug)]
struct Entry {
    credentials: Arc<DockerConfig>,
    /// The last moment at which it holds.
    until: Instant,
}

// === impl Cache ===

impl Cache {
    pub(super) fn new(now: Instant) -> Self {
        Self { entries: HashMap::new(), purged_at: now }
    }

    /// What is known for `repository` and `identity`: for the image, else for its registry, else for all.
    pub(super) fn get(&mut self, repository: &str, identity: &Identity, now: Instant) -> Option<Arc<DockerConfig>> {
        if now.saturating_duration_since(self.purged_at) > PURGE_INTERVAL {
            self.purge(now);
        }
        let scopes = [CacheKeyType::Image, CacheKeyType::Registry, CacheKeyType::Global];
        scopes.into_iter().find_map(|scope| {
            let key = Key { scope: Scope::of(scope, repository), identity: identity.clone() };
            let entry = self.entries.get(&key)?;
            (now <= entry.until).then(|| Arc::clone(&entry.credentials))
        })
    }

    /// Keeps an answer for `keep`; not at all if that is zero.
    pub(super) fn insert(&mut self, question: Question<'_>, credentials: Arc<DockerConfig>, keep: Duration) {
        let Some(until) = question.now.checked_add(keep).filter(|_| !keep.is_zero()) else { return };
        if self.entries.len() >= ENTRIES_MAX {
            self.purge(question.now);
        }
        if self.entries.len() < ENTRIES_MAX {
            let scope = Scope::of(question.scope, question.repository);
            self.entries.insert(Key { scope, identity: question.identity }, Entry { credentials, until });
        }
    }

    fn purge(&mut self, now: Instant) {
        self.entries.retain(|_, entry| now <= entry.until);
        self.purged_at = now;
    }
}

/// What an answer answers.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) scope: CacheKeyType,
    pub(super) repository: &'a str,
    pub(super) identity: Identity,
    pub(super) now: Instant,
}

// === impl Scope ===

impl Scope {
    fn of(scope: CacheKeyType, repository: &str) -> Self {
        let registry = || repository.split_once('/').map_or(repository, |(registry, _)| registry);
        match scope {
            CacheKeyType::Image => Self::Image(repository.to_owned()),
            CacheKeyType::Registry => Self::Registry(registry().to_owned()),
            CacheKeyType::Global => Self::Global,
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn answer() -> Arc<DockerConfig> {
        Arc::new(DockerConfig::default())
    }

    fn question(scope: CacheKeyType, repository: &str, now: Instant) -> Question<'_> {
        Question { scope, repository, identity: Identity::Anybody, now }
    }

    #[rstest]
    #[case(CacheKeyType::Image, [true, false, false, false])]
    #[case(CacheKeyType::Registry, [true, true, false, false])]
    #[case(CacheKeyType::Global, [true, true, true, true])]
    fn answers_are_for_their_scope(#[case] scope: CacheKeyType, #[case] known: [bool; 4]) {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        cache.insert(question(scope, "r.io/a", now), answer(), MINUTE);
        let found = ["r.io/a", "r.io/b", "r.io:5000/a", "q.io/a"]
            .map(|repository| cache.get(repository, &Identity::Anybody, now).is_some());
        assert_eq!(found, known);
    }

    #[test]
    fn answers_run_out() {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        cache.insert(question(CacheKeyType::Image, "r.io/a", now), answer(), MINUTE);
        cache.insert(question(CacheKeyType::Image, "r.io/b", now), answer(), Duration::ZERO);
        cache.insert(question(CacheKeyType::Image, "r.io/c", now), answer(), Duration::MAX);
        let mut known =
            |repository: &str, after: Duration| cache.get(repository, &Identity::Anybody, now + after).is_some();
        assert!(known("r.io/a", MINUTE));
        assert!(!known("r.io/a", MINUTE + Duration::from_nanos(1)));
        assert!(!known("r.io/b", Duration::ZERO), "zero is not kept");
        assert!(!known("r.io/c", Duration::ZERO), "what no clock can count is not kept");
    }

    #[test]
    fn what_ran_out_is_cleared_away() {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        cache.insert(question(CacheKeyType::Image, "r.io/a", now), answer(), MINUTE);
        cache.get("r.io/b", &Identity::Anybody, now + PURGE_INTERVAL);
        assert_eq!(cache.entries.len(), 1);
        cache.get("r.io/b", &Identity::Anybody, now + PURGE_INTERVAL + MINUTE);
        assert_eq!(cache.entries.len(), 0);
    }

    #[test]
    fn keeps_no_more_than_its_limit() {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        for number in 0..ENTRIES_MAX + 10 {
            let repository = format!("r.io/{number}");
            cache.insert(question(CacheKeyType::Image, &repository, now), answer(), MINUTE);
        }
        assert_eq!(cache.entries.len(), ENTRIES_MAX);
        cache.insert(question(CacheKeyType::Image, "r.io/later", now + 2 * MINUTE), answer(), MINUTE);
        assert_eq!(cache.entries.len(), 1, "what ran out makes room");
    }
}
