//! What the layers of one image may come to together, however small each of them is.

use imagevol_base::size::binary;

/// What is left for the layers to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    left: Cost,
    limits: Cost,
}

/// What layers cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Bytes, unpacked.
    pub(crate) bytes: u64,
    /// Files, directories and links.
    pub(crate) entries: u64,
}

/// The layers cost more than an image may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverBudget {
    #[error("layers of the image unpack to more than {} (limits.maxImageBytes)", binary(*limit))]
    Bytes { limit: u64 },
    #[error("layers of the image hold more than {limit} files, directories and links (limits.maxImageEntries)")]
    Entries { limit: u64 },
}

// === impl Budget ===

impl Budget {
    pub(crate) fn new(limits: Cost) -> Self {
        Self { left: limits, limits }
    }

    /// Pays for a layer.
    pub(crate) fn spend(&mut self, layer: Cost) -> Result<(), OverBudget> {
        let Cost { bytes, entries } = self.left;
        let bytes = bytes.checked_sub(layer.bytes).ok_or(OverBudget::Bytes { limit: self.limits.bytes })?;
        let entries = entries.checked_sub(layer.entries).ok_or(OverBudget::Entries { limit: self.limits.entries })?;
        self.left = Cost { bytes, entries };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_to_the_last_byte_and_entry() {
        let mut budget = Budget::new(Cost { bytes: 10, entries: 3 });
        let layer = Cost { bytes: 5, entries: 1 };
        budget.spend(layer).unwrap();
        budget.spend(layer).unwrap();
        assert_eq!(budget.spend(Cost { bytes: 1, entries: 0 }), Err(OverBudget::Bytes { limit: 10 }));
        budget.spend(Cost { bytes: 0, entries: 1 }).unwrap();
        let error = budget.spend(Cost { bytes: 0, entries: 1 }).unwrap_err();
        assert_eq!(error, OverBudget::Entries { limit: 3 });
        assert_eq!(
            error.to_string(),
            "layers of the image hold more than 3 files, directories and links (limits.maxImageEntries)"
        );
        assert_eq!(budget.spend(Cost { bytes: u64::MAX, entries: 0 }), Err(OverBudget::Bytes { limit: 10 }));
    }
}
