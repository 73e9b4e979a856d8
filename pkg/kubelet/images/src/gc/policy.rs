//! When images are collected, and how much is to be freed. Pure.

use std::time::Duration;

use imagevol_api::daemon::used_percent;
use imagevol_cri::FilesystemUsage;

/// A share of a whole, from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

/// When and how much is collected (`imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`,
/// `imageMaximumGCAge`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcPolicy {
    high: Percent,
    low: Percent,
    min_age: Duration,
    max_age: Option<Duration>,
}

/// Why thresholds are no policy, in the kubelet's words (`NewImageGCManager`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GcPolicyError {
    /// The high threshold is no percentage.
    #[error("invalid HighThresholdPercent {0}, must be in range [0-100]")]
    High(u8),
    /// The low threshold is no percentage.
    #[error("invalid LowThresholdPercent {0}, must be in range [0-100]")]
    Low(u8),
    /// Collection would end before it begins.
    #[error("LowThresholdPercent {low} can not be higher than HighThresholdPercent {high}")]
    Order {
        /// The low threshold.
        low: u8,
        /// The high threshold.
        high: u8,
    },
}

/// The file system of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    capacity: u64,
    available: u64,
}

// === impl Percent ===

impl Percent {
    /// `None` above 100.
    pub fn new(percent: u8) -> Option<Self> {
        (percent <= 100).then_some(Self(percent))
    }

    /// From 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }
}

// === impl GcPolicy ===

impl GcPolicy {
    /// Collects from `high` percent of the disk down to `low`, and at any time what nobody has used for longer than `max_age`; zero is
    /// no such age. Images that were first seen more recently than `min_age` stay.
    pub fn new(high: u8, low: u8, min_age: Duration, max_age: Duration) -> Result<Self, GcPolicyError> {
        let high = Percent::new(high).ok_or(GcPolicyError::High(high))?;
        let low = Percent::new(low).ok_or(GcPolicyError::Low(low))?;
        if low > high {
            return Err(GcPolicyError::Order { low: low.get(), high: high.get() });
        }
        Ok(Self { high, low, min_age, max_age: (!max_age.is_zero()).then_some(max_age) })
    }

    /// How full the disk is when images begin to go.
    pub fn high(&self) -> Percent {
        self.high
    }

    /// How full the disk is when that ends.
    pub fn low(&self) -> Percent {
        self.low
    }

    /// How long an image stays after it was first seen.
    pub fn min_age(&self) -> Duration {
        self.min_age
    }

    /// How long an image stays that nobody uses; `None` is for ever.
    pub fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// Whether nothing is ever collected but by command (Kubernetes, `pkg/kubelet/kubelet.go`, `StartGarbageCollection`).
    pub fn is_off(&self) -> bool {
        self.high.get() == 100 && self.max_age.is_none()
    }
}

// === impl Disk ===

impl Disk {
    /// `None` for one without capacity. No more is available than there is.
    pub(super) fn of(usage: &FilesystemUsage) -> Option<Self> {
        let FilesystemUsage { capacity_bytes: capacity, available_bytes: available, .. } = *usage;
        (capacity > 0).then(|| Self { capacity, available: available.min(capacity) })
    }

    pub(super) fn capacity(self) -> u64 {
        self.capacity
    }

    /// The same disk after `bytes` were freed.
    pub(super) fn with_freed(self, bytes: u64) -> Self {
        Self { available: self.available.saturating_add(bytes).min(self.capacity), ..self }
    }

    /// As [`used_percent`] counts it; there is a capacity.
    pub(super) fn used_percent(self) -> u8 {
        used_percent(self.capacity, self.available).unwrap_or(100)
    }
}

/// Bytes to free; `None` if the disk is not full enough.
pub(super) fn space_wanted(disk: Disk, policy: &GcPolicy) -> Option<u64> {
    if disk.used_percent() < policy.high().get() {
        return None;
    }
    let free_at_low = u128::from(disk.capacity) * u128::from(100 - policy.low().get()) / 100;
    let wanted = free_at_low.saturating_sub(disk.available.into());
    // Where both thresholds are one, rounding may say that the disk is as full as it may be; the kubelet then frees one image.
    u64::try_from(wanted).ok().filter(|wanted| *wanted > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const NEVER: Duration = Duration::ZERO;

    fn policy(high: u8, low: u8) -> GcPolicy {
        GcPolicy::new(high, low, Duration::from_mins(2), NEVER).unwrap()
    }

    fn disk(capacity: u64, available: u64) -> Disk {
        let usage =
            FilesystemUsage { capacity_bytes: capacity, available_bytes: available, ..FilesystemUsage::default() };
        Disk::of(&usage).unwrap()
    }

    /// `TestValidateImageGCPolicy`.
    #[rstest]
    #[case::good(85, 80, Ok(()))]
    #[case::both_ends(100, 0, Ok(()))]
    #[case::equal(50, 50, Ok(()))]
    #[case::high_too_high(101, 80, Err("invalid HighThresholdPercent 101, must be in range [0-100]"))]
    #[case::low_too_high(85, 101, Err("invalid LowThresholdPercent 101, must be in range [0-100]"))]
    #[case::order(1, 2, Err("LowThresholdPercent 2 can not be higher than HighThresholdPercent 1"))]
    fn thresholds_are_the_kubelets(#[case] high: u8, #[case] low: u8, #[case] expected: Result<(), &str>) {
        let made = GcPolicy::new(high, low, NEVER, NEVER);
        assert_eq!(made.map(|_| ()).map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[rstest]
    #[case::only_thresholds(85, NEVER, false)]
    #[case::only_age(100, Duration::from_secs(1), false)]
    #[case::neither(100, NEVER, true)]
    fn is_off_without_threshold_and_age(#[case] high: u8, #[case] max_age: Duration, #[case] off: bool) {
        let policy = GcPolicy::new(high, 80, NEVER, max_age).unwrap();
        assert_eq!((policy.is_off(), policy.max_age().is_some()), (off, !max_age.is_zero()));
    }

    #[rstest]
    #[case::below(85, 80, 1000, 160, None)]
    #[case::at_the_threshold(85, 80, 1000, 150, Some(50))]
    #[case::rounded_to_the_threshold(85, 80, 1000, 159, Some(41))]
    #[case::full(85, 80, 1000, 0, Some(200))]
    #[case::between_the_thresholds(90, 80, 1000, 150, None)]
    #[case::high_is_100_and_a_percent_is_left(100, 80, 1000, 10, None)]
    #[case::high_is_100_and_less_is_left(100, 80, 1000, 9, Some(191))]
    #[case::thresholds_are_one_and_rounding_says_full(85, 85, 1000, 155, None)]
    #[case::nothing_may_be_used(0, 0, 1000, 1000, None)]
    #[case::huge(90, 80, u64::MAX, 0, Some(u64::MAX / 5))]
    fn frees_from_high_to_low(
        #[case] high: u8,
        #[case] low: u8,
        #[case] capacity: u64,
        #[case] available: u64,
        #[case] wanted: Option<u64>,
    ) {
        assert_eq!(space_wanted(disk(capacity, available), &policy(high, low)), wanted);
    }

    #[test]
    fn a_disk_without_capacity_is_none() {
        assert_eq!(Disk::of(&FilesystemUsage::default()), None);
    }

    proptest! {
        /// Once what is wanted has been freed, no more is; and it is never more than the disk holds.
        #[test]
        fn what_is_wanted_is_enough(capacity in 1_u64.., share in 0_u8..=100, high in 0_u8..=100, low in 0_u8..=100) {
            let (high, low) = (high.max(low), high.min(low));
            let available = u64::try_from(u128::from(capacity) * u128::from(share) / 100).unwrap();
            let (disk, policy) = (disk(capacity, available), policy(high, low));
            let Some(wanted) = space_wanted(disk, &policy) else { return Ok(()) };
            prop_assert!(disk.used_percent() >= high);
            prop_assert!(available + wanted <= capacity);
            prop_assert_eq!(space_wanted(disk.with_freed(wanted), &policy), None);
        }
    }
}
