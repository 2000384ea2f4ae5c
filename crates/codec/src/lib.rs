//! MQTT 3.1, 3.1.1 and 5.0 packets to and from bytes, for both ends of a connection. Decoding borrows from the
//! buffer that the bytes came in, copies nothing and never panics; encoding appends to a buffer of the caller.
//!
//! It is not a connection: it does no I/O, keeps no bytes between calls, and does not know whether a packet makes
//! sense at this point of a conversation, beyond which types may come from which side.
//!
//! ```
//! use tidegate_codec::{ConnAck, Decoded, Decoder, Limits, Packet, ReasonCode};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let received = b"\x10\x11\0\x04MQTT\x04\x02\0\x3c\0\x05gauge\xc0\0";
//! let mut decoder = Decoder::new(Limits::default());
//!
//! let Decoded::Packet { packet: Packet::Connect(connect), len } = decoder.decode(received)? else {
//!     panic!("the whole CONNECT is there");
//! };
//! assert_eq!(connect.client_id, "gauge");
//! decoder.set_version(connect.version);
//!
//! let mut answer = Vec::new();
//! ConnAck::new(ReasonCode::Success).encode(connect.version, &mut answer)?;
//! assert_eq!(answer, [0x20, 2, 0, 0]);
//!
//! // Behind the CONNECT there is a PINGREQ.
//! let rest = &received[len..];
//! assert_eq!(decoder.decode(rest)?, Decoded::Packet { packet: Packet::PingReq, len: 2 });
//! // A part of a packet says how much is missing; call again with the same bytes and more.
//! assert_eq!(decoder.decode(b"\x30\x0a\0")?, Decoded::Incomplete { at_least: 9 });
//! # Ok(())
//! # }
//! ```
//!
//! # The main types
//!
//! - [`Packet`] and its structs: one model for the three versions. What a version does not have is absent when
//!   decoded from it, and left out when encoded for it.
//! - [`Decoder`]: bytes to [`Decoded`], within [`Limits`], for a [`Role`].
//! - [`DecodeError`]: what was wrong, which normative statement was broken, and what to [`Answer`].
//! - [`ReasonCode`]: the codes of 5.0, with their translation to the return codes of 3.x.
//!
//! There are no features.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::panic,
        clippy::expect_used,
        clippy::unwrap_used,
        clippy::unreachable
    )
)]

mod decode;
mod encode;
mod error;
mod model;
mod packet;
mod packet_type;
mod property;
mod reader;
mod reason;
mod statement;
mod subscription_identifiers;
mod user_properties;

pub use decode::{Decoded, Decoder, Limits, Role};
pub use error::{Answer, DecodeError, EncodeError, ErrorKind, Fault};
pub use packet::{
    Auth, ConnAck, ConnAckProperties, Connect, ConnectProperties, Disconnect, Packet, PacketId, PubAck,
    Publish, PublishProperties, QoS, RetainHandling, SubAck, Subscribe, SubscribeFilter, SubscribeOptions,
    SubscriptionIdentifiers, Unsubscribe, Version, Will,
};
pub use packet_type::PacketType;
pub use property::Property;
pub use reason::ReasonCode;
pub use subscription_identifiers::SubscriptionIdentifierIter;
pub use user_properties::{UserProperties, UserPropertyIter};
