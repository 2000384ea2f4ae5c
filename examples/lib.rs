//! One example for each part of Tidegate that can be embedded alone: `cargo run -p tidegate-examples --example NAME`.
//!
//! | example | shows |
//! |---|---|
//! | `decode_packets` | tidegate-codec: bytes to packets, and the answer to bytes that are wrong |
//! | `match_topics` | tidegate-topic: who gets a message, and what is retained below a filter |
//! | `one_conversation` | tidegate-session: CONNECT to DISCONNECT without a socket |
//! | `filter_events` | tidegate-rules: a rule over messages, and a mistake explained |
//! | `custom_sink` | tidegate-sink and tidegate-broker: a destination of your own behind an embedded broker |
//! | `produce_to_kafka` | tidegate-kafka and tidegate-minikafka: records and their acknowledgements |
