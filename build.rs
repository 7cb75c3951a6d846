//! Nothing to generate.

fn main() {}
