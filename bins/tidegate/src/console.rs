//! The output `console`: rows as lines of the standard output.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll};

use prometheus::{IntCounter, Registry};
use tidegate_sink::{Ack, Discard, Feed, Offer, Record};

/// Lines that may wait for whoever reads the output. A further one is dropped and counted.
const WAITING_LINES: usize = 1024;

/// Bytes of one line; what is longer is cut off.
const LINE_BYTES: usize = 16 * 1024;

/// Prints the value of every record as a line, from a thread of its own, so that a terminal that stands still holds
/// nobody up. It promises nothing: a message is acknowledged as soon as its line waits or is dropped.
pub(crate) struct Console {
    lines: SyncSender<Vec<u8>>,
    dropped: IntCounter,
    acks: Discard,
}

impl Console {
    /// Starts the thread, which lives as long as the console.
    ///
    /// # Errors
    /// Where the metric is registered already, or the system has no thread for us.
    pub(crate) fn start(registry: &Registry) -> Result<Arc<Self>, String> {
        let dropped = IntCounter::new(
            "tidegate_console_lines_dropped_total",
            "Rows that the console did not print because its reader was too slow.",
        )
        .map_err(|error| error.to_string())?;
        registry.register(Box::new(dropped.clone())).map_err(|error| error.to_string())?;
        let (lines, waiting) = sync_channel(WAITING_LINES);
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || print(&waiting))
            .map_err(|error| error.to_string())?;
        Ok(Arc::new(Self { lines, dropped, acks: Discard::new() }))
    }
}

fn print(waiting: &Receiver<Vec<u8>>) {
    while let Ok(line) = waiting.recv() {
        // A closed pipe is not our failure.
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

impl Feed for Console {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        let line = line(record.topic, record.value.unwrap_or_default());
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(line) {
            self.dropped.inc();
        }
        self.acks.offer(record, ack)
    }

    fn flush(&self) {
        self.acks.flush();
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.acks.poll_room(cx)
    }
}

/// `rule: value`, with everything that could move a terminal's cursor, or end the line, escaped.
fn line(rule: &str, value: &[u8]) -> Vec<u8> {
    let mut line = String::with_capacity(rule.len() + value.len().min(LINE_BYTES) + 3);
    for character in rule.chars().chain(": ".chars()).chain(String::from_utf8_lossy(value).chars()) {
        if line.len() >= LINE_BYTES {
            line.push('…');
            break;
        }
        if character.is_control() {
            line.extend(character.escape_unicode());
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_without_control_characters_and_of_bounded_length() {
        let shown = String::from_utf8(line("r", b"a\x1b[2J\nb\xff\xc2\x9b")).unwrap();
        assert_eq!(shown, "r: a\\u{1b}[2J\\u{a}b\u{fffd}\\u{9b}\n");
        let long = line("r", &vec![b'x'; 10 * LINE_BYTES]);
        assert!(long.len() <= LINE_BYTES + 16, "{}", long.len());
    }

    #[test]
    fn a_full_console_drops_and_counts_and_acknowledges_all_the_same() {
        let (lines, _stuck) = sync_channel(1);
        let console = Console { lines, dropped: IntCounter::new("d", "d").unwrap(), acks: Discard::new() };
        let record = Record {
            topic: "r",
            key: None,
            value: Some(b"v"),
            headers: &[],
            timestamp_ms: 0,
            partition: None,
        };
        for _ in 0..3 {
            assert!(matches!(console.offer(&record, None), Offer::Taken));
        }
        assert_eq!(console.dropped.get(), 2);
    }
}
