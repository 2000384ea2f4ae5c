//! Publishers, a broker with a slow destination, and subscribers over links that break anywhere, on a virtual clock.
//!
//! Whatever breaks when, each QoS 1 message arrives at least once and each QoS 2 message exactly once, at every
//! subscriber and at the destination, and messages of one publisher, topic and QoS keep their order.
//!
//! `TIDEGATE_SEEDS=1000` runs more worlds; a failure names its seed, and `TIDEGATE_SEED=7` runs that one alone.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_broker::{AckMode, Config, Output, RuleBinding};
use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketId, PubAck, Publish, QoS, ReasonCode, SubscribeFilter, Version,
};
use tidegate_rules::{Rule, Template};
use tidegate_session::Limits;
use tidegate_sink::{Ack, Feed, Offer, Outcome, Record};
use tidegate_testkit::mqtt::{Peer, PeerError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

use crate::world::{BOTH, Client, Got, KEPT, Script, World};

const WORLDS: u64 = 16;
const PUBLISHERS: usize = 2;
const SUBSCRIBERS: usize = 2;
/// Messages of each publisher on each of its topics.
const MESSAGES: usize = 60;
const TOPICS: usize = 2;
/// Messages that a publisher has on their way.
const WINDOW: usize = 7;
/// How long a client waits for something that is owed to it.
const PATIENCE: Duration = Duration::from_mins(10);

/// A small generator, the same on every machine (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// A generator of its own for a part of the world, so that the parts do not disturb each other.
    fn fork(&mut self) -> Self {
        Self(self.next())
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// What somebody received: the numbers of each topic in their order.
type Received = BTreeMap<String, Vec<usize>>;

fn note(received: &mut Received, topic: &str, payload: &[u8]) {
    let number = std::str::from_utf8(payload).unwrap().parse().unwrap();
    received.entry(topic.to_owned()).or_default().push(number);
}

/// A destination that takes its time to say that a record is safe.
struct Slow {
    received: Mutex<Received>,
    random: Mutex<Random>,
}

impl Feed for Slow {
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer {
        note(&mut self.received.lock(), record.topic, record.value.unwrap());
        let takes = self.random.lock().millis(40);
        tokio::spawn(async move {
            sleep(takes).await;
            ack.expect("a rule that waits asks for it").settle(Outcome::Delivered);
        });
        Offer::Taken
    }

    fn flush(&self) {}

    fn poll_room(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

/// A link that carries pieces of any size with any delay and breaks after some bytes, with what is in it. The server
/// may notice much later than the client.
async fn carry(client: DuplexStream, server: DuplexStream, mut random: Random) {
    // Often within CONNECT and CONNACK, else anywhere.
    let bytes = if random.one_in(4) { random.below(80) } else { random.below(1500) };
    let left = AtomicUsize::new(bytes as usize);
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let (mut up, mut down) = (random.fork(), random.fork());
    // Kept here, so that the server's end stays open when the client's is gone.
    let mut to_server = to_server;
    let mut from_server = from_server;
    tokio::select! {
        () = pump(from_client, &mut to_server, &left, &mut up) => {}
        () = pump(&mut from_server, to_client, &left, &mut down) => {}
    }
    if random.one_in(2) {
        sleep(random.millis(3000)).await;
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    left: &AtomicUsize,
    random: &mut Random,
) {
    let mut buffer = [0; 300];
    loop {
        let most = 1 + random.below(buffer.len() as u64) as usize;
        let Ok(read @ 1..) = from.read(&mut buffer[..most]).await else { return };
        sleep(random.millis(6)).await;
        let has = left.load(Ordering::Relaxed);
        let carried = read.min(has);
        left.store(has - carried, Ordering::Relaxed);
        if to.write_all(&buffer[..carried]).await.is_err() || carried < read {
            return;
        }
    }
}

/// Opens a connection over a link that will break.
async fn dial(world: &World, version: Version, random: &mut Random) -> Client {
    let server = world.stream().await;
    let (ours, link) = tokio::io::duplex(2000);
    tokio::spawn(carry(link, server, random.fork()));
    let mut client = Peer::new(ours, version);
    client.set_patience(PATIENCE);
    client
}

/// Sends CONNECT; `Ok` when the session is there.
async fn connect(client: &mut Client, connect: Connect<'_>, known: &mut bool) -> Result<(), PeerError> {
    let connack = client.connect(connect).await?;
    assert_eq!(connack.reason, ReasonCode::Success);
    assert!(connack.session_present || !*known, "the session is kept");
    *known = true;
    Ok(())
}

/// The end of a connection is what we are here for; anything else is not.
fn check_broken(error: PeerError) {
    match error {
        PeerError::Closed { .. } | PeerError::Io(_) => {}
        // The server ended it, because the client had come back or the link was silent.
        PeerError::Unexpected { got, .. } if got.contains("Disconnect") => {}
        other => panic!("{other}"),
    }
}

/// Counts packets, to tell how much a world has seen.
static STEPS: AtomicUsize = AtomicUsize::new(0);
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

fn session(version: Version, id: &str, receive_maximum: u16) -> Connect<'_> {
    let properties = match version {
        Version::V5 => ConnectProperties {
            session_expiry_interval: Some(KEPT * 24),
            receive_maximum: std::num::NonZeroU16::new(receive_maximum),
            ..ConnectProperties::default()
        },
        _ => ConnectProperties::default(),
    };
    Connect { clean_start: false, properties, ..Connect::new(version, id) }
}

/// A message on its way from a publisher.
struct OnItsWay {
    packet_id: u16,
    topic: String,
    number: usize,
    qos: QoS,
    is_received: bool,
}

/// A publisher as the specification wants it, with a memory that outlives its connections.
struct Publisher {
    id: String,
    version: Version,
    todo: VecDeque<(String, usize, QoS)>,
    on_their_way: VecDeque<OnItsWay>,
    last_id: u16,
}

impl Publisher {
    fn new(number: usize, random: &mut Random) -> Self {
        let mut todo = VecDeque::new();
        for message in 0..MESSAGES {
            for topic in 0..TOPICS {
                for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
                    todo.push_back((format!("t/{}/{number}/{topic}", qos.as_u8()), message, qos));
                }
            }
        }
        Self {
            id: format!("publisher {number}"),
            version: random.choose(&BOTH),
            todo,
            on_their_way: VecDeque::new(),
            last_id: 0,
        }
    }

    async fn run(mut self, world: Arc<World>, mut random: Random) {
        let mut known = false;
        while !(self.todo.is_empty() && self.on_their_way.is_empty()) {
            CONNECTIONS.fetch_add(1, Ordering::Relaxed);
            let mut client = dial(&world, self.version, &mut random).await;
            let id = self.id.clone();
            if let Err(error) = connect(&mut client, session(self.version, &id, 100), &mut known).await {
                check_broken(error);
            } else if let Err(error) = self.publish(&mut client).await {
                check_broken(error);
            }
            drop(client);
            sleep(random.millis(400)).await;
        }
    }

    async fn publish(&mut self, client: &mut Client) -> Result<(), PeerError> {
        for message in &self.on_their_way {
            send(client, message, true).await?;
        }
        loop {
            while self.on_their_way.len() < WINDOW
                && let Some((topic, number, qos)) = self.todo.pop_front()
            {
                let packet_id = self.unused_id();
                let message = OnItsWay { packet_id, topic, number, qos, is_received: false };
                // What fails to leave is on its way all the same: it is sent again.
                self.on_their_way.push_back(message);
                send(client, &self.on_their_way[self.on_their_way.len() - 1], false).await?;
            }
            if self.on_their_way.is_empty() {
                return Ok(());
            }
            STEPS.fetch_add(1, Ordering::Relaxed);
            match client.receive().await? {
                Packet::PubAck(ack) => self.finished(ack.packet_id, QoS::AtLeastOnce),
                Packet::PubRec(ack) => {
                    assert!(!ack.reason.is_error(), "{ack:?}");
                    let packet_id = ack.packet_id;
                    if let Some(message) = self.find(packet_id) {
                        assert_eq!(message.qos, QoS::ExactlyOnce);
                        message.is_received = true;
                    }
                    client.send(&Packet::PubRel(PubAck::new(packet_id))).await?;
                }
                Packet::PubComp(ack) => self.finished(ack.packet_id, QoS::ExactlyOnce),
                Packet::Disconnect(_) => return Err(PeerError::Closed { unfinished: 0 }),
                packet => panic!("{packet:?}"),
            }
        }
    }

    fn find(&mut self, id: PacketId) -> Option<&mut OnItsWay> {
        self.on_their_way.iter_mut().find(|message| message.packet_id == id.get())
    }

    fn finished(&mut self, id: PacketId, qos: QoS) {
        self.on_their_way.retain(|message| {
            assert!(message.packet_id != id.get() || message.qos == qos, "the answer of another QoS");
            message.packet_id != id.get()
        });
    }

    /// Few numbers, so that they are used again and again.
    fn unused_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id % 20 + 1;
            if self.on_their_way.iter().all(|message| message.packet_id != self.last_id) {
                return self.last_id;
            }
        }
    }
}

async fn send(client: &mut Client, message: &OnItsWay, dup: bool) -> Result<(), PeerError> {
    let packet_id = PacketId::new(message.packet_id).unwrap();
    if message.is_received {
        return client.send(&Packet::PubRel(PubAck::new(packet_id))).await;
    }
    let payload = message.number.to_string();
    let publish = Publish {
        dup,
        qos: message.qos,
        topic: &message.topic,
        packet_id: Some(packet_id),
        payload: payload.as_bytes(),
        ..Publish::default()
    };
    client.send(&Packet::Publish(publish)).await
}

/// A subscriber as the specification wants it, with a memory that outlives its connections.
struct Subscriber {
    id: String,
    version: Version,
    receive_maximum: u16,
    received: Received,
    /// QoS 2 identifiers that wait for PUBREL.
    unreleased: HashSet<PacketId>,
}

impl Subscriber {
    fn new(number: usize, random: &mut Random) -> Self {
        Self {
            id: format!("subscriber {number}"),
            version: random.choose(&BOTH),
            receive_maximum: 1 + random.below(20) as u16,
            received: Received::new(),
            unreleased: HashSet::new(),
        }
    }

    /// Subscribes over a link that does not break, so that everything that follows is for it.
    async fn begin(&self, world: &World) {
        let (mut client, _) = world.connect(session(self.version, &self.id, self.receive_maximum)).await;
        // They overlap: still one copy, at the higher QoS.
        let filters =
            [SubscribeFilter::new("t/#", QoS::AtLeastOnce), SubscribeFilter::new("t/2/#", QoS::ExactlyOnce)];
        client.ask(&filters, None).await;
    }

    async fn run(mut self, world: Arc<World>, mut random: Random) -> Self {
        let mut known = true;
        while !self.has_everything() {
            CONNECTIONS.fetch_add(1, Ordering::Relaxed);
            let mut client = dial(&world, self.version, &mut random).await;
            let id = self.id.clone();
            let session = session(self.version, &id, self.receive_maximum);
            if let Err(error) = connect(&mut client, session, &mut known).await {
                check_broken(error);
            } else if let Err(error) = self.take(&mut client).await {
                check_broken(error);
            }
            drop(client);
            sleep(random.millis(400)).await;
        }
        self
    }

    /// Takes what is left on a link that does not break: nothing that is new.
    async fn end(&mut self, world: &World) {
        let (mut client, present) =
            world.connect(session(self.version, &self.id, self.receive_maximum)).await;
        assert!(present);
        client.set_patience(PATIENCE);
        loop {
            match client.receive().await {
                Ok(packet) => {
                    if let Some(answer) = self.answer(&packet) {
                        client.send(&answer).await.unwrap();
                    }
                }
                Err(PeerError::TimedOut(_)) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn take(&mut self, client: &mut Client) -> Result<(), PeerError> {
        while !self.has_everything() {
            STEPS.fetch_add(1, Ordering::Relaxed);
            let answer = match client.receive().await? {
                Packet::Disconnect(_) => return Err(PeerError::Closed { unfinished: 0 }),
                packet => self.answer(&packet),
            };
            if let Some(answer) = answer {
                client.send(&answer).await?;
            }
        }
        Ok(())
    }

    fn answer(&mut self, packet: &Packet<'_>) -> Option<Packet<'static>> {
        match packet {
            Packet::Publish(publish) => {
                let got = Got::from(publish.clone());
                let packet_id = got.packet_id?;
                let is_second = got.qos == QoS::ExactlyOnce && !self.unreleased.insert(packet_id);
                if !is_second {
                    note(&mut self.received, &got.topic, &got.payload);
                }
                let ack = PubAck::new(packet_id);
                Some(if got.qos == QoS::ExactlyOnce { Packet::PubRec(ack) } else { Packet::PubAck(ack) })
            }
            Packet::PubRel(release) => {
                self.unreleased.remove(&release.packet_id);
                Some(Packet::PubComp(PubAck::new(release.packet_id)))
            }
            packet => panic!("{packet:?}"),
        }
    }

    fn has_everything(&self) -> bool {
        self.received.len() == PUBLISHERS * TOPICS * 2
            && self.received.values().all(|numbers| numbers.contains(&(MESSAGES - 1)))
    }
}

/// Every message of every topic, in order; once, or for QoS 1 at least once.
fn check(who: &str, received: &Received) {
    assert_eq!(received.len(), PUBLISHERS * TOPICS * 2, "{who}");
    for (topic, numbers) in received {
        let mut seen = HashSet::new();
        let first_times: Vec<_> = numbers.iter().copied().filter(|number| seen.insert(*number)).collect();
        assert!(first_times.iter().copied().eq(0..MESSAGES), "{who} got of {topic}: {numbers:?}");
        if topic.contains("t/2/") {
            assert_eq!(numbers.len(), MESSAGES, "{who} got some of {topic} twice: {numbers:?}");
        }
    }
}

async fn simulate(seed: u64) {
    let mut random = Random::new(seed);
    let slow = Arc::new(Slow { received: Mutex::default(), random: Mutex::new(random.fork()) });
    let limits = Limits { max_queued_messages: 100_000, ..Limits::default() };
    let config = Config { limits: Arc::new(limits), ..Config::default() };
    let rule = RuleBinding {
        rule: Rule::compile("all", r#"SELECT * FROM "t/#""#).unwrap(),
        ack: AckMode::Delivered,
        outputs: vec![Output {
            feed: Arc::clone(&slow) as Arc<dyn Feed>,
            topic: Template::compile("${topic}").unwrap(),
            key: None,
            value: None,
            headers: Vec::new(),
            default_headers: false,
        }],
        republishes: Vec::new(),
    };
    let world = Arc::new(World::start(config, vec![rule]));

    let mut subscribing = Vec::new();
    for number in 0..SUBSCRIBERS {
        let subscriber = Subscriber::new(number, &mut random);
        subscriber.begin(&world).await;
        subscribing.push(tokio::spawn(subscriber.run(Arc::clone(&world), random.fork())));
    }
    let mut publishing = Vec::new();
    for number in 0..PUBLISHERS {
        let publisher = Publisher::new(number, &mut random);
        publishing.push(tokio::spawn(publisher.run(Arc::clone(&world), random.fork())));
    }
    for publisher in publishing {
        publisher.await.unwrap();
    }
    for subscriber in subscribing {
        let mut subscriber = subscriber.await.unwrap();
        subscriber.end(&world).await;
        check(&subscriber.id, &subscriber.received);
    }
    check("the destination", &slow.received.lock());
}

/// [MQTT5-4.3.2-3] [MQTT5-4.3.3-10] [MQTT5-4.4.0-1] [MQTT5-4.6.0-5] [MQTT311-4.3.2-1] [MQTT311-4.3.2-2]
/// [MQTT311-4.3.3-1] [MQTT311-4.3.3-2] [MQTT311-4.4.0-1] [MQTT311-4.6.0-6]
#[test]
#[expect(clippy::print_stdout, reason = "a failure names its seed")]
fn over_links_that_break_anywhere_nothing_is_lost_and_qos_2_is_never_doubled() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("TIDEGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TIDEGATE_SEEDS").unwrap_or(WORLDS),
    };
    for seed in seeds.clone() {
        println!("seed {seed}");
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(simulate(seed));
    }
    let (steps, connections) = (STEPS.load(Ordering::Relaxed), CONNECTIONS.load(Ordering::Relaxed));
    println!("{steps} packets over {connections} connections in {} worlds", seeds.count());
}
