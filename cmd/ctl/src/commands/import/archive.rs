//! Where an archive comes from: a file or standard input as it is, or a directory as a tar.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use imagevol_api::tar::{self, Kind};
use tokio::sync::mpsc;

use super::is_stdin;
use crate::error::{CommandError, Result};

/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;
/// The files that make a directory a layout (image spec, image-layout.md).
const LAYOUT: [&str; 2] = ["oci-layout", "index.json"];

/// An archive that can be read once.
pub(super) struct Source {
    name: String,
    size: Option<u64>,
    from: From,
}

enum From {
    Stream(Box<dyn Read + Send>),
    Directory(Vec<Member>),
}

/// A file of a layout.
struct Member {
    path: PathBuf,
    /// Its path in the layout.
    name: String,
    size: u64,
}

type Pieces = mpsc::Sender<io::Result<Bytes>>;

// === impl Source ===

impl Source {
    /// Opens a file, a directory, or standard input.
    pub(super) fn open(path: &Path) -> Result<Self> {
        if is_stdin(path) {
            return Self::stdin();
        }
        let name = path.display().to_string();
        let failed = |source| CommandError::ReadArchive { name: name.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Self::directory(path, name);
        }
        let size = metadata.is_file().then_some(metadata.len());
        Ok(Self { name, size, from: From::Stream(Box::new(file)) })
    }

    fn stdin() -> Result<Self> {
        if io::stdin().is_terminal() {
            return Err(CommandError::Terminal {
                what: "read from",
                hint: "name a file, or pipe an archive into the command",
            });
        }
        Ok(Self { name: "standard input".to_owned(), size: None, from: From::Stream(Box::new(io::stdin())) })
    }

    fn directory(path: &Path, name: String) -> Result<Self> {
        if let Some(missing) = LAYOUT.into_iter().find(|file| !path.join(file).is_file()) {
            return Err(CommandError::NoLayout { directory: path.to_owned(), missing, instead: instead(path) });
        }
        let members = members(path).map_err(|source| CommandError::ReadArchive { name: name.clone(), source })?;
        let size = members.iter().map(Member::size_in_tar).sum::<u64>() + tar::END.len() as u64;
        Ok(Self { name, size: Some(size), from: From::Directory(members) })
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the archive, if they are known.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Sends it. That nobody takes it any more is no error here.
    pub(super) fn send(self, pieces: &Pieces) -> io::Result<()> {
        match self.from {
            From::Stream(mut stream) => copy(&mut stream, pieces).map(drop),
            From::Directory(members) => {
                members.iter().try_for_each(|member| member.send(pieces))?;
                send(Bytes::from_static(&tar::END), pieces);
                Ok(())
            }
        }
    }
}

// === impl Member ===

impl Member {
    fn new(layout: &Path, name: String) -> io::Result<Self> {
        let path = layout.join(&name);
        Ok(Self { size: path.metadata()?.len(), path, name })
    }

    fn size_in_tar(&self) -> u64 {
        let header = tar::header(&self.name, self.size, Kind::File).len() as u64;
        header + self.size.next_multiple_of(tar::BLOCK)
    }

    fn send(&self, pieces: &Pieces) -> io::Result<()> {
        let mut file = File::open(&self.path)?.take(self.size);
        send(tar::header(&self.name, self.size, Kind::File).into(), pieces);
        if copy(&mut file, pieces)? != self.size && !pieces.is_closed() {
            return Err(io::Error::other(format!("{} became shorter while it was read", self.path.display())));
        }
        send(tar::padding(self.size).collect(), pieces);
        Ok(())
    }
}

/// What a directory that is no layout may be, and how it is imported all the same: what skopeo and podman write with `dir:`
/// (containers/image, directory/directory_dest.go, `versionPrefix`), and what is left of an unpacked docker archive.
fn instead(directory: &Path) -> Option<&'static str> {
    let is_file = |name| directory.join(name).is_file();
    match (is_file("manifest.json"), is_file("version")) {
        (true, true) => {
            Some("`skopeo copy dir:DIRECTORY oci:LAYOUT` makes a layout of a directory that was written as dir:")
        }
        (true, false) => Some("`tar -C DIRECTORY -c . | imagevol import` imports an unpacked docker archive"),
        (false, _) => None,
    }
}

/// The files of a layout, what says what is in it first.
fn members(layout: &Path) -> io::Result<Vec<Member>> {
    let mut members: Vec<Member> =
        LAYOUT.into_iter().map(|file| Member::new(layout, file.to_owned())).collect::<io::Result<_>>()?;
    for algorithm in names(&layout.join("blobs"))? {
        for blob in names(&layout.join("blobs").join(&algorithm))? {
            let member = Member::new(layout, format!("blobs/{algorithm}/{blob}"))?;
            members.extend(member.path.is_file().then_some(member));
        }
    }
    Ok(members)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let names = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let mut names: Vec<String> = names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect();
    names.sort();
    Ok(names)
}

/// Bytes that were read. Ends early, and well, if nobody takes them.
fn copy(from: &mut impl Read, pieces: &Pieces) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let mut buffer = vec![0; CHUNK];
        let count = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if count == 0 {
            return Ok(total);
        }
        buffer.truncate(count);
        total += count as u64;
        if pieces.blocking_send(Ok(buffer.into())).is_err() {
            return Ok(total);
        }
    }
}

fn send(bytes: Bytes, pieces: &Pieces) {
    // Whoever has stopped taking them says why.
    drop(pieces.blocking_send(Ok(bytes)));
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::skopeo_dir(&["manifest.json", "version"], Some("skopeo copy dir:"))]
    #[case::docker_archive(&["manifest.json"], Some("tar -C "))]
    #[case::anything(&["version"], None)]
    fn a_directory_that_is_no_layout_says_what_to_do(#[case] files: &[&str], #[case] expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let error = Source::open(dir.path()).err().unwrap();
        assert!(error.to_string().ends_with(" is no OCI image layout: it has no oci-layout"), "{error}");
        let hint = error.hint();
        assert_eq!(hint.is_some(), expected.is_some());
        assert!(hint.is_none_or(|hint| hint.contains(expected.unwrap_or_default())));
    }
}
