//! `tidegate tail`: prints the records of a Kafka topic as they arrive.

use std::io::{self, Write};
use std::time::Duration;

use tidegate_kafka::{Config, FetchedRecord, ReadError, Reader};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cli::TailArgs;
use crate::{Failure, print_error};

/// How long a fetch waits for the next record.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// The pause before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Records between the readers and the terminal.
const WAITING_RECORDS: usize = 1024;
/// `UNKNOWN_TOPIC_OR_PARTITION`.
const UNKNOWN_TOPIC: i16 = 3;

/// Prints records until it is interrupted, the pipe is closed, or there were as many as asked for.
pub(crate) fn tail(args: &TailArgs) -> Result<(), Failure> {
    let runtime = Runtime::new().map_err(|error| Failure::runtime(&error))?;
    runtime.block_on(follow(args))
}

async fn follow(args: &TailArgs) -> Result<(), Failure> {
    let config = Config { bootstrap: args.kafka.clone(), ..Config::default() };
    let partitions = wait_for_topic(&config, &args.topic).await?.partitions();
    let (found, mut records) = mpsc::channel(WAITING_RECORDS);
    for partition in partitions {
        let (config, topic, found) = (config.clone(), args.topic.clone(), found.clone());
        let from_beginning = args.from_beginning;
        tokio::spawn(async move {
            let follower = Follower { config, topic, partition, found };
            follower.run(from_beginning).await;
        });
    }
    drop(found);
    let mut printed = 0;
    while args.count.is_none_or(|count| printed < count) {
        let Some((partition, record)) = records.recv().await else { return Ok(()) };
        let mut out = io::stdout().lock();
        if write_record(&mut out, partition, &record).and_then(|()| out.flush()).is_err() {
            // Whoever read the pipe has seen enough.
            return Ok(());
        }
        printed += 1;
    }
    Ok(())
}

/// Waits until the topic exists: it is made by the first record, which may be what the user is about to publish.
async fn wait_for_topic(config: &Config, topic: &str) -> Result<Reader, Failure> {
    let mut told = false;
    loop {
        match Reader::connect(config, topic).await {
            Ok(reader) if !reader.partitions().is_empty() => return Ok(reader),
            Ok(_) | Err(ReadError::Kafka { code: UNKNOWN_TOPIC, .. } | ReadError::NoLeader { .. }) => {
                if !told {
                    print_error(&format!("waiting for topic `{topic}` to appear"));
                    told = true;
                }
            }
            Err(error) => {
                return Err(Failure::Runtime(format!("error: {}: {error}", config.bootstrap.join(","))));
            }
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Reads one partition, across restarts of Kafka.
struct Follower {
    config: Config,
    topic: String,
    partition: i32,
    found: mpsc::Sender<(i32, FetchedRecord)>,
}

impl Follower {
    async fn run(&self, from_beginning: bool) {
        let mut offset = None;
        while let Err(error) = self.read(&mut offset, from_beginning).await {
            print_error(&format!("partition {}: {error}; trying again", self.partition));
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Reads until nobody wants records any more.
    async fn read(&self, offset: &mut Option<i64>, from_beginning: bool) -> Result<(), ReadError> {
        let mut reader = Reader::connect(&self.config, &self.topic).await?;
        let mut next = if let Some(offset) = *offset {
            offset
        } else {
            let (earliest, latest) = reader.offsets(self.partition).await?;
            if from_beginning { earliest } else { latest }
        };
        loop {
            *offset = Some(next);
            let fetched = reader.fetch(self.partition, next, FETCH_WAIT).await?;
            for record in fetched.records {
                if self.found.send((self.partition, record)).await.is_err() {
                    return Ok(());
                }
            }
            next = fetched.next_offset;
        }
    }
}

/// One record in one line: place, key and value, with control characters escaped so that no payload can write to the
/// terminal what it wants.
fn write_record(out: &mut impl Write, partition: i32, record: &FetchedRecord) -> io::Result<()> {
    write!(out, "{partition}:{} ", record.offset)?;
    write_text(out, record.key.as_deref())?;
    out.write_all(b" ")?;
    write_text(out, record.value.as_deref())?;
    out.write_all(b"\n")
}

fn write_text(out: &mut impl Write, bytes: Option<&[u8]>) -> io::Result<()> {
    let Some(bytes) = bytes else { return out.write_all(b"null") };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                write!(out, "{}", character.escape_default())?;
            } else {
                write!(out, "{character}")?;
            }
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_cannot_write_control_characters_to_the_terminal() {
        let mut out = Vec::new();
        write_text(&mut out, Some(b"{\"a\": \"\xc3\xa4\"}\x1b[2J\n\xff")).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "{\"a\": \"\u{e4}\"}\\u{1b}[2J\\n\\xff");
    }

    #[test]
    fn null_is_told_from_empty() {
        let mut out = Vec::new();
        write_text(&mut out, None).unwrap();
        write_text(&mut out, Some(b"")).unwrap();
        assert_eq!(out, b"null");
    }
}
