//! Pins.

use http::Method;
use imagevol_api::daemon::{Pin, PinList};
use imagevol_api::oci::ImagePattern;
use imagevol_store::{Pinned, Store};

use super::holders::wall;
use super::images::store;
use super::{Query, named};
use crate::http::{Answer, Failure, json, no_such_route, success};
use crate::node::Node;

/// `/pins`.
pub(super) async fn route(node: &Node, method: &Method, query: &Query) -> Result<Answer, Failure> {
    match *method {
        Method::GET => Ok(json(&PinList { items: pins(node).await? })),
        Method::PUT => pin(node, full(node, written(query)).await?).await,
        Method::DELETE => unpin(node, written(query)).await,
        _ => Ok(no_such_route(method, "/pins")),
    }
}

fn written(query: &Query) -> &str {
    query.get("pattern").unwrap_or_default()
}

/// The beginning of an image's digest stands for all of it, so that the pin never covers another image that begins so.
async fn full(node: &Node, text: &str) -> Result<ImagePattern, Failure> {
    let found = named::find(node, text).await?;
    let pattern = found.map_or_else(|| text.to_owned(), |found| found.name);
    pattern.parse().map_err(|error: imagevol_api::oci::PatternError| Failure::bad_request(error.to_string()))
}

async fn pins(node: &Node) -> Result<Vec<Pin>, Failure> {
    let pins = store(node, Store::pins).await?;
    Ok(pins.into_iter().map(shown).collect())
}

/// Answers with the pin: the caller sees what it covers.
async fn pin(node: &Node, pattern: ImagePattern) -> Result<Answer, Failure> {
    let name = pattern.to_string();
    store(node, move |store| store.pin(&pattern)).await?;
    let pin = pins(node).await?.into_iter().find(|pin| pin.pattern == name);
    // Nobody can have taken it back but by a command of the same moment.
    pin.map(|pin| json(&pin)).ok_or_else(|| Failure::not_found(format!("no pin {name:?}")))
}

/// Takes back what is pinned as written, else what the beginning of a digest stands for.
async fn unpin(node: &Node, text: &str) -> Result<Answer, Failure> {
    if let Ok(pattern) = text.parse::<ImagePattern>()
        && store(node, move |store| store.unpin(&pattern)).await?
    {
        return Ok(success());
    }
    let pattern = full(node, text).await?;
    let name = pattern.to_string();
    if store(node, move |store| store.unpin(&pattern)).await? {
        return Ok(success());
    }
    Err(Failure::not_found(format!("no pin {name:?}")))
}

fn shown((pattern, Pinned { since, images }): (ImagePattern, Pinned)) -> Pin {
    Pin { pattern: pattern.to_string(), since: wall(since), images }
}
