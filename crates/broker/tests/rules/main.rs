//! What rules do in a running broker: what becomes of their rows, what they remember, what they are told, and what one
//! of them can't do to the others.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bench;
mod counting;
mod remembering;
mod republishing;
mod telling;
