//! The real daemon, killed: at random moments, at every step of one pull, and twice in a recovery.
//!
//! After each restart all that was acknowledged must hold, and nothing may be left that nobody asked for. `IMAGEVOL_CRASH_SEED` repeats
//! a run (its seed is printed), `IMAGEVOL_CRASH_RUNS` says how many kills there are in all.

// The attributes tell clippy that the helpers are tests as well.
#[cfg(test)]
mod arrivals;
#[cfg(test)]
mod catalog;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod moment;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod node;
#[cfg(test)]
mod proof;
#[cfg(test)]
mod random;
#[cfg(test)]
mod repairs;
#[cfg(test)]
mod runs;
#[cfg(test)]
mod steps;
#[cfg(test)]
mod world;
