use rstest::rstest;

use super::*;
use crate::endpoint::Role;
use crate::hosts::Capabilities;

fn home(base: &str) -> Home {
    let endpoint = Endpoint {
        base: Url::parse(base).unwrap(),
        role: Role::Registry,
        capabilities: Capabilities::default(),
        namespace: None,
        ca: Vec::new(),
        skip_verify: false,
    };
    Home::new(&endpoint, Arc::from(["plain.corp".to_owned()]))
}

#[rstest]
#[case("https://cdn.example/x", Ok("https://cdn.example/x"))]
#[case("//cdn.example/x", Ok("https://cdn.example/x"))]
#[case("/elsewhere", Ok("https://r.io/elsewhere"))]
#[case("x", Ok("https://r.io/v2/x"))]
#[case("https://10.1.2.3/x", Ok("https://10.1.2.3/x"))]
#[case("http://r.io/v2/x", Err(Forbidden::Downgrade))]
#[case("http://plain.corp/x", Err(Forbidden::Downgrade))]
#[case("https://169.254.169.254/latest/meta-data", Err(Forbidden::Address))]
#[case("https://[::ffff:169.254.169.254]/", Err(Forbidden::Address))]
#[case("https://[fe80::1]/", Err(Forbidden::Address))]
#[case("https://[fd00:ec2::254]/", Err(Forbidden::Address))]
#[case("https://100.100.100.200/", Err(Forbidden::Address))]
#[case("https://168.63.129.16/", Err(Forbidden::Address))]
#[case("https://2852039166/", Err(Forbidden::Address))]
#[case("https://127.0.0.1/", Err(Forbidden::Address))]
#[case("https://127.1/", Err(Forbidden::Address))]
#[case("https://localhost/", Err(Forbidden::Address))]
#[case("https://0.0.0.0/", Err(Forbidden::Address))]
#[case("https://user:secret@cdn.example/", Err(Forbidden::UserInfo))]
#[case("file:///etc/passwd", Err(Forbidden::Scheme))]
#[case("unix:/run/x.sock", Err(Forbidden::Scheme))]
#[case("https://", Err(Forbidden::Syntax))]
fn redirects_of_an_https_registry(#[case] location: &str, #[case] expected: Result<&str, Forbidden>) {
    let home = home("https://r.io/v2/");
    let current = Url::parse("https://r.io/v2/blob").unwrap();
    let found = home.redirect(&current, location);
    assert_eq!(found.as_ref().map(Url::as_str).map_err(|error| *error), expected, "{location}");
}

#[rstest]
#[case("http://127.0.0.1:6000/x", Ok("http://127.0.0.1:6000/x"))]
#[case("https://cdn.example/x", Ok("https://cdn.example/x"))]
#[case("http://plain.corp:5000/x", Ok("http://plain.corp:5000/x"))]
#[case("http://cdn.example/x", Err(Forbidden::PlainHttp))]
#[case("http://169.254.169.254/x", Err(Forbidden::Address))]
fn redirects_of_a_loopback_registry(#[case] location: &str, #[case] expected: Result<&str, Forbidden>) {
    let home = home("http://localhost:5000/v2/");
    let current = Url::parse("http://localhost:5000/v2/blob").unwrap();
    let found = home.redirect(&current, location);
    assert_eq!(found.as_ref().map(Url::as_str).map_err(|error| *error), expected, "{location}");
}

#[rstest]
#[case("https://auth.example/token", true)]
#[case("http://auth.example/token", false)]
#[case("http://r.io/token", false)]
#[case("https://169.254.169.254/token", false)]
#[case("https://a:b@auth.example/token", false)]
#[case("/token", false)]
fn realms_of_an_https_registry(#[case] realm: &str, #[case] allowed: bool) {
    assert_eq!(home("https://r.io/v2/").realm(realm).is_ok(), allowed, "{realm}");
}

#[rstest]
#[case("https://r.io/x", true)]
#[case("https://R.IO:443/x", true)]
#[case("https://r.io:444/x", false)]
#[case("http://r.io/x", false)]
#[case("https://r.io.evil/x", false)]
#[case("https://evil-r.io/x", false)]
#[case("https://r.io./x", false)]
fn home_is_exactly_scheme_host_and_port(#[case] url: &str, #[case] expected: bool) {
    assert_eq!(home("https://r.io/v2/").is_home(&Url::parse(url).unwrap()), expected, "{url}");
}
