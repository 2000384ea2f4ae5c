//! The generator against servers in the same process: the null server, and scripted ones that misbehave.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use tidegate_codec::{QoS, Version};
use tidegate_ledger::file::Writer;

use super::*;
use crate::null::{Mode, NullServer, Seen};

const INTERVAL: Duration = Duration::from_millis(100);

fn traffic(qos: QoS, pace: Pace, count: Option<u64>, window: u16) -> Traffic {
    let topic = TopicTemplate::parse("t/{id}").unwrap();
    let payload = Payload::new(PayloadFormat::Json, 200).unwrap();
    Traffic::Publish(Publishing { topic, qos, payload, count, window, pace, audience: None })
}

fn plan(target: SocketAddr, clients: u32, traffic: Traffic, duration: Option<Duration>) -> Plan {
    Plan {
        targets: vec![target],
        clients,
        first_id: 100,
        connect_rate: 1000.0,
        connect_timeout: Duration::from_secs(5),
        version: Version::V3_1_1,
        keep_alive: 300,
        username: None,
        password: None,
        traffic,
        duration,
        drain: Duration::from_secs(5),
        threads: 1,
        processes: 1,
        sources: Vec::new(),
        ledger: None,
    }
}

fn null() -> NullServer {
    NullServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), 1, Mode::Discard).unwrap()
}

fn router() -> NullServer {
    NullServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), 1, Mode::Route).unwrap()
}

/// A plan in which two publishers share two topics with five subscribers: one topic has three, the other two.
fn fanout(target: SocketAddr, qos: QoS, pace: Pace, count: Option<u64>) -> Plan {
    let mut traffic = traffic(qos, pace, count, 7);
    if let Traffic::Publish(publishing) = &mut traffic {
        publishing.audience = Some(Audience { publishers: 2, subscribers: 5, topics: 2 });
    }
    plan(target, 7, traffic, Some(Duration::from_secs(20)))
}

fn go(plan: &Plan) -> Outcome {
    run(plan, &[], &AtomicBool::new(false), |_| {}).unwrap()
}

/// Answers the first client with these bytes once it has sent something, and waits until it goes.
fn scripted(answers: &'static [&'static [u8]]) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 4096];
        for answer in answers {
            assert!(stream.read(&mut buffer).unwrap() > 0);
            stream.write_all(answer).unwrap();
        }
        // The end, or a reset: the client decides.
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    });
    (address, server)
}

/// Waits until the server has read all connections to their end.
fn once_all_are_gone(server: &NullServer) -> Seen {
    for _ in 0..1000 {
        let seen = server.seen();
        if seen.open == 0 {
            return seen;
        }
        std::thread::sleep(STEP);
    }
    panic!("the server did not see its clients go: {:?}", server.seen());
}

#[test]
fn a_fleet_and_the_server_count_the_same() {
    let server = null();
    let plan = plan(
        server.address(),
        50,
        traffic(QoS::AtLeastOnce, Pace::Every(INTERVAL), None, 16),
        Some(Duration::from_secs(1)),
    );
    let outcome = go(&plan);
    let counters = outcome.tally.counters;
    assert_eq!((counters.attempted, counters.connected, counters.online()), (50, 50, 50));
    assert_eq!(counters.sent, counters.acked);
    // Ten turns each, and one more or less where a second of this machine is not quite one.
    assert!((400..=600).contains(&(counters.sent + counters.skipped)), "{counters:?}");
    assert_eq!(outcome.tally.acknowledge.summary().count, counters.acked);
    assert_eq!(outcome.tally.connect.summary().count, 50);
    assert_eq!(outcome.tally.behind.summary().count, counters.sent);
    assert!(outcome.tally.troubles.is_empty(), "{:?}", outcome.tally.troubles);
    let listed: u64 = outcome.seconds.iter().map(|second| second.acked).sum();
    assert!(listed > 0 && listed <= counters.acked);
    let seen = server.stop().unwrap();
    assert_eq!((seen.accepted, seen.received.publishes), (50, counters.sent));
}

#[test]
fn every_version_and_quality_of_service_ends_with_all_messages_acknowledged() {
    for version in [Version::V3_1_1, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let server = null();
            let traffic = traffic(qos, Pace::Window, Some(300), 7);
            let mut plan = plan(server.address(), 5, traffic, None);
            (plan.version, plan.threads) = (version, 2);
            let counters = go(&plan).tally.counters;
            assert_eq!(counters.sent, 1500, "{version:?} {qos:?}");
            assert_eq!(counters.acked, if qos == QoS::AtMostOnce { 0 } else { 1500 });
            assert_eq!((counters.unacked, counters.finished, counters.in_flight), (0, 5, 0));
            // At QoS 0 the last messages may still be on their way when the generator has gone.
            let seen = once_all_are_gone(&server);
            assert_eq!(seen.received.publishes, 1500, "{version:?} {qos:?}");
        }
    }
}

#[test]
fn large_messages_pass_through_sockets_that_take_only_a_part() {
    let server = null();
    let mut traffic = traffic(QoS::AtLeastOnce, Pace::Window, Some(4), 2);
    if let Traffic::Publish(publishing) = &mut traffic {
        // Several times what Linux lets a socket's buffer grow to.
        publishing.payload = Payload::new(PayloadFormat::Json, 16 << 20).unwrap();
    }
    let plan = plan(server.address(), 1, traffic, Some(Duration::from_secs(20)));
    let counters = go(&plan).tally.counters;
    assert_eq!((counters.sent, counters.acked, counters.lost), (4, 4, 0));
    assert_eq!(server.stop().unwrap().received.publishes, 4);
}

#[test]
fn a_silent_fleet_pings_within_its_keep_alive() {
    let server = null();
    let mut plan = plan(server.address(), 5, Traffic::Silent, Some(Duration::from_secs(2)));
    plan.keep_alive = 1;
    let counters = go(&plan).tally.counters;
    assert_eq!((counters.connected, counters.lost, counters.sent), (5, 0, 0));
    // Every three quarters of a second.
    assert!((10..=15).contains(&counters.pings), "{counters:?}");
}

#[test]
fn a_port_where_nobody_listens_is_counted_and_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = go(&plan(address, 3, Traffic::Silent, Some(Duration::from_mins(1))));
    assert_eq!((outcome.tally.counters.failed, outcome.tally.counters.connected), (3, 0));
    assert_eq!(outcome.tally.troubles.get("connect: connection refused"), Some(&3));
}

#[test]
fn a_refused_connection_is_no_connection() {
    let (address, server) = scripted(&[&[0x20, 2, 0, 5]]);
    let outcome = go(&plan(address, 1, Traffic::Silent, Some(Duration::from_mins(1))));
    assert_eq!((outcome.tally.counters.failed, outcome.tally.counters.connected), (1, 0));
    assert_eq!(outcome.tally.troubles.get("connect: refused with NotAuthorized"), Some(&1));
    server.join().unwrap();
}

#[test]
fn a_server_that_does_not_greet_runs_into_the_timeout() {
    let (address, server) = scripted(&[]);
    let mut plan = plan(address, 1, Traffic::Silent, Some(Duration::from_mins(1)));
    plan.connect_timeout = Duration::from_millis(200);
    let outcome = go(&plan);
    assert_eq!(outcome.tally.troubles.get("connect: no CONNACK in time"), Some(&1));
    server.join().unwrap();
}

#[test]
fn a_message_without_its_acknowledgement_is_not_forgotten() {
    let (address, server) = scripted(&[&[0x20, 2, 0, 0]]);
    let traffic = traffic(QoS::AtLeastOnce, Pace::Window, Some(3), 2);
    let mut plan = plan(address, 1, traffic, Some(Duration::from_millis(100)));
    plan.drain = Duration::from_millis(100);
    let counters = go(&plan).tally.counters;
    assert_eq!((counters.sent, counters.acked, counters.unacked, counters.in_flight), (2, 0, 2, 0));
    server.join().unwrap();
}

#[test]
fn an_acknowledgement_of_nothing_ends_the_connection() {
    let (address, server) = scripted(&[&[0x20, 2, 0, 0], &[0x40, 2, 0, 9]]);
    let traffic = traffic(QoS::AtLeastOnce, Pace::Window, Some(1), 1);
    let outcome = go(&plan(address, 1, traffic, Some(Duration::from_mins(1))));
    assert_eq!((outcome.tally.counters.lost, outcome.tally.counters.unacked), (1, 1));
    assert_eq!(outcome.tally.troubles.get("lost: unexpected PubAck"), Some(&1));
    server.join().unwrap();
}

#[test]
fn an_error_of_mqtt_5_is_a_rejection_and_lowers_no_latency() {
    let (address, server) =
        scripted(&[&[0x20, 6, 0, 0, 3, 0x21, 0, 1], &[0x40, 3, 0, 1, 0x97], &[0x40, 2, 0, 2]]);
    // Receive Maximum 1 in the CONNACK: the second message waits for the answer to the first, whatever the window.
    let traffic = traffic(QoS::AtLeastOnce, Pace::Window, Some(2), 10);
    let mut plan = plan(address, 1, traffic, Some(Duration::from_mins(1)));
    plan.version = Version::V5;
    let outcome = go(&plan);
    assert_eq!((outcome.tally.counters.acked, outcome.tally.counters.rejected), (1, 1));
    assert_eq!(outcome.tally.acknowledge.summary().count, 1);
    assert_eq!(outcome.tally.troubles.get("message rejected with QuotaExceeded"), Some(&1));
    server.join().unwrap();
}

/// Serves that many clients, one after the other.
fn serve(clients: usize, conversation: impl Fn(TcpStream) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..clients {
            conversation(listener.accept().unwrap().0);
        }
    });
    (address, server)
}

const CONNACK: &[u8] = &[0x20, 2, 0, 0];

#[test]
fn a_broker_that_closes_behind_its_greeting_is_seen_to_close() {
    // The bytes and the end often come with one event.
    let (address, server) = serve(50, |mut stream| {
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(CONNACK).unwrap();
    });
    let outcome = go(&plan(address, 50, Traffic::Silent, Some(Duration::from_secs(5))));
    assert_eq!((outcome.tally.counters.connected, outcome.tally.counters.lost), (50, 50));
    assert_eq!(outcome.tally.troubles.get("lost: closed by the broker"), Some(&50));
    server.join().unwrap();
}

#[test]
fn more_acknowledgements_than_one_read_takes_are_all_counted() {
    const MESSAGES: usize = 20_000;
    let (address, server) = serve(1, |mut stream| {
        let mut buffer = vec![0; 1 << 16];
        assert!(stream.read(&mut buffer).unwrap() > 0);
        stream.write_all(CONNACK).unwrap();
        // Each is two bytes of header, "t/100" behind its length, and an identifier.
        let mut missing = 11 * MESSAGES;
        while missing > 0 {
            missing -= stream.read(&mut buffer).unwrap();
        }
        let pubacks = (1..=u16::try_from(MESSAGES).unwrap()).flat_map(|id| {
            let [high, low] = id.to_be_bytes();
            [0x40, 2, high, low]
        });
        stream.write_all(&pubacks.collect::<Vec<u8>>()).unwrap();
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    });
    let mut traffic = traffic(QoS::AtLeastOnce, Pace::Window, Some(MESSAGES as u64), u16::MAX);
    if let Traffic::Publish(publishing) = &mut traffic {
        publishing.payload = Payload::new(PayloadFormat::None, 0).unwrap();
    }
    let counters = go(&plan(address, 1, traffic, Some(Duration::from_secs(10)))).tally.counters;
    assert_eq!((counters.sent, counters.acked, counters.lost), (20_000, 20_000, 0));
    server.join().unwrap();
}

#[test]
fn acknowledgements_that_come_after_the_last_message_are_waited_for() {
    let (address, server) = serve(1, |mut stream| {
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(CONNACK).unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        std::thread::sleep(Duration::from_millis(300));
        stream.write_all(&[0x40, 2, 0, 1]).unwrap();
        while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
    });
    let traffic = traffic(QoS::AtLeastOnce, Pace::Window, Some(1), 1);
    let counters = go(&plan(address, 1, traffic, None)).tally.counters;
    assert_eq!((counters.acked, counters.unacked), (1, 0));
    server.join().unwrap();
}

#[test]
fn a_stopped_run_reports_what_was_done_so_far() {
    let server = null();
    let traffic = traffic(QoS::AtLeastOnce, Pace::Every(INTERVAL), None, 16);
    let plan = plan(server.address(), 5, traffic, Some(Duration::from_mins(10)));
    let stop = AtomicBool::new(false);
    let outcome = run(&plan, &[], &stop, |_| stop.store(true, Ordering::Relaxed)).unwrap();
    let counters = outcome.tally.counters;
    assert!(outcome.interrupted && counters.sent > 0);
    assert_eq!(counters.sent, counters.acked);
    assert_eq!(server.stop().unwrap().received.publishes, counters.sent);
}

#[test]
fn every_subscriber_gets_every_message_of_its_topic_in_every_version_and_quality_of_service() {
    for version in [Version::V3_1_1, Version::V5] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            for pace in [Pace::Window, Pace::Every(Duration::from_millis(2))] {
                let server = router();
                let mut plan = fanout(server.address(), qos, pace, Some(100));
                (plan.version, plan.threads) = (version, 2);
                let outcome = go(&plan);
                let counters = outcome.tally.counters;
                let left_out = counters.skipped;
                let expected = 5 * 100;
                assert_eq!(
                    (counters.sent, counters.expected),
                    (200, expected),
                    "{version:?} {qos:?} {pace:?}"
                );
                assert_eq!((counters.delivered, counters.corrupt, counters.unacked), (expected, 0, 0));
                assert!(counters.is_clean(), "{counters:?}, {left_out}, {:?}", outcome.tally.troubles);
                assert_eq!(outcome.tally.deliver.summary().count, expected);
                server.stop().unwrap();
            }
        }
    }
}

#[test]
fn a_server_that_delivers_nothing_is_missed_in_every_delivery_and_does_not_stop_the_publishers() {
    let server = null();
    // More than may be on their way at once: after a stall the publishers go on.
    let mut plan = fanout(server.address(), QoS::AtMostOnce, Pace::Window, Some(20));
    plan.drain = Duration::from_millis(100);
    let counters = go(&plan).tally.counters;
    assert_eq!((counters.sent, counters.delivered, counters.undelivered()), (40, 0, 100));
    assert!(!counters.is_clean());
    server.stop().unwrap();
}

#[test]
fn a_refused_subscription_is_no_connection() {
    let (address, server) = scripted(&[&[0x20, 2, 0, 0], &[0x90, 3, 0, 1, 0x80]]);
    let mut plan = fanout(address, QoS::AtMostOnce, Pace::Window, Some(1));
    if let Traffic::Publish(Publishing { audience, .. }) = &mut plan.traffic {
        *audience = Some(Audience { publishers: 0, subscribers: 1, topics: 1 });
    }
    plan.clients = 1;
    let outcome = go(&plan);
    assert_eq!((outcome.tally.counters.failed, outcome.tally.counters.connected), (1, 0));
    let expected = "connect: subscription refused with UnspecifiedError";
    assert_eq!(outcome.tally.troubles.get(expected), Some(&1), "{:?}", outcome.tally.troubles);
    server.join().unwrap();
}

#[test]
fn after_a_storm_everybody_is_back_and_the_server_saw_each_of_them_twice() {
    for (version, rate) in [(Version::V3_1_1, None), (Version::V5, Some(500.0))] {
        let server = null();
        let storm = Traffic::Storm(Storm { rate, retry: Duration::from_secs(1) });
        let mut plan = plan(server.address(), 200, storm, Some(Duration::from_secs(20)));
        (plan.version, plan.threads) = (version, 2);
        let outcome = go(&plan);
        let counters = outcome.tally.counters;
        assert_eq!((counters.connected, counters.cut, counters.back, counters.away()), (200, 200, 200, 0));
        assert_eq!((counters.online(), counters.lost, counters.retried), (200, 0, 0), "{counters:?}");
        assert_eq!(outcome.tally.reconnect.summary().count, 200);
        let back = outcome.tally.back.summary();
        assert_eq!(back.count, 200);
        if rate.is_some() {
            // The last one's turn comes after 199 of 500 parts of a second.
            assert!(back.max_us >= 398_000, "{back:?}");
        }
        assert_eq!(once_all_are_gone(&server).accepted, 400);
    }
}

#[test]
fn who_is_not_let_in_after_a_storm_tries_again() {
    let (address, server) = {
        let mut connections = 0;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            while connections < 3 {
                let (mut stream, _) = listener.accept().unwrap();
                connections += 1;
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                // The second is the first of the storm, and refused.
                stream.write_all(if connections == 2 { &[0x20, 2, 0, 3] } else { CONNACK }).unwrap();
                while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
            }
        });
        (address, server)
    };
    let storm = Traffic::Storm(Storm { rate: None, retry: Duration::from_millis(50) });
    let outcome = go(&plan(address, 1, storm, Some(Duration::from_secs(20))));
    let counters = outcome.tally.counters;
    let troubles = &outcome.tally.troubles;
    assert_eq!(
        (counters.cut, counters.back, counters.retried, counters.failed),
        (1, 1, 1, 0),
        "{troubles:?}"
    );
    assert_eq!(troubles.get("retried: refused with ServerUnavailable"), Some(&1));
    server.join().unwrap();
}

#[test]
fn a_ledger_holds_what_was_sent_and_what_was_acknowledged() {
    let path = std::env::temp_dir().join(format!("tidegate-bench-noted-{}", std::process::id()));
    // The second of three messages is refused, and the third is never answered.
    let (address, server) = scripted(&[&[0x20, 3, 0, 0, 0], &[0x40, 2, 0, 1, 0x40, 3, 0, 2, 0x97]]);
    let mut plan = plan(address, 1, traffic(QoS::AtLeastOnce, Pace::Window, Some(3), 3), None);
    plan.version = Version::V5;
    plan.drain = Duration::from_millis(300);
    plan.ledger = Some(Arc::new(Writer::create(&path, 5).unwrap()));
    let counters = go(&plan).tally.counters;
    assert_eq!((counters.sent, counters.acked, counters.rejected, counters.unacked), (3, 1, 1, 1));
    let mut ledger = tidegate_ledger::Ledger::new();
    let origin = tidegate_ledger::file::read(&path, &mut ledger).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!((origin.started_ns, origin.complete), (5, true));
    assert_eq!((ledger.publishers(), ledger.sent_count(), ledger.acknowledged_count()), (1, 3, 1));
    server.join().unwrap();
}
