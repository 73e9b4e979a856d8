//! Requests as values: which verb, on which object.

use http::Request;
use http::header::CONTENT_TYPE;
use kube::api::{GetParams, ListParams, PostParams, WatchParams};
use serde::Serialize;

use super::fault::{RequestError, RequestFault};

/// Longest name of an object (RFC 1123 subdomain, Kubernetes `validation.DNS1123SubdomainMaxLength`).
const MAX_NAME: usize = 253;

/// A patch that merges lists as the type says, by name for example (api-concepts, "Strategic merge patch").
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// Pods.
pub(super) const PODS: Resource = Resource { base: "/api/v1", plural: "pods" };
/// Secrets.
pub(super) const SECRETS: Resource = Resource { base: "/api/v1", plural: "secrets" };
/// Events, of the core group as the kubelet's.
pub(super) const EVENTS: Resource = Resource { base: "/api/v1", plural: "events" };
/// Mutating webhooks.
pub(super) const MUTATING_WEBHOOKS: Resource =
    Resource { base: "/apis/admissionregistration.k8s.io/v1", plural: "mutatingwebhookconfigurations" };

/// A kind of object, as paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resource {
    base: &'static str,
    plural: &'static str,
}

/// One object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'a> {
    pub(super) resource: Resource,
    /// `None` for what belongs to no namespace.
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
}

/// A request that is ready to be sent.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) verb: &'static str,
    /// What the request is about, for messages.
    pub(super) object: String,
    pub(super) request: Request<Vec<u8>>,
}

// === impl Resource ===

impl Resource {
    /// The object of a namespace.
    pub(super) const fn of<'a>(self, namespace: &'a str, name: &'a str) -> Object<'a> {
        Object { resource: self, namespace: Some(namespace), name }
    }

    /// The object that belongs to no namespace.
    pub(super) const fn named(self, name: &str) -> Object<'_> {
        Object { resource: self, namespace: None, name }
    }

    /// A page of the objects of all namespaces.
    pub(super) fn list(self, params: &ListParams) -> Result<Call, RequestError> {
        let object = || self.plural.to_owned();
        Call::new("list", object, kube::core::Request::new(self.everywhere()).list(params))
    }

    /// A watch of the objects of all namespaces.
    pub(super) fn watch(self, params: &WatchParams, from: &str) -> Result<Call, RequestError> {
        let object = || self.plural.to_owned();
        Call::new("watch", object, kube::core::Request::new(self.everywhere()).watch(params, from))
    }

    fn everywhere(self) -> String {
        format!("{}/{}", self.base, self.plural)
    }
}

// === impl Object ===

impl Object<'_> {
    /// Reads the object as it is now.
    pub(super) fn get(self) -> Result<Call, RequestError> {
        let request = self.request("get")?.get(self.name, &GetParams::default());
        self.call("get", request)
    }

    /// Makes the object.
    pub(super) fn create(self, content: &impl Serialize) -> Result<Call, RequestError> {
        let content = self.encoded("create", content)?;
        let request = self.request("create")?.create(&PostParams::default(), content);
        self.call("create", request)
    }

    /// Puts another in its place; `content` says of which version.
    pub(super) fn replace(self, content: &impl Serialize) -> Result<Call, RequestError> {
        let content = self.encoded("update", content)?;
        let request = self.request("update")?.replace(self.name, &PostParams::default(), content);
        self.call("update", request)
    }

    /// Changes some of it, by a strategic merge.
    pub(super) fn patch(self, changes: &impl Serialize) -> Result<Call, RequestError> {
        let changes = self.encoded("patch", changes)?;
        let path = format!("{}/{}", self.request("patch")?.url_path, self.name);
        let request = Request::patch(path).header(CONTENT_TYPE, STRATEGIC_MERGE_PATCH).body(changes);
        self.call("patch", request.map_err(kube::core::request::Error::BuildRequest))
    }

    /// Names go into the path as they are, and some come from users.
    fn request(self, verb: &'static str) -> Result<kube::core::Request, RequestError> {
        for name in [Some(self.name), self.namespace].into_iter().flatten() {
            if !is_object_name(name) {
                let source = RequestFault::Name { name: name.chars().take(MAX_NAME).collect() };
                return Err(RequestError { verb, object: self.resource.plural.to_owned(), source });
            }
        }
        let Resource { base, plural } = self.resource;
        Ok(kube::core::Request::new(match self.namespace {
            Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}"),
            None => format!("{base}/{plural}"),
        }))
    }

    fn encoded(self, verb: &'static str, content: &impl Serialize) -> Result<Vec<u8>, RequestError> {
        let failed = |error: serde_json::Error| RequestError {
            verb,
            object: self.to_string(),
            source: RequestFault::Build(error.into()),
        };
        serde_json::to_vec(content).map_err(failed)
    }

    fn call(
        self,
        verb: &'static str,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Call, RequestError> {
        Call::new(verb, || self.to_string(), request)
    }
}

impl std::fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Object { resource: Resource { plural, .. }, namespace, name } = self;
        match namespace {
            Some(namespace) => write!(f, "{plural} {namespace}/{name}"),
            None => write!(f, "{plural} {name}"),
        }
    }
}

// === impl Call ===

impl Call {
    fn new(
        verb: &'static str,
        object: impl FnOnce() -> String,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Self, RequestError> {
        match request {
            Ok(request) => Ok(Self { verb, object: object(), request }),
            Err(error) => Err(RequestError { verb, object: object(), source: RequestFault::Build(error.into()) }),
        }
    }
}

/// Whether a string can be the name of an object: letters and digits in lower case, `-` and `.`, neither first nor last.
///
/// Looser than an RFC 1123 subdomain in what may stand around a dot, but never a way out of a path.
fn is_object_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let outer = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME && outer(bytes.first()) && outer(bytes.last()) && bytes.iter().copied().all(inner)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("regcred", true)]
    #[case::subdomain("a.b-c.d", true)]
    #[case::address("127.0.0.1", true)]
    #[case::empty("", false)]
    #[case::upwards("../secrets/other", false)]
    #[case::dots("..", false)]
    #[case::another_resource("a/b", false)]
    #[case::query("a?watch=true", false)]
    #[case::escaped("a%2fb", false)]
    #[case::upper_case("Regcred", false)]
    #[case::space("a b", false)]
    #[case::dash_first("-a", false)]
    fn takes_names_that_stay_in_their_place(#[case] name: &str, #[case] fine: bool) {
        assert_eq!(is_object_name(name), fine);
        assert_eq!(SECRETS.of("ns", name).get().is_ok(), fine);
        assert_eq!(SECRETS.of(name, "a").get().is_ok(), fine);
    }

    #[test]
    fn knows_where_objects_are() {
        let path = |call: Result<Call, RequestError>| call.unwrap().request.uri().to_string();
        assert_eq!(path(SECRETS.of("ns", "a").get()), "/api/v1/namespaces/ns/secrets/a");
        assert_eq!(
            path(MUTATING_WEBHOOKS.named("a").get()),
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/a"
        );
        let watch = WatchParams::default().fields("spec.nodeName=n").timeout(7);
        assert_eq!(
            path(PODS.watch(&watch, "5")),
            "/api/v1/pods?&watch=true&timeoutSeconds=7&fieldSelector=spec.nodeName%3Dn&allowWatchBookmarks=true&resourceVersion=5"
        );
    }
}
