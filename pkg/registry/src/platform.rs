//! Platforms, and which entry of an index suits one best (containerd's `platforms` package, `Only`).

use std::fmt;

use serde::Deserialize;

use crate::manifest::Entry;
use crate::text::shown;

/// Operating system and processor, as an index names them, normalized as containerd does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    os: String,
    architecture: String,
    /// Empty for an architecture's usual variant: `amd64` is `v1`, `arm64` is `v8`.
    variant: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

// === impl Platform ===

impl Platform {
    /// Normalizes names: `x86_64` is `amd64`, `aarch64` is `arm64`, `arm` alone is `arm/v7`.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (architecture, variant) = normalize(&lower(architecture), &lower(variant.unwrap_or_default()));
        Self { os: lower(os), architecture, variant }
    }

    /// This machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, None)
    }

    /// Whether an index marks an entry as none: `unknown/unknown`, as attestations have it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }

    /// Platforms whose images run here, best first.
    fn fitting(&self) -> Vec<Self> {
        let other = |architecture: &str, variant: &str| Self::new(&self.os, architecture, Some(variant));
        let mut all = vec![self.clone()];
        match self.architecture.as_str() {
            "amd64" => {
                all.extend(below(&self.variant, 1).map(|variant| other("amd64", &variant)));
                all.push(other("386", ""));
            }
            "arm" => all.extend(below(&self.variant, 5).map(|variant| other("arm", &variant))),
            "arm64" => {
                all.extend(below(&self.variant, 8).map(|variant| other("arm64", &variant)));
                all.extend(["v8", "v7", "v6", "v5"].map(|variant| other("arm", variant)));
            }
            _ => {}
        }
        all
    }
}

impl From<RawPlatform> for Platform {
    fn from(raw: RawPlatform) -> Self {
        Self::new(&raw.os, &raw.architecture, raw.variant.as_deref())
    }
}

impl From<&imagevol_api::oci::Platform> for Platform {
    fn from(platform: &imagevol_api::oci::Platform) -> Self {
        let (os, architecture, variant) = platform.parts();
        Self::new(os, architecture, variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [&self.os, &self.architecture, &self.variant].map(|part| shown(part, &[]));
        let [os, architecture, variant] = parts;
        write!(f, "{os}/{architecture}")?;
        if variant.is_empty() { Ok(()) } else { write!(f, "/{variant}") }
    }
}

/// The entries worth trying for `wanted`, best first: by variant, then in the order of the index, then those without a platform.
pub(crate) fn candidates<'e>(entries: &'e [Entry], wanted: &Platform) -> Vec<&'e Entry> {
    let fitting = wanted.fitting();
    let rank = |entry: &Entry| match &entry.platform {
        Some(platform) => fitting.iter().position(|fit| fit == platform),
        None => Some(fitting.len()),
    };
    let mut ranked: Vec<(usize, &Entry)> = entries
        .iter()
        .filter(|entry| !entry.is_attestation())
        .filter_map(|entry| rank(entry).map(|rank| (rank, entry)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, entry)| entry).collect()
}

fn normalize(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Variants `v<n>` below `variant`, down to `least`, which is first in line to be an empty name.
fn below(variant: &str, least: u32) -> impl Iterator<Item = String> + use<> {
    // `arm64` has minor versions too: those of one major version come down to it.
    let digits = variant.strip_prefix('v').unwrap_or_default();
    let (major, minor) =
        digits.split_once('.').map_or((digits, None), |(major, minor)| (major, minor.parse::<u32>().ok()));
    let major = major.parse::<u32>().unwrap_or(least).min(VARIANT_MAX);
    let own = minor.map(|_| format!("v{major}"));
    own.into_iter().chain((least..major).rev().map(|version| format!("v{version}")))
}

/// Above every variant that exists; a bound for hostile numbers.
const VARIANT_MAX: u32 = 16;

#[cfg(test)]
mod tests;
