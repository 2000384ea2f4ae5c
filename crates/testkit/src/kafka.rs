//! A real Apache Kafka for tests: the repository's `scripts/kafka`, held by a value that ends it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs, io};

use parking_lot::Mutex;

use crate::ledger::Found;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/kafka");

/// Why a real Kafka could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KafkaError {
    /// The script, or one of Kafka's tools, failed; with what it printed.
    #[error("scripts/kafka {command} failed ({status}):\n{stderr}")]
    Script {
        /// The arguments.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Its standard error.
        stderr: String,
    },
    /// A tool printed what this module does not understand.
    #[error("unexpected output of scripts/kafka {command}: {text}")]
    Output {
        /// The arguments.
        command: String,
        /// The line, or what is missing.
        text: String,
    },
    /// The script could not be run or its folder not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One node of Apache Kafka on 127.0.0.1, in a temporary folder. Dropping it ends the process and deletes the folder.
///
/// Every method blocks for as long as Kafka takes (a start is about four seconds, a tool one); in an async test call
/// them through `tokio::task::spawn_blocking`. They take `&self`, so that one task can kill what another publishes to.
#[derive(Debug)]
pub struct RealKafka {
    dir: PathBuf,
    bootstrap: String,
    /// What the start printed.
    lines: Vec<u8>,
    /// By topic: what [`fence_producer`](Self::fence_producer) had Kafka append, which no consumer is given.
    markers: Mutex<BTreeMap<String, u64>>,
}

impl RealKafka {
    /// Starts an instance with the script's defaults, and returns when it serves.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the jars cannot be fetched or the server does not start.
    pub fn start() -> Result<Self, KafkaError> {
        Self::start_with(&[])
    }

    /// As [`start`](Self::start), with further options of `scripts/kafka start`: `--partitions`, `--auto-create`,
    /// `--listener NAME=PROTOCOL`, `--advertise NAME=HOST:PORT`, `--scram USER=PASSWORD`, `--set KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the jars cannot be fetched or the server does not start.
    pub fn start_with(options: &[&str]) -> Result<Self, KafkaError> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("tidegate-kafka-{}-{number}", std::process::id()));
        // Made before it is started, so that a start that fails half-way is cleaned up by the drop.
        let mut kafka = Self { dir, bootstrap: String::new(), lines: Vec::new(), markers: Mutex::default() };
        kafka.lines = kafka.script("start", options)?;
        kafka.bootstrap = field(&kafka.lines, "bootstrap")?;
        Ok(kafka)
    }

    /// Starts another node of this instance's cluster, with a number above 1; with the options of
    /// [`start_with`](Self::start_with). The first node is the only controller: without it none is elected.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the server does not start.
    pub fn join(&self, node: u32, options: &[&str]) -> Result<Self, KafkaError> {
        let (node, first) = (node.to_string(), self.dir.display().to_string());
        Self::start_with(&[&["--join", &first, "--node", &node], options].concat())
    }

    /// The address of its listener: `127.0.0.1:PORT`. It stays over restarts.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The address of a further listener, by the name that it was started with. It stays over restarts.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Output`] when there is none of this name.
    pub fn listener(&self, name: &str) -> Result<String, KafkaError> {
        field(&self.lines, name)
    }

    /// Changes the password of a user who was started with `--scram`.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Script`] when Kafka refuses.
    pub fn set_password(&self, user: &str, password: &str) -> Result<(), KafkaError> {
        self.script("password", &[user, password]).map(drop)
    }

    /// The folder with its configuration, data and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id, while it runs.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Script`] when it does not run.
    pub fn pid(&self) -> Result<u32, KafkaError> {
        let lines = self.script("status", NO_ARGS)?;
        let pid = field(&lines, "pid")?;
        pid.parse().map_err(|_| KafkaError::Output { command: "status".into(), text: pid })
    }

    /// Shuts it down in order.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the script fails.
    pub fn stop(&self) -> Result<(), KafkaError> {
        self.script("stop", NO_ARGS).map(drop)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the script fails.
    pub fn kill(&self) -> Result<(), KafkaError> {
        self.script("kill", NO_ARGS).map(drop)
    }

    /// Starts it again on the same port and data, and returns when it serves.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when it does not start.
    pub fn restart(&self) -> Result<(), KafkaError> {
        self.script("restart", NO_ARGS).map(drop)
    }

    /// Changes the address that clients of a further listener are told; [`restart`](Self::restart) makes it so.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Output`] when there is no listener of this name.
    pub fn advertise(&self, listener: &str, address: &str) -> Result<(), KafkaError> {
        let path = self.dir.join("server.properties");
        let settings = fs::read_to_string(&path)?;
        let name = format!(",{listener}://");
        let line =
            settings.lines().find(|line| line.starts_with("advertised.listeners=") && line.contains(&name));
        let (head, old) =
            line.and_then(|line| line.split_once(&name)).ok_or_else(|| output("advertise", listener))?;
        let tail = old.find(',').map_or("", |end| &old[end..]);
        let changed =
            settings.replace(&format!("{head}{name}{old}"), &format!("{head}{name}{address}{tail}"));
        Ok(fs::write(path, changed)?)
    }

    /// Stops the process in its tracks (SIGSTOP): its connections stay open and nothing answers.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when it does not run.
    pub fn freeze(&self) -> Result<(), KafkaError> {
        self.signal("-STOP")
    }

    /// Lets a frozen process go on (SIGCONT).
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when it does not run.
    pub fn thaw(&self) -> Result<(), KafkaError> {
        self.signal("-CONT")
    }

    /// Creates a topic; `configs` are Kafka's topic settings as `KEY=VALUE`.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Script`] when Kafka refuses.
    pub fn create_topic(&self, topic: &str, partitions: u32, configs: &[&str]) -> Result<(), KafkaError> {
        let partitions = partitions.to_string();
        let mut args = vec![topic, partitions.as_str()];
        args.extend(configs.iter().flat_map(|config| ["--config", config]));
        self.script("create", &args).map(drop)
    }

    /// Creates a topic whose partitions lie where it is said: `1:2,2:3` puts partition 0 on the nodes 1 and 2, the first
    /// of which leads it, and partition 1 on 2 and 3.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Script`] when Kafka refuses.
    pub fn place_topic(&self, topic: &str, nodes: &str, configs: &[&str]) -> Result<(), KafkaError> {
        let mut args = vec![topic, "1", "--assign", nodes];
        args.extend(configs.iter().flat_map(|config| ["--config", config]));
        self.script("create", &args).map(drop)
    }

    /// Deletes a topic with all its records.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Script`] when Kafka refuses.
    pub fn delete_topic(&self, topic: &str) -> Result<(), KafkaError> {
        self.script("delete", &[topic]).map(drop)
    }

    /// Runs a class of Kafka's own tools against this instance, and returns what it printed.
    ///
    /// # Errors
    ///
    /// [`KafkaError::Script`] when the tool fails.
    pub fn tool(&self, class: &str, args: &[&str]) -> Result<String, KafkaError> {
        let args = [&["tool", class, "--bootstrap-server", self.bootstrap()], args].concat();
        let text = run(Command::new(SCRIPT).args(args).stdin(Stdio::null()), &format!("tool {class}"))?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Returns the end offset of each partition, as Kafka's own `GetOffsetShell` tells it.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when the topic does not exist or Kafka does not answer.
    pub fn end_offsets(&self, topic: &str) -> Result<BTreeMap<i32, i64>, KafkaError> {
        let lines = self.script("offsets", &[topic])?;
        let lines = String::from_utf8_lossy(&lines);
        lines.lines().map(|line| parse_offset(topic, line).ok_or_else(|| output("offsets", line))).collect()
    }

    /// Returns the sum of the end offsets: how many records were ever appended, control records included.
    ///
    /// # Errors
    ///
    /// As [`end_offsets`](Self::end_offsets).
    pub fn record_count(&self, topic: &str) -> Result<u64, KafkaError> {
        Ok(self.end_offsets(topic)?.values().map(|&end| u64::try_from(end).unwrap_or(0)).sum())
    }

    /// Returns every committed record of a topic, as Kafka's own console consumer reads them: partition by partition
    /// in the order of offsets, partitions interleaved.
    ///
    /// Keys and values may be any bytes but those of the separators, 0x1F and 0x1E.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when Kafka does not answer or gives fewer records than its offsets promise within ten seconds.
    pub fn records(&self, topic: &str) -> Result<Vec<Record>, KafkaError> {
        let markers = self.markers.lock().get(topic).copied().unwrap_or(0);
        let count = self.record_count(topic)?.saturating_sub(markers);
        if count == 0 {
            return Ok(Vec::new());
        }
        let count = count.to_string();
        let text = self.script(
            "consume",
            &[
                topic,
                "--max-messages",
                &count,
                "--timeout-ms",
                "10000",
                "--isolation-level",
                "read_committed",
                "--formatter-property",
                "print.timestamp=true",
                "--formatter-property",
                "print.partition=true",
                "--formatter-property",
                "print.offset=true",
                "--formatter-property",
                "print.key=true",
                "--formatter-property",
                "null.literal=\u{1d}",
                "--formatter-property",
                "key.separator=\u{1f}",
                "--formatter-property",
                "line.separator=\u{1e}",
            ],
        )?;
        let records = text
            .split(|&byte| byte == 0x1e)
            .filter(|line| !line.is_empty())
            .map(|line| Record::parse(line).ok_or_else(|| output("consume", &String::from_utf8_lossy(line))))
            .collect::<Result<Vec<_>, _>>()?;
        if records.len().to_string() != count {
            return Err(output(
                "consume",
                &format!("{} records where offsets promise {count}", records.len()),
            ));
        }
        Ok(records)
    }

    /// How far a consumer group is, as Kafka's own `kafka-consumer-groups --describe` tells it: for each topic and
    /// partition the committed offset, the end, and the client id of the member that reads it. Partitions without a
    /// committed offset are left out.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when Kafka does not know the group.
    pub fn group(&self, group: &str) -> Result<BTreeMap<(String, i32), GroupPlace>, KafkaError> {
        let class = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let text = self.tool(class, &["--describe", "--group", group])?;
        Ok(text.lines().filter_map(|line| parse_group_place(group, line)).collect())
    }

    /// Fences the producer that wrote last into a partition, with Kafka's own `kafka-transactions abort`: a marker of the
    /// producer's next epoch is appended, and Kafka refuses what comes under the old one.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when nobody has written into the partition, or Kafka refuses.
    pub fn fence_producer(&self, topic: &str, partition: u32) -> Result<(), KafkaError> {
        let class = "org.apache.kafka.tools.TransactionsCommand";
        let partition = partition.to_string();
        let place = ["--topic", topic, "--partition", &partition];
        let text = self.tool(class, &[&["describe-producers"][..], &place].concat())?;
        let producers = text.lines().filter_map(parse_producer);
        let (_, id, epoch) = producers.max().ok_or_else(|| output("describe-producers", &text))?;
        let (id, epoch) = (id.to_string(), (epoch + 1).to_string());
        let epoch = ["--producer-id", &id, "--producer-epoch", &epoch, "--coordinator-epoch", "0"];
        self.tool(class, &[&["abort"][..], &place, &epoch].concat())?;
        *self.markers.lock().entry(topic.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Appends records with Kafka's own console producer: text without line breaks, keys without tabs.
    ///
    /// # Errors
    ///
    /// [`KafkaError`] when Kafka does not take them.
    pub fn append(
        &self,
        topic: &str,
        records: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), KafkaError> {
        let input = self.dir.join("append.txt");
        let lines: Vec<_> = records.into_iter().map(|(key, value)| format!("{key}\t{value}")).collect();
        fs::write(&input, lines.join("\n"))?;
        let args = ["tool", "org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", self.bootstrap()];
        let args = args.into_iter().chain(["--topic", topic, "--reader-property", "parse.key=true"]);
        run(Command::new(SCRIPT).args(args).stdin(fs::File::open(input)?), "tool ConsoleProducer").map(drop)
    }

    fn signal(&self, signal: &str) -> Result<(), KafkaError> {
        let pid = self.pid()?.to_string();
        run(Command::new("kill").args([signal, &pid]), &format!("(kill {signal})")).map(drop)
    }

    fn script<A: AsRef<OsStr>>(&self, command: &str, args: &[A]) -> Result<Vec<u8>, KafkaError> {
        let mut script = Command::new(SCRIPT);
        run(script.arg(command).arg("--dir").arg(&self.dir).args(args).stdin(Stdio::null()), command)
    }
}

impl Drop for RealKafka {
    fn drop(&mut self) {
        // A failing drop must not hide the test's own failure; whoever looks finds the folder.
        if self.script("remove", NO_ARGS).is_err() {
            let _ = fs::write(self.dir.join("could-not-be-removed"), b"");
        }
    }
}

const NO_ARGS: &[&str] = &[];

/// How far a consumer group is in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlace {
    /// The committed offset.
    pub committed: i64,
    /// The end of the partition.
    pub end: i64,
    /// The client id of the member that reads it; `-` for none.
    pub client_id: String,
}

/// A record that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// When its producer says that it was made, in whole milliseconds.
    pub time: SystemTime,
    /// Key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Value; empty for a tombstone too.
    pub value: Vec<u8>,
}

impl Record {
    /// Returns the view that a [`Verifier`](crate::ledger::Verifier) takes.
    pub fn found(&self) -> Found<'_> {
        Found { partition: self.partition, offset: self.offset, key: self.key.as_deref(), value: &self.value }
    }

    /// Reads `CreateTime:T 0x1F Partition:P 0x1F Offset:O 0x1F KEY 0x1F VALUE`, in which 0x1D alone stands for null.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(5, |&byte| byte == 0x1f);
        let time = UNIX_EPOCH + Duration::from_millis(number(fields.next()?, "CreateTime:")?);
        let partition = number(fields.next()?, "Partition:")?;
        let offset = number(fields.next()?, "Offset:")?;
        let mut bytes = || fields.next().map(|field| (field != [0x1d]).then(|| field.to_vec()));
        let key = bytes()?;
        let value = bytes()?.unwrap_or_default();
        Some(Self { partition, offset, time, key, value })
    }
}

fn number<T: std::str::FromStr>(field: &[u8], label: &str) -> Option<T> {
    std::str::from_utf8(field).ok()?.strip_prefix(label)?.parse().ok()
}

fn parse_offset(topic: &str, line: &str) -> Option<(i32, i64)> {
    let (partition, offset) = line.strip_prefix(topic)?.strip_prefix(':')?.split_once(':')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// Reads a line of `ProducerId ProducerEpoch LatestCoordinatorEpoch LastSequence LastTimestamp ...` as the timestamp, the id
/// and the epoch.
fn parse_producer(line: &str) -> Option<(i64, i64, i32)> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let [id, epoch, _, _, at, ..] = fields[..] else { return None };
    Some((at.parse().ok()?, id.parse().ok()?, epoch.parse().ok()?))
}

/// Reads a line of `GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID`.
fn parse_group_place(group: &str, line: &str) -> Option<((String, i32), GroupPlace)> {
    let mut columns = line.split_whitespace();
    if columns.next()? != group {
        return None;
    }
    let place = (columns.next()?.to_owned(), columns.next()?.parse().ok()?);
    let (committed, end) = (columns.next()?.parse().ok()?, columns.next()?.parse().ok()?);
    let client_id = columns.nth(3)?.to_owned();
    Some((place, GroupPlace { committed, end, client_id }))
}

fn field(lines: &[u8], name: &str) -> Result<String, KafkaError> {
    let text = String::from_utf8_lossy(lines);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned).ok_or_else(|| output("start", &format!("no {name}= in {text:?}")))
}

fn output(command: &str, text: &str) -> KafkaError {
    KafkaError::Output { command: command.into(), text: text.into() }
}

fn run(command: &mut Command, name: &str) -> Result<Vec<u8>, KafkaError> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(KafkaError::Script { command: name.into(), status: output.status, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_console_consumer_is_a_record() {
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let record = Record::parse(b"CreateTime:7\x1fPartition:3\x1fOffset:12\x1fkey\x1fa\x1fb\n").unwrap();
        assert_eq!(
            record,
            Record {
                partition: 3,
                offset: 12,
                time: at(7),
                key: Some(b"key".into()),
                value: b"a\x1fb\n".into()
            }
        );
        let null = Record::parse(b"CreateTime:0\x1fPartition:0\x1fOffset:0\x1f\x1d\x1f\x1d").unwrap();
        assert_eq!(null, Record { partition: 0, offset: 0, time: at(0), key: None, value: Vec::new() });
        let empty = Record::parse(b"CreateTime:0\x1fPartition:0\x1fOffset:0\x1f\x1f").unwrap();
        assert_eq!(empty.key, Some(Vec::new()));
        assert_eq!(Record::parse(b"Processed a total of 3 messages"), None);
    }

    #[test]
    fn a_line_of_the_group_command_is_a_place_of_its_group() {
        let line = "g  t  3  17  20  3  tidegate-123-abc  /127.0.0.1  tidegate";
        let expected = GroupPlace { committed: 17, end: 20, client_id: "tidegate".to_owned() };
        assert_eq!(parse_group_place("g", line), Some((("t".to_owned(), 3), expected)));
        assert_eq!(parse_group_place("g", "GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG"), None);
        assert_eq!(parse_group_place("g", "g t 3 - 20 - x y z"), None, "nothing is committed");
    }

    #[test]
    fn a_line_of_the_offset_shell_is_a_partition_and_its_end() {
        assert_eq!(parse_offset("a:b", "a:b:15:1234"), Some((15, 1234)));
        assert_eq!(parse_offset("t", "t:0:"), None, "a partition without a leader has no end offset");
    }
}
