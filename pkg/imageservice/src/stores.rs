//! Additional image stores: layouts that others keep, on disk or NFS, looked at before the network and only read.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use imagevol_api::oci::{Digest, Reference};
use imagevol_cri::progress::Blob;
use imagevol_cri::{Holder, ImageServiceError, ImageSpec, Progress, Result};
use imagevol_layout::{Catalog, Found, Layout, LayoutError};
use imagevol_registry::{Descriptor, Limits, Platform};
use imagevol_store::{ImageRecord, Stored};

use crate::EmbeddedImageService;
use crate::config::MAX_CONFIG_BYTES;
use crate::error::chain;
use crate::plan::LayerPlan;
use crate::pull::{Wanted, names};

/// A directory with images.
#[derive(Debug, Clone)]
pub struct AdditionalImageStore {
    /// The layout.
    pub path: PathBuf,
    /// The repository of images whose name in the layout is a tag alone; without it they are found by digest only.
    pub repository: Option<Reference>,
}

/// What makes two ways of an image into the node's store one: the name, and the platform if it is not the node's.
pub(crate) type TakeKey = (Reference, Option<String>);

/// All of them, in the order in which they are asked. Every call blocks.
#[derive(Debug, Default)]
pub(crate) struct Stores(Vec<Watched>);

/// One of them, read again when its index changes.
#[derive(Debug)]
struct Watched {
    store: AdditionalImageStore,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    opened: Option<Arc<Opened>>,
    /// What was logged last: the same is not said with each look.
    complaint: Option<String>,
}

#[derive(Debug)]
struct Opened {
    layout: Arc<Layout>,
    catalog: Catalog,
}

/// An image that one of them has.
struct Hit {
    layout: Arc<Layout>,
    found: Found,
    path: PathBuf,
}

// === impl Stores ===

impl Stores {
    pub(crate) fn new(stores: Vec<AdditionalImageStore>, limits: Limits) -> Self {
        Self(stores.into_iter().map(|store| Watched { store, limits, state: Mutex::default() }).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, reference: &Reference, platform: &Platform) -> Vec<Hit> {
        self.0.iter().filter_map(|store| store.find(reference, platform)).collect()
    }

    fn layouts(&self) -> impl Iterator<Item = Arc<Layout>> {
        self.0.iter().filter_map(|store| store.open().map(|opened| Arc::clone(&opened.layout)))
    }

    /// The layouts that have a blob of this digest and size.
    fn with_blob(&self, digest: &Digest, size: u64) -> Vec<Arc<Layout>> {
        self.layouts().filter(|layout| layout.blob(digest, size).is_ok()).collect()
    }
}

// === impl Watched ===

impl Watched {
    fn find(&self, reference: &Reference, platform: &Platform) -> Option<Hit> {
        let opened = self.open()?;
        let candidate = opened.catalog.find(reference)?;
        match opened.layout.resolve(candidate, platform) {
            Ok(found) => Some(Hit { layout: Arc::clone(&opened.layout), found, path: self.store.path.clone() }),
            Err(error) => {
                self.complain(&mut self.lock(), format!("image {reference} is not used: {}", chain(&error)));
                None
            }
        }
    }

    /// The layout as it is now; `None`, said in the log, if it cannot be read.
    fn open(&self) -> Option<Arc<Opened>> {
        let mut state = self.lock();
        match self.open_anew(state.opened.as_ref()) {
            Ok(None) => {}
            Ok(Some(opened)) => *state = State { opened: Some(opened), complaint: None },
            Err(error) => {
                state.opened = None;
                self.complain(&mut state, chain(&error));
            }
        }
        state.opened.clone()
    }

    /// `None` if it is as it was.
    fn open_anew(&self, known: Option<&Arc<Opened>>) -> Result<Option<Arc<Opened>>, LayoutError> {
        let stamp = Layout::stamp_of(&self.store.path)?;
        if known.is_some_and(|known| known.layout.stamp() == Some(stamp)) {
            return Ok(None);
        }
        let layout = Arc::new(Layout::open(&self.store.path, self.limits)?);
        let catalog = Catalog::new(&layout, self.store.repository.as_ref())?;
        Ok(Some(Arc::new(Opened { layout, catalog })))
    }

    fn complain(&self, state: &mut State, complaint: String) {
        if state.complaint.as_ref() != Some(&complaint) {
            tracing::warn!(path = %self.store.path.display(), problem = complaint, "additional image store");
            state.complaint = Some(complaint);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EmbeddedImageService {
    /// Brings an image that is not in the node's store there, if an additional store has it, without the network. Whoever wants the same
    /// meanwhile waits for it.
    ///
    /// A store that is broken has no images: what is wrong with it is in the log. What is wrong with the node is an error.
    pub(crate) async fn take_by_name(&self, image: &ImageSpec) -> Result<Option<ImageRecord>> {
        // A digest alone is an image of the node's store, and not the tag of a repository that is called `sha256`.
        if self.stores.is_empty() || image.image.parse::<Digest>().is_ok() {
            return Ok(None);
        }
        let Ok(reference) = Reference::parse(&image.image) else { return Ok(None) };
        let (reference, platform) = (reference.with_default_tag(), self.other_platform(image));
        let key = (reference.clone(), platform.as_ref().map(ToString::to_string));
        let taken = self.taken.run(key, || self.clone().take_named(reference, platform)).await;
        taken.unwrap_or(Err(ImageServiceError::Cancelled))
    }

    async fn take_named(self, reference: Reference, platform: Option<Platform>) -> Result<Option<ImageRecord>> {
        let (stores, name) = (Arc::clone(&self.stores), reference.clone());
        let wanted = platform.clone().unwrap_or_else(|| self.platform.clone());
        let hits = imagevol_base::blocking(move || stores.find(&name, &wanted)).await;
        for Hit { layout, found, path } in hits {
            let progress = Progress::default();
            let _shown = self.pulls.show(reference.to_string(), progress.clone());
            let digests = (&found.root_digest, &found.manifest_digest);
            let wanted = Wanted { names: names(&reference, digests, platform.as_ref()), holder: NOBODY };
            match self.take_image(&layout, found, (wanted, &reference), &progress).await {
                Ok(image) => {
                    tracing::info!(%reference, path = %path.display(), "image comes from an additional image store");
                    return Ok(Some(image));
                }
                Err(error) if error.is_final() => {
                    let problem = error.to_string();
                    tracing::warn!(%reference, path = %path.display(), problem, "additional image store");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A layer of a pull, if an additional store has its bytes. What is wrong with them there is no matter: the registry has them too.
    pub(crate) async fn take_from_stores(&self, layer: &LayerPlan, progress: &Blob) -> Option<Arc<Stored>> {
        if self.stores.is_empty() {
            return None;
        }
        let (stores, digest, size) = (Arc::clone(&self.stores), layer.descriptor.digest.clone(), layer.descriptor.size);
        for layout in imagevol_base::blocking(move || stores.with_blob(&digest, size)).await {
            match self.take_layer(&layout, layer, progress).await {
                Ok(layer) => return Some(Arc::new(layer)),
                Err(error) => {
                    let digest = &layer.descriptor.digest;
                    tracing::warn!(%digest, %error, "layer of an additional image store is not used");
                }
            }
        }
        None
    }

    /// The config of a pull, if an additional store has it.
    pub(crate) async fn config_of_stores(&self, descriptor: &Descriptor) -> Option<Bytes> {
        if self.stores.is_empty() {
            return None;
        }
        let (stores, descriptor) = (Arc::clone(&self.stores), descriptor.clone());
        let read = move || stores.layouts().find_map(|layout| layout.small(&descriptor, MAX_CONFIG_BYTES).ok());
        imagevol_base::blocking(read).await
    }
}

/// Holds nothing, for it has no row: whoever asked for the image has one with its name, which keeps it. Commands are numbered from 1.
const NOBODY: Holder = Holder::Command { id: 0 };
