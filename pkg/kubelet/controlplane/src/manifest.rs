//! Objects that the local API puts into the manifest directory, each as a file of its own. Blocking.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::Serialize;
use tempfile::Builder;

use imagevol_api::core::{self, Object};
use imagevol_api::corev1::Secret;
use imagevol_api::daemon::{ApplyOutcome, ApplyResult};
use imagevol_base::Digester;

use crate::file::{Complete, Loaded, ObjectKey, Refused, Scanner, prepare, with_causes};
use crate::text::shown_name;

/// What the names of files that are not complete begin with: hidden, so that no source reads them.
const TEMPORARY: &str = ".imagevol-";
/// Longest name of a file that is made from an object's name as it is (`NAME_MAX` less some room).
const MAX_FILE_NAME: usize = 240;

/// Whether an apply writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    /// It does.
    None,
    /// It only says what it would do.
    All,
}

/// A manifest's name, for messages, and the namespace of objects that name none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// A file name, or `STDIN`.
    pub name: String,
    /// The namespace that the client asked for; `default` is what objects without one are in anyway.
    pub namespace: Option<String>,
}

/// Why an object was not applied.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// The API server would refuse it too.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Somebody wrote a file with this object by hand.
    #[error(
        "{kind} {namespace}/{name} is defined in the manifest file {file}, which apply did not write: change or remove that file"
    )]
    Foreign { kind: &'static str, namespace: String, name: String, file: String },
    /// The file could not be written.
    #[error("cannot write the manifest file {file}")]
    Write { file: String, source: io::Error },
    /// The object cannot be JSON.
    #[error("cannot encode the object")]
    Encode(#[from] serde_json::Error),
}

/// Why an object was not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    #[error("no manifest has it")]
    NotFound,
    #[error("it is defined in {file} together with {others} more")]
    Shared { file: String, others: usize },
    #[error("cannot remove {file}")]
    Io { file: String, source: io::Error },
}

/// Applies every document of a manifest. One that fails does not keep the others back.
pub(crate) fn apply(scanner: &mut Scanner, bytes: &[u8], from: &Sent, dry_run: DryRun) -> Vec<ApplyResult> {
    // What has happened to the files since they were last looked at must not be answered with "unchanged".
    scanner.scan(Complete::Only(&BTreeSet::new()));
    let objects = core::decode(bytes, &from.name).into_iter();
    objects
        .map(|decoded| match decoded {
            Ok(mut object) => match from.namespace.as_ref().map_or(Ok(()), |namespace| object.place_in(namespace)) {
                Ok(()) => apply_object(scanner, &object, dry_run),
                Err(named) => refused(wrong_namespace(&named, from.namespace.as_deref().unwrap_or_default())),
            },
            Err(error) => refused(error.kubectl_text()),
        })
        .collect()
}

/// kubectl's words (cli-runtime, `RequireNamespace`).
fn wrong_namespace(named: &str, asked: &str) -> String {
    let (named, asked) = (named.escape_debug(), asked.escape_debug());
    format!(
        "error: the namespace from the provided object \"{named}\" does not match the namespace \"{asked}\". \
         You must pass '--namespace={named}' to perform this operation."
    )
}

/// Removes the files that hold nothing but this object. Nothing is removed if another file holds it.
pub(crate) fn remove(scanner: &mut Scanner, key: &ObjectKey) -> Result<(), RemoveError> {
    scanner.scan(Complete::Only(&BTreeSet::new()));
    let mut files = Vec::new();
    for (file, objects) in scanner.holders(key) {
        if objects.len() > 1 {
            return Err(RemoveError::Shared { file: shown_name(file), others: objects.len() - 1 });
        }
        files.push(file.to_owned());
    }
    if files.is_empty() {
        return Err(RemoveError::NotFound);
    }
    for file in files {
        // A kill before the directory is synced may bring the file back: the object was not yet said to be gone.
        let removed = fs::remove_file(scanner.directory().join(&file)).and_then(|()| sync(scanner.directory()));
        removed.map_err(|source| RemoveError::Io { file: shown_name(&file), source })?;
        scanner.reload(&file);
    }
    Ok(())
}

/// Makes the manifest directory if it is not there, and removes what a killed process left half-written in it.
pub(crate) fn prepare_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_file(directory.join(name))?;
        }
    }
    Ok(())
}

fn apply_object(scanner: &mut Scanner, object: &Object, dry_run: DryRun) -> ApplyResult {
    let prepared = match prepare(object.clone(), None) {
        Ok(prepared) => prepared,
        Err(error) => {
            let (kind, name) = (object.kind().to_lowercase(), object.name().to_owned());
            return ApplyResult { kind, name, ..refused(error.block()) };
        }
    };
    let key = key_of(&prepared);
    let put = put(scanner, &key, object, dry_run).and_then(|outcome| Ok((outcome, visible(prepared)?)));
    let (kind, (namespace, name)) = key;
    let kind = kind.to_owned();
    match put {
        Ok((outcome, object)) => {
            ApplyResult { kind, namespace, name, outcome: Some(outcome), object: Some(object), error: None }
        }
        Err(error) => ApplyResult { kind, namespace, name, ..refused(error.kubectl_text()) },
    }
}

/// Writes an object where apply writes it, unless it is there just so.
fn put(scanner: &mut Scanner, key: &ObjectKey, object: &Object, dry_run: DryRun) -> Result<ApplyOutcome, ApplyError> {
    let own = file_name(key);
    let outcome = match scanner.holders(key).next() {
        None => ApplyOutcome::Created,
        Some((file, objects)) if holds(objects, object, file, scanner)? => ApplyOutcome::Unchanged,
        Some((file, _)) if file == own => ApplyOutcome::Configured,
        Some((file, _)) => {
            let (kind, (namespace, name)) = key.clone();
            return Err(ApplyError::Foreign { kind, namespace, name, file: shown_name(file) });
        }
    };
    if dry_run == DryRun::All || outcome == ApplyOutcome::Unchanged {
        return Ok(outcome);
    }
    let written = write(scanner.directory(), &own, &encoded(object)?);
    written.map_err(|source| ApplyError::Write { file: shown_name(&own), source })?;
    scanner.reload(&own);
    Ok(outcome)
}

/// Whether a file that is good holds the object just so.
fn holds(objects: &[Loaded], object: &Object, file: &OsStr, scanner: &Scanner) -> Result<bool, ApplyError> {
    let path = scanner.directory().join(file);
    let there = Loaded::of(prepare(object.clone(), Some((&path, scanner.host())))?)?;
    Ok(scanner.is_good(file) && objects.iter().any(|known| known.is_same_as(&there)))
}

/// `<namespace>_<name>.<kind>.json`. Names of Kubernetes have neither `_` nor `/`, so that this is unambiguous; one that is too long for a file
/// is hashed, and has two `_`.
fn file_name((kind, (namespace, name)): &ObjectKey) -> OsString {
    let plain = format!("{namespace}_{name}.{kind}.json");
    if plain.len() <= MAX_FILE_NAME {
        return plain.into();
    }
    format!("{namespace}__{}.{kind}.json", Digester::sha256(name.as_bytes()).hex()).into()
}

fn write(directory: &Path, name: &OsStr, content: &[u8]) -> io::Result<()> {
    // Mode 0600: a secret may be in it. A kill from here to `persist` leaves a hidden file, which `prepare_directory` removes.
    let mut file = Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    // A kill after this line leaves the new file, whole.
    file.persist(directory.join(name))?;
    sync(directory)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn encoded(object: &Object) -> serde_json::Result<Vec<u8>> {
    match object {
        Object::Pod(pod) => serde_json::to_vec_pretty(pod),
        Object::Secret(secret) => serde_json::to_vec_pretty(secret),
    }
}

/// The object as a client may see it.
fn visible(object: Object) -> Result<serde_json::Value, ApplyError> {
    fn value(object: impl Serialize) -> Result<serde_json::Value, ApplyError> {
        Ok(serde_json::to_value(object)?)
    }
    match object {
        Object::Pod(mut pod) => {
            core::prepare_for_create(&mut pod);
            value(pod)
        }
        Object::Secret(secret) => value(Secret { data: None, string_data: None, ..*secret }),
    }
}

fn key_of(object: &Object) -> ObjectKey {
    let (kind, metadata) = match object {
        Object::Pod(pod) => ("pod", &pod.metadata),
        Object::Secret(secret) => ("secret", &secret.metadata),
    };
    (kind, (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default()))
}

fn refused(error: String) -> ApplyResult {
    let (kind, namespace, name) = (String::new(), String::new(), String::new());
    ApplyResult { kind, namespace, name, outcome: None, error: Some(error), object: None }
}

// === impl ApplyError ===

impl ApplyError {
    /// As kubectl prints what an API server answers.
    fn kubectl_text(&self) -> String {
        match self {
            Self::Refused(refused) => refused.block(),
            Self::Foreign { .. } => format!("Error from server (Conflict): {self}"),
            Self::Write { .. } | Self::Encode(_) => format!("Error from server (InternalError): {}", with_causes(self)),
        }
    }
}

// === impl Sent ===

impl From<&str> for Sent {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), namespace: None }
    }
}

#[cfg(test)]
mod tests;
