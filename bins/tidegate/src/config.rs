//! The configuration file: what an operator may say, with its defaults, and what is wrong with it in words.

mod dead_letters;
mod error;
mod kafka;
mod listeners;
mod outputs;
mod sources;
mod topics;
mod units;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::{Deserialize, Serialize};
use tidegate_broker::{InvalidSetting, ResponseInformation};

pub(crate) use dead_letters::DeadLetterSettings;
pub(crate) use error::{ConfigErrors, did_you_mean};
pub(crate) use kafka::{SaslSettings, TlsSettings};
pub(crate) use listeners::{AuthenticationSettings, ListenerSettings, ProtocolSetting};
pub(crate) use outputs::{OutputKind, OutputSettings, RuleEngineSettings};
pub(crate) use sources::{SourceSettings, UnsafeCharacters};
pub(crate) use topics::TopicRules;
use topics::{
    AutoSubscribeSettings, DelayedSettings, QosSetting, RetainedSettings, RewriteSettings,
    SharedStrategySetting,
};
pub(crate) use units::{Period, Size};

/// The prefix of environment variables: `TIDEGATE_HTTP__BIND` is `bind` of `[http]`.
const ENV_PREFIX: &str = "TIDEGATE_";

/// Between a section and its key in an environment variable.
const ENV_SEPARATOR: &str = "__";

/// The name of the embedded log where a Kafka is asked for.
pub(crate) const EMBEDDED: &str = "embedded";

/// The Kafka that `--kafka` adds, which then is the only one unless the file names more.
const DEFAULT_KAFKA: &str = "main";

/// The whole configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Where clients connect, by a name of your choice.
    pub(crate) listeners: BTreeMap<String, ListenerSettings>,
    /// How clients show who they are.
    pub(crate) authentication: AuthenticationSettings,
    /// Metrics and health.
    pub(crate) http: HttpSettings,
    /// What one conversation may do.
    pub(crate) mqtt: MqttSettings,
    /// What may be retained.
    pub(crate) retained: RetainedSettings,
    /// What `$delayed/SECONDS/topic` may hold back.
    pub(crate) delayed: DelayedSettings,
    /// Topics that mean others; the first that fits counts.
    pub(crate) rewrite: Vec<RewriteSettings>,
    /// What every client is subscribed to when it connects.
    pub(crate) auto_subscribe: Vec<AutoSubscribeSettings>,
    /// Kafka clusters, by a name of your choice. Without any, the embedded log starts.
    pub(crate) kafka: BTreeMap<String, KafkaSettings>,
    /// The small log for trying out.
    pub(crate) embedded_log: EmbeddedLogSettings,
    /// What survives a restart.
    pub(crate) store: StoreSettings,
    /// What goes where. Without any, `#` goes to the topic `mqtt`.
    pub(crate) rules: Vec<RuleSettings>,
    /// What rules may use, and where they keep what they remember.
    pub(crate) rule_engine: RuleEngineSettings,
    /// What comes from Kafka.
    pub(crate) sources: Vec<SourceSettings>,
    /// How the process speaks of itself.
    pub(crate) log: LogSettings,
    /// How the process ends.
    pub(crate) shutdown: ShutdownSettings,
    /// What the process runs on.
    pub(crate) runtime: RuntimeSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listeners: BTreeMap::from([("tcp".to_owned(), ListenerSettings::default())]),
            authentication: AuthenticationSettings::default(),
            http: HttpSettings::default(),
            mqtt: MqttSettings::default(),
            retained: RetainedSettings::default(),
            delayed: DelayedSettings::default(),
            rewrite: Vec::new(),
            auto_subscribe: Vec::new(),
            kafka: BTreeMap::new(),
            embedded_log: EmbeddedLogSettings::default(),
            store: StoreSettings::default(),
            rules: Vec::new(),
            rule_engine: RuleEngineSettings::default(),
            sources: Vec::new(),
            log: LogSettings::default(),
            shutdown: ShutdownSettings::default(),
            runtime: RuntimeSettings::default(),
        }
    }
}

/// `[runtime]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RuntimeSettings {
    /// Threads that serve connections and sinks; without it, one for each core that the process may use. With one,
    /// packets of different clients are handled in the order in which they arrive.
    pub(crate) threads: Option<NonZeroUsize>,
}

/// `[http]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HttpSettings {
    pub(crate) bind: SocketAddr,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self { bind: (Ipv4Addr::LOCALHOST, 18083).into() }
    }
}

/// `[mqtt]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MqttSettings {
    /// Without it, as many as the limit of open files allows.
    pub(crate) max_connections: Option<usize>,
    /// Sessions, online and at rest. Clients that would make one more are refused.
    pub(crate) max_sessions: usize,
    pub(crate) connect_timeout: Period,
    pub(crate) max_packet_size: Size,
    /// QoS 1 and 2 messages of one client that may wait for their acknowledgement.
    pub(crate) receive_maximum: NonZeroU16,
    /// QoS 1 and 2 messages that may be on their way to one client.
    pub(crate) max_inflight: NonZeroU16,
    pub(crate) topic_alias_maximum: u16,
    /// Topic aliases that we use towards one client, where it allows them.
    pub(crate) topic_aliases_to_clients: u16,
    /// Seconds that every 5.0 client is told to keep alive.
    pub(crate) server_keep_alive: Option<NonZeroU16>,
    /// Seconds that 5.0 clients are told that ask for more, or for none.
    pub(crate) max_keep_alive: Option<NonZeroU16>,
    /// How long a 3.1 or 3.1.1 session with clean session 0 is kept.
    pub(crate) session_expiry: Period,
    /// The longest that a 5.0 session is kept; without it, as long as its client asks.
    pub(crate) max_session_expiry: Option<Period>,
    /// The highest QoS that clients may publish with, wills included.
    pub(crate) max_qos: QosSetting,
    /// What 5.0 clients that ask for it are told to begin their response topics with; `%c` is the client id.
    pub(crate) response_information: Option<String>,
    /// Another server, which 5.0 clients are told at a shutdown: `host:port`, several with spaces between.
    pub(crate) server_reference: Option<String>,
    /// Whether clients are sent there instead of being served.
    pub(crate) redirect: Option<RedirectSetting>,
    /// Messages that wait for one client.
    pub(crate) max_queued_messages: usize,
    /// Memory that they take.
    pub(crate) max_queued_size: Size,
    /// Which one a full queue drops.
    pub(crate) queue_policy: QueuePolicySetting,
    /// Whether QoS 0 messages wait as well.
    pub(crate) queue_qos0: bool,
    pub(crate) max_subscriptions: usize,
    pub(crate) max_client_id_bytes: usize,
    pub(crate) max_topic_levels: usize,
    /// Levels of `+` in one filter.
    pub(crate) max_plus_levels: usize,
    /// Which member of a shared subscription gets a message.
    pub(crate) shared_strategy: SharedStrategySetting,
    /// Filters that nobody may subscribe to.
    pub(crate) deny_subscribe: Vec<String>,
    /// Filters on whose topics nobody may publish.
    pub(crate) deny_publish: Vec<String>,
    /// Answer with Unspecified error (0x80) instead of Not authorized (0x87).
    pub(crate) deny_without_reason: bool,
    /// How often the broker tells of itself under `$SYS/broker`; 0 for never.
    pub(crate) sys_interval: Period,
}

impl Default for MqttSettings {
    fn default() -> Self {
        Self {
            max_connections: None,
            max_sessions: 1_000_000,
            connect_timeout: Period::seconds(10),
            max_packet_size: Size::mebibytes(1),
            receive_maximum: NonZeroU16::new(128).expect("128 is not 0"),
            max_inflight: NonZeroU16::new(32).expect("32 is not 0"),
            topic_alias_maximum: 64,
            topic_aliases_to_clients: 16,
            server_keep_alive: None,
            max_keep_alive: None,
            session_expiry: Period::seconds(2 * 60 * 60),
            max_session_expiry: None,
            max_qos: QosSetting::EXACTLY_ONCE,
            response_information: None,
            server_reference: None,
            redirect: None,
            max_queued_messages: 1000,
            max_queued_size: Size::mebibytes(16),
            queue_policy: QueuePolicySetting::DropOldest,
            queue_qos0: false,
            max_subscriptions: 1000,
            max_client_id_bytes: 1024,
            max_topic_levels: 128,
            max_plus_levels: 16,
            shared_strategy: SharedStrategySetting::RoundRobin,
            deny_subscribe: Vec::new(),
            deny_publish: Vec::new(),
            deny_without_reason: false,
            sys_interval: Period::seconds(60),
        }
    }
}

impl MqttSettings {
    /// What they say of response topics.
    pub(crate) fn response_information(&self) -> Result<Option<ResponseInformation>, InvalidSetting> {
        self.response_information.as_deref().map(ResponseInformation::new).transpose()
    }
}

/// How clients are sent to another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RedirectSetting {
    /// Use another server (0x9C).
    ForNow,
    /// Server moved (0x9D).
    ForGood,
}

/// Which message a full queue drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QueuePolicySetting {
    /// The one that has waited longest.
    #[default]
    DropOldest,
    /// The one that just came.
    DropNewest,
}

/// `[kafka.NAME]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KafkaSettings {
    /// `host:port` of one or more brokers of the cluster.
    pub(crate) bootstrap: Vec<String>,
    /// Memory for records that are not acknowledged yet.
    pub(crate) buffer: Size,
    pub(crate) batch_size: Size,
    /// How batches are compressed.
    pub(crate) compression: CompressionSetting,
    pub(crate) linger: Period,
    /// From one request of several records to the next, at least.
    pub(crate) request_interval: Period,
    pub(crate) request_timeout: Period,
    /// Create topics that are missing, with this many partitions. Otherwise their records wait.
    pub(crate) create_topics_with_partitions: Option<NonZeroU16>,
    /// Replicas of topics that are created; without it, the cluster's default.
    pub(crate) create_topics_with_replicas: Option<NonZeroU16>,
    /// Without it, connections are not encrypted.
    pub(crate) tls: Option<TlsSettings>,
    /// Without it, we are nobody in particular.
    pub(crate) sasl: Option<SaslSettings>,
    /// Where records are kept, and acknowledged, while Kafka does not take them.
    pub(crate) spill: SpillSettings,
    /// Where records go that Kafka will never take. Without it they are rejected, and their publishers told so.
    pub(crate) dead_letter: DeadLetterSettings,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap: Vec::new(),
            buffer: Size::mebibytes(256),
            batch_size: Size::kibibytes(256),
            compression: CompressionSetting::None,
            linger: Period::millis(5),
            request_interval: Period::millis(1),
            request_timeout: Period::seconds(30),
            create_topics_with_partitions: None,
            create_topics_with_replicas: None,
            tls: None,
            sasl: None,
            spill: SpillSettings::default(),
            dead_letter: DeadLetterSettings::default(),
        }
    }
}

/// How batches are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CompressionSetting {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// `[kafka.NAME.spill]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SpillSettings {
    /// Without it, `durable` means `kafka`.
    pub(crate) enabled: bool,
    /// Without it, `tidegate-data/spill/NAME`.
    pub(crate) directory: Option<PathBuf>,
    /// Beyond it publishers are held back.
    pub(crate) quota: Size,
    /// Records that Kafka has not taken for so long go to disk.
    pub(crate) after: Period,
    /// While more than this waits in memory, everything goes to disk.
    pub(crate) queue: Size,
}

impl Default for SpillSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: None,
            quota: Size::mebibytes(10 * 1024),
            after: Period::seconds(1),
            queue: Size::mebibytes(64),
        }
    }
}

/// `[embedded_log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EmbeddedLogSettings {
    pub(crate) bind: SocketAddr,
    pub(crate) directory: PathBuf,
    pub(crate) partitions: NonZeroU16,
}

impl Default for EmbeddedLogSettings {
    fn default() -> Self {
        Self {
            bind: (Ipv4Addr::LOCALHOST, 9092).into(),
            directory: "tidegate-data/log".into(),
            partitions: NonZeroU16::new(4).expect("4 is not 0"),
        }
    }
}

/// `[store]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StoreSettings {
    /// Whether sessions, what waits for them, and retained messages survive a restart.
    pub(crate) enabled: bool,
    pub(crate) directory: PathBuf,
    /// What they survive.
    pub(crate) durability: DurabilitySettings,
}

/// What is on disk before it is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DurabilitySettings {
    /// A sync to the device: it survives the loss of power.
    Fsync,
    /// A write: it survives the end of the process, and not the end of the operating system.
    Os,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: "tidegate-data/sessions".into(),
            durability: DurabilitySettings::Fsync,
        }
    }
}

/// `[[rules]]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSettings {
    pub(crate) id: String,
    pub(crate) sql: String,
    #[serde(default)]
    pub(crate) ack: AckSettings,
    /// What happens to its records when a Kafka's `buffer` is used up, and its disk takes no more.
    #[serde(default)]
    pub(crate) when_full: WhenFullSettings,
    /// Whether `when_full` may drop records of QoS 1 and 2 messages too. They are acknowledged all the same.
    #[serde(default)]
    pub(crate) drop_acknowledged: bool,
    pub(crate) outputs: Vec<OutputSettings>,
}

/// When a rule's QoS 1 and 2 messages are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AckSettings {
    /// When they are in Kafka's in-sync replicas or synced to disk, whichever comes first.
    #[default]
    Durable,
    /// When they are in Kafka's in-sync replicas.
    Kafka,
    /// When they are decoded.
    Received,
}

/// What happens to a rule's records when there is no room for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WhenFullSettings {
    /// The publisher is not read until there is.
    #[default]
    HoldBack,
    /// The record that just came is dropped.
    DropNewest,
    /// The rule's records that have waited longest are dropped.
    DropOldest,
}

/// `[log]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogSettings {
    /// A level, or directives such as `info,tidegate_kafka=debug`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info,tidegate_minikafka=error".to_owned(), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// `[shutdown]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ShutdownSettings {
    /// How long it may take to settle what is in flight.
    pub(crate) timeout: Period,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { timeout: Period::seconds(15) }
    }
}

impl Settings {
    /// Reads the file, then the environment over it, then what the command line adds.
    ///
    /// # Errors
    /// Says which source and which key, and what would be right.
    pub(crate) fn load(file: Option<&Path>, kafka: &[String]) -> Result<Self, ConfigErrors> {
        let mut sources = Figment::new();
        if let Some(path) = file {
            // figment takes a missing file for an empty one.
            if let Err(error) = std::fs::metadata(path) {
                return Err(ConfigErrors::one(path.display(), format!("cannot be read: {error}")));
            }
            sources = sources.merge(Toml::file_exact(path));
        }
        // Without the two underscores it is somebody else's: Kubernetes sets TIDEGATE_PORT for a service of our name.
        let environment = Env::prefixed(ENV_PREFIX).filter(|key| key.as_str().contains(ENV_SEPARATOR));
        sources = sources.merge(environment.split(ENV_SEPARATOR));
        if !kafka.is_empty() {
            let bootstrap = BTreeMap::from([("bootstrap", kafka)]);
            sources = sources.merge(Serialized::default(&format!("kafka.{DEFAULT_KAFKA}"), bootstrap));
        }
        let settings: Self = sources.extract().map_err(ConfigErrors::from)?;
        settings.check()?;
        Ok(settings)
    }

    /// What no single field shows.
    fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        listeners::check(self, &mut errors);
        for (name, kafka) in &self.kafka {
            if kafka.bootstrap.is_empty() {
                errors.push(format!("kafka.{name}.bootstrap"), "name at least one broker as \"host:port\"");
            }
            if let Some(tls) = &kafka.tls {
                tls.check(&format!("kafka.{name}.tls"), &mut errors);
            }
            if let Some(sasl) = &kafka.sasl {
                sasl.check(&format!("kafka.{name}.sasl"), &mut errors);
            }
            kafka.dead_letter.check(&format!("kafka.{name}.dead_letter"), &mut errors);
            if name == EMBEDDED {
                errors.push(format!("kafka.{name}"), "this name belongs to the embedded log: choose another");
            }
        }
        if let Err(error) = self.mqtt.response_information() {
            errors.push("mqtt.response_information", error);
        }
        TopicRules::of(self, &mut errors);
        errors.into_result()
    }

    /// What they say of topics. Loaded settings were checked, so nothing is left out.
    pub(crate) fn topic_rules(&self) -> TopicRules {
        TopicRules::of(self, &mut ConfigErrors::default())
    }

    /// The rules, with the one that a configuration without rules gets.
    pub(crate) fn rules_or_default(&self) -> Vec<RuleSettings> {
        if !self.rules.is_empty() {
            return self.rules.clone();
        }
        vec![RuleSettings {
            id: "everything".to_owned(),
            sql: "SELECT * FROM \"#\"".to_owned(),
            ack: AckSettings::default(),
            when_full: WhenFullSettings::default(),
            drop_acknowledged: false,
            outputs: vec![OutputSettings { topic: Some("mqtt".to_owned()), ..OutputSettings::default() }],
        }]
    }

    /// The name of the Kafka that an output means.
    pub(crate) fn kafka_of<'a>(&'a self, output: &'a OutputSettings) -> Result<&'a str, String> {
        self.kafka_named(output.kafka.as_deref())
    }

    /// The Kafka of this name, or the only one where none is given.
    pub(crate) fn kafka_named<'a>(&'a self, name: Option<&'a str>) -> Result<&'a str, String> {
        let known = || -> Vec<&str> {
            if self.kafka.is_empty() {
                vec![EMBEDDED]
            } else {
                self.kafka.keys().map(String::as_str).collect()
            }
        };
        match name {
            Some(name) if known().contains(&name) => Ok(name),
            Some(name) => Err(format!("there is no [kafka.{name}]{}", did_you_mean(name, &known()))),
            None => match known()[..] {
                [only] => Ok(only),
                ref several => {
                    Err(format!("say which Kafka: `kafka = \"...\"`, one of {}", several.join(", ")))
                }
            },
        }
    }
}

#[cfg(test)]
#[expect(clippy::result_large_err, reason = "figment's jail wants its own error")]
mod tests {
    use figment::Jail;

    use super::*;

    fn load(toml: &str) -> Result<Settings, String> {
        let mut result = None;
        Jail::expect_with(|jail| {
            jail.create_file("tidegate.toml", toml)?;
            result = Some(
                Settings::load(Some(Path::new("tidegate.toml")), &[]).map_err(|errors| errors.to_string()),
            );
            Ok(())
        });
        result.unwrap()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let settings = load("").unwrap();
        assert_eq!(settings.listeners["tcp"].bind.to_string(), "127.0.0.1:1883");
        assert_eq!(settings.rules_or_default()[0].outputs[0].topic.as_deref(), Some("mqtt"));
    }

    #[test]
    fn a_missing_file_is_an_error_and_not_an_empty_one() {
        let error = Settings::load(Some(Path::new("no-such-file.toml")), &[]).unwrap_err().to_string();
        assert!(error.contains("no-such-file.toml"), "{error}");
    }

    #[test]
    fn an_unknown_key_names_its_place_and_the_likely_meaning() {
        let error = load("[mqtt]\nmax_conections = 5\n").unwrap_err();
        assert!(error.contains("mqtt") && error.contains("did you mean `max_connections`?"), "{error}");
    }

    #[test]
    fn units_are_read_and_a_wrong_one_is_explained() {
        let settings = load("[shutdown]\ntimeout = \"90 s\"\n[mqtt]\nmax_packet_size = \"2 MiB\"\n").unwrap();
        assert_eq!(settings.mqtt.max_packet_size.bytes(), 2 * 1024 * 1024);
        assert_eq!(settings.shutdown.timeout.get().as_secs(), 90);
        let error = load("[shutdown]\ntimeout = \"90 parsecs\"\n").unwrap_err();
        assert!(error.contains("shutdown.timeout") && error.contains("parsecs"), "{error}");
    }

    #[test]
    fn the_environment_comes_over_the_file() {
        Jail::expect_with(|jail| {
            jail.create_file("tidegate.toml", "[http]\nbind = \"127.0.0.1:1\"\n")?;
            jail.set_env("TIDEGATE_HTTP__BIND", "127.0.0.1:2");
            jail.set_env("TIDEGATE_PORT", "tcp://10.0.0.1:1883");
            jail.set_env("TIDEGATE_KAFKA__MAIN__BOOTSTRAP", "[\"a:9092\"]");
            let settings = Settings::load(Some(Path::new("tidegate.toml")), &[]).unwrap();
            assert_eq!(settings.http.bind.port(), 2);
            assert_eq!(settings.kafka["main"].bootstrap, ["a:9092"]);
            Ok(())
        });
    }

    #[test]
    fn dead_letters_go_to_one_place_that_can_be() {
        let kafka = "[kafka.main]\nbootstrap = [\"a:9092\"]\n";
        let dead = |text: &str| load(&format!("{kafka}dead_letter = {{ {text} }}\n"));
        assert!(dead("topic = \"dead\"").is_ok());
        assert!(dead("file = \"dead.jsonl\", max_size = \"1 MiB\", files = 2").is_ok());
        for (wrong, word) in [
            ("topic = \"a b\"", "kafka.main.dead_letter.topic"),
            ("topic = \"dead\", file = \"dead.jsonl\"", "not both"),
            ("files = 0, file = \"dead.jsonl\"", "files"),
        ] {
            let error = dead(wrong).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn everyone_may_connect_from_other_machines_only_if_somebody_said_so() {
        let open = "[listeners.tcp]\nbind = \"0.0.0.0:1883\"\n";
        assert!(load(open).unwrap_err().contains("allow_anonymous"));
        assert!(load(&format!("{open}allow_anonymous = true\n")).is_ok());
        let tls =
            |keys: &str| format!("{open}tls = {{ certificate_file = \"c\", key_file = \"k\"{keys} }}\n");
        assert!(load(&tls("")).unwrap_err().contains("client_ca_file"));
        assert!(load(&tls(", client_ca_file = \"ca\"")).is_ok());
        assert!(
            load(&format!("{open}tls = {{ certificate_file = \"c\" }}\n")).unwrap_err().contains("key_file")
        );
    }

    #[test]
    fn a_kafka_that_wants_tls_and_a_password_has_the_keys_of_its_mechanism_and_no_others() {
        let settings = load(
            "[kafka.main]\nbootstrap = [\"a:9093\"]\ncompression = \"zstd\"\n[kafka.main.tls]\n\
             [kafka.main.sasl]\nmechanism = \"scram-sha-512\"\nusername = \"tide\"\npassword_file = \"p\"\n",
        )
        .unwrap();
        assert!(settings.kafka["main"].tls.is_some());
        for (wrong, place) in [
            ("compression = \"zst\"\n", "did you mean `zstd`?"),
            ("[kafka.main.tls]\ncertificate_file = \"c\"\n", "kafka.main.tls.key_file"),
            ("[kafka.main.sasl]\nmechanism = \"scram\"\n", "scram-sha-256"),
            ("[kafka.main.sasl]\nmechanism = \"plain\"\nusername = \"a\"\n", "kafka.main.sasl.password_file"),
            (
                "[kafka.main.sasl]\nmechanism = \"plain\"\npassword = \"secret\"\n",
                "no key `password` here; there are mechanism, username, password_file",
            ),
            ("[kafka.main.sasl]\nmechanism = \"oauthbearer\"\n", "kafka.main.sasl.token_file"),
            (
                "[kafka.main.sasl]\nmechanism = \"oauthbearer\"\ntoken_file = \"t\"\nusername = \"a\"\n",
                "kafka.main.sasl.username",
            ),
            (
                "[kafka.main.sasl]\nmechanism = \"oauthbearer\"\ntoken_endpoint = \"https://a\"\n",
                "kafka.main.sasl.client_secret_file",
            ),
        ] {
            let error = load(&format!("[kafka.main]\nbootstrap = [\"a:9093\"]\n{wrong}")).unwrap_err();
            assert!(error.contains(place), "{error}");
        }
    }

    #[test]
    fn a_file_for_tls_or_a_password_that_cannot_be_used_is_named_with_its_key() {
        Jail::expect_with(|jail| {
            let tls = TlsSettings { ca_file: Some("ca.pem".into()), ..TlsSettings::default() };
            let error = tls.open("kafka.main.tls").unwrap_err();
            assert!(error.contains("kafka.main.tls.ca_file: ca.pem: No such file"), "{error}");
            jail.create_file("ca.pem", "nothing")?;
            let error = tls.open("kafka.main.tls").unwrap_err();
            assert!(error.contains("kafka.main.tls.ca_file: ca.pem: no certificate"), "{error}");
            let sasl: SaslSettings =
                toml::from_str("mechanism = \"plain\"\nusername = \"a\"\npassword_file = \"pass\"").unwrap();
            let error = sasl.open("kafka.main.sasl").unwrap_err();
            assert!(error.contains("kafka.main.sasl.password_file: pass: No such file"), "{error}");
            jail.create_file("pass", "hunter2")?;
            let shown = format!("{:?}", sasl.open("kafka.main.sasl").unwrap());
            assert!(!shown.contains("hunter2"), "{shown}");
            Ok(())
        });
    }

    #[test]
    fn a_websocket_has_a_path_and_a_tcp_listener_has_none() {
        let listener = |keys: &str| load(&format!("[listeners.ws]\nbind = \"127.0.0.1:8083\"\n{keys}"));
        let settings = listener("protocol = \"websocket\"\n").unwrap();
        assert_eq!(settings.listeners["ws"].websocket(1000).path, "/mqtt");
        let error = listener("path = \"/x\"\n").unwrap_err();
        assert!(error.contains("listeners.ws.path") && error.contains("websocket"), "{error}");
        let error = listener("protocol = \"websocket\"\npath = \"x\"\n").unwrap_err();
        assert!(error.contains("does not begin with"), "{error}");
        let error = listener("mountpoint = \"plant\"\n").unwrap_err();
        assert!(error.contains("listeners.ws.mountpoint"), "{error}");
    }

    #[test]
    fn where_clients_are_sent_and_what_their_response_topics_begin_with_is_checked() {
        let settings = load(
            "[mqtt]\nserver_reference = \"other:1883\"\nredirect = \"for_now\"\nmax_qos = 1\n\
             response_information = \"responses/%c/\"\n",
        )
        .unwrap();
        assert_eq!(settings.mqtt.redirect, Some(RedirectSetting::ForNow));
        let error = load("[mqtt]\nresponse_information = \"responses/#\"\n").unwrap_err();
        assert!(error.contains("mqtt.response_information"), "{error}");
    }

    #[test]
    fn what_is_said_of_topics_is_checked_when_it_is_read() {
        let settings = load(
            "[mqtt]\ndeny_subscribe = [\"test/nosubscribe\"]\nsys_interval = \"0 s\"\n\
             shared_strategy = \"hash_topic\"\n[[rewrite]]\naction = \"publish\"\nsource = \"a/#\"\n\
             pattern = \"^a/(.+)$\"\ndestination = \"b/$1\"\n[[auto_subscribe]]\nfilter = \"c/%c\"\nqos = 1\n",
        )
        .unwrap();
        let rules = settings.topic_rules();
        assert_eq!((rules.rewrites.len(), rules.auto_subscriptions.len()), (1, 1));
        for (wrong, place) in [
            ("[mqtt]\ndeny_publish = [\"a/#/b\"]\n", "deny_publish"),
            ("[[rewrite]]\nsource = \"a\"\npattern = \"(\"\ndestination = \"b\"\n", "rewrite.0"),
            ("[[auto_subscribe]]\nfilter = \"a+\"\n", "auto_subscribe.0"),
            ("[[auto_subscribe]]\nfilter = \"a\"\nqos = 3\n", "0, 1 or 2"),
        ] {
            let error = load(wrong).unwrap_err();
            assert!(error.contains(place), "{error}");
        }
    }
}
