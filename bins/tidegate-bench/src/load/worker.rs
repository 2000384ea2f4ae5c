//! One thread of the generator: an event loop over thousands of sockets, one timer wheel, no task and no timer for a
//! single device.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};

use super::baton::{Baton, Phase, Window};
use super::device::{Device, Stage, Trouble};
use super::link::{Link, connect};
use super::plan::{Pace, Plan, Press, Traffic};
use super::tally::Tally;
use super::wheel::Wheel;
use crate::latency::Latencies;

/// One read, shared by all sockets of a thread.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Events taken from the kernel at once.
const EVENTS: usize = 1024;
/// What is written to a socket at once: so much that a system call is worth it, so little that it may fit.
const WRITE_BYTES: usize = 64 << 10;
/// A tick of the timer wheel, which is also how fine epoll sleeps.
const TICK_MILLIS: u64 = 1;
/// How long latencies may wait until they are seen.
const SHOW_LATENCIES: Duration = Duration::from_millis(100);
/// The longest sleep, in ticks.
const LONGEST_SLEEP: u64 = 100;
const WAKER: Token = Token(usize::MAX);

#[derive(Debug, Clone, Copy)]
enum Alarm {
    Connect,
    ConnectTimeout,
    /// The device's turn to publish, at exactly that time.
    Publish(Duration),
    Ping,
}

/// One thread's part of the run.
pub(super) struct Worker {
    plan: Arc<Plan>,
    baton: Arc<Baton>,
    window: Arc<Mutex<Window>>,
    start: Instant,
    poll: Poll,
    phase: Phase,
    devices: Vec<Device>,
    links: Vec<Link>,
    press: Option<Press>,
    wheel: Wheel<(u32, Alarm)>,
    tally: Tally,
    /// All acknowledgements but the latest, which the tally holds until they are shown.
    acknowledged: Latencies,
    /// When latencies are shown again: adding histograms up takes too long for every turn of the loop.
    next_show: Duration,
    /// Devices that stopped in the middle, so that others get a turn: events come only at edges.
    again: Vec<usize>,
}

impl Worker {
    /// Returns the worker with that index of `plan.threads`: it takes every `threads`-th device.
    pub(super) fn new(
        plan: &Arc<Plan>,
        index: usize,
        baton: &Arc<Baton>,
        start: Instant,
    ) -> io::Result<(Self, Waker, Arc<Mutex<Window>>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let window = Arc::new(Mutex::new(Window::new()));
        let mut worker = Self {
            plan: Arc::clone(plan),
            baton: Arc::clone(baton),
            window: Arc::clone(&window),
            start,
            poll,
            phase: Phase::Connect,
            devices: Vec::new(),
            links: Vec::new(),
            press: match &plan.traffic {
                Traffic::Silent => None,
                Traffic::Publish(publishing) => Some(Press::new(publishing, plan.version)),
            },
            wheel: Wheel::new(),
            tally: Tally::new(),
            acknowledged: Latencies::new(),
            next_show: Duration::ZERO,
            again: Vec::new(),
        };
        let begun = start.elapsed();
        let in_flight = worker.press.as_ref().map_or(0, |press| press.publishing().window);
        for place in (0..plan.clients).skip(index).step_by(plan.threads) {
            let own = u32::try_from(worker.devices.len()).expect("no more than there are clients");
            let due = begun + Duration::from_secs_f64(f64::from(place) / plan.connect_rate);
            worker.wheel.insert(ticks(due), (own, Alarm::Connect));
            worker.devices.push(Device::new(plan.first_id + place, plan, in_flight));
            worker.links.push(Link::default());
        }
        Ok((worker, waker, window))
    }

    /// Runs until the conductor says [`Phase::Disconnect`], and returns what was counted.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut out = Vec::with_capacity(WRITE_BYTES);
        let mut due = Vec::new();
        loop {
            match self.poll.poll(&mut events, Some(self.timeout())) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            self.follow(&mut out);
            if self.phase == Phase::Disconnect {
                break;
            }
            for index in std::mem::take(&mut self.again) {
                self.links[index].queued = false;
                self.attempt(index, |worker| worker.turn(index, &mut buffer, &mut out));
            }
            for event in &events {
                if event.token() != WAKER {
                    let index = event.token().0;
                    self.attempt(index, |worker| worker.ready(index, event, &mut buffer, &mut out));
                }
            }
            self.wheel.expire(ticks_passed(self.now()), &mut due);
            for (_, (own, alarm)) in due.drain(..) {
                let index = own as usize;
                self.attempt(index, |worker| worker.ring(index, alarm, &mut out));
            }
            self.show();
        }
        self.tally.acknowledge.merge(&self.acknowledged);
        Ok(self.tally)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let due = Duration::from_millis(self.wheel.next_due(LONGEST_SLEEP) * TICK_MILLIS);
        due.saturating_sub(self.now())
    }

    /// Lets the counters be seen, and now and then the latencies.
    fn show(&mut self) {
        let now = self.now();
        let mut window = self.window.lock().expect("no thread panics while it holds the window");
        (window.phase, window.counters) = (self.phase, self.tally.counters);
        if now >= self.next_show {
            self.next_show = now + SHOW_LATENCIES;
            window.acknowledged.merge(&self.tally.acknowledge);
            self.acknowledged.merge(&self.tally.acknowledge);
            self.tally.acknowledge.clear();
        }
    }

    /// Does what a new phase asks for.
    fn follow(&mut self, out: &mut Vec<u8>) {
        let phase = self.baton.phase();
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        match phase {
            Phase::Connect | Phase::Drain => {}
            Phase::Publish => self.begin_publishing(out),
            Phase::Disconnect => self.disconnect(out),
        }
    }

    fn begin_publishing(&mut self, out: &mut Vec<u8>) {
        let Some(pace) = self.press.as_ref().map(|press| press.publishing().pace) else {
            return;
        };
        for index in 0..self.devices.len() {
            if !self.devices[index].is_online() {
                continue;
            }
            match pace {
                Pace::Every(interval) => {
                    let due = self.baton.published_from() + phase_of(self.devices[index].number(), interval);
                    self.alarm_at(index, Alarm::Publish(due), due);
                }
                Pace::Window => self.attempt(index, |worker| worker.fill_window(index, out)),
            }
        }
    }

    fn disconnect(&mut self, out: &mut Vec<u8>) {
        for index in 0..self.devices.len() {
            if self.devices[index].is_online() {
                out.clear();
                // The run is over: a broker that closed before we could is not counted as a loss.
                if self.devices[index].leave(&mut self.tally, out).is_ok() {
                    let _ = self.links[index].write(out);
                }
            }
            self.links[index] = Link::default();
        }
    }

    /// Does something with a device; if that fails, its connection has ended.
    fn attempt(&mut self, index: usize, action: impl FnOnce(&mut Self) -> Result<(), Trouble>) {
        if let Err(trouble) = action(self) {
            let device = &mut self.devices[index];
            let (what, count) = match device.stage() {
                Stage::Online => ("lost", &mut self.tally.counters.lost),
                _ => ("connect", &mut self.tally.counters.failed),
            };
            *count += 1;
            if !self.press.as_ref().is_some_and(|press| is_finished(device, press)) {
                self.tally.counters.finished += 1;
            }
            device.abandon(&mut self.tally);
            self.tally.count_trouble(format!("{what}: {trouble}"));
            self.links[index] = Link::default();
        }
    }

    /// A socket has something to say.
    fn ready(
        &mut self,
        index: usize,
        event: &Event,
        buffer: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let Some(stream) = &self.links[index].stream else {
            return Ok(());
        };
        if let Stage::Connecting(_) = self.devices[index].stage() {
            if let Some(error) = stream.take_error().map_err(|error| Trouble::Socket(error.kind()))? {
                return Err(Trouble::Socket(error.kind()));
            }
            if !event.is_writable() || stream.peer_addr().is_err() {
                return Ok(());
            }
            out.clear();
            let now = self.now();
            self.devices[index].greet(&self.plan, now, out)?;
            self.links[index].write(out)?;
        } else if event.is_writable() && !self.links[index].unsent.is_empty() {
            self.links[index].flush()?;
        }
        self.links[index].ended |= event.is_read_closed();
        self.turn(index, buffer, out)
    }

    /// Reads once, handles all of it, writes all answers at once, and then publishes what there is room for.
    fn turn(&mut self, index: usize, buffer: &mut [u8], out: &mut Vec<u8>) -> Result<(), Trouble> {
        if let Some(bytes) = self.links[index].read(buffer)? {
            let was_online = self.devices[index].is_online();
            out.clear();
            let now = self.now();
            self.devices[index].receive(&buffer[..bytes], now, &mut self.tally, out)?;
            if !out.is_empty() {
                self.links[index].write(out)?;
            }
            if !was_online && self.devices[index].is_online() {
                self.set_ping(index);
            }
            // A read that did not fill the buffer took all there was.
            if bytes == buffer.len() || self.links[index].ended {
                self.queue(index);
            }
        }
        self.fill_window(index, out)
    }

    /// Gives the device another turn without an event.
    fn queue(&mut self, index: usize) {
        if !std::mem::replace(&mut self.links[index].queued, true) {
            self.again.push(index);
        }
    }

    /// A timer has come.
    fn ring(&mut self, index: usize, alarm: Alarm, out: &mut Vec<u8>) -> Result<(), Trouble> {
        match alarm {
            Alarm::Connect => {
                if self.phase == Phase::Connect {
                    self.tally.counters.attempted += 1;
                    return self.connect(index);
                }
                Ok(())
            }
            Alarm::ConnectTimeout => match self.devices[index].stage() {
                Stage::Connecting(_) | Stage::Greeting(_) => Err(Trouble::Timeout),
                _ => Ok(()),
            },
            Alarm::Publish(due) => self.publish_in_turn(index, due, out),
            Alarm::Ping => {
                if !self.devices[index].is_online() {
                    return Ok(());
                }
                out.clear();
                let now = self.now();
                self.devices[index].ping(now, &mut self.tally, out)?;
                if !out.is_empty() {
                    self.links[index].write(out)?;
                }
                self.set_ping(index);
                Ok(())
            }
        }
    }

    fn connect(&mut self, index: usize) -> Result<(), Trouble> {
        let device = &mut self.devices[index];
        let now = self.start.elapsed();
        device.begin(now);
        let source = (!self.plan.sources.is_empty())
            .then(|| self.plan.sources[device.number() as usize % self.plan.sources.len()]);
        let mut stream = connect(self.plan.target, source).map_err(|error| Trouble::Socket(error.kind()))?;
        self.poll
            .registry()
            .register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)
            .map_err(|error| Trouble::Socket(error.kind()))?;
        self.links[index].stream = Some(stream);
        self.alarm_at(index, Alarm::ConnectTimeout, now + self.plan.connect_timeout);
        Ok(())
    }

    fn alarm_at(&mut self, index: usize, alarm: Alarm, due: Duration) {
        let own = u32::try_from(index).expect("no more devices than clients");
        self.wheel.insert(ticks(due), (own, alarm));
    }

    fn set_ping(&mut self, index: usize) {
        if let Some(due) = self.devices[index].ping_due() {
            self.alarm_at(index, Alarm::Ping, due);
        }
    }

    /// Publishes what is due since `due`, or leaves it out, and sets the next turn.
    fn publish_in_turn(&mut self, index: usize, due: Duration, out: &mut Vec<u8>) -> Result<(), Trouble> {
        let now = self.now();
        let (device, link) = (&mut self.devices[index], &mut self.links[index]);
        let Some(press) = &mut self.press else { return Ok(()) };
        let Pace::Every(interval) = press.publishing().pace else { return Ok(()) };
        if self.phase != Phase::Publish || !device.is_online() {
            return Ok(());
        }
        let mut due = due;
        out.clear();
        while due <= now && !is_finished(device, press) {
            if device.room() == 0 || !link.unsent.is_empty() || out.len() >= WRITE_BYTES {
                self.tally.counters.skipped += 1;
            } else {
                self.tally.behind.record(now.saturating_sub(due));
                device.publish(press, now, wall_clock_ns(), &mut self.tally, out)?;
            }
            due += interval;
        }
        if !out.is_empty() {
            link.write(out)?;
        }
        if is_finished(device, press) {
            self.tally.counters.finished += 1;
        } else {
            self.alarm_at(index, Alarm::Publish(due), due);
        }
        Ok(())
    }

    /// Publishes as much as the window and the socket take, where that is the pace: one write, and the rest in another
    /// turn.
    fn fill_window(&mut self, index: usize, out: &mut Vec<u8>) -> Result<(), Trouble> {
        let now = self.now();
        let (device, link) = (&mut self.devices[index], &mut self.links[index]);
        let Some(press) = &mut self.press else { return Ok(()) };
        if press.publishing().pace != Pace::Window
            || self.phase != Phase::Publish
            || !device.is_online()
            || !link.unsent.is_empty()
            || device.room() == 0
            || is_finished(device, press)
        {
            return Ok(());
        }
        out.clear();
        while device.room() > 0 && out.len() < WRITE_BYTES && !is_finished(device, press) {
            device.publish(press, now, wall_clock_ns(), &mut self.tally, out)?;
        }
        if is_finished(device, press) {
            self.tally.counters.finished += 1;
        }
        link.write(out)?;
        if link.unsent.is_empty() && device.room() > 0 && !is_finished(device, press) {
            self.queue(index);
        }
        Ok(())
    }
}

fn is_finished(device: &Device, press: &Press) -> bool {
    press.publishing().count.is_some_and(|count| device.sent() >= count)
}

/// Where in the interval a device has its turn: by the golden ratio, so that any number of devices with consecutive
/// numbers is spread evenly, and neighbours are far apart.
fn phase_of(number: u32, interval: Duration) -> Duration {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    interval.mul_f64((f64::from(number) * GOLDEN).fract())
}

/// Returns the first tick at which that time has come.
fn ticks(time: Duration) -> u64 {
    nanos(time).div_ceil(TICK_MILLIS * 1_000_000)
}

/// Returns the last tick that has come by that time.
fn ticks_passed(time: Duration) -> u64 {
    nanos(time) / (TICK_MILLIS * 1_000_000)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn wall_clock_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_evenly_over_the_interval() {
        let interval = Duration::from_secs(1);
        let mut buckets = [0; 10];
        for number in 500..1500 {
            buckets[(phase_of(number, interval).as_millis() / 100) as usize] += 1;
        }
        assert!(buckets.iter().all(|devices| (95..=105).contains(devices)), "{buckets:?}");
    }
}
