//! Resource quantities (`500m`, `1Gi`), as far as deciding a pod's QoS class needs them.

/// Quantities are compared in these units: the smallest that the API has (apimachinery, `resource.Nano`).
const NANOS: i128 = 1_000_000_000;
/// Digits of a nano unit.
const NANO_DIGITS: usize = 9;
/// The API server's own words for a malformed quantity (apimachinery, `resource.ErrFormatWrong`).
pub(crate) const FORMAT_WRONG: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// The value in billionths, rounded up; `None` if the text is no quantity. Saturates where Kubernetes caps.
pub(crate) fn nanos(text: &str) -> Option<i128> {
    let negative = text.starts_with('-');
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(number_end)?;
    let magnitude = scale(decimal_nanos(number)?, suffix)?;
    Some(if negative { -magnitude } else { magnitude })
}

/// The value if it is a whole number.
pub(crate) fn whole(text: &str) -> Option<i128> {
    let nanos = nanos(text)?;
    (nanos % NANOS == 0).then_some(nanos / NANOS)
}

/// `12.5` in billionths; more than nine decimals are rounded up.
fn decimal_nanos(number: &str) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let (kept, dropped) = fraction.split_at_checked(NANO_DIGITS).unwrap_or((fraction, ""));
    let digits = format!("{whole}{kept:0<NANO_DIGITS$}");
    let value: i128 = digits.parse().ok()?;
    Some(value + i128::from(dropped.bytes().any(|digit| digit != b'0')))
}

fn scale(value: i128, suffix: &str) -> Option<i128> {
    let (factor, divisor) = match suffix {
        "" => (1, 1),
        "n" => (1, NANOS),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (NANOS, 1),
        "T" => (NANOS * 1_000, 1),
        "P" => (NANOS * 1_000_000, 1),
        "E" => (NANOS * NANOS, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => decimal_exponent(exponent)?,
    };
    Some(value.saturating_mul(factor).saturating_add(divisor - 1).div_euclid(divisor))
}

/// `e3` or `E-6` as a factor and a divisor.
fn decimal_exponent(suffix: &str) -> Option<(i128, i128)> {
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1", Some(NANOS))]
    #[case("500m", Some(NANOS / 2))]
    #[case("0.5", Some(NANOS / 2))]
    #[case(".5", Some(NANOS / 2))]
    #[case("+1.", Some(NANOS))]
    #[case("-1", Some(-NANOS))]
    #[case("1Ki", Some(1024 * NANOS))]
    #[case("1e3", Some(1000 * NANOS))]
    #[case("1E-3", Some(NANOS / 1000))]
    #[case("0.0000000001", Some(1))]
    #[case("0.5n", Some(1))]
    #[case("1E", Some(NANOS * NANOS * NANOS))]
    #[case("", None)]
    #[case(".", None)]
    #[case("1.2.3", None)]
    #[case("1 Gi", None)]
    #[case("Gi", None)]
    #[case("1xx", None)]
    #[case("99999999999999999999999999999999999999999", None)]
    fn reads_quantities(#[case] text: &str, #[case] expected: Option<i128>) {
        assert_eq!(nanos(text), expected, "{text:?}");
    }
}
