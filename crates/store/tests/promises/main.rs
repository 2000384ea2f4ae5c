//! What a store promises, through its public interface and over a disk that loses power, fills up and fails.

#![expect(clippy::unwrap_used, reason = "what helps tests may panic as they may")]
#![expect(clippy::print_stderr, reason = "seeds, and rows of the fault table")]

mod clocks;
mod crashes;
mod damage;
mod disk;
mod failures;
mod model;
mod survival;
mod waiting;
mod world;
