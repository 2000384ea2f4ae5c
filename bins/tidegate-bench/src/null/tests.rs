//! The null server over real sockets, with clients that load tools meet seldom.

use std::net::TcpStream;
use std::time::Duration;

use tidegate_codec::{Connect, PacketId, QoS, Subscribe, SubscribeFilter, UserProperties, Version};

use super::*;

fn start() -> NullServer {
    NullServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), 1, Mode::Discard).unwrap()
}

/// Waits until the server has accepted that many connections and has none left.
fn once_all_are_gone(server: &NullServer, accepted: u64) {
    for _ in 0..500 {
        let seen = server.seen();
        if seen.accepted == accepted && seen.open == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("the server did not see its clients go: {:?}", server.seen());
}

#[test]
fn clients_that_go_in_the_middle_of_a_packet_are_seen_to_go() {
    let server = start();
    for _ in 0..200 {
        // These bytes and the end often come with one event. Nothing is answered, so no reset tells of the end either.
        let mut client = TcpStream::connect(server.address()).unwrap();
        client.write_all(&[0x10, 40, 0]).unwrap();
    }
    once_all_are_gone(&server, 200);
}

#[test]
fn a_client_that_does_not_read_is_not_read_and_gets_all_its_answers_later() {
    const PACKETS: usize = 10_000;
    const ROUNDS: usize = 150;
    let server = start();
    let mut client = TcpStream::connect(server.address()).unwrap();
    let mut greeting = Vec::new();
    Connect::new(Version::V3_1_1, "c").encode(&mut greeting).unwrap();
    client.write_all(&greeting).unwrap();
    let mut sender = client.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let publishes = [0x32, 5, 0, 1, b'a', 0, 1].repeat(PACKETS);
        for _ in 0..ROUNDS {
            sender.write_all(&publishes).unwrap();
        }
    });
    let mut before = Seen::default();
    // Until the server reads no more: its answers fill the sockets' buffers.
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let seen = server.seen();
        if seen == before && seen.received.publishes > 0 {
            break;
        }
        before = seen;
    }
    let all = (PACKETS * ROUNDS) as u64;
    assert!(before.received.publishes < all, "the server went on reading");
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answers = vec![0; 4 + 4 * PACKETS * ROUNDS];
    client.read_exact(&mut answers).unwrap();
    assert!(answers[4..].chunks_exact(4).all(|puback| puback == [0x40, 2, 0, 1]));
    sending.join().unwrap();
    assert_eq!(server.stop().unwrap().received.publishes, all);
}

/// A client of a router that subscribes to these filters at QoS 1.
fn subscriber(server: &NullServer, filters: &[&str]) -> TcpStream {
    let mut client = TcpStream::connect(server.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut greeting = Vec::new();
    Connect::new(Version::V3_1_1, "c").encode(&mut greeting).unwrap();
    let filters = filters.iter().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce)).collect();
    let user_properties = UserProperties::default();
    let packet_id = PacketId::new(9).unwrap();
    Subscribe { packet_id, subscription_identifier: None, user_properties, filters }
        .encode(Version::V3_1_1, &mut greeting)
        .unwrap();
    client.write_all(&greeting).unwrap();
    client
}

fn assert_reads(client: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

#[test]
fn a_router_delivers_by_exact_topic_and_to_everything_at_the_lower_quality_of_service() {
    let server = NullServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), 4, Mode::Route).unwrap();
    let mut exact = subscriber(&server, &["a", "a/+"]);
    let mut all = subscriber(&server, &["#"]);
    // A wildcard that it does not know is refused, not ignored.
    assert_reads(&mut exact, &[0x20, 2, 0, 0, 0x90, 4, 0, 9, 1, 0x80]);
    assert_reads(&mut all, &[0x20, 2, 0, 0, 0x90, 3, 0, 9, 1]);
    // At QoS 1 to "a", whose acknowledgement comes last, and at QoS 0 to "b".
    all.write_all(&[0x32, 6, 0, 1, b'a', 0, 7, b'x', 0x30, 4, 0, 1, b'b', b'y']).unwrap();
    assert_reads(&mut exact, &[0x32, 6, 0, 1, b'a', 0, 1, b'x']);
    assert_reads(&mut all, &[0x32, 6, 0, 1, b'a', 0, 1, b'x', 0x40, 2, 0, 7, 0x30, 4, 0, 1, b'b', b'y']);
    // Who unsubscribed hears nothing more.
    exact.write_all(&[0xA2, 5, 0, 3, 0, 1, b'a']).unwrap();
    assert_reads(&mut exact, &[0xB0, 2, 0, 3]);
    all.write_all(&[0x30, 4, 0, 1, b'a', b'z']).unwrap();
    assert_reads(&mut all, &[0x30, 4, 0, 1, b'a', b'z']);
    exact.write_all(&[0xC0, 0]).unwrap();
    assert_reads(&mut exact, &[0xD0, 0]);
    drop((exact, all));
    once_all_are_gone(&server, 2);
    assert_eq!(server.stop().unwrap().received.publishes, 3);
}
