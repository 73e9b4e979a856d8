use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::tree::{Attributes, Tree};
use crate::write::{Limits, write};

fn devices(count: u64) -> Vec<Device> {
    (0..count).map(|n| Device::new(&format!("sha256:{n:064x}"), n * 512).unwrap()).collect()
}

fn image(devices: &[Device]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&Tree::new(Attributes::default()), devices, &Limits::default(), &mut bytes).unwrap();
    bytes
}

/// Changes a byte and makes the checksum true again.
fn forged(at: usize, value: u8) -> Vec<u8> {
    let mut bytes = image(&devices(2));
    bytes[at] = value;
    bytes[1028..1032].fill(0);
    let sum = checksum(&bytes[1024..1536]);
    bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[rstest]
#[case::none(0)]
#[case::inside_the_first_block(3)]
#[case::past_it(4)]
#[case::most(65535)]
fn devices_are_read_back(#[case] count: u64) {
    let devices = devices(count);
    let bytes = image(&devices);
    let header = read_header(bytes.as_slice()).unwrap();
    assert_eq!(header, Header { bytes: bytes.len() as u64, inodes: 1, devices: devices.clone() });
    assert_eq!(read_devices(bytes.as_slice()).unwrap(), devices);
}

#[test]
fn damage_is_found() {
    let mut bytes = image(&devices(2));
    bytes[1024 + 16] ^= 1;
    assert!(matches!(read_devices(bytes.as_slice()), Err(HeaderError::Checksum { .. })));
}

#[test]
fn end_inside_the_header_is_an_error() {
    let bytes = image(&devices(9));
    for length in [0, 1024, 1535, 1152 + 9 * 128 - 1] {
        assert!(matches!(read_devices(&bytes[..length]), Err(HeaderError::Read { .. })), "{length}");
    }
}

#[rstest]
#[case::block_size(1024 + 12, 12, "blkszbits")]
#[case::compressed(1024 + 80, 0x0d, "feature_incompat")]
#[case::wide(1024 + 80, 0x8c, "feature_incompat")]
#[case::no_checksum(1024 + 8, 2, "feature_compat")]
#[case::table_elsewhere(1024 + 88, 10, "devt_slotoff")]
fn other_images_are_refused(#[case] at: usize, #[case] value: u8, #[case] field: &str) {
    let found = read_devices(forged(at, value).as_slice());
    assert!(matches!(found, Err(HeaderError::Foreign { field: f, .. }) if f == field), "{found:?}");
}

#[test]
fn tag_that_is_no_digest_is_refused() {
    let found = read_devices(forged(1152 + 128, b'/').as_slice());
    assert!(matches!(found, Err(HeaderError::Tag { index: 1, .. })), "{found:?}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(read_devices(bytes.as_slice()).is_err());
    }

    #[test]
    fn changed_headers_never_panic(changes in prop::collection::vec((1024_usize..1536, any::<u8>()), 0..8), end in 0_usize..8192) {
        let mut bytes = image(&devices(5));
        for (at, value) in changes {
            bytes[at] = value;
        }
        bytes[1024..1028].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[1028..1032].fill(0);
        let sum = checksum(&bytes[1024..1536]);
        bytes[1028..1032].copy_from_slice(&sum.to_le_bytes());
        bytes.truncate(end);
        if let Ok(devices) = read_devices(bytes.as_slice()) {
            prop_assert!(devices.iter().all(|device| device.size % 512 == 0));
        }
    }
}
