//! Kafka topics that become MQTT messages: `[[sources]]`.

mod carrier;
mod metrics;
mod template;

use std::fmt::Write as _;
use std::sync::Arc;

use tidegate_broker::{Broker, InjectorOptions};
use tidegate_kafka::{Config, Source, SourceWatch};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::config::{EMBEDDED, OutputKind, Settings, SourceSettings};
use crate::sinks;
use crate::sources::carrier::{Carried, Carrier, Mapping};
pub(crate) use crate::sources::metrics::SourceCollector;

/// The sources of a configuration, each with the name of the Kafka that it reads.
pub(crate) struct CompiledSources(Vec<CompiledSource>);

struct CompiledSource {
    settings: SourceSettings,
    mapping: Mapping,
    kafka: String,
}

impl CompiledSources {
    /// Compiles all sources.
    ///
    /// # Errors
    /// All that is wrong with all of them, for a terminal.
    pub(crate) fn compile(settings: &Settings) -> Result<Self, String> {
        let mut problems = String::new();
        let mut sources: Vec<CompiledSource> = Vec::new();
        for (index, source) in settings.sources.iter().enumerate() {
            let name = if source.id.is_empty() { index.to_string() } else { source.id.clone() };
            let mut problem = |key: &str, what: &str| {
                let _ = writeln!(problems, "error: sources.{name}.{key}: {what}");
            };
            if source.id.is_empty() {
                problem("id", "give it a name; metrics and logs use it");
            }
            if settings.sources[..index].iter().any(|other| other.id == source.id) {
                problem("id", "another source has it; choose a name of its own");
            }
            if source.topics.is_empty() || source.topics.iter().any(String::is_empty) {
                problem("topics", "name at least one Kafka topic: `topics = [\"...\"]`");
            }
            if source.group.is_empty() {
                problem("group", "name the consumer group; brokers with one group share the partitions");
            }
            if source.session_timeout.get().as_millis() < 1000 {
                problem(
                    "session_timeout",
                    "one second at least; Kafka itself takes no less than 6 s unless told",
                );
            }
            if source.buffer.as_usize() == 0 {
                problem("buffer", "without memory nothing can be read; such as `buffer = \"16 MiB\"`");
            }
            let kafka = match settings.kafka_named(source.kafka.as_deref()) {
                Ok(kafka) => Some(kafka.to_owned()),
                Err(what) => {
                    problem("kafka", &what);
                    None
                }
            };
            if let Some(kafka) = &kafka {
                for rule in circles(settings, source, kafka) {
                    let what = format!(
                        "rule `{rule}` writes to a topic that this source reads, without the default headers that show \
                         what came from here, so messages would go in circles; set `default_headers = true` there, or \
                         `rules = false` here"
                    );
                    problem("rules", &what);
                }
            }
            let mapping = Mapping::compile(source)
                .map_err(|all| all.iter().for_each(|(key, what)| problem(key, what)))
                .ok();
            if let Some((kafka, mapping)) = kafka.zip(mapping) {
                sources.push(CompiledSource { settings: source.clone(), mapping, kafka });
            }
        }
        if problems.is_empty() { Ok(Self(sources)) } else { Err(problems.trim_end().to_owned()) }
    }

    /// How many sources there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What each reads and where to, for people: id, origin, MQTT topic.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&str, String, &str)> {
        self.0.iter().map(|source| {
            let settings = &source.settings;
            let origin = format!("{}:{} (group {})", source.kafka, settings.topics.join(","), settings.group);
            (settings.id.as_str(), origin, settings.mqtt_topic.as_str())
        })
    }

    /// Starts all of them. `embedded` is the address of the embedded log, where that is read.
    ///
    /// # Errors
    /// What is wrong with a file for TLS or SASL, for a terminal.
    pub(crate) fn start(
        self,
        settings: &Settings,
        embedded: Option<&str>,
        broker: &Broker,
    ) -> Result<Sources, String> {
        let (stop, stopping) = watch::channel(false);
        let mut sources = Sources { stop, running: Vec::new() };
        for CompiledSource { settings: source, mapping, kafka } in self.0 {
            let config = kafka_config(settings, &kafka, embedded)?;
            let reading = Source::start(config, source.source_config(), &Handle::current());
            let options =
                InjectorOptions { rules: source.rules, patience: source.slow_subscriber_wait.get() };
            let injector = broker.injector(&mapping.publisher(), options);
            let carried = Arc::<Carried>::default();
            let carrier =
                Carrier { injector, carried: Arc::clone(&carried), stop: stopping.clone(), mapping };
            sources.running.push(Running {
                id: source.id,
                watch: reading.watch(),
                carried,
                task: tokio::spawn(carrier.run(reading)),
            });
        }
        Ok(sources)
    }
}

/// The rules that write to what a source reads, without showing that they did.
fn circles<'a>(
    settings: &'a Settings,
    source: &'a SourceSettings,
    kafka: &'a str,
) -> impl Iterator<Item = &'a str> {
    let writes = move |output: &crate::config::OutputSettings| {
        output.kind() == OutputKind::Kafka
            && output.default_headers == Some(false)
            && output.topic.as_ref().is_some_and(|topic| source.topics.contains(topic))
            && settings.kafka_of(output).is_ok_and(|name| name == kafka)
    };
    let rules = settings.rules.iter().filter(move |rule| source.rules && rule.outputs.iter().any(writes));
    rules.map(|rule| rule.id.as_str())
}

fn kafka_config(settings: &Settings, name: &str, embedded: Option<&str>) -> Result<Config, String> {
    Ok(match (settings.kafka.get(name), embedded) {
        (Some(kafka), _) => sinks::kafka_config(name, kafka)?,
        (None, Some(bootstrap)) if name == EMBEDDED => sinks::embedded_config(bootstrap),
        // A name was checked when the source was compiled.
        (None, _) => Config::default(),
    })
}

/// Sources that run.
pub(crate) struct Sources {
    stop: watch::Sender<bool>,
    running: Vec<Running>,
}

struct Running {
    id: String,
    watch: SourceWatch,
    carried: Arc<Carried>,
    task: JoinHandle<Source>,
}

impl Sources {
    /// What reads their counters.
    pub(crate) fn collector(&self) -> SourceCollector {
        let sources = self
            .running
            .iter()
            .map(|running| (running.id.clone(), running.watch.clone(), Arc::clone(&running.carried)));
        SourceCollector::new(sources.collect())
    }

    /// Lets each finish what it holds, commit and leave its group, all until then.
    pub(crate) async fn stop(self, deadline: Instant) {
        self.stop.send_replace(true);
        let closing: Vec<_> = self
            .running
            .into_iter()
            .map(|Running { task, .. }| {
                tokio::spawn(async move {
                    if let Ok(Ok(source)) = tokio::time::timeout_at(deadline, task).await {
                        source.close(deadline).await;
                    }
                })
            })
            .collect();
        for closed in closing {
            // A source that panicked has nothing to close.
            let _ = closed.await;
        }
    }
}
