//! Pins.

use http::Method;
use imagevol_api::daemon::{Pin, PinList};
use imagevol_api::oci::ImagePattern;
use imagevol_store::{Pinned, Store};

use super::Query;
use super::holders::wall;
use super::images::store;
use crate::http::{Answer, Failure, json, no_such_route, success};
use crate::node::Node;

/// `/pins`.
pub(super) async fn route(node: &Node, method: &Method, query: &Query) -> Result<Answer, Failure> {
    match *method {
        Method::GET => Ok(json(&PinList { items: pins(node).await? })),
        Method::PUT => pin(node, pattern_of(query)?).await,
        Method::DELETE => unpin(node, pattern_of(query)?).await,
        _ => Ok(no_such_route(method, "/pins")),
    }
}

fn pattern_of(query: &Query) -> Result<ImagePattern, Failure> {
    let pattern = query.get("pattern").unwrap_or_default();
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

async fn unpin(node: &Node, pattern: ImagePattern) -> Result<Answer, Failure> {
    let name = pattern.to_string();
    if store(node, move |store| store.unpin(&pattern)).await? {
        return Ok(success());
    }
    Err(Failure::not_found(format!("no pin {name:?}")))
}

fn shown((pattern, Pinned { since, images }): (ImagePattern, Pinned)) -> Pin {
    Pin { pattern: pattern.to_string(), since: wall(since), images }
}
