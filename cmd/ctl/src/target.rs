//! `TYPE NAME...` and `TYPE/NAME...`, as kubectl takes them.

use crate::error::{CommandError, Result};

/// What a command is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `pods`, `pod`, `po`.
    Pods,
    /// `events`, `event`, `ev`.
    Events,
    /// `images`, `image`.
    Images,
    /// `secrets`, `secret`.
    Secrets,
    /// `pulls`, `pull`.
    Pulls,
    /// `volumes`, `volume`, `vol`.
    Volumes,
    /// `pins`, `pin`.
    Pins,
    /// `prefetch`.
    Prefetch,
    /// `references`, `reference`, `ref`.
    References,
}

/// A type and the names that were given with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The type.
    pub resource: Resource,
    /// In the order given; may be empty.
    pub names: Vec<String>,
}

// === impl Resource ===

impl Resource {
    /// As the API's paths have it.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Events => "events",
            Self::Images => "images",
            Self::Secrets => "secrets",
            Self::Pulls => "pulls",
            Self::Volumes => "volumes",
            Self::Pins => "pins",
            Self::Prefetch => "prefetch",
            Self::References => "references",
        }
    }

    /// As `TYPE/NAME` has it.
    pub(crate) const fn singular(self) -> &'static str {
        match self {
            Self::Pods => "pod",
            Self::Events => "event",
            Self::Images => "image",
            Self::Secrets => "secret",
            Self::Pulls => "pull",
            Self::Volumes => "volume",
            Self::Pins => "pin",
            Self::Prefetch => "prefetch",
            Self::References => "reference",
        }
    }

    /// The resource of a type or a kind, in any of kubectl's spellings.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "pods" | "pod" | "po" => Some(Self::Pods),
            "events" | "event" | "ev" => Some(Self::Events),
            "images" | "image" => Some(Self::Images),
            "secrets" | "secret" => Some(Self::Secrets),
            "pulls" | "pull" => Some(Self::Pulls),
            "volumes" | "volume" | "vol" => Some(Self::Volumes),
            "pins" | "pin" => Some(Self::Pins),
            "prefetch" | "prefetches" => Some(Self::Prefetch),
            "references" | "reference" | "ref" => Some(Self::References),
            _ => None,
        }
    }
}

// === impl Target ===

impl Target {
    /// Parses `TYPE [NAME...]` or `TYPE/NAME...`; `known` are the types that the command takes.
    pub(crate) fn parse(words: &[String], known: &[Resource]) -> Result<Self> {
        let slashed = words.first().is_some_and(|word| word.contains('/'));
        if slashed { Self::slashed(words, known) } else { Self::spaced(words, known) }
    }

    /// As [`Target::parse`], with at least one name.
    pub(crate) fn named(words: &[String], known: &[Resource]) -> Result<Self> {
        let target = Self::parse(words, known)?;
        if target.names.is_empty() { Err(CommandError::NameRequired) } else { Ok(target) }
    }

    fn spaced(words: &[String], known: &[Resource]) -> Result<Self> {
        let (first, names) = words.split_first().ok_or(CommandError::NameRequired)?;
        let resource = resource(first, known)?;
        // The references of images have slashes of their own.
        if resource != Resource::Images && names.iter().any(|name| name.contains('/')) {
            return Err(CommandError::Usage(MIXED));
        }
        Ok(Self { resource, names: names.to_vec() })
    }

    fn slashed(words: &[String], known: &[Resource]) -> Result<Self> {
        let mut target: Option<Self> = None;
        for word in words {
            let (kind, name) = word.split_once('/').ok_or(CommandError::Usage(MIXED))?;
            let resource = resource(kind, known)?;
            if name.is_empty() || name.contains('/') {
                return Err(CommandError::Usage(
                    "arguments in resource/name form must have a single resource and name",
                ));
            }
            let target = target.get_or_insert_with(|| Self { resource, names: Vec::new() });
            if target.resource != resource {
                return Err(CommandError::Usage("names of several types cannot be mixed"));
            }
            target.names.push(name.to_owned());
        }
        target.ok_or(CommandError::NameRequired)
    }
}

/// kubectl's words (cli-runtime, pkg/resource/builder.go).
const MIXED: &str =
    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form";

fn resource(text: &str, known: &[Resource]) -> Result<Resource> {
    let found = Resource::parse(text).filter(|resource| known.contains(resource));
    found.ok_or_else(|| CommandError::UnknownResource {
        given: text.to_owned(),
        known: known.iter().map(|resource| resource.plural()).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn parse(line: &str) -> Result<Target> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Target::named(&words, &[Resource::Pods])
    }

    #[rstest]
    #[case("pod a")]
    #[case("pods a")]
    #[case("Pod a")]
    #[case("po a")]
    #[case("pod/a")]
    fn takes_kubectls_spellings(#[case] line: &str) {
        assert_eq!(parse(line).unwrap(), Target { resource: Resource::Pods, names: vec!["a".to_owned()] });
    }

    #[rstest]
    #[case("pod", "resource(s) were provided, but no name was specified")]
    #[case("cow a", "the server doesn't have a resource type \"cow\"")]
    #[case("event a", "the server doesn't have a resource type \"event\"")]
    #[case("pod pod/a", MIXED)]
    #[case("pod/", "arguments in resource/name form must have a single resource and name")]
    fn refuses_others(#[case] line: &str, #[case] message: &str) {
        assert_eq!(parse(line).unwrap_err().to_string(), message);
    }
}
