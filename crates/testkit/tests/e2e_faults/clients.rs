//! The last hop: a device whose connection breaks between its message and the answer, or everybody's at once.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tidegate_codec::{Connect, ConnectProperties, Packet, PacketId, PubAck, Publish, QoS, Version};
use tidegate_testkit::blocking;
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::folder::Folder;
use tidegate_testkit::ledger::{Ledger, Payload};
use tidegate_testkit::mqtt::{Peer, PeerError};
use tidegate_testkit::process::built;
use tidegate_testkit::proxy::Proxy;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::scene::{Duplicates, Random, Scene, Stage, setting};

/// How long a device at QoS 2 hopes for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Breaks all connections through a proxy again and again, and returns how often.
async fn break_connections(proxy: &Proxy) -> u64 {
    let mut random = Random::new();
    sleep(Duration::from_secs(2)).await;
    let begun = Instant::now();
    let mut cuts = 0;
    while begun.elapsed() < Duration::from_secs(15) {
        proxy.cut();
        cuts += 1;
        sleep(random.millis(200, 1500)).await;
    }
    cuts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_devices_lose_their_connections_at_qos_1() {
    let mut scene = Scene::new(Stage::default()).await;
    let proxy = Proxy::start().await.unwrap();
    proxy.lead_to(scene.broker.lock().mqtt());
    let fleet = Fleet { reconnects: true, ..Fleet::default() };
    let window = u64::from(fleet.devices) * u64::from(fleet.window);
    let devices = fleet.start(proxy.address(), &scene.ledger);
    let cuts = break_connections(&proxy).await;
    // What a device sends again for want of an answer, marked as such, nobody can tell from another message.
    let allowed = Duplicates::AtMost(cuts * window);
    scene.end("F36 devices lose their connections, QoS 1 (15 s)", devices, allowed).await;
}

/// As many as one process may hold here, whose limit is 20,000 files: `TIDEGATE_STORM` says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f28_everybody_comes_back_at_once() {
    let clients = setting("TIDEGATE_STORM").unwrap_or(19_000);
    let generator = built("tidegate-bench");
    assert!(generator.is_file(), "cargo build -p tidegate-bench first");
    let mut scene = Scene::new(Stage::default()).await;
    // They stay, and publish: one that loses its connection fails the row.
    let devices = scene.devices(Fleet::default());
    sleep(Duration::from_secs(2)).await;
    let folder = Folder::new().unwrap();
    let report = folder.path("storm.json");
    let mut storm = Command::new(generator);
    storm.args([
        "storm",
        "--connect-rate",
        "1500",
        "--connect-timeout",
        "20s",
        "--duration",
        "60s",
        "--live",
        "off",
    ]);
    storm.args(["--target", &scene.broker.lock().mqtt().to_string(), "--clients", &clients.to_string()]);
    storm.arg("--json").arg(&report).stdout(Stdio::null());
    let status = blocking(move || storm.status().unwrap()).await;
    let report: Value = serde_json::from_slice(&std::fs::read(report).expect("it ran, and reports")).unwrap();
    let counted = |name: &str| report["counters"][name].as_u64().unwrap();
    let [cut, back, refused, lost] = ["cut", "back", "retried", "lost"].map(counted);
    assert!(status.success(), "{back} of {cut} are back, {lost} were lost beside: {}", report["troubles"]);
    assert_eq!((cut, back, lost), (clients, clients, 0));
    let took = |share: &str| Duration::from_micros(report["back"][share].as_u64().unwrap());
    let (most, all) = (took("p999"), took("all"));
    let fault = format!(
        "F28 {clients} clients come back at once: 99.9 % in {most:.1?}, all in {all:.1?}, {refused} attempts refused"
    );
    scene.end(&fault, devices, Duplicates::None).await;
}

/// The devices are our own: rumqttc takes a packet identifier for a new message while the old one waits for its PUBCOMP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_devices_lose_their_connections_at_qos_2() {
    let mut scene = Scene::new(Stage::default()).await;
    let proxy = Proxy::start().await.unwrap();
    proxy.lead_to(scene.broker.lock().mqtt());
    let stop = Arc::new(AtomicBool::new(false));
    let mut devices = JoinSet::new();
    for number in 0..50 {
        let (ledger, stop) = (Arc::clone(&scene.ledger), Arc::clone(&stop));
        devices.spawn(exactly_once(format!("device-{number:05}"), proxy.address(), ledger, stop));
    }
    let cuts = break_connections(&proxy).await;
    // The end has a fleet to wait for: one that does nothing.
    let nobody = scene.devices(Fleet { devices: 0, ..Fleet::default() });
    stop.store(true, Ordering::Relaxed);
    devices.join_all().await;
    let fault = format!("F36 devices lose their connections {cuts} times, QoS 2 (15 s)");
    scene.end(&fault, nobody, Duplicates::None).await;
}

/// A device that sends one message after the other at QoS 2, whatever happens to its connection.
async fn exactly_once(name: String, broker: SocketAddr, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let mut peer = connect(&name, broker).await;
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        ledger.sent(&name, seq);
        let payload = Payload { publisher: name.clone(), seq, sent_ns: 0 }.encode(1024);
        let mut step = Step::Publish { dup: false };
        while hand_over(&mut peer, &name, seq, &payload, &mut step).await.is_err() {
            peer = connect(&name, broker).await;
        }
        ledger.acknowledged(&name, seq);
        seq += 1;
        sleep(Duration::from_millis(5)).await;
    }
}

/// Where a device is with its message.
enum Step {
    Publish { dup: bool },
    Release,
}

async fn hand_over(
    peer: &mut Peer<TcpStream>,
    name: &str,
    seq: u64,
    payload: &[u8],
    step: &mut Step,
) -> Result<(), PeerError> {
    let id = PacketId::new((seq % 60_000 + 1) as u16).unwrap();
    if let Step::Publish { dup } = *step {
        let (topic, qos, packet_id) = (format!("t/{name}"), QoS::ExactlyOnce, Some(id));
        let message = Publish { dup, qos, topic: &topic, packet_id, payload, ..Publish::default() };
        *step = Step::Publish { dup: true };
        peer.send(&Packet::Publish(message)).await?;
        while !matches!(peer.receive().await?, Packet::PubRec(ack) if ack.packet_id == id) {}
        *step = Step::Release;
    }
    peer.send(&Packet::PubRel(PubAck::new(id))).await?;
    while !matches!(peer.receive().await?, Packet::PubComp(ack) if ack.packet_id == id) {}
    Ok(())
}

/// Connects with the session that there is, as often as it takes.
async fn connect(name: &str, broker: SocketAddr) -> Peer<TcpStream> {
    loop {
        let attempt = async {
            let mut peer = Peer::dial(broker, Version::V5).await?;
            peer.set_patience(PATIENCE);
            let properties =
                ConnectProperties { session_expiry_interval: Some(3600), ..ConnectProperties::default() };
            let connect = Connect { clean_start: false, properties, ..Connect::new(Version::V5, name) };
            peer.connect(connect).await?;
            Ok::<_, PeerError>(peer)
        };
        if let Ok(peer) = attempt.await {
            return peer;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
