//! When the certificate is renewed, and what the replicas keep in their Secret about it. Pure.
//!
//! Every renewal makes an authority too: the way on which trust changes is the way of every time, and not one that is
//! taken, for the first time, in ten years. No request fails on it, because the API server trusts what is to come
//! before it comes, and what went until the next time:
//!
//! | | serves | `caBundle` |
//! |---|---|---|
//! | | A | A |
//! | prepare: B is made and stored | A | A B |
//! | promote, [`SETTLE`] after `caBundle` had B | B | B A |
//! | the next renewal | B | B C A |

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};

use super::certificate::{CertificateError, Health, Names, Pair};

/// How long the API server's processes have to see a new `caBundle` before they are served what it is for. They watch
/// the configuration and see it within a second; this is for one whose watch is broken, and for replicas of ours that
/// read the Secret by the minute.
pub(super) const SETTLE: Duration = Duration::from_mins(10);

/// Keys of the Secret. The first three are those of `kubernetes.io/tls` and of cert-manager, for people who look.
const SERVING: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const NEXT: [&str; 3] = ["next.tls.crt", "next.tls.key", "next.ca.crt"];
const FORMER_AUTHORITY: &str = "former.ca.crt";

/// What the Secret holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    pub(super) serving: Option<Pair>,
    pub(super) next: Option<Pair>,
    /// The authority of the certificate that was served before: a replica that has not looked yet still serves it.
    former_authority: Option<String>,
}

/// What is known when it is decided.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) serving: Option<Health>,
    pub(super) next: Option<Health>,
    /// Since when the API server has been told to trust `next`.
    pub(super) next_trusted: Option<Duration>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Keep,
    /// There is nothing that can be served: requests fail until `caBundle` follows.
    Begin,
    Prepare,
    Promote,
}

// === impl Step ===

impl Step {
    pub(super) fn decide(facts: &Facts) -> Self {
        let next_is_good = facts.next.as_ref().map(|next| matches!(next, Health::Fresh));
        match (&facts.serving, next_is_good) {
            (None | Some(Health::Unusable(_)), Some(true)) => Self::Promote,
            (None | Some(Health::Unusable(_)), None | Some(false)) => Self::Begin,
            (Some(Health::Fresh | Health::Aging), Some(false)) | (Some(Health::Aging), None) => Self::Prepare,
            (Some(Health::Fresh | Health::Aging), Some(true)) if facts.next_trusted >= Some(SETTLE) => Self::Promote,
            (Some(Health::Fresh | Health::Aging), Some(true)) | (Some(Health::Fresh), None) => Self::Keep,
        }
    }
}

// === impl Keys ===

impl Keys {
    /// What cannot be read is as good as absent: it is made anew.
    pub(super) fn read(data: &BTreeMap<String, Vec<u8>>) -> Self {
        Self {
            serving: read_pair(data, SERVING),
            next: read_pair(data, NEXT),
            former_authority: read(data, FORMER_AUTHORITY),
        }
    }

    /// Puts them into the Secret, beside what others may keep there.
    pub(super) fn write(&self, data: &mut BTreeMap<String, Vec<u8>>) {
        write_pair(data, SERVING, self.serving.as_ref());
        write_pair(data, NEXT, self.next.as_ref());
        write(data, FORMER_AUTHORITY, self.former_authority.as_deref());
    }

    pub(super) fn facts(&self, names: &Names, now: Timestamp, next_trusted: Option<Duration>) -> Facts {
        let health = |pair: &Option<Pair>| pair.as_ref().map(|pair| pair.health(names, now));
        Facts { serving: health(&self.serving), next: health(&self.next), next_trusted }
    }

    /// What the step makes of them.
    pub(super) fn after(self, step: Step, names: &Names, now: Timestamp) -> Result<Self, CertificateError> {
        let authority = |pair: Option<Pair>| pair.map(|pair| pair.authority);
        Ok(match step {
            Step::Keep => self,
            Step::Begin => {
                Self { former_authority: authority(self.serving), serving: Some(Pair::make(names, now)?), next: None }
            }
            Step::Prepare => Self { next: Some(Pair::make(names, now)?), ..self },
            Step::Promote => Self { former_authority: authority(self.serving), serving: self.next, next: None },
        })
    }

    /// What the API server is to trust.
    pub(super) fn bundle(&self) -> Vec<u8> {
        let pairs = self.serving.iter().chain(&self.next).map(|pair| &pair.authority);
        pairs.chain(&self.former_authority).flat_map(|authority| authority.bytes()).collect()
    }
}

fn read(data: &BTreeMap<String, Vec<u8>>, key: &str) -> Option<String> {
    String::from_utf8(data.get(key)?.clone()).ok().filter(|text| !text.is_empty())
}

fn read_pair(data: &BTreeMap<String, Vec<u8>>, [certificate, key, authority]: [&str; 3]) -> Option<Pair> {
    Some(Pair {
        certificate: read(data, certificate)?,
        key: SecretString::from(read(data, key)?),
        authority: read(data, authority)?,
    })
}

fn write(data: &mut BTreeMap<String, Vec<u8>>, key: &str, text: Option<&str>) {
    match text {
        Some(text) => drop(data.insert(key.to_owned(), text.into())),
        None => drop(data.remove(key)),
    }
}

fn write_pair(data: &mut BTreeMap<String, Vec<u8>>, [certificate, key, authority]: [&str; 3], pair: Option<&Pair>) {
    write(data, certificate, pair.map(|pair| pair.certificate.as_str()));
    write(data, key, pair.map(|pair| pair.key.expose_secret()));
    write(data, authority, pair.map(|pair| pair.authority.as_str()));
}

#[cfg(test)]
mod tests {
    use Step::{Begin, Keep, Prepare, Promote};
    use jiff::ToSpan as _;
    use rstest::rstest;

    use super::*;

    fn health(word: &str) -> Option<Health> {
        match word {
            "fresh" => Some(Health::Fresh),
            "aging" => Some(Health::Aging),
            "unusable" => Some(Health::Unusable(CertificateError::Clock { now: Timestamp::MIN })),
            _ => None,
        }
    }

    #[rstest]
    #[case::first_start("none", "none", None, Begin)]
    #[case::over("unusable", "none", None, Begin)]
    #[case::over_and_so_is_the_next("unusable", "unusable", None, Begin)]
    #[case::over_and_the_next_is_old("unusable", "aging", None, Begin)]
    #[case::over_with_one_at_hand("unusable", "fresh", None, Promote)]
    #[case::nothing_to_do("fresh", "none", None, Keep)]
    #[case::due("aging", "none", None, Prepare)]
    #[case::next_is_not_trusted("aging", "fresh", None, Keep)]
    #[case::next_is_hardly_trusted("aging", "fresh", Some(599), Keep)]
    #[case::next_is_trusted("aging", "fresh", Some(600), Promote)]
    #[case::next_was_made_too_early("fresh", "fresh", Some(600), Promote)]
    #[case::next_has_grown_old("aging", "aging", Some(600), Prepare)]
    #[case::next_is_spoilt("fresh", "unusable", None, Prepare)]
    fn decides(#[case] serving: &str, #[case] next: &str, #[case] trusted: Option<u64>, #[case] expected: Step) {
        let facts =
            Facts { serving: health(serving), next: health(next), next_trusted: trusted.map(Duration::from_secs) };
        assert_eq!(Step::decide(&facts), expected);
    }

    /// Over three years, whatever is served was trusted [`SETTLE`] before, and what a replica served until now still is.
    #[test]
    fn trust_comes_before_and_stays_after() {
        let names = Names::parse(["w.n.svc".to_owned()]).unwrap();
        let (mut keys, mut data) = (Keys::default(), BTreeMap::new());
        let mut now: Timestamp = "2026-11-22T07:30:00Z".parse().unwrap();
        let (mut trusted, mut renewals) = (String::new(), 0);
        for day in 0..1_100 {
            let facts = keys.facts(&names, now, Some(SETTLE));
            let step = Step::decide(&facts);
            let former = keys.serving.clone();
            keys = keys.after(step, &names, now).unwrap();
            keys.write(&mut data);
            keys = Keys::read(&data);
            let bundle = String::from_utf8(keys.bundle()).unwrap();
            let serving = keys.serving.clone().unwrap();
            assert!(day == 0 || trusted.contains(&serving.authority), "day {day}");
            assert!(!matches!(serving.health(&names, now), Health::Unusable(_)), "day {day}");
            assert!(former.is_none_or(|former| bundle.contains(&former.authority)), "day {day}");
            assert!(bundle.matches("BEGIN CERTIFICATE").count() <= 3, "day {day}");
            trusted = bundle;
            renewals += usize::from(step == Promote);
            now += 24.hours();
        }
        assert_eq!(renewals, 18, "every 61 days: one for the promotion");
    }

    #[test]
    fn leaves_what_others_keep_in_the_secret() {
        let names = Names::parse(["w.n.svc".to_owned()]).unwrap();
        let mut data =
            BTreeMap::from([("note".to_owned(), b"x".to_vec()), ("next.tls.crt".to_owned(), b"rest".to_vec())]);
        Keys::read(&data).after(Begin, &names, Timestamp::UNIX_EPOCH + 9_999.hours()).unwrap().write(&mut data);
        assert_eq!(data.keys().collect::<Vec<_>>(), ["ca.crt", "note", "tls.crt", "tls.key"]);
    }

    #[rstest]
    #[case::empty(&[])]
    #[case::no_text(&[("tls.crt", b"\xff".as_slice()), ("tls.key", b"k"), ("ca.crt", b"c")])]
    #[case::no_key(&[("tls.crt", b"c".as_slice()), ("tls.key", b""), ("ca.crt", b"c")])]
    fn what_cannot_be_read_is_absent(#[case] data: &[(&str, &[u8])]) {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.to_vec())).collect();
        let keys = Keys::read(&data);
        assert!(keys.serving.is_none() && keys.next.is_none() && keys.former_authority.is_none());
    }
}
