//! Import: an archive that comes in as a stream is kept beside the downloads, and its images are then taken like those of any layout.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use imagevol_api::oci::{Digest, Reference};
use imagevol_cri::{Holder, ImageServiceError, Progress, Result};
use imagevol_layout::{Archive, ArchiveLimits, Candidate, Layout, LayoutError};
use imagevol_registry::Limits;
use imagevol_store::{ImageName, ImageRecord, Spool, Store};

use crate::EmbeddedImageService;
use crate::error::{of_layout, of_store};
use crate::pull::{Wanted, names};

/// The archive in its directory, where fsck finds the bytes of what is unfinished.
const FILE: &str = "data";
/// Files of the store are for root only.
const FILE_MODE: u32 = 0o600;
/// How often it is looked whether there is room.
const LOOK_EVERY: u64 = 64 << 20;

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

/// Writes to a file while there is room on its file system for what the node needs besides.
struct Guarded {
    file: File,
    dir: PathBuf,
    reserve: u64,
    unlooked: u64,
}

impl EmbeddedImageService {
    /// Keeps an archive as it comes: an OCI layout or a docker archive, plain or compressed.
    ///
    /// Killed meanwhile: its directory, which the next start deletes. The source fails: it is deleted now.
    pub async fn keep_archive(&self, source: impl BufRead + Send + 'static) -> Result<Kept> {
        let (store, limits) = (self.store.clone(), self.registry.limits());
        let archive = ArchiveLimits { max_bytes: self.limits.max_image_bytes };
        let reserve = self.store.limits().min_free_bytes;
        imagevol_base::blocking(move || keep(&store, source, (archive, limits), reserve)).await
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

fn keep(store: &Store, source: impl BufRead, (archive, limits): (ArchiveLimits, Limits), reserve: u64) -> Result<Kept> {
    let spool = store.spool().map_err(|error| of_store(&error))?;
    let layout = read(&spool, source, (archive, limits), reserve).map_err(|error| of_layout(&error))?;
    Ok(Kept { layout: Arc::new(layout), _spool: spool })
}

fn read(
    spool: &Spool,
    source: impl BufRead,
    (archive, limits): (ArchiveLimits, Limits),
    reserve: u64,
) -> Result<Layout, LayoutError> {
    let mut options = OpenOptions::new();
    options.create_new(true).read(true).write(true).mode(FILE_MODE);
    let file = options.open(spool.dir().join(FILE)).map_err(LayoutError::Keep)?;
    let reader = file.try_clone().map_err(LayoutError::Keep)?;
    let mut out = Guarded { file, dir: spool.dir().to_owned(), reserve, unlooked: LOOK_EVERY };
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

// === impl Guarded ===

impl Guarded {
    fn look(&self) -> io::Result<()> {
        let available = imagevol_mount::filesystem(&self.dir).map_err(io::Error::other)?.available;
        if available > self.reserve.saturating_add(LOOK_EVERY) {
            return Ok(());
        }
        let message = format!("{available} bytes are free, and {} must stay so", self.reserve);
        Err(io::Error::new(io::ErrorKind::StorageFull, message))
    }
}

impl Write for Guarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.unlooked >= LOOK_EVERY {
            self.look()?;
            self.unlooked = 0;
        }
        let count = self.file.write(bytes)?;
        self.unlooked += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
