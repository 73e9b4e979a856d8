//! Reading a file past the page cache: what the disk holds is seen, and what pods have in memory stays there.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    num::NonZeroU64,
    path::Path,
};

use rustix::fs::{Advice, Mode, OFlags};

/// Alignment of offsets, lengths and memory for direct I/O: a multiple of every block size that disks have (open(2), `O_DIRECT`).
const ALIGNMENT: usize = 4096;

/// A file that is read past the page cache, where its file system can; elsewhere what was read is dropped from the cache again.
#[derive(Debug)]
pub struct UncachedFile {
    file: File,
    mode: Caching,
}

/// Memory that direct I/O can read into.
#[derive(Debug)]
pub struct UncachedBuffer {
    bytes: Vec<u8>,
    begin: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caching {
    /// `O_DIRECT`.
    Direct,
    /// Through the cache, and out of it.
    Dropped,
}

// === impl UncachedFile ===

impl UncachedFile {
    /// Opens a file for reading. A symbolic link is not followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(file) => Ok(Self { file: file.into(), mode: Caching::Direct }),
            // File systems without direct I/O say so at open (open(2)).
            Err(rustix::io::Errno::INVAL) => {
                let file = rustix::fs::open(path, flags, Mode::empty())?;
                Ok(Self { file: file.into(), mode: Caching::Dropped })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads at `at`, a multiple of 4096, until the buffer is full or the file ends; what was read.
    pub fn read_at<'b>(&self, buffer: &'b mut UncachedBuffer, at: u64) -> io::Result<&'b [u8]> {
        let out = buffer.aligned();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))?;
        let mut count = 0_usize;
        // After a short read only the end of the file can follow: direct I/O goes on at a block's beginning alone.
        while count.is_multiple_of(ALIGNMENT) && count < out.len() {
            match file.read(out.get_mut(count..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.mode == Caching::Dropped {
            rustix::fs::fadvise(&self.file, at, NonZeroU64::new(count as u64), Advice::DontNeed)?;
        }
        Ok(out.get(..count).unwrap_or_default())
    }
}

// === impl UncachedBuffer ===

impl UncachedBuffer {
    /// Memory for `length` bytes, rounded up to 4096.
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length.next_multiple_of(ALIGNMENT) + ALIGNMENT];
        let begin = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, begin }
    }

    fn aligned(&mut self) -> &mut [u8] {
        let end = self.begin + self.bytes.len() - ALIGNMENT;
        self.bytes.get_mut(self.begin..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a disk and, where there is one, on a file system that has no direct I/O.
    #[test]
    fn reads_what_was_written_to_its_end() {
        for dir in ["/var/tmp", "/dev/shm"] {
            let Ok(dir) = tempfile::tempdir_in(dir) else { continue };
            let path = dir.path().join("file");
            let bytes: Vec<u8> = (0..10_001_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
            std::fs::write(&path, &bytes).unwrap();
            let (file, mut buffer) = (UncachedFile::open(&path).unwrap(), UncachedBuffer::new(8192));
            assert_eq!(file.read_at(&mut buffer, 0).unwrap(), &bytes[..8192]);
            assert_eq!(file.read_at(&mut buffer, 8192).unwrap(), &bytes[8192..]);
            assert_eq!(file.read_at(&mut buffer, 12_288).unwrap(), b"");
        }
    }

    #[test]
    fn follows_no_link() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(UncachedFile::open(&link).is_err());
    }
}
