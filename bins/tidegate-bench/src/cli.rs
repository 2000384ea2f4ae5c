//! The command line, and the plans that it spells.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
#[cfg(feature = "in-process")]
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidegate_codec::{QoS, Version};

#[cfg(feature = "in-process")]
use crate::in_process::Growth;
use crate::live::Live;
use crate::load::{Audience, Pace, Payload, PayloadFormat, Plan, Publishing, Storm, TopicTemplate, Traffic};
use crate::procfs::Target;
use crate::units;
use crate::verify::{Duplicates, Question};

/// Connections from one source address to one port. Far below the 28,000 ephemeral ports of Linux: binding searches for
/// a free one, and where half of them are taken, or still wait out a last run (TIME_WAIT), it costs ten times as much.
const CLIENTS_PER_SOURCE: u32 = 2000;

/// Load for MQTT brokers: simulated devices, latencies, and what each message costs the broker.
///
/// Exit codes: 0 when everything that was sent was acknowledged and no connection was refused or lost, 1 when
/// something was, 2 when the command line is wrong.
#[derive(Debug, Parser)]
#[command(name = "tidegate-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The least that a server can do (accept, acknowledge, discard or route): the limit that a broker stands beside.
    Null(NullArgs),
    /// Many devices, each publishing on its own topic at an interval.
    Fleet(FleetArgs),
    /// A few devices, publishing as fast as a window of unacknowledged messages allows.
    Flood(FloodArgs),
    /// Many devices that connect and stay silent: what does a connection cost?
    Idle(IdleArgs),
    /// A few publishers, many subscribers, on topics that they share: what does a delivery cost?
    Fanout(FanoutArgs),
    /// Pairs of a publisher and a subscriber, each on its own topic.
    Pairs(PairsArgs),
    /// Many devices that lose their connections all at once: when are they back?
    Storm(StormArgs),
    /// The reference benchmark: a fleet whose every message is then looked for in Kafka.
    Reference(ReferenceArgs),
    /// A broker inside this process that grows over connections without sockets: what do a million sessions cost?
    #[cfg(feature = "in-process")]
    InProcess(InProcessArgs),
    /// What Kafka holds against what was acknowledged: loss, phantoms, duplicates, order, damage.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NullArgs {
    /// Where to listen.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:1883")]
    pub(crate) bind: SocketAddr,
    /// Threads, each with its own sockets.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Deliver messages to who subscribed (exact topics and #, QoS 0 and 1) instead of discarding them; on one thread.
    #[arg(long, conflicts_with = "threads")]
    pub(crate) router: bool,
    /// Stop after this time instead of at Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Devices.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    #[command(flatten)]
    pub(crate) messages: MessageArgs,
    /// The topic; {id} stands for the device's number.
    #[arg(long, default_value = "fleet/{id}", value_parser = TopicTemplate::parse)]
    pub(crate) topic: TopicTemplate,
    /// The time between two messages of a device.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::interval)]
    pub(crate) interval: Duration,
    /// Unacknowledged messages of a device at once; what is due while there are so many is left out, and counted.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) window: u16,
}

#[derive(Debug, Args)]
pub(crate) struct FloodArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Devices.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    #[command(flatten)]
    pub(crate) messages: MessageArgs,
    /// The topic; {id} stands for the device's number.
    #[arg(long, default_value = "flood/{id}", value_parser = TopicTemplate::parse)]
    pub(crate) topic: TopicTemplate,
    /// Unacknowledged messages of a device at once (MQTT 5: at most the broker's Receive Maximum).
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) window: u16,
}

#[derive(Debug, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Devices.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    /// How long they stay.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub(crate) duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Devices that publish.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) publishers: u32,
    /// Devices that subscribe.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) subscribers: u32,
    /// Topics; publishers and subscribers each take them in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) topics: u32,
    #[command(flatten)]
    pub(crate) messages: MessageArgs,
    #[command(flatten)]
    pub(crate) pace: DeliveryArgs,
    /// The topic; {id} stands for its number.
    #[arg(long, default_value = "fanout/{id}", value_parser = TopicTemplate::parse)]
    pub(crate) topic: TopicTemplate,
}

#[derive(Debug, Args)]
pub(crate) struct PairsArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Pairs: a publisher, a subscriber and a topic each.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    #[command(flatten)]
    pub(crate) messages: MessageArgs,
    #[command(flatten)]
    pub(crate) pace: DeliveryArgs,
    /// The topic; {id} stands for its number.
    #[arg(long, default_value = "pairs/{id}", value_parser = TopicTemplate::parse)]
    pub(crate) topic: TopicTemplate,
}

/// How fast deliveries are to come.
#[derive(Debug, Args)]
pub(crate) struct DeliveryArgs {
    /// Deliveries a second, over all subscribers [default: as fast as the window allows].
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    pub(crate) rate: Option<f64>,
    /// Unacknowledged messages of a publisher at once, and, without --rate, deliveries on their way to each subscriber.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) window: u16,
}

#[derive(Debug, Args)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Devices.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    /// Connections begun a second in the storm [default: all at once].
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    pub(crate) rate: Option<f64>,
    /// A device that is not let in tries again after this time to twice this time.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::interval)]
    pub(crate) retry: Duration,
    /// How long the devices may take to come back.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    pub(crate) duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct ReferenceArgs {
    #[command(flatten)]
    pub(crate) devices: DeviceArgs,
    /// Devices, each publishing 1 KiB at QoS 1 on its own topic, reference/NUMBER.
    #[arg(long, value_name = "N", default_value_t = 19_500, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    /// Messages a second of each device.
    #[arg(long, value_name = "RATE", default_value = "1", value_parser = units::rate)]
    pub(crate) rate: f64,
    /// How long to publish.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    pub(crate) duration: Duration,
    /// How long to wait for the last acknowledgements.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    pub(crate) drain: Duration,
    /// Nodes of Kafka to ask first; without TLS and passwords.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:9092")]
    pub(crate) kafka: Vec<String>,
    /// The topic of Kafka that the broker's rule carries reference/# to, payloads as they are.
    #[arg(long, default_value = "reference")]
    pub(crate) topic: String,
    /// How long acknowledged records may take to appear in Kafka.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    pub(crate) wait: Duration,
    /// Keep the ledger in this file, or in FILE.0, FILE.1 and so on [default: it goes with the run].
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// Start this tidegate binary on each --target for the run, with a rule that does that.
    #[arg(long, value_name = "BINARY")]
    pub(crate) start: Option<PathBuf>,
    /// Start a Kafka for the run with this script (scripts/kafka of Tidegate's repository).
    #[arg(long, value_name = "SCRIPT", conflicts_with = "kafka")]
    pub(crate) start_kafka: Option<PathBuf>,
}

#[cfg(feature = "in-process")]
#[derive(Debug, Args)]
pub(crate) struct InProcessArgs {
    /// Sessions at each step, all of them connected.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "10000,100000,1000000",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sessions: Vec<u32>,
    /// Messages that are measured at each step, at QoS 1 through a rule into a sink that discards.
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: u64,
    /// Messages on their way at once, each of another device.
    #[arg(long, value_name = "N", default_value = "256")]
    pub(crate) window: NonZeroU32,
    /// Bytes of a payload.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::size)]
    pub(crate) payload: usize,
    /// Threads of the broker.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Write the result to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[cfg(feature = "in-process")]
impl InProcessArgs {
    pub(crate) fn growth(&self) -> Result<Growth, String> {
        if !self.sessions.is_sorted_by(|before, next| before < next) {
            return Err("--sessions has to grow from step to step".to_owned());
        }
        // A device whose answer is late must not have its next turn before it.
        if self.sessions.first().is_none_or(|first| first / 8 < self.window.get()) {
            return Err(format!("--window {} needs eight times as many --sessions at least", self.window));
        }
        Ok(Growth {
            sessions: self.sessions.clone(),
            messages: self.messages,
            window: self.window,
            payload_bytes: self.payload,
            threads: usize::from(self.threads),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Nodes of Kafka to ask first; without TLS and passwords.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:9092")]
    pub(crate) kafka: Vec<String>,
    /// The topic that the rule writes the payloads to, as they are.
    #[arg(long)]
    pub(crate) topic: String,
    /// What `fleet` or `flood` wrote; several if several ran side by side.
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) ledger: Vec<PathBuf>,
    /// How long acknowledged records may take to appear: a broker may hold them on disk while Kafka is away.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub(crate) wait: Duration,
    /// A record that is there more than once is no failure.
    #[arg(long)]
    pub(crate) allow_duplicates: bool,
    /// Write the result to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// Who connects, and what is measured and written down.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// The broker, or several among which the devices are spread evenly; may be repeated.
    #[arg(
        long,
        visible_alias = "broker",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "127.0.0.1:1883"
    )]
    pub(crate) target: Vec<String>,
    /// The number of the first device: client ids are `bench-NUMBER`.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) first_id: u32,
    /// Connections begun a second [default: 1000; of the reference benchmark 5000].
    #[arg(long, value_name = "RATE", value_parser = units::rate)]
    pub(crate) connect_rate: Option<f64>,
    /// How long a connection may take until its CONNACK.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::interval)]
    pub(crate) connect_timeout: Duration,
    /// Keep-alive in seconds; 0 turns it off.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) keep_alive: u16,
    /// Speak MQTT 5 instead of 3.1.1.
    #[arg(long)]
    pub(crate) v5: bool,
    /// User name of every device.
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password of every device.
    #[arg(long, value_name = "PASSWORD", requires = "username")]
    pub(crate) password: Option<String>,
    /// Source addresses, taken in turn. Towards 127.0.0.0/8 as many as are needed are taken from there.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub(crate) source: Vec<IpAddr>,
    /// Threads of the generator, in each of its processes.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Processes of the generator, for more devices than one process may have open files; not where devices hear each
    /// other.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) processes: u16,
    /// Carry this share of the devices, as the process says that is at the other end of stdin and stdout.
    #[arg(long, hide = true)]
    pub(crate) share: Option<u16>,
    /// The ledger of the share.
    #[arg(long, hide = true, requires = "share")]
    pub(crate) share_ledger: Option<PathBuf>,
    /// Measure CPU time and memory of these processes on this machine, such as broker=123; may be repeated. Those that
    /// are given one name count as one.
    #[arg(long, value_name = "[NAME=]PID", value_delimiter = ',', value_parser = Target::parse)]
    pub(crate) pid: Vec<Target>,
    /// Write the report to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the report to a file, as a page of HTML with charts that needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// How the run is shown on stderr while it goes on.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Live::Auto)]
    pub(crate) live: Live,
}

/// What is published, and for how long.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// Bytes of a payload.
    #[arg(long, value_name = "SIZE", default_value = "1024", value_parser = units::size)]
    pub(crate) payload: usize,
    /// How a payload says who sent it when.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = PayloadFormat::Json)]
    pub(crate) payload_format: PayloadFormat,
    /// Quality of service.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(crate) qos: u8,
    /// How long to publish [default: 30s, or until each device has sent its count].
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub(crate) duration: Option<Duration>,
    /// Messages of each device.
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Note what is sent and acknowledged in a new file, for `verify`; each of several processes has its own, FILE.0,
    /// FILE.1 and so on.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// How long to wait for the last acknowledgements.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub(crate) drain: Duration,
}

impl MessageArgs {
    const DURATION: Duration = Duration::from_secs(30);

    fn duration(&self) -> Option<Duration> {
        self.duration.or(self.count.is_none().then_some(Self::DURATION))
    }

    fn publishing(&self, topic: &TopicTemplate, window: u16, pace: Pace) -> Result<Traffic, String> {
        if self.ledger.is_some() && self.payload_format == PayloadFormat::None {
            return Err("--payload-format none can't be verified, so there is no --ledger for it".to_owned());
        }
        let payload = Payload::new(self.payload_format, self.payload).map_err(|error| error.to_string())?;
        let qos = QoS::from_u8(self.qos).expect("clap checks the range");
        let topic = topic.clone();
        Ok(Traffic::Publish(Publishing {
            topic,
            qos,
            payload,
            count: self.count,
            window,
            pace,
            audience: None,
        }))
    }

    /// As [`publishing`](Self::publishing), with subscribers.
    fn publishing_to(
        &self,
        audience: Audience,
        topic: &TopicTemplate,
        args: &DeliveryArgs,
    ) -> Result<Traffic, String> {
        if self.qos == 2 {
            return Err("--qos 2 is not for deliveries: subscribers are counted at QoS 0 and 1".to_owned());
        }
        if self.payload_format == PayloadFormat::None {
            return Err("--payload-format none does not say when a message was sent: no latency".to_owned());
        }
        if audience.topics > 1 && !topic.has_number() {
            return Err("--topic needs {id} where there is more than one topic".to_owned());
        }
        let pace = args.rate.map_or(Pace::Window, |rate| Pace::Every(audience.interval(rate)));
        let mut traffic = self.publishing(topic, args.window, pace)?;
        if let Traffic::Publish(publishing) = &mut traffic {
            publishing.audience = Some(audience);
        }
        Ok(traffic)
    }
}

impl FleetArgs {
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let traffic = self.messages.publishing(&self.topic, self.window, Pace::Every(self.interval))?;
        self.devices.plan(self.clients, traffic, self.messages.duration(), self.messages.drain)
    }
}

impl FloodArgs {
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let traffic = self.messages.publishing(&self.topic, self.window, Pace::Window)?;
        self.devices.plan(self.clients, traffic, self.messages.duration(), self.messages.drain)
    }
}

impl IdleArgs {
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        self.devices.plan(self.clients, Traffic::Silent, Some(self.duration), Duration::ZERO)
    }
}

impl FanoutArgs {
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let Self { publishers, subscribers, topics, .. } = *self;
        if topics > publishers.min(subscribers) {
            return Err(format!(
                "{topics} topics need as many --publishers and --subscribers at least, or some would be silent"
            ));
        }
        let clients = publishers.checked_add(subscribers).ok_or("too many devices")?;
        let audience = Audience { publishers, subscribers, topics };
        let traffic = self.messages.publishing_to(audience, &self.topic, &self.pace)?;
        self.devices.plan(clients, traffic, self.messages.duration(), self.messages.drain)
    }
}

impl PairsArgs {
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let pairs = self.pairs;
        let audience = Audience { publishers: pairs, subscribers: pairs, topics: pairs };
        let clients = pairs.checked_mul(2).ok_or("too many pairs")?;
        let traffic = self.messages.publishing_to(audience, &self.topic, &self.pace)?;
        self.devices.plan(clients, traffic, self.messages.duration(), self.messages.drain)
    }
}

impl ReferenceArgs {
    /// Connections begun a second.
    const CONNECT_RATE: f64 = 5000.0;
    const PAYLOAD_BYTES: usize = 1024;
    /// Unacknowledged messages of a device at once.
    const WINDOW: u16 = 16;

    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let interval = Duration::try_from_secs_f64(1.0 / self.rate)
            .map_err(|_| format!("--rate {} is too slow to ever publish", self.rate))?;
        let payload = Payload::new(PayloadFormat::Json, Self::PAYLOAD_BYTES);
        let publishing = Publishing {
            topic: TopicTemplate::parse("reference/{id}").map_err(|error| error.to_string())?,
            qos: QoS::AtLeastOnce,
            payload: payload.map_err(|error| error.to_string())?,
            count: None,
            window: Self::WINDOW,
            pace: Pace::Every(interval.max(Duration::from_nanos(1))),
            audience: None,
        };
        let traffic = Traffic::Publish(publishing);
        let mut plan = self.devices.plan(self.clients, traffic, Some(self.duration), self.drain)?;
        plan.connect_rate = self.devices.connect_rate.unwrap_or(Self::CONNECT_RATE);
        Ok(plan)
    }

    /// Returns what to ask Kafka afterwards.
    pub(crate) fn question(&self, bootstrap: Vec<String>, ledgers: Vec<PathBuf>) -> Question {
        Question {
            bootstrap,
            topic: self.topic.clone(),
            ledgers,
            wait: self.wait,
            duplicates: Duplicates::Wrong,
        }
    }
}

impl VerifyArgs {
    pub(crate) fn question(&self) -> Question {
        Question {
            bootstrap: self.kafka.clone(),
            topic: self.topic.clone(),
            ledgers: self.ledger.clone(),
            wait: self.wait,
            duplicates: if self.allow_duplicates { Duplicates::Allowed } else { Duplicates::Wrong },
        }
    }
}

impl StormArgs {
    pub(crate) fn plan(&self) -> Result<Plan, String> {
        let storm = Storm { rate: self.rate, retry: self.retry };
        self.devices.plan(self.clients, Traffic::Storm(storm), Some(self.duration), Duration::ZERO)
    }
}

impl DeviceArgs {
    /// Connections begun a second.
    const CONNECT_RATE: f64 = 1000.0;

    fn plan(
        &self,
        clients: u32,
        traffic: Traffic,
        duration: Option<Duration>,
        drain: Duration,
    ) -> Result<Plan, String> {
        let targets = self.target.iter().map(|target| resolve(target)).collect::<Result<Vec<_>, _>>()?;
        if self.first_id.checked_add(clients).is_none() {
            return Err(format!("device numbers end at {}", u32::MAX));
        }
        for target in &targets {
            if let Some(source) = self.source.iter().find(|source| source.is_ipv4() != target.is_ipv4()) {
                return Err(format!("{target} can't be reached from {source}: one is IPv4, the other IPv6"));
            }
        }
        if u32::from(self.processes) > clients {
            return Err(format!("--processes {} is more than there are devices", self.processes));
        }
        let hear_each_other =
            matches!(&traffic, Traffic::Publish(publishing) if publishing.audience.is_some());
        if hear_each_other && (self.processes > 1 || targets.len() > 1) {
            return Err(
                "devices that hear each other need one broker (--target) and --processes 1".to_owned()
            );
        }
        Ok(Plan {
            clients,
            first_id: self.first_id,
            connect_rate: self.connect_rate.unwrap_or(Self::CONNECT_RATE),
            connect_timeout: self.connect_timeout,
            version: if self.v5 { Version::V5 } else { Version::V3_1_1 },
            keep_alive: self.keep_alive,
            username: self.username.clone(),
            password: self.password.clone(),
            traffic,
            duration,
            drain,
            threads: usize::from(self.threads),
            processes: self.processes,
            sources: if self.source.is_empty() {
                loopback_sources(&targets, clients)
            } else {
                self.source.clone()
            },
            targets,
            ledger: None,
        })
    }
}

/// Returns the first address of `host:port`, IPv4 before IPv6.
fn resolve(target: &str) -> Result<SocketAddr, String> {
    let addresses: Vec<_> =
        target.to_socket_addrs().map_err(|error| format!("--target {target:?}: {error}"))?.collect();
    let v4 = addresses.iter().find(|address| address.is_ipv4());
    v4.or(addresses.first()).copied().ok_or_else(|| format!("--target {target:?} has no address"))
}

/// All of 127.0.0.0/8 is this machine: enough source addresses for any number of clients, where one is not enough.
fn loopback_sources(targets: &[SocketAddr], clients: u32) -> Vec<IpAddr> {
    if clients <= CLIENTS_PER_SOURCE
        || !targets.iter().all(|target| target.is_ipv4() && target.ip().is_loopback())
    {
        return Vec::new();
    }
    let first = u32::from(Ipv4Addr::LOCALHOST);
    // 2^32 clients are 2,147,484 addresses of the 16 million.
    (0..clients.div_ceil(CLIENTS_PER_SOURCE)).map(|place| IpAddr::V4(Ipv4Addr::from(first + place))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Result<Plan, String> {
        let words = line.split_whitespace();
        let cli = Cli::try_parse_from(std::iter::once("tidegate-bench").chain(words))
            .map_err(|error| error.to_string())?;
        match cli.command {
            Command::Fleet(args) => args.plan(),
            Command::Flood(args) => args.plan(),
            Command::Idle(args) => args.plan(),
            Command::Fanout(args) => args.plan(),
            Command::Pairs(args) => args.plan(),
            Command::Storm(args) => args.plan(),
            Command::Reference(args) => args.plan(),
            #[cfg(feature = "in-process")]
            Command::InProcess(args) => args.growth().and(Err("not a load".to_owned())),
            Command::Null(_) | Command::Verify(_) => Err("not a load".to_owned()),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_fleet_is_what_its_arguments_say() {
        let plan = plan(
            "fleet --target 127.0.0.1:1884 --clients 5000 --connect-rate 2000 --interval 500ms --payload 2KiB --qos 2 \
             --v5 --keep-alive 60 --duration 1m",
        )
        .unwrap();
        assert_eq!(plan.targets, [SocketAddr::from(([127, 0, 0, 1], 1884))]);
        assert_eq!((plan.clients, plan.keep_alive, plan.version), (5000, 60, Version::V5));
        assert_eq!(plan.duration, Some(Duration::from_mins(1)));
        let sources: Vec<IpAddr> = (1..=3).map(|last| IpAddr::from([127, 0, 0, last])).collect();
        assert_eq!(plan.sources, sources);
        let Traffic::Publish(publishing) = plan.traffic else { panic!("a fleet publishes") };
        assert_eq!(publishing.qos, QoS::ExactlyOnce);
        assert_eq!(publishing.pace, Pace::Every(Duration::from_millis(500)));
    }

    #[test]
    fn a_rate_of_deliveries_is_shared_among_the_publishers() {
        let every = |line: &str| match plan(line).unwrap().traffic {
            Traffic::Publish(Publishing { pace: Pace::Every(interval), .. }) => interval,
            _ => panic!("{line} publishes at an interval"),
        };
        // 1000 deliveries are 20 messages to 50 subscribers; each of the 4 publishers sends 5 of them.
        let line = "fanout --publishers 4 --subscribers 100 --topics 2 --rate 1000";
        assert_eq!(every(line), Duration::from_millis(200));
        assert_eq!(every("pairs --pairs 10 --rate 20"), Duration::from_millis(500));
    }

    #[test]
    fn the_reference_benchmark_is_what_it_says() {
        let reference = plan("reference").unwrap();
        assert_eq!(
            (reference.clients, reference.keep_alive, reference.version),
            (19_500, 300, Version::V3_1_1)
        );
        assert!((reference.connect_rate - 5000.0).abs() < 0.1);
        let Traffic::Publish(publishing) = reference.traffic else { panic!("it publishes") };
        assert_eq!((publishing.qos, publishing.payload.len()), (QoS::AtLeastOnce, 1024));
        assert_eq!(publishing.pace, Pace::Every(Duration::from_secs(1)));
        let Traffic::Publish(publishing) = plan("reference --rate 4").unwrap().traffic else {
            panic!("it publishes")
        };
        assert_eq!(publishing.pace, Pace::Every(Duration::from_millis(250)));
    }

    #[test]
    fn devices_are_spread_over_all_brokers() {
        let line = "reference --clients 5000 --processes 3 --broker 127.0.0.1:1 --broker 127.0.0.2:2";
        let plan = plan(line).unwrap();
        let brokers = [([127, 0, 0, 1], 1), ([127, 0, 0, 2], 2)].map(SocketAddr::from);
        assert_eq!((&plan.targets[..], plan.processes, plan.sources.len()), (&brokers[..], 3, 3));
    }

    #[test]
    fn a_count_without_a_duration_ends_with_the_count() {
        assert_eq!(plan("flood --count 10").unwrap().duration, None);
        assert_eq!(plan("flood").unwrap().duration, Some(MessageArgs::DURATION));
        assert_eq!(plan("flood --count 10 --duration 5s").unwrap().duration, Some(Duration::from_secs(5)));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_reason() {
        for (line, reason) in [
            ("fleet --interval 0s", "flood"),
            ("fleet --interval 5", "unit"),
            ("fleet --clients 0", "--clients"),
            ("fleet --qos 3", "--qos"),
            ("fleet --payload 10", "--payload-format"),
            ("fleet --topic a/+", "not a topic"),
            ("fleet --target nowhere", "--target"),
            ("fleet --source ::1", "IPv6"),
            ("fleet --first-id 4294967295", "device numbers"),
            ("flood --window 0", "--window"),
            ("fleet --payload-format none --ledger x", "--ledger"),
            ("verify --topic t", "--ledger"),
            ("fanout --qos 2", "QoS 0 and 1"),
            ("fanout --topics 2", "--publishers"),
            ("pairs --topic one", "{id}"),
            ("pairs --payload-format none", "latency"),
            ("storm --retry 0s", "--retry"),
            ("idle --password x", "--username"),
            #[cfg(feature = "in-process")]
            ("in-process --sessions 3000,3000", "grow"),
            #[cfg(feature = "in-process")]
            ("in-process --sessions 2000,3000 --window 251", "--window"),
            ("fleet --clients 3 --processes 4", "--processes"),
            ("idle --processes 0", "--processes"),
            ("fanout --processes 2", "hear each other"),
            ("pairs --broker 127.0.0.1:1 --broker 127.0.0.1:2", "hear each other"),
        ] {
            let error = plan(line).expect_err(line);
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
