//! One request on its way: asks what the policy wants to know, and does what it decides.

use imagevol_api::records::{ImagePullCredentials, ImagePullSecret, ImagePullServiceAccount};
use imagevol_base::EventKind;
use imagevol_cri::{ImageId, ImageReferences, ImageService};
use tokio::time::Instant;

use super::tries::{Asked, PulledBy, try_each};
use super::{EnsureImage, ImageManager, Named};
use crate::credentials::{CredentialError, PodCredentials};
use crate::error::{ImageError, Notice, PullError};
use crate::failures::{PullKey, Waiting};
use crate::keyring::{CredentialSource, MatchedCredential, SecretCoordinates, ServiceAccountCoordinates};
use crate::policy::{Access, Backoff, Facts, Local, Outcome, Step, next_step};
use crate::providers::Behalf;
use crate::pull_manager::{self, CheckResult, Intent, Verdict};
use crate::text;

/// A request whose reference has been parsed.
pub(super) struct Attempt<'a, S> {
    manager: &'a ImageManager<S>,
    request: &'a EnsureImage<'a>,
    named: Named,
    began: Instant,
    facts: Facts,
    /// The local copy, once one is known.
    local: Option<ImageId>,
    /// What the pod may show, once that is known.
    credentials: Option<PodCredentials>,
    /// The pull's intent, once it is on disk.
    intent: Option<Intent>,
    /// Why the last step failed, if it did.
    error: Option<ImageError>,
}

// === impl Attempt ===

impl<'a, S: ImageService + ImageReferences> Attempt<'a, S> {
    pub(super) fn new(manager: &'a ImageManager<S>, request: &'a EnsureImage<'a>, named: Named) -> Self {
        Self {
            manager,
            request,
            named,
            began: Instant::now(),
            facts: Facts::of(Outcome::Done),
            local: None,
            credentials: None,
            intent: None,
            error: None,
        }
    }

    /// Takes step after step to the end. Each tells a fact that was not known, so that there is an end.
    pub(super) async fn run(mut self) -> Result<ImageId, ImageError> {
        loop {
            match next_step(self.request.policy, self.facts) {
                Step::Inspect => self.facts.local = Some(self.inspect().await),
                Step::CheckAccess => self.facts.access = Some(self.check_access().await),
                Step::LookUpCredentials => self.facts.credentials = Some(self.look_up_credentials().await),
                Step::RecordIntent => self.facts.intent = Some(self.record_intent().await),
                Step::CheckBackoff => self.facts.backoff = Some(self.check_backoff()),
                Step::UseLocal => {
                    if let Some(id) = self.use_local().await {
                        return Ok(id);
                    }
                }
                Step::Pull => {
                    self.count();
                    return self.pull().await;
                }
                Step::Refuse(_) => {
                    self.count();
                    return Err(self.refuse().await);
                }
            }
        }
    }

    async fn inspect(&mut self) -> Local {
        match self.manager.service.status(&self.named.spec).await {
            Ok(Some(image)) => {
                self.local = Some(image.id);
                Local::Present
            }
            Ok(None) => Local::Absent,
            Err(source) => {
                self.error = Some(ImageError::Inspect { image: self.image(), source });
                Local::Failed
            }
        }
    }

    async fn check_access(&mut self) -> Access {
        let Some(id) = self.local.clone() else { return Access::Denied };
        let (image, reference) = (self.named.spec.image.clone(), self.named.reference.clone());
        let request = pull_manager::Request { image, reference, id };
        let result = match self.manager.records.check(request.clone()).await {
            Verdict::Use(result) | Verdict::Pull(result) => result,
            Verdict::AskCredentials(known) => self.check_credentials(request, &known).await,
        };
        self.manager.metrics.checked(result);
        match result {
            CheckResult::CredentialPolicyAllowed | CheckResult::CredentialRecordFound => Access::Allowed,
            CheckResult::Error if self.error.is_some() => Access::Failed,
            // A record that cannot be read proves nothing, and a pull replaces it.
            CheckResult::MustAuthenticate | CheckResult::Error => Access::Denied,
        }
    }

    async fn check_credentials(&mut self, request: pull_manager::Request, known: &ImagePullCredentials) -> CheckResult {
        if self.look_up_credentials().await == Outcome::Failed {
            return CheckResult::Error;
        }
        let shown = self.credentials.as_ref().map(shown).unwrap_or_default();
        self.manager.records.check_credentials(request, known, &shown).await
    }

    /// Once per request.
    async fn look_up_credentials(&mut self) -> Outcome {
        if self.credentials.is_some() {
            return Outcome::Done;
        }
        match self.credentials_of_pod().await {
            Ok(credentials) => {
                self.credentials = Some(credentials);
                Outcome::Done
            }
            Err(source) => {
                self.error = Some(ImageError::Credentials { image: self.image(), source });
                Outcome::Failed
            }
        }
    }

    async fn credentials_of_pod(&self) -> Result<PodCredentials, CredentialError> {
        let secrets = self.manager.secrets.for_pod(self.request.pod).await?;
        if !secrets.missing.is_empty() {
            let message = text::secrets_missing(&secrets.missing);
            let (kind, reason) = (EventKind::Warning, "FailedToRetrieveImagePullSecret");
            self.manager.tell(self.request.about, Notice { kind, reason, message });
        }
        let (repository, claims) = (self.named.reference.repository(), self.request.claims);
        let matching = PodCredentials::matching(&secrets.found, &claims.secrets, &repository)?;
        let behalf = Behalf::of(self.request.pod, claims);
        Ok(matching.and_then(self.manager.node.lookup(&repository, behalf).await))
    }

    async fn record_intent(&mut self) -> Outcome {
        match self.manager.records.record_pull_intent(&self.named.spec.image).await {
            Ok(intent) => {
                self.intent = Some(intent);
                Outcome::Done
            }
            Err(source) => {
                self.error = Some(ImageError::Intent { image: self.image(), source });
                Outcome::Failed
            }
        }
    }

    fn check_backoff(&mut self) -> Backoff {
        self.began = Instant::now();
        match self.manager.failures.begin(&self.key(), self.began) {
            None => Backoff::Clear,
            Some(Waiting { retry_in, last }) => {
                self.error = Some(ImageError::PullBackOff { image: self.image(), retry_in, last });
                Backoff::Waiting
            }
        }
    }

    /// Ties the local copy to the holder. `None` if that did not work: then the facts say why, and the next step follows.
    async fn use_local(&mut self) -> Option<ImageId> {
        let local = self.local.take()?;
        match self.manager.service.bind(&self.request.holder, &local).await {
            Ok(Some(id)) => {
                self.count();
                self.manager.tell_normal(self.request.about, "Pulled", text::already_present(&self.named.written));
                return Some(id);
            }
            // It went between two looks.
            Ok(None) => self.facts.local = Some(Local::Absent),
            Err(source) => {
                self.error = Some(ImageError::Inspect { image: self.image(), source });
                self.facts.local = Some(Local::Failed);
            }
        }
        None
    }

    /// What the policy refused, or the error of the step after which it did.
    async fn refuse(mut self) -> ImageError {
        if let Some(intent) = self.intent.take() {
            intent.withdraw().await;
        }
        let image = self.image();
        self.error.unwrap_or(ImageError::NeverPull { image })
    }

    /// (Kubernetes, `pkg/kubelet/images/image_manager.go`, `pullImage`.)
    async fn pull(mut self) -> Result<ImageId, ImageError> {
        let (Some(credentials), Some(mut intent)) = (self.credentials.take(), self.intent.take()) else {
            unreachable!("the policy asks for both before a pull")
        };
        self.manager.tell_normal(self.request.about, "Pulling", text::pulling(&self.named.written));
        let queued = Instant::now();
        let turn = self.manager.puller.turn().await;
        let started = Instant::now();
        let pulled = if self.manager.puller.may_begin(started) {
            intent.begin();
            let EnsureImage { holder, progress, .. } = self.request;
            let asked = Asked { spec: &self.named.spec, holder, progress };
            try_each(&*self.manager.service, asked, &credentials.matches).await
        } else {
            Err(PullError::QpsExceeded)
        };
        match pulled {
            Ok(PulledBy { id, credential }) => {
                intent.succeed(&id, proof(credential)).await;
                let size = self.manager.size_of(&id).await;
                drop(turn);
                self.succeeded(size, queued, started);
                Ok(id)
            }
            Err(error) => {
                drop(turn);
                intent.withdraw().await;
                Err(self.failed(error))
            }
        }
    }

    fn succeeded(&self, size: u64, queued: Instant, started: Instant) {
        let now = Instant::now();
        let (pull, whole) = (now.duration_since(started), now.duration_since(queued));
        self.manager.metrics.pulled(size, whole);
        let message = text::pulled(&self.named.written, pull, whole, size);
        self.manager.tell_normal(self.request.about, "Pulled", message);
        self.manager.failures.gc(now);
    }

    fn failed(&self, source: PullError) -> ImageError {
        self.manager.failures.failed(self.key(), source.clone(), self.began, Instant::now());
        ImageError::Pull { image: self.image(), source }
    }

    fn count(&self) {
        self.manager.metrics.requested(self.request.policy, self.facts);
    }

    fn key(&self) -> PullKey {
        PullKey::new(self.request)
    }

    fn image(&self) -> String {
        self.named.written.clone()
    }
}

/// What proves the pod's right to an image that others pulled: credentials of its own. The node's are everybody's.
fn shown(credentials: &PodCredentials) -> ImagePullCredentials {
    let mut shown = ImagePullCredentials::default();
    for matched in &credentials.matches {
        match &matched.source {
            CredentialSource::Node => {}
            CredentialSource::Secret(secret) => shown.kubernetes_secrets.push(as_secret(secret, matched)),
            CredentialSource::ServiceAccount(account) => shown.kubernetes_service_accounts.extend(as_account(account)),
        }
    }
    shown
}

/// Who may use an image that was pulled with `credential`: with the node's or with none, any pod of the node.
fn proof(credential: Option<&MatchedCredential>) -> ImagePullCredentials {
    let (mut secrets, mut accounts) = (Vec::new(), Vec::new());
    match credential.map(|matched| (&matched.source, matched)) {
        None | Some((CredentialSource::Node, _)) => return ImagePullCredentials::for_all_pods(),
        Some((CredentialSource::Secret(secret), matched)) => secrets.push(as_secret(secret, matched)),
        Some((CredentialSource::ServiceAccount(account), _)) => accounts.extend(as_account(account)),
    }
    ImagePullCredentials {
        kubernetes_secrets: secrets,
        kubernetes_service_accounts: accounts,
        node_pods_accessible: false,
    }
}

/// As pull records hold it.
fn as_secret(secret: &SecretCoordinates, matched: &MatchedCredential) -> ImagePullSecret {
    let SecretCoordinates { namespace, name, uid } = secret.clone();
    ImagePullSecret { namespace, name, uid, credential_hash: matched.hash.to_string() }
}

/// As pull records hold it; `None` for one without UID: it could be any of that name, and proves nothing later.
fn as_account(account: &ServiceAccountCoordinates) -> Option<ImagePullServiceAccount> {
    let ServiceAccountCoordinates { namespace, name, uid } = account.clone();
    (!uid.is_empty()).then_some(ImagePullServiceAccount { namespace, name, uid })
}
