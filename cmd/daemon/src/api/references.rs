//! Rows that keep images, and those of other components of the node.

use std::time::Duration;

use http::Method;
use hyper::body::Incoming;
use imagevol_api::daemon::{HeldReference, ReferenceList, ReferenceRequest};
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::Holder;
use imagevol_cri::{ImageId, ImageReferences as _};
use imagevol_store::{Store, Terms, Until};

use super::holders::{Holders, wall};
use super::images::{failure, store};
use super::read_body;
use crate::http::{Answer, Failure, json, no_such_route, success};
use crate::node::Node;

/// Longest lease: a holder that vanished keeps its image no longer than this.
const LONGEST_LEASE: u64 = 24 * 60 * 60;

/// Below `/references`.
pub(super) async fn route(node: &Node, method: &Method, path: &[&str], body: Incoming) -> Result<Answer, Failure> {
    match (method, path) {
        (&Method::GET, []) => Ok(json(&ReferenceList { items: list(node).await? })),
        (&Method::PUT, [owner, name]) => put(node, external(owner, name)?, &read_body(body).await?).await,
        (&Method::DELETE, [owner, name]) => delete(node, external(owner, name)?).await,
        (method, path) => Ok(no_such_route(method, &format!("/references/{}", path.join("/")))),
    }
}

fn external(owner: &str, name: &str) -> Result<Holder, Failure> {
    let bad = |error: imagevol_api::names::NameError| Failure::bad_request(error.to_string());
    Ok(Holder::External { owner: owner.parse().map_err(bad)?, name: name.parse().map_err(bad)? })
}

async fn list(node: &Node) -> Result<Vec<HeldReference>, Failure> {
    let (rows, holders) = (store(node, Store::references).await?, Holders::of(node));
    let clock = holders.clock();
    let rows = rows.into_iter().filter(|(_, row)| !row.is_over(clock.now()));
    let held = rows.map(|(holder, row)| HeldReference {
        holder: holder.to_string(),
        name: holders.name(&holder),
        reference: row.reference,
        image: row.image,
        since: wall(row.since),
        expires: row.expires.map(|expires| clock.tell(expires)),
    });
    Ok(held.collect())
}

/// Written, or renewed. An image that is here is tied to it at once, so that a tag that moves leaves it alone.
async fn put(node: &Node, holder: Holder, body: &[u8]) -> Result<Answer, Failure> {
    let request: ReferenceRequest =
        serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
    let lasts = request.lease_duration_seconds;
    if !(1..=LONGEST_LEASE).contains(&lasts) {
        let message = format!("leaseDurationSeconds: Invalid value: {lasts}: must be between 1 and {LONGEST_LEASE}");
        return Err(Failure::bad_request(message));
    }
    let reference = normalized(&request.reference)?;
    let terms = Terms { lasts: Some(Duration::from_secs(lasts)), until: Until::Released };
    node.service.hold_for(&holder, &reference, terms).await.map_err(|error| failure(&error))?;
    let known = list(node).await?.into_iter().find(|row| row.holder == holder.to_string());
    if known.is_some_and(|row| row.image.is_none()) {
        let found = node.service.find_image(&reference).await.map_err(|error| failure(&error))?;
        if let Some(image) = found {
            let id = ImageId::new(image.manifest);
            node.service.bind(&holder, &id).await.map_err(|error| failure(&error))?;
        }
    }
    let held = list(node).await?.into_iter().find(|row| row.holder == holder.to_string());
    held.map(|held| json(&held)).ok_or_else(|| Failure::not_found(format!("no reference {holder}")))
}

async fn delete(node: &Node, holder: Holder) -> Result<Answer, Failure> {
    if !list(node).await?.iter().any(|row| row.holder == holder.to_string()) {
        return Err(Failure::not_found(format!("no reference {holder}")));
    }
    node.service.release(&holder).await.map_err(|error| failure(&error))?;
    Ok(success())
}

/// A digest of a manifest, or a reference with its tag or digest.
fn normalized(text: &str) -> Result<String, Failure> {
    if text.parse::<Digest>().is_ok() {
        return Ok(text.to_owned());
    }
    let parsed =
        Reference::parse(text).map_err(|error| Failure::bad_request(format!("reference {text:?}: {error}")))?;
    Ok(parsed.with_default_tag().to_string())
}
