//! The `tidegate` broker.

fn main() {}
