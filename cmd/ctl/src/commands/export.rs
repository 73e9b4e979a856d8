//! `export`: an archive that the daemon writes, to a file or to standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use imagevol_api::daemon::{EXPORTED_IMAGES, ExportedImage};

use crate::cli::Export;
use crate::client::Download;
use crate::error::{CommandError, Result};
use crate::session::{self, Session};
use crate::text;

/// Stands for standard output.
const STDOUT: &str = "-";

/// Where the archive goes. A file is there whole or not at all.
enum Output {
    Stdout,
    /// A pipe or a device, which cannot be replaced.
    Special(PathBuf, File),
    File {
        path: PathBuf,
        beside: PathBuf,
        file: File,
    },
}

/// Exports; what changed is a remark, for standard output may be the archive.
pub(super) async fn run(session: &Session, arguments: &Export) -> Result<()> {
    if is_stdout(&arguments.output) && io::stdout().is_terminal() {
        return Err(CommandError::Terminal {
            what: "written to",
            hint: "name a file with -o, or pipe the output to where it is to go",
        });
    }
    let query: Vec<String> =
        arguments.references.iter().map(|reference| format!("reference={}", text::url_part(reference))).collect();
    let mut download = session.client.download(&format!("/images/export?{}", query.join("&"))).await?;
    let images = images_of(&download)?;
    let mut output = Output::open(&arguments.output)?;
    let written = copy(&mut download, &mut output).await;
    output.close(written)?;
    if arguments.quiet { Ok(()) } else { images.iter().try_for_each(|image| session::note(&remark(image))) }
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new(STDOUT)
}

fn images_of(download: &Download) -> Result<Vec<ExportedImage>> {
    let header = download.headers.get(EXPORTED_IMAGES).map_or(&b"[]"[..], |value| value.as_bytes());
    serde_json::from_slice(header).map_err(|source| CommandError::Decode { kind: "list of images", source })
}

async fn copy(download: &mut Download, output: &mut Output) -> Result<()> {
    while let Some(piece) = download.next().await? {
        output.write(&piece)?;
    }
    Ok(())
}

fn remark(image: &ExportedImage) -> String {
    let reference = text::line(&image.reference).into_owned();
    if image.image == image.exported {
        return format!("Exported {reference}, {}", image.image);
    }
    format!("Exported {reference}, {}\n  as {}: compressed layers are not kept", image.image, image.exported)
}

// === impl Output ===

impl Output {
    fn open(path: &Path) -> Result<Self> {
        if is_stdout(path) {
            return Ok(Self::Stdout);
        }
        let failed = |source| CommandError::WriteArchive { path: path.to_owned(), source };
        if std::fs::metadata(path).is_ok_and(|known| !known.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            return Ok(Self::Special(path.to_owned(), file));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let beside = path.with_file_name(name);
        // Killed after this: a file that says by its name that it is a part.
        let file = OpenOptions::new().write(true).create_new(true).open(&beside).map_err(failed)?;
        Ok(Self::File { path: path.to_owned(), beside, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(bytes).map_err(CommandError::Output),
            Self::Special(path, file) | Self::File { path, file, .. } => {
                file.write_all(bytes).map_err(|source| CommandError::WriteArchive { path: path.clone(), source })
            }
        }
    }

    /// Makes the file appear, or takes it away if it is not whole.
    fn close(self, written: Result<()>) -> Result<()> {
        let Self::File { path, beside, file } = self else {
            return written.and_then(|()| io::stdout().lock().flush().map_err(CommandError::Output));
        };
        let whole = written.and_then(|()| {
            let renamed = file.sync_all().and_then(|()| std::fs::rename(&beside, &path));
            renamed.map_err(|source| CommandError::WriteArchive { path, source })
        });
        if whole.is_err() {
            // The error that is on its way says more than that this one stays.
            drop(std::fs::remove_file(&beside));
        }
        whole
    }
}
