//! Decides whether, when and with which credential an image is pulled for a pod, and whether the pod may use it.
//!
//! In: what a pod wants, its pull secrets, the image service's answers. Out: an image tied to its holder, or an error with the
//! waiting reason and message of the kubelet; events and pull records. It never talks to a registry and never mounts.
//! Floor 3: imports `cri`, `mount`, `base`, `api`.

#![forbid(unsafe_code)]

mod claims;
mod credentials;
mod error;
mod failures;
mod gc;
mod instrumented;
mod keyring;
mod manager;
mod metrics;
mod node_credentials;
mod policy;
mod providers;
mod pull_manager;
mod puller;
mod text;

pub use claims::{Claims, ServiceAccountClaim};
pub use credentials::{CredentialError, PodPullSecrets, PullSecret, PullSecretKind, PullSecrets, PullSecretsError};
pub use error::{ImageError, PullError, ServiceErrors};
pub use failures::BackoffLimits;
pub use gc::{
    GcError, GcOutcome, GcParts, GcPhase, GcPolicy, GcPolicyError, GcReason, GcRequest, GcScope, ImageGc, Percent,
};
pub use instrumented::{InstrumentedImageService, OperationMetrics};
pub use keyring::{CredentialHash, CredentialSource, DockerConfig, DockerConfigError, FormError, MatchedCredential};
pub use keyring::{Entry as DockerConfigEntry, Keyring, SecretCoordinates, ServiceAccountCoordinates};
pub use manager::{EnsureImage, ImageManager, NodePull, Parts, RecoverError};
pub use metrics::Metrics;
pub use node_credentials::{NodeConfigPaths, NodeCredentials};
pub use policy::{PullPolicy, PullPolicyError};
pub use providers::{CredentialProviders, ProgramError, ProvidersError};
pub use pull_manager::{EarlierPulls, PullManager, RecordError, VerificationPolicy};
pub use puller::{ParallelPulls, PullLimits, PullRate};
