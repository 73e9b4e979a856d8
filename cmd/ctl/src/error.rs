//! What can go wrong, and how it is said.

use std::io;
use std::path::PathBuf;

use crate::client::ClientError;
use crate::plugin::KubectlError;
use crate::text;

/// Why a command failed. The printer adds `error:` and walks the causes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The daemon could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A cluster could not be asked.
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    /// There is no such pin.
    #[error(transparent)]
    NoPin(ClientError),
    /// The runtime could not be started.
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    /// Standard output could not be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// A manifest could not be read.
    #[error("cannot read {}", text::line(&path.display().to_string()))]
    ReadManifest {
        /// As given, or found in a directory that was given.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A manifest is longer than the daemon takes (`imagevol_api::core::decode::MAX_MANIFEST_BYTES`).
    #[error("{} is larger than {}", text::line(name), text::human_size(*limit))]
    ManifestTooLarge {
        /// File, or `standard input`.
        name: String,
        /// In bytes.
        limit: u64,
    },
    /// A directory has no manifest in it.
    #[error("error reading [{}]: recognized file extensions are [.json .yaml .yml]", text::line(&directory.display().to_string()))]
    NoManifests {
        /// As given.
        directory: PathBuf,
    },
    /// A manifest that names what to delete could not be decoded.
    #[error("cannot decode {}", text::line(name))]
    DecodeManifest {
        /// File, or `standard input`.
        name: String,
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A manifest holds something that cannot be deleted here.
    #[error("{}: {}", text::line(name), text::line(what))]
    Undeletable {
        /// File, or `standard input`.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The manifests hold no object.
    #[error("no objects passed to {command}")]
    NoObjects {
        /// `apply` or `delete`.
        command: &'static str,
    },
    /// The daemon did not say how an applied object looks.
    #[error("the daemon did not send {} back", text::line(object))]
    NoObjectBack {
        /// `TYPE/NAME`.
        object: String,
    },
    /// The daemon gave neither an outcome nor an error.
    #[error("the daemon did not say what became of {}", text::line(object))]
    NoOutcome {
        /// `TYPE/NAME`.
        object: String,
    },
    /// `TYPE` is none of those that the command takes.
    #[error("the server doesn't have a resource type {given:?}")]
    UnknownResource {
        /// As given.
        given: String,
        /// Those that the command takes.
        known: String,
    },
    /// There must be a name.
    #[error("resource(s) were provided, but no name was specified")]
    NameRequired,
    /// A flag only makes sense without the other.
    #[error("{0}")]
    Usage(&'static str),
    /// The pull ended badly.
    #[error("failed to pull image {reference:?}: {}", text::line(message))]
    Pull {
        /// As given.
        reference: String,
        /// The daemon's words.
        message: String,
    },
    /// The daemon stopped talking in the middle of a pull.
    #[error("the daemon ended the answer before the pull of {reference:?} ended")]
    PullInterrupted {
        /// As given.
        reference: String,
    },
    /// What is to be imported could not be read.
    #[error("cannot read {}", text::line(name))]
    ReadArchive {
        /// File, directory or `standard input`.
        name: String,
        #[source]
        source: io::Error,
    },
    /// A directory is no OCI image layout.
    #[error("{} is no OCI image layout: it has no {missing}", text::line(&directory.display().to_string()))]
    NoLayout {
        /// As given.
        directory: PathBuf,
        /// The file that every layout has.
        missing: &'static str,
        /// What to do instead, where it is something else that is known.
        instead: Option<&'static str>,
    },
    /// The import ended badly.
    #[error("failed to import {}: {}", text::line(name), text::line(message))]
    Import {
        /// File, directory or `standard input`.
        name: String,
        /// The daemon's words.
        message: String,
    },
    /// The daemon stopped talking in the middle of an import.
    #[error("the daemon ended the answer before the import of {} ended", text::line(name))]
    ImportInterrupted {
        /// File, directory or `standard input`.
        name: String,
    },
    /// An archive would be typed to, or at, somebody.
    #[error("an archive is not {what} a terminal")]
    Terminal {
        /// `written to` or `read from`.
        what: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// An archive could not be written.
    #[error("cannot write {}", text::line(&path.display().to_string()))]
    WriteArchive {
        /// As given.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A progress bar's template is wrong.
    #[error("cannot draw progress")]
    Progress(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Time ran out (kubectl, pkg/cmd/wait).
    #[error("timed out waiting for the condition on pods/{}", text::line(pod))]
    TimedOut {
        /// `metadata.name`.
        pod: String,
    },
    /// What was waited for cannot come any more.
    #[error("pods/{} failed{}", text::line(pod), text::line(why))]
    PodFailed {
        /// `metadata.name`.
        pod: String,
        /// `: reason: message`, as far as the status has them.
        why: String,
    },
    /// The pod has no such image volume.
    #[error("pod {pod:?} has no image volume {volume:?}{}", text::line(known))]
    NoSuchVolume {
        /// `metadata.name`.
        pod: String,
        /// As given.
        volume: String,
        /// `; it has ...`, or nothing.
        known: String,
    },
    /// No container of that name mounts a sub path of the volume.
    #[error("container {container:?} has no sub path of volume {volume:?} mounted")]
    NoSubPath {
        /// As given.
        container: String,
        /// As given.
        volume: String,
    },
    /// The container mounts more than one sub path of the volume.
    #[error("container {container:?} mounts several sub paths of volume {volume:?}: {}", text::line(choices))]
    SeveralSubPaths {
        /// As given.
        container: String,
        /// As given.
        volume: String,
        /// `0 (dir), 2 (other)`.
        choices: String,
    },
    /// The directory is still empty.
    #[error("volume {volume:?} of pod {pod:?} is not mounted")]
    NotMounted {
        /// `metadata.name`.
        pod: String,
        /// `spec.volumes[].name`.
        volume: String,
    },
    /// A path that would do something to the terminal that shows it.
    #[error("the daemon gave a path with control characters in it: {path:?}")]
    UnsafePath {
        /// The path.
        path: String,
    },
    /// The daemon's state is damaged.
    #[error("{} found", text::count(*problems, "problem"))]
    Damaged {
        /// How many.
        problems: u64,
    },
    /// And stays so after a repair.
    #[error("{} left", text::count(*problems, "problem"))]
    Unrepaired {
        /// How many.
        problems: u64,
    },
    /// An image should have gone and did not.
    #[error("cannot remove {}", text::line(image))]
    NotCollected {
        /// Which, and why: the daemon's words.
        image: String,
    },
    /// An object does not have the form of its kind.
    #[error("the daemon sent a {kind} that cannot be read")]
    Decode {
        /// `Pod`, `Event`.
        kind: &'static str,
        #[source]
        source: serde_json::Error,
    },
    /// An object could not be written as JSON.
    #[error("cannot write JSON")]
    Json(#[source] serde_json::Error),
    /// An object could not be written as YAML.
    #[error("cannot write YAML")]
    Yaml(#[source] serde_saphyr::SerializeError),
    /// Each failure has been printed already.
    #[error("failed")]
    Reported,
}

/// A command's result.
pub(crate) type Result<T, E = CommandError> = std::result::Result<T, E>;

// === impl CommandError ===

impl CommandError {
    /// Whether the reader of our output went away, which is no failure of ours.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to do about it, if there is something to do.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Client(client) => return client.hint(),
            Self::Kubectl(kubectl) => return kubectl.hint(),
            Self::UnknownResource { known, .. } => return Some(format!("known here: {known}")),
            Self::PullInterrupted { .. } => "run the command again: what is on disk already is not fetched again",
            Self::ImportInterrupted { .. } => "run the command again: images that were imported stay",
            Self::Terminal { hint, .. } | Self::NoLayout { instead: Some(hint), .. } => hint,
            Self::NotMounted { pod, .. } => {
                return Some(format!(
                    "`imagevol wait pod {0} --for=mounted` waits for it, `imagevol describe pod {0}` says why",
                    text::line(pod)
                ));
            }
            Self::NoPin(_) => "`imagevol get pins` lists them",
            Self::Damaged { .. } => "`imagevol fsck --repair` repairs what it can",
            Self::SeveralSubPaths { .. } => "choose one with --index",
            Self::TimedOut { pod } | Self::PodFailed { pod, .. } => {
                return Some(format!("`imagevol describe pod {}` shows its events", text::line(pod)));
            }
            Self::Runtime(_)
            | Self::Output(_)
            | Self::ReadManifest { .. }
            | Self::ManifestTooLarge { .. }
            | Self::NoManifests { .. }
            | Self::DecodeManifest { .. }
            | Self::Undeletable { .. }
            | Self::NoObjects { .. }
            | Self::NoObjectBack { .. }
            | Self::NoOutcome { .. }
            | Self::NameRequired
            | Self::Usage(_)
            | Self::Pull { .. }
            | Self::ReadArchive { .. }
            | Self::NoLayout { .. }
            | Self::Import { .. }
            | Self::WriteArchive { .. }
            | Self::Progress(_)
            | Self::NoSuchVolume { .. }
            | Self::NoSubPath { .. }
            | Self::UnsafePath { .. }
            | Self::Unrepaired { .. }
            | Self::Decode { .. }
            | Self::Json(_)
            | Self::Yaml(_)
            | Self::NotCollected { .. }
            | Self::Reported => return None,
        };
        Some(hint.to_owned())
    }

    /// The whole message: kubectl's own form for what the server refused, else `error:` with its causes; then the hint.
    /// It ends with a line end.
    pub(crate) fn report(&self, paint: Paint) -> String {
        let mut report =
            if let Self::Client(ClientError::Refused(status)) | Self::NoPin(ClientError::Refused(status)) = self {
                format!("{}\n", crate::client::refusal(status))
            } else if let Self::Kubectl(KubectlError::Failed { .. }) = self {
                // kubectl has said `error:` itself.
                format!("{self}\n")
            } else {
                causes(self, paint)
            };
        if let Some(hint) = self.hint() {
            text::append(&mut report, format_args!("{} {hint}\n", paint.hint("hint:")));
        }
        report
    }
}

fn causes(error: &CommandError, paint: Paint) -> String {
    let mut report = format!("{} {error}\n", paint.error("error:"));
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let message = error.to_string();
        text::append(
            &mut report,
            format_args!("  caused by: {}\n", text::block(message.trim_end()).replace('\n', "\n    ")),
        );
        cause = error.source();
    }
    report
}

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// ANSI colours.
    Colour,
    /// No escape sequences.
    Plain,
}

// === impl Paint ===

impl Paint {
    fn error(self, word: &str) -> String {
        self.wrap("1;31", word)
    }

    fn hint(self, word: &str) -> String {
        self.wrap("1;36", word)
    }

    fn wrap(self, code: &str, word: &str) -> String {
        match self {
            Self::Colour => format!("\x1b[{code}m{word}\x1b[0m"),
            Self::Plain => word.to_owned(),
        }
    }
}
