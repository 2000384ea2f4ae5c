//! One MQTT conversation as a state machine without I/O: bytes in, bytes out.
