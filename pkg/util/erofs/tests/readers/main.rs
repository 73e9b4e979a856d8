//! Reads images back with readers that share no code with the writer: the kernel, and the `erofs-rs` crate.

#[cfg(test)]
mod hard;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod library;
#[cfg(test)]
mod model;
#[cfg(test)]
mod random;
