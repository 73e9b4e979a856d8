//! The store as its callers see it, on a real disk: what comes in, what leads to it, what goes, and what a kill leaves.

// The attributes tell clippy that the helpers are tests as well.
#[cfg(test)]
mod deletion;
#[cfg(test)]
mod downloads;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod images;
#[cfg(test)]
mod integrity;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod lifetimes;
#[cfg(test)]
mod model;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod quarantine;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod references;
#[cfg(test)]
mod strace;
#[cfg(test)]
mod support;
