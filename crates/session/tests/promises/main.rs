//! What a session promises, through its public interface: decoded packets in, bytes out, which a client's decoder reads.

#![expect(clippy::unwrap_used, reason = "what helps tests may panic as they may")]

mod connecting;
mod ending;
mod harness;
mod keeping;
mod random;
mod receiving;
mod resuming;
mod sending;
mod subscribing;
