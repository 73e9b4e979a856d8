//! What every command has at hand: the daemon, the namespace, the clock, and the terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;

use crate::client::Client;
use crate::error::{CommandError, Paint, Result};
use crate::text::{self, Clock};

/// One run of the command line.
#[derive(Debug)]
pub(crate) struct Session {
    /// The daemon.
    pub client: Client,
    /// `--namespace`.
    pub namespace: String,
    /// When and where the output is read.
    pub clock: Clock,
}

// === impl Session ===

impl Session {
    /// A session with the daemon at `socket`; says nothing to it yet.
    pub(crate) fn new(socket: PathBuf, namespace: String) -> Self {
        Self { client: Client::new(socket), namespace, clock: Clock::system() }
    }

    /// The API path of a namespaced object or list.
    pub(crate) fn path(&self, resource: &str, name: Option<&str>) -> String {
        path_in(&self.namespace, resource, name)
    }
}

/// `/api/v1/namespaces/NS/RESOURCE[/NAME]`.
pub(crate) fn path_in(namespace: &str, resource: &str, name: Option<&str>) -> String {
    let namespace = text::url_part(namespace);
    match name {
        Some(name) => format!("/api/v1/namespaces/{namespace}/{resource}/{}", text::url_part(name)),
        None => format!("/api/v1/namespaces/{namespace}/{resource}"),
    }
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CommandError::Output)
}

/// Writes a remark, no error, to standard error.
pub(crate) fn note(text: &str) -> Result<()> {
    let mut stderr = io::stderr().lock();
    writeln!(stderr, "{text}").map_err(CommandError::Output)
}

/// Writes an error to standard error.
pub(crate) fn report(error: &CommandError) {
    let report = error.report(paint());
    // Where standard error cannot be written, the exit code is all that is left to say.
    io::stderr().lock().write_all(report.as_bytes()).unwrap_or_default();
}

/// Colours on terminals only, and not where <https://no-color.org> or a dumb terminal asks for none.
fn paint() -> Paint {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if io::stderr().is_terminal() && !set("NO_COLOR") && !dumb { Paint::Colour } else { Paint::Plain }
}

/// Runs what is to be done for each of several objects: errors are printed as they come, and the others go on.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    any: bool,
}

// === impl Failures ===

impl Failures {
    /// Reports an error; returns the value otherwise.
    pub(crate) fn sort<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.any = true;
                report(&error);
                None
            }
        }
    }

    /// Reports a message that is an error block already.
    pub(crate) fn block(&mut self, message: &str) -> Result<()> {
        self.any = true;
        note(text::block(message.trim_end()).as_ref())
    }

    /// The command's result.
    pub(crate) fn result(self) -> Result<()> {
        if self.any { Err(CommandError::Reported) } else { Ok(()) }
    }
}
