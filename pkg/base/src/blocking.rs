//! The way from async code to the disk.

/// Runs work that blocks where it may. A panic in it goes on in the caller, whose supervisor counts it. Dropping the future does not
/// stop the work.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it this task: it is not polled again.
            Err(_) => std::future::pending().await,
        },
    }
}
