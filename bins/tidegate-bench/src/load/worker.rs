//! One thread of the generator: an event loop over thousands of sockets, one timer wheel, no task and no timer for a
//! single device.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use tidegate_ledger::file::Notes;

use super::baton::{Baton, Phase, Window};
use super::device::{Device, Moment, Stage, Trouble};
use super::link::{Link, connect};
use super::plan::{Pace, Plan, Press, Storm, Traffic};
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
/// Alarms handled between two looks at the sockets, so that a storm of connecting does not keep answers waiting.
const ALARMS_AT_ONCE: usize = 256;
/// How long a publisher waits before it looks again whether deliveries have come.
const DELIVERY_PAUSE: Duration = Duration::from_millis(1);
/// When no delivery has come for so long, those on their way are waited for no longer.
const DELIVERY_STALL: Duration = Duration::from_secs(1);
const WAKER: Token = Token(usize::MAX);

#[derive(Debug, Clone, Copy)]
enum Alarm {
    Connect,
    ConnectTimeout,
    /// The device's turn to publish, at exactly that time.
    Publish(Duration),
    /// Deliveries may have come, so that the device may publish again.
    Resume,
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
    /// The latencies that the run is about but the latest, which the tally holds until they are shown.
    shown: Latencies,
    /// When latencies are shown again: adding histograms up takes too long for every turn of the loop.
    next_show: Duration,
    /// How many deliveries may be on their way at once, where that sets the pace.
    deliveries_at_once: Option<i64>,
    /// How many deliveries were on their way, and since when they have been as many.
    stalled: (i64, Duration),
    /// Devices that stopped in the middle, so that others get a turn: events come only at edges.
    again: Vec<usize>,
}

impl Worker {
    /// Returns a worker that takes the device at that place of the plan, and every so many-th behind it.
    pub(super) fn new(
        plan: &Arc<Plan>,
        (first, every): (usize, usize),
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
                Traffic::Silent | Traffic::Storm(_) => None,
                Traffic::Publish(publishing) => Some(Press::new(publishing, plan.version)),
            },
            wheel: Wheel::new(),
            tally: Tally::new(),
            shown: Latencies::new(),
            next_show: Duration::ZERO,
            deliveries_at_once: plan.deliveries_at_once(),
            stalled: (0, Duration::ZERO),
            again: Vec::new(),
        };
        worker.tally.notes = plan.ledger.as_ref().map(|_| Notes::default());
        let begun = start.elapsed();
        let in_flight = worker.press.as_ref().map_or(0, |press| press.publishing().window);
        for place in (0..plan.clients).skip(first).step_by(every) {
            let own = u32::try_from(worker.devices.len()).expect("no more than there are clients");
            let due = begun + Duration::from_secs_f64(f64::from(place) / plan.connect_rate);
            worker.wheel.insert(ticks(due), (own, Alarm::Connect));
            worker.devices.push(Device::new(place, plan, in_flight));
            worker.links.push(Link::default());
        }
        Ok((worker, waker, window))
    }

    /// Runs until the conductor says [`Phase::Disconnect`], and returns what was counted.
    pub(super) fn run(mut self) -> io::Result<Tally> {
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut out = Vec::with_capacity(WRITE_BYTES);
        let (mut due, mut handled) = (Vec::new(), 0);
        loop {
            match self
                .poll
                .poll(&mut events, Some(if handled < due.len() { Duration::ZERO } else { self.timeout() }))
            {
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
            if handled == due.len() {
                due.clear();
                handled = 0;
                self.wheel.expire(ticks_passed(self.now()), &mut due);
            }
            for (_, (own, alarm)) in due.iter().skip(handled).take(ALARMS_AT_ONCE) {
                handled += 1;
                let (index, alarm) = (*own as usize, *alarm);
                self.attempt(index, |worker| worker.ring(index, alarm, &mut out));
            }
            self.show()?;
        }
        self.note()?;
        main_latencies(&self.plan, &mut self.tally).merge(&self.shown);
        Ok(self.tally)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now(), wall_clock_ns: wall_clock_ns() }
    }

    fn timeout(&self) -> Duration {
        if !self.again.is_empty() {
            return Duration::ZERO;
        }
        let due = Duration::from_millis(self.wheel.next_due(LONGEST_SLEEP) * TICK_MILLIS);
        due.saturating_sub(self.now())
    }

    /// Lets the counters be seen, and now and then the latencies.
    fn show(&mut self) -> io::Result<()> {
        let now = self.now();
        if now >= self.next_show || self.tally.notes.as_ref().is_some_and(Notes::is_full) {
            self.note()?;
        }
        let mut window = self.window.lock().expect("no thread panics while it holds the window");
        (window.phase, window.counters) = (self.phase, self.tally.counters);
        if now >= self.next_show {
            self.next_show = now + SHOW_LATENCIES;
            let latest = main_latencies(&self.plan, &mut self.tally);
            window.latencies.merge(latest);
            self.shown.merge(latest);
            latest.clear();
        }
        Ok(())
    }

    /// Tells the ledger what happened since it was told last.
    fn note(&mut self) -> io::Result<()> {
        match (&self.plan.ledger, &mut self.tally.notes) {
            (Some(ledger), Some(notes)) => ledger.append(notes).map_err(|error| ledger_failed(&error)),
            _ => Ok(()),
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
        if let Traffic::Storm(storm) = self.plan.traffic {
            self.begin_storm(storm);
        }
        let Some(pace) = self.press.as_ref().map(|press| press.publishing().pace) else {
            return;
        };
        for index in 0..self.devices.len() {
            if !self.devices[index].is_online() || !self.devices[index].is_publisher() {
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

    /// Cuts all connections, and sets the time at which each is made again.
    fn begin_storm(&mut self, storm: Storm) {
        let begun = self.baton.published_from();
        for index in 0..self.devices.len() {
            if !self.devices[index].is_online() {
                continue;
            }
            self.links[index].cut();
            self.devices[index].cut(begun, &mut self.tally);
            let place = f64::from(self.devices[index].number() - self.plan.first_id);
            let turn = storm.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(place / rate));
            self.alarm_at(index, Alarm::Connect, begun + turn);
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
            self.links[index].close();
        }
    }

    /// Does something with a device; if that fails, its connection has ended.
    fn attempt(&mut self, index: usize, action: impl FnOnce(&mut Self) -> Result<(), Trouble>) {
        if let Err(trouble) = action(self) {
            if self.comes_again(index, &trouble) {
                return;
            }
            let device = &mut self.devices[index];
            let (what, count) = match device.stage() {
                Stage::Online => ("lost", &mut self.tally.counters.lost),
                _ => ("connect", &mut self.tally.counters.failed),
            };
            *count += 1;
            if device.is_publisher() && !self.press.as_ref().is_some_and(|press| is_finished(device, press)) {
                self.tally.counters.finished += 1;
            }
            device.abandon(&mut self.tally);
            self.tally.count_trouble(format!("{what}: {trouble}"));
            self.links[index].close();
        }
    }

    /// In a storm, a device that was not let in tries again: returns whether it will.
    fn comes_again(&mut self, index: usize, trouble: &Trouble) -> bool {
        let Traffic::Storm(storm) = self.plan.traffic else { return false };
        let device = &mut self.devices[index];
        if self.phase != Phase::Publish || device.is_online() {
            return false;
        }
        device.abandon(&mut self.tally);
        self.links[index].close();
        self.tally.counters.retried += 1;
        self.tally.count_trouble(format!("retried: {trouble}"));
        // Spread over the same time again, or they would all come at one moment.
        let pause = storm.retry + phase_of(self.devices[index].number(), storm.retry);
        self.alarm_at(index, Alarm::Connect, self.now() + pause);
        true
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
            let (moment, before) = (self.moment(), self.tally.counters.delivered);
            self.devices[index].receive(&buffer[..bytes], &self.plan, moment, &mut self.tally, out)?;
            if self.deliveries_at_once.is_some() {
                let came = self.tally.counters.delivered - before;
                self.baton.add_on_their_way(-i64::try_from(came).expect("fewer than the bytes of a read"));
            }
            if !out.is_empty() {
                self.links[index].write(out)?;
            }
            if !was_online && self.devices[index].is_online() && !self.links[index].ping_set {
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
                match self.phase {
                    Phase::Connect => self.tally.counters.attempted += 1,
                    Phase::Publish if matches!(self.plan.traffic, Traffic::Storm(_)) => {}
                    _ => return Ok(()),
                }
                self.connect(index)
            }
            Alarm::ConnectTimeout => match self.devices[index].stage() {
                // The alarm may be that of an attempt that is over.
                Stage::Connecting(since) | Stage::Greeting(since)
                    if since + self.plan.connect_timeout <= self.now() =>
                {
                    Err(Trouble::Timeout)
                }
                Stage::Subscribing => Err(Trouble::Timeout),
                _ => Ok(()),
            },
            Alarm::Resume => {
                self.links[index].pauses = false;
                self.fill_window(index, out)
            }
            Alarm::Publish(due) => self.publish_in_turn(index, due, out),
            Alarm::Ping => {
                self.links[index].ping_set = false;
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
        let target = self.plan.target(device.number());
        let mut stream = connect(target, source).map_err(|error| Trouble::Socket(error.kind()))?;
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
            self.links[index].ping_set = true;
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
                let moment = Moment { now, wall_clock_ns: wall_clock_ns() };
                device.publish(press, moment, &mut self.tally, out)?;
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

    /// Lets a publisher wait until deliveries have come, or have been waited for long enough: a broker may drop some.
    fn pause(&mut self, index: usize) {
        let (now, on_their_way) = (self.now(), self.baton.on_their_way());
        if self.stalled.0 != on_their_way {
            self.stalled = (on_their_way, now);
        } else if now >= self.stalled.1 + DELIVERY_STALL {
            self.baton.give_up_on(on_their_way);
        }
        self.alarm_at(index, Alarm::Resume, now + DELIVERY_PAUSE);
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
            || !device.is_publisher()
            || link.pauses
            || !link.unsent.is_empty()
            || device.room() == 0
            || is_finished(device, press)
        {
            return Ok(());
        }
        out.clear();
        let hearers = i64::from(device.hearers());
        while device.room() > 0 && out.len() < WRITE_BYTES && !is_finished(device, press) {
            if let Some(limit) = self.deliveries_at_once {
                if self.baton.on_their_way() + hearers > limit {
                    link.pauses = true;
                    break;
                }
                self.baton.add_on_their_way(hearers);
            }
            let moment = Moment { now, wall_clock_ns: wall_clock_ns() };
            device.publish(press, moment, &mut self.tally, out)?;
        }
        let pauses = link.pauses;
        if is_finished(device, press) {
            self.tally.counters.finished += 1;
        }
        link.write(out)?;
        if pauses {
            self.pause(index);
        } else if link.unsent.is_empty() && device.room() > 0 && !is_finished(device, press) {
            self.queue(index);
        }
        Ok(())
    }
}

/// A run without its ledger is not worth going on.
pub(super) fn ledger_failed(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the ledger: {error}"))
}

/// The latencies that a run is about, and that are seen while it runs.
fn main_latencies<'a>(plan: &Plan, tally: &'a mut Tally) -> &'a mut Latencies {
    match &plan.traffic {
        Traffic::Publish(publishing) if publishing.audience.is_some() => &mut tally.deliver,
        Traffic::Publish(_) | Traffic::Silent => &mut tally.acknowledge,
        Traffic::Storm(_) => &mut tally.reconnect,
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
