//! `version`.

use imagevol_api::daemon;
use serde::Serialize;

use crate::cli::Version;
use crate::error::Result;
use crate::session::{self, Session};
use crate::text;

/// Ours.
const CLIENT: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_version: Option<daemon::Version>,
}

/// Prints both versions; ours also where no daemon answers.
pub(super) async fn run(session: &Session, arguments: &Version) -> Result<()> {
    let answer = if arguments.client { Ok(None) } else { session.client.get("/version").await.map(Some) };
    let (daemon_version, failure) = match answer {
        Ok(version) => (version, Ok(())),
        Err(error) => (None, Err(error.into())),
    };
    let versions = Versions { client_version: CLIENT, daemon_version };
    match arguments.output {
        Some(format) => session::print(&format.render(&versions)?)?,
        None => session::print(&in_lines(&versions))?,
    }
    failure
}

fn in_lines(versions: &Versions) -> String {
    let mut lines = format!("Client Version: {}\n", versions.client_version);
    if let Some(daemon) = &versions.daemon_version {
        text::append(
            &mut lines,
            format_args!("Daemon Version: {}\nKernel: {}\n", text::line(&daemon.version), text::line(&daemon.kernel)),
        );
    }
    lines
}
