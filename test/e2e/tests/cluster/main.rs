//! What users do with the driver on a cluster, and what they see.

mod doors;
