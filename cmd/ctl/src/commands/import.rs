//! `import`: an archive is sent while the answer tells what became of it.

mod archive;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use imagevol_api::daemon::ImportEvent;
use imagevol_api::oci::Digest;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::cli::Import;
use crate::client::{Lines, Upload};
use crate::error::{CommandError, Result};
use crate::session::{self, Session};
use crate::text;
use archive::Source;

/// What the bar of an archive of known length looks like.
const TEMPLATE: &str = "[{wide_bar}] {decimal_bytes:>10}/{decimal_total_bytes:<10} {decimal_bytes_per_sec:>12}";
/// The same where nobody knows how long it is.
const OPEN_TEMPLATE: &str = "{spinner} {decimal_bytes:>10} {decimal_bytes_per_sec:>12}";
/// Pieces between disk and daemon.
const PIECES: usize = 4;

/// Why the archive could not be read, for it is told by the end of a connection only.
type Trouble = Arc<Mutex<Option<io::Error>>>;

/// Imports; the digests come alone on standard output, one a line.
pub(super) async fn run(session: &Session, arguments: &Import) -> Result<()> {
    let source = Source::open(&arguments.source)?;
    let name = source.name().to_owned();
    let bar = bar(arguments, source.size())?;
    if !arguments.quiet && bar.is_none() {
        session::note(&format!("Importing {}", text::line(&name)))?;
    }
    let trouble = Trouble::default();
    let body = upload(source, &trouble);
    let sent = match session.client.upload_for_lines(&path(arguments), body).await {
        Ok(mut events) => follow(arguments, &name, &mut events, bar.as_ref()).await,
        Err(error) => Err(error.into()),
    };
    match (sent, trouble.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        // The rest is an echo of it.
        (Err(_), Some(source)) => Err(CommandError::ReadArchive { name, source }),
        (sent, _) => sent,
    }
}

fn path(arguments: &Import) -> String {
    let options = [("name", &arguments.name), ("repository", &arguments.repository)];
    let given = options.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?)));
    let query: Vec<String> = given.map(|(key, value)| format!("{key}={}", text::url_part(value))).collect();
    format!("/images/import?{}", query.join("&"))
}

fn bar(arguments: &Import, size: Option<u64>) -> Result<Option<ProgressBar>> {
    if arguments.quiet || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), TEMPLATE),
        None => (ProgressBar::new_spinner(), OPEN_TEMPLATE),
    };
    let style = ProgressStyle::with_template(template).map_err(|error| CommandError::Progress(Box::new(error)))?;
    Ok(Some(bar.with_style(style.progress_chars("=> "))))
}

/// Reads on a thread of its own, which nobody waits for: it may be reading from a pipe that says nothing more.
fn upload(source: Source, trouble: &Trouble) -> Upload {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let trouble = Arc::clone(trouble);
    std::thread::spawn(move || {
        let Err(error) = source.send(&sender) else { return };
        let echo = io::Error::new(error.kind(), error.to_string());
        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        // Nobody listens any more if the connection has broken.
        drop(sender.blocking_send(Err(echo)));
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    BodyExt::boxed(StreamBody::new(pieces.map(|piece| piece.map(Frame::data))))
}

async fn follow(arguments: &Import, name: &str, events: &mut Lines, bar: Option<&ProgressBar>) -> Result<()> {
    while let Some(event) = events.next().await? {
        match event {
            ImportEvent::Progress { bytes } => {
                if let Some(bar) = bar {
                    bar.set_position(bytes);
                }
            }
            ImportEvent::Imported { names, id, size } => {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                tell(arguments, (&names, &id, size))?;
            }
            ImportEvent::Done => return Ok(()),
            ImportEvent::Failed { message } => {
                if let Some(bar) = bar {
                    bar.abandon();
                }
                return Err(CommandError::Import { name: name.to_owned(), message });
            }
        }
    }
    Err(CommandError::ImportInterrupted { name: name.to_owned() })
}

fn tell(arguments: &Import, (names, id, size): (&[String], &Digest, u64)) -> Result<()> {
    if !arguments.quiet {
        let size = text::human_size(size);
        let names: Vec<_> = names.iter().map(|name| text::line(name).into_owned()).collect();
        let told = match names.as_slice() {
            [] => format!("Imported an image without a name ({size}): {}", naming(arguments)),
            names => format!("Imported {} ({size})", names.join(", ")),
        };
        session::note(&told)?;
    }
    session::print(&format!("{id}\n"))
}

/// How it gets a name. A repository that was given has completed every tag.
fn naming(arguments: &Import) -> &'static str {
    match arguments.repository {
        Some(_) => "--name gives the only image of an archive one",
        None => "--name gives the only image of an archive one, --repository each that has a tag",
    }
}

/// Whether this stands for standard input.
fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}
