//! Hashes as text.

use aws_lc_rs::digest::{SHA256, digest};

/// The SHA-256 of `bytes` as 64 lower-case hex digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let nibbles = |byte: &u8| [byte >> 4, byte & 0x0f];
    let hash = digest(&SHA256, bytes);
    hash.as_ref().iter().flat_map(nibbles).filter_map(|nibble| char::from_digit(nibble.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn hashes_as_sha256sum_does() {
        // printf busybox | sha256sum
        let expected = "9d75f0d7c398df565d7ac04c6819b62d6d8f9560f5eb4672596ecd8f7e96ae91";
        assert_eq!(super::sha256(b"busybox"), expected);
    }
}
