//! The wall clock of the broker jumps; the monotonic one, which cannot, goes on.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketId, PacketType, Publish, PublishProperties, QoS, Version,
};
use tidegate_testkit::devices::Fleet;
use tidegate_testkit::folder::Folder;
use tidegate_testkit::mqtt::Peer;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::scene::{DRAIN_LIMIT, Duplicates, Scene, Stage, TOPIC};

/// Where Debian's package `faketime` puts its library.
const LIBRARIES: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];
const JUMP: Duration = Duration::from_hours(1);
/// Of sessions and of a message that waits for them, in seconds: longer than the row and shorter than the jump.
const EXPIRY: u32 = 600;
/// Sessions that are looked at after each of the three jumps.
const SLEEPERS: u32 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_the_wall_clock_jumps() {
    let Some(library) = LIBRARIES.into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("not run: F29, there is no libfaketime here (Debian's package faketime)");
        return;
    };
    let folder = Folder::new().unwrap();
    let clock = |offset: &str| folder.write("clock", format!("{offset}\n")).unwrap();
    clock("+0");
    let under = [
        "env".to_owned(),
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", folder.path("clock").display()),
        // The file is read again after a second.
        "FAKETIME_CACHE_DURATION=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let begun = SystemTime::now();
    let mut scene = Scene::new(Stage { under: under.to_vec(), ..Stage::default() }).await;
    let address = scene.broker.lock().mqtt();
    fall_asleep(address).await;
    // They send nothing but pings, and are lost by any doubt about a keep-alive.
    let keep_alive = Duration::from_secs(5);
    let quiet = Fleet { name: "quiet", interval: Duration::from_secs(7), keep_alive, ..Fleet::default() };
    let quiet = scene.devices(quiet);
    let devices = scene.devices(Fleet { keep_alive, ..Fleet::default() });
    sleep(Duration::from_secs(3)).await;
    for (round, offset) in (0..).zip(["+3600", "-3600", "+0"]) {
        clock(offset);
        sleep(Duration::from_secs(8)).await;
        for number in round * SLEEPERS..(round + 1) * SLEEPERS {
            assert!(wakes(address, number).await, "session {number} expired at {offset}");
        }
    }
    assert_eq!((quiet.broken(), devices.broken()), (0, 0), "nobody was taken for dead");
    quiet.finish(DRAIN_LIMIT).await;
    scene
        .end("F29 the wall clock jumps by an hour, forwards, backwards and right", devices, Duplicates::None)
        .await;
    let records = scene.kafka(|kafka| kafka.records(TOPIC).unwrap()).await;
    check(begun, records.into_iter().map(|record| record.time));
}

/// Clients with a session that outlives their connection, and a message that waits for each.
async fn fall_asleep(broker: SocketAddr) {
    for number in 0..3 * SLEEPERS {
        let (mut peer, present) = connect(broker, number).await;
        assert!(!present, "the first of its name");
        peer.subscribe(1, "wake", QoS::AtLeastOnce).await.unwrap();
    }
    let mut peer = Peer::dial(broker, Version::V5).await.unwrap();
    peer.join("clock").await.unwrap();
    let properties = PublishProperties { message_expiry_interval: Some(EXPIRY), ..Default::default() };
    let (qos, packet_id) = (QoS::AtLeastOnce, PacketId::new(1));
    let message = Publish { qos, packet_id, topic: "wake", payload: b"up", properties, ..Default::default() };
    peer.send(&Packet::Publish(message)).await.unwrap();
    peer.expect_ack(PacketType::PubAck, 1).await.unwrap();
}

/// Whether a session is there, and its message has as much time left as time really passed.
async fn wakes(broker: SocketAddr, number: u32) -> bool {
    let (mut peer, present) = connect(broker, number).await;
    if !present {
        return false;
    }
    let message = peer.expect_publish().await.unwrap();
    let left = message.properties.message_expiry_interval;
    left.is_some_and(|left| (EXPIRY / 2..=EXPIRY).contains(&left))
}

async fn connect(broker: SocketAddr, number: u32) -> (Peer<TcpStream>, bool) {
    let mut peer = Peer::dial(broker, Version::V5).await.unwrap();
    let properties = ConnectProperties { session_expiry_interval: Some(EXPIRY), ..Default::default() };
    let name = format!("sleeper-{number}");
    let connect = Connect { clean_start: false, properties, ..Connect::new(Version::V5, &name) };
    let present = peer.connect(connect).await.unwrap().session_present;
    (peer, present)
}

/// Each record has the time that the broker's wall clock showed: right, or an hour off in either direction.
fn check(begun: SystemTime, times: impl Iterator<Item = SystemTime>) {
    let run = begun..=SystemTime::now();
    let [mut right, mut ahead, mut behind] = [0; 3];
    for time in times {
        let count = match () {
            () if run.contains(&time) => &mut right,
            () if run.contains(&(time - JUMP)) => &mut ahead,
            () if run.contains(&(time + JUMP)) => &mut behind,
            () => panic!("no clock showed {time:?}"),
        };
        *count += 1;
    }
    eprintln!("  records with the right time: {right}, an hour ahead: {ahead}, behind: {behind}");
    assert!([right, ahead, behind].into_iter().all(|count| count > 1000), "{right} {ahead} {behind}");
}
