//! SQL-like rules over MQTT events: compiled once, evaluated without I/O.
