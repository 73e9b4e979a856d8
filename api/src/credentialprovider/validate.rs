//! The kubelet's checks of plugins (Kubernetes, `pkg/credentialprovider/plugin/config.go`, `validateCredentialProviderConfig`).
//!
//! They make the checked types: what passes has nothing left to check. An error names the plugin by its place, which the
//! kubelet's does not.

use std::collections::BTreeSet;

use super::config::{
    Age, CredentialProvider, EnvVar, ProviderFile, RawProvider, RawTokenAttributes, RequireServiceAccount,
    ServiceAccountTokenAttributes, TokenCacheType,
};
use super::{ProviderApiVersion, RegistryPattern};
use crate::core::field::{FieldError, Path};
use crate::core::validation::label_key;

/// The checked plugins of `files`, or every error.
pub(super) fn config(files: Vec<ProviderFile>) -> Result<Vec<CredentialProvider>, Vec<FieldError>> {
    let raw: Vec<_> =
        files.into_iter().flat_map(|file| file.providers.into_iter().map(move |raw| (raw, file.age))).collect();
    let path = Path::new("providers");
    if raw.is_empty() {
        return Err(vec![path.required("at least 1 item in plugins is required")]);
    }
    let mut errors = duplicates(raw.iter().map(|(raw, _)| &*raw.name), |index| path.index(index).child("name"));
    let mut checked = Vec::new();
    for (index, (raw, age)) in raw.into_iter().enumerate() {
        checked.extend(provider(raw, age, &path.index(index), &mut errors));
    }
    if errors.is_empty() { Ok(checked) } else { Err(errors) }
}

/// Without a value, there is an error.
fn provider(raw: RawProvider, age: Age, path: &Path, errors: &mut Vec<FieldError>) -> Option<CredentialProvider> {
    errors.extend(name(&raw.name, &path.child("name")));
    let api_version = api_version(&raw.api_version, &path.child("apiVersion"), errors);
    let match_images = match_images(&raw.match_images.unwrap_or_default(), &path.child("matchImages"), errors);
    if raw.default_cache_duration.is_none() {
        errors.push(path.child("defaultCacheDuration").required(""));
    }
    let path = path.child("tokenAttributes");
    let token_attributes = match raw.token_attributes {
        None => None,
        Some(raw) => {
            errors.extend(tokens_forbidden(age, api_version, &path));
            Some(token_attributes(raw, &path, errors)?)
        }
    };
    let env = raw.env.unwrap_or_default().into_iter();
    Some(CredentialProvider {
        name: raw.name,
        match_images,
        default_cache_duration: raw.default_cache_duration?,
        api_version: api_version?,
        args: raw.args.unwrap_or_default(),
        env: env.map(|raw| EnvVar { name: raw.name, value: raw.value.into() }).collect(),
        token_attributes,
    })
}

/// The name is a file's in a directory, and must not lead anywhere else.
fn name(name: &str, path: &Path) -> Vec<FieldError> {
    if name.is_empty() {
        return vec![path.required("")];
    }
    let wrong = [
        (name.contains('/'), "provider name cannot contain '/'"),
        (name.contains(' '), "provider name cannot contain spaces"),
        (name == ".", "provider name cannot be '.'"),
        (name == "..", "provider name cannot be '..'"),
    ];
    wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, detail)| path.invalid(name, detail)).collect()
}

fn api_version(text: &str, path: &Path, errors: &mut Vec<FieldError>) -> Option<ProviderApiVersion> {
    let known = ProviderApiVersion::of(text);
    if text.is_empty() {
        errors.push(path.required(""));
    } else if known.is_none() {
        errors.push(path.not_supported(text, &ProviderApiVersion::ALL.map(ProviderApiVersion::as_str)));
    }
    known
}

fn match_images(images: &[String], path: &Path, errors: &mut Vec<FieldError>) -> Vec<RegistryPattern> {
    if images.is_empty() {
        errors.push(path.required("at least 1 item in matchImages is required"));
    }
    let mut patterns = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let Some(pattern) = RegistryPattern::parse(image) else {
            let detail = "match image is invalid: want host[:port][/path], with * inside parts of the host alone";
            errors.push(path.index(index).invalid(&**image, detail));
            continue;
        };
        patterns.push(pattern);
    }
    patterns
}

/// The older file does not know the field, and the older protocols have no place for a token.
fn tokens_forbidden(age: Age, version: Option<ProviderApiVersion>, path: &Path) -> Vec<FieldError> {
    let v1 = ProviderApiVersion::V1;
    let of_file = (age == Age::BeforeTokens)
        .then(|| path.forbidden("tokenAttributes is only supported in files of kubelet.config.k8s.io/v1"));
    let of_plugin = (version != Some(v1))
        .then(|| path.forbidden(&format!("tokenAttributes is only supported for {v1} API version")));
    of_file.into_iter().chain(of_plugin).collect()
}

/// Without a value, there is an error.
fn token_attributes(
    raw: RawTokenAttributes,
    path: &Path,
    errors: &mut Vec<FieldError>,
) -> Option<ServiceAccountTokenAttributes> {
    if raw.service_account_token_audience.is_empty() {
        errors.push(path.child("serviceAccountTokenAudience").required(""));
    }
    if raw.require_service_account.is_none() {
        errors.push(path.child("requireServiceAccount").required(""));
    }
    let [required, optional] =
        [raw.required_service_account_annotation_keys, raw.optional_service_account_annotation_keys]
            .map(Option::unwrap_or_default);
    if raw.require_service_account == Some(false) && !required.is_empty() {
        let detail = "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set";
        errors.push(path.child("requiredServiceAccountAnnotationKeys").forbidden(detail));
    }
    let required_annotations = keys(required, &path.child("requiredServiceAccountAnnotationKeys"), errors);
    let optional_annotations = keys(optional, &path.child("optionalServiceAccountAnnotationKeys"), errors);
    let both: Vec<_> = required_annotations.intersection(&optional_annotations).map(String::as_str).collect();
    if !both.is_empty() {
        errors.push(path.invalid(&*both.join(","), "annotation keys cannot be both required and optional"));
    }
    let cache_type = cache_type(&raw.cache_type, &path.child("cacheType"), errors);
    let require = |required| if required { RequireServiceAccount::Yes } else { RequireServiceAccount::No };
    Some(ServiceAccountTokenAttributes {
        audience: raw.service_account_token_audience,
        cache_type: cache_type?,
        require_service_account: raw.require_service_account.map(require)?,
        required_annotations,
        optional_annotations,
    })
}

fn cache_type(text: &str, path: &Path, errors: &mut Vec<FieldError>) -> Option<TokenCacheType> {
    let names = TokenCacheType::NAMES;
    let known = TokenCacheType::of(text);
    if text.is_empty() {
        let detail = "cacheType is required to be set when tokenAttributes is specified. Supported values are:";
        errors.push(path.required(&format!("{detail} {}", names.join(", "))));
    } else if known.is_none() {
        errors.push(path.not_supported(text, &names));
    }
    known
}

/// Keys of annotations are qualified names, whose case does not matter.
fn keys(keys: Vec<String>, path: &Path, errors: &mut Vec<FieldError>) -> BTreeSet<String> {
    for (index, key) in keys.iter().enumerate() {
        let messages = label_key(&key.to_lowercase());
        errors.extend(messages.into_iter().map(|message| path.index(index).invalid(&**key, message)));
    }
    errors.extend(duplicates(keys.iter().map(String::as_str), |index| path.index(index)));
    keys.into_iter().collect()
}

fn duplicates<'a>(names: impl Iterator<Item = &'a str>, path: impl Fn(usize) -> Path) -> Vec<FieldError> {
    let mut seen = BTreeSet::new();
    let again = names.enumerate().filter(|(_, name)| !seen.insert(*name));
    again.map(|(index, name)| path(index).duplicate(name)).collect()
}
