//! The webhook's certificate, and the authority that signed it and nothing else.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretString};

/// How long a certificate is good: long enough that a cluster may be off for a month, or its API server out of reach,
/// without the certificate being over at its return; short enough that renewing it is routine and not an adventure.
pub(super) const LIFETIME_DAYS: i32 = 90;
/// How long before its end it is renewed: a third of its life, which is what is left for whatever goes wrong.
pub(super) const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);
/// Clocks of nodes differ, and a certificate begins at a day's start.
const BACKDATED_DAYS: i32 = 1;

/// A certificate with its key, and its authority. The authority's key is gone as soon as it has signed this one
/// certificate: there is nothing to steal that could sign another, and an authority is trusted for as long as its one
/// certificate is in use. All PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: SecretString,
    pub(super) authority: String,
}

/// What a pair is still good for.
#[derive(Debug)]
pub(super) enum Health {
    Fresh,
    /// Good, and about to be renewed.
    Aging,
    Unusable(CertificateError),
}

/// A certificate that cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The name is neither a DNS name nor an IP address.
    #[error("{name:?} is no name of a server")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: rustls::pki_types::InvalidDnsNameError,
    },
    /// It could not be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// Today is a day that no calendar knows.
    #[error("the machine's clock says {now}, which no certificate can hold")]
    Clock {
        /// What the clock says.
        now: Timestamp,
    },
    /// What is stored is no PEM.
    #[error("{what} is no PEM")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The authority is no authority.
    #[error("the authority cannot be used")]
    Authority(#[source] rustls::Error),
    /// No verifier can be made from the authority.
    #[error("the authority cannot be trusted")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// The API server would refuse it: over, for other names, or signed by somebody else.
    #[error("it is not good for {name}")]
    Refused {
        /// The name that it should be good for.
        name: String,
        /// Why it is not.
        source: rustls::Error,
    },
    /// The key is none, or belongs to another certificate.
    #[error("the key does not fit")]
    Key(#[source] rustls::Error),
}

/// Year, month and day.
type Day = (i32, u8, u8);

/// The names of a server, each good for a certificate.
#[derive(Debug, Clone)]
pub(super) struct Names(Vec<ServerName<'static>>);

// === impl Names ===

impl Names {
    pub(super) fn parse(names: impl IntoIterator<Item = String>) -> Result<Self, CertificateError> {
        let parse =
            |name: String| ServerName::try_from(name.clone()).map_err(|source| CertificateError::Name { name, source });
        names.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

// === impl Pair ===

impl Pair {
    /// Makes a certificate for these names, and an authority for it.
    pub(super) fn make(names: &Names, now: Timestamp) -> Result<Self, CertificateError> {
        let authority_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let authority = authority_params(now)?;
        let authority_certificate = authority.self_signed(&authority_key)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = leaf_params(names, now)?.signed_by(&key, &Issuer::new(authority, authority_key))?;
        Ok(Self {
            certificate: certificate.pem(),
            key: SecretString::from(key.serialize_pem()),
            authority: authority_certificate.pem(),
        })
    }

    /// Checks it as the API server does, which knows the authority alone.
    pub(super) fn health(&self, names: &Names, now: Timestamp) -> Health {
        if let Err(error) = self.certified().map(drop).and_then(|()| self.check(names, unix_time(now, Duration::ZERO)))
        {
            return Health::Unusable(error);
        }
        match self.check(names, unix_time(now, RENEW_BEFORE)) {
            Ok(()) => Health::Fresh,
            Err(_) => Health::Aging,
        }
    }

    /// What a TLS server serves.
    pub(super) fn certified(&self) -> Result<CertifiedKey, CertificateError> {
        let key = PrivateKeyDer::from_pem_slice(self.key.expose_secret().as_bytes())
            .map_err(|source| CertificateError::Pem { what: "the key", source })?;
        CertifiedKey::from_der(vec![self.leaf()?], key, &provider()).map_err(CertificateError::Key)
    }

    fn leaf(&self) -> Result<CertificateDer<'static>, CertificateError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|source| CertificateError::Pem { what: "the certificate", source })
    }

    fn check(&self, names: &Names, at: UnixTime) -> Result<(), CertificateError> {
        let authority = CertificateDer::from_pem_slice(self.authority.as_bytes())
            .map_err(|source| CertificateError::Pem { what: "the authority", source })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(CertificateError::Authority)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        let leaf = self.leaf()?;
        names.0.iter().try_for_each(|name| {
            let checked = verifier.verify_server_cert(&leaf, &[], name, &[], at);
            checked.map(drop).map_err(|source| CertificateError::Refused { name: name.to_str().into_owned(), source })
        })
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// The cryptography of the whole program.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authority_params(now: Timestamp) -> Result<CertificateParams, CertificateError> {
    let mut params = params(Vec::new(), "imagevol-webhook authority", now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn leaf_params(names: &Names, now: Timestamp) -> Result<CertificateParams, CertificateError> {
    let names = names.0.iter().map(|name| name.to_str().into_owned()).collect();
    let mut params = params(names, "imagevol-webhook", now)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(names: Vec<String>, common_name: &str, now: Timestamp) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let (from, to) = validity(now).ok_or(CertificateError::Clock { now })?;
    params.not_before = date_time_ymd(from.0, from.1, from.2);
    params.not_after = date_time_ymd(to.0, to.1, to.2);
    Ok(params)
}

/// The days, at midnight UTC, between which a certificate of this moment is good.
fn validity(now: Timestamp) -> Option<(Day, Day)> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let day = |days: i32| {
        let day = today.checked_add(Span::new().try_days(days).ok()?).ok()?;
        Some((i32::from(day.year()), u8::try_from(day.month()).ok()?, u8::try_from(day.day()).ok()?))
    };
    day(-BACKDATED_DAYS).zip(day(LIFETIME_DAYS))
}

/// A moment before 1970 is as good as 1970: every certificate is yet to begin.
fn unix_time(now: Timestamp, later: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default()) + later)
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use rstest::rstest;

    use super::*;

    fn names(names: &[&str]) -> Names {
        Names::parse(names.iter().map(ToString::to_string)).unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-22T07:30:00Z".parse().unwrap()
    }

    fn later(days: i64) -> Timestamp {
        now() + (days * 24).hours()
    }

    #[rstest]
    #[case::just_made(0, "Fresh")]
    #[case::before_it_is_due(59, "Fresh")]
    #[case::due(60, "Aging")]
    #[case::last_day(89, "Aging")]
    #[case::over(90, "Unusable")]
    #[case::a_clock_that_is_slow(-1, "Fresh")]
    #[case::not_begun(-2, "Unusable")]
    fn ages(#[case] days: i64, #[case] expected: &str) {
        let names = names(&["w.n.svc", "127.0.0.1", "::1"]);
        let health = format!("{:?}", Pair::make(&names, now()).unwrap().health(&names, later(days)));
        assert!(health.starts_with(expected), "{health}");
    }

    #[test]
    fn is_good_for_its_names_alone() {
        let pair = Pair::make(&names(&["w.n.svc"]), now()).unwrap();
        let Health::Unusable(error) = pair.health(&names(&["w.n.svc", "w.other.svc"]), now()) else { panic!("usable") };
        assert_eq!(error.to_string(), "it is not good for w.other.svc");
    }

    #[test]
    fn parts_of_different_pairs_do_not_fit() {
        let names = names(&["w.n.svc"]);
        let (one, other) = (Pair::make(&names, now()).unwrap(), Pair::make(&names, now()).unwrap());
        let foreign_key = Pair { key: other.key.clone(), ..one.clone() };
        let foreign_authority = Pair { authority: other.authority.clone(), ..one.clone() };
        let no_pem = Pair { certificate: "x".to_owned(), ..one };
        for (pair, expected) in [
            (foreign_key, "the key does not fit"),
            (foreign_authority, "it is not good for w.n.svc"),
            (no_pem, "the certificate is no PEM"),
        ] {
            let Health::Unusable(error) = pair.health(&names, now()) else { panic!("usable: not {expected}") };
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn refuses_names_that_are_none() {
        assert!(matches!(Names::parse(["a b".to_owned()]), Err(CertificateError::Name { name, .. }) if name == "a b"));
    }

    #[test]
    fn shows_no_key() {
        let pair = Pair::make(&names(&["w.n.svc"]), now()).unwrap();
        assert_eq!(format!("{pair:?}"), "Pair { .. }");
    }
}
