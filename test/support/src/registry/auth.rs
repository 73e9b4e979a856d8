//! Users, tokens and who may read what.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

/// What the registry asks its callers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// Nothing.
    Open,
    /// User name and password with each request, for protected repositories.
    Basic,
    /// A token from its own token service, which anonymous callers get too.
    Token,
}

/// Whether a request may go on.
pub(super) enum Verdict {
    Allowed,
    /// 401 with this challenge.
    Challenge(String),
    /// 403.
    Denied,
}

pub(super) struct Auth {
    pub(super) mode: AuthMode,
    users: HashMap<String, String>,
    identity_tokens: HashMap<String, String>,
    protected: HashMap<String, BTreeSet<String>>,
    tokens: HashMap<String, Grant>,
    issued: u64,
}

struct Grant {
    user: Option<String>,
    scope: String,
}

// === impl Auth ===

impl Auth {
    pub(super) fn new(mode: AuthMode) -> Self {
        Self {
            mode,
            users: HashMap::new(),
            identity_tokens: HashMap::new(),
            protected: HashMap::new(),
            tokens: HashMap::new(),
            issued: 0,
        }
    }

    pub(super) fn add_user(&mut self, name: &str, password: &str) {
        self.users.insert(name.to_owned(), password.to_owned());
    }

    pub(super) fn add_identity_token(&mut self, token: &str, user: &str) {
        self.identity_tokens.insert(token.to_owned(), user.to_owned());
    }

    pub(super) fn protect(&mut self, repository: &str, users: &[&str]) {
        self.protected.insert(repository.to_owned(), users.iter().map(|&user| user.to_owned()).collect());
    }

    pub(super) fn revoke(&mut self) {
        self.tokens.clear();
    }

    /// Whether the bearer of these headers may read `repository`.
    pub(super) fn check(&self, headers: &HeaderMap, repository: &str, url: &str) -> Verdict {
        match self.mode {
            AuthMode::Open => Verdict::Allowed,
            AuthMode::Basic => self.check_basic(headers, repository),
            AuthMode::Token => self.check_token(headers, repository, url),
        }
    }

    /// A token for `scope`, or `None` where the caller's password or refresh token is wrong.
    pub(super) fn issue(&mut self, user: Result<Option<String>, ()>, scope: &str) -> Option<String> {
        let user = user.ok()?;
        self.issued += 1;
        let token = format!("fake-token-{}", self.issued);
        self.tokens.insert(token.clone(), Grant { user, scope: scope.to_owned() });
        Some(token)
    }

    /// The user of basic authentication; nobody where there is none; an error where it is wrong.
    pub(super) fn basic_user(&self, headers: &HeaderMap) -> Result<Option<String>, ()> {
        let Some(value) = authorization(headers) else { return Ok(None) };
        let encoded = value.strip_prefix("Basic ").ok_or(())?;
        let decoded = STANDARD.decode(encoded).map_err(drop)?;
        let text = String::from_utf8(decoded).map_err(drop)?;
        let (name, password) = text.split_once(':').ok_or(())?;
        if self.users.get(name).is_some_and(|known| known == password) {
            return Ok(Some(name.to_owned()));
        }
        Err(())
    }

    /// The user of a refresh token.
    pub(super) fn identity_user(&self, token: &str) -> Result<Option<String>, ()> {
        self.identity_tokens.get(token).cloned().map(Some).ok_or(())
    }

    fn check_basic(&self, headers: &HeaderMap, repository: &str) -> Verdict {
        let challenge = || Verdict::Challenge("Basic realm=\"fake registry\"".to_owned());
        let Ok(user) = self.basic_user(headers) else { return challenge() };
        // The base path names no repository, and says to anybody how to authenticate.
        if repository.is_empty() && user.is_none() {
            return challenge();
        }
        match (self.may_read(user.as_deref(), repository), user) {
            (true, _) => Verdict::Allowed,
            (false, None) => challenge(),
            (false, Some(_)) => Verdict::Denied,
        }
    }

    fn check_token(&self, headers: &HeaderMap, repository: &str, url: &str) -> Verdict {
        let scope = format!("repository:{repository}:pull");
        let granted = authorization(headers)
            .and_then(|value| value.strip_prefix("Bearer "))
            .and_then(|token| self.tokens.get(token))
            .is_some_and(|grant| grant.scope == scope && self.may_read(grant.user.as_deref(), repository));
        if granted {
            return Verdict::Allowed;
        }
        Verdict::Challenge(format!("Bearer realm=\"{url}/token\",service=\"fake registry\",scope=\"{scope}\""))
    }

    fn may_read(&self, user: Option<&str>, repository: &str) -> bool {
        let Some(users) = self.protected.get(repository) else { return true };
        user.is_some_and(|user| users.contains(user))
    }
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(http::header::AUTHORIZATION)?.to_str().ok()
}
