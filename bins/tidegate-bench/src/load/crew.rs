//! Those who carry the load of a run: the threads of one process, which may be all of them or a part.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::Waker;

use super::LoadError;
use super::baton::{Baton, Phase, Window};
use super::plan::Plan;
use super::tally::{Counters, Tally};
use super::worker::{self, Worker};
use crate::latency::Latencies;

/// Which devices of a plan a process has: every `of`-th, from the one at `index` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) index: u16,
    pub(crate) of: u16,
}

impl Share {
    /// All devices.
    pub(crate) const WHOLE: Self = Self { index: 0, of: 1 };

    /// Returns how many devices they are, rounded up.
    pub(super) fn clients(self, plan: &Plan) -> u32 {
        plan.clients.div_ceil(u32::from(self.of))
    }
}

/// Those who carry the load, as the conductor of a run sees them.
pub(super) trait Crew {
    /// Lets all connect.
    fn begin(&mut self, start: Instant) -> Result<(), LoadError>;
    /// Lets all go on to that phase; `now` is the time since the start.
    fn enter(&mut self, phase: Phase, now: Duration) -> io::Result<()>;
    fn counters(&self) -> Counters;
    /// Adds the latencies that the run is about, since they were taken last, to `latencies`.
    fn take_latencies(&mut self, latencies: &mut Latencies);
    /// Whether nobody sends any more, or waits for an acknowledgement.
    fn is_drained(&self) -> bool;
    /// Whether somebody ended too early: the run can't go on.
    fn has_ended(&self) -> bool;
    /// Lets all say DISCONNECT, and returns what was counted.
    fn finish(self, now: Duration) -> Result<Tally, LoadError>;
}

/// The threads of this process.
pub(super) struct Threads<'a> {
    plan: &'a Plan,
    share: Share,
    baton: Arc<Baton>,
    running: Vec<Thread>,
}

struct Thread {
    handle: JoinHandle<io::Result<Tally>>,
    waker: Waker,
    window: Arc<Mutex<Window>>,
}

impl Thread {
    fn look<R>(&self, at: impl FnOnce(&mut Window) -> R) -> R {
        at(&mut self.window.lock().expect("no thread panics while it holds the window"))
    }
}

impl<'a> Threads<'a> {
    pub(super) fn new(plan: &'a Plan, share: Share) -> Self {
        Self { plan, share, baton: Arc::new(Baton::default()), running: Vec::new() }
    }
}

impl Crew for Threads<'_> {
    fn begin(&mut self, start: Instant) -> Result<(), LoadError> {
        let plan = Arc::new(self.plan.clone());
        let (index, of) = (usize::from(self.share.index), usize::from(self.share.of));
        for thread in 0..plan.threads {
            let places = (index + thread * of, plan.threads * of);
            let (worker, waker, window) = Worker::new(&plan, places, &self.baton, start)?;
            let name = format!("load-{thread}");
            let handle = std::thread::Builder::new().name(name).spawn(move || worker.run())?;
            self.running.push(Thread { handle, waker, window });
        }
        Ok(())
    }

    fn enter(&mut self, phase: Phase, now: Duration) -> io::Result<()> {
        self.baton.pass(phase, now);
        self.running.iter().try_for_each(|thread| thread.waker.wake())
    }

    fn counters(&self) -> Counters {
        let mut all = Counters::default();
        for thread in &self.running {
            all += thread.look(|window| window.counters);
        }
        all
    }

    fn take_latencies(&mut self, latencies: &mut Latencies) {
        for thread in &self.running {
            thread.look(|window| {
                latencies.merge(&window.latencies);
                window.latencies.clear();
            });
        }
    }

    fn is_drained(&self) -> bool {
        self.running.iter().all(|thread| thread.look(|window| window.is_drained()))
    }

    fn has_ended(&self) -> bool {
        self.running.iter().any(|thread| thread.handle.is_finished())
    }

    fn finish(mut self, now: Duration) -> Result<Tally, LoadError> {
        self.enter(Phase::Disconnect, now)?;
        let mut tally = Tally::new();
        for thread in self.running {
            tally.merge(&thread.handle.join().map_err(|_| LoadError::Panicked)??);
        }
        if let Some(ledger) = &self.plan.ledger {
            ledger.finish().map_err(|error| worker::ledger_failed(&error))?;
        }
        Ok(tally)
    }
}
