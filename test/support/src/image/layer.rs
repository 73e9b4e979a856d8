//! Layers: tar archives, as they are or compressed.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::GzEncoder;

use imagevol_api::oci::Digest;
use imagevol_base::Digester;

use super::Blob;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One gzip member.
    Gzip,
    /// Several gzip members, one after the other.
    GzipMembers(usize),
    /// One zstd frame.
    Zstd,
}

/// A layer blob with the digest of its tar.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What the registry serves.
    pub blob: Blob,
    /// SHA-256 of the tar.
    pub diff_id: Digest,
    /// The tar itself.
    pub tar: Bytes,
    /// How the blob is compressed.
    pub compression: Compression,
}

/// Owner, mode and time of an entry.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u64,
    /// Numeric group.
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
}

/// Writes a tar in memory, entry by entry, in the order of the calls.
pub struct LayerBuilder {
    tar: tar::Builder<Vec<u8>>,
}

// === impl Compression ===

impl Compression {
    /// The OCI media type of a layer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip | Self::GzipMembers(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// Docker's media type of a layer.
    pub fn docker_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.docker.image.rootfs.diff.tar",
            Self::Gzip | Self::GzipMembers(_) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::Zstd => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        }
    }

    /// Compresses `tar`.
    pub fn compress(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::None => tar.to_vec(),
            Self::Gzip => gzip(tar),
            Self::GzipMembers(members) => {
                tar.chunks(tar.len().div_ceil(members.max(1)).max(1)).flat_map(gzip).collect()
            }
            Self::Zstd => zstd::encode_all(tar, 3).unwrap(),
        }
    }
}

// === impl Layer ===

impl Layer {
    /// A layer of ready tar bytes, valid or not.
    pub fn from_tar(tar: impl Into<Bytes>, compression: Compression) -> Self {
        let tar = tar.into();
        let blob = Blob::new(compression.media_type(), compression.compress(&tar));
        Self { blob, diff_id: Digester::sha256(&tar), tar, compression }
    }
}

// === impl Entry ===

impl Entry {
    /// Root's, of 1970, with this mode.
    pub fn mode(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: 0 }
    }

    /// The same with another owner.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// The same with another time.
    #[must_use]
    pub fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    fn header(self, kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.mtime);
        header
    }
}

// === impl LayerBuilder ===

impl Default for LayerBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl LayerBuilder {
    /// An empty layer.
    pub fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()) }
    }

    /// A regular file, mode 0644, root's.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_with(path, content, Entry::mode(0o644))
    }

    /// A regular file.
    #[must_use]
    pub fn file_with(mut self, path: &str, content: impl AsRef<[u8]>, entry: Entry) -> Self {
        let content = content.as_ref();
        let mut header = entry.header(tar::EntryType::Regular, content.len() as u64);
        self.tar.append_data(&mut header, path, content).unwrap();
        self
    }

    /// A directory, mode 0755, root's.
    #[must_use]
    pub fn dir(self, path: &str) -> Self {
        self.dir_with(path, Entry::mode(0o755))
    }

    /// A directory.
    #[must_use]
    pub fn dir_with(mut self, path: &str, entry: Entry) -> Self {
        let mut header = entry.header(tar::EntryType::Directory, 0);
        self.tar.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, path, target)
    }

    /// A hard link to an entry of this layer or of one below.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, path, target)
    }

    /// A device node or a fifo.
    #[must_use]
    pub fn node(mut self, path: &str, kind: tar::EntryType, major: u32, minor: u32) -> Self {
        let mut header = Entry::mode(0o600).header(kind, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.tar.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    /// The mark that removes `path` of the layers below.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let (dir, name) = path.rsplit_once('/').map_or((String::new(), path), |(dir, name)| (format!("{dir}/"), name));
        self.file(&format!("{dir}.wh.{name}"), "")
    }

    /// The mark that hides what the layers below have in `dir`.
    #[must_use]
    pub fn opaque(self, dir: &str) -> Self {
        self.file(&format!("{}/.wh..wh..opq", dir.trim_end_matches('/')), "")
    }

    /// PAX records for the next entry, such as `SCHILY.xattr.user.name`.
    #[must_use]
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.tar.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    /// An entry as the caller made it, its name and sums included: for hostile archives.
    #[must_use]
    pub fn raw(mut self, header: &tar::Header, content: &[u8]) -> Self {
        self.tar.append(header, content).unwrap();
        self
    }

    /// An entry whose name is these bytes (at most 100), whatever they are.
    #[must_use]
    pub fn raw_name(self, name: &[u8], kind: tar::EntryType, content: &[u8]) -> Self {
        let mut header = Entry::mode(0o644).header(kind, content.len() as u64);
        let field = &mut header.as_old_mut().name;
        field.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        header.set_cksum();
        self.raw(&header, content)
    }

    /// The finished tar.
    pub fn tar(mut self) -> Vec<u8> {
        self.tar.finish().unwrap();
        self.tar.into_inner().unwrap()
    }

    /// The layer, compressed as told.
    pub fn build(self, compression: Compression) -> Layer {
        Layer::from_tar(self.tar(), compression)
    }

    /// The layer with gzip.
    pub fn gzip(self) -> Layer {
        self.build(Compression::Gzip)
    }

    /// The layer with zstd.
    pub fn zstd(self) -> Layer {
        self.build(Compression::Zstd)
    }

    /// The layer as plain tar.
    pub fn plain(self) -> Layer {
        self.build(Compression::None)
    }

    fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = Entry::mode(0o777).header(kind, 0);
        self.tar.append_link(&mut header, path, target).unwrap();
        self
    }
}

impl std::fmt::Debug for LayerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerBuilder").field("bytes", &self.tar.get_ref().len()).finish()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
