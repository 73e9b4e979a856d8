//! Images as the arguments of commands name them.

use imagevol_api::oci::{Digest, Reference};
use imagevol_store::{ImageRecord, Store};

use super::images::{failure, store};
use crate::http::Failure;
use crate::node::Node;

/// Fewest digits that are taken for the beginning of a digest: fewer are a slip.
const FEWEST: usize = 4;

/// An image that an argument names.
pub(super) struct Named {
    /// What the store knows it by: the argument, or the digest that it begins.
    pub name: String,
    /// The image.
    pub image: ImageRecord,
}

/// Finds an image by reference, by digest, or by the beginning of its digest as `imagevol images` prints it. What is a name is no
/// beginning. It is an error if several images begin so.
pub(super) async fn find(node: &Node, name: &str) -> Result<Option<Named>, Failure> {
    if let Some(image) = node.service.find_image(name).await.map_err(|error| failure(&error))? {
        return Ok(Some(Named { name: name.to_owned(), image }));
    }
    let Some(digits) = beginning(name) else { return Ok(None) };
    let images = store(node, Store::image_summaries).await?;
    let ids = images.iter().map(|image| &image.manifest).filter(|id| id.hex().starts_with(digits));
    let ids: Vec<&Digest> = ids.collect();
    refuse_several(name, &ids)?;
    let Some(id) = ids.first() else { return Ok(None) };
    let found = node.service.find_image(&id.to_string()).await.map_err(|error| failure(&error))?;
    Ok(found.map(|image| Named { name: image.manifest.to_string(), image }))
}

/// No image is known by the argument, which may be no name at all.
pub(super) fn no_image(name: &str) -> Failure {
    unknown(name, format!("no image {name:?} on this node"))
}

/// Nothing is known by the argument: `missing` says so of one that could be a name.
pub(super) fn unknown(name: &str, missing: String) -> Failure {
    if beginning(name).is_some() || name.parse::<Digest>().is_ok() {
        return Failure::not_found(missing);
    }
    match Reference::parse(name) {
        Ok(_) => Failure::not_found(missing),
        Err(error) => Failure::bad_request(format!("{name:?}: {error}")),
    }
}

/// The digits, if an argument can be the beginning of a SHA-256 digest, with its algorithm or without.
fn beginning(name: &str) -> Option<&str> {
    let digits = name.strip_prefix("sha256:").unwrap_or(name);
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() >= FEWEST && digits.bytes().all(is_digit)).then_some(digits)
}

fn refuse_several(name: &str, ids: &[&Digest]) -> Result<(), Failure> {
    if ids.len() < 2 {
        return Ok(());
    }
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    Err(Failure::bad_request(format!(
        "{} images have a digest that begins with {name:?}: {}",
        ids.len(),
        ids.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_a_digest_is_digits_alone() {
        let whole = "ab".repeat(32);
        for (name, digits) in [
            ("3159e1fff97e", Some("3159e1fff97e")),
            ("sha256:3159e1fff97e", Some("3159e1fff97e")),
            (&*whole, Some(&*whole)),
            ("beef", Some("beef")),
            ("bee", None),
            ("", None),
            ("sha256:", None),
            ("sha512:3159e1fff97e", None),
            ("3159E1FFF97E", None),
            ("quay.io/a@sha256:3159e1fff97e", None),
            ("feed:1", None),
        ] {
            assert_eq!(beginning(name), digits, "{name}");
        }
    }

    #[test]
    fn several_images_are_none() {
        let ids = ["a", "b"].map(|end| format!("sha256:{}{end}", "0".repeat(63)).parse::<Digest>().unwrap());
        assert!(refuse_several("0000", &[]).is_ok() && refuse_several("0000", &[&ids[0]]).is_ok());
        let said = refuse_several("0000", &[&ids[0], &ids[1]]).unwrap_err().message();
        assert_eq!(said, format!("2 images have a digest that begins with \"0000\": {}, {}", ids[0], ids[1]));
    }

    #[test]
    fn what_is_no_name_is_told_from_what_is_not_here() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for name in ["none", "r.io/none:1", "0123456789ab", &digest] {
            assert_eq!(no_image(name).message(), format!("no image {name:?} on this node"));
        }
        let upper = "\"Bad Ref\": invalid reference format: repository name (library/Bad Ref) must be lowercase";
        for (name, said) in [("Bad Ref", upper), ("a b", "\"a b\": invalid reference format")] {
            assert_eq!(no_image(name).message(), said);
        }
    }
}
