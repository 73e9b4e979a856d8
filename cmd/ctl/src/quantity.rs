//! Quantities of resources, as far as a description needs to add, compare and divide them.

/// Billionths: the finest unit that a quantity has (apimachinery, pkg/api/resource/quantity.go).
const NANO: i128 = 1_000_000_000;

/// A quantity in billionths of its unit, rounded up; none where the text is no quantity or is too large to count.
pub(crate) fn nanos(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (numerator, denominator) = factor(suffix)?;
    let (mantissa, scale) = mantissa(number)?;
    let value = mantissa.checked_mul(numerator)?;
    Some(ceil_div(value, denominator.checked_mul(scale)?))
}

/// `value` in units of `divisor`, rounded up, as the downward API gives it (kubernetes, pkg/api/v1/resource/helpers.go,
/// `convertResourceCPUToString`).
pub(crate) fn divided(value: &str, divisor: Option<&str>) -> Option<i128> {
    let divisor = nanos(divisor.unwrap_or("1")).filter(|divisor| *divisor > 0).unwrap_or(NANO);
    Some(ceil_div(nanos(value)?, divisor))
}

/// Digits without their point, and the power of ten that the point stood for.
fn mantissa(number: &str) -> Option<(i128, i128)> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((digits, 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?))
}

/// What a suffix stands for, in billionths, as a fraction.
fn factor(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |exponent| Some((NANO * 10_i128.pow(exponent), 1));
    let binary = |exponent| Some((NANO << exponent, 1));
    match suffix {
        "n" => Some((1, 1)),
        "u" => Some((1_000, 1)),
        "m" => Some((1_000_000, 1)),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => exponent(suffix),
    }
}

/// `e3`, `E-3`.
fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
    if exponent < 0 { Some((NANO, power)) } else { Some((NANO.checked_mul(power)?, 1)) }
}

fn ceil_div(value: i128, by: i128) -> i128 {
    value.div_euclid(by) + i128::from(value.rem_euclid(by) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[0-9.+-]{0,60}[a-zA-Z]{0,3}[0-9+-]{0,12}", divisor: String) {
            let _seen = (nanos(&text), divided(&text, Some(&divisor)));
        }

        #[test]
        fn whole_numbers_are_themselves(number in 0..i128::from(u64::MAX)) {
            prop_assert_eq!(nanos(&number.to_string()), Some(number * NANO));
        }
    }

    #[rstest]
    #[case("0", Some(0))]
    #[case("1", Some(NANO))]
    #[case("100m", Some(NANO / 10))]
    #[case("0.1", Some(NANO / 10))]
    #[case("1.5Gi", Some(3 * (NANO << 29)))]
    #[case("2e3", Some(2000 * NANO))]
    #[case("2E-3", Some(NANO / 500))]
    #[case("1E", Some(NANO * 10_i128.pow(18)))]
    #[case("0.1n", Some(1))]
    #[case("-1", Some(-NANO))]
    #[case("", None)]
    #[case("x", None)]
    #[case("1x", None)]
    #[case("1e400", None)]
    fn parses_kubernetes_quantities(#[case] text: &str, #[case] expected: Option<i128>) {
        assert_eq!(nanos(text), expected);
    }

    #[rstest]
    #[case("500m", None, 1)]
    #[case("500m", Some("1m"), 500)]
    #[case("1Gi", Some("1Mi"), 1024)]
    #[case("1Gi", Some("0"), 1 << 30)]
    fn divides_as_the_downward_api(#[case] value: &str, #[case] divisor: Option<&str>, #[case] expected: i128) {
        assert_eq!(divided(value, divisor), Some(expected));
    }
}
