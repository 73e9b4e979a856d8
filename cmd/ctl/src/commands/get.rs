//! `get`: pods, volumes, images, pulls, pins and more as tables or as themselves.

mod rows;

use imagevol_api::corev1::{Event, Pod};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{images, pins, prefetch, pulls, references, volumes};
use crate::cli::Get;
use crate::describe;
use crate::error::{CommandError, Result};
use crate::output::{self, DataFormat, TableFormat};
use crate::session::{self, Failures, Session, path_in};
use crate::table::Table;
use crate::target::{Resource, Target};
use crate::text;

/// What can be listed.
pub(crate) const KNOWN: [Resource; 8] = [
    Resource::Pods,
    Resource::Volumes,
    Resource::Images,
    Resource::Pulls,
    Resource::Pins,
    Resource::Prefetch,
    Resource::References,
    Resource::Events,
];

/// A list of Kubernetes objects, each kept as the daemon sent it.
#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

/// How rows are chosen and shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    /// `-o wide`.
    pub wide: bool,
    /// `--all-namespaces`.
    pub namespaces: bool,
    /// Not `--no-headers`.
    pub headings: bool,
}

// === impl Columns ===

impl Columns {
    /// Those that the flags choose.
    pub(super) fn of(arguments: &Get) -> Self {
        Self {
            wide: arguments.output == Some(TableFormat::Wide),
            namespaces: arguments.all_namespaces,
            headings: !arguments.no_headers,
        }
    }
}

/// Prints what was asked for.
pub(super) async fn run(session: &Session, arguments: &Get) -> Result<()> {
    let target = Target::parse(&arguments.target, &KNOWN)?;
    if arguments.all_namespaces && !target.names.is_empty() {
        return Err(CommandError::Usage("a resource cannot be retrieved by name across all namespaces"));
    }
    match target.resource {
        Resource::Images => return images::get(session, arguments, &target.names).await,
        Resource::Pulls => return pulls::get(session, arguments, &target.names).await,
        Resource::Volumes => return volumes::get(session, arguments, &target.names).await,
        Resource::Pins => return pins::get(session, arguments, &target.names).await,
        Resource::Prefetch => return prefetch::get(session, arguments, &target.names).await,
        Resource::References => return references::get(session, arguments, &target.names).await,
        Resource::Pods | Resource::Events | Resource::Secrets => {}
    }
    let mut failures = Failures::default();
    let mut objects = fetch(session, arguments, &target, &mut failures).await?;
    if target.resource == Resource::Events {
        objects = select_events(objects, arguments.about.as_deref())?;
    }
    show(session, arguments, &target, objects)?;
    failures.result()
}

/// The objects, in the order of their names as the API server lists them, or as they were named.
async fn fetch(session: &Session, arguments: &Get, target: &Target, failures: &mut Failures) -> Result<Vec<Value>> {
    let plural = target.resource.plural();
    if target.names.is_empty() {
        let path = if arguments.all_namespaces { format!("/api/v1/{plural}") } else { session.path(plural, None) };
        let mut items = session.client.get::<List>(&path).await?.items;
        let key = |item: &Value, pointer| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        items.sort_by_cached_key(|item| (key(item, "/metadata/namespace"), key(item, "/metadata/name")));
        return Ok(items);
    }
    if target.resource == Resource::Events {
        return events_by_name(session, &target.names, failures).await;
    }
    let mut objects = Vec::new();
    for name in &target.names {
        let answer = session.client.get::<Value>(&session.path(plural, Some(name))).await;
        objects.extend(failures.sort(answer.map_err(CommandError::from)));
    }
    Ok(objects)
}

/// The daemon has no door to a single event: they are picked from the list.
async fn events_by_name(session: &Session, names: &[String], failures: &mut Failures) -> Result<Vec<Value>> {
    let all = session.client.get::<List>(&session.path("events", None)).await?.items;
    let mut found = Vec::new();
    for name in names {
        let event = all.iter().find(|event| event.pointer("/metadata/name").and_then(Value::as_str) == Some(name));
        match event {
            Some(event) => found.push(event.clone()),
            None => failures.block(&format!("Error from server (NotFound): events {name:?} not found"))?,
        }
    }
    Ok(found)
}

/// Events about one object, or all; in the order in which they were seen last.
fn select_events(mut objects: Vec<Value>, about: Option<&str>) -> Result<Vec<Value>> {
    if let Some(about) = about {
        let (kind, name) = about.split_once('/').ok_or(CommandError::Usage("--for takes TYPE/NAME, as in pod/web"))?;
        let kind = Resource::parse(kind).map_or_else(|| kind.to_owned(), |resource| resource.singular().to_owned());
        let field =
            |event: &Value, pointer| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        objects.retain(|event| {
            field(event, "/involvedObject/kind").eq_ignore_ascii_case(&kind)
                && field(event, "/involvedObject/name") == name
        });
    }
    let mut events = Vec::with_capacity(objects.len());
    for object in objects {
        let seen = describe::last_seen(&decode::<Event>(&object, "Event")?);
        events.push((seen, object));
    }
    events.sort_by_key(|(seen, _)| *seen);
    Ok(events.into_iter().map(|(_, event)| event).collect())
}

fn show(session: &Session, arguments: &Get, target: &Target, objects: Vec<Value>) -> Result<()> {
    let columns = Columns::of(arguments);
    match arguments.output {
        Some(TableFormat::Json) => print_objects(DataFormat::Json, target, objects),
        Some(TableFormat::Yaml) => print_objects(DataFormat::Yaml, target, objects),
        Some(TableFormat::Name) => session::print(&names(target.resource, &objects)),
        Some(TableFormat::Wide) | None if objects.is_empty() => nothing(session, arguments, target),
        Some(TableFormat::Wide) | None => session::print(&table(session, target.resource, &objects, columns)?),
    }
}

/// A single object that was named is itself; all else is a list.
fn print_objects(format: DataFormat, target: &Target, objects: Vec<Value>) -> Result<()> {
    if target.names.is_empty() {
        return session::print(&format.render(&output::as_list(&objects))?);
    }
    if objects.is_empty() { Ok(()) } else { session::print(&format.render(&output::list(objects))?) }
}

fn names(resource: Resource, objects: &[Value]) -> String {
    let names = objects.iter().filter_map(|object| object.pointer("/metadata/name").and_then(Value::as_str));
    names.map(|name| format!("{}/{}\n", resource.singular(), text::line(name))).collect::<Vec<_>>().concat()
}

/// kubectl's words for an empty list; where names were given, each has had its error.
fn nothing(session: &Session, arguments: &Get, target: &Target) -> Result<()> {
    if !target.names.is_empty() {
        return Ok(());
    }
    if arguments.all_namespaces {
        return session::note("No resources found");
    }
    session::note(&format!("No resources found in {} namespace.", text::line(&session.namespace)))
}

fn table(session: &Session, resource: Resource, objects: &[Value], columns: Columns) -> Result<String> {
    let of_pods = resource == Resource::Pods;
    let headings = if of_pods { rows::pod_headings(columns) } else { rows::event_headings(columns) };
    let mut table = if columns.headings { Table::new(&headings) } else { Table::bare() };
    for object in objects {
        table.row(&if of_pods {
            rows::pod(&decode::<Pod>(object, "Pod")?, columns, &session.clock)
        } else {
            rows::event(&decode::<Event>(object, "Event")?, columns, &session.clock)
        });
    }
    Ok(table.render())
}

fn decode<T: DeserializeOwned>(object: &Value, kind: &'static str) -> Result<T> {
    T::deserialize(object).map_err(|source| CommandError::Decode { kind, source })
}

/// All pods of the session's namespace, or those named.
pub(super) async fn pods(session: &Session, names: &[String], failures: &mut Failures) -> Result<Vec<Pod>> {
    if names.is_empty() {
        let list = session.client.get::<List>(&session.path("pods", None)).await?;
        return list.items.iter().map(|item| decode(item, "Pod")).collect();
    }
    let mut pods = Vec::new();
    for name in names {
        let answer = session.client.get(&session.path("pods", Some(name))).await;
        pods.extend(failures.sort(answer.map_err(CommandError::from)));
    }
    Ok(pods)
}

/// The events about a pod: of its name and, where the event says one, its UID.
pub(super) async fn events_about(session: &Session, pod: &Pod) -> Result<Vec<Event>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or(&session.namespace);
    let list = session.client.get::<List>(&path_in(namespace, "events", None)).await?;
    let mut events = Vec::new();
    for item in &list.items {
        let event: Event = decode(item, "Event")?;
        let object = &event.involved_object;
        let same_uid = object.uid.is_none() || object.uid == pod.metadata.uid;
        if object.kind.as_deref() == Some("Pod") && object.name == pod.metadata.name && same_uid {
            events.push(event);
        }
    }
    Ok(events)
}
