//! What an archive and an image may cost.

/// Bounds on what untrusted archives make us hold. Every one of them ends in a typed error, never in less content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one archive, and nodes of one merged tree.
    pub max_entries: u64,
    /// Bytes of headers that describe one entry: PAX records, GNU long names, sparse maps.
    pub max_metadata_bytes: u64,
    /// Bytes of one layer index.
    pub max_index_bytes: u64,
    /// Path components that one merge may read from symlink targets, all entries together.
    pub max_symlink_steps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The largest image we mean to hold has some millions of files; ext4 formats one inode per 16 KiB by default
            // (mke2fs.conf(5)), so 20 million is what a 300 GB disk could unpack.
            max_entries: 20_000_000,
            // Go's archive/tar, which every other runtime reads layers with, stops at 1 MiB too (maxSpecialFileSize).
            max_metadata_bytes: 1 << 20,
            max_index_bytes: 1 << 30,
            // Three components for each entry of the largest image: more than usrmerge's `lib -> usr/lib` ever needs.
            max_symlink_steps: 64_000_000,
        }
    }
}
