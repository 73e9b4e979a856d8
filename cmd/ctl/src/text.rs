//! Text for people: durations and dates, and what the API's text does.

use std::fmt::{self, Write as _};

use imagevol_api::metav1::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub(crate) use imagevol_api::text::{block, count, human_size, is_unsafe, line};

/// What kubectl prints for a timestamp that is not set (kubectl, pkg/describe/describe.go, `translateTimestampSince`).
pub(crate) const UNKNOWN: &str = "<unknown>";

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The moment and the time zone that a whole output is rendered for.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    /// When the output is made.
    pub now: Timestamp,
    /// The zone in which dates are shown.
    pub zone: TimeZone,
}

// === impl Clock ===

impl Clock {
    /// The machine's time and zone.
    pub(crate) fn system() -> Self {
        Self { now: Timestamp::now(), zone: TimeZone::system() }
    }

    /// How long ago `then` was, as kubectl's AGE columns say it.
    pub(crate) fn age(&self, then: Timestamp) -> String {
        human_duration(self.now.duration_since(then))
    }

    /// [`Clock::age`] of a field that may be unset.
    pub(crate) fn age_of(&self, then: Option<&Time>) -> String {
        then.map_or_else(|| UNKNOWN.to_owned(), |time| self.age(time.0))
    }

    /// [`Clock::age`] of an RFC 3339 time; [`UNKNOWN`] of another text.
    pub(crate) fn age_since(&self, then: &str) -> String {
        then.parse().map_or_else(|_| UNKNOWN.to_owned(), |then| self.age(then))
    }

    /// A date as Go's `time.RFC1123Z` has it.
    pub(crate) fn date(&self, time: Timestamp) -> String {
        time.to_zoned(self.zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string()
    }
}

/// A duration with at most two units (apimachinery, pkg/util/duration/duration.go, `HumanDuration`).
pub(crate) fn human_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two_units((seconds / MINUTE, "m"), (seconds % MINUTE, "s")),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two_units((seconds / HOUR, "h"), (seconds % HOUR / MINUTE, "m")),
        _ if seconds < 48 * HOUR => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two_units((seconds / DAY, "d"), (seconds % DAY / HOUR, "h")),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two_units((seconds / YEAR, "y"), (seconds % YEAR / DAY, "d")),
        _ => format!("{}y", seconds / YEAR),
    }
}

fn two_units(large: (i64, &str), small: (i64, &str)) -> String {
    if small.0 == 0 {
        format!("{}{}", large.0, large.1)
    } else {
        format!("{}{}{}{}", large.0, large.1, small.0, small.1)
    }
}

/// Appends formatted text to a string.
pub(crate) fn append(text: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    text.write_fmt(arguments).unwrap_or_default();
}

/// One segment of a URL's path, or one value of its query: all but RFC 3986's unreserved characters as `%XX`.
pub(crate) fn url_part(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            append(&mut encoded, format_args!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case(-5, "<invalid>")]
    #[case(-1, "0s")]
    #[case(0, "0s")]
    #[case(5, "5s")]
    #[case(119, "119s")]
    #[case(120, "2m")]
    #[case(123, "2m3s")]
    #[case(599, "9m59s")]
    #[case(600, "10m")]
    #[case(3 * HOUR - 1, "179m")]
    #[case(3 * HOUR, "3h")]
    #[case(3 * HOUR + 5 * MINUTE, "3h5m")]
    #[case(8 * HOUR + 59 * MINUTE, "8h")]
    #[case(47 * HOUR, "47h")]
    #[case(48 * HOUR, "2d")]
    #[case(4 * DAY, "4d")]
    #[case(4 * DAY + 2 * HOUR, "4d2h")]
    #[case(8 * DAY + 2 * HOUR, "8d")]
    #[case(2 * YEAR + 3 * DAY, "2y3d")]
    #[case(2 * YEAR, "2y")]
    #[case(9 * YEAR + 3 * DAY, "9y")]
    fn durations_are_kubectls(#[case] seconds: i64, #[case] text: &str) {
        assert_eq!(human_duration(SignedDuration::from_secs(seconds)), text);
    }

    proptest! {
        #[test]
        fn url_parts_are_plain_and_lose_nothing(text: String) {
            let encoded = url_part(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)));
            let bytes = encoded.replace('%', "").len() - 2 * encoded.matches('%').count();
            prop_assert_eq!(bytes + encoded.matches('%').count(), text.len());
        }
    }

    #[test]
    fn url_parts_keep_only_unreserved_characters() {
        assert_eq!(url_part("a/b:c@d?e&f=ü~"), "a%2Fb%3Ac%40d%3Fe%26f%3D%C3%BC~");
    }

    #[test]
    fn dates_are_rfc1123_with_a_numeric_zone() {
        let clock = Clock { now: Timestamp::UNIX_EPOCH, zone: TimeZone::UTC };
        assert_eq!(clock.date(Timestamp::UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
