//! `images`, `get images`, `inspect` and `rmi`.

use imagevol_api::daemon::{ImageDetail, ImageList, ImageSummary, RemovedImage};

use super::get::Columns;
use super::listing::{Listing, NONE};
use crate::cli::{Get, Images, Inspect, Rmi};
use crate::error::{CommandError, Result};
use crate::output::TableFormat;
use crate::session::{self, Failures, Session};
use crate::text::{self, Clock};

/// `images`.
pub(super) async fn list(session: &Session, arguments: &Images) -> Result<()> {
    let list: ImageList = session.client.get("/images").await?;
    let wide = arguments.output == Some(TableFormat::Wide);
    let columns = Columns { wide, namespaces: false, headings: !arguments.no_headers };
    listing(&list, columns, &session.clock).show(arguments.output, columns)
}

/// `get images [NAME...]`.
pub(super) async fn get(session: &Session, arguments: &Get, names: &[String]) -> Result<()> {
    let mut failures = Failures::default();
    let mut list = ImageList::default();
    if names.is_empty() {
        list = session.client.get("/images").await?;
    }
    for name in names {
        let answer = session.client.get::<ImageDetail>(&inspect_path(name)).await;
        list.items.extend(failures.sort(answer.map_err(CommandError::from)).map(|detail| detail.summary));
    }
    if names.is_empty() || !list.items.is_empty() {
        let columns = Columns::of(arguments);
        listing(&list, columns, &session.clock).show(arguments.output, columns)?;
    }
    failures.result()
}

/// `inspect`.
pub(super) async fn inspect(session: &Session, arguments: &Inspect) -> Result<()> {
    let detail: ImageDetail = session.client.get(&inspect_path(&arguments.reference)).await?;
    session::print(&arguments.output.render(&detail)?)
}

/// `rmi`: an image that is in use keeps no other from being removed.
pub(super) async fn remove(session: &Session, arguments: &Rmi) -> Result<()> {
    let mut failures = Failures::default();
    for reference in &arguments.references {
        let path = format!("/images?reference={}", text::url_part(reference));
        match session.client.delete::<RemovedImage>(&path).await {
            Err(error) if arguments.ignore_not_found && error.is_not_found() => {}
            answer => {
                if let Some(removed) = failures.sort(answer.map_err(CommandError::from)) {
                    session::print(&removal(&removed))?;
                }
            }
        }
    }
    failures.result()
}

fn inspect_path(reference: &str) -> String {
    format!("/images/inspect?reference={}", text::url_part(reference))
}

fn removal(removed: &RemovedImage) -> String {
    let mut lines = String::new();
    for reference in &removed.untagged {
        text::append(&mut lines, format_args!("Untagged: {}\n", text::line(reference)));
    }
    for digest in &removed.deleted {
        text::append(&mut lines, format_args!("Deleted: {digest}\n"));
    }
    if removed.freed_bytes > 0 {
        text::append(&mut lines, format_args!("Freed: {}\n", text::human_size(removed.freed_bytes)));
    }
    lines
}

/// A row for each tag, as docker has it; for an image without one, a row for its repository.
fn listing<'l>(list: &'l ImageList, columns: Columns, clock: &Clock) -> Listing<'l, ImageList> {
    let rows = |image: &'l ImageSummary| names_of(image).into_iter().map(move |name| row(image, name, columns, clock));
    Listing {
        list,
        names: list.items.iter().map(|image| format!("image/{}", image.id)).collect(),
        headings: vec!["REPOSITORY", "TAG", "DIGEST", "KIND", "SIZE", "PULLED", "USED BY"],
        rows: list.items.iter().flat_map(rows).collect(),
        empty: "No images found.",
    }
}

fn row(image: &ImageSummary, (repository, tag): (&str, &str), columns: Columns, clock: &Clock) -> Vec<String> {
    let digest = if columns.wide { image.id.to_string() } else { image.id.short().to_owned() };
    vec![
        repository.to_owned(),
        tag.to_owned(),
        digest,
        image.kind.clone(),
        text::human_size(image.size),
        pulled(&image.pulled_at, clock),
        used_by(image, columns),
    ]
}

/// `repository` and `tag` of each `name:tag`.
fn names_of(image: &ImageSummary) -> Vec<(&str, &str)> {
    if image.repo_tags.is_empty() {
        let first = image.repo_digests.first().and_then(|name| name.split_once('@'));
        return vec![(first.map_or(NONE, |(repository, _)| repository), NONE)];
    }
    // The last colon: a registry's port stands before a slash.
    let split =
        |name: &'_ String| name.rfind(':').filter(|colon| !name.get(*colon..).unwrap_or_default().contains('/'));
    let names = image.repo_tags.iter().map(|name| match split(name) {
        Some(colon) => (name.get(..colon).unwrap_or(NONE), name.get(colon + 1..).unwrap_or(NONE)),
        None => (name.as_str(), NONE),
    });
    names.collect()
}

/// `5m ago`; what is no RFC 3339 time is shown as it is.
fn pulled(at: &str, clock: &Clock) -> String {
    match at.parse::<jiff::Timestamp>() {
        Ok(time) => format!("{} ago", clock.age(time)),
        Err(_) => at.to_owned(),
    }
}

/// The first holder and how many more there are; wide, all of them.
fn used_by(image: &ImageSummary, columns: Columns) -> String {
    let pinned = (!image.pins.is_empty()).then_some("pinned");
    let names: Vec<&str> = image.used_by.iter().map(|user| user.name.as_str()).chain(pinned).collect();
    match names.as_slice() {
        [] => NONE.to_owned(),
        [first, rest @ ..] if !columns.wide && !rest.is_empty() => format!("{first} (+{} more)", rest.len()),
        all => all.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn image(repo_tags: &Value, used_by: &[&str]) -> ImageSummary {
        let used_by: Vec<Value> = used_by.iter().map(|name| json!({"name": name})).collect();
        serde_json::from_value(json!({
            "id": format!("sha256:{}", "ab".repeat(32)), "repoTags": repo_tags, "repoDigests": ["localhost:5000/x@sha256:0"],
            "kind": "Artifact", "size": 1_234_567, "pulledAt": "1970-01-01T00:00:00Z", "usedBy": used_by,
        }))
        .unwrap()
    }

    #[rstest]
    #[case(json!(["quay.io/crio/artifact:v2"]), vec![("quay.io/crio/artifact", "v2")])]
    #[case(json!(["localhost:5000/a:1", "b"]), vec![("localhost:5000/a", "1"), ("b", NONE)])]
    #[case(json!(["localhost:5000/a"]), vec![("localhost:5000/a", NONE)])]
    #[case(json!([]), vec![("localhost:5000/x", NONE)])]
    fn splits_tags_behind_ports(#[case] tags: Value, #[case] expected: Vec<(&str, &str)>) {
        assert_eq!(names_of(&image(&tags, &[])), expected);
    }

    #[test]
    fn a_table_of_images() {
        let clock = Clock { now: jiff::Timestamp::from_second(300).unwrap(), zone: jiff::tz::TimeZone::UTC };
        let list = ImageList {
            items: vec![
                image(&json!(["quay.io/a:1"]), &["pod default/web volume v", "pull command"]),
                image(&json!([]), &[]),
            ],
        };
        let columns = Columns { wide: false, namespaces: false, headings: true };
        let text = "\
REPOSITORY         TAG      DIGEST         KIND       SIZE     PULLED   USED BY
quay.io/a          1        abababababab   Artifact   1.23MB   5m ago   pod default/web volume v (+1 more)
localhost:5000/x   <none>   abababababab   Artifact   1.23MB   5m ago   <none>
";
        assert_eq!(listing(&list, columns, &clock).table(columns), text);
    }

    #[test]
    fn says_what_was_removed() {
        let digest = image(&json!([]), &[]).id;
        let removed =
            RemovedImage { untagged: vec!["a:1".to_owned()], deleted: vec![digest.clone()], freed_bytes: 5000 };
        assert_eq!(removal(&removed), format!("Untagged: a:1\nDeleted: {digest}\nFreed: 5kB\n"));
    }
}
