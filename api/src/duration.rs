//! Durations in Go's notation, as Kubernetes' configuration and messages write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Nanoseconds in each of Go's units (Go, package time, `unitMap`).
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    // The Greek letter, beside the micro sign.
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];
const SECOND: u128 = 1_000_000_000;
/// Go counts in signed 64-bit nanoseconds: about 292 years.
const MAX: u128 = i64::MAX as u128;

/// A duration of zero or more, written as `1h2m3.5s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Why a string is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The string is not of Go's form.
    #[error("invalid duration {0:?}: want a form such as 300ms, 1.5s or 2h45m")]
    Form(String),
    /// A number has no unit.
    #[error("missing unit in duration {0:?}")]
    NoUnit(String),
    /// A unit is none of `ns`, `us`, `ms`, `s`, `m`, `h`.
    #[error("unknown unit in duration {0:?}")]
    UnknownUnit(String),
    /// The duration is below zero.
    #[error("duration {0:?} is negative")]
    Negative(String),
    /// The duration does not fit 64-bit nanoseconds.
    #[error("duration {0:?} is too long")]
    TooLong(String),
}

// === impl Duration ===

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(std::time::Duration::ZERO);

    /// A whole number of seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// The same as the standard library's type.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }

    /// Whether it is zero, which configuration often uses for "never".
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self(duration)
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    /// Reads what Go's `time.ParseDuration` reads, except below zero.
    fn from_str(text: &str) -> Result<Self, DurationError> {
        let owned = || text.to_owned();
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if unsigned.is_empty() {
            return Err(DurationError::Form(owned()));
        }
        let nanos = if unsigned == "0" { 0 } else { total(unsigned, text)? };
        if text.starts_with('-') && nanos > 0 {
            return Err(DurationError::Negative(owned()));
        }
        let too_long = |_| DurationError::TooLong(text.to_owned());
        u64::try_from(nanos).map(std::time::Duration::from_nanos).map(Self).map_err(too_long)
    }
}

impl fmt::Display for Duration {
    /// As Go's `Duration.String`: `0s`, `1.5µs`, `100ms`, `2m0s`, `1h0m0.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let small = [("ns", 1), ("µs", 1_000), ("ms", 1_000_000)];
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < SECOND {
            let (unit, size) = small.into_iter().rfind(|(_, size)| nanos >= *size).unwrap_or(("ns", 1));
            return write!(f, "{}{unit}", Decimal(nanos, size));
        }
        let (minutes, rest) = (nanos / (60 * SECOND), nanos % (60 * SECOND));
        match (minutes / 60, minutes % 60) {
            (0, 0) => {}
            (0, minutes) => write!(f, "{minutes}m")?,
            (hours, minutes) => write!(f, "{hours}h{minutes}m")?,
        }
        write!(f, "{}s", Decimal(rest, SECOND))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A duration as the kubelet prints it in events: whole milliseconds, the rest cut off (`1.234s`, `850ms`, `0s`).
pub fn go_duration_ms(duration: std::time::Duration) -> String {
    let below = duration.subsec_nanos() % 1_000_000;
    Duration(duration.saturating_sub(std::time::Duration::from_nanos(below.into()))).to_string()
}

/// The first number of nanoseconds in the second, without trailing zeros.
struct Decimal(u128, u128);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(nanos, unit) = *self;
        let (whole, mut rest, mut place) = (nanos / unit, nanos % unit, unit / 10);
        write!(f, "{whole}")?;
        if rest > 0 {
            f.write_str(".")?;
        }
        while rest > 0 && place > 0 {
            write!(f, "{}", rest / place)?;
            rest %= place;
            place /= 10;
        }
        Ok(())
    }
}

/// The sum of `1h2m3.5s`, in nanoseconds.
fn total(mut rest: &str, whole: &str) -> Result<u128, DurationError> {
    let mut sum = 0_u128;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, next) = split(after, |c| !(c.is_ascii_digit() || c == '.'));
        sum = sum.saturating_add(term(number, unit, whole)?);
        if sum > MAX {
            return Err(DurationError::TooLong(whole.to_owned()));
        }
        rest = next;
    }
    Ok(sum)
}

fn term(number: &str, unit: &str, whole: &str) -> Result<u128, DurationError> {
    let (integer, fraction) = number.split_once('.').unwrap_or((number, ""));
    if integer.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(DurationError::Form(whole.to_owned()));
    }
    if unit.is_empty() {
        return Err(DurationError::NoUnit(whole.to_owned()));
    }
    let size = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
    let size = size.ok_or_else(|| DurationError::UnknownUnit(whole.to_owned()))?;
    let integer: u128 = if integer.is_empty() { 0 } else { integer.parse().unwrap_or(u128::MAX) };
    Ok(integer.saturating_mul(size).saturating_add(fraction_of(fraction, size)))
}

/// `0.<digits>` of a unit; what is below a nanosecond is cut off, as Go does.
fn fraction_of(digits: &str, unit: u128) -> u128 {
    // More than 18 digits cannot change a nanosecond of an hour.
    let (value, scale) = digits
        .bytes()
        .take(18)
        .fold((0_u128, 1_u128), |(value, scale), digit| (value * 10 + u128::from(digit - b'0'), scale * 10));
    value * unit / scale
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    // Values and texts of Go's own tests (src/time/time_test.go, durationTests and parseDurationTests).
    #[rstest]
    #[case("0s", 0)]
    #[case("1ns", 1)]
    #[case("1.1µs", 1_100)]
    #[case("2.2ms", 2_200_000)]
    #[case("3.3s", 3_300_000_000)]
    #[case("4m5s", 245_000_000_000)]
    #[case("4m5.001s", 245_001_000_000)]
    #[case("5h6m7.001s", 18_367_001_000_000)]
    #[case("8m0.000000001s", 480_000_000_001)]
    #[case("1h0m0s", 3_600_000_000_000)]
    #[case("2562047h47m16.854775807s", 9_223_372_036_854_775_807)]
    fn prints_and_reads_as_go(#[case] text: &str, #[case] nanos: u64) {
        let duration = Duration(std::time::Duration::from_nanos(nanos));
        assert_eq!(duration.to_string(), text);
        assert_eq!(text.parse(), Ok(duration));
    }

    #[rstest]
    #[case("0", 0)]
    #[case("+5s", 5_000_000_000)]
    #[case("-0", 0)]
    #[case("5.s", 5_000_000_000)]
    #[case(".5s", 500_000_000)]
    #[case("1.0s", 1_000_000_000)]
    #[case("1.004s", 1_004_000_000)]
    #[case("100.00100s", 100_001_000_000)]
    #[case("12us", 12_000)]
    #[case("12μs", 12_000)]
    #[case("3h30m", 12_600_000_000_000)]
    #[case("39h9m14.425s", 140_954_425_000_000)]
    #[case("0.3333333333333333333h", 1_200_000_000_000 - 1)]
    #[case("1m1m", 120_000_000_000)]
    fn reads_every_form_of_go(#[case] text: &str, #[case] nanos: u64) {
        assert_eq!(text.parse(), Ok(Duration(std::time::Duration::from_nanos(nanos))), "{text}");
    }

    #[rstest]
    #[case("", DurationError::Form(String::new()))]
    #[case("-", DurationError::Form("-".into()))]
    #[case(".s", DurationError::Form(".s".into()))]
    #[case("1.2.3s", DurationError::Form("1.2.3s".into()))]
    #[case("s", DurationError::Form("s".into()))]
    #[case("1 s", DurationError::UnknownUnit("1 s".into()))]
    #[case("3", DurationError::NoUnit("3".into()))]
    #[case("3d", DurationError::UnknownUnit("3d".into()))]
    #[case("-1s", DurationError::Negative("-1s".into()))]
    #[case("2562047h47m16.854775808s", DurationError::TooLong("2562047h47m16.854775808s".into()))]
    #[case("999999999999999999999999999999999999999999s", DurationError::TooLong("999999999999999999999999999999999999999999s".into()))]
    fn refuses_the_rest(#[case] text: &str, #[case] error: DurationError) {
        assert_eq!(text.parse::<Duration>(), Err(error));
    }

    #[rstest]
    #[case(0, "0s")]
    #[case(999_999, "0s")]
    #[case(850_999_999, "850ms")]
    #[case(1_234_567_890, "1.234s")]
    #[case(123_500_000_000, "2m3.5s")]
    fn cuts_to_milliseconds_as_the_kubelet(#[case] nanos: u64, #[case] text: &str) {
        assert_eq!(go_duration_ms(std::time::Duration::from_nanos(nanos)), text);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration(std::time::Duration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_has_an_answer(text in "[-+.0-9a-zµ ]{0,20}") {
            if let Ok(duration) = text.parse::<Duration>() {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }
    }
}
