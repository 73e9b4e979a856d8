//! The service over a fake registry and a real store; mounts are the running kernel's.

#[cfg(test)]
mod collect;
#[cfg(test)]
mod content;
#[cfg(test)]
mod integrity;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod offline;
#[cfg(test)]
mod rights;
#[cfg(test)]
mod room;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod support;
