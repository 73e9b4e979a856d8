use proptest::prelude::*;
use rstest::rstest;

use super::*;

const MIB: u64 = 1 << 20;

fn need(unwritten: u64, whole: u64) -> Need {
    Need { share: Share { whole, unwritten }, precision: Precision::AtLeast }
}

fn room(free: u64, kept: u64, promised: u64) -> Room {
    Room { free, kept, stored: 0, quota: None, promised: Share { whole: promised, unwritten: promised } }
}

#[rstest]
#[case::fits(need(10, 10), room(10, 0, 0), None)]
#[case::nothing_to_fetch_on_a_full_disk(need(0, 0), room(0, 64, 100), None)]
#[case::one_byte_short(need(11, 11), room(10, 0, 0), Some(1))]
#[case::some_is_kept_free(need(10, 10), room(73, 64, 0), Some(1))]
#[case::some_is_promised(need(10, 10), room(100, 64, 30), Some(4))]
#[case::less_is_free_than_is_kept(need(1, 1), room(10, 64, 0), Some(55))]
#[case::a_part_is_here(need(4, 10), room(4, 0, 0), None)]
#[case::more_than_there_can_be(need(u64::MAX, u64::MAX), room(10, 10, u64::MAX), Some(u64::MAX - 10))]
fn an_image_fits_into_what_is_free(#[case] need: Need, #[case] room: Room, #[case] missing: Option<u64>) {
    assert_eq!(admit(need, room).err().map(|shortage| shortage.missing), missing);
}

#[rstest]
#[case::fits(40, 50, 10, None)]
#[case::one_byte_over(41, 50, 10, Some(1))]
#[case::already_over(0, 120, 0, Some(20))]
fn an_image_fits_into_the_quota(
    #[case] whole: u64,
    #[case] stored: u64,
    #[case] promised: u64,
    #[case] missing: Option<u64>,
) {
    let room = Room { quota: Some(100), stored, ..room(1 << 40, 0, promised) };
    // What is partly here counts in whole: unfinished downloads are not among what is stored.
    let admitted = admit(need(1, whole), room);
    assert_eq!(admitted.err().map(|shortage| shortage.missing), missing);
}

#[test]
fn a_refusal_says_need_have_and_what_could_be_freed() {
    let reference = Reference::parse("r.io/a:1").unwrap();
    let message = |need, room, could_free| admit(need, room).unwrap_err().message(&reference, Ok(could_free));
    assert_eq!(
        message(need(12_300 * MIB, 12_300 * MIB), room(4100 * MIB, 64 * MIB, 0), 1200 * MIB),
        "not enough disk space for image r.io/a:1: needs at least 12.0 GiB, 4.0 GiB free of which 64.0 MiB are kept free, \
         1.1 GiB could be freed by removing unused images"
    );
    let exact = Need { precision: Precision::Exact, ..need(20 * MIB, 20 * MIB) };
    assert_eq!(
        message(exact, room(10 * MIB, 0, 2 * MIB), 0),
        "not enough disk space for image r.io/a:1: needs 20.0 MiB, 10.0 MiB free, 2.0 MiB are promised to other pulls, \
         nothing could be freed by removing unused images"
    );
    let quota = Room { quota: Some(100 * MIB), stored: 90 * MIB, ..room(1 << 40, 0, 0) };
    assert_eq!(
        message(need(20 * MIB, 20 * MIB), quota, 5 * MIB),
        "not enough space for image r.io/a:1: needs at least 20.0 MiB, images take 90.0 MiB of 100.0 MiB \
         (limits.maxStoreBytes), 5.0 MiB could be freed by removing unused images"
    );
}

#[test]
fn a_refusal_says_why_nothing_is_freed_yet() {
    let (reference, shortage) = (Reference::parse("r.io/a:1").unwrap(), admit(need(9, 9), room(8, 0, 0)).unwrap_err());
    assert_eq!(
        shortage.message(&reference, Err(NotYet)),
        "not enough disk space for image r.io/a:1: needs at least 9 B, 8 B free, and no image is removed: it is not known yet who needs \
         which image: the daemon has just started, and has not read all its pods"
    );
}

proptest! {
    /// If as much is freed as was missing, the image fits, and with a byte less it does not.
    #[test]
    fn what_is_missing_is_exactly_what_must_be_freed(
        unwritten in 1_u64..1000, written in 0_u64..100, free in 0_u64..2000, kept in 0_u64..200,
        stored in 0_u64..2000, quota in prop::option::of(1_u64..2000), promised in 0_u64..300,
    ) {
        let need = need(unwritten, unwritten + written);
        let room = Room { stored: stored + 2000, quota: quota.map(|quota| quota + 1000), ..room(free, kept, promised) };
        if let Err(shortage) = admit(need, room) {
            let after = |freed| Room { free: room.free + freed, stored: room.stored.saturating_sub(freed), ..room };
            if shortage.missing <= room.stored {
                prop_assert!(admit(need, after(shortage.missing)).is_ok());
            }
            prop_assert!(admit(need, after(shortage.missing - 1)).is_err());
        }
    }
}
