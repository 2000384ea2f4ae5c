//! From a Kafka record to an MQTT message, or why it is none; and one source's way from the one to the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tidegate_broker::{Injected, Injection, Injector, NotPublished, NotSafe, QoS, UserProperties};
use tidegate_kafka::{Batch, Source};
use tokio::sync::watch;

use crate::config::{SourceSettings, UnsafeCharacters};
use crate::sources::template::{Read, Template};

/// What the publisher of a source's messages begins with. Rules write it into the record header below, so that a record
/// that they made of such a message is known.
const PUBLISHER_PREFIX: &str = "$source/";

/// The headers that rules write by default, of which the first of each name is theirs.
const TOPIC_HEADER: &str = "mqtt.topic";
const CLIENT_ID_HEADER: &str = "mqtt.client_id";

/// The user property that carries the key.
const KEY_PROPERTY: &str = "kafka.key";

/// Records that are published before it is awaited that they are safe, at the most: one sync of the store for all.
const RECORDS_PER_SYNC: usize = 256;

/// Why a record is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    /// It is ours: it would come back to where it came from.
    Loop,
    /// The topic's template names something that it does not have.
    TopicIncomplete,
    /// What the template makes of it is no topic name, or one that nobody may publish to.
    TopicInvalid,
    /// It is larger than an MQTT packet may be.
    TooLarge,
}

impl Skip {
    pub(super) const ALL: [Self; 4] = [Self::Loop, Self::TopicIncomplete, Self::TopicInvalid, Self::TooLarge];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loop => "loop",
            Self::TopicIncomplete => "topic_incomplete",
            Self::TopicInvalid => "topic_invalid",
            Self::TooLarge => "too_large",
        }
    }
}

/// What became of the records of a source.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) published: AtomicU64,
    pub(super) skipped: [AtomicU64; Skip::ALL.len()],
    /// Headers that are no text, and so no user properties.
    pub(super) headers_left_out: AtomicU64,
    pub(super) waited_ms: AtomicU64,
    pub(super) given_up: AtomicU64,
    /// A subscriber, or the destination of a rule, holds the source up.
    pub(super) is_waiting: AtomicBool,
    /// The store or a destination failed; nothing is read before a restart.
    pub(super) has_failed: AtomicBool,
}

impl Carried {
    pub(super) fn skipped(&self, skip: Skip) -> u64 {
        self.skipped.get(skip as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    fn skip(&self, id: &str, skip: Skip, read: &Read<'_>) {
        let Some(counter) = self.skipped.get(skip as usize) else { return };
        if counter.fetch_add(1, Ordering::Relaxed) == 0 && skip != Skip::Loop {
            // The first of its kind; the counter tells of the others.
            tracing::warn!(
                source = id,
                topic = read.topic,
                partition = read.partition,
                offset = read.record.offset,
                reason = skip.name(),
                "record skipped"
            );
        }
    }

    fn count(&self, injected: &Injected) {
        self.published.fetch_add(1, Ordering::Relaxed);
        let waited = u64::try_from(injected.waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_ms.fetch_add(waited, Ordering::Relaxed);
        self.given_up.fetch_add(injected.given_up as u64, Ordering::Relaxed);
    }
}

/// How a source's records become messages.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    id: String,
    topic: Template,
    payload: Template,
    qos: QoS,
    retain: bool,
    headers: bool,
    unsafe_characters: UnsafeCharacters,
    loop_guard: bool,
}

impl Mapping {
    /// Compiles what the settings say.
    ///
    /// # Errors
    /// Everything that is wrong: the key, and what is wrong with it.
    pub(crate) fn compile(settings: &SourceSettings) -> Result<Self, Vec<(&'static str, String)>> {
        let mut problems = Vec::new();
        let mut template =
            |key, text: &str| Template::compile(text).map_err(|problem| problems.push((key, problem))).ok();
        let topic = template("mqtt_topic", &settings.mqtt_topic);
        let payload = template("payload", &settings.payload);
        if settings.mqtt_topic.is_empty() {
            problems.push(("mqtt_topic", "an MQTT topic has one character at least".to_owned()));
        }
        if let Some(topic) = &topic {
            if topic.literals().any(|text| text.contains(['+', '#', '\0'])) {
                let problem =
                    "messages are published to topics without `+`, `#` and NUL; those are for subscriptions";
                problems.push(("mqtt_topic", problem.to_owned()));
            }
            if settings.mqtt_topic.starts_with('$') && !settings.mqtt_topic.starts_with("${") {
                problems.push(("mqtt_topic", "topics that begin with `$` are for the broker".to_owned()));
            }
        }
        match topic.zip(payload) {
            Some((topic, payload)) if problems.is_empty() => Ok(Self {
                id: settings.id.clone(),
                topic,
                payload,
                qos: settings.qos.get(),
                retain: settings.retain,
                headers: settings.headers_as_user_properties,
                unsafe_characters: settings.unsafe_characters,
                loop_guard: settings.loop_guard,
            }),
            _ => Err(problems),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Who publishes its messages.
    pub(super) fn publisher(&self) -> String {
        format!("{PUBLISHER_PREFIX}{}", self.id)
    }

    /// The MQTT topic of a record.
    fn topic(&self, read: &Read<'_>) -> Result<String, Skip> {
        let made_safe = |byte| match (self.unsafe_characters, byte) {
            (UnsafeCharacters::Replace, b'+' | b'#' | 0) => b'_',
            (_, byte) => byte,
        };
        let topic = self.topic.render_strict(read, made_safe).ok_or(Skip::TopicIncomplete)?;
        String::from_utf8(topic).map_err(|_| Skip::TopicInvalid)
    }

    /// Whether a record came from here, and would come back to where it came from: a rule made it of a message on the same
    /// MQTT topic, or of a message that a source had published.
    fn is_loop(&self, read: &Read<'_>, topic: &str) -> bool {
        self.loop_guard
            && (read.header(TOPIC_HEADER) == Some(topic.as_bytes())
                || read
                    .header(CLIENT_ID_HEADER)
                    .is_some_and(|id| id.starts_with(PUBLISHER_PREFIX.as_bytes())))
    }

    /// Key and headers as user properties, in order. What is no text is left out; a null is empty.
    fn user_properties(&self, read: &Read<'_>, carried: &Carried) -> UserProperties<'static> {
        let mut properties = UserProperties::default();
        if !self.headers {
            return properties;
        }
        let key = read.record.key.as_ref().map(|key| (KEY_PROPERTY, Some(key)));
        let headers = read.record.headers.iter().map(|(name, value)| (name.as_str(), value.as_ref()));
        for (name, value) in key.into_iter().chain(headers) {
            let value = value.map_or(Ok(""), |value| std::str::from_utf8(value));
            let is_pushed = value.is_ok_and(|value| properties.push(name, value).is_ok());
            carried.headers_left_out.fetch_add(u64::from(!is_pushed), Ordering::Relaxed);
        }
        properties
    }
}

/// Carries one source's records until it is told to stop.
pub(super) struct Carrier {
    pub(super) mapping: Mapping,
    pub(super) injector: Injector,
    pub(super) carried: Arc<Carried>,
    pub(super) stop: watch::Receiver<bool>,
}

/// Why a batch is not carried on.
enum Halt {
    /// The partition went to another member, or the broker stops: the rest is somebody else's, or for later.
    Told,
    /// It is not known whether what was published is safe.
    Failed(NotSafe),
}

impl Carrier {
    /// Carries until it is told to stop, or the store fails; returns the source, to be closed.
    pub(super) async fn run(mut self, mut source: Source) -> Source {
        loop {
            let mut stop = self.stop.clone();
            let batch = tokio::select! {
                batch = source.next() => batch,
                _ = stop.wait_for(|stop| *stop) => return source,
            };
            let Some(batch) = batch else { return source };
            if let Err(Halt::Failed(error)) = self.carry(batch).await {
                tracing::error!(source = self.mapping.id(), %error, "the source stands still until a restart");
                self.carried.has_failed.store(true, Ordering::Relaxed);
                return source;
            }
        }
    }

    /// Publishes the records of a batch. What it reports as handed over is safe.
    async fn carry(&mut self, mut batch: Batch) -> Result<(), Halt> {
        let count = batch.records().len();
        let mut done = 0;
        while done < count {
            let upto = count.min(done + RECORDS_PER_SYNC);
            let mut published = done;
            let mut told = Ok(());
            while published < upto && told.is_ok() {
                told = self.publish(&batch, published).await;
                published += usize::from(told.is_ok());
            }
            self.is_waiting(true);
            let safe = self.injector.safe().await;
            self.is_waiting(false);
            safe.map_err(Halt::Failed)?;
            batch.handed_over(published);
            told?;
            done = published;
        }
        batch.finish();
        Ok(())
    }

    /// Publishes one record, or skips it. Waits for subscribers that are behind, as long as the partition is ours.
    async fn publish(&mut self, batch: &Batch, index: usize) -> Result<(), Halt> {
        let Some(record) = batch.records().get(index) else { return Ok(()) };
        let read = Read { topic: batch.topic(), partition: batch.partition(), record };
        let topic = match self.mapping.topic(&read) {
            Ok(topic) if self.mapping.is_loop(&read, &topic) => Err(Skip::Loop),
            other => other,
        };
        let topic = match topic {
            Ok(topic) => topic,
            Err(skip) => {
                self.carried.skip(self.mapping.id(), skip, &read);
                return Ok(());
            }
        };
        let payload = self.mapping.payload.render(&read);
        let injection = Injection {
            topic: &topic,
            payload: &payload,
            qos: self.mapping.qos,
            retain: self.mapping.retain,
            user_properties: self.mapping.user_properties(&read, &self.carried),
        };
        self.is_waiting(true);
        let published = tokio::select! {
            biased;
            published = self.injector.publish(&injection) => Ok(published),
            () = batch.revoked() => Err(Halt::Told),
            _ = self.stop.wait_for(|stop| *stop) => Err(Halt::Told),
        };
        self.is_waiting(false);
        match published? {
            Ok(injected) => self.carried.count(&injected),
            Err(NotPublished::TooLarge { .. }) => {
                self.carried.skip(self.mapping.id(), Skip::TooLarge, &read);
            }
            Err(_) => self.carried.skip(self.mapping.id(), Skip::TopicInvalid, &read),
        }
        Ok(())
    }

    fn is_waiting(&self, is_waiting: bool) {
        self.carried.is_waiting.store(is_waiting, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_kafka::FetchedRecord;

    use super::*;

    fn mapping(extra: &str) -> Mapping {
        let toml = format!(
            "id = \"s\"\ntopics = [\"t\"]\ngroup = \"g\"\nmqtt_topic = \"${{topic}}/${{key}}\"\n{extra}"
        );
        Mapping::compile(&toml::from_str(&toml).unwrap()).unwrap()
    }

    fn record(key: Option<&'static [u8]>, headers: &[(&str, Option<&'static [u8]>)]) -> FetchedRecord {
        FetchedRecord {
            offset: 0,
            timestamp_ms: 0,
            key: key.map(Into::into),
            value: None,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(Into::into)))
                .collect(),
        }
    }

    fn read(record: &FetchedRecord) -> Read<'_> {
        Read { topic: "t", partition: 0, record }
    }

    #[test]
    fn a_topic_that_a_record_cannot_make_is_skipped_with_its_reason() {
        let strict = mapping("");
        for (key, expected) in [
            (Some(&b"a/b"[..]), Ok("t/a/b".to_owned())),
            (None, Err(Skip::TopicIncomplete)),
            (Some(b"\xff"), Err(Skip::TopicInvalid)),
        ] {
            assert_eq!(strict.topic(&read(&record(key, &[]))), expected);
        }
        let replacing = mapping("unsafe_characters = \"replace\"");
        assert_eq!(replacing.topic(&read(&record(Some(b"a+#\0b"), &[]))).unwrap(), "t/a___b");
    }

    #[test]
    fn our_own_records_do_not_go_back_to_where_they_came_from() {
        let guarded = mapping("");
        let is_loop = |mapping: &Mapping, headers: &[(&str, Option<&'static [u8]>)]| {
            let record = record(Some(b"k"), headers);
            mapping.is_loop(&read(&record), &mapping.topic(&read(&record)).unwrap())
        };
        assert!(is_loop(&guarded, &[("mqtt.topic", Some(b"t/k"))]));
        assert!(!is_loop(&guarded, &[("mqtt.topic", Some(b"t/other")), ("mqtt.client_id", Some(b"device"))]));
        assert!(is_loop(&guarded, &[("mqtt.topic", Some(b"x")), ("mqtt.client_id", Some(b"$source/any"))]));
        assert!(!is_loop(&guarded, &[]));
        // What a device puts into its user properties stands behind what the rule wrote.
        assert!(!is_loop(&guarded, &[("mqtt.topic", Some(b"x")), ("mqtt.topic", Some(b"t/k"))]));
        assert!(!is_loop(&mapping("loop_guard = false"), &[("mqtt.topic", Some(b"t/k"))]));
    }

    #[test]
    fn key_and_headers_become_user_properties_as_far_as_they_are_text() {
        let carried = Carried::default();
        let record = record(
            Some(b"k"),
            &[("h", Some(b"1")), ("h", Some(b"2")), ("null", None), ("bytes", Some(b"\xff"))],
        );
        let properties = mapping("").user_properties(&read(&record), &carried);
        let pairs: Vec<_> = properties.iter().collect();
        assert_eq!(pairs, [("kafka.key", "k"), ("h", "1"), ("h", "2"), ("null", "")]);
        assert_eq!(carried.headers_left_out.load(Ordering::Relaxed), 1);
        let without = mapping("headers_as_user_properties = false");
        assert!(without.user_properties(&read(&record), &carried).is_empty());
    }
}
