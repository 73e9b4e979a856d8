//! What a call shows for a pod: the secret of `nodePublishSecretRef`, and tokens of the pod's service account.

use std::collections::BTreeMap;

use imagevol_images::{Claims, PullSecret, PullSecretKind, ServiceAccountClaim};
use secrecy::SecretString;
use serde::Deserialize;

use crate::refusal::Refusal;
use crate::request::PodInfo;

/// Where the kubelet puts tokens: into the secrets if the CSIDriver object says so (`serviceAccountTokenInSecrets`, KEP-5538), else into
/// the attributes.
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A token as the kubelet gives it; when it expires is of no interest: each call brings a new one. It has no Debug.
#[derive(Deserialize)]
struct Token {
    token: String,
}

/// Reads the `secrets` of a call, and the tokens wherever they are.
pub(crate) fn read(
    secrets: BTreeMap<String, String>,
    context: &mut BTreeMap<String, String>,
    pod: &PodInfo,
) -> Result<Claims, Refusal> {
    let mut secrets = secrets;
    let tokens = secrets.remove(TOKENS).or_else(|| context.remove(TOKENS));
    let tokens = tokens.map_or(Ok(BTreeMap::new()), |text| read_tokens(&text))?;
    let account = &pod.service_account;
    let service_account =
        (!account.is_empty()).then(|| ServiceAccountClaim::of_tokens(&pod.namespace, account, tokens));
    Ok(Claims { secrets: pull_secrets(secrets, &pod.namespace)?, service_account })
}

/// A secret of another type would pull as anybody, silently: it is refused.
fn pull_secrets(secrets: BTreeMap<String, String>, namespace: &str) -> Result<Vec<PullSecret>, Refusal> {
    let is_none = secrets.is_empty();
    let found: Vec<_> = secrets
        .into_iter()
        .filter_map(|(key, data)| Some(PullSecret::inline(namespace, PullSecretKind::of_key(&key)?, data.into_bytes())))
        .collect();
    if found.is_empty() && !is_none { Err(Refusal::NoPullSecret) } else { Ok(found) }
}

fn read_tokens(text: &str) -> Result<BTreeMap<String, SecretString>, Refusal> {
    let tokens: BTreeMap<String, Token> = serde_json::from_str(text).map_err(|_| Refusal::Tokens)?;
    Ok(tokens.into_iter().map(|(audience, token)| (audience, token.token.into())).collect())
}
