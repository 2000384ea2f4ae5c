//! What does it cost to decode and to encode a packet?
//!
//! The peers are the codecs of rumqttc (also known as mqttbytes) and of ntex-mqtt; the limit is a copy of the same
//! bytes. A buffer holds 64 packets of a kind, as a read of a busy connection does, and the figures are those of one
//! packet. All stand in one run, because the machine's mood is part of every figure.
//!
//! Decoding begins at the bytes where the codec wants to have them: the peers split a buffer that they own, and that
//! is filled outside of the measurement; ours borrows. Encoding begins at a packet and ends where a socket would take
//! it: rumqttc and ours append to a buffer that is there, ntex-mqtt consumes the packet and appends to pages of its own.
//!
//! `cargo bench -p tidegate-benches --bench codec`

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use ntex_codec::Decoder as _;
use rumqttc::mqttbytes::v4 as rumqttc_v4;
use rumqttc::v5::mqttbytes::v5 as rumqttc_v5;
use tidegate_codec::{
    Connect, Decoded, Decoder, Limits, Packet, PacketId, PubAck, Publish, QoS, Subscribe, SubscribeFilter,
    UserProperties, Version,
};

/// Packets in a buffer.
const PACKETS: usize = 64;
const PAYLOAD: &[u8] = &[b'x'; 1024];
const VALID: &str = "it was encoded here";
/// What the peers accept.
const MAX_BYTES: u32 = 1 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .configure_from_args();
    for version in [Version::V3_1_1, Version::V5] {
        for (name, packet) in packets(version) {
            let mut one = Vec::new();
            packet.encode(version, &mut one).expect("it has nothing that does not fit");
            let number = if version == Version::V5 { "5" } else { "3.1.1" };
            let mut group = criterion.benchmark_group(format!("decode {name} {number}"));
            decode(&mut group, version, &one.repeat(PACKETS));
            group.finish();
            let mut group = criterion.benchmark_group(format!("encode {name} {number}"));
            encode(&mut group, version, &packet, &one);
            group.finish();
        }
    }
    criterion.final_summary();
}

/// The packets that matter to a server: those of every message, and those of every connection.
fn packets(version: Version) -> [(&'static str, Packet<'static>); 4] {
    let packet_id = PacketId::new(7).expect("7 is not zero");
    let publish = Publish {
        qos: QoS::AtLeastOnce,
        topic: "plant/7/press/42/up",
        packet_id: Some(packet_id),
        payload: PAYLOAD,
        ..Publish::default()
    };
    let mut connect = Connect::new(version, "press-0042");
    connect.keep_alive = 300;
    connect.username = Some("press");
    connect.password = Some(b"0042-secret");
    let subscribe = Subscribe {
        packet_id,
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: vec![
            SubscribeFilter::new("plant/7/press/42/down", QoS::AtLeastOnce),
            SubscribeFilter::new("plant/7/+/all", QoS::AtMostOnce),
        ],
    };
    [
        ("PUBLISH of 1 KiB, QoS 1,", Packet::Publish(publish)),
        ("PUBACK", Packet::PubAck(PubAck::new(packet_id))),
        ("CONNECT", Packet::Connect(Box::new(connect))),
        ("SUBSCRIBE with two filters,", Packet::Subscribe(Box::new(subscribe))),
    ]
}

fn decode(group: &mut BenchmarkGroup<'_, WallTime>, version: Version, buffer: &[u8]) {
    group.throughput(Throughput::Elements(PACKETS as u64));
    copy(group, buffer);

    let mut decoder = Decoder::new(Limits::default());
    // A server knows the version when CONNECT is decoded, and takes no other then.
    if !matches!(decoder.decode(buffer), Ok(Decoded::Packet { packet: Packet::Connect(_), .. })) {
        decoder.set_version(version);
    }
    group.bench_function("tidegate", |bencher| {
        bencher.iter(|| {
            let (mut rest, mut packets) = (black_box(buffer), 0);
            while let Decoded::Packet { packet, len } = decoder.decode(rest).expect(VALID) {
                black_box(&packet);
                rest = &rest[len..];
                packets += 1;
            }
            assert_eq!((packets, rest.len()), (PACKETS, 0));
        });
    });
    let filled = || BytesMut::from(buffer);
    if version == Version::V5 {
        split(group, "rumqttc", filled, |buffer| {
            rumqttc_v5::Packet::read(buffer, Some(MAX_BYTES)).expect(VALID)
        });
    } else {
        let max = MAX_BYTES as usize;
        split(group, "rumqttc", filled, |buffer| rumqttc_v4::Packet::read(buffer, max).expect(VALID));
    }
    // With room behind the packets, as a buffer that is read into has: without it each packet would move the rest.
    let filled = || {
        let mut filled = ntex_bytes::BytesMut::with_capacity(buffer.len() * 2);
        filled.extend_from_slice(buffer);
        filled
    };
    if version == Version::V5 {
        let codec = ntex_mqtt::v5::codec::Codec::new();
        split(group, "ntex-mqtt", filled, |buffer| codec.decode(buffer).expect(VALID));
    } else {
        let codec = ntex_mqtt::v3::codec::Codec::new();
        split(group, "ntex-mqtt", filled, |buffer| codec.decode(buffer).expect(VALID));
    }
}

/// Measures a decoder that splits what it takes off the buffer that it is given.
fn split<B: AsRef<[u8]>, P>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    filled: impl Fn() -> B,
    read: impl Fn(&mut B) -> P,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_batched_ref(
            &filled,
            |buffer| {
                for _ in 0..PACKETS {
                    black_box(read(buffer));
                }
                assert!(buffer.as_ref().is_empty());
            },
            BatchSize::SmallInput,
        );
    });
}

fn encode(group: &mut BenchmarkGroup<'_, WallTime>, version: Version, packet: &Packet<'_>, one: &[u8]) {
    group.throughput(Throughput::Elements(PACKETS as u64));
    let bytes = one.len() * PACKETS;
    copy(group, &one.repeat(PACKETS));

    let mut out = Vec::with_capacity(bytes);
    group.bench_function("tidegate", |bencher| {
        bencher.iter(|| {
            out.clear();
            for _ in 0..PACKETS {
                black_box(packet).encode(version, &mut out).expect("it was encoded before");
            }
            assert_eq!(out.len(), bytes);
        });
    });
    if version == Version::V5 {
        let packet = rumqttc_v5::Packet::read(&mut BytesMut::from(one), None).expect("it is a packet");
        rumqttc(group, bytes, |out| packet.write(out, None).is_ok());
        let codec = ntex_mqtt::v5::codec::Codec::new();
        ntex(group, bytes, &codec, &ntex_v5(one));
    } else {
        let max = MAX_BYTES as usize;
        let packet = rumqttc_v4::Packet::read(&mut BytesMut::from(one), max).expect("it is a packet");
        rumqttc(group, bytes, |out| packet.write(out, max).is_ok());
        let codec = ntex_mqtt::v3::codec::Codec::new();
        ntex(group, bytes, &codec, &ntex_v3(one));
    }
}

fn rumqttc(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize, write: impl Fn(&mut BytesMut) -> bool) {
    let mut out = BytesMut::with_capacity(bytes * 2);
    group.bench_function("rumqttc", |bencher| {
        bencher.iter(|| {
            out.clear();
            for _ in 0..PACKETS {
                assert!(black_box(&write)(&mut out));
            }
            black_box(&out);
        });
    });
}

fn ntex<C>(group: &mut BenchmarkGroup<'_, WallTime>, bytes: usize, codec: &C, packet: &C::Item)
where
    C: ntex_codec::Encoder<Item: Clone>,
{
    let packets = || vec![packet.clone(); PACKETS];
    let mut out = ntex_bytes::BytePages::default();
    group.bench_function("ntex-mqtt", |bencher| {
        bencher.iter_batched_ref(
            packets,
            |packets| {
                out.clear();
                for packet in packets.drain(..) {
                    codec.encodev(black_box(packet), &mut out).expect("it was a packet before");
                }
                assert!(out.len() >= bytes);
            },
            BatchSize::SmallInput,
        );
    });
}

fn ntex_v3(one: &[u8]) -> ntex_mqtt::v3::codec::Encoded {
    use ntex_mqtt::v3::codec::{Codec, Decoded, Encoded};
    match Codec::new().decode(&mut ntex_bytes::BytesMut::copy_from_slice(one)) {
        Ok(Some(Decoded::Packet(packet, _))) => Encoded::Packet(packet),
        Ok(Some(Decoded::Publish(publish, payload, _))) => Encoded::Publish(publish, Some(payload)),
        other => panic!("not a packet: {other:?}"),
    }
}

fn ntex_v5(one: &[u8]) -> ntex_mqtt::v5::codec::Encoded {
    use ntex_mqtt::v5::codec::{Codec, Decoded, Encoded};
    match Codec::new().decode(&mut ntex_bytes::BytesMut::copy_from_slice(one)) {
        Ok(Some(Decoded::Packet(packet, _))) => Encoded::Packet(packet),
        Ok(Some(Decoded::Publish(publish, payload, _))) => Encoded::Publish(publish, Some(payload)),
        other => panic!("not a packet: {other:?}"),
    }
}

fn copy(group: &mut BenchmarkGroup<'_, WallTime>, bytes: &[u8]) {
    let mut copy = vec![0; bytes.len()];
    group.bench_function("limit: copy the bytes", |bencher| {
        bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(bytes)));
    });
}
