//! What is counted: calls, by method and answer.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tonic::{Code, Status};

/// Counters of the driver. Clones count into the same place.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    calls: Family<Labels, Counter>,
}

/// Named as the labels of `csi_operations_seconds`, with which the kubelet counts the other end of the same calls
/// (kubernetes-csi/csi-lib-utils, `metrics/metrics.go`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method_name: &'static str,
    grpc_status_code: &'static str,
}

// === impl Metrics ===

impl Metrics {
    /// Shows the metrics in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("imagevol_csi_operations", "Calls of the CSI driver that were answered", self.calls.clone());
    }

    /// Passes on what a call is answered.
    pub(crate) fn counted<T>(&self, method_name: &'static str, answer: Result<T, Status>) -> Result<T, Status> {
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        self.calls.get_or_create(&Labels { method_name, grpc_status_code: name_of(code) }).inc();
        answer
    }
}

/// As Go prints them (google.golang.org/grpc, `codes/code_string.go`).
const fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
