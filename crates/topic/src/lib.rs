//! MQTT topic names and filters, a subscription tree and a retained-message tree.
