//! Import: an archive that comes in as a stream is kept beside the downloads, and its images are then taken like those of any layout.

use std::io::BufRead;
use std::sync::Arc;

use imagevol_api::oci::{Digest, Reference};
use imagevol_cri::{Holder, ImageServiceError, Progress, Result};
use imagevol_layout::{Archive, ArchiveLimits, Candidate, Layout, LayoutError};
use imagevol_registry::Limits;
use imagevol_store::{ImageName, ImageRecord, Spool, Store};

use crate::EmbeddedImageService;
use crate::error::{of_layout, of_store};
use crate::pull::{Wanted, names};

/// What is to become of the images of an archive.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The name of its only image, instead of those in the archive.
    pub name: Option<Reference>,
    /// The repository of images whose name is a tag alone.
    pub repository: Option<Reference>,
}

/// An image that was imported.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The references that lead to it now; none for an image without a name.
    pub names: Vec<String>,
    /// The image.
    pub image: ImageRecord,
}

/// An archive that is here. It goes with the value.
#[derive(Debug)]
pub struct Kept {
    layout: Arc<Layout>,
    // After the layout, which has its file open.
    _spool: Spool,
}

impl EmbeddedImageService {
    /// Keeps an archive as it comes: an OCI layout or a docker archive, plain or compressed.
    ///
    /// Killed meanwhile: its directory, which the next start deletes. The source fails: it is deleted now.
    pub async fn keep_archive(&self, source: impl BufRead + Send + 'static) -> Result<Kept> {
        let (store, limits) = (self.store.clone(), self.registry.limits());
        let archive = ArchiveLimits { max_bytes: self.limits.max_image_bytes };
        imagevol_base::blocking(move || keep(&store, source, archive, limits)).await
    }

    /// Imports every image of an archive for this node's platform, and tells of each. What was imported before an error stays.
    pub async fn import(
        &self,
        kept: &Kept,
        import: &Import,
        (holder, progress): (&Holder, &Progress),
        mut tell: impl FnMut(Imported) + Send,
    ) -> Result<()> {
        let layout = Arc::clone(&kept.layout);
        let mut candidates = layout.candidates(import.repository.as_ref());
        check_count(candidates.len(), import)?;
        if let Some(name) = &import.name {
            for only in &mut candidates {
                only.names = vec![name.clone().with_default_tag()];
            }
        }
        for candidate in candidates {
            tell(self.import_one(&layout, &candidate, holder, progress).await?);
        }
        Ok(())
    }

    async fn import_one(
        &self,
        layout: &Arc<Layout>,
        candidate: &Candidate,
        holder: &Holder,
        progress: &Progress,
    ) -> Result<Imported> {
        let found = {
            let (layout, candidate, platform) = (Arc::clone(layout), candidate.clone(), self.platform.clone());
            imagevol_base::blocking(move || layout.resolve(&candidate, &platform)).await
        };
        let found = found.map_err(|error| of_layout(&error))?;
        let reference = candidate.names.first().cloned().map_or_else(|| nameless(&found.manifest_digest), Ok)?;
        let _shown = self.pulls.show(reference.to_string(), progress.clone());
        let digests = (&found.root_digest, &found.manifest_digest);
        let all = candidate.names.iter().flat_map(|name| names(name, digests, None));
        let wanted = Wanted { names: all.collect::<Vec<ImageName>>(), holder: holder.clone() };
        let image = self.take_image(layout, found, (wanted, &reference), progress).await?;
        Ok(Imported { names: candidate.names.iter().map(Reference::to_string).collect(), image })
    }
}

fn keep(store: &Store, source: impl BufRead, archive: ArchiveLimits, limits: Limits) -> Result<Kept> {
    let spool = store.spool().map_err(|error| of_store(&error))?;
    let layout = read(&spool, source, archive, limits).map_err(|error| of_layout(&error))?;
    Ok(Kept { layout: Arc::new(layout), _spool: spool })
}

fn read(spool: &Spool, source: impl BufRead, archive: ArchiveLimits, limits: Limits) -> Result<Layout, LayoutError> {
    let (mut out, reader) = spool.file().map_err(LayoutError::Keep)?;
    Layout::of_archive(Archive::keep(source, &mut out, reader, archive)?, limits)
}

/// What stands for an image without a name where one is shown.
fn nameless(digest: &Digest) -> Result<Reference> {
    let named = Reference::parse(&format!("localhost/imported@{digest}"));
    named.map_err(|error| ImageServiceError::Invalid { message: error.to_string() })
}

fn check_count(images: usize, import: &Import) -> Result<()> {
    let invalid = |message: String| Err(ImageServiceError::Invalid { message });
    match images {
        0 => invalid("the archive has no image in it".to_owned()),
        1 => Ok(()),
        several if import.name.is_some() => {
            invalid(format!("the archive has {several} images, which cannot all have one name"))
        }
        _ => Ok(()),
    }
}
