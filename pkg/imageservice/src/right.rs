//! Who asks, and for what he has shown that a registry gives it to him.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};

use crate::per_key::PerKey;

/// The right to what one repository holds, as far as one credential gives it.
#[derive(Debug, Clone)]
pub(crate) struct Right {
    pub(crate) reference: Reference,
    pub(crate) credential: Credential,
}

/// The blobs that pulls with one right have fetched, or were told by the registry that they may. It is shared by those that run at
/// the same time, and ends with the last of them: what a registry gives today it may refuse tomorrow.
#[derive(Debug, Clone)]
pub(crate) struct Proofs {
    right: Right,
    proven: Arc<Proven>,
}

/// What one right was proven for.
pub(crate) type Proven = Mutex<HashSet<Digest>>;

// === impl Right ===

impl PartialEq for Right {
    fn eq(&self, other: &Self) -> bool {
        let repository = |right: &Self| (right.reference.domain().to_owned(), right.reference.path().to_owned());
        repository(self) == repository(other) && self.credential == other.credential
    }
}

impl Eq for Right {}

impl Hash for Right {
    /// Not of the credential: a hash is no place for secrets.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reference.domain().hash(state);
        self.reference.path().hash(state);
    }
}

// === impl Proofs ===

impl Proofs {
    /// Of a pull with this right, whose manifest request the registry has just answered.
    pub(crate) fn new(right: Right, known: &PerKey<Right, Proven>) -> Self {
        let proven = known.get_or_make(right.clone(), Proven::default);
        Self { right, proven }
    }

    pub(crate) fn right(&self) -> &Right {
        &self.right
    }

    pub(crate) fn cover(&self, digest: &Digest) -> bool {
        self.lock().contains(digest)
    }

    pub(crate) fn add(&self, digest: &Digest) {
        self.lock().insert(digest.clone());
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use imagevol_api::auth::AuthConfig;
    use rstest::rstest;

    use super::*;

    fn right(reference: &str, password: Option<&str>) -> Right {
        let credential = password.map_or(Credential::Anonymous, |password| {
            Credential::Auth(AuthConfig {
                username: "anna".to_owned(),
                password: password.into(),
                ..Default::default()
            })
        });
        Right { reference: Reference::parse(reference).unwrap(), credential }
    }

    #[rstest]
    #[case::another_tag("r.io/a:2", Some("x"), true)]
    #[case::another_repository("r.io/b:1", Some("x"), false)]
    #[case::another_registry("q.io/a:1", Some("x"), false)]
    #[case::another_password("r.io/a:1", Some("y"), false)]
    #[case::anybody("r.io/a:1", None, false)]
    fn rights_are_of_a_repository_and_a_credential(
        #[case] reference: &str,
        #[case] password: Option<&str>,
        #[case] same: bool,
    ) {
        assert_eq!(right("r.io/a:1", Some("x")) == right(reference, password), same);
    }
}
