use std::collections::BTreeMap;
use std::sync::Mutex;

use imagevol_controlplane::apiserver::webhook::SecretData;
use jiff::ToSpan as _;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::super::certificate::{Pair, provider};
use super::super::rotation::SETTLE;
use super::*;

const NAME: &str = "w.n.svc";

/// The two objects in memory, as several replicas see them.
#[derive(Debug, Clone, Default)]
struct FakeCluster(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    secret: Option<(BTreeMap<String, Vec<u8>>, u64)>,
    bundles: Option<Vec<Vec<u8>>>,
    /// Somebody else writes the Secret between the next reading and the next writing.
    interfere: bool,
    down: bool,
}

impl FakeCluster {
    fn with_manifests() -> Self {
        let state = State { secret: Some(Default::default()), bundles: Some(vec![vec![]; 2]), ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn up(&self) -> Result<std::sync::MutexGuard<'_, State>, BoxError> {
        let state = self.0.lock().unwrap();
        if state.down { Err("connection refused".into()) } else { Ok(state) }
    }

    fn bundle(&self) -> Vec<u8> {
        self.0.lock().unwrap().bundles.as_ref().unwrap()[0].clone()
    }
}

impl Cluster for FakeCluster {
    async fn secret(&self) -> Result<Option<SecretData>, BoxError> {
        let mut state = self.up()?;
        let interfere = std::mem::take(&mut state.interfere);
        Ok(state.secret.as_mut().map(|(data, version)| {
            let read = SecretData { data: data.clone(), resource_version: version.to_string() };
            *version += u64::from(interfere);
            read
        }))
    }

    async fn replace_secret(&self, secret: &SecretData) -> Result<Replaced, BoxError> {
        let mut state = self.up()?;
        let (data, version) = state.secret.as_mut().ok_or("not found")?;
        if version.to_string() != secret.resource_version {
            return Ok(Replaced::Conflict);
        }
        data.clone_from(&secret.data);
        *version += 1;
        Ok(Replaced::Done)
    }

    async fn ca_bundles(&self) -> Result<Option<Vec<Vec<u8>>>, BoxError> {
        Ok(self.up()?.bundles.clone())
    }

    async fn set_ca_bundle(&self, bundle: &[u8]) -> Result<Replaced, BoxError> {
        let mut state = self.up()?;
        state.bundles.as_mut().ok_or("not found")?.fill(bundle.to_vec());
        Ok(Replaced::Done)
    }
}

fn start() -> Timestamp {
    "2026-11-22T07:30:00Z".parse().unwrap()
}

fn replica(cluster: &FakeCluster) -> Keeper<FakeCluster> {
    let names = Names::parse([NAME.to_owned()]).unwrap();
    let first = Pair::make(&names, start()).unwrap();
    Keeper::new(cluster.clone(), names, Arc::new(Serving::new(&first).unwrap()))
}

async fn settle(keeper: &mut Keeper<FakeCluster>, now: Timestamp) {
    for _ in 0..5 {
        if keeper.look(now).await.unwrap() == Looked::Settled {
            return;
        }
    }
    panic!("does not settle");
}

fn served(keeper: &Keeper<FakeCluster>) -> CertificateDer<'static> {
    keeper.serving.current().cert[0].clone()
}

/// As an API server decides that has this `caBundle`.
fn trusts(bundle: &[u8], leaf: &CertificateDer<'_>, now: Timestamp) -> bool {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle) {
        roots.add(authority.unwrap()).unwrap();
    }
    if roots.is_empty() {
        return false;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().try_into().unwrap()));
    verifier.verify_server_cert(leaf, &[], &ServerName::try_from(NAME).unwrap(), &[], now).is_ok()
}

#[tokio::test]
async fn first_start_makes_a_certificate_and_has_it_trusted() {
    let cluster = FakeCluster::with_manifests();
    let mut keeper = replica(&cluster);
    assert_eq!(keeper.look(start()).await.unwrap(), Looked::Changed);
    assert_eq!(keeper.look(start()).await.unwrap(), Looked::Settled);
    assert!(trusts(&cluster.bundle(), &served(&keeper), start()));
    let bundles = cluster.0.lock().unwrap().bundles.clone().unwrap();
    assert_eq!(bundles[0], bundles[1], "every webhook of the configuration has it");
}

#[tokio::test]
async fn replicas_that_start_together_serve_the_same() {
    let cluster = FakeCluster::with_manifests();
    let (mut one, mut other) = (replica(&cluster), replica(&cluster));
    cluster.0.lock().unwrap().interfere = true;
    assert_eq!(one.look(start()).await.unwrap(), Looked::Changed, "somebody was faster");
    settle(&mut other, start()).await;
    settle(&mut one, start()).await;
    assert_eq!(served(&one), served(&other));
    assert!(trusts(&cluster.bundle(), &served(&one), start()));
}

#[tokio::test]
async fn what_somebody_puts_into_the_configuration_is_put_right() {
    let cluster = FakeCluster::with_manifests();
    let mut keeper = replica(&cluster);
    settle(&mut keeper, start()).await;
    cluster.0.lock().unwrap().bundles = Some(vec![b"applied again".to_vec(), vec![]]);
    settle(&mut keeper, start()).await;
    assert!(trusts(&cluster.bundle(), &served(&keeper), start()));
}

#[tokio::test]
async fn a_spoilt_secret_is_made_anew() {
    let cluster = FakeCluster::with_manifests();
    let mut keeper = replica(&cluster);
    settle(&mut keeper, start()).await;
    cluster.0.lock().unwrap().secret.as_mut().unwrap().0.insert("tls.key".to_owned(), b"x".to_vec());
    settle(&mut keeper, start()).await;
    assert!(trusts(&cluster.bundle(), &served(&keeper), start()));
}

#[tokio::test]
async fn says_what_is_missing() {
    let cluster = FakeCluster::default();
    let mut keeper = replica(&cluster);
    assert!(matches!(keeper.look(start()).await, Err(KeeperError::NoSecret)));
    cluster.0.lock().unwrap().secret = Some(Default::default());
    assert!(matches!(keeper.look(start()).await, Err(KeeperError::NoConfiguration)));
    cluster.0.lock().unwrap().down = true;
    assert!(matches!(keeper.look(start()).await, Err(KeeperError::ReadSecret(_))));
}

/// Two replicas look in turn, minute by minute around each renewal, and a replica may be away from the API server for
/// the whole settling time but its last minute. At every moment, an API server whose `caBundle` is as old as it can be
/// trusts what every replica serves.
#[tokio::test(start_paused = true)]
async fn no_moment_of_a_renewal_fails_a_request() {
    let cluster = FakeCluster::with_manifests();
    let mut replicas = [replica(&cluster), replica(&cluster)];
    let (mut now, mut seen, mut leaves) = (start(), Vec::<Vec<u8>>::new(), Vec::new());
    for keeper in &mut replicas {
        settle(keeper, now).await;
    }
    for minute in 0..200_u64 {
        // Sixty days of nothing are skipped.
        let step = if minute % 50 == 0 { Duration::from_hours(60 * 24) } else { Duration::from_mins(1) };
        if minute % 50 == 0 {
            seen.clear();
        }
        tokio::time::advance(step).await;
        now += i64::try_from(step.as_secs()).unwrap().seconds();
        for (index, keeper) in replicas.iter_mut().enumerate() {
            if index == 1 && minute % 2 == 0 {
                continue;
            }
            keeper.look(now).await.unwrap();
        }
        seen.push(cluster.bundle());
        let settled = usize::try_from(SETTLE.as_secs() / 60).unwrap() - 1;
        for keeper in &replicas {
            let leaf = served(keeper);
            for bundle in seen.iter().rev().take(settled) {
                assert!(trusts(bundle, &leaf, now), "minute {minute}");
            }
            if !leaves.contains(&leaf) {
                leaves.push(leaf);
            }
        }
    }
    assert_eq!(leaves.len(), 5, "the first, and one for each of four renewals");
    assert_eq!(served(&replicas[0]), served(&replicas[1]));
}

#[tokio::test(start_paused = true)]
async fn readiness_waits_for_trust_and_outlives_an_outage() {
    let cluster = FakeCluster::with_manifests();
    cluster.0.lock().unwrap().down = true;
    let (ready, supervisor) = (Arc::new(AtomicBool::new(false)), Supervisor::new("test"));
    let clock = WallClock::new(start);
    supervisor.spawn("keeper", replica(&cluster).run(clock, Arc::clone(&ready), supervisor.clone()));
    tokio::time::sleep(RETRY * 3).await;
    assert!(!ready.load(Ordering::Relaxed));
    cluster.0.lock().unwrap().down = false;
    tokio::time::sleep(RETRY * 3).await;
    assert!(ready.load(Ordering::Relaxed));
    cluster.0.lock().unwrap().down = true;
    tokio::time::sleep(PERIOD * 3).await;
    assert!(ready.load(Ordering::Relaxed), "what is served is still good");
    assert!(supervisor.shut_down(Duration::from_secs(1)).await);
}
