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
use crate::patience::{Patience, Silent};
use crate::plan::LayerPlan;
use crate::pull::{Wanted, names};
use imagevol_api::text::chain;

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

/// All of them, in the order in which their answers count. They are asked at once: those that hang cost the time of one.
#[derive(Debug, Default)]
pub(crate) struct Stores(Vec<Arc<Watched>>);

/// One of them, read again when its index changes.
#[derive(Debug)]
pub(crate) struct Watched {
    store: AdditionalImageStore,
    limits: Limits,
    state: Mutex<State>,
    patience: Patience,
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
    store: Arc<Watched>,
}

// === impl Stores ===

impl Stores {
    pub(crate) fn new(stores: Vec<AdditionalImageStore>, limits: Limits) -> Self {
        let watched = |store| Watched { store, limits, state: Mutex::default(), patience: Patience::default() };
        Self(stores.into_iter().map(watched).map(Arc::new).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    async fn find(&self, reference: &Reference, platform: &Platform) -> Vec<Hit> {
        let (reference, platform) = (reference.clone(), platform.clone());
        self.ask(move |store| store.find(&reference, &platform)).await
    }

    /// The layouts that have a blob of this digest and size.
    async fn with_blob(&self, digest: &Digest, size: u64) -> Vec<(Arc<Layout>, Arc<Watched>)> {
        let digest = digest.clone();
        let find = move |store: &Arc<Watched>| {
            let layout = Arc::clone(&store.open()?.layout);
            layout.blob(&digest, size).is_ok().then(|| (layout, Arc::clone(store)))
        };
        self.ask(find).await
    }

    async fn small(&self, descriptor: &Descriptor) -> Option<Bytes> {
        let descriptor = descriptor.clone();
        let read = move |store: &Arc<Watched>| store.open()?.layout.small(&descriptor, MAX_CONFIG_BYTES).ok();
        self.ask(read).await.into_iter().next()
    }

    /// What each of them has. One that does not answer has nothing.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Arc<Watched>) -> Option<T> + Clone + Send + 'static,
    ) -> Vec<T> {
        let asked = self.0.iter().map(|store| store.ask(question.clone()));
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }
}

// === impl Watched ===

impl Watched {
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Arc<Self>) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        let store = Arc::clone(self);
        match self.patience.ask(move || question(&store)).await {
            Ok(answer) => answer,
            Err(silent) => {
                self.is_silent(silent);
                None
            }
        }
    }

    /// Its bytes have stopped coming: it is left alone as one that does not answer.
    fn give_up(&self) {
        self.is_silent(self.patience.give_up());
    }

    fn is_silent(&self, silent: Silent) {
        let path = self.store.path.display();
        match silent {
            Silent::Now => {
                tracing::warn!(%path, "additional image store does not answer; it is gone without, and asked again later");
            }
            Silent::Still => tracing::debug!(%path, "additional image store has not answered, and is left alone"),
        }
    }

    /// This and all below block.
    fn find(self: &Arc<Self>, reference: &Reference, platform: &Platform) -> Option<Hit> {
        let opened = self.open()?;
        let candidate = opened.catalog.find(reference)?;
        match opened.layout.resolve(candidate, platform) {
            Ok(found) => Some(Hit { layout: Arc::clone(&opened.layout), found, store: Arc::clone(self) }),
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
        let wanted = platform.as_ref().unwrap_or(&self.platform);
        for Hit { layout, found, store } in self.stores.find(&reference, wanted).await {
            let path = store.store.path.display();
            let progress = Progress::default();
            let _shown = self.pulls.show(reference.to_string(), progress.clone());
            let digests = (&found.root_digest, &found.manifest_digest);
            let wanted = Wanted { names: names(&reference, digests, platform.as_ref()), holder: NOBODY };
            match self.take_image(&layout, found, (wanted, &reference), &progress).await {
                Ok(image) => {
                    tracing::info!(%reference, %path, "image comes from an additional image store");
                    return Ok(Some(image));
                }
                Err(error @ ImageServiceError::Unavailable { .. }) => {
                    tracing::warn!(%reference, %path, %error, "image of an additional image store is not used");
                    store.give_up();
                }
                Err(error) if error.is_final() => {
                    let problem = error.to_string();
                    tracing::warn!(%reference, %path, problem, "additional image store");
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
        let (digest, size) = (&layer.descriptor.digest, layer.descriptor.size);
        for (layout, store) in self.stores.with_blob(digest, size).await {
            match self.take_layer(&layout, layer, progress).await {
                Ok(layer) => return Some(Arc::new(layer)),
                Err(error) => {
                    tracing::warn!(%digest, %error, "layer of an additional image store is not used");
                    if matches!(error, ImageServiceError::Unavailable { .. }) {
                        store.give_up();
                    }
                }
            }
        }
        None
    }

    /// The config of a pull, if an additional store has it.
    pub(crate) async fn config_of_stores(&self, descriptor: &Descriptor) -> Option<Bytes> {
        if self.stores.is_empty() { None } else { self.stores.small(descriptor).await }
    }
}

/// Holds nothing, for it has no row: whoever asked for the image has one with its name, which keeps it. Commands are numbered from 1.
const NOBODY: Holder = Holder::Command { id: 0 };

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use imagevol_test_support::image::{ImageBuilder, LayerBuilder};
    use tokio::time::{Duration, Instant};

    use super::*;

    /// A directory that hangs is one whose look does not end: here for a lock.
    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_is_gone_without_and_found_again() {
        let (dir, reference) = (tempfile::tempdir().unwrap(), Reference::parse("r.io/team/data:v1").unwrap());
        let image = ImageBuilder::new().layer(LayerBuilder::new().file("file", "1").gzip()).build();
        image.write_layout(dir.path(), &reference.to_string());
        let store = AdditionalImageStore { path: dir.path().to_owned(), repository: None };
        let (stores, platform) = (Stores::new(vec![store], Limits::default()), Platform::new("linux", "amd64", None));
        let found = async || stores.find(&reference, &platform).await.len();
        let (store, (locked, is_locked), (release, released)) =
            (Arc::clone(&stores.0[0]), mpsc::channel(), mpsc::channel::<()>());
        let hung = std::thread::spawn(move || {
            let _look = store.lock();
            locked.send(()).unwrap();
            assert!(released.recv().is_err());
        });
        is_locked.recv().unwrap();
        let began = Instant::now();
        let passing = async {
            loop {
                tokio::task::yield_now().await;
                tokio::time::advance(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            found = found() => assert_eq!(found, 0),
            () = passing => {}
        }
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!((found().await, began.elapsed().as_secs()), (0, 5), "nobody else waits");
        drop(release);
        hung.join().unwrap();
        tokio::time::advance(Duration::from_mins(1)).await;
        while found().await == 0 {
            // Its thread is on its way.
            tokio::time::advance(Duration::from_mins(1)).await;
        }
        assert_eq!(found().await, 1);
    }
}
