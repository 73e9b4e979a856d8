//! Pull secrets for pods, from the manifests, in memory only.

use async_trait::async_trait;

use imagevol_api::corev1::Pod;
use imagevol_images::{PodPullSecrets, PullSecret, PullSecrets, PullSecretsError};

use crate::control::ControlPlane;
use crate::file::Manifests;

#[async_trait]
impl PullSecrets for ControlPlane {
    async fn for_pod(&self, pod: &Pod) -> Result<PodPullSecrets, PullSecretsError> {
        Ok(pull_secrets(&self.manifests(), pod))
    }
}

/// In the order of the pod; empty names are passed over, and secrets that are not for registries count as found (kubelet
/// `getPullSecretsForPod`, `credentialprovider/secrets`).
fn pull_secrets(manifests: &Manifests, pod: &Pod) -> PodPullSecrets {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let mut secrets = PodPullSecrets::default();
    for reference in named.filter(|reference| !reference.name.is_empty()) {
        match manifests.secrets.get(&(namespace.clone(), reference.name.clone())) {
            Some(secret) => secrets.found.extend(PullSecret::of(&secret.0)),
            None => secrets.missing.push(reference.name.clone()),
        }
    }
    secrets
}

#[cfg(test)]
mod tests {
    use imagevol_api::corev1::Secret;
    use serde_json::json;

    use super::*;
    use crate::file::HeldSecret;

    fn secret(namespace: &str, name: &str, type_: &str) -> ((String, String), HeldSecret) {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "uid": format!("uid-{namespace}-{name}")},
            "type": type_,
            // {}
            "data": {".dockerconfigjson": "e30=", "key": "e30="},
        }))
        .unwrap();
        ((namespace.to_owned(), name.to_owned()), HeldSecret(secret.into()))
    }

    #[test]
    fn finds_the_secrets_of_the_namespace_in_the_order_of_the_pod() {
        let docker = "kubernetes.io/dockerconfigjson";
        let secrets = [
            secret("a", "one", docker),
            secret("a", "two", docker),
            secret("b", "three", docker),
            secret("a", "other", "Opaque"),
        ];
        let manifests = Manifests { secrets: secrets.into(), ..Manifests::default() };
        let names = ["two", "", "three", "other", "one"].map(|name| json!({"name": name}));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "a"}, "spec": {"containers": [], "imagePullSecrets": names},
        }))
        .unwrap();
        let PodPullSecrets { found, missing } = pull_secrets(&manifests, &pod);
        let uids: Vec<_> = found.iter().map(|secret| secret.coordinates.uid.as_str()).collect();
        assert_eq!((uids, missing), (vec!["uid-a-two", "uid-a-one"], vec!["three".to_owned()]));
    }
}
