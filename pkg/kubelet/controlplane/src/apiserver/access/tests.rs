use std::fs;
use std::os::unix::fs::symlink;

use rstest::rstest;

use super::*;

fn kubeconfig(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("kubeconfig");
    fs::write(&path, text).unwrap();
    path
}

fn config(cluster: &str, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: s, cluster: {cluster}}}]\n\
         contexts: [{{name: c, context: {{cluster: s, user: u}}}}]\nusers: [{{name: u, user: {user}}}]\n"
    )
}

/// As [`Access::build`] is called: on a thread where blocking is fine.
fn build(path: &Path) -> Result<Built, ConnectError> {
    imagevol_test_support::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let access = Access::from(Some(path.to_owned()));
    runtime.block_on(imagevol_base::blocking(move || access.build()))
}

fn told(error: &ConnectError) -> String {
    let mut text = format!("{error}");
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    format!("{text} / {error:?}")
}

#[test]
fn reads_a_kubeconfig_without_asking_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let path = kubeconfig(dir.path(), &config("{server: 'https://127.0.0.1:1'}", "{token: t}"));
    assert!(!build(&path).unwrap().made_from.have_changed());
}

#[rstest]
#[case::no_yaml("{", "cannot understand the kubeconfig")]
#[case::secret_of_a_wrong_type("users: [{name: u, user: {token: [s3cret]}}]", "cannot understand the kubeconfig")]
#[case::no_context("apiVersion: v1\nkind: Config", "current context")]
#[case::bad_url(&config("{server: 'https://a b'}", "{}"), "cluster url")]
#[case::missing_certificate(&config("{server: 'https://a'}", "{client-certificate: gone, client-key: gone}"), "gone")]
#[case::bad_key(&config("{server: 'https://a'}", "{client-certificate-data: '%%', client-key-data: 's3cret%'}"), "credentials")]
#[case::missing_ca(&config("{server: 'https://a', certificate-authority: gone}", "{}"), "certificate authority")]
#[case::proxy(&config("{server: 'https://a', proxy-url: 'http://user:s3cret@proxy:3128'}", "{}"), "proxy")]
#[case::plugin_that_is_not_there(
    &config("{server: 'https://a'}", "{exec: {apiVersion: client.authentication.k8s.io/v1, command: /nowhere}}"), "cannot be started"
)]
#[case::plugin_that_fails(
    &config("{server: 'https://a'}", "{exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, echo s3cret; exit 1]}}"),
    "exit status: 1"
)]
#[case::plugin_that_babbles(
    &config("{server: 'https://a'}", "{exec: {apiVersion: client.authentication.k8s.io/v1, command: echo, args: [s3cret]}}"),
    "its answer cannot be understood"
)]
fn says_what_is_wrong_and_keeps_secrets(#[case] text: &str, #[case] wanted: &str) {
    let dir = tempfile::tempdir().unwrap();
    let error = build(&kubeconfig(dir.path(), text)).err().unwrap();
    let told = told(&error);
    assert!(told.contains(wanted), "{told}");
    // A command's own words are its operator's; what it printed is not.
    let quoted = told.replace("echo s3cret; exit 1", "").replace("echo s3cret", "").replace("\"sh\" \"-c\"", "");
    assert!(!quoted.contains("s3cret"), "{told}");
}

#[test]
fn a_kubeconfig_that_is_not_there_is_named() {
    let error = build(Path::new("/nowhere/kubeconfig")).err().unwrap();
    assert!(matches!(&error, ConnectError::Read { path, .. } if path == Path::new("/nowhere/kubeconfig")), "{error:?}");
}

#[test]
fn outside_a_cluster_there_is_no_service_account() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let built = runtime.block_on(imagevol_base::blocking(|| Access::from(None).build()));
    assert!(matches!(built, Err(ConnectError::InCluster(_))));
}

/// A certificate authority and an identity that it signed, in files, in the way of the kubelet: one file behind a link for both.
fn identity(dir: &Path) -> String {
    let issued = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
    fs::write(dir.join("ca.pem"), issued.cert.pem()).unwrap();
    fs::write(dir.join("first.pem"), format!("{}{}", issued.cert.pem(), issued.signing_key.serialize_pem())).unwrap();
    symlink("first.pem", dir.join("current.pem")).unwrap();
    config(
        "{server: 'https://127.0.0.1:1', certificate-authority: ca.pem}",
        "{client-certificate: current.pem, client-key: current.pem}",
    )
}

#[test]
fn notices_when_a_certificate_is_renewed_by_its_link() {
    let dir = tempfile::tempdir().unwrap();
    let path = kubeconfig(dir.path(), &identity(dir.path()));
    let built = build(&path).unwrap();
    assert!(!built.made_from.have_changed());
    fs::copy(dir.path().join("first.pem"), dir.path().join("second.pem")).unwrap();
    symlink("second.pem", dir.path().join("new")).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("current.pem")).unwrap();
    assert!(built.made_from.have_changed());
    assert!(!build(&path).unwrap().made_from.have_changed());
}

#[rstest]
#[case::kubeconfig("kubeconfig")]
#[case::authority("ca.pem")]
fn notices_when_a_file_is_written_anew(#[case] file: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = kubeconfig(dir.path(), &identity(dir.path()));
    let built = build(&path).unwrap();
    let content = fs::read(dir.path().join(file)).unwrap();
    fs::write(dir.path().join("new"), content).unwrap();
    fs::rename(dir.path().join("new"), dir.path().join(file)).unwrap();
    assert!(built.made_from.have_changed());
}
