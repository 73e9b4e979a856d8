//! How a proof is added to a pulled record (Kubernetes, `pkg/kubelet/images/pullmanager`, `pulledRecordMergeNewCreds`). Pure.

use imagevol_api::metav1::Time;
use imagevol_api::records::{ImagePullCredentials, ImagePullSecret, ImagePullServiceAccount, ImagePulledRecord};

use super::access::is_same_secret;

/// How many secrets a record holds for one name of an image (KEP-2535). Who comes later proves his right to the registry
/// each time, so that tenants that come and go cannot make a record grow for ever.
const SECRETS_MAX: usize = 100;
/// The same for service accounts. Ours: the kubelet has no limit.
const ACCOUNTS_MAX: usize = 100;

/// `record` with the proof that `repository` was pulled with `credentials`; `None` if it says so already.
pub(super) fn merge(
    record: &ImagePulledRecord,
    repository: &str,
    credentials: &ImagePullCredentials,
    now: &Time,
) -> Option<ImagePulledRecord> {
    let known = record.credential_mapping.get(repository);
    let merged = merge_credentials(known.cloned().unwrap_or_default(), credentials);
    if known == Some(&merged) {
        return None;
    }
    let mut changed = record.clone();
    changed.credential_mapping.insert(repository.to_owned(), merged);
    changed.last_updated_time = now.clone();
    Some(changed)
}

/// Open to the node wins and clears the lists; else the lists are united.
fn merge_credentials(mut known: ImagePullCredentials, new: &ImagePullCredentials) -> ImagePullCredentials {
    if known.node_pods_accessible || new.node_pods_accessible {
        return ImagePullCredentials { node_pods_accessible: true, ..ImagePullCredentials::default() };
    }
    for secret in &new.kubernetes_secrets {
        add_secret(&mut known.kubernetes_secrets, secret);
    }
    for account in &new.kubernetes_service_accounts {
        add_account(&mut known.kubernetes_service_accounts, account);
    }
    known.sort();
    known
}

/// A secret that is there gets its new content.
fn add_secret(known: &mut Vec<ImagePullSecret>, new: &ImagePullSecret) {
    if let Some(same) = known.iter_mut().find(|known| is_same_secret(known, new)) {
        same.credential_hash.clone_from(&new.credential_hash);
        return;
    }
    if known.len() < SECRETS_MAX && !known.contains(new) {
        known.push(new.clone());
    }
}

fn add_account(known: &mut Vec<ImagePullServiceAccount>, new: &ImagePullServiceAccount) {
    if known.len() < ACCOUNTS_MAX && !known.contains(new) {
        known.push(new.clone());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::access::{Proof, prove};
    use super::*;

    fn secret(namespace: &str, hash: &str) -> ImagePullSecret {
        let [namespace, credential_hash] = [namespace, hash].map(str::to_owned);
        ImagePullSecret { name: "s".to_owned(), uid: format!("uid-{namespace}"), namespace, credential_hash }
    }

    fn by(secrets: &[ImagePullSecret]) -> ImagePullCredentials {
        ImagePullCredentials { kubernetes_secrets: secrets.to_vec(), ..ImagePullCredentials::default() }
    }

    fn open() -> ImagePullCredentials {
        ImagePullCredentials { node_pods_accessible: true, ..ImagePullCredentials::default() }
    }

    fn record(credentials: &[ImagePullCredentials]) -> ImagePulledRecord {
        let empty = ImagePulledRecord::new("sha256:aa", Time(jiff::Timestamp::UNIX_EPOCH));
        let add = |record: ImagePulledRecord, new| merge(&record, "r.io/a", new, &later()).unwrap_or(record);
        credentials.iter().fold(empty, add)
    }

    fn later() -> Time {
        Time(jiff::Timestamp::UNIX_EPOCH + std::time::Duration::from_mins(1))
    }

    fn of(record: &ImagePulledRecord) -> &ImagePullCredentials {
        &record.credential_mapping["r.io/a"]
    }

    #[test]
    fn secrets_are_united_and_sorted() {
        let record = record(&[by(&[secret("b", "1")]), by(&[secret("a", "2")])]);
        assert_eq!(of(&record), &by(&[secret("a", "2"), secret("b", "1")]));
        assert_eq!(record.last_updated_time, later());
    }

    #[test]
    fn a_rotated_secret_replaces_its_hash() {
        assert_eq!(of(&record(&[by(&[secret("a", "1")]), by(&[secret("a", "2")])])), &by(&[secret("a", "2")]));
    }

    #[test]
    fn open_to_the_node_wins_and_clears() {
        assert_eq!(of(&record(&[by(&[secret("a", "1")]), open()])), &open());
        assert_eq!(of(&record(&[open(), by(&[secret("a", "1")])])), &open());
    }

    #[test]
    fn nothing_new_is_no_change() {
        let known = record(&[by(&[secret("a", "1")])]);
        assert_eq!(merge(&known, "r.io/a", &by(&[secret("a", "1")]), &later()), None);
        assert!(merge(&known, "r.io/b", &by(&[secret("a", "1")]), &later()).is_some(), "names are apart");
    }

    #[test]
    fn holds_a_hundred_secrets() {
        let many: Vec<_> = (0..150).map(|number| by(&[secret(&number.to_string(), "h")])).collect();
        let full = record(&many);
        assert_eq!(of(&full).kubernetes_secrets.len(), 100);
        let rotated = merge(&full, "r.io/a", &by(&[secret("7", "new")]), &later()).unwrap();
        assert!(of(&rotated).kubernetes_secrets.contains(&secret("7", "new")), "one that is there is still renewed");
    }

    #[test]
    fn holds_a_hundred_service_accounts() {
        let account = |number: u32| ImagePullServiceAccount {
            namespace: "n".to_owned(),
            name: "a".to_owned(),
            uid: number.to_string(),
        };
        let by = |account| ImagePullCredentials { kubernetes_service_accounts: vec![account], ..by(&[]) };
        let many: Vec<_> = (0..150).map(|number| by(account(number))).collect();
        assert_eq!(of(&record(&many)).kubernetes_service_accounts.len(), 100);
        assert_eq!(merge(&record(&many), "r.io/a", &by(account(7)), &later()), None);
    }

    fn credentials() -> impl Strategy<Value = ImagePullCredentials> {
        let secrets = prop::collection::vec(("[a-c]", "[xy]"), 0..3);
        (secrets, prop::bool::weighted(0.1)).prop_map(|(secrets, opened)| {
            let secrets: Vec<_> = secrets.iter().map(|(namespace, hash)| secret(namespace, hash)).collect();
            if opened { open() } else { by(&secrets) }
        })
    }

    proptest! {
        /// A second time is no change, lists stay sorted and free of doubles, and nobody's access is taken away.
        #[test]
        fn merging_is_idempotent_and_only_adds(all in prop::collection::vec(credentials(), 1..8)) {
            let last = all.last().cloned().unwrap();
            let (before, after) = (record(&all[..all.len() - 1]), record(&all));
            prop_assert_eq!(merge(&after, "r.io/a", &last, &later()), None);
            let secrets = &of(&after).kubernetes_secrets;
            prop_assert!(secrets.is_sorted_by(|a, b| (&a.namespace, &a.name, &a.uid) < (&b.namespace, &b.name, &b.uid)));
            prop_assert!(!of(&after).node_pods_accessible || secrets.is_empty());
            for known in before.credential_mapping.get("r.io/a").into_iter().flat_map(|known| &known.kubernetes_secrets) {
                let kept = of(&after).node_pods_accessible || secrets.iter().any(|secret| is_same_secret(secret, known));
                prop_assert!(kept);
            }
        }

        /// Secrets without a name are as many as their contents: none stands for another, none takes another's place.
        #[test]
        fn inline_secrets_do_not_vouch_for_each_other(
            recorded in prop::collection::vec(("[ab]", "[u-x]"), 1..8), shown in ("[ab]", "[u-z]"), named in ("[ab]", "[u-z]"),
        ) {
            let inline = |(namespace, hash): &(String, String)| {
                ImagePullSecret { name: String::new(), uid: String::new(), ..secret(namespace, hash) }
            };
            let all: Vec<_> = recorded.iter().map(|one| by(&[inline(one)])).collect();
            let record = record(&all);
            let is_recorded = |hash: &String| recorded.iter().any(|(_, known)| known == hash);
            let proves = |secret: ImagePullSecret| prove(of(&record), &by(&[secret])) != Proof::Missing;
            prop_assert_eq!(proves(inline(&shown)), is_recorded(&shown.1));
            prop_assert_eq!(proves(secret(&named.0, &named.1)), is_recorded(&named.1), "nor for one with a name");
            for one in &recorded {
                prop_assert_eq!(prove(of(&record), &by(&[inline(one)])), Proof::Known);
            }
            let distinct: std::collections::BTreeSet<_> = recorded.iter().collect();
            prop_assert_eq!(of(&record).kubernetes_secrets.len(), distinct.len());
        }
    }
}
