//! The text of `hosts.toml` as a closed type.

use std::path::{Path, PathBuf};

use reqwest::Url;
use toml::{Table, Value};

use super::ConfigError;

/// What a host may be asked for; a host without the key may be asked for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by digest.
    pub pull: bool,
    /// Digests by tag.
    pub resolve: bool,
}

/// One host: the server, or a mirror.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostEntry {
    /// Base URL whose path ends in `/v2/`; for the server, `None` is the registry that the reference names.
    pub url: Option<Url>,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// Files with certificates to trust besides those of the system.
    pub ca: Vec<PathBuf>,
    /// Trust any certificate.
    pub skip_verify: bool,
}

/// A parsed `hosts.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostsFile {
    /// Mirrors, in the order in which they are asked.
    pub mirrors: Vec<HostEntry>,
    /// Who is asked last.
    pub server: HostEntry,
}

/// Where an entry is read from, for errors.
struct Section<'f> {
    path: &'f Path,
    prefix: String,
}

// === impl Capabilities ===

impl Default for Capabilities {
    fn default() -> Self {
        Self { pull: true, resolve: true }
    }
}

// === impl HostsFile ===

impl HostsFile {
    /// Parses `text`. `path` stands in errors, and its directory before relative names of certificates.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table: Table = toml::from_str(text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let root = Section { path, prefix: String::new() };
        let mut hosts = Self::default();
        for (key, value) in &table {
            match key.as_str() {
                "server" => hosts.server.url = Some(root.url(key, root.string(key, value)?)?),
                "host" => hosts.mirrors = parse_mirrors(&root, value)?,
                _ => root.set(&mut hosts.server, key, value)?,
            }
        }
        Ok(hosts)
    }
}

fn parse_mirrors(root: &Section<'_>, value: &Value) -> Result<Vec<HostEntry>, ConfigError> {
    let hosts = value.as_table().ok_or_else(|| root.value("host", "tables named by URL"))?;
    hosts.iter().map(|(url, value)| parse_mirror(root.path, url, value)).collect()
}

fn parse_mirror(path: &Path, url: &str, value: &Value) -> Result<HostEntry, ConfigError> {
    let section = Section { path, prefix: format!("host.{url:?}.") };
    let root = Section { path, prefix: String::new() };
    let table = value.as_table().ok_or_else(|| root.value("host", "tables named by URL"))?;
    let mut entry = HostEntry { url: Some(root.url("host", url)?), ..HostEntry::default() };
    for (key, value) in table {
        section.set(&mut entry, key, value)?;
    }
    Ok(entry)
}

// === impl Section ===

impl Section<'_> {
    fn set(&self, entry: &mut HostEntry, key: &str, value: &Value) -> Result<(), ConfigError> {
        match key {
            "capabilities" => entry.capabilities = self.capabilities(key, value)?,
            "ca" => entry.ca = self.paths(key, value)?,
            "skip_verify" => entry.skip_verify = self.boolean(key, value)?,
            // What it says is the default.
            "override_path" if value.as_bool() == Some(false) => {}
            "client" | "header" | "override_path" | "dial_timeout" => {
                return Err(ConfigError::NotSupported { path: self.path.to_owned(), key: self.key(key) });
            }
            _ => return Err(ConfigError::UnknownKey { path: self.path.to_owned(), key: self.key(key) }),
        }
        Ok(())
    }

    fn capabilities(&self, key: &str, value: &Value) -> Result<Capabilities, ConfigError> {
        let wrong = || self.value(key, "a list of \"pull\", \"resolve\" and \"push\"");
        let mut capabilities = Capabilities { pull: false, resolve: false };
        for name in value.as_array().ok_or_else(wrong)? {
            match name.as_str() {
                Some("pull") => capabilities.pull = true,
                Some("resolve") => capabilities.resolve = true,
                // Nothing is ever pushed.
                Some("push") => {}
                _ => return Err(wrong()),
            }
        }
        Ok(capabilities)
    }

    fn paths(&self, key: &str, value: &Value) -> Result<Vec<PathBuf>, ConfigError> {
        let wrong = || self.value(key, "a file name or a list of file names");
        let base = self.path.parent().unwrap_or(Path::new("/"));
        let path = |value: &Value| value.as_str().map(|name| base.join(name)).ok_or_else(wrong);
        match value.as_array() {
            Some(values) => values.iter().map(path).collect(),
            None => Ok(vec![path(value)?]),
        }
    }

    fn boolean(&self, key: &str, value: &Value) -> Result<bool, ConfigError> {
        value.as_bool().ok_or_else(|| self.value(key, "true or false"))
    }

    fn string<'v>(&self, key: &str, value: &'v Value) -> Result<&'v str, ConfigError> {
        value.as_str().ok_or_else(|| self.value(key, "a string"))
    }

    /// A URL without a scheme is `https`; `/v2` is added to a path that does not end in it.
    fn url(&self, key: &str, text: &str) -> Result<Url, ConfigError> {
        let wrong = || self.value(key, "an http or https URL without user, query and fragment");
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url = Url::parse(&with_scheme).map_err(|_| wrong())?;
        let plain = url.username().is_empty() && url.password().is_none();
        let bare = url.query().is_none() && url.fragment().is_none();
        if !matches!(url.scheme(), "http" | "https") || !plain || !bare {
            return Err(wrong());
        }
        let path = url.path().trim_end_matches('/');
        let path = if path.ends_with("/v2") { format!("{path}/") } else { format!("{path}/v2/") };
        url.set_path(&path);
        Ok(url)
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn value(&self, key: &str, expected: &'static str) -> ConfigError {
        ConfigError::Value { path: self.path.to_owned(), key: self.key(key), expected }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn parse(text: &str) -> Result<HostsFile, ConfigError> {
        HostsFile::parse(Path::new("/etc/certs.d/r.io/hosts.toml"), text)
    }

    #[test]
    fn keeps_the_order_of_the_file() {
        let text = "server = \"https://r.io\"\nskip_verify = true\n\
             [host.\"https://z.example\"]\ncapabilities = [\"pull\", \"push\"]\nca = \"z.crt\"\n\
             [host.\"http://a.example:5000/cache\"]\nca = [\"/a.crt\", \"b.crt\"]\n";
        let hosts = parse(text).unwrap();
        let urls: Vec<_> = hosts.mirrors.iter().map(|host| host.url.as_ref().unwrap().as_str()).collect();
        assert_eq!(urls, ["https://z.example/v2/", "http://a.example:5000/cache/v2/"]);
        assert_eq!(hosts.mirrors[0].capabilities, Capabilities { pull: true, resolve: false });
        assert_eq!(hosts.mirrors[0].ca, [PathBuf::from("/etc/certs.d/r.io/z.crt")]);
        assert_eq!(hosts.mirrors[1].ca, [PathBuf::from("/a.crt"), PathBuf::from("/etc/certs.d/r.io/b.crt")]);
        assert!(hosts.server.skip_verify);
    }

    #[rstest]
    #[case("r.io", "https://r.io/v2/")]
    #[case("http://r.io:80/v2", "http://r.io/v2/")]
    #[case("https://r.io/v2/", "https://r.io/v2/")]
    #[case("https://[::1]:5000", "https://[::1]:5000/v2/")]
    fn completes_urls(#[case] written: &str, #[case] url: &str) {
        assert_eq!(parse(&format!("server = {written:?}")).unwrap().server.url.unwrap().as_str(), url);
    }

    #[rstest]
    #[case("[host.\"https://m\"]\nclient = \"x\"", "host.\"https://m\".client is not supported yet")]
    #[case("[host.\"https://m\".header]\nx = \"y\"", "host.\"https://m\".header is not supported yet")]
    #[case("override_path = true", "override_path is not supported yet")]
    #[case("sever = \"x\"", "unknown key sever")]
    #[case("skip_verify = \"yes\"", "skip_verify must be true or false")]
    #[case("capabilities = [\"read\"]", "capabilities must be a list of \"pull\", \"resolve\" and \"push\"")]
    #[case("server = \"ftp://x\"", "server must be an http or https URL without user, query and fragment")]
    #[case("server = \"https://u:p@x\"", "server must be an http or https URL without user, query and fragment")]
    #[case("server = ", "hosts.toml is no valid TOML")]
    fn names_file_and_key(#[case] text: &str, #[case] complaint: &str) {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.starts_with("/etc/certs.d/r.io/hosts.toml"), "{error}");
        assert!(error.ends_with(complaint), "{error}");
    }

    #[test]
    fn override_path_false_is_the_default() {
        assert_eq!(parse("override_path = false").unwrap(), HostsFile::default());
    }

    proptest! {
        #[test]
        fn never_panics(text in "(server|host|ca|\\[host\\.|\"https://|\"|\\]|\\[|=| |\n|[a-z0-9./:@]){0,40}") {
            drop(parse(&text));
        }
    }
}
