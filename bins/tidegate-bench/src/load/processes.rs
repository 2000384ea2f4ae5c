//! Several generator processes that carry one load, where one can't hold the sockets or fills a core.
//!
//! The first process conducts: it starts the others with its own command line and the number of their share, tells
//! them the phases, one line of JSON each, and hears from them, one line each, what they count. A process whose
//! conductor is gone ends; a conductor that has lost a process ends the run.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::baton::Phase;
use super::crew::{Crew, Share, Threads};
use super::plan::Plan;
use super::tally::{Counters, Tally};
use super::{LoadError, STEP, raise_file_limit};
use crate::latency::Latencies;

/// How often a process tells its latencies: adding histograms up takes too long for every step.
const TELL_LATENCIES: Duration = Duration::from_millis(100);
/// How long a process that says no more may take to end.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Orders that wait for a process to follow them: there are no more phases.
const ORDERS: usize = 8;

/// What the conductor tells a process, and what that says of itself.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Counters { counters: Counters, is_drained: bool },
    Latencies(Latencies),
    End(Box<Tally>),
}

/// Carries the share of a plan, as the conductor at the other end of stdin and stdout says.
pub(crate) fn follow(plan: &Plan, share: Share) -> Result<(), LoadError> {
    raise_file_limit(plan, share)?;
    let (orders, ordered) = mpsc::sync_channel(ORDERS);
    std::thread::Builder::new().name("orders".to_owned()).spawn(move || {
        for line in io::stdin().lines() {
            let Some(phase) = line.ok().and_then(|line| serde_json::from_str::<Phase>(&line).ok()) else {
                return;
            };
            if orders.send(phase).is_err() {
                return;
            }
        }
    })?;
    let mut threads = Threads::new(plan, share);
    match ordered.recv() {
        Ok(Phase::Connect) => {}
        _ => return Err(LoadError::NoConductor),
    }
    let start = Instant::now();
    threads.begin(start)?;
    let (mut said, mut latencies, mut tell_latencies) = (None, Latencies::new(), Instant::now());
    while !threads.has_ended() {
        match ordered.recv_timeout(STEP) {
            Ok(Phase::Disconnect) => break,
            Ok(phase) => threads.enter(phase, start.elapsed())?,
            Err(RecvTimeoutError::Disconnected) => return Err(LoadError::NoConductor),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = (threads.counters(), threads.is_drained());
        if said.replace(now) != Some(now) {
            tell(&Told::Counters { counters: now.0, is_drained: now.1 })?;
        }
        if tell_latencies.elapsed() >= TELL_LATENCIES {
            tell_latencies = Instant::now();
            threads.take_latencies(&mut latencies);
            if !latencies.is_empty() {
                tell(&Told::Latencies(std::mem::replace(&mut latencies, Latencies::new())))?;
            }
        }
    }
    let tally = threads.finish(start.elapsed())?;
    Ok(tell(&Told::End(Box::new(tally)))?)
}

fn tell(told: &Told) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    io::stdout().lock().write_all(&line)
}

/// The processes of a run, as its conductor has them. Those that are left when this goes are killed.
#[derive(Debug)]
pub(crate) struct Processes(Vec<Process>);

#[derive(Debug)]
struct Process {
    child: Child,
    stdin: ChildStdin,
    heard: Arc<Mutex<Heard>>,
    reader: Option<JoinHandle<()>>,
}

/// What a process has said so far.
#[derive(Debug)]
struct Heard {
    counters: Counters,
    is_drained: bool,
    latencies: Latencies,
    tally: Option<Box<Tally>>,
    has_ended: bool,
}

impl Processes {
    /// Starts as many of this program as the plan wants, with its own arguments; they wait until the run begins. Each
    /// notes what it does in its ledger, if there are ledgers.
    pub(crate) fn start(plan: &Plan, ledgers: &[PathBuf]) -> Result<Self, LoadError> {
        let count = plan.processes;
        // What they may have is what this one may.
        raise_file_limit(plan, Share { index: 0, of: count })?;
        let program = std::env::current_exe()?;
        let own: Vec<OsString> = std::env::args_os().skip(1).collect();
        let mut processes = Self(Vec::with_capacity(usize::from(count)));
        for index in 0..count {
            let mut command = Command::new(&program);
            command.args(&own).args(["--share", &index.to_string()]);
            if let Some(ledger) = ledgers.get(usize::from(index)) {
                command.arg("--share-ledger").arg(ledger);
            }
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            processes.0.push(Process::new(child)?);
        }
        Ok(processes)
    }

    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|process| process.child.id())
    }
}

impl Process {
    fn new(mut child: Child) -> io::Result<Self> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).expect("both are piped");
        let heard = Arc::new(Mutex::new(Heard {
            counters: Counters::default(),
            is_drained: false,
            latencies: Latencies::new(),
            tally: None,
            has_ended: false,
        }));
        let reader = std::thread::Builder::new().name("process".to_owned()).spawn({
            let heard = Arc::clone(&heard);
            move || {
                hear(stdout, &heard);
                look(&heard, |heard| heard.has_ended = true);
            }
        })?;
        Ok(Self { child, stdin, heard, reader: Some(reader) })
    }

    /// A process that is gone hears nothing; that it is gone is seen elsewhere.
    fn order(&mut self, phase: Phase) -> io::Result<()> {
        let mut line = serde_json::to_vec(&phase)?;
        line.push(b'\n');
        match self.stdin.write_all(&line) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended by itself after a run that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Notes what a process says, until it ends or says what makes no sense.
fn hear(stdout: ChildStdout, heard: &Mutex<Heard>) {
    for line in BufReader::new(stdout).lines() {
        let Some(told) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { return };
        look(heard, |heard| match told {
            Told::Counters { counters, is_drained } => {
                (heard.counters, heard.is_drained) = (counters, is_drained);
            }
            Told::Latencies(latencies) => heard.latencies.merge(&latencies),
            Told::End(tally) => heard.tally = Some(tally),
        });
    }
}

fn look<R>(heard: &Mutex<Heard>, at: impl FnOnce(&mut Heard) -> R) -> R {
    at(&mut heard.lock().expect("no thread panics while it holds what was heard"))
}

impl Crew for Processes {
    fn begin(&mut self, _start: Instant) -> Result<(), LoadError> {
        Ok(self.enter(Phase::Connect, Duration::ZERO)?)
    }

    fn enter(&mut self, phase: Phase, _now: Duration) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|process| process.order(phase))
    }

    fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for process in &self.0 {
            all += look(&process.heard, |heard| heard.counters);
        }
        all
    }

    fn take_latencies(&mut self, latencies: &mut Latencies) {
        for process in &self.0 {
            look(&process.heard, |heard| {
                latencies.merge(&heard.latencies);
                heard.latencies.clear();
            });
        }
    }

    fn is_drained(&self) -> bool {
        self.0.iter().all(|process| look(&process.heard, |heard| heard.is_drained))
    }

    fn has_ended(&self) -> bool {
        self.0.iter().any(|process| look(&process.heard, |heard| heard.has_ended))
    }

    fn finish(mut self, now: Duration) -> Result<Tally, LoadError> {
        // Who ended before this was said has failed; the others are not waited for then, and go with this.
        let failed = self.0.iter().position(|process| look(&process.heard, |heard| heard.has_ended));
        if let Some(index) = failed {
            return Err(self.0[index].failure(index));
        }
        self.enter(Phase::Disconnect, now)?;
        let mut tally = Tally::new();
        for (index, process) in self.0.iter_mut().enumerate() {
            if let Some(reader) = process.reader.take() {
                reader.join().map_err(|_| LoadError::Panicked)?;
            }
            match look(&process.heard, |heard| heard.tally.take()) {
                Some(own) => tally.merge(&own),
                None => return Err(process.failure(index)),
            }
            process.child.wait()?;
        }
        Ok(tally)
    }
}

impl Process {
    /// Why it ended; what it said itself stands on stderr.
    fn failure(&mut self, index: usize) -> LoadError {
        let deadline = Instant::now() + END_WITHIN;
        let how = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(STEP),
                Ok(None) => break "it said what makes no sense".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        LoadError::Process { number: index + 1, pid: self.child.id(), how }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_says_is_what_is_heard() {
        let mut tally = Tally::new();
        tally.counters.acked = 7;
        tally.troubles.insert("lost: \"it\"\n".to_owned(), 3);
        for micros in [1, 5, 70_000, 3_600_000_000] {
            tally.acknowledge.record(Duration::from_micros(micros));
        }
        let line = serde_json::to_string(&Told::End(Box::new(tally.clone()))).unwrap();
        assert!(!line.contains('\n'), "{line}");
        let Told::End(heard) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert_eq!((heard.counters, &heard.troubles), (tally.counters, &tally.troubles));
        assert_eq!(heard.acknowledge.summary(), tally.acknowledge.summary());
        assert_eq!(heard.connect.summary(), tally.connect.summary());
    }
}
