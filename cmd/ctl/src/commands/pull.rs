//! `pull`: a stream of progress, shown as bars on a terminal and as lines elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};

use bytes::Bytes;
use imagevol_api::daemon::{BlobProgress, PullEvent, PullRequest};
use imagevol_api::oci::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::Pull;
use crate::error::{CommandError, Result};
use crate::session::{self, Session};
use crate::text;

/// What a bar looks like: its blob, how far it is, and how fast.
const TEMPLATE: &str =
    "{prefix} [{wide_bar}] {decimal_bytes:>10}/{decimal_total_bytes:<10} {decimal_bytes_per_sec:>12}";

/// A pull that the daemon is asked for, by whichever command.
pub(super) struct Asked<'a> {
    /// As given.
    pub reference: &'a str,
    /// Without progress.
    pub quiet: bool,
    /// Where it is asked.
    pub path: &'a str,
    /// What is asked.
    pub body: Bytes,
}

/// Pulls; the digest comes last, alone on standard output.
pub(super) async fn run(session: &Session, arguments: &Pull) -> Result<()> {
    let request = PullRequest { reference: arguments.reference.clone() };
    let body = serde_json::to_vec(&request).map_err(CommandError::Json)?.into();
    let (reference, quiet) = (arguments.reference.as_str(), arguments.quiet);
    follow(session, Asked { reference, quiet, path: "/images/pull", body }).await
}

/// Asks, and shows what comes.
pub(super) async fn follow(session: &Session, asked: Asked<'_>) -> Result<()> {
    let mut progress = Progress::new(&asked)?;
    let mut events = session.client.post_for_lines(asked.path, asked.body.clone()).await?;
    while let Some(event) = events.next().await? {
        match event {
            PullEvent::Progress { blobs } => progress.update(&blobs)?,
            PullEvent::Pulled { reference, id, size } => {
                progress.finish();
                return done(&asked, (&reference, &id, size));
            }
            PullEvent::Failed { message } => {
                progress.finish();
                return Err(CommandError::Pull { reference: asked.reference.to_owned(), message });
            }
        }
    }
    Err(CommandError::PullInterrupted { reference: asked.reference.to_owned() })
}

fn done(asked: &Asked<'_>, (reference, id, size): (&str, &Digest, u64)) -> Result<()> {
    if !asked.quiet {
        session::note(&format!("Pulled {} ({})", text::line(reference), text::human_size(size)))?;
    }
    session::print(&format!("{id}\n"))
}

enum Progress {
    Bars(Bars),
    Lines(Lines),
    Quiet,
}

// === impl Progress ===

impl Progress {
    fn new(asked: &Asked<'_>) -> Result<Self> {
        if asked.quiet {
            return Ok(Self::Quiet);
        }
        if io::stderr().is_terminal() {
            return Bars::new().map(Self::Bars);
        }
        session::note(&format!("Pulling {}", text::line(asked.reference)))?;
        Ok(Self::Lines(Lines::default()))
    }

    fn update(&mut self, blobs: &[BlobProgress]) -> Result<()> {
        match self {
            Self::Bars(bars) => {
                bars.update(blobs);
                Ok(())
            }
            Self::Lines(lines) => lines.update(blobs).iter().try_for_each(|line| session::note(line)),
            Self::Quiet => Ok(()),
        }
    }

    /// Leaves the terminal as it should be: the bars stand where they are.
    fn finish(&mut self) {
        if let Self::Bars(bars) = self {
            bars.of_blobs.values().filter(|bar| !bar.is_finished()).for_each(ProgressBar::abandon);
        }
    }
}

struct Bars {
    group: MultiProgress,
    style: ProgressStyle,
    of_blobs: BTreeMap<Digest, ProgressBar>,
}

// === impl Bars ===

impl Bars {
    fn new() -> Result<Self> {
        let style = ProgressStyle::with_template(TEMPLATE).map_err(|error| CommandError::Progress(Box::new(error)))?;
        Ok(Self { group: MultiProgress::new(), style: style.progress_chars("=> "), of_blobs: BTreeMap::new() })
    }

    fn update(&mut self, blobs: &[BlobProgress]) {
        for blob in blobs {
            let bar = self.of_blobs.entry(blob.digest.clone()).or_insert_with(|| {
                // Bytes that were here before count for the position, not for the rate.
                let bar = ProgressBar::new(blob.size).with_position(blob.done);
                let bar = self.group.add(bar.with_style(self.style.clone()));
                bar.set_prefix(blob.digest.short().to_owned());
                bar
            });
            if bar.is_finished() {
                continue;
            }
            bar.set_position(blob.done);
            if blob.done >= blob.size {
                bar.finish();
            }
        }
    }
}

/// Where nobody watches: a line when a blob begins, and one when it is here.
#[derive(Default)]
struct Lines {
    finished: BTreeMap<Digest, bool>,
}

// === impl Lines ===

impl Lines {
    fn update(&mut self, blobs: &[BlobProgress]) -> Vec<String> {
        let mut lines = Vec::new();
        for blob in blobs {
            let (name, size, complete) = (blob.digest.short(), text::human_size(blob.size), blob.done >= blob.size);
            let before = self.finished.insert(blob.digest.clone(), complete);
            match (before, complete) {
                (None, false) if blob.done > 0 => {
                    let here = text::human_size(blob.done);
                    lines.push(format!("{name}: fetching {size}, {here} here already"));
                }
                (None, false) => lines.push(format!("{name}: fetching {size}")),
                (None | Some(false), true) => lines.push(format!("{name}: done, {size}")),
                (Some(false), false) | (Some(true), _) => {}
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(digit: &str, size: u64, done: u64) -> BlobProgress {
        BlobProgress { digest: format!("sha256:{}", digit.repeat(64)).parse().unwrap(), size, done }
    }

    #[test]
    fn lines_say_each_thing_once() {
        let mut lines = Lines::default();
        let (a, b) = ("aaaaaaaaaaaa", "bbbbbbbbbbbb");
        assert_eq!(lines.update(&[blob("a", 1000, 0)]), [format!("{a}: fetching 1kB")]);
        assert_eq!(
            lines.update(&[blob("a", 1000, 500), blob("b", 10, 5)]),
            [format!("{b}: fetching 10B, 5B here already")]
        );
        assert_eq!(lines.update(&[blob("a", 1000, 1000), blob("b", 10, 6)]), [format!("{a}: done, 1kB")]);
        assert_eq!(lines.update(&[blob("a", 1000, 1000), blob("b", 10, 10)]), [format!("{b}: done, 10B")]);
        assert_eq!(lines.update(&[blob("a", 1000, 1000), blob("c", 7, 7)]), ["cccccccccccc: done, 7B"]);
    }

    #[test]
    fn the_bars_template_is_valid() {
        assert!(Bars::new().is_ok());
    }
}
