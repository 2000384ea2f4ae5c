//! What a run found: one structure, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use tidegate_codec::Version;

use crate::latency::{Latencies, LatencySummary};
use crate::load::{Counters, Outcome, Pace, Plan, Publishing, Second, Traffic};
use crate::procfs::{Group, Usage};
use crate::verify::Verification;

/// A generator that is later than this with one message in a hundred measured itself as well.
const LATE_US: u64 = 10_000;

/// A report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The tool's version.
    pub(crate) version: &'static str,
    pub(crate) command: &'static str,
    pub(crate) setup: Setup,
    /// Somebody stopped the run before its end.
    pub(crate) interrupted: bool,
    pub(crate) connecting_seconds: f64,
    pub(crate) publishing_seconds: f64,
    pub(crate) total_seconds: f64,
    pub(crate) counters: Counters,
    /// How often what went wrong.
    pub(crate) troubles: BTreeMap<String, u64>,
    /// From the first SYN to CONNACK.
    pub(crate) connect: LatencySummary,
    /// From PUBLISH to PUBACK, or to PUBCOMP at QoS 2.
    pub(crate) acknowledge: LatencySummary,
    /// From when a message was due to when the generator sent it.
    pub(crate) behind: LatencySummary,
    /// From PUBLISH by one device to its arrival at another.
    pub(crate) deliver: LatencySummary,
    /// From the first SYN to CONNACK, in a storm.
    pub(crate) reconnect: LatencySummary,
    /// When those that a storm cut were back. Absent without a storm.
    pub(crate) back: Option<Back>,
    /// What the CPU time of a process is divided by: message (acknowledged, or sent at QoS 0), delivery, reconnection.
    /// Absent where nothing of the kind took place.
    pub(crate) each: Option<&'static str>,
    /// The generator first, then those asked for.
    pub(crate) processes: Vec<Process>,
    /// What Kafka holds of it, where that was looked at.
    pub(crate) verification: Option<Verification>,
    pub(crate) seconds: Vec<Second>,
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) targets: Vec<String>,
    pub(crate) protocol: &'static str,
    pub(crate) clients: u32,
    pub(crate) first_id: u32,
    pub(crate) connect_rate: f64,
    pub(crate) keep_alive_seconds: u16,
    /// Of each process.
    pub(crate) threads: usize,
    pub(crate) processes: u16,
    pub(crate) messages: Option<MessageSetup>,
}

/// What was to be published.
#[derive(Debug, Serialize)]
pub(crate) struct MessageSetup {
    pub(crate) qos: u8,
    pub(crate) payload_bytes: usize,
    /// Absent where the window sets the pace.
    pub(crate) interval_us: Option<u128>,
    pub(crate) window: u16,
    pub(crate) count: Option<u64>,
    /// Absent where nobody subscribes.
    pub(crate) subscribers: Option<u32>,
    pub(crate) topics: Option<u32>,
}

/// What a process has cost, or several that are measured as one. CPU times are counted by the kernel in steps of 10 ms.
#[derive(Debug, Serialize)]
pub(crate) struct Process {
    pub(crate) pids: Vec<u32>,
    pub(crate) name: String,
    /// It runs the generator.
    pub(crate) generator: bool,
    /// It was gone before the end; its figures are zero then.
    pub(crate) gone: bool,
    /// For each connection, while they were made.
    pub(crate) connect_cpu_us: f64,
    /// From the first message to the last acknowledgement.
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// For each of what the report's `each` names.
    pub(crate) user_us_each: Option<f64>,
    pub(crate) system_us_each: Option<f64>,
    pub(crate) resident_before_bytes: u64,
    pub(crate) resident_connected_bytes: u64,
    pub(crate) resident_done_bytes: u64,
    pub(crate) resident_peak_bytes: u64,
    /// What the resident memory grew by for each connection, until all were connected.
    pub(crate) resident_bytes_per_connection: f64,
}

impl Report {
    /// Returns the report of a run. `groups` are those that the run measured, the generator first.
    pub(crate) fn new(command: &'static str, plan: &Plan, groups: &[Group], outcome: Outcome) -> Self {
        let Outcome { tally, seconds, connecting, publishing, total, usages, interrupted } = outcome;
        let each = each(plan, &tally.counters);
        let processes = groups.iter().enumerate().map(|(place, group)| {
            let at = |usages: &[Option<Usage>]| usages.get(place).cloned().flatten();
            let (before, connected, done) = (at(&usages.before), at(&usages.connected), at(&usages.done));
            Process::new(
                group,
                place == 0,
                [before, connected, done],
                tally.counters.connected,
                each.map(|(_, count)| count),
            )
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            command,
            setup: Setup::new(plan),
            interrupted,
            connecting_seconds: connecting.as_secs_f64(),
            publishing_seconds: publishing.as_secs_f64(),
            total_seconds: total.as_secs_f64(),
            processes: processes.collect(),
            verification: None,
            counters: tally.counters,
            connect: tally.connect.summary(),
            acknowledge: tally.acknowledge.summary(),
            behind: tally.behind.summary(),
            deliver: tally.deliver.summary(),
            reconnect: tally.reconnect.summary(),
            back: matches!(plan.traffic, Traffic::Storm(_))
                .then(|| Back::new(&tally.back, tally.counters.cut)),
            each: each.map(|(name, _)| name),
            troubles: tally.troubles,
            seconds,
        }
    }

    /// Whether everything that was begun came to a good end.
    pub(crate) fn is_clean(&self) -> bool {
        self.counters.is_clean() && self.verification.as_ref().is_none_or(Verification::is_clean)
    }

    /// Whether the generator itself was too slow for the latencies to be the broker's alone.
    fn generator_was_late(&self) -> bool {
        self.behind.p99_us > LATE_US
    }
}

/// Returns what the broker's work is counted in, and how much of it there was, as far as anybody can know.
fn each(plan: &Plan, counters: &Counters) -> Option<(&'static str, u64)> {
    match &plan.traffic {
        Traffic::Silent => None,
        Traffic::Storm(_) => Some(("reconnection", counters.back)),
        Traffic::Publish(Publishing { audience: Some(_), .. }) => Some(("delivery", counters.delivered)),
        Traffic::Publish(publishing) if publishing.qos.as_u8() == 0 => Some(("message", counters.sent)),
        Traffic::Publish(_) => Some(("message", counters.acked)),
    }
}

/// How long it took from a storm's beginning until that share of the devices was back, in microseconds; absent where it
/// never was.
#[derive(Debug, Serialize)]
pub(crate) struct Back {
    pub(crate) half: Option<u64>,
    pub(crate) p90: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) p999: Option<u64>,
    pub(crate) all: Option<u64>,
}

impl Back {
    /// `back` holds the devices that came back, of `cut`.
    fn new(back: &Latencies, cut: u64) -> Self {
        let came = float(back.summary().count);
        let until = |share: f64| {
            let share_of_came = float(cut) * share / came;
            (share_of_came <= 1.0).then(|| back.quantile_us(share_of_came))
        };
        let (half, p90, p99, p999, all) = (until(0.5), until(0.9), until(0.99), until(0.999), until(1.0));
        Self { half, p90, p99, p999, all }
    }
}

impl Setup {
    fn new(plan: &Plan) -> Self {
        let messages = match &plan.traffic {
            Traffic::Silent | Traffic::Storm(_) => None,
            Traffic::Publish(publishing) => Some(MessageSetup {
                qos: publishing.qos.as_u8(),
                payload_bytes: publishing.payload.len(),
                interval_us: match publishing.pace {
                    Pace::Every(interval) => Some(interval.as_micros()),
                    Pace::Window => None,
                },
                window: publishing.window,
                count: publishing.count,
                subscribers: publishing.audience.map(|audience| audience.subscribers),
                topics: publishing.audience.map(|audience| audience.topics),
            }),
        };
        Self {
            targets: plan.targets.iter().map(ToString::to_string).collect(),
            protocol: match plan.version {
                Version::V3_1 => "MQTT 3.1",
                Version::V3_1_1 => "MQTT 3.1.1",
                Version::V5 => "MQTT 5",
            },
            clients: plan.clients,
            first_id: plan.first_id,
            connect_rate: plan.connect_rate,
            keep_alive_seconds: plan.keep_alive,
            threads: plan.threads,
            processes: plan.processes,
            messages,
        }
    }
}

impl Process {
    fn new(
        group: &Group,
        generator: bool,
        usages: [Option<Usage>; 3],
        connections: u64,
        each: Option<u64>,
    ) -> Self {
        let gone = usages.iter().any(Option::is_none);
        let [before, connected, done] =
            if gone { <[Usage; 3]>::default() } else { usages.map(Option::unwrap_or_default) };
        let cpu = |usage: &Usage| usage.user + usage.system;
        let user = done.user.saturating_sub(connected.user);
        let system = done.system.saturating_sub(connected.system);
        let micros_each = |time: Duration, count: u64| time.as_secs_f64() * 1e6 / float(count.max(1));
        let grown = connected.resident.saturating_sub(before.resident);
        Self {
            pids: group.pids.clone(),
            name: group.name.clone(),
            generator,
            gone,
            connect_cpu_us: micros_each(cpu(&connected).saturating_sub(cpu(&before)), connections),
            user_seconds: user.as_secs_f64(),
            system_seconds: system.as_secs_f64(),
            user_us_each: each.map(|count| micros_each(user, count)),
            system_us_each: each.map(|count| micros_each(system, count)),
            resident_before_bytes: before.resident,
            resident_connected_bytes: connected.resident,
            resident_done_bytes: done.resident,
            resident_peak_bytes: done.peak,
            resident_bytes_per_connection: float(grown) / float(connections.max(1)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setup, counters, .. } = self;
        write!(
            f,
            "{} of {} clients at {} over {}",
            self.command,
            setup.clients,
            setup.targets.join(", "),
            setup.protocol
        )?;
        if setup.processes > 1 {
            write!(f, ", from {} processes", setup.processes)?;
        }
        if let Some(MessageSetup { qos, payload_bytes, .. }) = setup.messages {
            write!(f, ", QoS {qos}, {payload_bytes} bytes")?;
        }
        writeln!(f, "{}", if self.interrupted { " (stopped before its end)" } else { "" })?;

        writeln!(f, "\nconnections")?;
        row(
            f,
            "connected",
            format_args!(
                "{} of {} begun, in {:.1} s",
                counters.connected, counters.attempted, self.connecting_seconds
            ),
        )?;
        row(f, "failed", counters.failed)?;
        row(f, "lost", counters.lost)?;
        row(f, "PINGREQ", counters.pings)?;

        if let Some(messages) = &setup.messages {
            let rate = |count: u64| float(count) / self.publishing_seconds.max(f64::EPSILON);
            writeln!(f, "\nmessages in {:.1} s", self.publishing_seconds)?;
            row(f, "sent", format_args!("{} ({:.0}/s)", counters.sent, rate(counters.sent)))?;
            if messages.qos > 0 {
                row(f, "acknowledged", format_args!("{} ({:.0}/s)", counters.acked, rate(counters.acked)))?;
                row(f, "rejected", counters.rejected)?;
                row(f, "unacknowledged", counters.unacked)?;
            }
            row(f, "left out", counters.skipped)?;
            if let Some(subscribers) = messages.subscribers {
                let (delivered, expected) = (counters.delivered, counters.expected);
                let text = format!(
                    "{delivered} of {expected} ({:.0}/s) to {subscribers} subscribers",
                    rate(delivered)
                );
                row(f, "delivered", text)?;
                row(f, "damaged", counters.corrupt)?;
            }
        }
        if let Some(back) = &self.back {
            writeln!(f, "\nstorm")?;
            row(f, "cut", counters.cut)?;
            row(f, "back", format_args!("{}, after {} further attempts", counters.back, counters.retried))?;
            let shares = [("50 %", back.half), ("99 %", back.p99), ("99.9 %", back.p999), ("all", back.all)];
            for (share, until) in shares {
                let after =
                    until.map_or_else(|| "never".to_owned(), |us| format!("after {:.3} s", float(us) / 1e6));
                row(f, &format!("  {share} back"), after)?;
            }
        }

        writeln!(
            f,
            "\nlatency in us{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "min", "p50", "p90", "p99", "p99.9", "max"
        )?;
        latencies(f, "connect", &self.connect)?;
        latencies(f, "acknowledge", &self.acknowledge)?;
        latencies(f, "deliver", &self.deliver)?;
        latencies(f, "reconnect", &self.reconnect)?;
        latencies(f, "sent late by", &self.behind)?;

        writeln!(f, "\nprocesses")?;
        self.processes.iter().try_for_each(|process| process.write(f, self.each.unwrap_or_default()))?;

        if !self.troubles.is_empty() {
            writeln!(f, "\ntroubles")?;
            self.troubles.iter().try_for_each(|(trouble, count)| writeln!(f, "  {count:>8}  {trouble}"))?;
        }
        if let Some(found) = &self.verification {
            writeln!(f, "\nin Kafka: {found}")?;
        }
        if self.generator_was_late() {
            writeln!(
                f,
                "\nThe generator fell behind its own schedule: its machine is too busy for these latencies to be the \
                 broker's alone."
            )?;
        }
        Ok(())
    }
}

/// One process: a line for its CPU time, one for its memory.
impl Process {
    fn write(&self, f: &mut fmt::Formatter<'_>, each: &str) -> fmt::Result {
        let label = match self.pids[..] {
            [pid] => format!("{} {pid}", self.name),
            _ => format!("{} ({} of them)", self.name, self.pids.len()),
        };
        if self.gone {
            return row(f, &label, "gone before the end");
        }
        row(
            f,
            &label,
            format_args!(
                "CPU {:.2} s user, {:.2} s system; {:.1} us to connect",
                self.user_seconds, self.system_seconds, self.connect_cpu_us
            ),
        )?;
        if let (Some(user), Some(system)) = (self.user_us_each, self.system_us_each) {
            let text = format!("{:.2} us ({user:.2} user, {system:.2} system)", user + system);
            row(f, &format!("  CPU a {each}"), text)?;
        }
        let size = |bytes| ByteSize(bytes).display().iec();
        row(
            f,
            "  resident",
            format_args!(
                "{} before, {} connected, {} at the end, {} peak",
                size(self.resident_before_bytes),
                size(self.resident_connected_bytes),
                size(self.resident_done_bytes),
                size(self.resident_peak_bytes)
            ),
        )?;
        row(f, "  a connection", format_args!("{:.0} bytes resident", self.resident_bytes_per_connection))
    }
}

fn row(f: &mut fmt::Formatter<'_>, label: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {label:<20} {value}")
}

fn latencies(f: &mut fmt::Formatter<'_>, label: &str, summary: &LatencySummary) -> fmt::Result {
    let LatencySummary { count, min_us, p50_us, p90_us, p99_us, p999_us, max_us, .. } = summary;
    if *count == 0 {
        return Ok(());
    }
    writeln!(f, "  {label:<12}{min_us:>8}{p50_us:>9}{p90_us:>9}{p99_us:>9}{p999_us:>9}{max_us:>9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        Group { name: "broker".to_owned(), pids: vec![7] }
    }

    fn usage(user_ms: u64, system_ms: u64, resident: u64) -> Usage {
        Usage {
            name: "broker".to_owned(),
            user: Duration::from_millis(user_ms),
            system: Duration::from_millis(system_ms),
            resident,
            peak: resident,
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "these quotients are exact")]
    fn a_message_costs_what_was_used_between_connecting_and_the_last_acknowledgement() {
        let usages =
            [usage(1000, 2000, 1_000_000), usage(1500, 4500, 3_000_000), usage(2500, 9500, 4_000_000)];
        let process = Process::new(&group(), false, usages.map(Some), 1000, Some(100_000));
        assert_eq!(process.connect_cpu_us, 3000.0);
        assert_eq!((process.user_us_each, process.system_us_each), (Some(10.0), Some(50.0)));
        assert_eq!(process.resident_bytes_per_connection, 2000.0);
    }

    #[test]
    fn a_process_that_is_gone_has_no_figures() {
        let process =
            Process::new(&group(), false, [Some(usage(1, 1, 1)), Some(usage(2, 2, 2)), None], 10, Some(10));
        assert!(process.gone);
        assert_eq!((process.user_seconds, process.resident_done_bytes), (0.0, 0));
    }

    #[test]
    fn a_share_that_did_not_come_back_has_no_time() {
        let mut back = Latencies::new();
        for millis in 1..=995 {
            back.record(Duration::from_millis(millis));
        }
        let back = Back::new(&back, 1000);
        assert!(back.half.is_some_and(|us| us.abs_diff(500_000) <= 1000), "{back:?}");
        assert!(back.p99.is_some_and(|us| us.abs_diff(990_000) <= 1000), "{back:?}");
        assert_eq!((back.p999, back.all), (None, None));
        assert_eq!(Back::new(&Latencies::new(), 10).half, None);
    }
}
