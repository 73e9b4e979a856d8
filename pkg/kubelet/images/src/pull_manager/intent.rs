//! The intent of one pull, from before it begins until its outcome is recorded.

use imagevol_base::blocking;
use std::sync::Arc;

use imagevol_api::records::ImagePullCredentials;
use imagevol_cri::ImageId;
use tokio::runtime::Handle;

use super::Shared;

/// One pull's share in the intent on disk. However it is dropped, an image that the pull may have brought does not count as
/// preloaded.
#[derive(Debug)]
pub(crate) struct Intent {
    shared: Arc<Shared>,
    image: String,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The pull has not begun.
    Announced,
    /// The pull has begun, and nobody knows what it brought.
    Pulling,
    /// What is to be done about it is under way.
    Ended,
}

// === impl Intent ===

impl Intent {
    pub(super) fn new(shared: Arc<Shared>, image: String) -> Self {
        Self { shared, image, stage: Stage::Announced }
    }

    /// The pull begins: whoever drops this from now on leaves the intent on disk.
    pub(crate) fn begin(&mut self) {
        self.stage = Stage::Pulling;
    }

    /// No image came: takes the intent back, if no other pull shares it.
    pub(crate) async fn withdraw(mut self) {
        let (shared, image) = self.finish();
        blocking(move || shared.end(&image)).await;
    }

    /// The image came, with `credentials`: records that, then takes the intent back. If it cannot be recorded, the intent stays.
    pub(crate) async fn succeed(mut self, id: &ImageId, credentials: ImagePullCredentials) {
        let (shared, image) = self.finish();
        let id = id.clone();
        blocking(move || shared.succeeded(&image, &id, &credentials)).await;
    }

    /// Leaves nothing to do for the drop: the blocking work goes on even if its caller is dropped.
    fn finish(&mut self) -> (Arc<Shared>, String) {
        self.stage = Stage::Ended;
        (Arc::clone(&self.shared), std::mem::take(&mut self.image))
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        match self.stage {
            Stage::Ended => {}
            Stage::Pulling => self.shared.abandon(&self.image),
            Stage::Announced => {
                let (shared, image) = self.finish();
                match Handle::try_current() {
                    // Nobody waits for it: killed before it runs, the next start finds the intent.
                    Ok(runtime) => drop(runtime.spawn_blocking(move || shared.end(&image))),
                    Err(_) => shared.end(&image),
                }
            }
        }
    }
}
