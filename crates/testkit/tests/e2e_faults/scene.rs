//! What every row has: a Kafka with a topic, a broker with a rule into it, devices, and the comparison of what they were
//! promised with what Kafka holds.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_testkit::blocking;
use tidegate_testkit::devices::{Acknowledged, Fleet, Running};
use tidegate_testkit::kafka::RealKafka;
use tidegate_testkit::ledger::{Ledger, Report, Verifier};
use tidegate_testkit::process::{Launch, Tidegate};
use tidegate_testkit::proxy::Proxy;
use tokio::time::sleep;

pub(crate) const TOPIC: &str = "telemetry";
pub(crate) const PARTITIONS: u32 = 8;
/// How long Kafka may take to get what it missed, and devices to hear of their last messages.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_mins(3);
/// How long the sink may take to say that something is wrong.
pub(crate) const NOTICE: Duration = Duration::from_secs(5);

/// What a row needs beside the defaults.
pub(crate) struct Stage {
    /// Options of `scripts/kafka start`.
    pub(crate) kafka: Vec<String>,
    /// Nodes beside the first.
    pub(crate) more_nodes: Vec<u32>,
    /// Where the topic's partitions lie, as `1:2,2:3`.
    pub(crate) placed: Option<&'static str>,
    /// Kafka's settings of the topic.
    pub(crate) topic: &'static [&'static str],
    /// Whether the broker reaches Kafka through a proxy.
    pub(crate) through_proxy: bool,
    /// What happens before the broker starts; may say where the broker looks for Kafka.
    pub(crate) prepare: Option<Prepare>,
    pub(crate) config: Keys,
    /// What the broker runs under.
    pub(crate) under: Vec<String>,
}

pub(crate) type Prepare = Box<dyn FnOnce(&RealKafka) -> Option<String> + Send>;

/// Lines of the broker's configuration.
pub(crate) struct Keys {
    /// Of `[kafka.main]`.
    pub(crate) kafka: String,
    /// Of `[kafka.main.spill]`.
    pub(crate) spill: String,
    /// Further sections.
    pub(crate) sections: String,
}

impl Default for Stage {
    fn default() -> Self {
        let kafka = "buffer = \"16 MiB\"\nrequest_timeout = \"10 s\"".to_owned();
        Self {
            kafka: Vec::new(),
            more_nodes: Vec::new(),
            placed: None,
            topic: &[],
            through_proxy: false,
            prepare: None,
            config: Keys { kafka, spill: String::new(), sections: String::new() },
            under: Vec::new(),
        }
    }
}

/// A Kafka with a topic, a broker with a rule into it, and what the devices were promised.
pub(crate) struct Scene {
    // The broker is dropped, and so ended, before the Kafka that it writes to.
    pub(crate) broker: Arc<Mutex<Tidegate>>,
    pub(crate) nodes: Arc<Vec<RealKafka>>,
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) ledger: Arc<Ledger>,
    /// Whether each message of the ledger is offered to the sink once: nobody sends any again.
    is_exactly_offered: bool,
    /// Messages for the same rule that are in another ledger.
    pub(crate) other_messages: u64,
    peak_bytes: u64,
}

/// Who may be there twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duplicates {
    None,
    AtMost(u64),
}

impl Scene {
    pub(crate) async fn new(stage: Stage) -> Self {
        let proxy = if stage.through_proxy { Some(Arc::new(Proxy::start().await.unwrap())) } else { None };
        let behind = proxy.clone();
        let (broker, nodes) = blocking(move || {
            let mut options: Vec<_> = stage.kafka.iter().map(String::as_str).collect();
            let advertised = behind.as_ref().map(|proxy| format!("OUT={}", proxy.address()));
            if let Some(advertised) = &advertised {
                options.extend(["--listener", "OUT=PLAINTEXT", "--advertise", advertised]);
            }
            let mut nodes = vec![RealKafka::start_with(&options).expect("a real Kafka starts")];
            for node in &stage.more_nodes {
                let joined = nodes[0].join(*node, &options).expect("another node starts");
                nodes.push(joined);
            }
            let kafka = &nodes[0];
            match stage.placed {
                Some(nodes) => kafka.place_topic(TOPIC, nodes, stage.topic),
                None => kafka.create_topic(TOPIC, PARTITIONS, stage.topic),
            }
            .expect("the topic is created");
            let mut bootstrap = kafka.bootstrap().to_owned();
            if let Some(proxy) = behind {
                proxy.lead_to(kafka.listener("OUT").unwrap().parse().unwrap());
                bootstrap = proxy.address().to_string();
            }
            if let Some(prepare) = stage.prepare {
                bootstrap = prepare(kafka).unwrap_or(bootstrap);
            }
            let broker = Launch::new(configuration(&bootstrap, &stage.config)).under(stage.under).start();
            (broker.expect("the broker starts"), nodes)
        })
        .await;
        Self {
            broker: Arc::new(Mutex::new(broker)),
            nodes: Arc::new(nodes),
            proxy,
            ledger: Arc::default(),
            is_exactly_offered: true,
            other_messages: 0,
            peak_bytes: 0,
        }
    }

    /// The first node, or the only one.
    pub(crate) async fn kafka<T: Send + 'static>(
        &self,
        work: impl FnOnce(&RealKafka) -> T + Send + 'static,
    ) -> T {
        let nodes = Arc::clone(&self.nodes);
        blocking(move || work(&nodes[0])).await
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the row has a proxy")
    }

    /// Kills the broker and starts it again.
    pub(crate) async fn restart_broker(&mut self) {
        self.look_at_memory();
        self.is_exactly_offered = false;
        let broker = Arc::clone(&self.broker);
        blocking(move || broker.lock().restart().expect("the broker starts again")).await;
    }

    pub(crate) fn look_at_memory(&mut self) {
        self.peak_bytes = self.peak_bytes.max(self.broker.lock().peak_bytes().unwrap_or(0));
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.broker.lock().metric(name).unwrap()
    }

    /// The same for what is counted.
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.metric(name).to_string().parse().expect("a whole number")
    }

    /// Devices that publish until they are told to stop.
    pub(crate) fn devices(&self, fleet: Fleet) -> Running {
        let address = self.broker.lock().mqtt();
        fleet.start(address, &self.ledger)
    }

    /// Lets so much time pass, and returns how many messages were acknowledged in it.
    pub(crate) async fn acknowledged_in(&self, time: Duration) -> u64 {
        let before = self.ledger.acknowledged_count();
        sleep(time).await;
        self.ledger.acknowledged_count() - before
    }

    /// Waits until it holds, for `limit` at most. Returns how long that took.
    pub(crate) async fn until(
        &self,
        what: &str,
        limit: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < limit, "never: {what}: {:?}", self.sink_metrics());
            sleep(Duration::from_millis(100)).await;
        }
        begun.elapsed()
    }

    /// Waits until the sink says that it does not work, and the log says why.
    pub(crate) async fn noticed(&self, reason: &str, limit: Duration) -> Duration {
        self.until(reason, limit, |scene| {
            let says = |line: &String| line.contains(reason);
            scene.metric("tidegate_sink_up") < 0.5 && scene.broker.lock().output().iter().any(says)
        })
        .await
    }

    /// The end of a row whose fault is over: devices go on until Kafka has what it missed, and stop; then all is compared.
    pub(crate) async fn end(&mut self, fault: &str, devices: Running, allowed: Duplicates) -> Acknowledged {
        let over = Instant::now();
        self.until(&format!("{fault}: what was spilled is in Kafka"), DRAIN_LIMIT, |scene| {
            scene.metric("tidegate_sink_spill_records") < 0.5 && scene.metric("tidegate_sink_up") > 0.5
        })
        .await;
        let recovery = over.elapsed();
        sleep(Duration::from_secs(1)).await;
        let acknowledged = devices.finish(DRAIN_LIMIT).await;
        self.compare(fault, allowed, recovery, &acknowledged).await;
        acknowledged
    }

    /// Waits until Kafka has it all, compares, checks the law, and prints the row.
    pub(crate) async fn compare(
        &mut self,
        fault: &str,
        allowed: Duplicates,
        recovery: Duration,
        acknowledged: &Acknowledged,
    ) {
        self.drained(fault).await;
        self.look_at_memory();
        if self.is_exactly_offered && acknowledged.broken == 0 {
            let offered = self.count("tidegate_sink_records_offered_total");
            let sent = self.ledger.sent_count() + self.other_messages;
            assert_eq!(offered, sent, "{fault}: each message is offered once");
        }
        let ledger = Arc::clone(&self.ledger);
        let report = self.kafka(move |kafka| verify(kafka, TOPIC, &ledger)).await;
        self.print(fault, &report, recovery, acknowledged);
        match allowed {
            Duplicates::None => assert!(report.is_exact(), "{fault}: {report}"),
            Duplicates::AtMost(limit) => {
                assert!(report.is_without_loss() && report.duplicates <= limit, "{fault}: {report}");
            }
        }
    }

    /// Waits until nothing is held, and checks that every record is accounted for.
    pub(crate) async fn drained(&self, fault: &str) {
        self.until(&format!("{fault}: drained"), DRAIN_LIMIT, |scene| {
            ["records_held", "spill_records", "spill_disk_bytes"]
                .iter()
                .all(|name| scene.metric(&format!("tidegate_sink_{name}")) < 0.5)
        })
        .await;
        self.check_the_law(fault);
        assert!(self.metric("tidegate_sink_records_lost_total") < 0.5, "{:?}", self.sink_metrics());
    }

    /// offered = delivered + rejected + dead-lettered + dropped + lost + held, as one scrape shows it: for the sink, and for
    /// its rules.
    pub(crate) fn check_the_law(&self, fault: &str) {
        let (_, text) = self.broker.lock().http_get("/metrics").unwrap();
        let sum = |names: &[&str]| -> f64 {
            let of = |line: &str| {
                names.iter().find_map(|name| line.strip_prefix(name)?.strip_prefix(['{', ' '])).is_some()
            };
            let values = text.lines().filter(|line| of(line));
            values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        let ends = [
            "delivered_total",
            "rejected_total",
            "dead_lettered_total",
            "dropped_total",
            "lost_total",
            "held",
        ];
        let ends = ends.map(|end| format!("tidegate_sink_records_{end}"));
        let sink = (sum(&["tidegate_sink_records_offered_total"]), sum(&ends.each_ref().map(String::as_str)));
        let rules = (
            sum(&["tidegate_rule_records_offered_total"]),
            sum(&["tidegate_rule_records_ended_total", "tidegate_rule_records_held"]),
        );
        for (offered, accounted) in [sink, rules] {
            assert!(
                (offered - accounted).abs() < 0.5,
                "{fault}: {offered} offered, {accounted} accounted for:\n{text}"
            );
        }
        assert!((sink.0 - rules.0).abs() < 0.5, "{fault}: {sink:?} by the sink, {rules:?} by the rules");
    }

    fn print(&self, fault: &str, report: &Report, recovery: Duration, devices: &Acknowledged) {
        eprintln!(
            "| {fault} | {} | {} | {} | {} | {} | {recovery:.1?} |",
            report.acknowledged,
            report.loss,
            report.duplicates,
            report.reordered,
            self.peak_bytes >> 20,
        );
        eprintln!(
            "  {report}; spilled {}; acknowledged in p50 {:.1?}, p99 {:.1?}, at most {:.1?}; {} connections broke",
            self.metric("tidegate_sink_spilled_records_total"),
            devices.latency(50),
            devices.latency(99),
            devices.latency(100),
            devices.broken,
        );
    }

    pub(crate) fn sink_metrics(&self) -> Vec<String> {
        let (_, body) = self.broker.lock().http_get("/metrics").unwrap();
        let of_sink = |line: &&str| line.starts_with("tidegate_sink_") && !line.contains("bucket");
        body.lines().filter(of_sink).map(str::to_owned).collect()
    }
}

/// Compares what a topic holds with what a ledger promises.
pub(crate) fn verify(kafka: &RealKafka, topic: &str, ledger: &Ledger) -> Report {
    let mut verifier = Verifier::new(ledger);
    kafka.records(topic).unwrap().iter().for_each(|record| verifier.record(record.found()));
    verifier.finish()
}

fn configuration(bootstrap: &str, config: &Keys) -> String {
    let Keys { kafka, spill, sections } = config;
    format!(
        r#"
[kafka.main]
bootstrap = ["{bootstrap}"]
{kafka}

[kafka.main.spill]
{spill}

[[rules]]
id = "telemetry"
sql = 'SELECT * FROM "t/#" WHERE qos > 0'

[[rules.outputs]]
kafka = "main"
topic = "{TOPIC}"

{sections}
"#
    )
}

/// The moments of random faults, from `TIDEGATE_SEED` or one that is printed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let seed = setting("TIDEGATE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
        eprintln!("TIDEGATE_SEED={seed}");
        Self(seed)
    }

    /// A number below `bound` (splitmix64).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// A number from the environment.
pub(crate) fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}
