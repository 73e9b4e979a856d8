//! One pull with whatever credentials there are.

use imagevol_api::auth::Credential;
use imagevol_base::Holder;
use imagevol_cri::{ImageId, ImageService, ImageServiceError, ImageSpec, Progress};

use crate::error::{PullError, ServiceErrors};
use crate::keyring::MatchedCredential;

/// What the image service is asked for with each credential.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) spec: &'a ImageSpec,
    pub(super) holder: &'a Holder,
    pub(super) progress: &'a Progress,
}

/// A pull that worked: the image, and the credential that opened the registry, if it took one.
pub(super) struct PulledBy<'c> {
    pub(super) id: ImageId,
    pub(super) credential: Option<&'c MatchedCredential>,
}

/// Tries each credential in order until one works; asks as anybody only if nothing matched.
pub(super) async fn try_each<'c, S: ImageService>(
    service: &S,
    asked: Asked<'_>,
    matches: &'c [MatchedCredential],
) -> Result<PulledBy<'c>, PullError> {
    let Some((first, others)) = matches.split_first() else {
        let pulled = try_one(service, asked, &Credential::Anonymous).await;
        return match pulled {
            Ok(id) => Ok(PulledBy { id, credential: None }),
            Err(error) => Err(PullError::Service(ServiceErrors::new(error, Vec::new()))),
        };
    };
    let mut errors = match try_matched(service, asked, first).await {
        Ok(pulled) => return Ok(pulled),
        Err(error) => ServiceErrors::new(error, Vec::new()),
    };
    for credential in others {
        if errors.iter().any(|error| *error == ImageServiceError::Cancelled) {
            // Nobody wants the image any more.
            break;
        }
        match try_matched(service, asked, credential).await {
            Ok(pulled) => return Ok(pulled),
            Err(error) => errors.push(error),
        }
    }
    Err(PullError::Service(errors))
}

async fn try_matched<'c, S: ImageService>(
    service: &S,
    asked: Asked<'_>,
    matched: &'c MatchedCredential,
) -> Result<PulledBy<'c>, ImageServiceError> {
    let id = try_one(service, asked, &Credential::Auth((*matched.auth).clone())).await?;
    Ok(PulledBy { id, credential: Some(matched) })
}

async fn try_one<S: ImageService>(
    service: &S,
    Asked { spec, holder, progress }: Asked<'_>,
    credential: &Credential,
) -> Result<ImageId, ImageServiceError> {
    service.pull(spec, credential, holder, progress).await
}
