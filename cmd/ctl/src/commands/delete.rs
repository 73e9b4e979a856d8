//! `delete` and `retry`.

use bytes::Bytes;
use imagevol_api::metav1::Status;

use crate::cli::{Delete, Names};
use crate::error::{CommandError, Result};
use crate::manifests::{self, Manifest};
use crate::session::{self, Failures, Session, path_in};
use crate::target::{Resource, Target};
use crate::text;

/// What can be deleted.
pub(crate) const DELETABLE: [Resource; 2] = [Resource::Pods, Resource::Secrets];

struct Object {
    resource: Resource,
    namespace: String,
    name: String,
}

/// Deletes every object; one that cannot be deleted keeps no other from it.
pub(super) async fn run(session: &Session, arguments: &Delete) -> Result<()> {
    let mut failures = Failures::default();
    for object in objects(session, arguments)? {
        let path = path_in(&object.namespace, object.resource.plural(), Some(&object.name));
        match session.client.delete::<Status>(&path).await {
            Err(error) if arguments.ignore_not_found && error.is_not_found() => {}
            answer => {
                if failures.sort(answer.map_err(CommandError::from)).is_some() {
                    session::print(&deleted(&object, arguments))?;
                }
            }
        }
    }
    failures.result()
}

/// Lets the daemon try failed pods again.
pub(super) async fn retry(session: &Session, arguments: &Names) -> Result<()> {
    let mut failures = Failures::default();
    for name in Target::named(&arguments.target, &[Resource::Pods])?.names {
        let path = format!("{}/retry", session.path("pods", Some(&name)));
        let answer = session.client.post::<Status>(&path, Bytes::new()).await;
        if failures.sort(answer.map_err(CommandError::from)).is_some() {
            session::print(&format!("pod/{} retried\n", text::line(&name)))?;
        }
    }
    failures.result()
}

fn deleted(object: &Object, arguments: &Delete) -> String {
    let (kind, name) = (object.resource.singular(), &object.name);
    if arguments.output.is_some() {
        format!("{kind}/{}\n", text::line(name))
    } else {
        format!("{kind} {name:?} deleted\n")
    }
}

fn objects(session: &Session, arguments: &Delete) -> Result<Vec<Object>> {
    if arguments.files.is_empty() {
        let target = Target::named(&arguments.target, &DELETABLE)?;
        let object = |name| Object { resource: target.resource, namespace: session.namespace.clone(), name };
        return Ok(target.names.into_iter().map(object).collect());
    }
    let mut objects = Vec::new();
    for manifest in manifests::read_all(&arguments.files)? {
        objects.extend(named_in(&manifest, session)?);
    }
    if objects.is_empty() { Err(CommandError::NoObjects { command: "delete" }) } else { Ok(objects) }
}

fn named_in(manifest: &Manifest, session: &Session) -> Result<Vec<Object>> {
    let named = manifest.objects()?.into_iter().map(|named| {
        let found = Resource::parse(&named.kind).filter(|resource| DELETABLE.contains(resource));
        let resource = found.ok_or_else(|| CommandError::Undeletable {
            name: manifest.name.clone(),
            what: format!("no matches for kind {:?}", named.kind),
        })?;
        Ok(Object {
            resource,
            namespace: named.namespace.unwrap_or_else(|| session.namespace.clone()),
            name: named.name,
        })
    });
    named.collect()
}
