//! Secrets, as far as pulling images needs them (`ValidateSecret`).

use crate::corev1::Secret;

use super::{ErrorList, metadata};
use crate::core::field::{FieldError, Path};

/// Bytes of all values together (core/v1, `MaxSecretSize`).
const SECRET_MAX: usize = 1 << 20;

/// Every error of a defaulted secret. No text shows what the secret holds.
pub fn validate_secret(secret: &Secret) -> ErrorList {
    let mut errors = metadata::validate(&secret.metadata);
    let path = Path::new("data");
    let size: usize = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum();
    errors.extend((size > SECRET_MAX).then(|| path.too_long(SECRET_MAX)));
    errors.extend(match secret.type_.as_deref() {
        Some("kubernetes.io/dockercfg") => validate_json(secret, ".dockercfg", &path),
        Some("kubernetes.io/dockerconfigjson") => validate_json(secret, ".dockerconfigjson", &path),
        _ => None,
    });
    errors
}

fn validate_json(secret: &Secret, key: &str, path: &Path) -> Option<FieldError> {
    let path = path.key(key);
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Some(path.required("")) };
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&value.0);
    object.is_err().then(|| path.invalid("<secret contents redacted>", "must be a JSON object"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case(json!({".dockerconfigjson": "e30="}), None)]
    #[case(json!({}), Some("data[.dockerconfigjson]: Required value"))]
    #[case(json!({".dockerconfigjson": "aHVudGVyMg=="}),
        Some(r#"data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": must be a JSON object"#))]
    fn checks_pull_secrets(#[case] data: serde_json::Value, #[case] error: Option<&str>) {
        let metadata = json!({"name": "s", "namespace": "n"});
        let secret = json!({"metadata": metadata, "type": "kubernetes.io/dockerconfigjson", "data": data});
        let errors = validate_secret(&serde_json::from_value(secret).unwrap());
        assert_eq!(errors.first().map(ToString::to_string).as_deref(), error);
    }

    #[test]
    fn refuses_big_ones() {
        let data = [("k".to_owned(), k8s_openapi::ByteString(vec![0; SECRET_MAX + 1]))].into();
        let secret = Secret { data: Some(data), ..Secret::default() };
        let last = validate_secret(&secret).pop().unwrap();
        assert_eq!(last.to_string(), "data: Too long: may not be more than 1048576 bytes");
    }
}
