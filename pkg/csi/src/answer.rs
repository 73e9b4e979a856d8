//! What the kubelet is told of a volume that is not published: one table.
//!
//! To the kubelet `Canceled`, `DeadlineExceeded`, `Unavailable`, `ResourceExhausted` and `Aborted` say that something may be left: it
//! unpublishes before it lets go of the pod. After any other code it does not (Kubernetes, pkg/volume/csi/csi_mounter.go,
//! `isFinalError`). So a final code is only for what left nothing behind.

use imagevol_base::size::binary_of;
use imagevol_base::volumes::{FailureCause, VolumeFailure};
use imagevol_volumemanager::{PublishError, UnpublishError};
use tonic::{Code, Status};

use crate::shown::Shown;

/// What a failed publish of `reference` is answered with.
pub(crate) fn to_publish(error: &PublishError, reference: &str) -> Status {
    match error {
        PublishError::Conflict { reference: other } => {
            let text = "the volume is already published, with another reference or pullPolicy: image";
            Status::already_exists(format!("{text} {}", Shown(other)))
        }
        PublishError::Failed(failure) => Status::new(code(failure.cause), failure.message.clone()),
        PublishError::Waiting { done, total, last } => {
            Status::aborted(waiting(reference, (*done, *total), last.as_ref()))
        }
        PublishError::PodDeleted => Status::aborted("the pod is being deleted"),
        PublishError::Withdrawn => Status::aborted("the volume was unpublished meanwhile"),
        PublishError::Stopping => stopping(),
    }
}

/// What a failed unpublish is answered with. The kubelet tries again whatever the code.
pub(crate) fn to_unpublish(error: &UnpublishError) -> Status {
    match error {
        UnpublishError::Failed { message } => Status::internal(message.clone()),
        UnpublishError::Stopping => stopping(),
    }
}

/// While the daemon ends. Something may be left: the next daemon goes on with it.
pub(crate) fn stopping() -> Status {
    Status::unavailable("imagevold is shutting down")
}

fn code(cause: FailureCause) -> Code {
    match cause {
        FailureCause::NotFound => Code::NotFound,
        FailureCause::Denied => Code::PermissionDenied,
        FailureCause::InvalidName => Code::InvalidArgument,
        FailureCause::NeverPull => Code::FailedPrecondition,
        FailureCause::InvalidContent => Code::DataLoss,
        FailureCause::Credentials => Code::Unauthenticated,
        FailureCause::Unavailable => Code::Unavailable,
        FailureCause::Node => Code::Internal,
    }
}

fn waiting(reference: &str, (done, total): (u64, u64), last: Option<&VolumeFailure>) -> String {
    let progress = match total {
        0 => String::new(),
        total => format!(": {}", binary_of(done, total)),
    };
    let failed = last.map(|failure| format!("; the last attempt failed: {}", failure.message)).unwrap_or_default();
    format!("pulling {}{progress}{failed}", Shown(reference))
}

#[cfg(test)]
mod tests {
    use imagevol_base::volumes::Outlook;
    use rstest::rstest;

    use super::*;

    fn failure(cause: FailureCause) -> VolumeFailure {
        VolumeFailure { reason: "ErrImagePull", message: "why".to_owned(), outlook: Outlook::Final, cause }
    }

    /// What the kubelet makes of a code (Kubernetes, pkg/volume/csi/csi_mounter.go, `isFinalError`).
    fn is_final(code: Code) -> bool {
        let uncertain =
            [Code::Cancelled, Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
        !uncertain.contains(&code)
    }

    #[rstest]
    #[case(FailureCause::NotFound, Code::NotFound)]
    #[case(FailureCause::Denied, Code::PermissionDenied)]
    #[case(FailureCause::InvalidName, Code::InvalidArgument)]
    #[case(FailureCause::NeverPull, Code::FailedPrecondition)]
    #[case(FailureCause::InvalidContent, Code::DataLoss)]
    #[case(FailureCause::Credentials, Code::Unauthenticated)]
    #[case(FailureCause::Unavailable, Code::Unavailable)]
    #[case(FailureCause::Node, Code::Internal)]
    fn a_failure_has_its_code(#[case] cause: FailureCause, #[case] code: Code) {
        let status = to_publish(&PublishError::Failed(failure(cause)), "a");
        assert_eq!((status.code(), status.message()), (code, "why"));
    }

    #[rstest]
    #[case(PublishError::Conflict { reference: "b:1".to_owned() }, Code::AlreadyExists, true)]
    #[case(PublishError::Waiting { done: 0, total: 0, last: None }, Code::Aborted, false)]
    #[case(PublishError::PodDeleted, Code::Aborted, false)]
    #[case(PublishError::Withdrawn, Code::Aborted, false)]
    #[case(PublishError::Stopping, Code::Unavailable, false)]
    fn only_what_left_nothing_is_final(#[case] error: PublishError, #[case] code: Code, #[case] kubelet_lets_go: bool) {
        let status = to_publish(&error, "a");
        assert_eq!((status.code(), is_final(status.code())), (code, kubelet_lets_go));
    }

    #[rstest]
    #[case(0, 0, None, "pulling \"r.io/m:1\"")]
    #[case(3_400_000_000, 15_300_000_000, None, "pulling \"r.io/m:1\": 3.1 of 14.2 GiB")]
    #[case(0, 0, Some(FailureCause::Unavailable), "pulling \"r.io/m:1\"; the last attempt failed: why")]
    fn a_wait_tells_its_progress(
        #[case] done: u64,
        #[case] total: u64,
        #[case] last: Option<FailureCause>,
        #[case] message: &str,
    ) {
        let waiting = PublishError::Waiting { done, total, last: last.map(failure) };
        assert_eq!(to_publish(&waiting, "r.io/m:1").message(), message);
    }
}
