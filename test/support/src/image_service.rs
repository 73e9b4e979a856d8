//! An image service in memory: what a registry has and what the node has are tables, and anything can be made to fail.

#![expect(clippy::panic, reason = "a fixture that cannot be made fails the test that wants it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use imagevol_api::auth::Credential;
use imagevol_api::oci::{Digest, Reference};
use imagevol_base::Digester;
use imagevol_base::collection::Turns;
use imagevol_cri::{
    FilesystemUsage, Holder, Image, ImageId, ImageReferences, ImageService, ImageServiceError, ImageSpec, Progress,
    Result,
};
use tokio::sync::Semaphore;

use crate::mounts::FakeMounts;

mod collector;

use collector::Ledger;
pub use collector::{Disk, Pinned};

/// A node without images, and a registry without repositories, until a test says otherwise. Clones share everything.
#[derive(Debug, Clone)]
pub struct FakeImageService {
    state: Arc<Mutex<State>>,
    /// Permits for pulls; each pull takes one for good.
    gate: Arc<Semaphore>,
    mounts: FakeMounts,
    turns: Turns,
}

/// What was asked of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `status` of this image.
    Status(String),
    /// `pull` of this image as this user, `None` for nobody in particular.
    Pull(String, Option<String>),
    /// `bind` of this image.
    Bind(ImageId),
}

#[derive(Debug, Default)]
struct State {
    registry: BTreeMap<String, Remote>,
    present: BTreeMap<ImageId, Image>,
    rows: BTreeMap<Holder, (String, Option<ImageId>)>,
    calls: Vec<Call>,
    specs: Vec<ImageSpec>,
    status_errors: VecDeque<ImageServiceError>,
    pull_errors: VecDeque<ImageServiceError>,
    bind_errors: VecDeque<ImageServiceError>,
    vanish_before_bind: bool,
    pulling: usize,
    most_pulling: usize,
    ledger: Ledger,
}

#[derive(Debug, Clone)]
struct Remote {
    id: ImageId,
    size: u64,
    users: BTreeSet<String>,
}

/// Counts a pull as running until it is dropped.
struct Running(Arc<Mutex<State>>);

// === impl FakeImageService ===

impl Default for FakeImageService {
    fn default() -> Self {
        let (gate, turns) = (Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)), Turns::closed());
        turns.open();
        Self { state: Arc::default(), gate, mounts: FakeMounts::default(), turns }
    }
}

impl FakeImageService {
    /// The id of the image that [`FakeImageService::offer`] makes of `content`.
    pub fn id_of(content: &str) -> ImageId {
        ImageId::new(Digester::sha256(content.as_bytes()))
    }

    /// Lets the registry have an image of `size` bytes under `reference`, for everybody.
    pub fn offer(&self, reference: &str, content: &str, size: u64) -> ImageId {
        self.offer_to(reference, content, size, &[])
    }

    /// Lets the registry have an image under `reference` for these users alone.
    pub fn offer_to(&self, reference: &str, content: &str, size: u64, users: &[&str]) -> ImageId {
        let id = Self::id_of(content);
        let users = users.iter().map(ToString::to_string).collect();
        self.state().registry.insert(normal(reference), Remote { id: id.clone(), size, users });
        id
    }

    /// Puts an image on the node as if somebody else had brought it.
    pub fn preload(&self, reference: &str, content: &str, size: u64) -> ImageId {
        let id = Self::id_of(content);
        self.state().keep(&parsed(reference), &id, size);
        id
    }

    /// Takes an image from the node.
    pub fn evict(&self, id: &ImageId) {
        self.state().take_away(id);
    }

    /// The next `status` fails so.
    pub fn fail_status(&self, error: ImageServiceError) {
        self.state().status_errors.push_back(error);
    }

    /// The next `pull` that has no earlier failure before it fails so.
    pub fn fail_pull(&self, error: ImageServiceError) {
        self.state().pull_errors.push_back(error);
    }

    /// The next `bind` fails so.
    pub fn fail_bind(&self, error: ImageServiceError) {
        self.state().bind_errors.push_back(error);
    }

    /// The next `bind` finds the image gone.
    pub fn vanish_before_bind(&self) {
        self.state().vanish_before_bind = true;
    }

    /// From now on pulls wait to be let through.
    pub fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets this many pulls through.
    pub fn let_through(&self, pulls: usize) {
        self.gate.add_permits(pulls);
    }

    /// What was asked so far, and forgets it.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state().calls)
    }

    /// The full image of each `pull` so far.
    pub fn pulled_specs(&self) -> Vec<ImageSpec> {
        self.state().specs.clone()
    }

    /// The image that is bound to a holder.
    pub fn bound(&self, holder: &Holder) -> Option<ImageId> {
        self.state().rows.get(holder).and_then(|(_, id)| id.clone())
    }

    /// What is mounted of its images.
    pub fn mounts(&self) -> &FakeMounts {
        &self.mounts
    }

    /// Whether an image is on the node.
    pub fn is_present(&self, id: &ImageId) -> bool {
        self.state().present.contains_key(id)
    }

    /// Every row: holder, reference, bound image.
    pub fn rows(&self) -> BTreeMap<Holder, (String, Option<ImageId>)> {
        self.state().rows.clone()
    }

    /// How many pulls run.
    pub fn pulling(&self) -> usize {
        self.state().pulling
    }

    /// How many pulls have run at once at most.
    pub fn most_pulling(&self) -> usize {
        self.state().most_pulling
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Running {
        let mut state = self.state();
        state.pulling += 1;
        state.most_pulling = state.most_pulling.max(state.pulling);
        Running(Arc::clone(&self.state))
    }
}

#[async_trait]
impl ImageService for FakeImageService {
    async fn list(&self) -> Result<Vec<Image>> {
        Ok(self.state().present.values().cloned().collect())
    }

    async fn status(&self, image: &ImageSpec) -> Result<Option<Image>> {
        let mut state = self.state();
        state.calls.push(Call::Status(image.image.clone()));
        match state.status_errors.pop_front() {
            Some(error) => Err(error),
            None => Ok(state.find(&image.image)),
        }
    }

    async fn pull(
        &self,
        image: &ImageSpec,
        credential: &Credential,
        holder: &Holder,
        _progress: &Progress,
    ) -> Result<ImageId> {
        let user = match credential {
            Credential::Anonymous => None,
            Credential::Auth(auth) => Some(auth.username.clone()),
        };
        self.state().calls.push(Call::Pull(image.image.clone(), user.clone()));
        let running = self.running();
        // The gate is never closed for good.
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        let mut state = self.state();
        state.specs.push(image.clone());
        let pulled = state.pull(&image.image, user.as_deref(), holder);
        drop(state);
        drop(running);
        pulled
    }

    async fn remove(&self, image: &ImageSpec) -> Result<()> {
        let mut state = self.state();
        if let Some(image) = state.find(&image.image) {
            state.take_away(&image.id);
        }
        Ok(())
    }

    async fn fs_info(&self) -> Result<FilesystemUsage> {
        self.state().fs_info()
    }
}

#[async_trait]
impl ImageReferences for FakeImageService {
    async fn hold(&self, holder: &Holder, reference: &str) -> Result<()> {
        let mut state = self.state();
        let row = state.rows.entry(holder.clone()).or_default();
        if row.0 != reference {
            *row = (reference.to_owned(), None);
        }
        Ok(())
    }

    async fn bind(&self, holder: &Holder, image: &ImageId) -> Result<Option<ImageId>> {
        let mut state = self.state();
        state.calls.push(Call::Bind(image.clone()));
        if let Some(error) = state.bind_errors.pop_front() {
            return Err(error);
        }
        if std::mem::take(&mut state.vanish_before_bind) {
            state.take_away(image);
        }
        if !state.present.contains_key(image) {
            return Ok(None);
        }
        state.bind(holder, image);
        Ok(Some(image.clone()))
    }

    async fn release(&self, holder: &Holder) -> Result<()> {
        let mut state = self.state();
        if let Some((_, Some(id))) = state.rows.remove(holder) {
            state.ledger.used(&id);
        }
        Ok(())
    }

    async fn holders(&self) -> Result<Vec<(Holder, String, Option<ImageId>)>> {
        let state = self.state();
        Ok(state.rows.iter().map(|(holder, (name, id))| (holder.clone(), name.clone(), id.clone())).collect())
    }
}

// === impl State ===

impl State {
    fn find(&self, image: &str) -> Option<Image> {
        if let Ok(digest) = image.parse::<Digest>() {
            return self.present.get(&ImageId::new(digest)).cloned();
        }
        let name = normal(image);
        let named = |image: &&Image| image.repo_tags.contains(&name) || image.repo_digests.contains(&name);
        self.present.values().find(named).cloned()
    }

    fn pull(&mut self, image: &str, user: Option<&str>, holder: &Holder) -> Result<ImageId> {
        if let Some(error) = self.pull_errors.pop_front() {
            return Err(error);
        }
        let reference = parsed(image);
        let Some(remote) = self.registry.get(&reference.to_string()).cloned() else {
            return Err(ImageServiceError::NotFound { message: format!("{image}: not found") });
        };
        if !remote.users.is_empty() && !user.is_some_and(|user| remote.users.contains(user)) {
            let who = user.unwrap_or("anonymous");
            return Err(ImageServiceError::Denied { message: format!("{image}: {who} may not pull") });
        }
        self.keep(&reference, &remote.id, remote.size);
        self.bind(holder, &remote.id);
        Ok(remote.id)
    }

    fn bind(&mut self, holder: &Holder, id: &ImageId) {
        self.ledger.used(id);
        self.rows.entry(holder.clone()).or_default().1 = Some(id.clone());
    }

    /// A tag leads to one image: it is taken from the one that had it.
    fn keep(&mut self, reference: &Reference, id: &ImageId, size: u64) {
        let name = reference.to_string();
        for image in self.present.values_mut() {
            image.repo_tags.retain(|tag| *tag != name);
        }
        self.ledger.seen(id);
        let image = self.present.entry(id.clone()).or_insert_with(|| Image {
            id: id.clone(),
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            size,
            pinned: false,
        });
        let by_digest = reference.at_digest(id.digest()).to_string();
        if !image.repo_digests.contains(&by_digest) {
            image.repo_digests.push(by_digest);
        }
        if reference.tag().is_some() {
            image.repo_tags.push(name);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pulling -= 1;
    }
}

fn parsed(reference: &str) -> Reference {
    match Reference::parse(reference) {
        Ok(reference) => reference.with_default_tag(),
        Err(error) => panic!("{reference}: {error}"),
    }
}

/// The reference in its full form.
fn normal(reference: &str) -> String {
    parsed(reference).to_string()
}
