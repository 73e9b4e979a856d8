//! Headers of tar archives (POSIX.1-2001, `pax`): what the command line sends and the daemon exports. The same content makes the same bytes.

/// Bytes of a block: headers are as long, and files are padded to whole ones.
pub const BLOCK: u64 = 512;
/// What an archive ends with: two blocks of zeros.
pub const END: [u8; 1024] = [0; 1024];

/// Longest path in a plain header.
const NAME_MAX: usize = 100;
/// Largest size in a plain header: eleven octal digits.
const SIZE_MAX: u64 = 0o777_7777_7777;

/// What a header is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file that anybody may read.
    File,
    /// A directory.
    Directory,
    /// Records for the header that follows.
    Records,
}

/// The header of a file or directory of root, from the beginning of time; before it the records that it needs for a long path or a large
/// file. `size` bytes follow, and [`padding`].
pub fn header(path: &str, size: u64, kind: Kind) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    if path.len() > NAME_MAX {
        records.extend(record("path", path));
    }
    if size > SIZE_MAX {
        records.extend(record("size", &size.to_string()));
    }
    if !records.is_empty() {
        let length = records.len() as u64;
        bytes.extend(block("pax", length, Kind::Records));
        bytes.extend(records);
        bytes.extend(padding(length));
    }
    bytes.extend(block(path, size, kind));
    bytes
}

/// The zeros that follow a file of `size` bytes.
pub fn padding(size: u64) -> impl Iterator<Item = u8> {
    let count = size.next_multiple_of(BLOCK).saturating_sub(size);
    std::iter::repeat_n(0, usize::try_from(count).unwrap_or_default())
}

/// One record: its whole length, its own digits included, the key and the value.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    // Adding digits can add a digit.
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

fn block(path: &str, size: u64, kind: Kind) -> Vec<u8> {
    let (flag, mode) = match kind {
        Kind::File => (b"0", "0000644"),
        Kind::Directory => (b"5", "0000755"),
        Kind::Records => (b"x", "0000644"),
    };
    let name: Vec<u8> = path.bytes().take(NAME_MAX).collect();
    let fields: [&[u8]; 8] = [
        mode.as_bytes(),
        b"0000000",
        b"0000000",
        // A size that does not fit stands in the records.
        &format!("{:011o}", if size > SIZE_MAX { 0 } else { size }).into_bytes(),
        b"00000000000",
        b"        ",
        flag,
        b"",
    ];
    let widths = [8, 8, 8, 12, 12, 8, 1, 100];
    let mut block = padded(&name, NAME_MAX);
    for (field, width) in fields.iter().zip(widths) {
        block.extend(padded(field, width));
    }
    block.extend(b"ustar\x0000");
    block.extend(padded(b"", 247));
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let checksum = format!("{sum:06o}\0 ").into_bytes();
    // After name, mode, owner, group, size and time (`struct posix_header`, `chksum`).
    block.splice(148..156, checksum);
    block
}

fn padded(bytes: &[u8], width: usize) -> Vec<u8> {
    let mut field = bytes.to_vec();
    field.resize(width, 0);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_gnu_tar_writes_it() {
        let block = header("index.json", 0o1234, Kind::File);
        assert_eq!(block.len(), 512);
        assert_eq!(&block[..11], b"index.json\0");
        assert_eq!(&block[100..156], b"0000644\x000000000\x000000000\x0000000001234\x0000000000000\x00007747\0 ");
        assert_eq!((block[156], &block[257..265]), (b'0', &b"ustar\x0000"[..]));
    }

    #[test]
    fn long_paths_and_large_files_have_records() {
        let path = format!("blobs/sha512/{}", "a".repeat(128));
        let bytes = header(&path, 1 << 40, Kind::File);
        assert_eq!(bytes.len(), 3 * 512);
        let records = format!("151 path={path}\n22 size=1099511627776\n");
        assert!(bytes[512..].starts_with(records.as_bytes()), "{:?}", String::from_utf8_lossy(&bytes[512..720]));
    }

    #[test]
    fn files_end_with_a_block() {
        for (size, zeros) in [(0, 0), (1, 511), (512, 0), (513, 511)] {
            assert_eq!(padding(size).count(), zeros);
        }
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        assert_eq!(record("a", &"x".repeat(93)).len(), 99);
        assert_eq!(record("a", &"x".repeat(94)).len(), 101, "a third digit");
    }
}
