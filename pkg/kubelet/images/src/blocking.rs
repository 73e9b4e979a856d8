//! Runs blocking work next to async code.

/// Runs `work` on a thread that may block.
///
/// Dropping the future does not stop the work. A panic of `work` goes on in the caller; the runtime cancels such work only
/// when it ends itself, and then nobody waits.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
