use std::collections::BTreeMap;
use std::io;

use rstest::rstest;

use super::*;
use crate::error::ExtentError;
use crate::tree::Attributes;

fn device(size: u64) -> Device {
    Device::new("sha256:00", size).unwrap()
}

fn tree_with(attributes: Attributes, content: Content) -> Tree {
    let mut tree = Tree::new(Attributes::default());
    let directory = Node { attributes: Attributes::default(), content: Content::Directory(BTreeMap::new()) };
    let directory = tree.add(directory);
    let id = tree.add(Node { attributes, content });
    tree.link(Tree::ROOT, b"dir", directory);
    tree.link(directory, b"bad\xff", id);
    tree
}

/// Writes, and checks that an error in the tree leaves no byte behind.
fn try_write(tree: &Tree, devices: &[Device], limits: Limits) -> Result<Vec<u8>, WriteError> {
    let mut bytes = Vec::new();
    let written = write(tree, devices, &limits, &mut bytes);
    assert!(written.is_ok() || bytes.is_empty());
    written.map(|_| bytes)
}

#[rstest]
#[case::type_bits(Attributes { mode: 0o10_000, ..Attributes::default() }, Content::Fifo, NodeError::Mode { mode: 0o10_000 })]
#[case::nanoseconds(
    Attributes { mtime_nsec: 1_000_000_000, ..Attributes::default() },
    Content::Fifo,
    NodeError::Nanoseconds { nsec: 1_000_000_000 }
)]
#[case::major(
    Attributes::default(),
    Content::CharDevice { major: 4096, minor: 0 },
    NodeError::DeviceNumber { major: 4096, minor: 0 }
)]
#[case::minor(
    Attributes::default(),
    Content::BlockDevice { major: 0, minor: 1 << 20 },
    NodeError::DeviceNumber { major: 0, minor: 1 << 20 }
)]
#[case::no_target(Attributes::default(), Content::Symlink(Vec::new()), NodeError::LinkTarget { length: 0 })]
#[case::long_target(Attributes::default(), Content::Symlink(vec![b'a'; 4096]), NodeError::LinkTarget { length: 4096 })]
#[case::zero_in_target(Attributes::default(), Content::Symlink(b"a\0b".to_vec()), NodeError::LinkTarget { length: 3 })]
#[case::extent(
    Attributes::default(),
    Content::File { size: 512, extents: vec![Extent { file_offset: 0, device: 1, device_offset: 0, length: 512 }] },
    NodeError::Extent { file_offset: 0, source: ExtentError::Device { device: 1 } }
)]
fn error_names_the_node(#[case] attributes: Attributes, #[case] content: Content, #[case] expected: NodeError) {
    let tree = tree_with(attributes, content);
    let error = try_write(&tree, &[device(512)], Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), r#"cannot store "/dir/bad\xff""#);
    assert!(matches!(error, WriteError::Node { source, .. } if source == expected));
}

#[rstest]
#[case::unaligned(vec![device(512), device(513)], "size 513 of device 1 is no multiple of 512")]
#[case::above_32_bit_blocks(vec![device(1 << 41)], "size 2199023255552 of device 0 is above 2199023255040")]
#[case::too_many(vec![device(512); 65536], "65536 devices are more than the 65535 that an image can name")]
fn refuses_devices(#[case] devices: Vec<Device>, #[case] message: &str) {
    let error = try_write(&Tree::new(Attributes::default()), &devices, Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), message);
}

#[test]
fn largest_device_is_accepted() {
    let last = (1 << 41) - 1024;
    let extents = vec![Extent { file_offset: 0, device: 0, device_offset: last, length: 512 }];
    let tree = tree_with(Attributes::default(), Content::File { size: 512, extents });
    assert!(try_write(&tree, &[device((1 << 41) - 512)], Limits::default()).is_ok());
}

#[test]
fn image_of_the_allowed_size_is_written_and_none_above() {
    let tree = tree_with(Attributes::default(), Content::Fifo);
    let size = try_write(&tree, &[], Limits::default()).unwrap().len() as u64;
    let at = |max_image_bytes| Limits { max_image_bytes, ..Limits::default() };
    assert!(try_write(&tree, &[], at(size)).is_ok());
    assert!(matches!(try_write(&tree, &[], at(size - 1)), Err(WriteError::ImageTooLarge { .. })));
}

/// Alternating blocks of data and holes in a file of 8 EiB: every block of it would need an index.
#[test]
fn hostile_sparse_file_is_refused_at_no_cost() {
    let extents = vec![Extent { file_offset: 512, device: 0, device_offset: 0, length: 512 }];
    let tree = tree_with(Attributes::default(), Content::File { size: u64::MAX >> 1, extents });
    for max_image_bytes in [1 << 30, u64::MAX] {
        let limits = Limits { max_image_bytes, ..Limits::default() };
        let error = try_write(&tree, &[device(512)], limits).unwrap_err();
        assert!(matches!(error, WriteError::ImageTooLarge { path, .. } if path.as_bytes() == b"/dir/bad\xff"));
    }
}

#[test]
fn same_tree_gives_the_same_bytes_in_any_order_of_building() {
    let build = |names: [&[u8]; 3]| {
        let mut tree = Tree::new(Attributes::default());
        for name in names {
            let id = tree.add(Node { attributes: Attributes::default(), content: Content::Symlink(name.to_vec()) });
            tree.link(Tree::ROOT, name, id);
        }
        // Unreachable, and so of no influence.
        tree.add(Node { attributes: Attributes::default(), content: Content::Fifo });
        try_write(&tree, &[device(512)], Limits::default()).unwrap()
    };
    assert_eq!(build([b"a", b"b", b"c"]), build([b"c", b"a", b"b"]));
}

#[test]
fn failing_output_is_an_error() {
    struct Short(usize);
    impl Write for Short {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.len() > self.0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0 -= bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let tree = tree_with(Attributes::default(), Content::Fifo);
    let write_into = |room| write(&tree, &[], &Limits::default(), Short(room));
    assert!(write_into(1 << 20).is_ok());
    assert!(matches!(write_into(0), Err(WriteError::Output { .. })));
}

#[rstest]
#[case::small(1, 3, 0x103)]
#[case::minor_above_8_bits(259, 0x12345, 0x1231_0345)]
#[case::largest(0xfff, 0xf_ffff, u32::MAX)]
fn device_numbers_are_encoded_as_the_kernel_does(#[case] major: u32, #[case] minor: u32, #[case] expected: u32) {
    assert_eq!(device_number(&Content::CharDevice { major, minor }), expected);
}
