//! Credentials that the node has for its pods: docker configuration files (Kubernetes, `pkg/credentialprovider/provider.go`),
//! then what its credential providers know.

use imagevol_base::blocking;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::keyring::{CredentialSource, DockerConfig, DockerConfigError, Keyring, MatchedCredential};
use crate::providers::{Behalf, CredentialProviders};

/// How long a read configuration is used (Kubernetes, `defaultDockerConfigProvider`).
const CACHE_FOR: Duration = Duration::from_mins(5);
/// Largest file that is read: what Kubernetes takes as a secret (`MaxSecretSize`).
const FILE_SIZE_MAX: u64 = 1 << 20;

/// Where docker configuration files are looked for: the first that can be read counts.
#[derive(Debug, Clone, Default)]
pub struct NodeConfigPaths {
    /// Directories that may hold a `config.json`, in order.
    pub config_json_dirs: Vec<PathBuf>,
    /// Directories that may hold the older `.dockercfg`, in order; looked at when no `config.json` is found.
    pub dockercfg_dirs: Vec<PathBuf>,
}

/// The node's credentials. Docker configuration files are read again every five minutes.
#[derive(Debug)]
pub struct NodeCredentials {
    paths: Arc<NodeConfigPaths>,
    providers: CredentialProviders,
    cache: Mutex<Option<(Instant, Arc<Keyring>)>>,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    ConfigJson,
    DockerCfg,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("failed to read")]
    Io(#[from] io::Error),
    #[error("not a regular file of at most {FILE_SIZE_MAX} bytes")]
    NotAFile,
    #[error(transparent)]
    Content(#[from] DockerConfigError),
}

// === impl NodeConfigPaths ===

impl NodeConfigPaths {
    /// The kubelet's order: its root directory, the working directory, the home directory, `/`.
    pub fn of_kubelet(root_dir: &Path, working_dir: Option<&Path>, home: Option<&Path>) -> Self {
        let first = || [Some(root_dir.to_owned()), working_dir.map(Path::to_owned)].into_iter().flatten();
        let docker = home.map(|home| home.join(".docker")).into_iter().chain([PathBuf::from("/.docker")]);
        let legacy = home.map(Path::to_owned).into_iter().chain([PathBuf::from("/")]);
        Self { config_json_dirs: first().chain(docker).collect(), dockercfg_dirs: first().chain(legacy).collect() }
    }

    fn candidates(&self) -> impl Iterator<Item = (PathBuf, Format)> {
        let json = self.config_json_dirs.iter().map(|dir| (dir.join("config.json"), Format::ConfigJson));
        let legacy = self.dockercfg_dirs.iter().map(|dir| (dir.join(".dockercfg"), Format::DockerCfg));
        json.chain(legacy)
    }
}

// === impl NodeCredentials ===

impl NodeCredentials {
    /// Reads from `paths`, and asks `providers`, when asked.
    pub fn new(paths: NodeConfigPaths, providers: CredentialProviders) -> Self {
        Self { paths: Arc::new(paths), providers, cache: Mutex::default() }
    }

    /// What the node has for `repository` (`domain/path`, normalized) when it pulls on its own behalf, in the order in which it
    /// is to be tried.
    pub async fn for_node(&self, repository: &str) -> Vec<MatchedCredential> {
        self.lookup(repository, Behalf::Node).await
    }

    /// The same on behalf of a pod.
    pub(crate) async fn lookup(&self, repository: &str, behalf: Behalf<'_>) -> Vec<MatchedCredential> {
        let mut matches = self.keyring().await.lookup(repository);
        matches.extend(self.providers.keyring(repository, behalf).await.lookup(repository));
        matches
    }

    /// What the files say. One that cannot be used is logged, and the next one is tried, as in the kubelet.
    async fn keyring(&self) -> Arc<Keyring> {
        if let Some(keyring) = self.cached(Instant::now()) {
            return keyring;
        }
        let paths = Arc::clone(&self.paths);
        let keyring = Arc::new(blocking(move || read_first(&paths)).await);
        *self.lock() = Some((Instant::now(), Arc::clone(&keyring)));
        keyring
    }

    fn cached(&self, now: Instant) -> Option<Arc<Keyring>> {
        let cache = self.lock();
        let (read_at, keyring) = cache.as_ref()?;
        (now.saturating_duration_since(*read_at) < CACHE_FOR).then(|| Arc::clone(keyring))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<Keyring>)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocking.
fn read_first(paths: &NodeConfigPaths) -> Keyring {
    let mut keyring = Keyring::default();
    for (path, format) in paths.candidates() {
        match read(&path, format) {
            Ok(config) => {
                keyring.add(&CredentialSource::Node, config);
                return keyring;
            }
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, error = crate::text::with_causes(&error), "docker configuration is not used");
            }
        }
    }
    keyring
}

/// Blocking. Looks at the file's type before it opens it: opening a FIFO would wait for a writer.
fn read(path: &Path, format: Format) -> Result<DockerConfig, ReadError> {
    let metadata = path.metadata()?;
    if !metadata.is_file() || metadata.len() > FILE_SIZE_MAX {
        return Err(ReadError::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    Ok(match format {
        Format::ConfigJson => DockerConfig::from_config_json(&bytes)?,
        Format::DockerCfg => DockerConfig::from_dockercfg(&bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
    }

    fn new(paths: NodeConfigPaths) -> NodeCredentials {
        NodeCredentials::new(paths, CredentialProviders::default())
    }

    async fn user(credentials: &NodeCredentials) -> Option<String> {
        credentials.for_node("r.io/a").await.first().map(|found| found.auth.username.clone())
    }

    fn json(user: &str) -> String {
        format!(r#"{{"auths":{{"r.io":{{"username":"{user}"}}}}}}"#)
    }

    #[test]
    fn looks_where_the_kubelet_looks() {
        let paths =
            NodeConfigPaths::of_kubelet(Path::new("/root-dir"), Some(Path::new("/cwd")), Some(Path::new("/home")));
        let all: Vec<_> = paths.candidates().map(|(path, _)| path.display().to_string()).collect();
        let json = ["/root-dir/config.json", "/cwd/config.json", "/home/.docker/config.json", "/.docker/config.json"];
        let legacy = ["/root-dir/.dockercfg", "/cwd/.dockercfg", "/home/.dockercfg", "/.dockercfg"];
        assert_eq!(all, [json, legacy].concat());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_usable_file_counts_for_five_minutes() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        let dirs = vec![a.clone(), b.clone()];
        let paths = NodeConfigPaths { config_json_dirs: dirs.clone(), dockercfg_dirs: dirs };
        let credentials = new(paths);
        write(&a, "config.json", "broken");
        write(&a, ".dockercfg", r#"{"r.io":{"username":"legacy"}}"#);
        write(&b, "config.json", &json("second"));
        assert_eq!(user(&credentials).await.as_deref(), Some("second"));

        write(&a, "config.json", &json("first"));
        tokio::time::advance(Duration::from_secs(299)).await;
        assert_eq!(user(&credentials).await.as_deref(), Some("second"), "cached");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(user(&credentials).await.as_deref(), Some("first"));
    }

    #[tokio::test]
    async fn the_legacy_file_counts_where_no_other_is() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = vec![dir.path().to_owned()];
        write(dir.path(), ".dockercfg", r#"{"r.io":{"username":"legacy"}}"#);
        let paths = NodeConfigPaths { config_json_dirs: dirs.clone(), dockercfg_dirs: dirs };
        assert_eq!(user(&new(paths)).await.as_deref(), Some("legacy"));
    }

    #[tokio::test]
    async fn a_fifo_or_a_directory_does_not_hold_it_up() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config.json")).unwrap();
        let status = std::process::Command::new("mkfifo").arg(dir.path().join(".dockercfg")).status().unwrap();
        assert!(status.success());
        let dirs = vec![dir.path().to_owned()];
        let paths = NodeConfigPaths { config_json_dirs: dirs.clone(), dockercfg_dirs: dirs };
        assert_eq!(user(&new(paths)).await, None);
    }
}
