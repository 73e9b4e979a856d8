//! The kernel's mount table (proc_pid_mountinfo(5)).
//!
//! One read of the table is consistent since Linux 5.8, where the file got a cursor.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use crate::error::{MountError, Result};

/// The table of the calling thread's mount namespace; `/proc/self` would be the one of the main thread.
const TABLE: &str = "/proc/thread-self/mountinfo";

/// A device number. It identifies the superblock: clones of one mounted image share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// 0 for file systems without a block device, such as a file-backed image.
    pub major: u32,
    /// Unique within the major number while the file system is mounted, and used again after that.
    pub minor: u32,
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The mount's number: unique while it lasts, used again after that.
    pub id: u64,
    /// The number of the mount that it is mounted on; for stacked mounts the one beneath.
    pub parent: u64,
    /// The superblock.
    pub device: DeviceNumber,
    /// The directory or file of the mounted file system that is seen here; `/` for all of it.
    pub root: PathBuf,
    /// Where it is mounted.
    pub at: PathBuf,
    /// Options of this mount, comma-separated: `ro,nosuid,nodev,relatime`.
    pub options: String,
    /// The type of the file system: `erofs`.
    pub fs_type: String,
    /// What was mounted, as told by the one who mounted: a device, a file, any word.
    pub source: OsString,
    /// Options of the superblock, comma-separated.
    pub super_options: String,
}

// === impl DeviceNumber ===

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

// === impl MountPoint ===

impl MountPoint {
    /// Whether the mount has an option such as `ro` or `nosuid`.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|own| own == option)
    }
}

/// All mounts of the calling thread's mount namespace, in the kernel's order.
pub(crate) fn read() -> Result<Vec<MountPoint>> {
    let table = std::fs::read(TABLE).map_err(|error| MountError::call("read", Path::new(TABLE), error))?;
    parse(&table)
}

/// The one of `mounts` that is visible at `at`: the top one where several are stacked.
pub(crate) fn top_at(mounts: Vec<MountPoint>, at: &Path) -> Option<MountPoint> {
    let stack: Vec<_> = mounts.into_iter().filter(|mount| mount.at == at).collect();
    let covered: Vec<u64> = stack.iter().map(|mount| mount.parent).collect();
    stack.into_iter().find(|mount| !covered.contains(&mount.id))
}

/// Reads a whole table.
fn parse(table: &[u8]) -> Result<Vec<MountPoint>> {
    table
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| MountError::MountTable { line: String::from_utf8_lossy(line).into_owned() })
        })
        .collect()
}

/// Reads `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`. Between `rw,noatime` and
/// the lone hyphen there is any number of propagation fields.
fn parse_line(line: &[u8]) -> Option<MountPoint> {
    // One space is one separator: an empty source leaves two spaces in a row.
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = device(fields.next()?)?;
    let root = path(fields.next()?);
    let at = path(fields.next()?);
    let options = text(fields.next()?);
    fields.find(|field| field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = OsString::from_vec(unescape(fields.next()?));
    let super_options = text(fields.next()?);
    Some(MountPoint { id, parent, device, root, at, options, fs_type, source, super_options })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn device(field: &[u8]) -> Option<DeviceNumber> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let (major, minor) = field.split_at_checked(colon)?;
    Some(DeviceNumber { major: number(major)?, minor: number(minor.get(1..)?)? })
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

/// Undoes the kernel's `seq_escape`: `\` and three octal digits stand for one byte. A backslash that starts nothing
/// of the kind stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = if *first == b'\\' { octal(tail) } else { None };
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    plain
}

/// The byte that the first three bytes spell in octal.
fn octal(digits: &[u8]) -> Option<u8> {
    let digits = digits.get(..3)?;
    if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests;
