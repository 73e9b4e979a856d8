//! `certs.d/<host>/hosts.toml`, in containerd's form (containerd, `docs/hosts.md`).

mod file;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imagevol_api::oci::Reference;

pub use file::{Capabilities, HostEntry, HostsFile};

/// Largest file read from the hosts directory; a bundle of every public root has 250 KiB.
const FILE_MAX: u64 = 1024 * 1024;
/// The directory for registries that have none of their own.
const DEFAULT_DIR: &str = "_default";

/// Why the configuration of a registry host cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// A file is larger than 1 MiB.
    #[error("{} is larger than {FILE_MAX} bytes", path.display())]
    TooLarge {
        /// Which one.
        path: PathBuf,
    },
    /// The file is no TOML.
    #[error("{} is no valid TOML", path.display())]
    Syntax {
        /// Which one.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The key has no meaning in `hosts.toml`.
    #[error("{}: unknown key {key}", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key with its table.
        key: String,
    },
    /// containerd knows the key, imagevol does not yet.
    #[error("{}: {key} is not supported yet", path.display())]
    NotSupported {
        /// Which file.
        path: PathBuf,
        /// The key with its table.
        key: String,
    },
    /// The key's value has another type, or is none of the values allowed.
    #[error("{}: {key} must be {expected}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// The key with its table.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A certificate file holds no certificate.
    #[error("{} holds no valid PEM certificate", path.display())]
    Certificate {
        /// Which one.
        path: PathBuf,
    },
    /// The registry's name makes no URL.
    #[error("registry {registry:?} makes no valid URL")]
    Registry {
        /// The name.
        registry: String,
    },
    /// The HTTP client refuses its configuration.
    #[error("the HTTP client for registry {registry} cannot be made")]
    Client {
        /// For which registry.
        registry: String,
        /// Why not.
        source: Arc<reqwest::Error>,
    },
}

/// Reads what `dir` says of a reference's registry; `None` if it says nothing. Blocking.
pub(crate) fn read(dir: &Path, reference: &Reference) -> Result<Option<HostsFile>, ConfigError> {
    for name in directories(reference.domain()) {
        let host_dir = dir.join(name);
        if host_dir.is_dir() {
            return read_dir(&host_dir).map(Some);
        }
    }
    Ok(None)
}

/// Reads a file of the hosts directory whole. Blocking.
pub(crate) fn read_capped(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let failed = |source: io::Error| ConfigError::Read { path: path.to_owned(), source: Arc::new(source) };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_MAX) {
        return Ok(bytes);
    }
    Err(ConfigError::TooLarge { path: path.to_owned() })
}

/// Names to look for, in order: `host_port_`, `host:port`, `_default`.
fn directories(domain: &str) -> Vec<String> {
    let mut names = Vec::new();
    // The colon of an IPv6 address is no port's.
    if let Some((host, port)) = domain.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([domain.to_owned(), DEFAULT_DIR.to_owned()]);
    names
}

fn read_dir(dir: &Path) -> Result<HostsFile, ConfigError> {
    let path = dir.join("hosts.toml");
    if !path.try_exists().map_err(|source| ConfigError::Read { path: path.clone(), source: Arc::new(source) })? {
        return read_certificates(dir);
    }
    let bytes = read_capped(&path)?;
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::Value {
        path: path.clone(),
        key: "the file".to_owned(),
        expected: "UTF-8 text",
    })?;
    HostsFile::parse(&path, &text)
}

/// A directory without `hosts.toml` is in Docker's older form: `*.crt` are trusted, `*.cert` and `*.key` are a client's.
fn read_certificates(dir: &Path) -> Result<HostsFile, ConfigError> {
    let failed = |source: io::Error| ConfigError::Read { path: dir.to_owned(), source: Arc::new(source) };
    let mut hosts = HostsFile::default();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.extension().and_then(std::ffi::OsStr::to_str) {
            Some("crt") => hosts.server.ca.push(path),
            Some("cert" | "key") => {
                return Err(ConfigError::NotSupported { path, key: "a client certificate".to_owned() });
            }
            _ => {}
        }
    }
    hosts.server.ca.sort();
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("docker.io", &["docker.io", "_default"])]
    #[case("localhost:5000", &["localhost_5000_", "localhost:5000", "_default"])]
    #[case("[::1]:5000", &["[::1]_5000_", "[::1]:5000", "_default"])]
    #[case("[::1]", &["[::1]", "_default"])]
    fn looks_where_containerd_looks(#[case] domain: &str, #[case] names: &[&str]) {
        assert_eq!(directories(domain), names);
    }

    #[test]
    fn the_first_directory_that_exists_decides() {
        let dir = tempfile::tempdir().unwrap();
        let reference = Reference::parse("localhost:5000/a").unwrap();
        assert_eq!(read(dir.path(), &reference).unwrap(), None);
        for (name, server) in [("_default", "d"), ("localhost:5000", "plain"), ("localhost_5000_", "underscore")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), format!("server = \"https://{server}\"")).unwrap();
            let hosts = read(dir.path(), &reference).unwrap().unwrap();
            assert_eq!(hosts.server.url.unwrap().host_str(), Some(server));
        }
    }

    #[test]
    fn reads_docker_style_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("r.io");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("ca.crt"), "x").unwrap();
        let reference = Reference::parse("r.io/a").unwrap();
        assert_eq!(read(dir.path(), &reference).unwrap().unwrap().server.ca, [host.join("ca.crt")]);
        std::fs::write(host.join("client.key"), "x").unwrap();
        assert!(matches!(read(dir.path(), &reference), Err(ConfigError::NotSupported { .. })));
    }
}
