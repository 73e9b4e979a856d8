//! imagevol
fn main() {}
