//! Garbage collection of images, as the configuration wants it.

use std::sync::Arc;

use anyhow::Context as _;
use imagevol_api::config::ImagevolConfiguration;
use imagevol_base::Supervisor;
use imagevol_base::collection::Collection;
use imagevol_controlplane::events::node_ref;
use imagevol_images::{GcParts, GcPolicy, ImageGc, ImageManager};
use tokio::sync::mpsc;

use super::Images;

/// Starts the loop, which also takes note of what goes to make room for pulls. To be called once the pull records are settled: what is removed takes its records with it.
pub(super) fn start(
    config: &ImagevolConfiguration,
    (node_name, images): (&str, &Arc<ImageManager<Images>>),
    made_room: mpsc::UnboundedReceiver<Collection>,
    supervisor: &Supervisor,
) -> anyhow::Result<Arc<ImageGc<Images>>> {
    let policy = policy(config).context("image garbage collection")?;
    let gc = Arc::new(ImageGc::new(GcParts { images: Arc::clone(images), node: node_ref(node_name), policy }));
    let (runs, token) = (Arc::clone(&gc), supervisor.token());
    supervisor.spawn("image gc", async move {
        tokio::select! {
            () = token.cancelled() => {}
            ((), ()) = async { tokio::join!(runs.run(), runs.note_room(made_room)) } => {}
        }
    });
    Ok(gc)
}

fn policy(config: &ImagevolConfiguration) -> anyhow::Result<GcPolicy> {
    let (high, low) = (config.image_gc_high_threshold_percent, config.image_gc_low_threshold_percent);
    Ok(GcPolicy::new(high, low, config.image_minimum_gc_age.into(), config.image_maximum_gc_age.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kubelet's defaults are ours.
    #[test]
    fn the_defaults_are_a_policy() {
        let policy = policy(&ImagevolConfiguration::default()).unwrap();
        assert_eq!((policy.high().get(), policy.low().get(), policy.max_age()), (85, 80, None));
        assert_eq!(policy.min_age(), std::time::Duration::from_mins(2));
        assert!(!policy.is_off());
    }
}
