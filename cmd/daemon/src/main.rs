//! imagevold
fn main() {}
