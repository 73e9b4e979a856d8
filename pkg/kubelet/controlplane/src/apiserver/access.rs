//! Credentials for the API server, from files to a client.

use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderValue;
use http::header::USER_AGENT;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{AuthError, ConfigExt as _};
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};
use tower::ServiceBuilder;

/// Who asks, as audit logs and the API server's metrics show it.
const AGENT: &str = concat!("imagevold/", env!("CARGO_PKG_VERSION"));
/// For a connection to come about (client-go `net.Dialer`, `rest/config.go`: 30 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// After how long a silent connection is asked whether its peer still is there (client-go's dialer: 30 s).
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Between further such questions (client-go closes a connection 15 s after an unanswered ping).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered questions after which the connection is dead: with the interval, 15 s.
const KEEPALIVE_RETRIES: u32 = 3;
/// For sent bytes to be acknowledged (`TCP_USER_TIMEOUT`, tcp(7)), in place of the kernel's quarter of an hour: 30 s and 15 s, as above.
const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// How to reach the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// As a pod does: `KUBERNETES_SERVICE_HOST` and the files of its service account.
    InCluster,
    /// As this kubeconfig file says, in its current context.
    Kubeconfig(PathBuf),
}

/// Why no client can be made. Texts hold nothing of the files' content.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no service account to be found, or not all of it.
    #[error("cannot use this pod's service account")]
    InCluster(#[source] Box<dyn Error + Send + Sync>),
    /// The kubeconfig could not be read.
    #[error("cannot read the kubeconfig {path:?}")]
    Read {
        /// The file, or one that it names.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kubeconfig is no YAML, or not of its form. Where, not what: it holds keys.
    #[error("cannot understand the kubeconfig {path:?}, near line {line}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where the trouble is; 0 if nobody knows.
        line: u64,
    },
    /// The kubeconfig names something that is not there or cannot be used.
    #[error("cannot use the kubeconfig {path:?}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The kubeconfig wants a proxy.
    #[error("the kubeconfig {path:?} names a proxy (proxy-url), which is not supported")]
    Proxy {
        /// The file.
        path: PathBuf,
    },
    /// The program that the kubeconfig names for credentials gave none.
    #[error("the credential program of the kubeconfig gave no credentials: {problem}")]
    Plugin {
        /// What went wrong, without what it printed.
        problem: String,
    },
    /// Certificates or keys cannot be used.
    #[error("cannot use the credentials for the API server")]
    Credentials(#[source] Box<dyn Error + Send + Sync>),
}

/// A client, and the files that it was made from.
pub(super) struct Built {
    pub(super) client: Client,
    pub(super) made_from: Stamps,
}

/// What files were when they were read. Files that the client itself reads again every minute (tokens, the CA of a service account) are not among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Device, inode, change time, size: a symlink that points elsewhere changes them, as the kubelet's `kubelet-client-current.pem` does.
type Stamp = (u64, u64, i64, i64, u64);

// === impl Access ===

impl From<Option<PathBuf>> for Access {
    /// As the configuration field `kubernetes.kubeconfig` means it.
    fn from(kubeconfig: Option<PathBuf>) -> Self {
        kubeconfig.map_or(Self::InCluster, Self::Kubeconfig)
    }
}

impl Access {
    /// Reads everything and makes a client; sends nothing. Blocks; to be called where a tokio runtime is entered.
    pub(super) fn build(&self) -> Result<Built, ConnectError> {
        let (config, made_from) = match self {
            Self::InCluster => (in_cluster()?, Stamps::default()),
            Self::Kubeconfig(path) => from_kubeconfig(path)?,
        };
        let client = client(config).map_err(refused_credentials)?;
        Ok(Built { client, made_from })
    }
}

// === impl Stamps ===

impl Stamps {
    fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect())
    }

    /// Whether any of the files is another one now. Blocks.
    pub(super) fn have_changed(&self) -> bool {
        self.0.iter().any(|(path, before)| stamp(path) != *before)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = path.metadata().ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec(), found.size()))
}

fn in_cluster() -> Result<Config, ConnectError> {
    Config::incluster().map_err(|error| ConnectError::InCluster(error.into()))
}

fn from_kubeconfig(path: &Path) -> Result<(Config, Stamps), ConnectError> {
    let unusable = |error| refused_kubeconfig(path, error);
    // Looked at before they are read: a change in between is seen as one.
    let itself = stamp(path);
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    let mut stamps = Stamps::of(files_named_in(&kubeconfig));
    stamps.0.push((path.to_owned(), itself));
    let proxies: Vec<_> =
        kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref()?.proxy_url.clone()).collect();
    let current_context = KubeConfigOptions::default();
    let loading = Config::from_custom_kubeconfig(kubeconfig, &current_context);
    let config = tokio::runtime::Handle::current().block_on(loading).map_err(unusable)?;
    // One from the environment is meant for others: a node reaches its control plane without.
    let named = config
        .proxy_url
        .as_ref()
        .is_some_and(|url| proxies.iter().any(|proxy| proxy.parse().ok().as_ref() == Some(url)));
    if named { Err(ConnectError::Proxy { path: path.to_owned() }) } else { Ok((config, stamps)) }
}

fn files_named_in(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let authorities =
        kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref()?.certificate_authority.clone());
    let users = kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref());
    let identities = users.flat_map(|user| [user.client_certificate.clone(), user.client_key.clone()]).flatten();
    authorities.chain(identities).map(PathBuf::from).collect()
}

/// The library's own stack, less what does not suit a daemon: it retries inside a request (here whoever asks decides), and logs each failure as an error.
fn client(mut config: Config) -> kube::Result<Client> {
    config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
    let https = config.rustls_https_connector_with_connector(connector())?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace))
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    // Whether it is https is for the layer above to say.
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(USER_TIMEOUT));
    connector
}

#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's enum: only these quote what they read")]
fn refused_kubeconfig(path: &Path, error: KubeconfigError) -> ConnectError {
    match error {
        KubeconfigError::ReadConfig(source, path) => ConnectError::Read { path, source },
        KubeconfigError::Parse(error) => {
            ConnectError::Parse { path: path.to_owned(), line: error.location().map_or(0, |at| at.line()) }
        }
        other => ConnectError::Kubeconfig { path: path.to_owned(), source: other.into() },
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's enum: only this one is told apart")]
fn refused_credentials(error: kube::Error) -> ConnectError {
    match error {
        kube::Error::Auth(error) => ConnectError::Plugin { problem: plugin_problem(&error) },
        other => ConnectError::Credentials(other.into()),
    }
}

/// What went wrong with a program for credentials, or with a token: never what it printed, which may be the token.
#[expect(clippy::wildcard_enum_match_arm, reason = "another crate's enum: only these quote nothing")]
pub(super) fn plugin_problem(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(error) => format!("cannot be started: {error}"),
        AuthError::AuthExecRun { cmd, out } => format!("{cmd:?} ended with {}", out.status),
        AuthError::AuthExecParse(_) => "its answer cannot be understood".to_owned(),
        AuthError::ExecPluginFailed => "its answer has no status".to_owned(),
        AuthError::MissingCommand => "no command is named".to_owned(),
        AuthError::ReadTokenFile(error, path) => format!("cannot read the token {}: {error}", path.display()),
        _ => "its credentials cannot be used".to_owned(),
    }
}

#[cfg(test)]
mod tests;
