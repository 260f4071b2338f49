//! The command `spmd`.
fn main() {}
