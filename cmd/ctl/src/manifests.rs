//! Manifests as `-f` names them: files, directories and standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;

use crate::error::{CommandError, Result};

/// Largest manifest: what the kubelet takes from a file (pkg/kubelet/config/common.go, `maxConfigLength`).
const MAX_MANIFEST_BYTES: u64 = 10 << 20;

/// One manifest, unread by us: the daemon decodes it.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The file as given, or `STDIN`, as kubectl calls it.
    pub name: String,
    /// What it holds.
    pub body: Bytes,
}

/// An object that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// `Pod`, `Secret`, ...
    pub kind: String,
    /// `metadata.namespace`, where it has one.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

/// What of a document names objects. Typed, so that a name such as `n` is no boolean; whatever else it holds is the daemon's to judge.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    kind: String,
    metadata: Metadata,
    items: Option<Vec<Document>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    name: String,
    namespace: String,
}

/// Reads all manifests, those of a directory in the order of their names. Blocks.
pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            manifests.push(read_from("STDIN".to_owned(), path, io::stdin().lock())?);
            continue;
        }
        for file in files_of(path)? {
            let reader =
                File::open(&file).map_err(|source| CommandError::ReadManifest { path: file.clone(), source })?;
            manifests.push(read_from(file.display().to_string(), &file, reader)?);
        }
    }
    Ok(manifests)
}

/// A file itself, or a directory's files with the extensions that kubectl takes (cli-runtime, pkg/resource, `FileExtensions`).
fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let failed = |source| CommandError::ReadManifest { path: path.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let known =
            file.extension().is_some_and(|extension| ["json", "yaml", "yml"].iter().any(|known| extension == *known));
        if known && !file.is_dir() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(CommandError::NoManifests { directory: path.to_owned() });
    }
    files.sort();
    Ok(files)
}

fn read_from(name: String, path: &Path, reader: impl Read) -> Result<Manifest> {
    let mut body = Vec::new();
    let read = reader.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut body);
    read.map_err(|source| CommandError::ReadManifest { path: path.to_owned(), source })?;
    if u64::try_from(body.len()).unwrap_or(u64::MAX) > MAX_MANIFEST_BYTES {
        return Err(CommandError::ManifestTooLarge { name, limit: MAX_MANIFEST_BYTES });
    }
    Ok(Manifest { name, body: Bytes::from(body) })
}

// === impl Manifest ===

impl Manifest {
    /// The objects that the manifest names, lists opened: enough to delete them, whether or not they are valid.
    pub(crate) fn objects(&self) -> Result<Vec<Named>> {
        let documents: Vec<Option<Document>> = serde_saphyr::from_slice_multiple(&self.body)
            .map_err(|source| CommandError::DecodeManifest { name: self.name.clone(), source: Box::new(source) })?;
        let mut objects = Vec::new();
        for document in documents.into_iter().flatten() {
            self.collect(document, &mut objects)?;
        }
        Ok(objects)
    }

    fn collect(&self, document: Document, objects: &mut Vec<Named>) -> Result<()> {
        let undeletable = |what: &str| CommandError::Undeletable { name: self.name.clone(), what: what.to_owned() };
        let Document { kind, metadata, items } = document;
        if kind.is_empty() {
            return Err(undeletable("Object 'Kind' is missing"));
        }
        if let (Some(item_kind), Some(items)) = (kind.strip_suffix("List"), items) {
            return items.into_iter().try_for_each(|item| self.collect(with_kind(item, item_kind), objects));
        }
        if metadata.name.is_empty() {
            return Err(undeletable("resource name may not be empty"));
        }
        let namespace = Some(metadata.namespace).filter(|namespace| !namespace.is_empty());
        objects.push(Named { kind, namespace, name: metadata.name });
        Ok(())
    }
}

/// Items of a typed list need not repeat their kind.
fn with_kind(item: Document, kind: &str) -> Document {
    if item.kind.is_empty() { Document { kind: kind.to_owned(), ..item } } else { item }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(body: &'static str) -> Manifest {
        Manifest { name: "x.yaml".to_owned(), body: Bytes::from_static(body.as_bytes()) }
    }

    fn named(kind: &str, namespace: Option<&str>, name: &str) -> Named {
        Named { kind: kind.to_owned(), namespace: namespace.map(str::to_owned), name: name.to_owned() }
    }

    #[test]
    fn finds_objects_in_documents_and_lists() {
        let text = "kind: Pod\nmetadata: {name: a}\n---\n---\nkind: PodList\nitems:\n- metadata: {name: b, namespace: n}\n---\n\
                    {\"kind\": \"List\", \"items\": [{\"kind\": \"Secret\", \"metadata\": {\"name\": \"c\"}}]}\n";
        let objects = manifest(text).objects().unwrap();
        assert_eq!(objects, [named("Pod", None, "a"), named("Pod", Some("n"), "b"), named("Secret", None, "c")]);
    }

    #[test]
    fn says_what_an_object_lacks() {
        let error = manifest("kind: Pod\n").objects().unwrap_err();
        assert_eq!(error.to_string(), "x.yaml: resource name may not be empty");
        let error = manifest("metadata: {name: a}\n").objects().unwrap_err();
        assert_eq!(error.to_string(), "x.yaml: Object 'Kind' is missing");
    }

    #[test]
    fn takes_the_manifests_of_a_directory_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.json", "c.txt", "d.yml"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let manifests = read_all(&[directory.path().to_owned()]).unwrap();
        let bodies: Vec<_> = manifests.iter().map(|manifest| manifest.body.as_ref()).collect();
        assert_eq!(bodies, [b"a.json".as_slice(), b"b.yaml", b"d.yml"]);
    }

    #[test]
    fn refuses_a_manifest_that_is_too_large() {
        let error = read_from("x".to_owned(), Path::new("x"), io::repeat(b'a')).unwrap_err();
        assert_eq!(error.to_string(), "x is larger than 10.5MB");
    }
}
