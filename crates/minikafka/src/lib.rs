//! A small Kafka-compatible server: fault injection for tests, the embedded log of a first run.
