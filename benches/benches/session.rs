//! What does the state machine of a conversation add to a message, beside its bytes?
//!
//! The limit is a `VecDeque` that the same messages are pushed to and popped from: whoever waits for an
//! acknowledgement has to keep that much. Messages of 1 KiB, in windows of 1 and of 100: so many are sent before the
//! first is acknowledged. The figures are those of one message with all of its acknowledgements. Packets come in
//! decoded, and go out encoded; the payload that is encoded with a delivery is copied at the limit as well.
//!
//! `cargo bench -p tidegate-benches --bench session`

use std::collections::VecDeque;
use std::hint::black_box;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use tidegate_codec::{Connect, Packet, PacketId, PubAck, Publish, QoS, ReasonCode, Version};
use tidegate_session::{
    Delivered, Delivery, Identifiers, Input, Limits, Message, Session, SessionState, Token, Welcome,
};

const TOPIC: &str = "plant/7/press/42/up";
const PAYLOAD: &[u8] = &[b'x'; 1024];
const WINDOWS: [u16; 2] = [1, 100];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    for window in WINDOWS {
        let mut group = criterion.benchmark_group(format!("in, window {window}"));
        group.throughput(Throughput::Elements(u64::from(window)));
        keep_ids(&mut group, window);
        receive(&mut group, window, QoS::AtLeastOnce);
        receive(&mut group, window, QoS::ExactlyOnce);
        group.finish();
        let mut group = criterion.benchmark_group(format!("out, window {window}"));
        group.throughput(Throughput::Elements(u64::from(window)));
        keep_messages(&mut group, window);
        deliver(&mut group, window, QoS::AtLeastOnce);
        deliver(&mut group, window, QoS::ExactlyOnce);
        group.finish();
    }
    criterion.final_summary();
}

fn keep_ids(group: &mut BenchmarkGroup<'_, WallTime>, window: u16) {
    let mut waiting = VecDeque::with_capacity(usize::from(window));
    group.bench_function("limit: VecDeque of packet identifiers", |bencher| {
        bencher.iter(|| {
            waiting.extend((1..=black_box(window)).map(id));
            while let Some(id) = waiting.pop_front() {
                black_box(id);
            }
        });
    });
}

fn keep_messages(group: &mut BenchmarkGroup<'_, WallTime>, window: u16) {
    let message = Arc::new(Message::new(TOPIC, PAYLOAD, QoS::ExactlyOnce, false));
    let mut waiting = VecDeque::with_capacity(usize::from(window));
    let mut out = Vec::new();
    group.bench_function("limit: VecDeque of messages, payload copied", |bencher| {
        bencher.iter(|| {
            out.clear();
            for number in 1..=black_box(window) {
                out.extend_from_slice(message.payload());
                waiting.push_back((id(number), Arc::clone(&message)));
            }
            while let Some(message) = waiting.pop_front() {
                black_box(message);
            }
        });
    });
}

/// PUBLISH comes in and is acknowledged; at QoS 2 PUBREL follows, and is.
fn receive(group: &mut BenchmarkGroup<'_, WallTime>, window: u16, qos: QoS) {
    let (mut session, now) = session();
    let mut tokens: Vec<Token> = Vec::with_capacity(usize::from(window));
    let mut out = Vec::new();
    group.bench_function(format!("tidegate, QoS {}", qos.as_u8()), |bencher| {
        bencher.iter(|| {
            out.clear();
            for number in 1..=window {
                let publish = Publish {
                    qos,
                    topic: TOPIC,
                    packet_id: Some(id(number)),
                    payload: PAYLOAD,
                    ..Publish::default()
                };
                let packet = Packet::Publish(black_box(publish));
                let input = session.handle_packet(&packet, now, &mut out);
                let Ok(Input::Publish(inbound)) = input else { panic!("it is a message") };
                tokens.push(inbound.token.expect("its QoS is not 0"));
            }
            for token in tokens.drain(..) {
                assert!(session.acknowledge(token, ReasonCode::Success, &mut out));
            }
            if qos == QoS::ExactlyOnce {
                for number in 1..=window {
                    handle(&mut session, &Packet::PubRel(PubAck::new(id(number))), now, &mut out);
                }
            }
            let answers = if qos == QoS::ExactlyOnce { 2 } else { 1 };
            assert_eq!(out.len(), usize::from(window) * answers * 4);
        });
    });
}

/// A message goes out and PUBACK comes, or PUBREC and PUBCOMP.
fn deliver(group: &mut BenchmarkGroup<'_, WallTime>, window: u16, qos: QoS) {
    let (mut session, now) = session();
    let message = Arc::new(Message::new(TOPIC, PAYLOAD, qos, false));
    let (mut out, mut ids) = (Vec::new(), Vec::with_capacity(usize::from(window)));
    group.bench_function(format!("tidegate, QoS {}", qos.as_u8()), |bencher| {
        bencher.iter(|| {
            out.clear();
            for _ in 0..window {
                let delivery = Delivery {
                    message: Arc::clone(black_box(&message)),
                    qos,
                    retain: false,
                    subscription_identifiers: Identifiers::None,
                };
                assert_eq!(session.deliver(delivery, now, &mut out), Delivered::Sent);
            }
            // All are as long as the first: what stands between the topic and the payload is the identifier.
            let len = out.len() / usize::from(window);
            let at = len - PAYLOAD.len() - 2;
            ids.extend(
                out.chunks_exact(len).map(|publish| id(u16::from_be_bytes([publish[at], publish[at + 1]]))),
            );
            for id in ids.drain(..) {
                if qos == QoS::ExactlyOnce {
                    handle(&mut session, &Packet::PubRec(PubAck::new(id)), now, &mut out);
                    handle(&mut session, &Packet::PubComp(PubAck::new(id)), now, &mut out);
                } else {
                    handle(&mut session, &Packet::PubAck(PubAck::new(id)), now, &mut out);
                }
            }
            assert_eq!(session.in_flight(), 0);
        });
    });
}

fn handle(session: &mut Session, packet: &Packet<'_>, now: Instant, out: &mut Vec<u8>) {
    let input = session.handle_packet(black_box(packet), now, out);
    assert!(matches!(input, Ok(Input::Handled)), "{input:?}");
}

/// A 3.1.1 client that has just connected.
fn session() -> (Session, Instant) {
    let limits =
        Limits { max_inflight_out: NonZeroU16::new(100).expect("100 is not zero"), ..Limits::default() };
    let now = Instant::now();
    let mut session = Session::new("press-0042", Arc::new(limits));
    let connect = Connect::new(Version::V3_1_1, "press-0042");
    session.connect(&connect, Welcome::new(SessionState::New), now, &mut Vec::new());
    (session, now)
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).expect("identifiers are not zero")
}
