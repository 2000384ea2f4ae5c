//! The fault table against a real Apache Kafka and the real binary: what was acknowledged is in Kafka when it is back,
//! once where the broker lives, in order, and every count adds up. Each row prints a line of the table of results in
//! `docs/DELIVERY.md`, which `scripts/faults` makes.
//!
//! Needs Java 17 and, the first time, Maven; and two binaries: `cargo build -p tidegate -p tidegate-bench`. Some rows need
//! root, and say so where they can't run. `TIDEGATE_SEED` makes the moments of random faults another's; it is printed.
//!
//! ```text
//! cargo test -p tidegate-testkit --features e2e --test e2e_faults -- --test-threads=1 --nocapture
//! ```

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stderr, reason = "the rows of the table are what this suite is for")]

mod certificates;
mod clients;
mod clock;
mod cluster;
mod disk;
mod kafka_away;
mod kills;
mod limits;
mod network;
mod refusals;
mod scene;
mod versions;
