//! A destination of your own behind an embedded broker: the PUBACK of a message waits until the destination has it.
#![expect(clippy::print_stdout, reason = "an example talks to its reader")]

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tidegate_broker::{AckMode, Broker, Config, Metrics, Output, RuleBinding, Tcp};
use tidegate_rules::{Rule, Template};
use tidegate_sink::{Driver, DriverConfig, OwnedRecord, Sink, WriteError, WriteReport};
use tokio::runtime::Handle;

/// Prints what it is given. A real one would return when the batch is safe, or an error that says what to do.
struct Console;

impl Sink for Console {
    async fn write(&mut self, batch: &[OwnedRecord]) -> Result<WriteReport, WriteError> {
        for record in batch {
            let value = String::from_utf8_lossy(record.value().unwrap_or_default()).into_owned();
            println!("console: {} <- {value}", record.topic());
        }
        Ok(WriteReport::default())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let driver = Arc::new(Driver::spawn(Console, DriverConfig::default(), &Handle::current()));
    let rule = RuleBinding {
        rule: Rule::compile("warm", r#"SELECT * FROM "sensors/+" WHERE payload.temperature > 20"#)?,
        ack: AckMode::Delivered,
        outputs: vec![Output {
            feed: driver,
            topic: Template::compile("warm-rooms")?,
            key: None,
            value: None,
            headers: Vec::new(),
            default_headers: true,
        }],
        republishes: Vec::new(),
    };
    let metrics = Metrics::register(&prometheus::Registry::new())?;
    let broker = Broker::start(Config::default(), vec![rule], metrics)?;
    let listener = Tcp::bind("127.0.0.1:0".parse()?).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn({
        let broker = broker.clone();
        async move { broker.serve(listener).await }
    });

    let mut options = MqttOptions::new("thermometer-7", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut events) = AsyncClient::new(options, 10);
    client.publish("sensors/room1", QoS::AtLeastOnce, false, r#"{"temperature": 21.5}"#).await?;
    loop {
        if let Event::Incoming(Packet::PubAck(ack)) = events.poll().await? {
            println!("client: message {} is safe", ack.pkid);
            break;
        }
    }
    broker.shutdown().await;
    Ok(())
}
