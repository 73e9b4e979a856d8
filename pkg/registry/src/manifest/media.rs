//! Media types (OCI image spec, `media-types.md`; distribution's image manifest version 2, schema 2).

/// What a request for a manifest accepts.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A document's kind, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaType {
    Manifest,
    Index,
    Schema1,
}

/// How the tar of a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerEncoding {
    /// Not at all.
    Tar,
    /// gzip, of one or more members.
    Gzip,
    /// zstd, of one or more frames.
    Zstd,
}

// === impl MediaType ===

impl MediaType {
    /// `None` for everything that is no manifest.
    pub(crate) fn of(text: &str) -> Option<Self> {
        match text {
            "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => {
                Some(Self::Manifest)
            }
            "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                Some(Self::Index)
            }
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Some(Self::Schema1),
            _ => None,
        }
    }
}

// === impl LayerEncoding ===

impl LayerEncoding {
    /// `None` for what is no file system layer. Docker writes its uncompressed type with and without the dot of `.tar`.
    pub(crate) fn of(media_type: &str) -> Option<Self> {
        const FAMILIES: [&str; 5] = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar",
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            "application/vnd.docker.image.rootfs.diff",
        ];
        let suffix = FAMILIES.iter().find_map(|family| media_type.strip_prefix(family))?;
        match suffix {
            "" => Some(Self::Tar),
            "+gzip" | ".gzip" => Some(Self::Gzip),
            "+zstd" | ".zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Whether a config of this type is an image's.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json")
}
