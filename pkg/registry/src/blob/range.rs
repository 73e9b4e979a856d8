//! Which bytes an answer holds (RFC 9110, section 14).

use http::header::CONTENT_RANGE;
use http::{HeaderMap, StatusCode};

use crate::text;

/// A parsed `Content-Range: bytes first-last/total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    first: u64,
    last: u64,
    /// `None` for `*`.
    total: Option<u64>,
}

/// The answer does not hold what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misplaced;

/// The header, if it is there and well-formed.
pub(super) fn said(headers: &HeaderMap) -> Option<Said> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = range.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    Some(Said { first: number(first)?, last: number(last)?, total })
}

/// The header as an error shows it.
pub(super) fn shown(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    text::shown(value.unwrap_or("no Content-Range"), &[])
}

/// How many bytes at the head of the answer lie before `from`, given that the blob has `size` bytes.
pub(super) fn place(status: StatusCode, said: Option<&Said>, (from, size): (u64, u64)) -> Result<u64, Misplaced> {
    if status != StatusCode::PARTIAL_CONTENT {
        return Ok(from);
    }
    let said = said.ok_or(Misplaced)?;
    let whole =
        said.first == from && size.checked_sub(1) == Some(said.last) && said.total.is_none_or(|total| total == size);
    if whole { Ok(0) } else { Err(Misplaced) }
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use rstest::rstest;

    use super::*;

    fn placed(status: u16, header: Option<&str>, from: u64) -> Result<u64, Misplaced> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(header).unwrap());
        }
        place(StatusCode::from_u16(status).unwrap(), said(&headers).as_ref(), (from, 100))
    }

    #[rstest]
    #[case(200, None, 0, Ok(0))]
    #[case(200, None, 40, Ok(40))]
    #[case(206, Some("bytes 40-99/100"), 40, Ok(0))]
    #[case(206, Some("bytes 40-99/*"), 40, Ok(0))]
    #[case(206, Some("bytes 0-99/100"), 40, Err(Misplaced))]
    #[case(206, Some("bytes 41-99/100"), 40, Err(Misplaced))]
    #[case(206, Some("bytes 40-98/100"), 40, Err(Misplaced))]
    #[case(206, Some("bytes 40-99/200"), 40, Err(Misplaced))]
    #[case(206, Some("bytes +40-99/100"), 40, Err(Misplaced))]
    #[case(206, Some("items 40-99/100"), 40, Err(Misplaced))]
    #[case(206, Some("bytes */100"), 40, Err(Misplaced))]
    #[case(206, None, 40, Err(Misplaced))]
    fn knows_where_an_answer_lies(
        #[case] status: u16,
        #[case] header: Option<&str>,
        #[case] from: u64,
        #[case] expected: Result<u64, Misplaced>,
    ) {
        assert_eq!(placed(status, header, from), expected);
    }
}
