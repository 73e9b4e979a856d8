//! Medians, and numbers as text.

use std::time::Duration;

use tokio::time::Instant;

/// How long a step took, beside what it gave.
pub(crate) fn timed<T>(step: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = step();
    (start.elapsed(), value)
}

/// The middle of some numbers, `None` if there are none.
pub(crate) fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let upper = numbers.get(numbers.len() / 2).copied()?;
    let lower = numbers.get((numbers.len() - 1) / 2).copied()?;
    Some(f64::midpoint(lower, upper))
}

/// Median of the rounds' ratios, for the rounds that have both.
pub(crate) fn ratio<'a>(
    of: impl IntoIterator<Item = &'a Duration>,
    to: impl IntoIterator<Item = &'a Duration>,
) -> Option<f64> {
    median(of.into_iter().zip(to).map(|(of, to)| of.as_secs_f64() / to.as_secs_f64()).collect())
}

/// `0.123 s`, or a dash.
pub(crate) fn seconds(rounds: &[Duration]) -> String {
    text(median(rounds.iter().map(Duration::as_secs_f64).collect()), 3)
}

/// A number with some digits behind the point, or a dash.
pub(crate) fn text(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.digits$}"))
}
