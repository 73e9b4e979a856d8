use http::HeaderValue;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn challenge(scheme: &str, parameters: &[(&str, &str)]) -> Challenge {
    let parameters = parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Challenge { scheme: scheme.to_owned(), parameters }
}

#[rstest]
#[case("Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull,push\"",
    &[challenge("bearer", &[("realm", "https://a/t"), ("service", "s"), ("scope", "repository:x:pull,push")])])]
#[case("Basic realm=\"a, \\\"b\\\"\"", &[challenge("basic", &[("realm", "a, \"b\"")])])]
#[case("BASIC", &[challenge("basic", &[])])]
#[case("Negotiate, Basic realm=x", &[challenge("negotiate", &[]), challenge("basic", &[("realm", "x")])])]
#[case("Negotiate YWJj==, Basic realm=x", &[challenge("negotiate", &[]), challenge("basic", &[("realm", "x")])])]
#[case("Bearer realm = \"r\" , scope = \"s\", Basic Realm=\"b\"",
    &[challenge("bearer", &[("realm", "r"), ("scope", "s")]), challenge("basic", &[("realm", "b")])])]
#[case("Bearer realm=https://a/t?x=1,service=s", &[challenge("bearer", &[("realm", "https://a/t?x=1"), ("service", "s")])])]
#[case("", &[])]
#[case(" , ,", &[])]
fn understands(#[case] text: &str, #[case] expected: &[Challenge]) {
    assert_eq!(parse(text).unwrap(), expected);
}

#[rstest]
#[case("Bearer realm=\"open")]
#[case("Bearer realm=\"x\\")]
#[case("realm=\"x\"")]
#[case("Bearer realm=\"a\",realm=\"b\"")]
#[case("\"quoted\"")]
#[case("=x")]
fn rejects(#[case] text: &str) {
    assert_eq!(parse(text), Err(Malformed), "{text}");
}

#[test]
fn rejects_an_endless_header() {
    assert_eq!(parse(&"a,".repeat(LENGTH_MAX)), Err(Malformed));
}

#[test]
fn all_headers_count_and_bearer_wins() {
    let mut headers = HeaderMap::new();
    assert_eq!(wanted(&headers), None);
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"b\""));
    assert_eq!(wanted(&headers), Some(Wanted::Basic));
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\""));
    assert_eq!(wanted(&headers), Some(Wanted::Basic), "a malformed header offers nothing");
    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"https://t\""));
    let expected = Wanted::Bearer { realm: "https://t".to_owned(), service: None, scope: None };
    assert_eq!(wanted(&headers), Some(expected));
}

proptest! {
    #[test]
    fn never_panics(text in ".{0,200}") {
        drop(parse(&text));
    }

    #[test]
    fn quoted_values_come_back(value in "[ -~]{0,40}") {
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        let parsed = parse(&format!("Bearer realm=\"{quoted}\", Basic x=y")).unwrap();
        prop_assert_eq!(&parsed[0].parameters["realm"], &value);
        prop_assert_eq!(parsed.len(), 2);
    }
}
