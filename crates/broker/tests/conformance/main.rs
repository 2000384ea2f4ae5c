//! What MQTT 5.0 and 3.1.1 promise to whoever is at the other end of a connection, statement by statement: scripted
//! clients against a whole broker, over streams in memory and on a clock that the tests move.
//!
//! Each test cites the statements that it shows; `docs/CONFORMANCE.md` is the list of all statements and who shows them.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod acknowledging;
mod attacks;
mod authenticating;
mod connecting;
mod delivering;
mod disconnecting;
mod errors;
mod publishing;
mod retaining;
mod sharing;
mod simulation;
mod subscribing;
mod websocket;
mod wills;
mod world;
