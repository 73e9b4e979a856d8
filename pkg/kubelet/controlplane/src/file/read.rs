//! Reads one manifest file without trusting what the name stands for.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use nix::fcntl::OFlag;

use imagevol_api::core::decode::MAX_MANIFEST_BYTES;
use imagevol_base::FileIdentity;

/// Within this time after a change a file may change again without its times telling: several times the tick of the kernel's clock
/// (jiffies, 10 ms at most) and of any file system that keeps sub-second times.
const SETTLE: SignedDuration = SignedDuration::from_secs(1);

/// What identifies a version of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint(FileIdentity);

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// There is no such file.
    #[error("file is gone")]
    Gone,
    /// The name stands for something else.
    #[error("{0} where a regular file is expected")]
    NotAFile(&'static str),
    /// Longer than a manifest may be; not read.
    #[error("file has {size} bytes, a manifest at most {MAX_MANIFEST_BYTES}")]
    TooLarge { size: u64 },
    /// The kernel refused.
    #[error("cannot {step} file: {source}")]
    Io { step: &'static str, source: io::Error },
}

// === impl Fingerprint ===

impl Fingerprint {
    /// Of what a name stands for now; links are not followed.
    pub(super) fn of(path: &Path) -> Result<Self, ReadError> {
        fs::symlink_metadata(path).map(|metadata| Self::from(&metadata)).map_err(|source| io_error("inspect", source))
    }

    /// Whether the last change is so recent that more may come.
    pub(super) fn is_young(&self, now: Timestamp) -> bool {
        let (seconds, nanoseconds) = self.0.changed();
        let nanoseconds = i32::try_from(nanoseconds).unwrap_or_default();
        Timestamp::new(seconds, nanoseconds).is_ok_and(|changed| now.duration_since(changed).abs() < SETTLE)
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self(FileIdentity::from(metadata))
    }
}

/// The content of a regular file of at most [`MAX_MANIFEST_BYTES`], and the version that it was.
pub(super) fn read(path: &Path) -> Result<(Fingerprint, Vec<u8>), ReadError> {
    // Looked at before it is opened: opening a device can have effects.
    regular(&fs::symlink_metadata(path).map_err(|source| io_error("inspect", source))?)?;
    let mut file = open(path).map_err(|source| io_error("open", source))?;
    // And again, since the name may stand for something else by now.
    let metadata = file.metadata().map_err(|source| io_error("inspect", source))?;
    regular(&metadata)?;
    let content = content(&mut file)?;
    Ok((Fingerprint::from(&metadata), content))
}

/// A fifo that nobody writes to opens at once with `O_NONBLOCK` instead of waiting (fifo(7)); a link does not open (open(2)).
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

fn regular(metadata: &Metadata) -> Result<(), ReadError> {
    let kind = metadata.file_type();
    let limit = u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX);
    match () {
        () if kind.is_symlink() => Err(ReadError::NotAFile("symbolic link")),
        () if kind.is_dir() => Err(ReadError::NotAFile("directory")),
        () if kind.is_fifo() => Err(ReadError::NotAFile("fifo")),
        () if kind.is_socket() => Err(ReadError::NotAFile("socket")),
        () if !kind.is_file() => Err(ReadError::NotAFile("device")),
        () if metadata.len() > limit => Err(ReadError::TooLarge { size: metadata.len() }),
        () => Ok(()),
    }
}

/// One byte more than allowed is asked for, so that a file that grows meanwhile is found out.
fn content(file: &mut File) -> Result<Vec<u8>, ReadError> {
    let limit = u64::try_from(MAX_MANIFEST_BYTES).unwrap_or(u64::MAX);
    let mut content = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut content).map_err(|source| io_error("read", source))?;
    if content.len() > MAX_MANIFEST_BYTES {
        return Err(ReadError::TooLarge { size: u64::try_from(content.len()).unwrap_or(u64::MAX) });
    }
    Ok(content)
}

fn io_error(step: &'static str, source: io::Error) -> ReadError {
    if source.kind() == io::ErrorKind::NotFound { ReadError::Gone } else { ReadError::Io { step, source } }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use rstest::rstest;

    use super::*;

    fn make(kind: &str, path: &Path) {
        match kind {
            "fifo" => nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
            "socket" => drop(UnixListener::bind(path).unwrap()),
            "directory" => fs::create_dir(path).unwrap(),
            "symbolic link" => std::os::unix::fs::symlink("/dev/null", path).unwrap(),
            other => panic!("{other}"),
        }
    }

    #[rstest]
    #[case("fifo")]
    #[case("socket")]
    #[case("directory")]
    #[case("symbolic link")]
    fn refuses_what_is_no_regular_file(#[case] kind: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        make(kind, &path);
        assert_eq!(read(&path).unwrap_err().to_string(), format!("{kind} where a regular file is expected"));
    }

    #[test]
    fn refuses_a_huge_file_without_reading_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        File::create(&path).unwrap().set_len(100 << 20).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "file has 104857600 bytes, a manifest at most 10485760");
    }

    #[test]
    fn reads_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, vec![b'#'; MAX_MANIFEST_BYTES]).unwrap();
        let (fingerprint, content) = read(&path).unwrap();
        assert_eq!(content.len(), MAX_MANIFEST_BYTES);
        assert_eq!(fingerprint, Fingerprint::of(&path).unwrap());
        fs::write(&path, vec![b'#'; MAX_MANIFEST_BYTES + 1]).unwrap();
        assert!(matches!(read(&path), Err(ReadError::TooLarge { .. })));
    }

    #[test]
    fn knows_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(&dir.path().join("x")), Err(ReadError::Gone)));
        assert!(matches!(Fingerprint::of(&dir.path().join("x")), Err(ReadError::Gone)));
    }

    #[test]
    fn a_fresh_file_is_young() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "x").unwrap();
        let fingerprint = Fingerprint::of(&path).unwrap();
        let (seconds, nanoseconds) = fingerprint.0.changed();
        let changed = Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap()).unwrap();
        assert!(fingerprint.is_young(changed));
        assert!(!fingerprint.is_young(changed + SETTLE));
        assert!(!fingerprint.is_young(changed - SETTLE));
    }
}
