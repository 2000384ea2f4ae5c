//! `tidegate run`: puts the parts together, serves until a signal, and brings them down in order.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use prometheus::Registry;
use tidegate_broker::{Broker, ListenerOptions, Metrics};
use tidegate_kafka::Producer;
use tidegate_minikafka::MiniKafka;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::authentication::Methods;
use crate::cli::ConfigArgs;
use crate::config::{EMBEDDED, EmbeddedLogSettings, KafkaSettings, RuntimeSettings, Settings};
use crate::listening::Bound;
use crate::ready::Watched;
use crate::reload::{Destinations, Reload};
use crate::rules::CompiledRules;
use crate::sinks::SinkCollector;
use crate::sources::{CompiledSources, Sources};
use crate::store::StoreCollector;
use crate::{Failure, alarms, http, logging, prepare, print_line, sinks, store};

/// Runs the broker until SIGTERM or SIGINT.
pub(crate) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let (settings, rules, sources) = prepare(args)?;
    let methods = Methods::load(&settings).map_err(Failure::Usage)?;
    logging::install(&settings.log).map_err(Failure::Usage)?;
    let max_connections = connections_allowed(&settings);
    let runtime = runtime(&settings.runtime).map_err(|error| Failure::runtime(&error))?;
    let serving = serve(args, settings, (rules, sources), &methods, max_connections);
    runtime.block_on(serving).map_err(Failure::Runtime)
}

/// One thread needs no queues that other threads can take tasks from: it waits for the sockets itself.
fn runtime(settings: &RuntimeSettings) -> io::Result<Runtime> {
    let threads = match settings.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism()?.get(),
    };
    let mut builder = match threads {
        1 => runtime::Builder::new_current_thread(),
        _ => runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}

async fn serve(
    args: &ConfigArgs,
    settings: Settings,
    (rules, sources): (CompiledRules, CompiledSources),
    methods: &Methods,
    max_connections: usize,
) -> Result<(), String> {
    let mut signals =
        Signals::install().map_err(|error| format!("error: cannot wait for signals: {error}"))?;
    // Every port first, so that a taken one is told before anything else begins.
    let mut listeners = Vec::new();
    for (name, listener) in &settings.listeners {
        listeners.push(Bound::open(name, listener).await?);
    }
    let http_listener = http::bind(settings.http.bind).await?;
    let embedded = if settings.kafka.is_empty() {
        Some(start_embedded_log(&settings.embedded_log).await?)
    } else {
        None
    };

    let (store, recovered) = store::open(&settings.store)?;

    let registry = Registry::new();
    let metrics = Metrics::register(&registry).map_err(|error| format!("error: metrics: {error}"))?;
    let producers = start_producers(&settings, embedded.as_ref())?;
    registry
        .register(Box::new(SinkCollector::new(&producers)))
        .map_err(|error| format!("error: metrics: {error}"))?;

    registry
        .register(Box::new(StoreCollector::new(&store)))
        .map_err(|error| format!("error: metrics: {error}"))?;

    announce(&settings, (&rules, &sources), &listeners, embedded.as_ref());
    let mut destinations = Destinations::new(producers.clone(), registry.clone());
    let bindings = destinations.bind(rules).map_err(|error| format!("error: {error}"))?;
    let config = sinks::broker_config(&settings, max_connections);
    let broker = Broker::start_with_store(config, bindings, metrics, Arc::clone(&store), recovered)
        .map_err(|error| format!("error: rules: {error}"))?;
    let log = embedded.as_ref().map(MiniKafka::bootstrap);
    let sources = sources.start(&settings, log.as_deref(), &broker)?;
    registry.register(Box::new(sources.collector())).map_err(|error| format!("error: metrics: {error}"))?;
    let watched = Watched { producers: producers.clone(), store };
    tokio::spawn(alarms::watch(watched.clone(), broker.clone()));
    tokio::spawn(http::serve(http_listener, registry, watched));
    let max_packet_bytes = settings.mqtt.max_packet_size.as_usize();
    for (listener, named) in listeners.into_iter().zip(settings.listeners.values()) {
        let options = ListenerOptions {
            mountpoint: named.mountpoint(),
            authentication: methods.of(named),
            ..ListenerOptions::default()
        };
        listener.serve(broker.clone(), named, options, max_packet_bytes);
    }
    announce_ready(&settings);

    let shutdown = settings.shutdown.timeout.get();
    let mut reload = Reload::new(args.clone(), settings, destinations, broker.clone());
    while signals.wait().await == Wish::Reload {
        reload.run();
    }
    print_line("stopping: no new connections; a second signal ends at once");
    let now = Instant::now();
    // Of the time that there is, sources have a part: what they have not committed is read again.
    let (sources_until, deadline) = (now + shutdown / 3, now + shutdown);
    tokio::select! {
        () = stop((sources, sources_until), &broker, &producers, deadline) => {}
        () = signals.wait_for_end() => return Err("stopped at once: what was in flight was not acknowledged".to_owned()),
    }
    if let Some(embedded) = embedded {
        embedded.stop().await.map_err(|error| format!("error: embedded_log: {error}"))?;
    }
    Ok(())
}

/// Sources and devices first, then what they have in flight: nothing new arrives while the producers empty themselves.
async fn stop(
    (sources, sources_until): (Sources, Instant),
    broker: &Broker,
    producers: &BTreeMap<String, Arc<Producer>>,
    deadline: Instant,
) {
    sources.stop(sources_until).await;
    broker.shutdown().await;
    for producer in producers.values() {
        producer.close(deadline).await;
    }
}

async fn start_embedded_log(settings: &EmbeddedLogSettings) -> Result<MiniKafka, String> {
    let started = MiniKafka::builder()
        .bind(settings.bind.to_string())
        .data_dir(&settings.directory)
        .partitions(settings.partitions.get().into())
        .start()
        .await;
    started.map_err(|error| match error {
        tidegate_minikafka::Error::AddrInUse { addr } => format!(
            "error: embedded_log.bind: {addr} is taken. If that is your own Kafka, use it:\n\n    \
             tidegate --kafka {addr}\n\nor move the embedded log: TIDEGATE_EMBEDDED_LOG__BIND=127.0.0.1:9192"
        ),
        other => format!("error: embedded_log: {other}"),
    })
}

fn start_producers(
    settings: &Settings,
    embedded: Option<&MiniKafka>,
) -> Result<BTreeMap<String, Arc<Producer>>, String> {
    let handle = runtime::Handle::current();
    if let Some(log) = embedded {
        // On this machine, as the disk would be: nothing to spill for.
        let producer = Producer::start(sinks::embedded_config(&log.bootstrap()), &handle);
        return Ok(BTreeMap::from([(EMBEDDED.to_owned(), Arc::new(producer))]));
    }
    let start = |(name, kafka): (&String, &KafkaSettings)| {
        sinks::try_dead_letter_file(name, kafka)?;
        let config = sinks::kafka_config(name, kafka)?;
        let producer = match sinks::spill_config(name, &kafka.spill)? {
            Some(spill) => Producer::start_spilling(config, spill, &handle)
                .map_err(|error| sinks::spill_error(name, &kafka.spill, &error))?,
            None => Producer::start(config, &handle),
        };
        Ok((name.clone(), Arc::new(producer)))
    };
    settings.kafka.iter().map(start).collect()
}

/// Says what was started.
fn announce(
    settings: &Settings,
    (rules, sources): (&CompiledRules, &CompiledSources),
    listeners: &[Bound],
    embedded: Option<&MiniKafka>,
) {
    print_line(&format!("tidegate {}", env!("CARGO_PKG_VERSION")));
    for (listener, named) in listeners.iter().zip(settings.listeners.values()) {
        let Ok(address) = listener.address(named) else { continue };
        print_line(&format!("  mqtt   {address}"));
    }
    match embedded {
        Some(log) => print_line(&format!(
            "  kafka  {}  embedded log in {}: A SINGLE COPY, for trying out",
            log.bootstrap(),
            settings.embedded_log.directory.display()
        )),
        None => {
            for (name, kafka) in &settings.kafka {
                print_line(&format!("  kafka  {}  ({name})", kafka.bootstrap.join(",")));
            }
        }
    }
    if settings.store.enabled {
        print_line(&format!("  store  {}", settings.store.directory.display()));
    }
    for (id, sql, destination) in rules.routes() {
        let sql = sql.split_whitespace().collect::<Vec<_>>().join(" ");
        print_line(&format!("  rule   {id}: {sql} -> {destination}"));
    }
    for (id, origin, topic) in sources.routes() {
        print_line(&format!("  source {id}: {origin} -> {topic}"));
    }
    print_line(&format!("  http   http://{}/metrics, /healthz and /readyz", settings.http.bind));
}

/// Says that it listens; and, to somebody who runs it without a configuration, what to try.
fn announce_ready(settings: &Settings) {
    if !settings.kafka.is_empty() || !settings.rules.is_empty() {
        print_line("ready");
        return;
    }
    let log = settings.embedded_log.bind;
    print_line("ready. Try, in another terminal:");
    print_line("  mosquitto_pub -q 1 -t sensors/room1 -m '{\"temperature\": 21.5}'");
    print_line(&format!("  {} tail mqtt --from-beginning --kafka {log}", program()));
    print_line(&format!("  kcat -C -b {log} -t mqtt -f '%k %s\\n'"));
}

/// How the user called us, so that the line works where it is pasted.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "tidegate".to_owned())
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Reload,
    End,
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them. Cancel safe.
    async fn wait(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::End,
            _ = self.interrupt.recv() => Wish::End,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }

    /// Waits for the next that ends the process: it is too late for others. Cancel safe.
    async fn wait_for_end(&mut self) {
        while self.wait().await != Wish::End {}
    }
}

/// Takes all file descriptors that we may have, and returns how many connections that allows: what is configured, with a
/// warning where it is too much, and otherwise all but a reserve.
fn connections_allowed(settings: &Settings) -> usize {
    /// Descriptors for other things than connections: log, Kafka, HTTP.
    const RESERVED: u64 = 64;
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let allowed = usize::try_from(limit.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    let Some(wanted) = settings.mqtt.max_connections else { return allowed };
    if wanted > allowed {
        tracing::warn!(
            open_files = limit,
            mqtt.max_connections = wanted,
            "more connections are configured than the limit of open files allows: raise it (`ulimit -Hn`, LimitNOFILE=)"
        );
    }
    wanted
}
