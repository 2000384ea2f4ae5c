//! What has broken brokers before: each test is named after its row in our list of attacks. The rows that are also a
//! statement of the specification stand with its chapter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_codec::{Connect, Packet, PacketType, QoS, ReasonCode, SubscribeFilter, Version};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::connecting::connect_bytes;
use crate::world::{BOTH, Script, World, kept, publish, until, will};

/// As the configuration has it by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn attack_01_a_fifth_length_byte_closes_without_waiting_for_a_body() {
    let world = World::new();
    let before = Instant::now();
    assert_eq!(world.answer_to(b"\x10\xff\xff\xff\xff\x7f").await, b"");
    for first in [0x30, 0x82, 0xc0] {
        let bytes = [first, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(world.answer_of(Version::V5, &bytes).await, b"\xe0\x01\x81");
        assert_eq!(world.answer_of(Version::V3_1_1, &bytes).await, b"");
    }
    assert_eq!(before.elapsed(), Duration::ZERO, "nobody waited");
}

#[tokio::test(start_paused = true)]
async fn attack_04_connections_with_half_a_connect_are_closed_at_the_deadline() {
    let world = World::new();
    let mut half = Vec::new();
    for number in 0..500_usize {
        let mut stream = world.stream_of(1024).await;
        // The largest CONNECT that is taken, and but one of its bytes as far as the pipe goes.
        stream.write_all(b"\x10\xfc\xff\x03\0\x04MQTT").await.unwrap();
        stream.write_all(&vec![b'x'; number]).await.unwrap();
        half.push(stream);
    }
    until(|| world.broker.connections() == 500).await;
    let mut honest = world.join(Version::V5, "honest").await;
    tokio::time::sleep(CONNECT_TIMEOUT + Duration::from_secs(1)).await;
    honest.ping().await.unwrap();
    assert_eq!((world.broker.connections(), world.broker.sessions()), (1, 1));
    // One that announces more is not waited for.
    let before = Instant::now();
    world.answer_to(b"\x10\x80\x80\x04").await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn attack_05_a_connection_that_says_nothing_is_closed() {
    let world = World::new();
    let before = Instant::now();
    assert_eq!(world.answer_to(b"").await, b"");
    let waited = before.elapsed();
    assert!(waited >= CONNECT_TIMEOUT && waited < CONNECT_TIMEOUT + Duration::from_secs(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn attack_06_slowloris_a_trickle_does_not_renew_the_deadline() {
    let world = World::new();
    let mut stream = world.stream().await;
    let before = Instant::now();
    let mut sent = 0;
    for byte in connect_bytes(5, 2, b"\0\x64") {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(2400)).await;
    }
    assert_eq!(sent, 5, "the deadline counts from the first moment");
    assert!(before.elapsed() < CONNECT_TIMEOUT + Duration::from_secs(3));
    assert_eq!(world.broker.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn attack_08_what_is_not_mqtt_is_closed_at_its_first_bytes() {
    let world = World::new();
    let before = Instant::now();
    let others: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 1883\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xff",
    ];
    for bytes in others {
        assert_eq!(world.answer_to(bytes).await, b"", "{bytes:02x?}");
    }
    assert_eq!(before.elapsed(), Duration::ZERO, "nobody waited");
}

#[tokio::test(start_paused = true)]
async fn attack_22_connects_that_are_refused_leave_nothing_behind() {
    let world = World::new();
    let connects: [Vec<u8>; 4] = [
        // A will with a property that wills do not have, with one twice, with a wildcard, and cut short.
        connect_bytes(5, 6, b"\0\x01c\x02\x23\x01\0\x01w\0\0"),
        connect_bytes(5, 6, b"\0\x01c\x04\x01\0\x01\0\0\x01w\0\0"),
        connect_bytes(5, 6, b"\0\x01c\0\0\x01#\0\0"),
        connect_bytes(5, 6, b"\0\x01c\0\0\x01w\0\x09short"),
    ];
    for _ in 0..250 {
        for bytes in &connects {
            let answer = world.answer_to(bytes).await;
            assert_eq!((answer[0], answer[3] & 0x80), (0x20, 0x80), "{answer:02x?}");
        }
    }
    world.settled(0).await;
    assert_eq!(world.broker.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn attack_26_topics_of_65535_levels_are_refused() {
    for version in BOTH {
        let world = World::new();
        let slashes = "/".repeat(65_535);
        let mut client = world.join(version, "client").await;
        let refused = client.subscribe(1, &slashes, QoS::AtMostOnce).await.unwrap();
        assert!(refused.is_error());
        client.unsubscribe(1, &slashes).await.unwrap();
        client.publish(0, &slashes, b"x").await.unwrap();
        match version {
            Version::V5 => client.expect_disconnect(ReasonCode::TopicNameInvalid).await,
            _ => client.expect_end().await,
        }
        let connect = Connect { will: Some(will(&slashes[..1000], b"x")), ..Connect::new(version, "c") };
        let mut client = world.dial(version).await;
        client.send(&Packet::Connect(Box::new(connect))).await.unwrap();
        match client.receive().await {
            Ok(Packet::ConnAck(connack)) => assert!(connack.reason.is_error()),
            Ok(packet) => panic!("{packet:?}"),
            Err(_) => assert_eq!(version, Version::V3_1_1),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn attack_28_random_conversations_leave_a_broker_that_serves_and_holds_nothing() {
    let world = World::new();
    let mut random = crate::simulation::Random::new(28);
    for round in 0..400 {
        let version = random.choose(&BOTH);
        let mut bytes = Vec::new();
        if random.one_in(2) {
            let will = random.one_in(2).then(|| will("wills", b"x"));
            let mut connect = Connect { will, ..Connect::new(version, random.choose(&["a", "b", ""])) };
            connect.clean_start = random.one_in(2) || connect.client_id.is_empty();
            Packet::Connect(Box::new(connect)).encode(version, &mut bytes).unwrap();
        }
        for _ in 0..random.below(20) {
            let number = random.below(4) as u16 + 1;
            let qos = random.choose(&crate::world::ALL_QOS);
            let packet = match random.below(9) {
                0 => Packet::PingReq,
                1 => Packet::PubRel(tidegate_codec::PubAck::new(crate::world::id(number))),
                2 => Packet::PubRec(tidegate_codec::PubAck::new(crate::world::id(number))),
                3 => Packet::PubAck(tidegate_codec::PubAck::new(crate::world::id(number))),
                4 => Packet::Subscribe(Box::new(tidegate_codec::Subscribe {
                    packet_id: crate::world::id(number),
                    subscription_identifier: None,
                    user_properties: tidegate_codec::UserProperties::default(),
                    filters: vec![SubscribeFilter::new(random.choose(&["#", "a", "$share/g/a", "+/"]), qos)],
                })),
                5 => Packet::Disconnect(tidegate_codec::Disconnect::default()),
                _ => Packet::Publish(publish(qos, number, random.choose(&["a", "b", "/"]), b"x")),
            };
            packet.encode(version, &mut bytes).unwrap();
        }
        // Now and then a byte is another one.
        if random.one_in(2) && !bytes.is_empty() {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = random.below(256) as u8;
        }
        let mut stream = world.stream().await;
        for piece in bytes.chunks(random.below(60) as usize + 1) {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(stream);
        if round % 100 == 0 {
            world.join(Version::V5, "honest").await.say(QoS::ExactlyOnce, "a", "x").await;
        }
    }
    world.settled(0).await;
    // What was not clean may be left; a clean start of the two names ends it.
    for id in ["a", "b", "honest"] {
        drop(world.connect(Connect::new(Version::V3_1_1, id)).await);
    }
    world.settled(0).await;
    assert_eq!(world.broker.sessions(), 0);
}

#[tokio::test(start_paused = true)]
async fn attack_29_what_comes_right_behind_connect_is_handled_after_connack() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.dial(version).await;
        let mut bytes = Vec::new();
        Packet::Connect(Box::new(Connect::new(version, "c"))).encode(version, &mut bytes).unwrap();
        Packet::Publish(publish(QoS::AtLeastOnce, 1, "a", b"x")).encode(version, &mut bytes).unwrap();
        bytes.extend(b"\xc0\0");
        client.send_raw(&bytes).await.unwrap();
        let mut types = Vec::new();
        for _ in 0..3 {
            types.push(client.receive().await.unwrap().packet_type());
        }
        assert_eq!(types, [PacketType::ConnAck, PacketType::PubAck, PacketType::PingResp]);
    }
}

#[tokio::test(start_paused = true)]
async fn attack_32_the_longest_strings_of_a_connect_are_taken_or_refused_by_their_limits() {
    let world = World::new();
    let longest = "x".repeat(60_000);
    // 65,535 bytes do not fit into what is read of a CONNECT before anybody has said who they are.
    let connect = Connect { username: Some(&longest), ..Connect::new(Version::V5, "c") };
    let (mut client, _) = world.connect(connect).await;
    client.ping().await.unwrap();
    let mut client = world.dial(Version::V5).await;
    let connack = client.connect(Connect::new(Version::V5, &longest)).await.unwrap();
    assert_eq!(connack.reason, ReasonCode::ClientIdentifierNotValid);
    let too_long = vec![b'x'; 65_535];
    let connect =
        Connect { username: Some(&longest), password: Some(&too_long), ..Connect::new(Version::V5, "c") };
    let mut bytes = Vec::new();
    Packet::Connect(Box::new(connect)).encode(Version::V5, &mut bytes).unwrap();
    assert_eq!(world.answer_to(&bytes[..4]).await, b"", "refused from its length");
}

#[tokio::test(start_paused = true)]
async fn attack_48_connections_above_the_maximum_are_closed_and_the_others_go_on() {
    let world = World::with(|config| config.max_connections = 3);
    let mut clients = Vec::new();
    for id in ["a", "b", "c"] {
        clients.push(world.join(Version::V5, id).await);
    }
    for _ in 0..100 {
        assert_eq!(world.answer_to(b"").await, b"");
    }
    for client in &mut clients {
        client.ping().await.unwrap();
    }
    clients.pop();
    world.settled(2).await;
    world.join(Version::V5, "d").await.ping().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attack_100_sessions_above_the_maximum_are_refused_and_those_that_exist_come_back() {
    for version in BOTH {
        let world = World::with(|config| config.max_sessions = 3);
        for id in ["a", "b", "c"] {
            world.resume(version, id).await;
        }
        for number in 0..100 {
            let mut client = world.dial(version).await;
            let refused = client.connect(kept(version, &format!("churn-{number}"))).await.unwrap();
            let expected = if version == Version::V5 {
                ReasonCode::QuotaExceeded
            } else {
                ReasonCode::ServerUnavailable
            };
            assert_eq!(refused.reason, expected);
        }
        assert_eq!(world.broker.sessions(), 3);
        let (mut back, present) = world.resume(version, "b").await;
        assert!(present);
        back.ping().await.unwrap();
        // A session that ends makes room.
        drop(world.connect(Connect::new(version, "a")).await);
        until(|| world.broker.sessions() == 2).await;
        world.resume(version, "d").await;
    }
}

/// The subscriber's pipe holds little, and nobody reads it.
#[tokio::test(start_paused = true)]
async fn attack_76_a_subscriber_that_does_not_read_slows_nobody_and_gets_what_its_queue_holds() {
    for version in BOTH {
        let world = World::with(|config| {
            let limits = tidegate_session::Limits { max_queued_messages: 50, ..Default::default() };
            config.limits = Arc::new(limits);
            config.write_high_water_bytes = 4096;
        });
        let mut slow = tidegate_testkit::mqtt::Peer::new(world.stream_of(1024).await, version);
        slow.join("slow").await.unwrap();
        slow.subscribe(1, "a", QoS::AtLeastOnce).await.unwrap();
        let mut publisher = world.join(version, "publisher").await;
        let before = Instant::now();
        for number in 0..2000 {
            publisher.say(QoS::AtLeastOnce, "a", &format!("{number:0200}")).await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO, "the publisher never waited");
        let mut received = Vec::new();
        loop {
            let got = slow.all().await;
            if got.is_empty() {
                break;
            }
            for got in got {
                received.push(got.text().parse::<u32>().unwrap());
                slow.puback(got.packet_id.unwrap()).await.unwrap();
            }
        }
        assert!(received.is_sorted_by(|a, b| a < b), "{version:?}: {received:?}");
        // The window, then what the queue kept of the rest: the newest.
        assert_eq!(received.last(), Some(&1999));
        assert!((50..=150).contains(&received.len()), "{}", received.len());
    }
}

#[tokio::test(start_paused = true)]
async fn attack_82_a_storm_of_wills_is_published_once_each_while_others_are_served() {
    const CLIENTS: usize = 500;
    for version in BOTH {
        let world = World::new();
        let mut watcher = world.join(version, "watcher").await;
        watcher.subscribe(1, "wills/+", QoS::AtMostOnce).await.unwrap();
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let (id, topic) = (format!("device {number}"), format!("wills/{number}"));
            let connect = Connect { will: Some(will(&topic, b"gone")), ..Connect::new(version, &id) };
            clients.push(world.connect(connect).await.0);
        }
        drop(clients);
        let mut other = world.join(version, "other").await;
        other.say(QoS::ExactlyOnce, "a", "x").await;
        world.settled(2).await;
        let mut topics: Vec<_> = watcher.all().await.into_iter().map(|got| got.topic).collect();
        topics.sort_unstable();
        topics.dedup();
        assert_eq!(topics.len(), CLIENTS, "{version:?}");
        assert_eq!(watcher.all().await, []);
    }
}

/// Each level of the topic is matched by its name and by `+`: without care a message would be looked at 2^9 times for
/// each of the 2^9 filters.
#[tokio::test(start_paused = true)]
async fn attack_96_filters_that_cross_at_every_level_cost_one_copy() {
    const LEVELS: u32 = 9;
    let world = World::new();
    let mut client = world.join(Version::V5, "client").await;
    let filters: Vec<_> = (0..1_u32 << LEVELS)
        .map(|bits| {
            let level = |level| if bits >> level & 1 == 1 { "+" } else { "a" };
            (0..LEVELS).map(level).collect::<Vec<_>>().join("/")
        })
        .collect();
    for filters in filters.chunks(64) {
        let asked: Vec<_> =
            filters.iter().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce)).collect();
        let codes = client.ask(&asked, None).await;
        assert!(codes.iter().all(|code| *code == ReasonCode::GrantedQos1), "{codes:?}");
    }
    let mut publisher = world.join(Version::V5, "publisher").await;
    let topic = vec!["a"; LEVELS as usize].join("/");
    for payload in ["one", "two"] {
        publisher.say(QoS::AtLeastOnce, &topic, payload).await;
    }
    assert_eq!(client.payloads().await, ["one", "two"]);
}

#[tokio::test(start_paused = true)]
async fn attack_98_a_flood_of_one_publisher_does_not_silence_the_others() {
    let world = World::new();
    let mut flood = Vec::new();
    for _ in 0..20_000 {
        Packet::Publish(publish(QoS::AtMostOnce, 0, "a", b"")).encode(Version::V5, &mut flood).unwrap();
    }
    let mut publisher = tidegate_testkit::mqtt::Peer::new(world.stream_of(4096).await, Version::V5);
    publisher.join("flood").await.unwrap();
    let mut publisher = publisher.into_stream();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut others = Vec::new();
    for id in ["a", "b", "c"] {
        let mut other = world.join(Version::V5, id).await;
        let is_over = Arc::clone(&is_over);
        others.push(tokio::spawn(async move {
            let mut answers = 0;
            while !is_over.load(Ordering::Relaxed) {
                other.ping().await.unwrap();
                answers += 1;
            }
            answers
        }));
    }
    let flooding = tokio::spawn(async move {
        publisher.write_all(&flood).await.unwrap();
        is_over.store(true, Ordering::Relaxed);
        publisher
    });
    for other in others {
        let answers = other.await.unwrap();
        assert!(answers >= 10, "only {answers} answers in the time of 20,000 messages");
    }
    drop(flooding.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn attack_101_a_storm_of_reconnections_finds_every_session_again() {
    const CLIENTS: usize = 300;
    for version in BOTH {
        let world = Arc::new(World::new());
        for round in 0..3 {
            let mut storm = tokio::task::JoinSet::new();
            for number in 0..CLIENTS {
                let world = Arc::clone(&world);
                storm.spawn(async move {
                    let id = format!("device {number}");
                    let (mut client, present) = world.connect(kept(version, &id)).await;
                    assert_eq!(present, round > 0);
                    client.subscribe(1, &id, QoS::AtLeastOnce).await.unwrap();
                });
            }
            while let Some(joined) = storm.join_next().await {
                joined.unwrap();
            }
            world.settled(0).await;
            assert_eq!(world.broker.sessions(), CLIENTS);
        }
    }
}
