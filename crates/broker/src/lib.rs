//! The tokio part of an MQTT broker as a library: listeners, connections, registry, fan-out, back-pressure.
