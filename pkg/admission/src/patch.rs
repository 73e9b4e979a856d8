//! JSON Patch (RFC 6902), as far as an admission answer needs it.

use serde::Serialize;
use serde_json::Value;

/// One operation of a patch; `path` is a JSON pointer into the object under review.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Sets a member of an object, whether it was there or not.
    Add {
        /// The member.
        path: String,
        /// Its new value.
        value: Value,
    },
    /// Sets something that is there.
    Replace {
        /// What is replaced.
        path: String,
        /// Its new value.
        value: Value,
    },
}
