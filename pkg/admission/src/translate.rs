//! The translation: which volumes of an object change, into what, and the patch that does it. Pure.

mod original;
mod volume;

use std::collections::BTreeMap;

use imagevol_api::core::field::FieldError;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::patch::Operation;
use crate::template::{GroupVersionKind, Malformed, Shape, Template, as_object, list_in, text_in};

use self::original::{ORIGINAL_VOLUMES_POINTER, Originals};
use self::volume::{Secret, Volume};

pub use self::original::ORIGINAL_VOLUMES;

/// Annotation of a pod or a template that decides for or against the translation, whatever its namespace says.
pub const TRANSLATE: &str = "imagevol.dev/translate";

/// The lists of a pod's spec whose elements mount volumes.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// An object on its way into the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What it is.
    pub kind: &'a GroupVersionKind,
    /// What is done with it.
    pub verb: Verb,
    /// The object as it is to be stored.
    pub object: &'a Value,
    /// The object as it is stored; `None` when it is created.
    pub old_object: Option<&'a Value>,
    /// Why it came here.
    pub scope: Scope,
}

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is removed: nothing to translate.
    Delete,
    /// Something is attached to it: nothing to translate.
    Connect,
}

/// Which objects are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of selected namespaces: all but those that say no.
    Namespace,
    /// Those of other namespaces: only those that say yes.
    Annotated,
}

/// What is to be done to an object; nothing when empty.
#[derive(Debug, Default, PartialEq)]
pub struct Translation {
    /// The change.
    pub patch: Vec<Operation>,
    /// The names of the volumes that it translates.
    pub volumes: Vec<String>,
    /// What the one who sent the object should know.
    pub warnings: Vec<String>,
}

/// An object that cannot be translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// The API server would have refused its image volumes.
    #[error("{}", listed(errors))]
    Invalid {
        /// Why, a reason for each field.
        errors: Vec<FieldError>,
    },
    /// It is none that an API server sends.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The volumes of one pod or template.
struct Plan<'a> {
    template: Template<'a>,
    secret: Option<&'a str>,
    originals: Originals,
    volumes: Vec<Volume<'a>>,
}

/// What the annotation [`TRANSLATE`] says.
enum Choice<'a> {
    Yes,
    No,
    Unsaid,
    Unknown(&'a str),
}

/// Decides about one object.
///
/// - `volumes[].image` becomes the CSI volume of this driver; every other volume stays as it is.
/// - What an update leaves as it is stored is left alone, so that nothing is rolled out because its namespace was
///   selected, and no immutable field (a pod's, a job's) is changed; the pods are translated when they are made.
/// - Done a second time, it does nothing.
pub fn translate(request: &Request<'_>) -> Result<Translation, TranslateError> {
    let Some(shape) = Shape::of(request.kind).filter(|_| matches!(request.verb, Verb::Create | Verb::Update)) else {
        return Ok(Translation::default());
    };
    let Some(template) = Template::find(shape, request.object)? else { return Ok(Translation::default()) };
    let mut translation = Translation::default();
    let choice = Choice::parse(template.annotation(TRANSLATE)?);
    translation.warnings.extend(choice.warning());
    if choice.allows(request.scope) {
        let plan = Plan::new(template, request.old_object)?;
        translation.warnings.extend(plan.warnings());
        plan.patch(request.verb, &mut translation)?;
    }
    Ok(translation)
}

/// As the API server puts one or several errors into one line (apimachinery, `ErrorList.ToAggregate`).
fn listed(errors: &[FieldError]) -> String {
    match errors {
        [error] => error.to_string(),
        several => format!("[{}]", several.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

// === impl Choice ===

impl<'a> Choice<'a> {
    fn parse(annotation: Option<&'a str>) -> Self {
        match annotation {
            None => Self::Unsaid,
            Some("true") => Self::Yes,
            Some("false") => Self::No,
            Some(other) => Self::Unknown(other),
        }
    }

    fn allows(&self, scope: Scope) -> bool {
        match (self, scope) {
            (Self::Yes, _) | (Self::Unsaid | Self::Unknown(_), Scope::Namespace) => true,
            (Self::No, _) | (Self::Unsaid | Self::Unknown(_), Scope::Annotated) => false,
        }
    }

    fn warning(&self) -> Option<String> {
        let Self::Unknown(value) = self else { return None };
        Some(format!("annotation {TRANSLATE}: {value:?} is neither \"true\" nor \"false\" and decides nothing"))
    }
}

// === impl Plan ===

impl<'a> Plan<'a> {
    fn new(template: Template<'a>, old_object: Option<&Value>) -> Result<Self, TranslateError> {
        let stored = stored_images(template.shape, old_object)?;
        let path = template.shape.spec_path().child("volumes");
        let volumes = template.volumes()?.iter().enumerate().map(|(index, volume)| {
            if is_stored(volume, &stored) { Ok(Volume::Other) } else { Volume::parse(volume, &path.index(index)) }
        });
        let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
        refuse(&volumes, template.shape)?;
        let originals = Originals::parse(template.annotation(ORIGINAL_VOLUMES)?);
        Ok(Self { secret: template.first_pull_secret()?, template, originals, volumes })
    }

    /// Native image volumes of templates may come without a reference, for somebody else to fill in (core/v1,
    /// `ImageVolumeSource`); they stay what that somebody knows.
    fn warnings(&self) -> impl Iterator<Item = String> {
        let path = self.template.shape.spec_path().child("volumes");
        let unnamed = self.volumes.iter().enumerate().filter(|(_, volume)| matches!(volume, Volume::Unnamed));
        unnamed.map(move |(index, _)| {
            let reference = path.index(index).child("image").child("reference");
            format!("{reference} is empty: the volume is left as it is")
        })
    }

    fn patch(&self, verb: Verb, into: &mut Translation) -> Result<(), Malformed> {
        let pod = self.template.shape.pointer();
        for (index, volume) in self.volumes.iter().enumerate() {
            let path = format!("{pod}/spec/volumes/{index}");
            match volume {
                Volume::Image(image) => {
                    into.patch.push(Operation::Replace { path, value: image.as_csi(self.secret) });
                    into.volumes.push(image.name.to_owned());
                }
                Volume::Ours { name, secret: Secret::None } => {
                    into.patch.extend(self.late_secret(verb, name, &path));
                }
                Volume::Ours { secret: Secret::Named, .. } | Volume::Unnamed | Volume::Other | Volume::Invalid(_) => {}
            }
        }
        if into.volumes.is_empty() {
            return Ok(());
        }
        self.read_only_mounts(into)?;
        into.patch.extend(self.annotate()?);
        Ok(())
    }

    /// A pod of a template that was translated before its service account was known gets that account's secret: the API
    /// server puts it into the pod before anybody else sees the pod (plugin `ServiceAccount`).
    fn late_secret(&self, verb: Verb, volume: &str, path: &str) -> Option<Operation> {
        let wanted = self.template.shape == Shape::Pod && verb == Verb::Create;
        let secret = self.secret.filter(|_| wanted && self.originals.get(volume).is_some())?;
        Some(Operation::Add { path: format!("{path}/csi/nodePublishSecretRef"), value: json!({"name": secret}) })
    }

    fn read_only_mounts(&self, into: &mut Translation) -> Result<(), Malformed> {
        let pod = self.template.shape.pointer();
        for list in CONTAINERS {
            for (index, container) in list_in(self.template.spec, list)?.iter().enumerate() {
                let container = as_object(container, list)?;
                for (mount, value) in list_in(container, "volumeMounts")?.iter().enumerate() {
                    if is_writable_mount(value, &into.volumes)? {
                        let path = format!("{pod}/spec/{list}/{index}/volumeMounts/{mount}/readOnly");
                        into.patch.push(Operation::Add { path, value: Value::Bool(true) });
                    }
                }
            }
        }
        Ok(())
    }

    fn annotate(&self) -> Result<Option<Operation>, Malformed> {
        let text = original::text(&self.kept());
        if self.template.annotation(ORIGINAL_VOLUMES)? == Some(text.as_str()) {
            return Ok(None);
        }
        let metadata = format!("{}/metadata", self.template.shape.pointer());
        let (path, value) = match (self.template.metadata, self.template.annotations()?) {
            (None, _) => (metadata, json!({"annotations": {ORIGINAL_VOLUMES: text}})),
            (Some(_), None) => (format!("{metadata}/annotations"), json!({ORIGINAL_VOLUMES: text})),
            (Some(_), Some(_)) => (format!("{metadata}/annotations/{ORIGINAL_VOLUMES_POINTER}"), Value::String(text)),
        };
        Ok(Some(Operation::Add { path, value }))
    }

    /// What the annotation is to hold, in the order of the volumes; what speaks of volumes that are gone is dropped.
    fn kept(&self) -> Vec<Value> {
        let of = |volume: &Volume<'_>| match volume {
            Volume::Image(image) => Some(image.original()),
            Volume::Ours { name, .. } => self.originals.get(name).cloned(),
            Volume::Unnamed | Volume::Other | Volume::Invalid(_) => None,
        };
        self.volumes.iter().filter_map(of).collect()
    }
}

/// What the API server would refuse in a pod is refused; a template may lack references.
fn refuse(volumes: &[Volume<'_>], shape: Shape) -> Result<(), TranslateError> {
    let path = shape.spec_path().child("volumes");
    let errors = volumes.iter().enumerate().flat_map(|(index, volume)| match volume {
        Volume::Invalid(errors) => errors.clone(),
        Volume::Unnamed if shape == Shape::Pod => {
            vec![path.index(index).child("image").child("reference").required("")]
        }
        Volume::Unnamed | Volume::Image(_) | Volume::Ours { .. } | Volume::Other => Vec::new(),
    });
    let errors: Vec<_> = errors.collect();
    if errors.is_empty() { Ok(()) } else { Err(TranslateError::Invalid { errors }) }
}

/// The image volumes of the stored object, by name.
fn stored_images(shape: Shape, old_object: Option<&Value>) -> Result<BTreeMap<&str, &Value>, Malformed> {
    let template = match old_object.filter(|object| !object.is_null()) {
        Some(object) => Template::find(shape, object)?,
        None => None,
    };
    let volumes = template.map_or(Ok(&[][..]), |template| template.volumes())?;
    Ok(volumes.iter().filter_map(|volume| named_image(volume).filter(|(_, image)| !image.is_null())).collect())
}

fn is_stored(volume: &Value, stored: &BTreeMap<&str, &Value>) -> bool {
    named_image(volume).is_some_and(|(name, image)| stored.get(name) == Some(&image))
}

fn named_image(volume: &Value) -> Option<(&str, &Value)> {
    Some((volume.get("name")?.as_str()?, volume.get("image")?))
}

fn is_writable_mount(mount: &Value, volumes: &[String]) -> Result<bool, Malformed> {
    let mount = as_object(mount, "volumeMounts")?;
    let name = text_in(mount, "name")?.unwrap_or_default();
    Ok(volumes.iter().any(|volume| volume == name) && mount.get("readOnly") != Some(&Value::Bool(true)))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
