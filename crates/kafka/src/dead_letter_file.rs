//! Dead letters in a file: one JSON object a line, synced before anybody is told, in a few files of bounded size.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidegate_sink::{Backoff, Outcome, Record, Rejection, settle_all};
use tokio::sync::Notify;

use crate::dead_letter::{Cause, DeadLetterFile};
use crate::producer::Shared;
use crate::record_batch::Ticket;
use crate::status::Part;

/// Lines that are written before one sync, in bytes, beside the one that exceeds it.
const GROUP_BYTES: usize = 1024 * 1024;
/// How far the end of a file is read back to find its last whole line, at once.
const TAIL_BYTES: u64 = 64 * 1024;

/// What waits to be written.
#[derive(Debug)]
pub(crate) struct FileQueue {
    config: DeadLetterFile,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    letters: VecDeque<Letter>,
    /// What they hold of the memory budget.
    charged: usize,
}

#[derive(Debug)]
struct Letter {
    line: Arc<[u8]>,
    ticket: Ticket,
    reason: Rejection,
}

impl FileQueue {
    pub(crate) fn new(config: DeadLetterFile) -> Self {
        Self { config, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// Takes a record in, unless those that wait hold a quarter of the memory budget of `budget_bytes` already: a file that
    /// can't be written must not hold up what Kafka takes.
    pub(crate) fn push(
        &self,
        record: &Record<'_>,
        ticket: Ticket,
        cause: Cause<'_>,
        budget_bytes: usize,
    ) -> Result<(), Ticket> {
        let line = line(record, cause).into();
        let mut waiting = self.waiting.lock();
        if waiting.charged + ticket.charged > budget_bytes / 4 {
            return Err(ticket);
        }
        waiting.charged += ticket.charged;
        waiting.letters.push_back(Letter { line, ticket, reason: cause.reason });
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().letters.is_empty()
    }

    /// Gives back everything that waits.
    pub(crate) fn close(&self) -> Vec<Ticket> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.letters.into_iter().map(|letter| letter.ticket).collect()
    }

    /// The next lines to write together. They stay in the queue until they are safe.
    fn next_lines(&self) -> Vec<Arc<[u8]>> {
        let mut bytes = 0;
        let waiting = self.waiting.lock();
        let letters = waiting.letters.iter().take_while(|letter| {
            let fits = bytes < GROUP_BYTES;
            bytes += letter.line.len();
            fits
        });
        letters.map(|letter| Arc::clone(&letter.line)).collect()
    }

    fn take(&self, lines: usize) -> Vec<Letter> {
        let mut waiting = self.waiting.lock();
        let count = lines.min(waiting.letters.len());
        let taken: Vec<_> = waiting.letters.drain(..count).collect();
        waiting.charged -= taken.iter().map(|letter| letter.ticket.charged).sum::<usize>();
        taken
    }
}

/// The task which writes. It is aborted at the end: what waits then is lost by whoever closes the queue.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(queue) = shared.dead_letter_file() else { return };
    let mut backoff = Backoff::new(shared.config.backoff, shared.seed());
    let mut writer = Writer { config: queue.config.clone(), open: None, safe: None };
    loop {
        let lines = queue.next_lines();
        if lines.is_empty() {
            queue.wake.notified().await;
            continue;
        }
        let count = lines.len();
        let written = tokio::task::spawn_blocking(move || {
            let result = writer.append(&lines);
            (writer, result)
        });
        let Ok((again, result)) = written.await else { return };
        writer = again;
        match result {
            Ok(()) => {
                backoff.succeeded();
                shared.meter.solved(&Part::DeadLetters);
                let letters = queue.take(count);
                let charged = letters.iter().map(|letter| letter.ticket.charged).sum();
                for letter in &letters {
                    shared.meter.books.dead_lettered(letter.ticket.source, letter.reason);
                }
                let acks = letters.into_iter().filter_map(|letter| letter.ticket.ack);
                settle_all(acks.map(|owed| owed.ack), Outcome::Delivered);
                shared.budget.give_back(charged);
            }
            Err(error) => {
                let path = queue.config.path.display();
                shared.meter.problem(Part::DeadLetters, &format!("{path} can't be written: {error}"));
                tokio::time::sleep(backoff.failed()).await;
            }
        }
    }
}

/// The files.
struct Writer {
    config: DeadLetterFile,
    open: Option<File>,
    /// Bytes of the open file that are known to be safe.
    safe: Option<u64>,
}

impl Writer {
    /// Writes `lines` and syncs them. After an error nothing of them counts, and the next call writes over it.
    fn append(&mut self, lines: &[Arc<[u8]>]) -> io::Result<()> {
        let result = self.write(lines);
        if result.is_err() {
            self.open = None;
        }
        result
    }

    fn write(&mut self, lines: &[Arc<[u8]>]) -> io::Result<()> {
        if self.safe.is_some_and(|bytes| bytes >= self.config.max_bytes) {
            self.rotate()?;
        }
        let file = match &mut self.open {
            Some(file) => file,
            none => {
                let (file, safe) = open(&self.config.path, self.safe)?;
                self.safe = Some(safe);
                none.insert(file)
            }
        };
        let before = self.safe.unwrap_or(0);
        file.seek(SeekFrom::Start(before))?;
        for line in lines {
            file.write_all(line)?;
        }
        file.sync_data()?;
        self.safe = Some(before + lines.iter().map(|line| line.len() as u64).sum::<u64>());
        Ok(())
    }

    /// Gives the files the next names, the oldest none, and begins another.
    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let name = |number: usize| {
            let mut name = OsString::from(&self.config.path);
            if number > 0 {
                name.push(format!(".{number}"));
            }
            PathBuf::from(name)
        };
        let oldest = name(self.config.files.max(1) - 1);
        match fs::remove_file(&oldest) {
            Ok(()) => tracing::warn!(file = %oldest.display(), "the oldest dead letters are removed"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for number in (0..self.config.files.max(1) - 1).rev() {
            match fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.safe = None;
        Ok(())
    }
}

/// Opens a file, without what an interrupted write left at its end: what is behind `safe`, or behind the last whole line.
fn open(path: &Path, safe: Option<u64>) -> io::Result<(File, u64)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
    let safe = match safe {
        Some(safe) => safe,
        None => last_line_end(&mut file)?,
    };
    file.set_len(safe)?;
    // The name has to survive as well as the bytes.
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok((file, safe))
}

/// Where the last whole line ends.
fn last_line_end(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let begin = end.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(begin))?;
        let mut tail = Vec::new();
        file.take(end - begin).read_to_end(&mut tail)?;
        if let Some(place) = tail.iter().rposition(|&byte| byte == b'\n') {
            return Ok(begin + place as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// A record as a line of JSON.
fn line(record: &Record<'_>, cause: Cause<'_>) -> Vec<u8> {
    let headers: Vec<Value> =
        record.headers.iter().map(|(name, value)| json!([name, blob(*value)])).collect();
    let letter = json!({
        "reason": cause.reason.name(),
        "rule": cause.source,
        "topic": record.topic,
        "time_ms": cause.time_ms,
        "timestamp_ms": record.timestamp_ms,
        "key": blob(record.key),
        "value": blob(record.value),
        "headers": headers,
    });
    let mut line = letter.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Bytes in JSON: text where they are, else in base64, and null for none.
fn blob(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => text.into(),
        Some((bytes, Err(_))) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: Cause<'_> = Cause { reason: Rejection::TooLarge, source: "r1", time_ms: 5 };

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("tidegate-letters-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn writer(path: &Path, max_bytes: u64, files: usize) -> Writer {
        Writer { config: DeadLetterFile { path: path.into(), max_bytes, files }, open: None, safe: None }
    }

    fn lines(texts: &[&str]) -> Vec<Arc<[u8]>> {
        texts.iter().map(|text| format!("{text}\n").into_bytes().into()).collect()
    }

    #[test]
    fn a_line_tells_binary_null_and_empty_apart() {
        let headers: [(&str, Option<&[u8]>); 2] = [("h", Some(b"a\"\n")), ("n", None)];
        let record =
            Record { key: Some(b""), value: Some(b"\xff\x00"), headers: &headers, ..Record::new("t\u{1b}") };
        let line = line(&record, CAUSE);
        assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1), "one line");
        let read: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["value"], json!({ "base64": "/wA=" }));
        assert_eq!(read["headers"], json!([["h", "a\"\n"], ["n", null]]));
        assert_eq!(
            (&read["key"], &read["topic"], &read["reason"], &read["rule"]),
            (&json!(""), &json!("t\u{1b}"), &json!("too_large"), &json!("r1"))
        );
    }

    #[test]
    fn the_files_stay_within_their_number_and_size_and_the_newest_lines_stay() {
        let folder = folder("rotate");
        let path = folder.join("dead.jsonl");
        let mut writer = writer(&path, 10, 3);
        for n in 0..20 {
            writer.append(&lines(&[&format!("line {n:02}")])).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dead.jsonl", "dead.jsonl.1", "dead.jsonl.2"]);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("dead.jsonl.2"), "line 14\nline 15\n");
        assert_eq!(read("dead.jsonl.1"), "line 16\nline 17\n");
        assert_eq!(read("dead.jsonl"), "line 18\nline 19\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_torn_line_is_cut_off_before_the_next_and_a_failed_write_is_written_over() {
        let folder = folder("torn");
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("dead.jsonl");
        fs::write(&path, format!("whole\n{}", "torn".repeat(40_000))).unwrap();
        let mut writer = writer(&path, 1 << 20, 2);
        writer.append(&lines(&["next"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nnext\n");
        // As after an error: half a group stands behind what is safe.
        writer.open = None;
        fs::write(&path, "whole\nnext\nhalf a gro").unwrap();
        writer.append(&lines(&["after"])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole\nnext\nafter\n");
        fs::remove_dir_all(folder).unwrap();
    }
}
