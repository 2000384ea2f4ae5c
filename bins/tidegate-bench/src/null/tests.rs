//! The null server over real sockets, with clients that load tools meet seldom.

use std::net::TcpStream;
use std::time::Duration;

use tidegate_codec::{Connect, Version};

use super::*;

fn start() -> NullServer {
    NullServer::start(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap()
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
