//! A few clients with their sessions over a store, and the states that the store may come back with.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tidegate_codec::{
    Connect, Packet, PacketId, PubAck, Publish, PublishProperties, QoS, ReasonCode, Subscribe,
    SubscribeFilter, Unsubscribe, UserProperties, Version, Will,
};
use tidegate_session::{
    Change, Delivery, DeliveryNumber, Ended, Expiry, Identifiers, Input, Limits, Message, Session,
    SessionState, Welcome,
};
use tidegate_store::{Clock, Commit, Failed, Journal, Options, Recovered, SessionKey, Store, Waiting};

use crate::disk::SimulatedDisk;
use crate::model::Model;

/// Clocks that stand still until they are set.
#[derive(Debug, Clone)]
pub(crate) struct SetClock {
    start: Instant,
    passed_ms: Arc<AtomicU64>,
    wall_ms: Arc<AtomicU64>,
}

impl SetClock {
    pub(crate) fn new(wall_ms: u64) -> Self {
        Self { start: Instant::now(), passed_ms: Arc::default(), wall_ms: Arc::new(wall_ms.into()) }
    }

    /// Lets time pass on both clocks.
    pub(crate) fn pass(&self, seconds: u64) {
        self.passed_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
        self.wall_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub(crate) fn set_wall(&self, seconds: u64) {
        self.wall_ms.store(seconds * 1000, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Instant {
        self.start + Duration::from_millis(self.passed_ms.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread; `None` after a minute, which is a waker that was lost.
pub(crate) fn wait<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = until.checked_duration_since(Instant::now())?;
        std::thread::park_timeout(left);
    }
}

pub(crate) fn committed(store: &impl Store, commit: Commit) -> Result<(), Failed> {
    let mut waiting = Waiting::default();
    wait(poll_fn(|cx| store.poll_committed(commit, &mut waiting, cx))).expect("whoever waits is woken")
}

/// Small segments, so that much happens in a small run.
pub(crate) fn options() -> Options {
    let mut options = Options::new("nowhere");
    options.segment_bytes = 2000;
    options
}

pub(crate) fn open(disk: &SimulatedDisk) -> (Journal, Recovered) {
    Journal::open_on(disk.clone(), SetClock::new(1_000_000_000), options()).unwrap()
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub(crate) fn message(topic: &str, payload: &[u8], qos: QoS) -> Arc<Message> {
    Arc::new(Message::new(topic, payload, qos, false))
}

pub(crate) fn delivery(message: &Arc<Message>) -> Delivery {
    Delivery {
        message: Arc::clone(message),
        qos: message.qos(),
        retain: false,
        subscription_identifiers: Identifiers::None,
    }
}

/// What a client, or somebody for it, does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Connect {
        clean: bool,
        with_will: bool,
    },
    Disconnect(Ended),
    Subscribe(u8),
    Unsubscribe(u8),
    /// A message comes for all clients at once, as one message.
    Deliver {
        qos: QoS,
        bytes: usize,
    },
    /// The same, but it is left for them.
    Post {
        qos: QoS,
        bytes: usize,
    },
    TakePosted,
    /// The client acknowledges what it was sent, in whatever way is next.
    Acknowledge {
        which: usize,
    },
    Publish {
        number: u16,
    },
    Release {
        number: u16,
    },
    Retain {
        topic: u8,
        bytes: usize,
    },
    WillDone,
    Discard,
}

const CLIENTS: usize = 3;

pub(crate) struct World {
    pub(crate) disk: SimulatedDisk,
    pub(crate) store: Journal,
    clients: Vec<Client>,
    model: Model,
    /// The states after each append, and which of them is known to be safe.
    states: Vec<Model>,
    safe: usize,
    last: Commit,
    now: Instant,
}

#[derive(Debug)]
struct Client {
    key: SessionKey,
    session: Session,
    exists: bool,
    mailbox: VecDeque<(DeliveryNumber, Delivery)>,
    /// What went out and was not acknowledged: the identifier, the QoS, and whether PUBREC was sent.
    sent: VecDeque<(u16, QoS, bool)>,
}

fn limits() -> Arc<Limits> {
    Arc::new(Limits { record_changes: true, max_queued_messages: 20, ..Limits::default() })
}

impl World {
    pub(crate) fn new() -> Self {
        Self::over(SimulatedDisk::default())
    }

    fn over(disk: SimulatedDisk) -> Self {
        let (store, recovered) = open(&disk);
        let model = Model::of(&recovered);
        let mut stored: BTreeMap<String, _> = recovered
            .sessions
            .into_iter()
            .map(|(key, session)| (session.client_id.to_string(), (key, session)))
            .collect();
        let clients = (0..CLIENTS)
            .map(|index| match stored.remove(&format!("client-{index}")) {
                Some((key, stored)) => {
                    let (session, _) = Session::restore(stored, limits());
                    Client { key, session, exists: true, mailbox: VecDeque::new(), sent: VecDeque::new() }
                }
                None => Client::new(index, store.new_session()),
            })
            .collect();
        Self {
            disk,
            store,
            clients,
            states: vec![model.clone()],
            model,
            safe: 0,
            last: Commit::NONE,
            now: Instant::now(),
        }
    }

    pub(crate) fn take(&mut self, who: usize, step: &Step) {
        let who = who % CLIENTS;
        match step {
            Step::Connect { clean, with_will } => self.connect(who, *clean, *with_will),
            Step::Disconnect(cause) => {
                let client = &mut self.clients[who];
                if client.session.is_connected() {
                    client.session.end(*cause, &mut Vec::new());
                    client.take_posted(self.now);
                }
            }
            Step::Subscribe(filter) => self.clients[who].subscribe(*filter),
            Step::Unsubscribe(filter) => self.clients[who].unsubscribe(*filter),
            Step::Deliver { qos, bytes } => {
                let message = message("plant/7", &vec![b'd'; *bytes], *qos);
                for client in self.clients.iter_mut().filter(|client| client.exists) {
                    client.deliver(None, delivery(&message), self.now);
                }
            }
            Step::Post { qos, bytes } => self.post(&message("plant/8", &vec![b'p'; *bytes], *qos)),
            Step::TakePosted => self.clients[who].take_posted(self.now),
            Step::Acknowledge { which } => self.clients[who].acknowledge(*which, self.now),
            Step::Publish { number } => self.clients[who].publish(*number, self.now),
            Step::Release { number } => {
                self.clients[who].handle(&Packet::PubRel(PubAck::new(id(*number))), self.now);
            }
            Step::Retain { topic, bytes } => {
                let payload = vec![b'r'; *bytes];
                let message = Arc::new(Message::new(&format!("r/{topic}"), &payload, QoS::AtLeastOnce, true));
                self.model.retain(&message);
                self.last = self.store.retain(&message);
                self.states.push(self.model.clone());
            }
            Step::WillDone => self.append(who, vec![Change::WillDone]),
            Step::Discard => {
                if self.clients[who].exists && !self.clients[who].session.is_connected() {
                    self.append(who, vec![Change::Ended]);
                    self.clients[who] = Client::new(who, self.store.new_session());
                }
            }
        }
        for index in 0..CLIENTS {
            let mut changes = Vec::new();
            self.clients[index].session.take_changes(&mut changes);
            self.append(index, changes);
        }
    }

    fn append(&mut self, who: usize, mut changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let key = self.clients[who].key;
        for change in &changes {
            self.model.apply(key, change.clone());
        }
        self.last = self.store.append(key, &mut changes);
        assert!(changes.is_empty());
        self.states.push(self.model.clone());
    }

    fn connect(&mut self, who: usize, clean: bool, with_will: bool) {
        let client = &mut self.clients[who];
        if client.session.is_connected() {
            return;
        }
        if clean {
            // As the broker does it, but the end of the old one is said later, or never.
            *client = Client::new(who, self.store.new_session());
        }
        let state = if client.exists { SessionState::Resumed } else { SessionState::New };
        let mut connect = Connect::new(Version::V5, "");
        connect.properties.session_expiry_interval = Some(3600);
        if with_will {
            connect.will = Some(Will {
                topic: "gone",
                payload: b"will",
                qos: QoS::AtLeastOnce,
                retain: true,
                delay_interval: 60,
                properties: PublishProperties {
                    message_expiry_interval: Some(9),
                    content_type: Some("text/plain"),
                    ..PublishProperties::default()
                },
            });
        }
        client.exists = true;
        client.sent.clear();
        let mut out = Vec::new();
        client.session.connect(&connect, Welcome::new(state), self.now, &mut out);
        client.read(&out);
    }

    fn post(&mut self, message: &Arc<Message>) {
        for index in 0..CLIENTS {
            if !self.clients[index].session.is_connected() {
                continue;
            }
            let number = self.store.next_posting();
            let delivery = delivery(message);
            if message.qos() != QoS::AtMostOnce {
                self.append(index, vec![Change::Posted { number, delivery: delivery.clone() }]);
            }
            self.clients[index].mailbox.push_back((number, delivery));
        }
    }

    /// Waits until all of it is safe.
    pub(crate) fn settle(&mut self) {
        assert_eq!(committed(&self.store, self.last), Ok(()));
        if self.disk.after_power_went().is_none() {
            self.safe = self.states.len() - 1;
        }
    }

    /// Starts again from what the disk held, and checks that it is what was promised, or a little more.
    pub(crate) fn restart(self, files: BTreeMap<String, Vec<u8>>) -> Self {
        let Self { states, safe, store, .. } = self;
        drop(store);
        let world = Self::over(SimulatedDisk::with_files(files));
        let is_as_promised = states[safe..].iter().any(|state| state.after_restart() == world.model);
        assert!(
            is_as_promised,
            "came back with {:#?}\nbut of the states 0 to {} number {safe} was safe: {:#?}\nand the last is {:#?}",
            world.model.summary(),
            states.len() - 1,
            states[safe].after_restart().summary(),
            states[states.len() - 1].after_restart().summary()
        );
        world
    }

    /// How many appends are known to be safe.
    pub(crate) fn committed(&self) -> usize {
        self.safe
    }

    pub(crate) fn model(&self) -> &Model {
        &self.model
    }
}

impl Client {
    fn new(index: usize, key: SessionKey) -> Self {
        let session = Session::new(&format!("client-{index}"), limits());
        Self { key, session, exists: false, mailbox: VecDeque::new(), sent: VecDeque::new() }
    }

    /// Takes note of what the session sent.
    fn read(&mut self, mut out: &[u8]) {
        let decoder = tidegate_codec::Decoder::client(Version::V5, tidegate_codec::Limits::UNLIMITED);
        while let Ok(tidegate_codec::Decoded::Packet { packet, len }) = decoder.decode(out) {
            match packet {
                Packet::Publish(Publish { packet_id: Some(packet_id), qos, .. }) => {
                    self.sent.push_back((packet_id.get(), qos, false));
                }
                Packet::PubRel(ack) => {
                    self.sent.push_back((ack.packet_id.get(), QoS::ExactlyOnce, true));
                }
                _ => {}
            }
            out = &out[len..];
        }
    }

    fn deliver(&mut self, number: Option<DeliveryNumber>, delivery: Delivery, now: Instant) {
        let mut out = Vec::new();
        match number {
            Some(number) => self.session.deliver_posted(number, delivery, now, &mut out),
            None => self.session.deliver(delivery, now, &mut out),
        };
        self.read(&out);
    }

    fn take_posted(&mut self, now: Instant) {
        for (number, delivery) in std::mem::take(&mut self.mailbox) {
            self.deliver(Some(number), delivery, now);
        }
    }

    fn handle(&mut self, packet: &Packet<'_>, now: Instant) {
        if self.session.is_connected() {
            let mut out = Vec::new();
            assert_eq!(self.session.handle_packet(packet, now, &mut out), Ok(Input::Handled));
            self.read(&out);
        }
    }

    fn acknowledge(&mut self, which: usize, now: Instant) {
        if self.sent.is_empty() {
            return;
        }
        let Some((number, qos, is_released)) = self.sent.remove(which % self.sent.len()) else { return };
        let ack = PubAck::new(id(number));
        let packet = match (qos, is_released) {
            (QoS::AtLeastOnce, _) => Packet::PubAck(ack),
            (_, false) => Packet::PubRec(ack),
            (_, true) => Packet::PubComp(ack),
        };
        self.handle(&packet, now);
    }

    fn publish(&mut self, number: u16, now: Instant) {
        if !self.session.is_connected() {
            return;
        }
        let publish =
            Publish { qos: QoS::ExactlyOnce, packet_id: Some(id(number)), topic: "a", ..Publish::default() };
        let packet = Packet::Publish(publish);
        let input = self.session.handle_packet(&packet, now, &mut Vec::new());
        if let Ok(Input::Publish(inbound)) = input {
            let token = inbound.token.unwrap();
            self.session.acknowledge(token, ReasonCode::Success, &mut Vec::new());
        }
    }

    fn subscribe(&mut self, filter: u8) {
        if self.session.is_connected() {
            let filter = format!("filter/{filter}/+");
            let request = Subscribe {
                packet_id: id(1),
                subscription_identifier: 7.try_into().ok(),
                user_properties: UserProperties::default(),
                filters: vec![SubscribeFilter::new(&filter, QoS::ExactlyOnce)],
            };
            self.session.subscribed(&request, &[Ok(QoS::AtLeastOnce)], &mut Vec::new());
        }
    }

    fn unsubscribe(&mut self, filter: u8) {
        if self.session.is_connected() {
            let filter = format!("filter/{filter}/+");
            let request = Unsubscribe {
                packet_id: id(1),
                user_properties: UserProperties::default(),
                filters: vec![&filter],
            };
            self.session.unsubscribed(&request, &mut Vec::new());
        }
    }
}

/// A session that was connected, subscribed and left, of which the changes are these.
pub(crate) fn begun(client_id: &str, expiry: Expiry) -> Vec<Change> {
    vec![
        Change::Began { client_id: client_id.into() },
        Change::Connected { expiry, will: None },
        Change::Disconnected { expiry, will: None },
    ]
}
