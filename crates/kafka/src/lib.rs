//! An idempotent, pipelined Kafka producer whose acknowledgements tell the truth.
