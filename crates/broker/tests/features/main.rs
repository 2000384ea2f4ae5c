//! What a broker does beyond carrying messages from one client to another: shared subscriptions, caps on what is
//! retained, denied, delayed, rewritten and mounted topics, `$SYS`, and bounds against clients that ask for too much.
//! Scripted clients against a whole broker, over streams in memory and on a clock that the tests move.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bounds;
mod denying;
mod injecting;
mod retaining;
mod served;
mod sharing;
mod telling;
mod tls;
mod topics;
