//! Devices that publish into a ledger: what they send is noted before it leaves, and what they are promised when the
//! acknowledgement comes.
//!
//! The client is rumqttc, which nobody here wrote.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
pub use rumqttc::QoS;
use rumqttc::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ledger::{Ledger, Payload};

/// Messages that a device's client takes before they are sent; the window holds the device back before that.
const QUEUED_MESSAGES: usize = 10;
/// Packet identifiers of a device's client. It uses them in turn, and when it finds one in use it keeps one message aside: of
/// several it forgets all but the last. So there are more than a window has messages.
const PACKET_IDENTIFIERS: u16 = 10_000;
/// How long a device waits before it connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often a device that hears nothing looks whether it is done.
const LOOK: Duration = Duration::from_millis(200);

/// What devices do: filled in, then [`start`](Self::start)ed.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// What their names begin with: `device` makes `device-00000`, which is client id, key and publisher in the ledger.
    pub name: &'static str,
    /// How many there are.
    pub devices: u32,
    /// Of each message that is in the ledger.
    pub qos: QoS,
    /// Of each device, between two messages.
    pub interval: Duration,
    /// Of each device; without a number until [`Running::finish`].
    pub messages: Option<u64>,
    /// Of each payload.
    pub payload_bytes: usize,
    /// Unacknowledged messages of one device.
    pub window: u16,
    /// When a silent connection counts as dead.
    pub keep_alive: Duration,
    /// One message in so many is followed by one at QoS 0 that is not in the ledger: found in Kafka, it is a phantom.
    pub unlisted_every: Option<u64>,
    /// Whether a device whose connection breaks keeps its session and goes on. Without that it panics: a client that
    /// comes back sends again what it had no answer to, and such duplicates are its own.
    pub reconnects: bool,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            name: "device",
            devices: 50,
            qos: QoS::AtLeastOnce,
            interval: Duration::from_millis(50),
            messages: None,
            payload_bytes: 1024,
            window: 20,
            keep_alive: Duration::from_mins(1),
            unlisted_every: None,
            reconnects: false,
        }
    }
}

impl Fleet {
    /// Lets every device connect to `broker` and publish to `t/NAME`.
    pub fn start(self, broker: SocketAddr, ledger: &Arc<Ledger>) -> Running {
        let told = Arc::new(Told::default());
        let mut devices = JoinSet::new();
        let begun = Instant::now();
        for number in 0..self.devices {
            let device = Device {
                name: format!("{}-{number:05}", self.name),
                fleet: self.clone(),
                ledger: Arc::clone(ledger),
                told: Arc::clone(&told),
                begun,
                window: Semaphore::new(self.window.into()),
                ended: AtomicBool::new(false),
            };
            devices.spawn(device.run(broker));
        }
        Running { told, devices }
    }
}

/// What all devices of a fleet share.
#[derive(Debug, Default)]
struct Told {
    stop: AtomicBool,
    broken: AtomicU64,
    /// What devices that hear nothing wait for, by their names.
    waiting: Mutex<BTreeMap<String, String>>,
    latencies: Mutex<Vec<Duration>>,
}

/// Devices at work. Dropping it ends them where they are.
#[derive(Debug)]
pub struct Running {
    told: Arc<Told>,
    devices: JoinSet<()>,
}

impl Running {
    /// Waits until every device has sent its number of messages and all are acknowledged. Without a number, has them
    /// stop sending first.
    ///
    /// # Panics
    ///
    /// When that takes longer than `limit`, or a device panicked.
    pub async fn finish(mut self, limit: Duration) -> Acknowledged {
        self.told.stop.store(true, Ordering::Relaxed);
        let all = async {
            while self.devices.join_next().await.transpose().expect("no device panics").is_some() {}
        };
        let ended = timeout(limit, all).await;
        assert!(ended.is_ok(), "not acknowledged in {limit:?}: {:#?}", self.told.waiting.lock());
        let mut latencies = std::mem::take(&mut *self.told.latencies.lock());
        latencies.sort_unstable();
        Acknowledged { latencies, broken: self.told.broken.load(Ordering::Relaxed) }
    }

    /// How many connections have broken so far.
    pub fn broken(&self) -> u64 {
        self.told.broken.load(Ordering::Relaxed)
    }
}

/// What devices saw, once all was acknowledged.
#[derive(Debug)]
pub struct Acknowledged {
    latencies: Vec<Duration>,
    /// How many connections broke.
    pub broken: u64,
}

impl Acknowledged {
    /// From a message's first byte to its acknowledgement: the time that `percent` of all messages stayed below.
    pub fn latency(&self, percent: usize) -> Duration {
        let place = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(place).copied().unwrap_or_default()
    }
}

/// One of them.
struct Device {
    name: String,
    fleet: Fleet,
    ledger: Arc<Ledger>,
    told: Arc<Told>,
    begun: Instant,
    /// A permit for each message that may be on its way.
    window: Semaphore,
    ended: AtomicBool,
}

impl Device {
    async fn run(self, broker: SocketAddr) {
        let mut options = MqttOptions::new(&self.name, broker.ip().to_string(), broker.port());
        options.set_keep_alive(self.fleet.keep_alive).set_inflight(PACKET_IDENTIFIERS);
        options.set_clean_session(!self.fleet.reconnects);
        let (client, events) = AsyncClient::new(options, QUEUED_MESSAGES);
        // The client is borrowed: dropped early, it would end the connection before the last acknowledgement.
        tokio::join!(self.send(&client), self.listen(events));
    }

    async fn send(&self, client: &AsyncClient) {
        let topic = format!("t/{}", self.name);
        let mut seq = 0;
        while self.fleet.messages.map_or(!self.told.stop.load(Ordering::Relaxed), |count| seq < count) {
            // Given back with the answer.
            self.window.acquire().await.expect("it is never closed").forget();
            self.ledger.sent(&self.name, seq);
            client.publish(&topic, self.fleet.qos, false, self.payload(seq)).await.expect("the client lives");
            if self.fleet.unlisted_every.is_some_and(|every| seq % every == 0) {
                let unlisted = self.payload(u64::MAX - seq);
                client.publish(&topic, QoS::AtMostOnce, false, unlisted).await.expect("the client lives");
            }
            seq += 1;
            sleep(self.fleet.interval).await;
        }
        self.ended.store(true, Ordering::SeqCst);
    }

    fn payload(&self, seq: u64) -> Vec<u8> {
        let sent_ns = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Payload { publisher: self.name.clone(), seq, sent_ns }.encode(self.fleet.payload_bytes)
    }

    /// Follows what is sent and acknowledged until nothing more is to come.
    async fn listen(&self, mut events: EventLoop) {
        let mut sent = HashMap::new();
        let mut numbers = 0..;
        while let Some(event) = self.next(&mut events, &sent).await {
            match event {
                // Packet identifier 0 is that of the messages at QoS 0.
                Ok(Event::Outgoing(Outgoing::Publish(id))) if id != 0 => {
                    // What is sent again after a reconnection keeps its identifier and its message.
                    let fresh = || (numbers.next().expect("there are enough numbers"), Instant::now());
                    sent.entry(id).or_insert_with(fresh);
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => self.answered(sent.remove(&ack.pkid)),
                Ok(Event::Incoming(Packet::PubComp(complete))) => self.answered(sent.remove(&complete.pkid)),
                Ok(_) => {}
                Err(error) => {
                    assert!(self.fleet.reconnects, "{} lost its connection: {error}", self.name);
                    self.told.broken.fetch_add(1, Ordering::Relaxed);
                    sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    /// The next that happens; `None` once nothing more is to come, although the connection stays.
    async fn next(
        &self,
        events: &mut EventLoop,
        sent: &HashMap<u16, (u64, Instant)>,
    ) -> Option<Result<Event, ConnectionError>> {
        let all = usize::from(self.fleet.window);
        // Never dropped half-way: while it connects, that would leave a connection behind which takes over from the next.
        let mut event = pin!(events.poll());
        loop {
            if self.ended.load(Ordering::SeqCst) && self.window.available_permits() == all {
                return None;
            }
            if let Ok(event) = timeout(LOOK, &mut event).await {
                return Some(event);
            }
            self.waits_for(sent);
        }
    }

    fn answered(&self, message: Option<(u64, Instant)>) {
        // An answer that came twice, over two connections, answers once.
        let Some((seq, at)) = message else { return };
        self.ledger.acknowledged(&self.name, seq);
        self.told.latencies.lock().push(at.elapsed());
        self.window.add_permits(1);
    }

    /// Notes what has no answer, by packet identifier: number in the ledger, and since when.
    fn waits_for(&self, sent: &HashMap<u16, (u64, Instant)>) {
        let unanswered: Vec<_> = sent.iter().map(|(id, (seq, at))| (id, seq, at.elapsed())).collect();
        let text = format!(
            "{} of {} slots free, {unanswered:?}",
            self.window.available_permits(),
            self.fleet.window
        );
        self.told.waiting.lock().insert(self.name.clone(), text);
    }
}
