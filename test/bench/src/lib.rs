//! Ratios against other tools and against what the machine allows.
