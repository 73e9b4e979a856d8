//! Numbers as tars write them.

/// Seconds since 1970, and nanoseconds on top of them, below 1e9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// A numeric header field: octal text (POSIX ustar), or GNU's base-256 (two's complement, marked by the top bit). `None` if it is neither or exceeds 64 bits.
pub(crate) fn field(bytes: &[u8]) -> Option<i64> {
    match bytes.first() {
        Some(first) if first & 0x80 != 0 => base_256(bytes),
        _ => octal(bytes).and_then(|value| i64::try_from(value).ok()),
    }
}

/// Octal digits between blanks and NULs; nothing at all is zero, as every reader takes it.
pub(crate) fn octal(bytes: &[u8]) -> Option<u64> {
    let is_pad = |byte: &u8| matches!(byte, b' ' | 0);
    let start = bytes.iter().position(|byte| !is_pad(byte)).unwrap_or(bytes.len());
    let text = bytes.get(start..)?.split(|byte| *byte == 0).next()?;
    text.trim_ascii_end().iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn base_256(bytes: &[u8]) -> Option<i64> {
    let (first, rest) = bytes.split_first()?;
    // The first byte has the mark, then the sign, then six bits of the number.
    let sign: i64 = if first & 0x40 == 0 { 0 } else { -1 };
    let top = i64::from(first & 0x3f) | (sign << 6);
    rest.iter().try_fold(top, |value, byte| value.checked_mul(256).map(|shifted| shifted | i64::from(*byte)))
}

/// A decimal number without sign, as PAX writes sizes and maps.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// A decimal time with optional sign and fraction (POSIX pax, "mtime"). Beyond 64 bits of seconds it is clamped; digits below the nanosecond are cut off.
pub(crate) fn time(text: &[u8]) -> Option<Time> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let whole = parts.next()?;
    let fraction = parts.next().unwrap_or_default();
    if whole.is_empty() || !digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') || fraction.contains(&b'.')
    {
        return None;
    }
    let seconds = decimal(whole).and_then(|value| i64::try_from(value).ok());
    let nanoseconds = nanoseconds(fraction);
    Some(match (negative, seconds) {
        (false, None) => Time { seconds: i64::MAX, nanoseconds: 0 },
        (true, None) => Time { seconds: i64::MIN, nanoseconds: 0 },
        (false, Some(seconds)) => Time { seconds, nanoseconds },
        (true, Some(seconds)) if nanoseconds == 0 => Time { seconds: -seconds, nanoseconds },
        // -1.5 is half a second after -2.
        (true, Some(seconds)) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn nanoseconds(fraction: &[u8]) -> u32 {
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    digits.fold(0, |value, digit| value * 10 + u32::from(digit.saturating_sub(b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::octal(b"0000644\0", Some(0o644))]
    #[case::blanks(b"   644 \0", Some(0o644))]
    #[case::empty(b"\0\0\0\0\0\0\0\0", Some(0))]
    #[case::eight(b"0000008\0", None)]
    #[case::minus(b"-000001\0", None)]
    #[case::base_256(b"\x80\0\0\0\0\0\0\x05", Some(5))]
    #[case::base_256_of_2_31(b"\x80\0\0\0\x80\0\0\0", Some(1 << 31))]
    #[case::base_256_minus_one(b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1))]
    #[case::base_256_too_long(b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None)]
    #[case::base_256_most(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX))]
    fn header_fields(#[case] bytes: &[u8], #[case] value: Option<i64>) {
        assert_eq!(field(bytes), value);
    }

    #[rstest]
    #[case(b"1", Some((1, 0)))]
    #[case(b"1.5", Some((1, 500_000_000)))]
    #[case(b"-1.5", Some((-2, 500_000_000)))]
    #[case(b"-0.000000001", Some((-1, 999_999_999)))]
    #[case(b"1.1234567899", Some((1, 123_456_789)))]
    #[case(b"253402300799", Some((253_402_300_799, 0)))]
    #[case(b"99999999999999999999999.5", Some((i64::MAX, 0)))]
    #[case(b"-99999999999999999999999", Some((i64::MIN, 0)))]
    #[case(b"NaN", None)]
    #[case(b"1e300", None)]
    #[case(b"", None)]
    #[case(b".5", None)]
    #[case(b"1.2.3", None)]
    #[case(b"--1", None)]
    fn times(#[case] text: &[u8], #[case] expected: Option<(i64, u32)>) {
        assert_eq!(time(text).map(|time| (time.seconds, time.nanoseconds)), expected);
    }

    proptest! {
        #[test]
        fn base_256_reads_what_gnu_writes(value: i64) {
            let mut bytes = [if value < 0 { 0xff } else { 0 }; 12];
            bytes[4..].copy_from_slice(&value.to_be_bytes());
            bytes[0] |= 0x80;
            prop_assert_eq!(field(&bytes), Some(value));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            field(&bytes);
            decimal(&bytes);
            if let Some(time) = time(&bytes) {
                prop_assert!(time.nanoseconds < 1_000_000_000);
            }
        }
    }
}
