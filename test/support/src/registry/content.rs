//! What the registry serves: bytes at hand, or bytes made up as they are asked for.

use bytes::Bytes;

use imagevol_api::oci::{Algorithm, Digest};
use imagevol_base::Digester;

/// Bytes of one chunk of a body.
const CHUNK: u64 = 64 * 1024;

/// The content of a blob.
#[derive(Debug, Clone)]
pub enum Content {
    /// Held in memory.
    Bytes(Bytes),
    /// `size` bytes that only the seed and the position decide: for big blobs.
    Generated {
        /// Blobs of different seeds differ.
        seed: u64,
        /// Length in bytes.
        size: u64,
    },
}

// === impl Content ===

impl Content {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Generated { size, .. } => *size,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 of the whole.
    pub fn digest(&self) -> Digest {
        let mut digester = Digester::new(Algorithm::Sha256);
        let mut position = 0;
        while position < self.len() {
            let chunk = self.chunk(position, self.len());
            digester.update(&chunk);
            position += chunk.len() as u64;
        }
        digester.finish()
    }

    /// Some bytes from `from` on, none at or after `to`.
    pub fn chunk(&self, from: u64, to: u64) -> Bytes {
        let end = to.min(self.len()).min(from.saturating_add(CHUNK));
        if end <= from {
            return Bytes::new();
        }
        match self {
            Self::Bytes(bytes) => bytes.slice(index(from)..index(end)),
            Self::Generated { seed, .. } => generate(*seed, from, end),
        }
    }
}

/// Eight bytes per step, from a mixer (SplitMix64's finalizer) over seed and position.
fn generate(seed: u64, from: u64, end: u64) -> Bytes {
    let first = from / 8;
    let mut bytes = Vec::with_capacity(index(end - from) + 16);
    for word in first..end.div_ceil(8) {
        let mut mixed = word.wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    Bytes::from(bytes).slice(index(from - first * 8)..index(end - first * 8))
}

fn index(position: u64) -> usize {
    usize::try_from(position).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_bytes_do_not_depend_on_where_reading_starts() {
        let content = Content::Generated { seed: 7, size: 1000 };
        let whole = content.chunk(0, 1000);
        assert_eq!(whole.len(), 1000);
        for from in [1, 7, 8, 9, 500, 999] {
            assert_eq!(content.chunk(from, 1000), whole.slice(index(from)..));
        }
    }
}
