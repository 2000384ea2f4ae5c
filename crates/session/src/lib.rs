//! One MQTT conversation (3.1, 3.1.1, 5.0) from the server's side, as a state machine without I/O: decoded packets and
//! the time go in, bytes and questions to the broker come out. A [`Session`] also is what survives the conversation:
//! subscriptions, messages in flight both ways, and the queue of a client that is away.
//!
//! It is not a broker: it opens no socket, reads no clock, spawns nothing and locks nothing, and it does not know who
//! may do what, who else subscribes, or what a retained message is.
//!
//! ```
//! use std::{sync::Arc, time::Instant};
//! use tidegate_codec::{Connect, Packet, PacketId, Publish, QoS, ReasonCode, Version};
//! use tidegate_session::{Input, Limits, Session, SessionState, Welcome, check_connect};
//!
//! # #[expect(clippy::disallowed_methods, reason = "an example stands outside")]
//! let now = Instant::now();
//! let limits = Arc::new(Limits::default());
//! let mut out = Vec::new();
//!
//! let connect = Connect::new(Version::V3_1_1, "pump-7");
//! check_connect(&connect, &limits, |_method| false)?;
//! let mut session = Session::new(connect.client_id, limits);
//! session.connect(&connect, Welcome::new(SessionState::New), now, &mut out);
//! assert_eq!(out, [0x20, 2, 0, 0]); // CONNACK
//!
//! let publish = Packet::Publish(Publish {
//!     qos: QoS::AtLeastOnce,
//!     packet_id: PacketId::new(1),
//!     topic: "plant/7",
//!     payload: b"21.5",
//!     ..Publish::default()
//! });
//! out.clear();
//! let Input::Publish(inbound) = session.handle_packet(&publish, now, &mut out)? else { panic!() };
//! let token = inbound.token.expect("QoS 1 has a token");
//! assert!(out.is_empty(), "nothing is acknowledged before the broker says so");
//!
//! assert!(session.acknowledge(token, ReasonCode::Success, &mut out));
//! assert_eq!(out, [0x40, 2, 0, 1]); // PUBACK
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The main types:
//!
//! - [`Session`] is the state machine, [`Input`] what a packet asks of the broker, [`Token`] what the broker answers
//!   with when a message is safe, [`Farewell`] what is left to do after the end;
//! - [`Message`] is an application message that the server holds for others, [`Delivery`] one on its way to a client;
//! - [`Limits`] bounds every queue, window and table;
//! - [`Change`] is what a session tells whoever keeps it on disk, [`StoredSession`] what it is made from again;
//! - [`Authentication`] is the order of AUTH packets, for callers that carry enhanced authentication out;
//! - [`Refusal`] and [`Violation`] are what clients get wrong before and after CONNACK.
//!
//! There are no cargo features.

mod alias;
mod authentication;
mod change;
mod connect;
mod farewell;
mod inbound;
mod limits;
mod link;
mod message;
mod outbound;
mod session;
mod stored;
mod violation;

pub use authentication::Authentication;
pub use change::{Change, DeliveryNumber};
pub use connect::{Refusal, SessionState, Welcome, check_connect, check_welcome, redirect, refuse};
pub use farewell::{Ended, Expiry, Farewell, Start};
pub use inbound::Token;
pub use limits::{Limits, QueuePolicy};
pub use link::TooLarge;
pub use message::{DueWill, Message, Publisher};
pub use outbound::{Delivered, Delivery, DropReason, Dropped, Identifiers};
pub use session::{Inbound, Input, Session, Subscription};
pub use stored::{StoredInFlight, StoredSession};
pub use violation::Violation;
