//! SIGKILL of the real binary at random moments, under QoS 1 and 2 with subscribers that keep their sessions: what was
//! acknowledged to a publisher reaches the subscriber, QoS 2 once, in the order of each publisher.
//!
//! ```text
//! cargo build -p tidegate
//! TIDEGATE_KILLS=100 cargo test -p tidegate-testkit --features e2e --test sigkill -- --nocapture
//! ```
//!
//! The moments come from a seed that is printed; `TIDEGATE_SEED` runs it again.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stderr, reason = "what was counted stays in the gate's log")]

use std::collections::{HashMap, HashSet};
use std::env;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_codec::{Connect, ConnectProperties, Packet, PacketId, PubAck, Publish, QoS, Version};
use tidegate_testkit::mqtt::{Peer, PeerError};
use tidegate_testkit::process::Launch;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Kills of one run, where `TIDEGATE_KILLS` says nothing else.
const KILLS: u64 = 10;
/// Publishers of each QoS.
const PUBLISHERS: u64 = 5;
/// The broker lives for this long at the most before it is killed again.
const LONGEST_LIFE_MS: u64 = 1500;
/// A subscriber that hears nothing for so long, after the last publisher is done, has heard all.
const SILENCE: Duration = Duration::from_secs(3);
const SUBSCRIBER: &str = "subscriber";

/// What was promised and what came.
#[derive(Default)]
struct Ledger {
    /// By publisher, the highest number that was acknowledged: each sends its numbers one after the other.
    acknowledged: Mutex<HashMap<u64, u64>>,
    /// By publisher, the numbers in the order in which they came.
    received: Mutex<HashMap<u64, Vec<u64>>>,
    sessions_lost: AtomicU64,
}

/// Odd publishers use QoS 2.
fn qos_of(publisher: u64) -> QoS {
    if publisher % 2 == 1 { QoS::ExactlyOnce } else { QoS::AtLeastOnce }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_delivered_however_often_the_broker_is_killed() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("TIDEGATE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let kills = number("TIDEGATE_KILLS").unwrap_or(KILLS);
    eprintln!("TIDEGATE_SEED={seed}, {kills} kills");
    // The rule is for nobody: what is tested is between publishers and subscribers.
    let mut broker = Launch::new(
        "[kafka.nowhere]\nbootstrap = [\"127.0.0.1:1\"]\n[[rules]]\nid = \"none\"\n\
         sql = 'SELECT * FROM \"nobody\"'\noutputs = [{ topic = \"none\" }]\n",
    )
    .start()
    .unwrap();
    let (ledger, stop, address) =
        (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)), broker.mqtt());
    let subscriber = tokio::spawn(subscribe(Arc::clone(&ledger), address, Arc::clone(&stop)));
    sleep(Duration::from_millis(500)).await;
    let publishers: Vec<_> = (0..2 * PUBLISHERS)
        .map(|publisher| tokio::spawn(publish(Arc::clone(&ledger), address, publisher, Arc::clone(&stop))))
        .collect();

    let mut random = seed;
    for _ in 0..kills {
        // splitmix64
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        sleep(Duration::from_millis(50 + (mixed >> 33) % LONGEST_LIFE_MS)).await;
        broker = tokio::task::spawn_blocking(move || {
            broker.restart().unwrap();
            broker
        })
        .await
        .unwrap();
    }
    stop.store(true, Ordering::Release);
    for publisher in publishers {
        timeout(Duration::from_mins(1), publisher).await.expect("publishers come to an end").unwrap();
    }
    timeout(Duration::from_mins(2), subscriber).await.expect("the subscriber hears all").unwrap();
    verify(&ledger, kills);
}

fn verify(ledger: &Ledger, kills: u64) {
    let (mut acknowledged, mut lost, mut reordered) = (0, 0, 0);
    let mut duplicates = [0; 2];
    let received = ledger.received.lock();
    for (&publisher, &last) in &*ledger.acknowledged.lock() {
        acknowledged += last;
        let came = received.get(&publisher).map_or(&[][..], Vec::as_slice);
        let distinct: HashSet<u64> = came.iter().copied().collect();
        lost += (1..=last).filter(|number| !distinct.contains(number)).count();
        duplicates[usize::from(qos_of(publisher) == QoS::ExactlyOnce)] += came.len() - distinct.len();
        let mut seen = HashSet::new();
        let mut highest = 0;
        for &number in came {
            // A repeat may come late; what is new may not.
            if seen.insert(number) {
                reordered += usize::from(number < highest);
                highest = highest.max(number);
            }
        }
    }
    let sessions_lost = ledger.sessions_lost.load(Ordering::Relaxed);
    eprintln!(
        "{kills} kills, acknowledged {acknowledged}, lost {lost}, reordered {reordered}, duplicates at QoS 1 {}, at \
         QoS 2 {}, sessions lost {sessions_lost}",
        duplicates[0], duplicates[1]
    );
    assert_eq!((lost, reordered, duplicates[1], sessions_lost), (0, 0, 0, 0));
    assert!(acknowledged > kills, "the test did something between the kills");
}

/// Connects until it succeeds; a session that should be there and is not is counted.
async fn connect(ledger: &Ledger, address: SocketAddr, client_id: &str, is_first: bool) -> Peer<TcpStream> {
    loop {
        let attempt = async {
            let mut peer = Peer::dial(address, Version::V5).await?;
            peer.set_patience(SILENCE);
            let properties =
                ConnectProperties { session_expiry_interval: Some(3600), ..ConnectProperties::default() };
            let connect = Connect { clean_start: false, properties, ..Connect::new(Version::V5, client_id) };
            let present = peer.connect(connect).await?.session_present;
            Ok::<_, PeerError>((peer, present))
        };
        if let Ok((peer, present)) = attempt.await {
            if !present && !is_first {
                ledger.sessions_lost.fetch_add(1, Ordering::Relaxed);
            }
            return peer;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Where a publisher is with its present message.
#[derive(Clone, Copy)]
enum Step {
    Publish { is_repeat: bool },
    Release,
}

/// Publishes numbers, each until it is acknowledged, over as many connections as it takes.
async fn publish(ledger: Arc<Ledger>, address: SocketAddr, publisher: u64, stop: Arc<AtomicBool>) {
    let client_id = format!("publisher-{publisher}");
    let mut peer = connect(&ledger, address, &client_id, true).await;
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        number += 1;
        let mut step = Step::Publish { is_repeat: false };
        while let Err(_lost) = send(&mut peer, publisher, number, &mut step).await {
            peer = connect(&ledger, address, &client_id, false).await;
        }
        ledger.acknowledged.lock().insert(publisher, number);
    }
}

async fn send(
    peer: &mut Peer<TcpStream>,
    publisher: u64,
    number: u64,
    step: &mut Step,
) -> Result<(), PeerError> {
    let id = PacketId::new((number % 60_000 + 1) as u16).unwrap();
    if let Step::Publish { is_repeat } = *step {
        let (topic, payload) = (format!("numbers/{publisher}"), number.to_string());
        let qos = qos_of(publisher);
        let message = Publish {
            dup: is_repeat,
            qos,
            topic: &topic,
            packet_id: Some(id),
            payload: payload.as_bytes(),
            ..Publish::default()
        };
        *step = Step::Publish { is_repeat: true };
        peer.send(&Packet::Publish(message)).await?;
        loop {
            match peer.receive().await? {
                Packet::PubAck(ack) if ack.packet_id == id => return Ok(()),
                Packet::PubRec(ack) if ack.packet_id == id => break,
                _ => {}
            }
        }
        *step = Step::Release;
    }
    peer.send(&Packet::PubRel(PubAck::new(id))).await?;
    loop {
        if let Packet::PubComp(ack) = peer.receive().await?
            && ack.packet_id == id
        {
            return Ok(());
        }
    }
}

/// Receives numbers, answers as its QoS asks, and keeps its own half of QoS 2 over the connections.
async fn subscribe(ledger: Arc<Ledger>, address: SocketAddr, stop: Arc<AtomicBool>) {
    let mut peer = connect(&ledger, address, SUBSCRIBER, true).await;
    peer.subscribe(1, "numbers/#", QoS::ExactlyOnce).await.unwrap();
    let mut unreleased = HashSet::new();
    loop {
        match answer(&mut peer, &ledger, &mut unreleased).await {
            Ok(()) => {}
            Err(PeerError::TimedOut(_)) if stop.load(Ordering::Acquire) => return,
            Err(_) => peer = connect(&ledger, address, SUBSCRIBER, false).await,
        }
    }
}

async fn answer(
    peer: &mut Peer<TcpStream>,
    ledger: &Ledger,
    unreleased: &mut HashSet<PacketId>,
) -> Result<(), PeerError> {
    let reply = match peer.receive().await? {
        Packet::Publish(message) => {
            let Some(id) = message.packet_id else { return Ok(()) };
            let is_twice = message.qos == QoS::ExactlyOnce;
            if !is_twice || unreleased.insert(id) {
                let publisher = message.topic.rsplit('/').next().unwrap().parse().unwrap();
                let number = std::str::from_utf8(message.payload).unwrap().parse().unwrap();
                ledger.received.lock().entry(publisher).or_default().push(number);
            }
            if is_twice { Packet::PubRec(PubAck::new(id)) } else { Packet::PubAck(PubAck::new(id)) }
        }
        Packet::PubRel(release) => {
            unreleased.remove(&release.packet_id);
            Packet::PubComp(PubAck::new(release.packet_id))
        }
        _ => return Ok(()),
    };
    peer.send(&reply).await
}
