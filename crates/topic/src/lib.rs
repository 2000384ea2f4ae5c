//! MQTT topic names and filters, a tree that finds the subscriptions for a topic, and a tree that finds the
//! retained messages for a filter. Parse once at the edge; afterwards [`TopicName`], [`TopicFilter`] and
//! [`SubscriptionFilter`] are the proof that the text obeys MQTT.
//!
//! This crate does not deliver anything, knows neither sessions nor access control, and holds no lock: a caller
//! that shares a tree among threads brings its own. Nothing here does I/O or reads a clock.
//!
//! ```
//! use tidegate_topic::{SubscriptionFilter, SubscriptionTree, TopicName};
//!
//! let mut tree = SubscriptionTree::new();
//! for (client, filter) in [("alice", "plant/+/temperature"), ("bob", "plant/#"), ("carol", "plant/7/state")] {
//!     let SubscriptionFilter::Plain(filter) = SubscriptionFilter::parse(filter)? else { continue };
//!     tree.insert(filter, client, ());
//! }
//!
//! let mut receivers = Vec::new();
//! tree.for_each_match(TopicName::parse("plant/7/temperature")?, |client, ()| receivers.push(*client));
//! receivers.sort_unstable();
//! assert_eq!(receivers, ["alice", "bob"]);
//! # Ok::<(), tidegate_topic::TopicError>(())
//! ```
//!
//! The main types:
//!
//! - [`TopicName`], [`TopicFilter`] and [`SubscriptionFilter`] borrow text that was checked;
//! - [`SubscriptionTree`] goes from a topic name to its subscribers;
//! - [`RetainedTree`] goes from a filter to the topics that have a value, all at once or in pages of bounded work.
//!
//! There are no cargo features.

mod error;
mod filter;
mod index;
mod name;
mod retained_tree;
mod share;
mod slab;
mod subscribers;
mod subscription_tree;
mod text;

pub use error::TopicError;
pub use filter::TopicFilter;
pub use name::{Levels, TopicName};
pub use retained_tree::{Cursor, Progress, RetainedTree};
pub use share::{QUEUE_GROUP, SubscriptionFilter};
pub use subscription_tree::SubscriptionTree;

/// The most levels that a topic name or filter may have, whatever limit a caller asks for: 128.
///
/// MQTT itself allows 65,536. Every walk in this crate is bounded by this number, so that no text from the network
/// decides how deep we go.
pub const MAX_LEVELS: usize = 128;

/// The most bytes that a topic name or filter may have: 65,535 [MQTT5-4.7.3-3].
pub const MAX_BYTES: usize = 65_535;
