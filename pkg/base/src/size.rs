//! Sizes as people read them: binary units, one decimal, rounded down, so that nothing looks finished or free that is not.

/// What comes after bytes, each 1024 of the one before.
const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

/// `14.2 GiB`: in the largest unit of which there is one.
pub fn binary(bytes: u64) -> String {
    let Some((size, unit)) = unit_of(bytes) else { return format!("{bytes} B") };
    format!("{} {unit}", tenths(bytes, size))
}

/// `3.1 of 14.2 GiB`: both in the unit of the whole.
pub fn binary_of(part: u64, whole: u64) -> String {
    let Some((size, unit)) = unit_of(whole) else { return format!("{part} of {whole} bytes") };
    format!("{} of {} {unit}", tenths(part, size), tenths(whole, size))
}

/// The largest unit of which there is one, with its bytes; none below the first.
fn unit_of(bytes: u64) -> Option<(u64, &'static str)> {
    let units = UNITS.iter().zip((1_u32..).map(|power| 1_u64 << (10 * power)));
    units.map(|(unit, size)| (size, *unit)).take_while(|(size, _)| *size <= bytes).last()
}

fn tenths(bytes: u64, size: u64) -> String {
    let tenths = u128::from(bytes) * 10 / u128::from(size.max(1));
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0, "0 B")]
    #[case(1023, "1023 B")]
    #[case(2048, "2.0 KiB")]
    #[case((1 << 30) - 1, "1023.9 MiB")]
    #[case(15_247_133_900, "14.1 GiB")]
    #[case(u64::MAX, "16777215.9 TiB")]
    fn a_size_is_in_its_largest_unit(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(binary(bytes), text);
    }

    #[rstest]
    #[case(3_400_000_000, 15_300_000_000, "3.1 of 14.2 GiB")]
    #[case(1023, 1023, "1023 of 1023 bytes")]
    #[case(1, 1024, "0.0 of 1.0 KiB")]
    #[case(u64::MAX - 1, u64::MAX, "16777215.9 of 16777215.9 TiB")]
    fn a_part_is_in_the_unit_of_the_whole(#[case] part: u64, #[case] whole: u64, #[case] text: &str) {
        assert_eq!(binary_of(part, whole), text);
    }
}
