//! How long a call is held: as long as is configured, and never so long that the caller has gone.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// What a caller gives a call (gRPC over HTTP/2, "Requests").
const TIMEOUT: &str = "grpc-timeout";
/// The answer has to travel and be taken note of. Of a kubelet's two minutes this leaves what `publishTimeout` may be at most.
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// Of a shorter deadline no more than this share goes to the margin.
const MARGIN_SHARE: u32 = 10;

/// When a call that came `now` is to be answered.
pub(crate) fn until(now: Instant, hold: Duration, metadata: &MetadataMap) -> Instant {
    let given = metadata.get(TIMEOUT).and_then(|value| value.to_str().ok()).and_then(parse);
    now + given.map_or(hold, |given| hold.min(within(given)))
}

fn within(given: Duration) -> Duration {
    given.saturating_sub(MARGIN_MAX.min(given / MARGIN_SHARE))
}

/// `TimeoutValue TimeoutUnit`: at most eight digits, and a letter. `None` for anything else, which tonic refuses itself.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = is_number.then(|| digits.parse::<u64>().ok()).flatten()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const HOLD: Duration = Duration::from_secs(110);

    fn held(timeout: Option<&str>) -> Duration {
        let mut metadata = MetadataMap::new();
        if let Some(timeout) = timeout {
            metadata.insert(TIMEOUT, timeout.parse().unwrap());
        }
        let now = Instant::now();
        until(now, HOLD, &metadata) - now
    }

    #[rstest]
    #[case::none(None, 110_000)]
    #[case::kubelets(Some("120S"), 110_000)]
    #[case::as_go_writes_it(Some("119999957u"), 110_000)]
    #[case::short(Some("60S"), 55_000)]
    #[case::shorter(Some("10S"), 9_000)]
    #[case::milliseconds(Some("100m"), 90)]
    #[case::zero(Some("0n"), 0)]
    #[case::hours(Some("99999999H"), 110_000)]
    #[case::no_unit(Some("10"), 110_000)]
    #[case::nine_digits(Some("100000000n"), 110_000)]
    #[case::sign(Some("-1S"), 110_000)]
    fn a_call_is_held(#[case] timeout: Option<&str>, #[case] milliseconds: u64) {
        assert_eq!(held(timeout), Duration::from_millis(milliseconds));
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(text in "\\PC{0,12}") {
            prop_assert!(parse(&text).is_none_or(|given| within(given) <= given));
        }
    }
}
