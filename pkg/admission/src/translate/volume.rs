//! One volume: what it is, and its form as a CSI volume.

use imagevol_api::config::CSI_DRIVER;
use imagevol_api::core::defaults::default_pull_policy;
use imagevol_api::core::field::{FieldError, Path};
use serde_json::{Value, json};

use crate::template::{Malformed, Object, as_object, object_in, present, text_in};

/// The values of a pull policy, in the order of the API server's message (core/v1, `PullPolicy`).
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// What a volume is to the translation.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Volume<'a> {
    /// An image volume, good to be translated.
    Image(Image<'a>),
    /// An image volume whose reference is not filled in yet.
    Unnamed,
    /// A CSI volume of this driver.
    Ours { name: &'a str, secret: Secret },
    /// Something else, which is none of our business.
    Other,
    /// An image volume that the API server would refuse if it saw it.
    Invalid(Vec<FieldError>),
}

/// Whether a CSI volume names a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secret {
    Named,
    None,
}

/// An image volume.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    reference: &'a str,
    pull_policy: &'a str,
    as_written: &'a Object,
}

// === impl Volume ===

impl<'a> Volume<'a> {
    pub(super) fn parse(volume: &'a Value, path: &Path) -> Result<Self, Malformed> {
        let volume = as_object(volume, &path.to_string())?;
        let name = text_in(volume, "name")?.unwrap_or_default();
        let driver = csi_driver(volume)?;
        let Some(image) = object_in(volume, "image")? else {
            return Ok(if driver == Some(CSI_DRIVER) { ours(name, volume)? } else { Self::Other });
        };
        let errors = refusals(volume, image, driver, path)?;
        if !errors.is_empty() {
            return Ok(Self::Invalid(errors));
        }
        let Some(reference) = text_in(image, "reference")?.filter(|reference| !reference.is_empty()) else {
            return Ok(Self::Unnamed);
        };
        let pull_policy = pull_policy(image)?.unwrap_or_else(|| default_pull_policy(reference));
        Ok(Self::Image(Image { name, reference, pull_policy, as_written: volume }))
    }
}

fn ours<'a>(name: &'a str, volume: &'a Object) -> Result<Volume<'a>, Malformed> {
    let csi = object_in(volume, "csi")?;
    let secret = csi.and_then(|csi| present(csi, "nodePublishSecretRef"));
    Ok(Volume::Ours { name, secret: if secret.is_some() { Secret::Named } else { Secret::None } })
}

/// What the API server would say. It would only say it with the image volume still in place, and where the feature is
/// off it would drop the volume without a word instead: so these are ours to say.
fn refusals(volume: &Object, image: &Object, driver: Option<&str>, path: &Path) -> Result<Vec<FieldError>, Malformed> {
    let path = path.child("image");
    let mut errors = Vec::new();
    if volume.keys().any(|field| is_other_source(volume, field, driver)) {
        errors.push(path.forbidden("may not specify more than 1 volume type"));
    }
    let policy = pull_policy(image)?.filter(|policy| !PULL_POLICIES.contains(policy));
    errors.extend(policy.map(|policy| path.child("pullPolicy").not_supported(policy, &PULL_POLICIES)));
    Ok(errors)
}

/// Our own CSI form beside the image is no second source: server-side apply merges the manifest's image into the
/// translated volume that is stored, and what the manifest says now is what counts.
fn is_other_source(volume: &Object, field: &str, driver: Option<&str>) -> bool {
    let ours = field == "csi" && driver == Some(CSI_DRIVER);
    present(volume, field).is_some() && !ours && !matches!(field, "name" | "image")
}

fn pull_policy(image: &Object) -> Result<Option<&str>, Malformed> {
    Ok(text_in(image, "pullPolicy")?.filter(|policy| !policy.is_empty()))
}

fn csi_driver(volume: &Object) -> Result<Option<&str>, Malformed> {
    object_in(volume, "csi")?.map_or(Ok(None), |csi| text_in(csi, "driver"))
}

// === impl Image ===

impl Image<'_> {
    /// The volume that does the same by way of the CSI driver.
    pub(super) fn as_csi(&self, pull_secret: Option<&str>) -> Value {
        let attributes = json!({"reference": self.reference, "pullPolicy": self.pull_policy});
        let mut csi = Object::new();
        csi.insert("driver".to_owned(), json!(CSI_DRIVER));
        csi.insert("readOnly".to_owned(), json!(true));
        csi.insert("volumeAttributes".to_owned(), attributes);
        csi.extend(pull_secret.map(|name| ("nodePublishSecretRef".to_owned(), json!({"name": name}))));
        json!({"name": self.name, "csi": csi})
    }

    /// The volume as it was written, with every field it had: also those that only later versions know. Its pull policy
    /// is there even where the API server, its feature being off, has not filled it in: turning the feature on then is
    /// no change of the annotation, and no reason for a rollout.
    pub(super) fn original(&self) -> Value {
        let fields = self.as_written.iter().filter(|(field, _)| *field != "csi");
        let mut volume: Object = fields.map(|(field, value)| (field.clone(), value.clone())).collect();
        if let Some(image) = volume.get_mut("image").and_then(Value::as_object_mut) {
            image.insert("pullPolicy".to_owned(), json!(self.pull_policy));
        }
        Value::Object(volume)
    }
}
