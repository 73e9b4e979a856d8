use std::path::Path;

use rstest::rstest;

use super::*;

fn list(reference: &str, hosts: &str, plain_http: &[&str]) -> Vec<Endpoint> {
    let reference = Reference::parse(reference).unwrap();
    let hosts = HostsFile::parse(Path::new("/c/hosts.toml"), hosts).unwrap();
    let plain_http = plain_http.iter().map(|&host| host.to_owned()).collect();
    endpoints(&reference, Some(&hosts), &RegistryConfig { plain_http, ..RegistryConfig::default() }).unwrap()
}

fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect()
}

#[rstest]
#[case("busybox", "https://registry-1.docker.io/v2/")]
#[case("quay.io/a/b", "https://quay.io/v2/")]
#[case("quay.io:8443/a/b", "https://quay.io:8443/v2/")]
#[case("localhost/a", "http://localhost/v2/")]
#[case("localhost:5000/a", "http://localhost:5000/v2/")]
#[case("localhost:443/a", "https://localhost/v2/")]
#[case("127.3.4.5:5000/a", "http://127.3.4.5:5000/v2/")]
#[case("[::1]:5000/a", "http://[::1]:5000/v2/")]
#[case("[2001:db8::1]:5000/a", "https://[2001:db8::1]:5000/v2/")]
#[case("127.0.0.1.evil.example/a", "https://127.0.0.1.evil.example/v2/")]
#[case("localhost.evil.example/a", "https://localhost.evil.example/v2/")]
#[case("Plain.corp:5000/a", "http://plain.corp:5000/v2/")]
#[case("plain.corp:5001/a", "https://plain.corp:5001/v2/")]
fn speaks_plain_http_to_loopback_and_where_told(#[case] reference: &str, #[case] base: &str) {
    let endpoints = list(reference, "", &["plain.corp:5000"]);
    assert_eq!(bases(&endpoints), [base]);
    assert_eq!((endpoints[0].role, &endpoints[0].namespace), (Role::Registry, &None));
}

#[test]
fn asks_mirrors_first_and_tells_them_the_name() {
    let hosts = "[host.\"https://m1\"]\ncapabilities = [\"pull\"]\n[host.\"http://m2:5000/path\"]\n";
    let endpoints = list("busybox", hosts, &[]);
    assert_eq!(bases(&endpoints), ["https://m1/v2/", "http://m2:5000/path/v2/", "https://registry-1.docker.io/v2/"]);
    assert_eq!(endpoints[0].namespace.as_deref(), Some("docker.io"));
    assert_eq!(endpoints[0].capabilities, Capabilities { pull: true, resolve: false });
    assert_eq!(endpoints[1].role, Role::Mirror);
    assert_eq!(
        endpoints[1].url("library/busybox/manifests/latest").as_str(),
        "http://m2:5000/path/v2/library/busybox/manifests/latest?ns=docker.io"
    );
    assert_eq!(
        endpoints[2].url("library/busybox/manifests/latest").as_str(),
        "https://registry-1.docker.io/v2/library/busybox/manifests/latest"
    );
}

#[test]
fn a_server_may_stand_in_for_the_registry() {
    let endpoints = list("localhost:5000/a", "server = \"https://localhost:5000\"", &[]);
    assert_eq!(bases(&endpoints), ["https://localhost:5000/v2/"]);
    let endpoints = list("r.io/a", "server = \"https://other.example\"", &[]);
    assert_eq!((endpoints[0].role, endpoints[0].namespace.as_deref()), (Role::Registry, Some("r.io")));
}

#[test]
fn a_host_of_the_registrys_own_name_is_no_mirror() {
    let endpoints = list("r.io:5000/a", "[host.\"http://r.io:5000\"]\n[host.\"https://r.io\"]\n", &[]);
    assert_eq!(
        endpoints.iter().map(|endpoint| endpoint.role).collect::<Vec<_>>(),
        [Role::Registry, Role::Mirror, Role::Registry]
    );
}
