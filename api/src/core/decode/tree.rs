//! A JSON value that remembers which of its keys were there twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Duplicates that are reported at most (sigs.k8s.io/json, `maxStrictErrors`).
pub(super) const MAX_PROBLEMS: usize = 100;

/// A document before it has a type. Of a key that is there twice, the last value counts.
pub(super) struct Tree {
    pub(super) value: Value,
    /// Paths such as `spec.volumes[0].name`.
    pub(super) duplicates: Vec<String>,
}

struct TreeVisitor;

// === impl Tree ===

impl From<Value> for Tree {
    fn from(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

// === impl TreeVisitor ===

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Value::Null.into())
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Value::Null.into())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Value::Bool(value).into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Value::Number(value.into()).into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Value::Number(value.into()).into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        if let Some(whole) = whole_number(value) {
            return Ok(Value::Number(whole.into()).into());
        }
        Number::from_f64(value)
            .map(|number| Value::Number(number).into())
            .ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Value::String(value.to_owned()).into())
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Value::String(value).into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Tree, A::Error> {
        let (mut list, mut duplicates) = (Vec::new(), Vec::new());
        while let Some(element) = elements.next_element::<Tree>()? {
            adopt(&mut duplicates, &format!("[{}]", list.len()), element.duplicates);
            list.push(element.value);
        }
        Ok(Tree { value: Value::Array(list), duplicates })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let (mut map, mut duplicates) = (Map::new(), Vec::new());
        while let Some(key) = entries.next_key::<String>()? {
            let element = entries.next_value::<Tree>()?;
            adopt(&mut duplicates, &key, element.duplicates);
            if map.insert(key.clone(), element.value).is_some() && duplicates.len() < MAX_PROBLEMS {
                duplicates.push(key);
            }
        }
        Ok(Tree { value: Value::Object(map), duplicates })
    }
}

/// `1.0` is an integer to kubectl, whose JSON encoder leaves out the fraction.
fn whole_number(value: f64) -> Option<i64> {
    // All integers up to this one are exact (IEEE 754 binary64 has 53 bits of precision).
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = value.fract() == 0.0 && value.abs() < EXACT;
    // The text has no fraction and fits.
    whole.then(|| format!("{value:.0}").parse().ok()).flatten()
}

/// Takes over a child's paths, below the child's own name.
fn adopt(duplicates: &mut Vec<String>, name: &str, child: Vec<String>) {
    let room = MAX_PROBLEMS.saturating_sub(duplicates.len());
    duplicates.extend(child.into_iter().take(room).map(|path| {
        let dot = if path.starts_with('[') { "" } else { "." };
        format!("{name}{dot}{path}")
    }));
}
