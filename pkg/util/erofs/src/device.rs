//! Devices that an image points into, and the tags that bind a device slot to the content it must be given.

use std::fmt;

/// Bytes of a tag in the device table (`struct erofs_deviceslot`).
const TAG_SIZE: usize = 64;

/// Names the content of a device: the encoded part of a digest, at most its first 64 characters. A SHA-256 digest fits whole.
///
/// The kernel compares no tags: whoever mounts an image must give it, slot by slot, the files that the tags name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceTag([u8; TAG_SIZE]);

/// A device that an image points into, in the order of the image's device table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// What the device holds.
    pub tag: DeviceTag,
    /// Bytes of the file behind the device that may be pointed at; a multiple of 512.
    pub size: u64,
}

/// Why a string is no device tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Nothing after the algorithm.
    #[error("empty device tag")]
    Empty,
    /// A byte outside the OCI grammar of an encoded digest (`[a-zA-Z0-9=_-]`).
    #[error("byte {byte:#04x} at {position} of a device tag is no part of an encoded digest")]
    Byte {
        /// Where, from the start of the encoded part.
        position: usize,
        /// Which.
        byte: u8,
    },
    /// Bytes after the zero that ends a shorter tag.
    #[error("device tag is not padded with zeros")]
    Padding,
}

// === impl DeviceTag ===

impl DeviceTag {
    /// The tag for a digest, with or without its algorithm (`sha256:6b5f…` or `6b5f…`), of which nothing is kept; longer than 64
    /// characters is cut.
    pub fn from_digest(digest: &str) -> Result<Self, TagError> {
        let encoded = digest.split_once(':').map_or(digest, |(_algorithm, encoded)| encoded).as_bytes();
        check(encoded)?;
        let mut tag = [0; TAG_SIZE];
        tag.iter_mut().zip(encoded).for_each(|(to, from)| *to = *from);
        Ok(Self(tag))
    }

    /// Checks the bytes of a slot.
    pub(crate) fn from_slot(slot: [u8; TAG_SIZE]) -> Result<Self, TagError> {
        let end = slot.iter().position(|byte| *byte == 0).unwrap_or(TAG_SIZE);
        let (encoded, padding) = slot.split_at_checked(end).unwrap_or((&slot, &[]));
        check(encoded)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(TagError::Padding);
        }
        Ok(Self(slot))
    }

    /// The characters of the tag, without padding.
    pub fn as_str(&self) -> &str {
        // Both constructors admit ASCII alone.
        str::from_utf8(&self.0).unwrap_or_default().trim_end_matches('\0')
    }

    /// Whether this is the tag of a digest.
    pub fn is_of(&self, digest: &str) -> bool {
        Self::from_digest(digest).is_ok_and(|tag| tag == *self)
    }

    /// The bytes of the slot, zero padded.
    pub fn as_bytes(&self) -> &[u8; TAG_SIZE] {
        &self.0
    }
}

impl fmt::Display for DeviceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeviceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceTag({self})")
    }
}

// === impl Device ===

impl Device {
    /// A device of the content with this digest, of which `size` bytes may be pointed at. The size is checked by [`crate::write`].
    pub fn new(digest: &str, size: u64) -> Result<Self, TagError> {
        Ok(Self { tag: DeviceTag::from_digest(digest)?, size })
    }
}

fn check(encoded: &[u8]) -> Result<(), TagError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-');
    match encoded.iter().enumerate().find(|(_, byte)| !allowed(**byte)) {
        Some((position, byte)) => Err(TagError::Byte { position, byte: *byte }),
        None if encoded.is_empty() => Err(TagError::Empty),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[rstest]
    #[case::with_algorithm(&format!("sha256:{SHA256}"), SHA256)]
    #[case::without_algorithm(SHA256, SHA256)]
    #[case::longer_is_cut(&format!("sha512:{SHA256}{SHA256}"), SHA256)]
    #[case::shorter_is_padded("md5:00ff", "00ff")]
    fn tag_is_the_encoded_part(#[case] digest: &str, #[case] expected: &str) {
        let tag = DeviceTag::from_digest(digest).unwrap();
        assert_eq!(tag.as_str(), expected);
        assert!(tag.is_of(digest));
        assert_eq!(DeviceTag::from_slot(*tag.as_bytes()), Ok(tag));
    }

    #[rstest]
    #[case::empty("", TagError::Empty)]
    #[case::only_algorithm("sha256:", TagError::Empty)]
    #[case::path("sha256:../x", TagError::Byte { position: 0, byte: b'.' })]
    #[case::slash("a/b", TagError::Byte { position: 1, byte: b'/' })]
    #[case::bad_beyond_the_cut(&format!("{SHA256}\n"), TagError::Byte { position: 64, byte: b'\n' })]
    fn refuses(#[case] digest: &str, #[case] error: TagError) {
        assert_eq!(DeviceTag::from_digest(digest), Err(error));
    }

    #[test]
    fn slot_with_bytes_after_its_end_is_refused() {
        let mut slot = *DeviceTag::from_digest("abcd").unwrap().as_bytes();
        slot[9] = b'x';
        assert_eq!(DeviceTag::from_slot(slot), Err(TagError::Padding));
    }
}
