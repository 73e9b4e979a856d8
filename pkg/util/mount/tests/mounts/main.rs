//! Real mounts on the running kernel, each test in a mount namespace of its own, for both back ends. Needs root.

// The attributes tell clippy that the helpers are tests as well.
#[cfg(test)]
mod attributes;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod probing;
#[cfg(test)]
mod staging;
#[cfg(test)]
mod sub_paths;
#[cfg(test)]
mod support;
#[cfg(test)]
mod unmounting;
