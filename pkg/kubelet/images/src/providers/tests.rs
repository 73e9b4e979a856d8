use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use rstest::rstest;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;

const V1: &str = "credentialprovider.kubelet.k8s.io/v1";
/// Counts its run, keeps its request, and answers with `$ANSWER`.
const SCRIPT: &str = r#"echo run >> "$DIR/runs"; cat > "$DIR/request"; printf '%s' "$ANSWER""#;
/// Answers with the token as the user's name.
const TOKEN_SCRIPT: &str = r#"echo run >> "$DIR/runs"; read -r line; token=${line#*serviceAccountToken\":\"}; token=${token%%\"*}
printf '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Image","auth":{"r.io":{"username":"%s","password":"p"}}}' "$token""#;

/// A node with plugins, which are shells.
struct Fixture {
    dir: tempfile::TempDir,
    metrics: Metrics,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir, metrics: Metrics::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A plugin for r.io and q.io.
    fn plugin(&self, name: &str, script: &str, answer: &str) -> Value {
        let shell = self.path("bin").join(name);
        symlink("/bin/sh", shell).unwrap();
        let dir = self.dir.path().to_str().unwrap();
        json!({
            "name": name, "matchImages": ["r.io", "q.io"], "defaultCacheDuration": "1h", "apiVersion": V1,
            "args": ["-c", script], "env": [{"name": "DIR", "value": dir}, {"name": "ANSWER", "value": answer}],
        })
    }

    fn load(&self, plugins: &[Value]) -> CredentialProviders {
        fs::write(self.path("config.yaml"), config(plugins)).unwrap();
        CredentialProviders::load(&self.path("config.yaml"), &self.path("bin"), &self.metrics).unwrap()
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).map_or(0, |runs| runs.lines().count())
    }

    fn metric(&self, name: &str) -> Vec<String> {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect()
    }
}

fn config(plugins: &[Value]) -> String {
    json!({"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": plugins})
        .to_string()
}

fn answer(key: &str, rest: &Value) -> String {
    let mut answer = json!({"kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": key});
    let fields = answer.as_object_mut().unwrap();
    fields.extend(rest.as_object().unwrap().clone());
    answer.to_string()
}

fn auth(registry: &str, user: &str) -> Value {
    json!({"auth": {registry: {"username": user, "password": format!("{user}-password")}}})
}

fn with(mut plugin: Value, field: &str, value: Value) -> Value {
    plugin.as_object_mut().unwrap().insert(field.to_owned(), value);
    plugin
}

fn account(name: &str, uid: &str, token: &str) -> ServiceAccountClaim {
    ServiceAccountClaim {
        namespace: "n".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        annotations: [("a.io/role".to_owned(), "reader".to_owned())].into(),
        tokens: [("registry".to_owned(), token.into())].into(),
    }
}

fn tokens(cache_type: &str) -> Value {
    json!({"serviceAccountTokenAudience": "registry", "cacheType": cache_type, "requireServiceAccount": true,
        "requiredServiceAccountAnnotationKeys": ["a.io/role"]})
}

async fn users(providers: &CredentialProviders, repository: &str, behalf: Behalf<'_>) -> Vec<String> {
    let found = providers.keyring(repository, behalf).await.lookup(repository);
    found.iter().map(|found| found.auth.username.clone()).collect()
}

async fn of_node(providers: &CredentialProviders, repository: &str) -> Vec<String> {
    users(providers, repository, Behalf::Node).await
}

#[tokio::test]
async fn a_plugin_is_asked_as_by_the_kubelet() {
    let fixture = Fixture::new();
    let providers = fixture.load(&[fixture.plugin("a", SCRIPT, &answer("Image", &auth("r.io/team", "alice")))]);
    let found = providers.keyring("r.io/team/app", Behalf::Node).await.lookup("r.io/team/app");
    let [found] = <[_; 1]>::try_from(found).unwrap();
    assert_eq!((&*found.auth.username, found.auth.password.expose_secret()), ("alice", "alice-password"));
    assert_eq!(found.source, CredentialSource::Node);
    let request =
        format!("{{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"{V1}\",\"image\":\"r.io/team/app\"}}\n");
    assert_eq!(fs::read_to_string(fixture.path("request")).unwrap(), request);
    assert_eq!(of_node(&providers, "r.io/other").await, [""; 0], "the answer is for others");
    assert_eq!(of_node(&providers, "p.io/app").await, [""; 0]);
    assert_eq!(fixture.runs(), 2, "not asked for images of others");
}

#[rstest]
#[case("Image", json!({}), 3)]
#[case("Registry", json!({}), 2)]
#[case("Global", json!({}), 1)]
#[case("Global", json!({"cacheDuration": "10m"}), 1)]
#[case("Global", json!({"cacheDuration": "0s"}), 4)]
#[case("Global", json!({"cacheDuration": null}), 1)]
#[tokio::test]
async fn answers_are_kept_as_they_say(#[case] key: &str, #[case] rest: Value, #[case] runs: usize) {
    let fixture = Fixture::new();
    let providers = fixture.load(&[fixture.plugin("a", SCRIPT, &answer(key, &rest))]);
    for repository in ["r.io/a", "r.io/a", "r.io/b", "q.io/a"] {
        of_node(&providers, repository).await;
    }
    assert_eq!(fixture.runs(), runs);
}

#[tokio::test]
async fn a_default_of_zero_keeps_nothing() {
    let fixture = Fixture::new();
    let plugin = fixture.plugin("a", SCRIPT, &answer("Global", &json!({})));
    let providers = fixture.load(&[with(plugin, "defaultCacheDuration", json!("0s"))]);
    for _ in 0..2 {
        of_node(&providers, "r.io/a").await;
    }
    assert_eq!(fixture.runs(), 2);
}

#[rstest]
#[case::exit("cat >/dev/null; exit 1", true)]
#[case::nothing("cat >/dev/null", false)]
#[case::other_version(
    "echo '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1beta1\",\"cacheKeyType\":\"Image\"}'",
    false
)]
#[case::no_key(
    "echo '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\"}'",
    false
)]
#[tokio::test]
async fn a_plugin_that_fails_hides_no_other(#[case] script: &str, #[case] counted: bool) {
    let fixture = Fixture::new();
    let bad = fixture.plugin("bad", script, "");
    let good = fixture.plugin("good", SCRIPT, &answer("Image", &auth("r.io", "alice")));
    let providers = fixture.load(&[bad, good]);
    for _ in 0..2 {
        assert_eq!(of_node(&providers, "r.io/a").await, ["alice"]);
    }
    let errors = fixture.metric("kubelet_credential_provider_plugin_errors_total");
    let twice = r#"kubelet_credential_provider_plugin_errors_total{plugin_name="bad"} 2"#;
    assert_eq!(errors, if counted { vec![twice] } else { vec![] }, "a failure is not kept");
    let durations = fixture.metric("kubelet_credential_provider_plugin_duration_count");
    assert_eq!(durations.len(), 2, "{durations:?}");
}

#[tokio::test]
async fn answers_of_several_are_tried_by_key_and_then_by_their_order() {
    let fixture = Fixture::new();
    let first = fixture.plugin("first", SCRIPT, &answer("Image", &auth("r.io", "first")));
    let second = fixture.plugin("second", SCRIPT, &answer("Image", &auth("r.io", "second")));
    let closer = fixture.plugin("closer", SCRIPT, &answer("Image", &auth("r.io/a", "closer")));
    let providers = fixture.load(&[first, second, closer]);
    assert_eq!(of_node(&providers, "r.io/a").await, ["closer", "first", "second"]);
}

/// Ten ask while the first still runs: it ends when it has read a line from the FIFO.
#[tokio::test]
async fn those_who_ask_at_once_are_answered_at_once() {
    let fixture = Fixture::new();
    let fifo = fixture.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let script = format!("read -r line < \"$DIR/fifo\"; {SCRIPT}");
    let answer = answer("Image", &json!({"cacheDuration": "0s", "auth": {"r.io": {"username": "alice"}}}));
    let providers = fixture.load(&[fixture.plugin("a", &script, &answer)]);
    let asking = futures_util::future::join_all((0..10).map(|_| of_node(&providers, "r.io/a")));
    let mut asking = Box::pin(asking);
    assert!(futures_util::poll!(&mut asking).is_pending());
    let opening = tokio::task::spawn_blocking(move || fs::write(fifo, "go\n").unwrap());
    let (found, opened) = tokio::join!(asking, opening);
    opened.unwrap();
    assert!(found.iter().all(|users| users == &["alice"]));
    assert_eq!(fixture.runs(), 1);
}

#[rstest]
#[case("ServiceAccount", 2)]
#[case("Token", 3)]
#[tokio::test]
async fn accounts_have_answers_of_their_own(#[case] cache_type: &str, #[case] runs: usize) {
    let fixture = Fixture::new();
    let plugin = with(fixture.plugin("a", TOKEN_SCRIPT, ""), "tokenAttributes", tokens(cache_type));
    let providers = fixture.load(&[plugin]);
    let accounts = [account("a", "u", "one"), account("a", "u", "two"), account("b", "v", "three")];
    let mut found = Vec::new();
    for account in accounts.iter().chain(&accounts) {
        found.extend(users(&providers, "r.io/a", Behalf::Account(account)).await);
    }
    let shared = ["one", "one", "three", "one", "one", "three"];
    let own = ["one", "two", "three", "one", "two", "three"];
    assert_eq!(found, if cache_type == "Token" { own } else { shared });
    assert_eq!(fixture.runs(), runs);
}

#[tokio::test]
async fn an_accounts_credentials_are_the_accounts() {
    let fixture = Fixture::new();
    let plugin = with(fixture.plugin("a", TOKEN_SCRIPT, ""), "tokenAttributes", tokens("Token"));
    let providers = fixture.load(&[plugin]);
    let account = account("a", "u", "t");
    let found = providers.keyring("r.io/a", Behalf::Account(&account)).await.lookup("r.io/a");
    assert_eq!(found[0].source, CredentialSource::ServiceAccount(Arc::new(account.coordinates())));
    for nobody in [Behalf::Node, Behalf::UnknownAccount] {
        assert_eq!(users(&providers, "r.io/a", nobody).await, [""; 0]);
    }
    assert_eq!(fixture.runs(), 1);
}

#[rstest]
#[case("ServiceAccount", 0)]
#[case("Token", 1)]
#[tokio::test]
async fn a_token_as_password_is_for_its_owner_alone(#[case] cache_type: &str, #[case] found: usize) {
    let fixture = Fixture::new();
    let echo = answer("Image", &json!({"auth": {"r.io": {"username": "u", "password": "t"}}}));
    let plugin = with(fixture.plugin("a", SCRIPT, &echo), "tokenAttributes", tokens(cache_type));
    let providers = fixture.load(&[plugin]);
    assert_eq!(users(&providers, "r.io/a", Behalf::Account(&account("a", "u", "t"))).await.len(), found);
}

#[rstest]
#[case(None, None, "node")]
#[case(None, Some(""), "node")]
#[case(None, Some("default"), "unknown")]
#[case(Some("default"), None, "account")]
fn a_pod_stands_for_its_account(#[case] claimed: Option<&str>, #[case] named: Option<&str>, #[case] expected: &str) {
    let claims = Claims { service_account: claimed.map(|name| account(name, "u", "t")), ..Claims::default() };
    let mut pod = Pod::default();
    pod.spec.get_or_insert_default().service_account_name = named.map(str::to_owned);
    let behalf = match Behalf::of(&pod, &claims) {
        Behalf::Node => "node",
        Behalf::UnknownAccount => "unknown",
        Behalf::Account(_) => "account",
    };
    assert_eq!(behalf, expected);
}

#[tokio::test]
async fn a_directory_of_files_is_read_in_order() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("conf/dir.yaml")).unwrap();
    let plugins = ["b", "a", "c"].map(|name| fixture.plugin(name, SCRIPT, &answer("Image", &auth("r.io", name))));
    for (file, plugin) in ["2.yml", "10.json", "3.yaml"].iter().zip(&plugins) {
        fs::write(fixture.path("conf").join(file), config(std::slice::from_ref(plugin))).unwrap();
    }
    fs::write(fixture.path("conf/README"), "no configuration").unwrap();
    let providers = CredentialProviders::load(&fixture.path("conf"), &fixture.path("bin"), &fixture.metrics).unwrap();
    assert_eq!(of_node(&providers, "r.io/a").await, ["a", "b", "c"]);
    let info = fixture.metric("kubelet_credential_provider_config_info");
    assert!(info[0].starts_with("kubelet_credential_provider_config_info{hash=\"sha256:") && info[0].ends_with(" 1"));
}

#[rstest]
#[case::no_file(|_: &Fixture| (), "credential provider configuration DIR/config.yaml cannot be read: No such file or directory (os error 2)")]
#[case::empty_dir(|fixture: &Fixture| fs::create_dir(fixture.path("config.yaml")).unwrap(), "no configuration files found in directory DIR/config.yaml")]
#[case::no_config(|fixture: &Fixture| fs::write(fixture.path("config.yaml"), "kind: Pod").unwrap(), r#"failed to read DIR/config.yaml: credential provider configuration must be of apiVersion kubelet.config.k8s.io/v1 and kind CredentialProviderConfig, not "" and "Pod""#)]
#[case::no_plugins(|fixture: &Fixture| fs::write(fixture.path("config.yaml"), config(&[])).unwrap(), "failed to check DIR/config.yaml: credential provider configuration is invalid: providers: Required value: at least 1 item in plugins is required")]
#[case::no_program(|fixture: &Fixture| write(fixture, |program| fs::remove_file(program).unwrap()), "plugin DIR/bin/a cannot be run: no such program: No such file or directory (os error 2)")]
#[case::directory(|fixture: &Fixture| write(fixture, |program| { fs::remove_file(&program).unwrap(); fs::create_dir(program).unwrap() }), "plugin DIR/bin/a cannot be run: not an executable file")]
#[case::not_executable(|fixture: &Fixture| write(fixture, |program| { fs::remove_file(&program).unwrap(); fs::write(&program, "").unwrap(); fs::set_permissions(program, fs::Permissions::from_mode(0o644)).unwrap() }), "plugin DIR/bin/a cannot be run: not an executable file")]
#[case::no_bin_dir(|fixture: &Fixture| fs::remove_dir_all(fixture.path("bin")).unwrap(), "plugin directory DIR/bin cannot be used: No such file or directory (os error 2)")]
fn what_cannot_be_used_ends_the_start(#[case] arrange: fn(&Fixture), #[case] text: &str) {
    let fixture = Fixture::new();
    arrange(&fixture);
    let error =
        CredentialProviders::load(&fixture.path("config.yaml"), &fixture.path("bin"), &fixture.metrics).unwrap_err();
    let error = crate::text::with_causes(&error).replace(fixture.dir.path().to_str().unwrap(), "DIR");
    assert_eq!(error, text);
}

fn write(fixture: &Fixture, spoil: impl Fn(PathBuf)) {
    let plugin = fixture.plugin("a", SCRIPT, "");
    fs::write(fixture.path("config.yaml"), config(&[plugin])).unwrap();
    spoil(fixture.path("bin/a"));
}
