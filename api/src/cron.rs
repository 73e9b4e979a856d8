//! Schedules in the five fields of cron, as a CronJob's `schedule` (robfig/cron v3, `ParseStandard`), in UTC.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// The macros of the Kubernetes documentation ("CronJob", "Schedule syntax").
const MACROS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Between two 29ths of February lie at most eight years (1896 and 1904): what does not come within them never does.
const MOST_DAYS: u32 = 8 * 366;

/// When something is done again and again, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CronSchedule {
    minutes: Bits,
    hours: Bits,
    days: Bits,
    months: Bits,
    weekdays: Bits,
    /// Whether one of the two ways to say a day is enough: both are restricted (crontab(5)).
    either_day: bool,
}

/// Why a text is no schedule, or one that never comes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// It is neither five fields nor a macro.
    #[error("expected exactly 5 fields (minute, hour, day of month, month, day of week), found {0}")]
    Fields(usize),
    /// It begins with `@`.
    #[error("unrecognized descriptor: want @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly")]
    Macro,
    /// It names a time zone.
    #[error("cannot use TZ or CRON_TZ: schedules are in UTC")]
    TimeZone,
    /// A field is not of cron's form.
    #[error("failed to parse {0}")]
    Field(&'static str),
    /// A number lies outside its field's range, or a range runs backwards.
    #[error("value of {field} is not within {least} to {most}")]
    Range {
        /// Which.
        field: &'static str,
        /// Its first value.
        least: u8,
        /// Its last value.
        most: u8,
    },
    /// There is no such day.
    #[error("no day is ever like this")]
    Never,
}

/// A set of numbers below 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits(u64);

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u8,
    most: u8,
    names: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[] };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[] };
const DAY: Field = Field { name: "day of month", least: 1, most: 31, names: &[] };
const MONTH: Field = Field { name: "month", least: 1, most: 12, names: &MONTHS };
const WEEKDAY: Field = Field { name: "day of week", least: 0, most: 6, names: &WEEKDAYS };

/// What a field says.
#[derive(Clone, Copy)]
struct Parsed {
    bits: Bits,
    /// Whether it says `*`, so that it restricts nothing.
    any: bool,
}

// === impl CronSchedule ===

impl CronSchedule {
    /// The first moment after `time` that the schedule names; `None` beyond the end of jiff's calendar.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let now = time.to_zoned(TimeZone::UTC).datetime();
        let this_minute = now.with().second(0).subsec_nanosecond(0).build().ok()?;
        let from = this_minute.checked_add(Span::new().minutes(1)).ok()?;
        let mut day = from.date();
        for _ in 0..=MOST_DAYS {
            if self.is_on(day)
                && let Some(found) = self.first_of(day, from)
            {
                return found.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
            }
            day = day.tomorrow().ok()?;
        }
        None
    }

    fn is_on(&self, day: Date) -> bool {
        let of_month = self.days.has(day.day());
        let of_week = self.weekdays.has(day.weekday().to_sunday_zero_offset());
        let is_day = if self.either_day { of_month || of_week } else { of_month && of_week };
        is_day && self.months.has(day.month())
    }

    /// The first minute of `day` that is named and does not lie before `from`.
    fn first_of(&self, day: Date, from: DateTime) -> Option<DateTime> {
        let minutes = |hour: i8| self.minutes.iter().map(move |minute| day.at(hour, minute, 0, 0));
        self.hours.iter().flat_map(minutes).find(|minute| *minute >= from)
    }
}

impl FromStr for CronSchedule {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        if text.contains("TZ=") {
            return Err(CronError::TimeZone);
        }
        let text = text.trim();
        if text.starts_with('@') {
            let known = MACROS.iter().find(|(name, _)| *name == text).ok_or(CronError::Macro)?;
            return known.1.parse();
        }
        let fields: Vec<_> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else { return Err(CronError::Fields(fields.len())) };
        let (day, weekday) = (DAY.parse(day)?, WEEKDAY.parse(weekday)?);
        let schedule = Self {
            minutes: MINUTE.parse(minute)?.bits,
            hours: HOUR.parse(hour)?.bits,
            days: day.bits,
            months: MONTH.parse(month)?.bits,
            weekdays: weekday.bits,
            either_day: !day.any && !weekday.any,
        };
        schedule.next_after(Timestamp::UNIX_EPOCH).map(|_| schedule).ok_or(CronError::Never)
    }
}

// === impl Bits ===

impl Bits {
    fn has(self, number: i8) -> bool {
        u32::try_from(number).is_ok_and(|number| self.0.checked_shr(number).is_some_and(|rest| rest & 1 == 1))
    }

    fn iter(self) -> impl Iterator<Item = i8> {
        (0..64).filter(move |number| self.has(*number))
    }
}

// === impl Field ===

impl Field {
    /// A list of ranges.
    fn parse(&self, text: &str) -> Result<Parsed, CronError> {
        let mut whole = Parsed { bits: Bits(0), any: false };
        for part in text.split(',') {
            let Parsed { bits, any } = self.part(part)?;
            whole = Parsed { bits: Bits(whole.bits.0 | bits.0), any: whole.any || any };
        }
        Ok(whole)
    }

    /// `*`, `?`, `N`, `N-M`, each with `/STEP`; `N/STEP` means from N to the end (robfig/cron, `getRange`).
    fn part(&self, text: &str) -> Result<Parsed, CronError> {
        let (range, step) = text.split_once('/').map_or((text, None), |(range, step)| (range, Some(step)));
        let star = matches!(range, "*" | "?");
        let (first, last) = match range.split_once('-') {
            _ if star => (self.least, self.most),
            Some((first, last)) => (self.number(first)?, self.number(last)?),
            None if step.is_some() => (self.number(range)?, self.most),
            None => (self.number(range)?, self.number(range)?),
        };
        if first > last {
            return Err(self.out_of_range());
        }
        let step = step.map_or(Some(1), digits).filter(|step| *step > 0).ok_or(CronError::Field(self.name))?;
        let bits = (first..=last).step_by(step.into()).fold(0, |bits, number| bits | 1_u64 << number);
        Ok(Parsed { bits: Bits(bits), any: star && step == 1 })
    }

    fn number(&self, text: &str) -> Result<u8, CronError> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        let named = named.and_then(|position| u8::try_from(position).ok()).map(|position| position + self.least);
        let number = named.or_else(|| digits(text)).ok_or(CronError::Field(self.name))?;
        if (self.least..=self.most).contains(&number) { Ok(number) } else { Err(self.out_of_range()) }
    }

    fn out_of_range(&self) -> CronError {
        CronError::Range { field: self.name, least: self.least, most: self.most }
    }
}

/// A number without a sign; too large ones are as wrong as 255.
fn digits(text: &str) -> Option<u8> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule: CronSchedule = schedule.parse().unwrap();
        schedule.next_after(after.parse().unwrap()).unwrap().to_string()
    }

    /// The first ten are cases of robfig/cron's own tests (`spec_test.go`, `TestNext`), in UTC.
    #[rstest]
    #[case("0/15 * * * *", "2012-07-09T14:45:00Z", "2012-07-09T15:00:00Z")]
    #[case("0/15 * * * *", "2012-07-09T14:59:00Z", "2012-07-09T15:00:00Z")]
    #[case("20-35/15 * * * *", "2012-07-09T15:45:00Z", "2012-07-09T16:20:00Z")]
    #[case("0/15 * * * *", "2012-07-09T23:46:00Z", "2012-07-10T00:00:00Z")]
    #[case("20-35/15 1/2 */2 * *", "2012-07-09T23:35:51Z", "2012-07-11T01:20:00Z")]
    #[case("0 0 9 Apr-Oct ?", "2012-07-09T23:35:00Z", "2012-08-09T00:00:00Z")]
    #[case("0 0 */5 Apr,Aug,Oct Mon", "2012-07-09T23:35:00Z", "2012-08-01T00:00:00Z")]
    #[case("0 0 * Feb Mon", "2012-07-09T23:35:00Z", "2013-02-04T00:00:00Z")]
    #[case("0 0 29 Feb ?", "2012-07-09T23:35:00Z", "2016-02-29T00:00:00Z")]
    #[case("0 0 1 1 *", "2012-12-31T23:59:45Z", "2013-01-01T00:00:00Z")]
    #[case("*/7 * * * *", "2026-01-01T00:56:00Z", "2026-01-01T01:00:00Z")]
    #[case("0 3 1 * fri", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z")]
    #[case("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z")]
    #[case("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z")]
    fn next_times_are_crons(#[case] schedule: &str, #[case] after: &str, #[case] expected: &str) {
        assert_eq!(next(schedule, after), expected);
    }

    #[rstest]
    #[case("", "expected exactly 5 fields (minute, hour, day of month, month, day of week), found 0")]
    #[case("* * * *", "expected exactly 5 fields (minute, hour, day of month, month, day of week), found 4")]
    #[case("* * * * * *", "expected exactly 5 fields (minute, hour, day of month, month, day of week), found 6")]
    #[case(
        "@every 1h",
        "unrecognized descriptor: want @yearly, @annually, @monthly, @weekly, @daily, @midnight or @hourly"
    )]
    #[case("TZ=UTC 0 * * * *", "cannot use TZ or CRON_TZ: schedules are in UTC")]
    #[case("60 * * * *", "value of minute is not within 0 to 59")]
    #[case("* 25-30 * * *", "value of hour is not within 0 to 23")]
    #[case("* * 0 * *", "value of day of month is not within 1 to 31")]
    #[case("* * * * 7", "value of day of week is not within 0 to 6")]
    #[case("5-2 * * * *", "value of minute is not within 0 to 59")]
    #[case("*/0 * * * *", "failed to parse minute")]
    #[case("1- * * * *", "failed to parse minute")]
    #[case("* * L * *", "failed to parse day of month")]
    #[case("* * * Januar *", "failed to parse month")]
    #[case("0 0 30 2 *", "no day is ever like this")]
    fn others_are_refused(#[case] schedule: &str, #[case] message: &str) {
        assert_eq!(schedule.parse::<CronSchedule>().unwrap_err().to_string(), message);
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[0-9*?/,@a-zA-Z -]{0,40}") {
            let _seen = text.parse::<CronSchedule>();
        }

        /// What is found is named by the schedule, and no minute between is.
        #[test]
        fn no_minute_is_missed(
            minute in 0_i8..60, hour in 0_i8..24, step in 1_u8..30, after in 0_i64..4_000_000_000,
        ) {
            let schedule: CronSchedule = format!("{minute}/{step} {hour} * * *").parse().unwrap();
            let after = Timestamp::from_second(after).unwrap();
            let found = schedule.next_after(after).unwrap();
            let named = |second: i64| {
                let time = Timestamp::from_second(second).unwrap().to_zoned(TimeZone::UTC);
                time.hour() == hour && time.minute() >= minute && (time.minute() - minute).unsigned_abs().is_multiple_of(step)
            };
            prop_assert!(found > after && named(found.as_second()));
            let first_minute = after.as_second() / 60 * 60 + 60;
            prop_assert!((first_minute..found.as_second()).step_by(60).all(|second| !named(second)));
        }
    }
}
