//! The part of a registry that credentials are for: host with wildcards, port, path prefix.

/// `host[:port][/path]`: images of a host or of many, as `matchImages`, answers of plugins and docker configurations name
/// them (Kubernetes, `pkg/credentialprovider/keyring.go`, `URLsMatch`).
///
/// `*` stands for any run of characters inside one part of the host; neither port nor path can have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryPattern {
    host: String,
    port: String,
    path: String,
}

// === impl RegistryPattern ===

impl RegistryPattern {
    /// The pattern of a docker configuration's key, and the key in its plain form, by which keys are ordered.
    ///
    /// A scheme does not matter, and the paths `/v1/` and `/v2/` mean the host (docker, `ResolveAuthConfig`).
    pub fn of_key(written: &str) -> Option<(String, Self)> {
        let bare = ["https://", "http://"].iter().find_map(|scheme| written.strip_prefix(scheme)).unwrap_or(written);
        let bare = bare.split(['?', '#']).next().unwrap_or(bare);
        let (authority, path) = split_path(bare);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let path = ["/v1/", "/v2/"]
            .iter()
            .find_map(|version| path.strip_prefix(version))
            .map_or_else(|| path.trim_start_matches('/').to_owned(), str::to_owned);
        let key = if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") };
        let pattern = Self::parse(&key)?;
        Some((key, pattern))
    }

    /// The pattern that is written plainly, or the one image that a repository is. `None` if the host has characters that no host or wildcard has.
    pub fn parse(text: &str) -> Option<Self> {
        let (authority, path) = split_path(text);
        let (host, port) = split_port(authority)?;
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'*' | b':');
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let plain = !inner.is_empty() && inner.bytes().all(known) && port.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| Self { host: host.to_owned(), port: port.to_owned(), path: path.to_owned() })
    }

    /// Whether credentials for this are for `target` too, which is a repository: as many labels in the host, each of them matching; the same
    /// port; a path that begins with this one.
    pub fn matches(&self, target: &Self) -> bool {
        let labels = self.host.split('.').count() == target.host.split('.').count();
        labels
            && self.port == target.port
            && target.path.starts_with(&self.path)
            && self.host.split('.').zip(target.host.split('.')).all(|(glob, label)| glob_matches(glob, label))
    }
}

/// The authority, and the path with its leading slash.
fn split_path(text: &str) -> (&str, &str) {
    text.find('/').map_or((text, ""), |slash| text.split_at(slash))
}

/// Host and port as Go's `net.SplitHostPort` parts them: an IPv6 address keeps its brackets only where no port follows.
fn split_port(authority: &str) -> Option<(&str, &str)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((address, port)),
            None => after.is_empty().then_some((authority, "")),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => None,
        Some(parts) => Some(parts),
        None => Some((authority, "")),
    }
}

/// Go's `filepath.Match` for what a host label may hold: `*` is any run of characters.
fn glob_matches(glob: &str, label: &str) -> bool {
    let Some((first, tail)) = glob.split_once('*') else { return glob == label };
    let Some(mut rest) = label.strip_prefix(first) else { return false };
    let Some((middle, last)) = tail.rsplit_once('*') else { return rest.ends_with(tail) };
    for part in middle.split('*') {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("quay.io", "quay.io")]
    #[case("https://quay.io", "quay.io")]
    #[case("http://quay.io/", "quay.io")]
    #[case("https://index.docker.io/v1/", "index.docker.io")]
    #[case("r.io/v2/team", "r.io/team")]
    #[case("r.io/v1", "r.io/v1")]
    #[case("r.io:5000/a/b", "r.io:5000/a/b")]
    #[case("user@r.io/a?b#c", "r.io/a")]
    #[case("*.r.io", "*.r.io")]
    #[case("[::1]:5000", "[::1]:5000")]
    fn reads_keys(#[case] written: &str, #[case] key: &str) {
        assert_eq!(RegistryPattern::of_key(written).unwrap().0, key);
    }

    #[rstest]
    #[case("")]
    #[case("https://")]
    #[case("/path")]
    #[case("r.io:port")]
    #[case("a b")]
    #[case("r.io\\x")]
    #[case("::1:5000")]
    #[case("[::1")]
    fn leaves_out_what_is_no_registry(#[case] written: &str) {
        assert_eq!(RegistryPattern::of_key(written), None);
    }

    #[rstest]
    #[case::equal("quay.io", "quay.io/a/b", true)]
    #[case::longer_host("quay.io", "quay.io.evil/a", false)]
    #[case::prefixed_host("quay.io", "evil-quay.io/a", false)]
    #[case::sub_domain("quay.io", "a.quay.io/b", false)]
    #[case::port_of_key("quay.io:443", "quay.io/a", false)]
    #[case::port_of_image("quay.io", "quay.io:5000/a", false)]
    #[case::same_port("quay.io:5000", "quay.io:5000/a", true)]
    #[case::path("quay.io/team", "quay.io/team/a", true)]
    #[case::other_path("quay.io/team", "quay.io/other", false)]
    #[case::path_is_a_plain_prefix("quay.io/team", "quay.io/teams/a", true)]
    #[case::one_label("*.quay.io", "a.quay.io/b", true)]
    #[case::a_star_is_one_label("*.quay.io", "a.b.quay.io/c", false)]
    #[case::a_star_is_a_label("*.quay.io", "quay.io/c", false)]
    #[case::inside_a_label("eu-*.r.io", "eu-west.r.io/c", true)]
    #[case::several("*.*.io", "a.b.io/c", true)]
    #[case::star_is_no_port("r.io:*", "r.io:5000/c", false)]
    #[case::ipv6("[::1]:5000", "[::1]:5000/c", true)]
    #[case::ipv6_other_port("[::1]", "[::1]:5000/c", false)]
    fn matches_as_the_kubelet_does(#[case] key: &str, #[case] image: &str, #[case] matches: bool) {
        let found =
            RegistryPattern::of_key(key).is_some_and(|(_, key)| key.matches(&RegistryPattern::parse(image).unwrap()));
        assert_eq!(found, matches);
    }

    #[rstest]
    #[case("*", "", true)]
    #[case("a*b*c", "a-b-b-c", true)]
    #[case("a*a", "a", false)]
    #[case("a**a", "aa", true)]
    #[case("*ab*ab", "ab", false)]
    #[case("*ab*ab", "xabyab", true)]
    fn stars_match_runs(#[case] glob: &str, #[case] label: &str, #[case] matches: bool) {
        assert_eq!(glob_matches(glob, label), matches);
    }

    /// The definition, without regard to speed.
    fn glob_by_definition(glob: &[u8], label: &[u8]) -> bool {
        match (glob.split_first(), label.split_first()) {
            (None, _) => label.is_empty(),
            (Some((b'*', rest)), _) => (0..=label.len()).any(|skip| glob_by_definition(rest, &label[skip..])),
            (Some((byte, rest)), Some((first, after))) => byte == first && glob_by_definition(rest, after),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_their_definition(glob in "[ab*]{0,6}", label in "[ab]{0,8}") {
            prop_assert_eq!(glob_matches(&glob, &label), glob_by_definition(glob.as_bytes(), label.as_bytes()));
        }

        #[test]
        fn no_key_breaks_the_parser(key in ".{0,40}", image in "[a-z]{1,8}\\.io(:[0-9]{1,4})?/[a-z]{1,8}") {
            if let Some((_, pattern)) = RegistryPattern::of_key(&key) {
                pattern.matches(&RegistryPattern::parse(&image).unwrap());
            }
        }

        /// A host without a wildcard gets its credentials and nobody else's.
        #[test]
        fn plain_hosts_match_themselves_alone(a in "[a-c]{1,2}\\.[ab]\\.io", b in "[a-c]{1,2}\\.[ab]\\.io") {
            let (_, key) = RegistryPattern::of_key(&a).unwrap();
            prop_assert_eq!(key.matches(&RegistryPattern::parse(&format!("{b}/x")).unwrap()), a == b);
        }
    }
}
