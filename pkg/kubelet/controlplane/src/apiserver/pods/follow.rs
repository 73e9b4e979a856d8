//! What to ask for next: the rules of client-go's reflector (tools/cache/reflector.go), as a pure function of what happened.

use kube::api::{ListParams, VersionMatch, WatchParams};

use super::super::fault::RequestFault;

/// Objects in a page of a list that goes to the database (client-go `tools/pager`, `defaultPageSize`).
const PAGE: u32 = 500;
/// Codes of a server that does not have a wanted version yet (apimachinery `NewTooLargeResourceVersionError`: a timeout).
const TIMEOUT_CODE: u16 = 504;

/// What to ask for next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Everything there is.
    List(From),
    /// What happened after a version.
    Watch(String),
}

/// How new a list has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// Whatever the API server has at hand: the cheapest.
    Any,
    /// At least as new as a version: never back in time, whichever of several servers answers.
    NotOlderThan(String),
    /// As the database has it now, in pages.
    Newest,
    /// The same in one piece, for when pages expire faster than they are read.
    NewestWhole,
}

// === impl Next ===

impl Next {
    /// After a list failed. `version` is the newest that was ever seen.
    pub(super) fn after_list(from: From, version: Option<&str>, fault: &RequestFault) -> Self {
        let expired = matches!(fault, RequestFault::Expired);
        let too_new = fault.code() == Some(TIMEOUT_CODE);
        Self::List(match from {
            From::Any | From::NotOlderThan(_) if expired || too_new => From::Newest,
            From::Newest if expired => From::NewestWhole,
            From::Newest | From::NewestWhole if !expired => {
                version.map_or(From::Any, |at| From::NotOlderThan(at.to_owned()))
            }
            from @ (From::Any | From::NotOlderThan(_) | From::Newest | From::NewestWhole) => from,
        })
    }

    /// After a watch from `version` could not begin, or ended with a fault: what only says that the server is away loses nothing.
    pub(super) fn after_watch(version: &str, fault: &RequestFault) -> Self {
        if fault.is_outage() || fault.code() == Some(429) {
            return Self::Watch(version.to_owned());
        }
        Self::List(From::NotOlderThan(version.to_owned()))
    }
}

// === impl From ===

impl From {
    /// One page, the first or the one that `token` continues.
    pub(super) fn params(&self, fields: &str, token: Option<String>) -> ListParams {
        let all =
            ListParams { field_selector: Some(fields.to_owned()), continue_token: token, ..ListParams::default() };
        let of = |version: &str| Some(version.to_owned());
        // With a limit, servers of old ask the database whatever the version is.
        match self {
            Self::Any => ListParams { resource_version: of("0"), ..all },
            Self::NotOlderThan(version) => {
                let version_match = Some(VersionMatch::NotOlderThan);
                ListParams { resource_version: of(version), version_match, ..all }
            }
            Self::Newest => ListParams { limit: Some(PAGE), ..all },
            Self::NewestWhole => all,
        }
    }
}

/// A watch that the server ends after `seconds`.
pub(super) fn watch_params(fields: &str, seconds: u32) -> WatchParams {
    WatchParams { field_selector: Some(fields.to_owned()), timeout: Some(seconds), ..WatchParams::default() }
}

/// The pods of a node. (apimachinery `fields.EscapeValue`.)
pub(super) fn fields_of(node_name: &str) -> String {
    let special = |c: char| matches!(c, '\\' | ',' | '=');
    let escaped = node_name.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c]));
    format!("spec.nodeName={}", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn failing(code: u16) -> RequestFault {
        RequestFault::Failing { code, message: String::new() }
    }

    fn not_older() -> From {
        From::NotOlderThan("7".into())
    }

    #[rstest]
    #[case::away(From::Any, None, failing(500), From::Any)]
    #[case::expired(From::Any, None, RequestFault::Expired, From::Newest)]
    #[case::away_later(not_older(), Some("7"), failing(500), not_older())]
    #[case::expired_later(not_older(), Some("7"), RequestFault::Expired, From::Newest)]
    #[case::server_behind(not_older(), Some("7"), failing(504), From::Newest)]
    #[case::page_expired(From::Newest, Some("7"), RequestFault::Expired, From::NewestWhole)]
    #[case::newest_failed(From::Newest, Some("7"), failing(500), not_older())]
    #[case::newest_failed_at_first(From::Newest, None, failing(500), From::Any)]
    #[case::whole_failed(From::NewestWhole, Some("7"), failing(500), not_older())]
    #[case::whole_expired(From::NewestWhole, Some("7"), RequestFault::Expired, From::NewestWhole)]
    #[case::forbidden(From::Any, None, RequestFault::Forbidden { message: String::new() }, From::Any)]
    fn lists_again(#[case] from: From, #[case] version: Option<&str>, #[case] fault: RequestFault, #[case] next: From) {
        assert_eq!(Next::after_list(from, version, &fault), Next::List(next));
    }

    #[rstest]
    #[case::away(RequestFault::Unreachable("x".into()), true)]
    #[case::silent(RequestFault::Timeout(std::time::Duration::ZERO), true)]
    #[case::busy(failing(429), true)]
    #[case::broken(failing(503), true)]
    #[case::credentials(RequestFault::Unauthorized, true)]
    #[case::expired(RequestFault::Expired, false)]
    #[case::garbage(RequestFault::Undecodable, false)]
    #[case::forbidden(RequestFault::Forbidden { message: String::new() }, false)]
    #[case::refused(RequestFault::Refused { code: 400, message: String::new() }, false)]
    fn goes_on_where_nothing_is_lost(#[case] fault: RequestFault, #[case] resumes: bool) {
        let next = if resumes { Next::Watch("7".into()) } else { Next::List(not_older()) };
        assert_eq!(Next::after_watch("7", &fault), next);
    }

    #[rstest]
    #[case::plain("node-1", "spec.nodeName=node-1")]
    #[case::injection("a,b=c\\", "spec.nodeName=a\\,b\\=c\\\\")]
    fn selects_one_node(#[case] node: &str, #[case] fields: &str) {
        assert_eq!(fields_of(node), fields);
    }
}
