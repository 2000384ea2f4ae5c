//! The generator: many simulated devices on a few threads, conducted through the phases of a run.
//!
//! All connect; then all publish, so that what is measured is not mixed with the cost of connecting; then the last
//! acknowledgements are waited for; then all say DISCONNECT.

mod baton;
mod crew;
mod device;
mod link;
mod payload;
mod plan;
mod processes;
mod tally;
#[cfg(test)]
mod tests;
mod wheel;
mod worker;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;

use self::baton::Phase;
pub(crate) use self::crew::Share;
use self::crew::{Crew, Threads};
pub(crate) use self::payload::{Payload, PayloadFormat, Stamp};
pub(crate) use self::plan::{Audience, Pace, Plan, Publishing, Storm, TopicTemplate, Traffic};
pub(crate) use self::processes::{Processes, follow};
pub(crate) use self::tally::{Counters, Tally};
use crate::latency::Latencies;
use crate::procfs::{Group, Usage};

/// How often the conductor looks whether a phase has ended.
const STEP: Duration = Duration::from_millis(10);
/// What a broker gets to put its memory in order before it is measured.
const SETTLE: Duration = Duration::from_millis(300);
/// File descriptors besides the sockets.
const OTHER_FILES: u64 = 64;
/// Seconds that a report lists one by one: a day.
const LISTED_SECONDS: usize = 86_400;

/// Why a run could not take place.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error(
        "{clients} clients need {needed} open files in each of {processes} processes, and a process may have {limit}; \
         raise it (ulimit -n), or use more --processes"
    )]
    FileLimit { clients: u32, processes: u16, needed: u64, limit: u64 },
    #[error("the generator failed: {0}")]
    Generator(#[from] io::Error),
    #[error("a thread of the generator panicked")]
    Panicked,
    #[error("generator process {number} ({pid}) ended before the run did: {how}")]
    Process { number: usize, pid: u32, how: String },
    #[error("nobody says what this share of a load is to do")]
    NoConductor,
}

/// What a process did in a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Sample {
    /// Of one core.
    pub(crate) cpu_percent: f64,
    pub(crate) resident_bytes: u64,
}

/// One second of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Second {
    /// Seconds since the start, at its end.
    pub(crate) at: u64,
    pub(crate) online: u64,
    pub(crate) in_flight: u64,
    /// In this second alone, as all that follows.
    pub(crate) connected: u64,
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) delivered: u64,
    pub(crate) back: u64,
    pub(crate) troubles: u64,
    /// Of what the run is about: deliveries, reconnections, or else acknowledgements.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    pub(crate) max_us: u64,
    /// Of the processes asked for, in their order.
    pub(crate) processes: Vec<Sample>,
}

/// The moments at which processes are measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments<T> {
    /// Before the first connection.
    pub(crate) before: T,
    /// After the last connection, before the first message.
    pub(crate) connected: T,
    /// After the last acknowledgement, before the first DISCONNECT.
    pub(crate) done: T,
}

/// What a run was.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) seconds: Vec<Second>,
    /// Until the last connection was there or had failed.
    pub(crate) connecting: Duration,
    /// From the first message to the end of sending (without the wait for the last acknowledgements).
    pub(crate) publishing: Duration,
    /// The whole run.
    pub(crate) total: Duration,
    /// Of the processes asked for, in their order; `None` for one that was gone.
    pub(crate) usages: Moments<Vec<Option<Usage>>>,
    /// Somebody stopped it before its end.
    pub(crate) interrupted: bool,
}

/// Runs the plan to its end in this process, or until `stop` is set; what was counted by then is the outcome.
pub(crate) fn run(
    plan: &Plan,
    groups: &[Group],
    stop: &AtomicBool,
    on_second: impl FnMut(&Second),
) -> Result<Outcome, LoadError> {
    raise_file_limit(plan, Share::WHOLE)?;
    conduct(plan, Threads::new(plan, Share::WHOLE), groups, stop, on_second)
}

/// Does as [`run`] in several processes.
pub(crate) fn run_in(
    processes: Processes,
    plan: &Plan,
    groups: &[Group],
    stop: &AtomicBool,
    on_second: impl FnMut(&Second),
) -> Result<Outcome, LoadError> {
    conduct(plan, processes, groups, stop, on_second)
}

/// Makes room for the sockets of a share.
fn raise_file_limit(plan: &Plan, share: Share) -> Result<(), LoadError> {
    let needed = u64::from(share.clients(plan)) + OTHER_FILES;
    let limit = rlimit::increase_nofile_limit(needed)?;
    if limit < needed {
        let (clients, processes) = (plan.clients, plan.processes);
        return Err(LoadError::FileLimit { clients, processes, needed, limit });
    }
    Ok(())
}

fn conduct(
    plan: &Plan,
    crew: impl Crew,
    groups: &[Group],
    stop: &AtomicBool,
    on_second: impl FnMut(&Second),
) -> Result<Outcome, LoadError> {
    let mut usages = Moments { before: measure(groups), ..Moments::default() };
    let mut conductor = Conductor::start(crew, groups, stop, on_second)?;
    let clients = u64::from(plan.clients);

    conductor.until(None, |counters| counters.connected + counters.failed >= clients);
    let connecting = conductor.start.elapsed();
    conductor.until(Some(SETTLE), |_| false);
    usages.connected = measure(groups);

    let (publishers, cut) = (u64::from(plan.publishers()), conductor.crew.counters().online());
    conductor.enter(Phase::Publish)?;
    let published_from = conductor.start.elapsed();
    conductor.until(plan.duration, |counters| match plan.traffic {
        Traffic::Silent => counters.online() == 0,
        Traffic::Publish(_) => counters.online() == 0 || counters.finished >= publishers,
        Traffic::Storm(_) => counters.back >= cut,
    });
    let publishing = conductor.start.elapsed().saturating_sub(published_from);

    conductor.enter(Phase::Drain)?;
    conductor.drain(plan.drain);
    usages.done = measure(groups);
    let interrupted = stop.load(Ordering::Relaxed);
    let (tally, seconds, total) = conductor.finish()?;
    Ok(Outcome { tally, seconds, connecting, publishing, total, usages, interrupted })
}

fn measure(groups: &[Group]) -> Vec<Option<Usage>> {
    groups.iter().map(Group::usage).collect()
}

/// Leads those who carry the load through the phases, and lets the seconds be seen.
struct Conductor<'a, C, F> {
    start: Instant,
    crew: C,
    stop: &'a AtomicBool,
    on_second: F,
    seconds: Vec<Second>,
    seconds_ended: u64,
    /// The counters at the end of the last second.
    before: Counters,
    groups: &'a [Group],
    /// What they had used at the end of the last second, and when that was.
    usages: (Duration, Vec<Option<Usage>>),
}

impl<'a, C: Crew, F: FnMut(&Second)> Conductor<'a, C, F> {
    fn start(
        mut crew: C,
        groups: &'a [Group],
        stop: &'a AtomicBool,
        on_second: F,
    ) -> Result<Self, LoadError> {
        let start = Instant::now();
        crew.begin(start)?;
        let (seconds, seconds_ended, before) = (Vec::new(), 0, Counters::default());
        let usages = (start.elapsed(), measure(groups));
        Ok(Self { start, crew, stop, on_second, seconds, seconds_ended, before, groups, usages })
    }

    /// Waits until `done`, until that much time has passed, until somebody stops the run, or until a part of it fails.
    fn until(&mut self, limit: Option<Duration>, done: impl Fn(&Counters) -> bool) {
        let deadline = limit.map(|limit| Instant::now() + limit);
        while !self.stop.load(Ordering::Relaxed) {
            if self.step(&done) || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return;
            }
        }
    }

    /// Waits for the acknowledgements of what is in flight, also when the run was stopped.
    fn drain(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // A thread that has yet to see that it must send no more may have nothing in flight by chance.
        while !self.is_drained() && !self.step(&|_| false) && Instant::now() < deadline {}
    }

    fn is_drained(&self) -> bool {
        self.crew.is_drained() && self.crew.counters().undelivered() == 0
    }

    /// Waits a little, and returns whether it is done, or can't go on.
    fn step(&mut self, done: &impl Fn(&Counters) -> bool) -> bool {
        std::thread::sleep(STEP);
        let counters = self.crew.counters();
        let seconds = self.start.elapsed().as_secs();
        if seconds > self.seconds_ended {
            self.seconds_ended = seconds;
            self.end_second(seconds, counters);
        }
        done(&counters) || self.crew.has_ended()
    }

    fn end_second(&mut self, at: u64, now: Counters) {
        let mut latencies = Latencies::new();
        self.crew.take_latencies(&mut latencies);
        let before = std::mem::replace(&mut self.before, now);
        let troubles = |counters: &Counters| {
            counters.failed + counters.lost + counters.rejected + counters.corrupt + counters.retried
        };
        let latencies = latencies.summary();
        let second = Second {
            at,
            online: now.online(),
            in_flight: now.in_flight,
            connected: now.connected - before.connected,
            sent: now.sent - before.sent,
            acked: now.acked - before.acked,
            delivered: now.delivered - before.delivered,
            back: now.back - before.back,
            troubles: troubles(&now) - troubles(&before),
            p50_us: latencies.p50_us,
            p99_us: latencies.p99_us,
            p999_us: latencies.p999_us,
            max_us: latencies.max_us,
            processes: self.samples(),
        };
        (self.on_second)(&second);
        if self.seconds.len() < LISTED_SECONDS {
            self.seconds.push(second);
        }
    }

    /// Returns what the processes did since this was asked last.
    fn samples(&mut self) -> Vec<Sample> {
        let now = (self.start.elapsed(), measure(self.groups));
        let before = std::mem::replace(&mut self.usages, now);
        let passed = self.usages.0.saturating_sub(before.0).as_secs_f64().max(f64::EPSILON);
        let cpu = |usage: &Usage| usage.user + usage.system;
        let sample = |(before, now): (&Option<Usage>, &Option<Usage>)| match (before, now) {
            (Some(before), Some(now)) => Sample {
                cpu_percent: cpu(now).saturating_sub(cpu(before)).as_secs_f64() / passed * 100.0,
                resident_bytes: now.resident,
            },
            _ => Sample::default(),
        };
        before.1.iter().zip(&self.usages.1).map(sample).collect()
    }

    fn enter(&mut self, phase: Phase) -> io::Result<()> {
        self.crew.enter(phase, self.start.elapsed())
    }

    fn finish(self) -> Result<(Tally, Vec<Second>, Duration), LoadError> {
        let tally = self.crew.finish(self.start.elapsed())?;
        Ok((tally, self.seconds, self.start.elapsed()))
    }
}
