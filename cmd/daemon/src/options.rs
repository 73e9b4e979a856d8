//! Flags, and the configuration that they change.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use imagevol_api::config::{DEFAULT_PATH, ImageBackend, ImagevolConfiguration};

use crate::webhook::WebhookOptions;

/// Mounts OCI images and artifacts into pods.
#[derive(Debug, Parser)]
#[command(name = "imagevold", version, max_term_width = 100)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Configuration file of kind ImagevolConfiguration [default: /etc/imagevol/config.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where images, layers and the database are kept
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where sockets and staging mounts are
    #[arg(long, global = true, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The kubelet-shaped directory under which pods' volumes are mounted
    #[arg(long, global = true, value_name = "DIR")]
    root_dir: Option<PathBuf>,
    /// The directory that is watched for manifests
    #[arg(long, global = true, value_name = "DIR")]
    manifest_dir: Option<PathBuf>,
    /// The socket of the local API
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where /metrics, /livez and /readyz are served; port 0 picks a free one
    #[arg(long, global = true, value_name = "ADDRESS")]
    metrics_address: Option<SocketAddr>,
    /// How images become mounts
    #[arg(long, global = true, value_name = "BACKEND", value_parser = ["auto", "erofs", "erofs-loop"])]
    image_backend: Option<String>,
    /// The name of this node in pods and events
    #[arg(long, global = true, value_name = "NAME")]
    node_name: Option<String>,
    /// Log more: 4 for debugging, 6 for everything
    #[arg(short = 'v', global = true, value_name = "LEVEL")]
    verbosity: Option<u8>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the state directory while no daemon runs: rows, files, sizes, digests, mounts
    Fsck {
        /// Repair what can be repaired
        #[arg(long)]
        repair: bool,
    },
    /// Serve the webhook that turns volumes[].image into CSI volumes
    Webhook(WebhookOptions),
}

// === impl Options ===

impl Options {
    /// The configuration file, with what the flags change. Without `--config`, a missing default file means defaults.
    pub(crate) fn configuration(&self) -> anyhow::Result<ImagevolConfiguration> {
        let mut config = self.file()?;
        let paths = [
            (&self.state_dir, &mut config.state_dir),
            (&self.run_dir, &mut config.run_dir),
            (&self.manifest_dir, &mut config.static_pod_path),
        ];
        for (flag, field) in paths {
            if let Some(path) = absolute(flag.as_deref())? {
                *field = path;
            }
        }
        config.root_dir = absolute(self.root_dir.as_deref())?.or(config.root_dir);
        config.socket = absolute(self.socket.as_deref())?.or(config.socket);
        config.node_name = self.node_name.clone().or(config.node_name);
        config.metrics_address = self.metrics_address.unwrap_or(config.metrics_address);
        config.logging.verbosity = self.verbosity.unwrap_or(config.logging.verbosity);
        if let Some(backend) = &self.image_backend {
            config.image_backend = backend.parse::<ImageBackend>()?;
        }
        config.validate()?;
        Ok(config)
    }

    fn file(&self) -> anyhow::Result<ImagevolConfiguration> {
        let path = self.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && self.config.is_none() => {
                return Ok(ImagevolConfiguration::default());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        ImagevolConfiguration::parse(&text).with_context(|| format!("configuration file {}", path.display()))
    }
}

/// A flag may be relative to where the command is typed; a configuration file may not.
fn absolute(flag: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("path {}", path.display()));
    flag.map(absolute).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(arguments: &[&str]) -> anyhow::Result<ImagevolConfiguration> {
        Options::parse_from([&["imagevold"], arguments].concat()).configuration()
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let head = "apiVersion: imagevol.dev/v1alpha1\nkind: ImagevolConfiguration\n";
        std::fs::write(file.path(), format!("{head}{content}")).unwrap();
        file
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = file("stateDir: /from/file\nrunDir: /run/file\nimageBackend: erofs\n");
        let path = file.path().to_str().unwrap();
        let config =
            configuration(&["--config", path, "--state-dir", "/from/flag", "--image-backend=erofs-loop", "-v", "4"]);
        let config = config.unwrap();
        assert_eq!(config.state_dir, Path::new("/from/flag"));
        assert_eq!(config.run_dir, Path::new("/run/file"));
        assert_eq!(config.root_dir(), Path::new("/from/flag/kubelet"));
        assert_eq!(config.socket(), Path::new("/run/file/imagevold.sock"));
        assert_eq!(config.static_pod_path, ImagevolConfiguration::default().static_pod_path);
        assert_eq!((config.image_backend, config.logging.verbosity), (ImageBackend::ErofsLoop, 4));
    }

    #[test]
    fn a_relative_flag_means_the_working_directory() {
        let file = file("");
        let config = configuration(&["--config", file.path().to_str().unwrap(), "--state-dir", "state"]).unwrap();
        assert_eq!(config.state_dir, std::env::current_dir().unwrap().join("state"));
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there_and_right() {
        assert!(configuration(&["--config", "/nonexistent.yaml"]).is_err());
        let file = file("noSuchField: 1\n");
        let error = configuration(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        assert!(format!("{error:#}").contains("noSuchField"), "{error:#}");
    }
}
