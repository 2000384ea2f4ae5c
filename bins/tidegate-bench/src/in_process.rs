//! How does a broker grow? The library is linked into this process and served connections without sockets, of which
//! there may be more than a process may have open files: 10,000, then 100,000, then 1,000,000 sessions.
//!
//! What belongs to whom is told apart by order and by threads. The tool's end of each new connection is allocated
//! before the broker hears of it, so what the resident memory grows by until all are greeted is the broker's. The broker
//! has threads of its own, whose CPU time the kernel accounts for. What a socket costs, in the kernel and in tokio's
//! registry of sockets, is in neither.

mod pipe;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use thiserror::Error;
use tidegate_broker::{AckMode, Broker, Config, Metrics, Output, RuleBinding};
use tidegate_codec::{Connect, EncodeError, PacketId, Publish, QoS, Version};
use tidegate_rules::{Rule, Template};
use tidegate_sink::Discard;
use tokio::runtime::{self, Runtime};
use tokio::sync::mpsc;

use self::pipe::{Answers, InMemory, Pipe, Stream};
use crate::procfs::{self, Usage, UsageError};

/// The broker's threads are told by it.
const THREAD_NAME: &str = "broker";
/// Connections that are begun together: few, so that what greetings need for a moment is not what sessions take.
const GREETED_AT_ONCE: usize = 1000;
/// How often answers are looked for. The broker never wakes the tool: it would pay for it.
const LOOK: Duration = Duration::from_micros(50);
/// How long the broker may say nothing while an answer is due.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the broker gets to put its memory in order before it is measured.
const SETTLE: Duration = Duration::from_millis(300);
/// Seconds: no connection has to ping while this runs.
const KEEP_ALIVE: u16 = u16::MAX;
/// Messages that go before those that are measured, one for so many.
const WARM_UP_ONE_IN: u64 = 10;
/// Steps differ by at most this from the first where growth is level.
const LEVEL: f64 = 0.2;

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Growth {
    /// How many sessions there are at each step, growing.
    pub(crate) sessions: Vec<u32>,
    /// Messages that are measured at each step.
    pub(crate) messages: u64,
    /// Messages on their way at once, each of another device.
    pub(crate) window: NonZeroU32,
    pub(crate) payload_bytes: usize,
    /// Of the broker.
    pub(crate) threads: usize,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub(crate) enum GrowthError {
    #[error("cannot start the broker: {0}")]
    Start(Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot measure this process: {0}")]
    Usage(#[from] UsageError),
    #[error("cannot encode: {0}")]
    Encode(#[from] EncodeError),
    #[error("the broker said nothing for {PATIENCE:?} while {0} answers were due")]
    Silent(usize),
    #[error("the broker closed {0} connections")]
    Closed(usize),
    #[error("the broker answered {0:x?} where it should not")]
    Answer(Vec<u8>),
    #[error("stopped before its end")]
    Stopped,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Grown {
    pub(crate) messages: u64,
    pub(crate) payload_bytes: usize,
    pub(crate) window: u32,
    pub(crate) threads: usize,
    /// The process with a broker and no session.
    pub(crate) resident_before_bytes: u64,
    pub(crate) steps: Vec<Step>,
}

/// What a session and a message cost with so many sessions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Step {
    pub(crate) sessions: u32,
    /// Of the broker, for each of all sessions.
    pub(crate) session_bytes: f64,
    /// Of the tool's ends of the connections; not in the former.
    pub(crate) tool_bytes: f64,
    /// CPU time of the broker's threads for each session that was added.
    pub(crate) connect_us: f64,
    /// CPU time of the broker's threads for each message, in user mode and in the kernel.
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    pub(crate) messages_per_second: f64,
}

/// Lets a broker grow, step by step, until `stop` is set; `on_step` sees each when it is done.
pub(crate) fn run(
    growth: &Growth,
    stop: &AtomicBool,
    on_step: impl FnMut(&Step),
) -> Result<Grown, GrowthError> {
    let (runtime, broker, connect) = start(growth)?;
    let mut fleet = Fleet {
        stop,
        connect,
        pipes: Vec::new(),
        answers: Arc::new(Answers::default()),
        spares: Vec::new(),
        payload: vec![b'x'; growth.payload_bytes],
        topic: String::new(),
        next: 0,
        tool_bytes: 0,
    };
    let result = fleet.grow(growth, on_step);
    // Nothing is told to the sessions: a million farewells would be most of the run.
    runtime.shutdown_background();
    drop(broker);
    result
}

/// Starts a broker whose every message goes through a rule into a sink that discards. Returns where its connections come
/// from.
fn start(growth: &Growth) -> Result<(Runtime, Broker, mpsc::Sender<Stream>), GrowthError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| GrowthError::Start(error);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(growth.threads)
        .thread_name(THREAD_NAME)
        .enable_all()
        .build()
        .map_err(|error| failed(error.into()))?;
    let rule = RuleBinding {
        rule: Rule::compile("all", r##"SELECT * FROM "#""##).expect("it is a rule"),
        ack: AckMode::Delivered,
        outputs: vec![Output {
            feed: Arc::new(Discard::new()),
            topic: Template::compile("growth").expect("it is a template"),
            key: None,
            value: None,
            headers: Vec::new(),
            default_headers: true,
        }],
        republishes: Vec::new(),
    };
    let most = growth.sessions.iter().max().map_or(0, |most| *most as usize);
    let config = Config { max_connections: most, max_sessions: most, ..Config::default() };
    let metrics = Metrics::register(&prometheus::Registry::new()).map_err(|error| failed(error.into()))?;
    let (connect, connections) = mpsc::channel(GREETED_AT_ONCE);
    let broker = runtime
        .block_on(async { Broker::start(config, vec![rule], metrics) })
        .map_err(|error| failed(error.into()))?;
    runtime.spawn({
        let broker = broker.clone();
        async move { broker.serve(InMemory::new(connections)).await }
    });
    Ok((runtime, broker, connect))
}

/// The devices.
struct Fleet<'a> {
    stop: &'a AtomicBool,
    connect: mpsc::Sender<Stream>,
    pipes: Vec<Arc<Pipe>>,
    answers: Arc<Answers>,
    /// Buffers that held a message.
    spares: Vec<Vec<u8>>,
    payload: Vec<u8>,
    topic: String,
    /// The number of the next message.
    next: u64,
    /// What the tool's ends take.
    tool_bytes: u64,
}

impl Fleet<'_> {
    fn grow(&mut self, growth: &Growth, mut on_step: impl FnMut(&Step)) -> Result<Grown, GrowthError> {
        std::thread::sleep(SETTLE);
        let before = resident()?;
        let mut steps = Vec::with_capacity(growth.sessions.len());
        for &sessions in &growth.sessions {
            let step = self.step(growth, sessions, before)?;
            on_step(&step);
            steps.push(step);
        }
        Ok(Grown {
            messages: growth.messages,
            payload_bytes: growth.payload_bytes,
            window: growth.window.get(),
            threads: growth.threads,
            resident_before_bytes: before,
            steps,
        })
    }

    fn step(&mut self, growth: &Growth, sessions: u32, before: u64) -> Result<Step, GrowthError> {
        let added = self.make_pipes(sessions as usize)?;
        let used = cpu()?;
        self.connect(added.clone())?;
        std::thread::sleep(SETTLE);
        let (connected, grown) = (cpu()?, resident()?.saturating_sub(before + self.tool_bytes));

        self.publish(growth.messages / WARM_UP_ONE_IN, growth.window)?;
        let (used_before, begun) = (cpu()?, Instant::now());
        self.publish(growth.messages, growth.window)?;
        let (used_after, took) = (cpu()?, begun.elapsed().as_secs_f64());
        let micros = |before: Duration, after: Duration, count: f64| {
            after.saturating_sub(before).as_secs_f64() * 1e6 / count.max(1.0)
        };
        let messages = float(growth.messages);
        Ok(Step {
            sessions,
            session_bytes: float(grown) / f64::from(sessions),
            tool_bytes: float(self.tool_bytes) / f64::from(sessions),
            connect_us: micros(
                used.user + used.system,
                connected.user + connected.system,
                float(added.len() as u64),
            ),
            user_us: micros(used_before.user, used_after.user, messages),
            system_us: micros(used_before.system, used_after.system, messages),
            messages_per_second: messages / took.max(f64::EPSILON),
        })
    }

    /// Makes the tool's ends of so many connections in all, and notes what they take. Returns the new ones.
    fn make_pipes(&mut self, sessions: usize) -> Result<std::ops::Range<usize>, GrowthError> {
        let (first, before) = (self.pipes.len(), resident()?);
        self.pipes.reserve_exact(sessions.saturating_sub(first));
        self.pipes.resize_with(sessions.max(first), || Arc::new(Pipe::new(&self.answers)));
        // A list that moved into a larger one gave its old place back.
        self.tool_bytes = (self.tool_bytes + resident()?).saturating_sub(before);
        Ok(first..self.pipes.len())
    }

    fn connect(&mut self, added: std::ops::Range<usize>) -> Result<(), GrowthError> {
        for first in added.clone().step_by(GREETED_AT_ONCE) {
            let chunk = first..(first + GREETED_AT_ONCE).min(added.end);
            for number in chunk.clone() {
                let mut connect = self.spare();
                let client_id = format!("growth-{number}");
                let mut packet = Connect::new(Version::V3_1_1, &client_id);
                packet.keep_alive = KEEP_ALIVE;
                packet.encode(&mut connect)?;
                self.pipes[number].send(connect);
                let stream = Stream::new(Arc::clone(&self.pipes[number]));
                self.connect.try_send(stream).map_err(|_| GrowthError::Silent(chunk.len()))?;
            }
            self.wait(chunk.len(), CONNACK, |_, _| Ok(0))?;
        }
        Ok(())
    }

    /// Publishes so many messages, each of another device than those before it, and waits for their PUBACKs.
    fn publish(&mut self, messages: u64, window: NonZeroU32) -> Result<(), GrowthError> {
        let at_once = u64::from(window.get()).min(messages).min(self.pipes.len() as u64);
        let last = self.next + messages;
        for _ in 0..at_once {
            self.publish_next()?;
        }
        let at_once = usize::try_from(at_once).expect("no more than there are pipes");
        self.wait(at_once, PUBACK, |fleet, answered| {
            let further = answered.min(usize::try_from(last - fleet.next).unwrap_or(usize::MAX));
            for _ in 0..further {
                fleet.publish_next()?;
            }
            Ok(further)
        })
    }

    fn publish_next(&mut self) -> Result<(), GrowthError> {
        use fmt::Write as _;
        let place = usize::try_from(spread(self.next, self.pipes.len() as u64))
            .expect("it is below the number of pipes");
        self.next += 1;
        let mut message = self.spare();
        self.topic.clear();
        write!(self.topic, "growth/{place}").expect("a String takes everything");
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            topic: &self.topic,
            packet_id: PacketId::new(1),
            payload: &self.payload,
            ..Publish::default()
        };
        publish.encode(Version::V3_1_1, &mut message)?;
        self.pipes[place].send(message);
        Ok(())
    }

    fn spare(&mut self) -> Vec<u8> {
        let mut spare = self.spares.pop().unwrap_or_default();
        spare.clear();
        spare
    }

    /// Waits for so many answers, each of them `expected`. `on_answers` is told how many have come, and says how many
    /// more it has caused.
    fn wait(
        &mut self,
        mut due: usize,
        expected: [u8; 4],
        mut on_answers: impl FnMut(&mut Self, usize) -> Result<usize, GrowthError>,
    ) -> Result<(), GrowthError> {
        let mut heard_at = Instant::now();
        let (mut said, mut spares) = (Vec::new(), Vec::new());
        while due > 0 {
            if self.stop.load(Ordering::Relaxed) {
                return Err(GrowthError::Stopped);
            }
            match self.answers.closed() {
                0 => {}
                closed => return Err(GrowthError::Closed(closed)),
            }
            self.answers.take(&mut said, &mut spares);
            self.spares.append(&mut spares);
            if said.is_empty() {
                if heard_at.elapsed() > PATIENCE {
                    return Err(GrowthError::Silent(due));
                }
                std::thread::sleep(LOOK);
                continue;
            }
            heard_at = Instant::now();
            if said.chunks(expected.len()).any(|answer| answer != expected) {
                return Err(GrowthError::Answer(said));
            }
            let answered = said.len() / expected.len();
            said.clear();
            due = due.checked_sub(answered).ok_or(GrowthError::Answer(Vec::new()))?;
            due += on_answers(self, answered)?;
        }
        Ok(())
    }
}

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
/// Of packet identifier 1: a device has one message on its way at most.
const PUBACK: [u8; 4] = [0x40, 2, 0, 1];

/// Returns whose turn it is: each of `all` once before any comes again, and neighbours far apart, so that no cache
/// knows who is next.
fn spread(turn: u64, all: u64) -> u64 {
    // Around the golden ratio, and without a factor in common with `all`.
    let mut stride = (all * 618 / 1000) | 1;
    while gcd(stride, all) > 1 {
        stride += 2;
    }
    ((u128::from(turn) * u128::from(stride)) % u128::from(all)) as u64
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn resident() -> Result<u64, GrowthError> {
    Ok(procfs::usage(std::process::id())?.resident)
}

fn cpu() -> Result<Usage, GrowthError> {
    Ok(procfs::threads(THREAD_NAME)?)
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes stay far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

impl Step {
    fn message_us(&self) -> f64 {
        self.user_us + self.system_us
    }
}

impl Grown {
    /// Returns how far the step that is farthest from the first is from it, as a factor.
    fn farthest(&self, value: impl Fn(&Step) -> f64) -> f64 {
        let Some(first) = self.steps.first().map(&value) else { return 1.0 };
        let factors = self.steps.iter().map(|step| value(step) / first.max(f64::EPSILON));
        factors
            .fold(1.0, |far: f64, factor| if (factor - 1.0).abs() > (far - 1.0).abs() { factor } else { far })
    }
}

/// The table.
impl fmt::Display for Grown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "one process, {} threads of the broker, {} messages of {} bytes at each step, {} at once\n",
            self.threads, self.messages, self.payload_bytes, self.window
        )?;
        writeln!(
            f,
            "  {:>9} {:>14} {:>11} {:>14} {:>12} {:>8} {:>8} {:>11}",
            "sessions",
            "bytes/session",
            "tool's own",
            "us to connect",
            "us/message",
            "user",
            "system",
            "messages/s"
        )?;
        for step in &self.steps {
            writeln!(
                f,
                "  {:>9} {:>14.0} {:>11.0} {:>14.1} {:>12.2} {:>8.2} {:>8.2} {:>11.0}",
                step.sessions,
                step.session_bytes,
                step.tool_bytes,
                step.connect_us,
                step.message_us(),
                step.user_us,
                step.system_us,
                step.messages_per_second,
            )?;
        }
        for (what, factor) in [
            ("bytes for each session", self.farthest(|step| step.session_bytes)),
            ("CPU time for each message", self.farthest(Step::message_us)),
        ] {
            let verdict = if (factor - 1.0).abs() <= LEVEL { "level" } else { "NOT level" };
            write!(f, "\n{what}: {verdict}, {factor:.2} times the first step where it is farthest from it")?;
        }
        writeln!(f)
    }
}
