//! Why images are on the node.

use imagevol_api::daemon::{WhyContent, WhyHolder, WhyImage, WhyReport};
use imagevol_api::oci::{Digest, Reference};
use imagevol_store::{ContentKey, Counted, FoundContent, Moment, Store};

use super::holders::{Holders, wall};
use super::images::store;
use super::{Query, named};
use crate::http::{Answer, Failure, json};
use crate::node::Node;

/// `GET /images/why?name=NAME`.
pub(super) async fn explain(node: &Node, query: &Query) -> Result<Answer, Failure> {
    let missing = || Failure::bad_request("name is missing");
    let name = query.get("name").filter(|name| !name.is_empty()).ok_or_else(missing)?.to_owned();
    let holders = Holders::of(node);
    let report = match named::find(node, &name).await? {
        Some(found) => {
            let images = counted(node, &holders, vec![found.image.manifest]).await?;
            WhyReport { images, ..WhyReport::default() }
        }
        None => of_no_image(node, &holders, name.clone()).await?,
    };
    if report.images.is_empty() && report.content.is_none() && report.wanted.is_empty() {
        return Err(named::unknown(&name, nothing(&name)));
    }
    Ok(json(&report))
}

fn nothing(name: &str) -> String {
    match name.parse::<Digest>() {
        Ok(digest) => format!("no image, layer or blob {digest} on this node"),
        Err(_) => format!("nothing on this node is known as {name:?}"),
    }
}

/// A digest of content, or a name that somebody waits for.
async fn of_no_image(node: &Node, holders: &Holders, name: String) -> Result<WhyReport, Failure> {
    let Ok(digest) = name.parse::<Digest>() else {
        return Ok(WhyReport { wanted: waiting(node, holders, name).await?, ..WhyReport::default() });
    };
    let found = store(node, move |store| store.find_content(&digest)).await?;
    let images = found.iter().flat_map(|content| content.images.clone()).collect();
    Ok(WhyReport {
        content: found.first().map(content),
        images: counted(node, holders, images).await?,
        wanted: waiting(node, holders, name).await?,
    })
}

fn content(found: &FoundContent) -> WhyContent {
    let kind = match &found.key {
        ContentKey::Layer(_) => "layer",
        ContentKey::Blob(_) => "blob",
    };
    WhyContent {
        kind: kind.to_owned(),
        digest: found.key.digest().clone(),
        size: found.content.bytes_on_disk(),
        leased: found.leased,
    }
}

async fn counted(node: &Node, holders: &Holders, images: Vec<Digest>) -> Result<Vec<WhyImage>, Failure> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let census = store(node, Store::census).await?;
    let found = census.images.iter().filter(|image| images.contains(&image.image));
    Ok(found.map(|image| explained(node, holders, image)).collect())
}

fn explained(node: &Node, holders: &Holders, image: &Counted) -> WhyImage {
    WhyImage {
        id: image.image.clone(),
        names: image.names.clone(),
        size: image.size,
        freed_bytes: image.freed_bytes,
        first_seen: wall(image.first_seen.at),
        last_used: image.last_used.map(|Moment { at, .. }| wall(at)),
        holders: image.holders.iter().map(|(holder, row)| holders.explain(holder, row)).collect(),
        pins: image.pins.iter().map(ToString::to_string).collect(),
        mounted: image.mounted,
        not_before: (!image.is_needed()).then(|| not_before(node, holders, image)),
    }
}

/// Once it has the minimum age, which it may have already.
fn not_before(node: &Node, holders: &Holders, image: &Counted) -> String {
    let min_age = node.config.image_minimum_gc_age.get();
    let mut old_enough = image.first_seen.time;
    old_enough.0 = old_enough.0.saturating_add(min_age.as_secs());
    holders.clock().tell(old_enough)
}

/// Rows of a reference that leads nowhere yet.
async fn waiting(node: &Node, holders: &Holders, name: String) -> Result<Vec<WhyHolder>, Failure> {
    let normalized = Reference::parse(&name).map(|reference| reference.with_default_tag().to_string());
    let wanted = move |reference: &str| reference == name || normalized.as_ref().is_ok_and(|name| name == reference);
    let rows = store(node, Store::references).await?;
    let now = holders.clock().now();
    let rows = rows.iter().filter(|(_, row)| row.image.is_none() && !row.is_over(now) && wanted(&row.reference));
    Ok(rows.map(|(holder, row)| holders.explain(holder, row)).collect())
}
