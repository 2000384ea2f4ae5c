//! A run as it goes: a block that is redrawn in place on a terminal, one line a second elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;

use crate::load::{Plan, Second};

/// How a run is shown on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Live {
    /// Redrawn in place where stderr is a terminal, lines elsewhere.
    Auto,
    /// Redrawn in place.
    Screen,
    /// One line a second.
    Lines,
    /// Nothing.
    Off,
}

/// Characters of a process's name that are shown.
const NAME_CHARS: usize = 16;
const BAR_CHARS: u64 = 24;

/// Shows a run, second by second.
#[derive(Debug)]
pub(crate) struct Screen<'a> {
    live: Live,
    command: &'static str,
    clients: u32,
    duration: Option<Duration>,
    names: &'a [String],
    /// Lines of the block that is on the terminal now.
    drawn: usize,
    /// When the first message was sent, in seconds: the duration counts from there.
    published_from: Option<u64>,
}

impl<'a> Screen<'a> {
    /// `names` are those of the processes that each second tells of, in order.
    pub(crate) fn new(live: Live, command: &'static str, plan: &Plan, names: &'a [String]) -> Self {
        let live = match live {
            Live::Auto if std::io::stderr().is_terminal() => Live::Screen,
            Live::Auto => Live::Lines,
            other => other,
        };
        let (clients, duration) = (plan.clients, plan.duration);
        Self { live, command, clients, duration, names, drawn: 0, published_from: None }
    }

    /// Shows one more second.
    pub(crate) fn show(&mut self, second: &Second) {
        let text = match self.live {
            Live::Screen => self.redraw(second),
            Live::Lines => line(second, self.names),
            Live::Auto | Live::Off => return,
        };
        // A closed pipe is not our failure.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    /// Returns what replaces the block that is there by one for this second.
    fn redraw(&mut self, second: &Second) -> String {
        let mut text = String::new();
        if self.drawn > 0 {
            // Up over the old block, and clear from there to the end.
            let _ = write!(text, "\x1b[{}A\x1b[J", self.drawn);
        }
        let block = self.block(second);
        self.drawn = block.lines().count();
        text + &block
    }

    fn block(&mut self, second: &Second) -> String {
        let Second { at, online, in_flight, sent, acked, delivered, back, troubles, .. } = second;
        if self.published_from.is_none() && (*sent > 0 || *back > 0) {
            self.published_from = Some(at.saturating_sub(1));
        }
        let mut text = String::new();
        let _ = match (self.published_from, self.duration) {
            (Some(from), Some(duration)) => {
                let (done, whole) = (at - from, duration.as_secs().max(1));
                let filled = (done * BAR_CHARS / whole).min(BAR_CHARS);
                let bar: String =
                    (0..BAR_CHARS).map(|place| if place < filled { '#' } else { '.' }).collect();
                writeln!(text, "{} [{bar}] {done} s of {whole} s", self.command)
            }
            _ => writeln!(text, "{} {at} s", self.command),
        };
        let _ = writeln!(
            text,
            "  connections {online:>9} of {}, {} new/s",
            self.clients,
            second.connected + back
        );
        let _ =
            writeln!(text, "  messages    {sent:>9} sent/s, {acked} acknowledged/s, {in_flight} in flight");
        if *delivered > 0 {
            let _ = writeln!(text, "  deliveries  {delivered:>9} /s");
        }
        let [p50, p99, p999, max] = [second.p50_us, second.p99_us, second.p999_us, second.max_us].map(micros);
        let _ = writeln!(text, "  latency     {p50:>9} p50, {p99} p99, {p999} p99.9, {max} max");
        if *troubles > 0 {
            let _ = writeln!(text, "  troubles    {troubles:>9} /s");
        }
        for (name, sample) in self.names.iter().zip(&second.processes) {
            let resident = ByteSize(sample.resident_bytes).display().iec();
            let _ = writeln!(
                text,
                "  {:<NAME_CHARS$} {:>5.0} % CPU, {resident} memory",
                short(name),
                sample.cpu_percent
            );
        }
        text
    }
}

/// Returns one line for a second.
fn line(second: &Second, names: &[String]) -> String {
    let Second { at, online, connected, in_flight, sent, acked, delivered, back, troubles, .. } = second;
    let mut text = format!(
        "{at:>5} s  online {online} (+{})  sent {sent}/s  acked {acked}/s  delivered {delivered}/s  in flight \
         {in_flight}  p50 {} us  p99 {} us  max {} us  troubles {troubles}",
        connected + back,
        second.p50_us,
        second.p99_us,
        second.max_us,
    );
    for (name, sample) in names.iter().zip(&second.processes) {
        let mebibytes = sample.resident_bytes >> 20;
        let _ = write!(text, "  {} {:.0} % {mebibytes} MiB", short(name), sample.cpu_percent);
    }
    text + "\n"
}

/// A process names itself as it likes: control characters would move the cursor.
fn short(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).take(NAME_CHARS).collect()
}

/// Microseconds with the unit that people would choose.
#[expect(clippy::cast_precision_loss, reason = "an hour at most")]
fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Sample;

    fn second(at: u64) -> Second {
        let processes = vec![Sample { cpu_percent: 37.4, resident_bytes: 5 << 20 }];
        Second { at, online: 9, sent: 4, acked: 3, p99_us: 1500, processes, ..Second::default() }
    }

    fn screen(names: &[String]) -> Screen<'_> {
        Screen {
            live: Live::Screen,
            command: "fleet",
            clients: 10,
            duration: Some(Duration::from_secs(8)),
            names,
            drawn: 0,
            published_from: None,
        }
    }

    #[test]
    fn each_second_replaces_the_block_of_the_one_before() {
        let names = ["broker".to_owned()];
        let mut screen = screen(&names);
        let first = screen.redraw(&second(3));
        assert!(!first.contains('\x1b'), "{first:?}");
        let lines = first.lines().count();
        let next = screen.redraw(&second(6));
        assert!(next.starts_with(&format!("\x1b[{lines}A\x1b[J")), "{next:?}");
        // Half of eight seconds since the first message.
        assert!(next.contains("[############............] 4 s of 8 s"), "{next}");
        assert!(next.contains("1.5 ms p99") && next.contains("37 % CPU, 5.0 MiB"), "{next}");
        assert!(next.lines().all(|line| line.len() < 80), "{next}");
    }

    #[test]
    fn a_line_names_every_process_and_no_control_character_gets_through() {
        let names = ["a\x1b[2Jb\n".to_owned() + &"x".repeat(99)];
        let line = line(&second(3), &names);
        assert!(line.contains("a?[2Jb?xxxxxxxxx 37 % 5 MiB") && line.lines().count() == 1, "{line}");
        assert!(!screen(&names).redraw(&second(3)).contains('\x1b'));
    }
}
