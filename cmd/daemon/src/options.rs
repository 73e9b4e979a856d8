//! Flags, and the configuration that they change.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use imagevol_api::config::{DEFAULT_PATH, ImageBackend, ImagevolConfiguration};

/// Mounts OCI images and artifacts into pods.
#[derive(Debug, Parser)]
#[command(name = "imagevold", version, about, max_term_width = 100)]
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
    /// Log more: 2 for each step, 4 for debugging
    #[arg(short = 'v', global = true, value_name = "LEVEL")]
    verbosity: Option<u8>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the state directory while no daemon runs: rows, files, sizes, digests, mounts
    Fsck,
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
            field.clone_from(flag.as_ref().unwrap_or(&field.clone()));
        }
        config.root_dir = self.root_dir.clone().or(config.root_dir);
        config.socket = self.socket.clone().or(config.socket);
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
