//! Records of what this node pulled and with whose credentials, and the check that they allow (KEP-2535).
//!
//! On disk, in the kubelet's format, below the state directory:
//!
//! ```text
//! image_manager/pulling/sha256-<hash of the image as asked for>     ImagePullIntent: a pull that has begun
//! image_manager/pulled/sha256-<hash of the image's id>              ImagePulledRecord: who may use the image
//! ```
//!
//! The rule behind the order of all writes: from before a pull begins until its record is written there is an intent, so that
//! an image that came by a pull is never taken for a preloaded one, which anybody may use. Whatever goes wrong leaves an
//! intent too many, and then a pod has to prove its right once more than needed.

use imagevol_base::blocking;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imagevol_api::metav1::Time;
use imagevol_api::oci::{Digest, Reference};
use imagevol_api::records::{ImagePullCredentials, ImagePulledRecord};
use imagevol_cri::{Image, ImageId};

use crate::metrics::Metrics;

mod access;
mod intent;
mod merge;
mod records;
mod verification;

pub(crate) use access::{CheckResult, Verdict};
use access::{Intent as IntentState, PresentImage, Proof};
pub(crate) use intent::Intent;
pub use records::RecordError;
use records::{Records, Stored};
pub use verification::VerificationPolicy;

/// Keeps the records. Clones share them.
#[derive(Debug, Clone)]
pub struct PullManager(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    records: Records,
    policy: VerificationPolicy,
    /// What is in `pulling`. Held while its files change, on threads that may block.
    intents: Mutex<HashMap<String, Pending>>,
    /// Held from the reading of a pulled record to its writing, on threads that may block.
    pulled: Mutex<()>,
    metrics: Metrics,
}

/// Pulls of one image whose end is not recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pending {
    /// Those that run. The last takes the intent back.
    running: usize,
    /// What an earlier one left behind.
    remains: Remains,
}

/// Whether an intent stays when no pull runs any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Remains {
    /// It goes.
    #[default]
    None,
    /// It stays until the next start: a pull was left before its end, by a crash, by a caller that gave up or by a record that
    /// could not be written. It may have brought an image, or still bring one.
    Unrecorded,
}

/// What may have become of pulls of an earlier run that nobody knows the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierPulls {
    /// They ended with it: the image service is part of this process.
    Ended,
    /// They may go on: the image service is a process of its own.
    MayGoOn,
}

/// A present image that a pod asks for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The image as it is pulled, with its default tag.
    pub(crate) image: String,
    /// The same, parsed.
    pub(crate) reference: Reference,
    /// The image that the node has for it.
    pub(crate) id: ImageId,
}

// === impl Request ===

impl Request {
    /// Under which name the image is used; `None` if it is asked for by its id, which parses as a repository that is called `sha256`
    /// and would be looked up among the names of that.
    fn repository(&self) -> Option<String> {
        (!self.is_by_id()).then(|| self.reference.repository())
    }

    fn is_by_id(&self) -> bool {
        self.image.parse().is_ok_and(|digest: Digest| digest == *self.id.digest())
    }

    /// Whether a pull of `intent` may have brought the image. By digest it is found whatever tag the pull was for, and by its id
    /// whatever repository.
    fn may_be_of(&self, intent: &str) -> bool {
        let Ok(pulled) = Reference::parse(intent).map(Reference::with_default_tag) else { return false };
        let same_repository = pulled.repository() == self.reference.repository();
        let same_tag = pulled.tag() == self.reference.tag();
        self.is_by_id() || (same_repository && (self.reference.digest().is_some() || same_tag))
    }
}

// === impl PullManager ===

impl PullManager {
    /// Opens the records below `state_dir`. Blocking. Only one at a time may have them open.
    pub fn open(state_dir: &Path, policy: VerificationPolicy, metrics: Metrics) -> Result<Self, RecordError> {
        let records = Records::open(state_dir)?;
        let left_over = Pending { running: 0, remains: Remains::Unrecorded };
        let intents: HashMap<_, _> = records.intents()?.into_iter().map(|image| (image, left_over)).collect();
        metrics.intents_on_disk(intents.len());
        metrics.records_on_disk(records.count_pulled()?);
        Ok(Self(Arc::new(Shared { records, policy, intents: Mutex::new(intents), pulled: Mutex::default(), metrics })))
    }

    /// Settles intents that an earlier run left: an image that is there gets a record without credentials, so that whoever
    /// wants it has to prove his right. The others stay if a runtime may still be pulling them.
    ///
    /// To be called before any pull, with all images of the node.
    pub async fn recover(&self, images: Vec<Image>, earlier: EarlierPulls) -> Result<(), RecordError> {
        let shared = Arc::clone(&self.0);
        blocking(move || shared.recover(&images, earlier)).await
    }

    /// Drops the records of images that are gone. Those that changed at `until` or later stay: their images may be newer than
    /// the list. To be called after images were removed.
    pub async fn prune(&self, present: BTreeSet<ImageId>, until: jiff::Timestamp) -> Result<(), RecordError> {
        let shared = Arc::clone(&self.0);
        blocking(move || shared.prune(&present, until)).await
    }

    /// Puts it on disk that a pull of `image` begins.
    pub(crate) async fn record_pull_intent(&self, image: &str) -> Result<Intent, RecordError> {
        let (shared, image) = (Arc::clone(&self.0), image.to_owned());
        blocking(move || {
            shared.begin(&image)?;
            Ok(Intent::new(shared, image))
        })
        .await
    }

    /// Whether the image may be used, as far as that can be said without the pod's secrets.
    pub(crate) async fn check(&self, request: Request) -> Verdict {
        let shared = Arc::clone(&self.0);
        blocking(move || shared.check(&request)).await
    }

    /// Whether something that the pod has `shown` is in `known`; what proves the same right in a new way is added to the record.
    pub(crate) async fn check_credentials(
        &self,
        request: Request,
        known: &ImagePullCredentials,
        shown: &ImagePullCredentials,
    ) -> CheckResult {
        let secret = match access::prove(known, shown) {
            Proof::Missing => return CheckResult::MustAuthenticate,
            Proof::Known => return CheckResult::CredentialRecordFound,
            Proof::New(secret) => secret,
        };
        let credentials = ImagePullCredentials { kubernetes_secrets: vec![secret], ..ImagePullCredentials::default() };
        let shared = Arc::clone(&self.0);
        blocking(move || shared.note_proof(&request, &credentials)).await;
        CheckResult::CredentialRecordFound
    }
}

// === impl Shared ===

/// Blocking, all of it.
impl Shared {
    fn check(&self, request: &Request) -> Verdict {
        // The intent before the record: a pull that ends in between has written its record before it takes its intent back.
        let intent = self.intent_of(request);
        let record = self.records.pulled(&request.id.to_string());
        let repository = request.repository();
        let image = PresentImage { repository: repository.as_deref(), intent, record: &record };
        access::must_attempt_image_pull(&self.policy, &image)
    }

    /// Whether there is an intent that may have brought the image, however the two are written.
    fn intent_of(&self, request: &Request) -> IntentState {
        let found = self.intents().keys().any(|intent| request.may_be_of(intent));
        if found { IntentState::Present } else { IntentState::Absent }
    }

    fn begin(&self, image: &str) -> Result<(), RecordError> {
        let mut intents = self.intents();
        if !intents.contains_key(image) {
            // Killed after this line: an intent without a pull. The next start finds it (`recover`).
            self.records.write_intent(image)?;
        }
        intents.entry(image.to_owned()).or_default().running += 1;
        self.metrics.intents_on_disk(intents.len());
        Ok(())
    }

    /// Ends one pull of `image`; the last takes the intent back. One whose file cannot be deleted stays known.
    fn end(&self, image: &str) {
        let mut intents = self.intents();
        let Some(pending) = intents.get_mut(image) else { return };
        pending.running = pending.running.saturating_sub(1);
        if *pending != Pending::default() {
            return;
        }
        match self.records.delete_intent(image) {
            Ok(()) => drop(intents.remove(image)),
            Err(error) => {
                pending.remains = Remains::Unrecorded;
                tracing::error!(image, error = crate::text::with_causes(&error), "pull intent stays");
            }
        }
        self.metrics.intents_on_disk(intents.len());
    }

    /// Ends one pull of `image` without knowing what it brought. In memory alone, so that it can be done anywhere.
    fn abandon(&self, image: &str) {
        let mut intents = self.intents();
        let pending = intents.entry(image.to_owned()).or_default();
        pending.running = pending.running.saturating_sub(1);
        pending.remains = Remains::Unrecorded;
    }

    /// Records that `image` was pulled as `id` with `credentials`, then takes the intent back.
    fn succeeded(&self, image: &str, id: &ImageId, credentials: &ImagePullCredentials) {
        let recorded = match Reference::parse(image) {
            Ok(reference) => self.add_proof(&id.to_string(), &reference.repository(), credentials),
            // What was pulled had been parsed; if it were not so, the intent stays.
            Err(_) => return self.abandon(image),
        };
        // Killed here: record and intent. The next start leaves the record and takes the intent back.
        match recorded {
            Ok(()) => self.end(image),
            Err(error) => {
                tracing::error!(
                    image,
                    error = crate::text::with_causes(&error),
                    "pulled record is missing, intent stays"
                );
                self.abandon(image);
            }
        }
    }

    fn note_proof(&self, request: &Request, credentials: &ImagePullCredentials) {
        let added = self.add_proof(&request.id.to_string(), &request.reference.repository(), credentials);
        if let Err(error) = added {
            // The right is proved; the next pod with this secret proves it again.
            let image = &request.image;
            tracing::warn!(image, error = crate::text::with_causes(&error), "pulled record is not updated");
        }
    }

    fn add_proof(&self, image_ref: &str, repository: &str, new: &ImagePullCredentials) -> Result<(), RecordError> {
        let _one_at_a_time = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Time(jiff::Timestamp::now());
        let record = match self.records.pulled(image_ref) {
            Stored::Present(record) => record,
            // What cannot be read proves nothing and is replaced.
            Stored::Absent | Stored::Unreadable => ImagePulledRecord::new(image_ref, now.clone()),
        };
        match merge::merge(&record, repository, new, &now) {
            Some(changed) => self.write(&changed),
            None => Ok(()),
        }
    }

    fn recover(&self, images: &[Image], earlier: EarlierPulls) -> Result<(), RecordError> {
        let left_over: Vec<_> = self.intents().iter().filter(|(_, p)| p.running == 0).map(|(i, _)| i.clone()).collect();
        for intent in left_over {
            let brought: Vec<_> = images.iter().filter(|image| is_named(image, &intent)).collect();
            for image in &brought {
                self.record_unknown(&image.id.to_string())?;
            }
            let may_stand = earlier == EarlierPulls::MayGoOn || self.may_have_brought(&intent, images);
            if brought.is_empty() && may_stand {
                continue;
            }
            // Killed here: record and intent, as after a pull; or an intent of nothing, which the next start takes back.
            self.records.delete_intent(&intent)?;
            self.intents().remove(&intent);
        }
        self.metrics.intents_on_disk(self.intents().len());
        Ok(())
    }

    /// Whether the pull that `intent` tells of can have brought an image that is here without a record: under a name that was
    /// taken away from it since, it would be known by its digest alone, and count as preloaded.
    fn may_have_brought(&self, intent: &str, images: &[Image]) -> bool {
        let Ok(wanted) = Reference::parse(intent) else { return false };
        let is_of = |name: &String| parse(name).is_some_and(|name| name.repository() == wanted.repository());
        let mut of_repository =
            images.iter().filter(|image| image.repo_tags.iter().chain(&image.repo_digests).any(is_of));
        of_repository.any(|image| matches!(self.records.pulled(&image.id.to_string()), Stored::Absent))
    }

    /// Makes sure that there is a record, so that the image does not count as preloaded.
    fn record_unknown(&self, image_ref: &str) -> Result<(), RecordError> {
        let _one_at_a_time = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        match self.records.pulled(image_ref) {
            Stored::Present(_) => Ok(()),
            Stored::Absent | Stored::Unreadable => {
                self.write(&ImagePulledRecord::new(image_ref, Time(jiff::Timestamp::now())))
            }
        }
    }

    fn prune(&self, present: &BTreeSet<ImageId>, until: jiff::Timestamp) -> Result<(), RecordError> {
        // Records have whole seconds: one of the second in which `until` lies may be later.
        let until = until.as_second();
        let _one_at_a_time = self.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        let present: BTreeSet<String> = present.iter().map(ToString::to_string).collect();
        for record in self.records.all_pulled()? {
            if record.last_updated_time.0.as_second() < until && !present.contains(&record.image_ref) {
                self.records.delete_pulled(&record.image_ref)?;
            }
        }
        self.count_records()
    }

    fn write(&self, record: &ImagePulledRecord) -> Result<(), RecordError> {
        self.records.write_pulled(record)?;
        self.count_records()
    }

    fn count_records(&self) -> Result<(), RecordError> {
        self.metrics.records_on_disk(self.records.count_pulled()?);
        Ok(())
    }

    fn intents(&self) -> MutexGuard<'_, HashMap<String, Pending>> {
        self.intents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `intent` names the image: by one of its tags or digests, each in its full form, or by the digest that is its id.
fn is_named(image: &Image, intent: &str) -> bool {
    let Ok(wanted) = Reference::parse(intent) else { return false };
    if let Some(digest) = wanted.digest() {
        let wanted = wanted.at_digest(digest);
        return digest == image.id.digest() || has(&image.repo_digests, &wanted);
    }
    has(&image.repo_tags, &wanted.with_default_tag())
}

fn has(names: &[String], wanted: &Reference) -> bool {
    names.iter().any(|name| parse(name).as_ref() == Some(wanted))
}

/// The reference in an image's name. A platform may follow: of one tag, there may be an image for each.
fn parse(name: &str) -> Option<Reference> {
    Reference::parse(name.split(' ').next().unwrap_or(name)).ok()
}

#[cfg(test)]
mod tests;
