use proptest::prelude::*;
use rstest::rstest;

use super::*;

const GIB: u64 = 1 << 30;

fn extent(file_offset: u64, device: u16, device_offset: u64, length: u64) -> Extent {
    Extent { file_offset, device, device_offset, length }
}

fn devices(sizes: &[u64]) -> Vec<Device> {
    sizes.iter().map(|size| Device::new("00", *size).unwrap()).collect()
}

#[rstest]
#[case::one_block(1, vec![extent(0, 0, 512, 1)], 0, 1)]
#[case::contiguous(700, vec![extent(0, 0, 512, 700)], 1, 1)]
#[case::joined(2048, vec![extent(0, 0, 0, 512), extent(512, 0, 512, 1536)], 2, 1)]
#[case::two_devices(1024, vec![extent(0, 0, 0, 512), extent(512, 1, 512, 512)], 0, 2)]
#[case::hole_in_front(4096, vec![extent(2048, 0, 0, 2048)], 2, 2)]
#[case::hole_behind(4096, vec![extent(0, 0, 0, 1536)], 0, 8)]
#[case::only_hole(5 * GIB, vec![], 24, 1)]
#[case::empty_extent_is_no_boundary(2048, vec![extent(0, 0, 0, 2048), extent(2048, 0, 7, 0)], 2, 1)]
#[case::above_the_largest_chunk(1025 * GIB, vec![extent(0, 0, 0, 1025 * GIB)], 31, 2)]
fn chunks_are_as_large_as_the_boundaries_allow(
    #[case] size: u64,
    #[case] extents: Vec<Extent>,
    #[case] bits: u8,
    #[case] count: u64,
) {
    assert_eq!(Chunks::of(size, &extents), Chunks { bits, count });
}

#[rstest]
#[case::no_device(1024, extent(0, 2, 0, 512), ExtentError::Device { device: 2 })]
#[case::file_offset(1024, extent(1, 0, 0, 512), ExtentError::Unaligned)]
#[case::device_offset(1024, extent(0, 0, 1, 512), ExtentError::Unaligned)]
#[case::loose_end(1024, extent(0, 0, 0, 511), ExtentError::Unaligned)]
#[case::past_file(1024, extent(512, 0, 0, 513), ExtentError::PastFile)]
#[case::overflow(u64::MAX >> 1, extent(512, 0, 0, u64::MAX), ExtentError::PastFile)]
#[case::past_device(4096, extent(0, 0, 1024, 1536), ExtentError::PastDevice)]
#[case::last_block_past_device(513, extent(0, 1, 0, 513), ExtentError::PastDevice)]
#[case::device_overflow(u64::MAX >> 1, extent(0, 0, 512 * (u64::MAX / 512), 512), ExtentError::PastDevice)]
fn refuses_extent(#[case] size: u64, #[case] bad: Extent, #[case] source: ExtentError) {
    let found = check(size, &[bad], &devices(&[2048, 512]));
    assert_eq!(found, Err(NodeError::Extent { file_offset: bad.file_offset, source }));
}

#[rstest]
#[case::overlap(extent(0, 0, 0, 1024), extent(512, 0, 0, 512))]
#[case::backwards(extent(1024, 0, 0, 512), extent(0, 0, 0, 512))]
fn refuses_order(#[case] first: Extent, #[case] second: Extent) {
    let found = check(4096, &[first, second], &devices(&[4096]));
    assert_eq!(found, Err(NodeError::Extent { file_offset: second.file_offset, source: ExtentError::Order }));
}

#[test]
fn refuses_sizes_above_loff_t() {
    assert_eq!(check(1 << 63, &[], &[]), Err(NodeError::FileTooLarge { size: 1 << 63 }));
}

/// Runs of blocks: length, and the device block or a hole.
fn pieces() -> impl Strategy<Value = Vec<(u64, Option<(u16, u64)>)>> {
    prop::collection::vec((1_u64..20, prop::option::of((0_u16..3, 0_u64..1000))), 0..12)
}

proptest! {
    #[test]
    fn indexes_lead_every_block_to_its_place(pieces in pieces(), cut in 0_u64..512) {
        let mut places = Vec::new();
        let mut extents = Vec::new();
        for (blocks, at) in pieces {
            if let Some((device, block)) = at {
                extents.push(extent(places.len() as u64 * 512, device, block * 512, blocks * 512));
            }
            places.extend((0..blocks).map(|block| at.map(|(device, start)| (device, start + block))));
        }
        let size = (places.len() as u64 * 512).saturating_sub(cut);
        if let Some(last) = extents.last_mut() {
            last.length = last.length.min(size - last.file_offset);
        }
        prop_assert_eq!(check(size, &extents, &devices(&[1 << 20; 3])), Ok(()));
        let chunks = Chunks::of(size, &extents);
        let found: Vec<_> = chunks
            .indexes(&extents)
            .flat_map(|index| (0..1_u64 << chunks.bits).map(move |block| {
                (index.block.get() != HOLE).then(|| (index.device.get() - 1, u64::from(index.block.get()) + block))
            }))
            .take(places.len())
            .collect();
        prop_assert_eq!(found, places);
    }
}
