//! The null server's side of a conversation, without I/O: bytes of a client in, answers out.

use thiserror::Error;
use tidegate_codec::{
    ConnAck, Decoded, Decoder, Limits, Packet, PacketId, PubAck, ReasonCode, SubAck, Version,
};

/// Topic length, topic and packet identifier, behind a fixed header of at most five bytes.
const LONGEST_PUBLISH_HEAD: usize = 5 + 2 + 65_535 + 2;

/// What was counted for one connection or for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Received {
    /// PUBLISH packets.
    pub(crate) publishes: u64,
    /// Bytes of everything.
    pub(crate) bytes: u64,
}

/// Whether the conversation goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Read,
    /// The client said DISCONNECT.
    Close,
}

/// The client broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not MQTT, or not from a client")]
pub(super) struct Violation;

/// Reads one connection. PUBLISH is not decoded: of it only the identifier is looked at, and its payload is not even
/// kept until it is complete.
#[derive(Debug)]
pub(super) struct Scanner {
    decoder: Decoder,
    /// Bytes of a PUBLISH that are still to come and of no interest.
    skip: usize,
    /// The start of a packet that can't be answered yet.
    partial: Vec<u8>,
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { decoder: Decoder::new(Limits::default()), skip: 0, partial: Vec::new() }
    }

    /// Takes what was read and appends the answers to `out`.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        received: &mut Received,
    ) -> Result<Next, Violation> {
        received.bytes += bytes.len() as u64;
        if self.partial.is_empty() {
            let (next, kept) = self.scan(bytes, out, received)?;
            self.partial.extend_from_slice(&bytes[kept..]);
            return Ok(next);
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let (next, kept) = self.scan(&joined, out, received)?;
        joined.drain(..kept);
        // An idle connection keeps no memory for what it once received.
        if !joined.is_empty() {
            self.partial = joined;
        }
        Ok(next)
    }

    /// Answers all packets of `bytes`, and returns where the rest begins that must be kept.
    fn scan(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        received: &mut Received,
    ) -> Result<(Next, usize), Violation> {
        let mut at = self.skip.min(bytes.len());
        self.skip -= at;
        while let Some(&first) = bytes.get(at) {
            let rest = &bytes[at..];
            let taken = if first >> 4 == 3 && self.decoder.version().is_some() {
                match publish_head(rest)? {
                    Some(head) => {
                        head.answer(out);
                        received.publishes += 1;
                        self.skip = head.len.saturating_sub(rest.len());
                        head.len.min(rest.len())
                    }
                    None => break,
                }
            } else {
                match self.decoder.decode(rest).map_err(|_| Violation)? {
                    Decoded::Packet { packet, len } => {
                        let connected = match &packet {
                            Packet::Connect(connect) => Some(connect.version),
                            Packet::Disconnect(_) => return Ok((Next::Close, bytes.len())),
                            _ => None,
                        };
                        answer(&packet, connected.or(self.decoder.version()), out)?;
                        if let Some(version) = connected {
                            self.decoder.set_version(version);
                        }
                        len
                    }
                    Decoded::Incomplete { .. } => break,
                }
            };
            at += taken;
        }
        Ok((Next::Read, at))
    }
}

/// What a PUBLISH is answered by, and where it ends.
struct PublishHead {
    qos: u8,
    packet_id: [u8; 2],
    /// Of the whole packet.
    len: usize,
}

impl PublishHead {
    /// A PUBACK or PUBREC without a reason code means success in every version ([MQTT5-3.4.2.1]).
    fn answer(&self, out: &mut Vec<u8>) {
        let [high, low] = self.packet_id;
        match self.qos {
            1 => out.extend_from_slice(&[0x40, 2, high, low]),
            2 => out.extend_from_slice(&[0x50, 2, high, low]),
            _ => {}
        }
    }
}

/// Reads a PUBLISH up to its packet identifier; `None` if that is not there yet.
fn publish_head(bytes: &[u8]) -> Result<Option<PublishHead>, Violation> {
    let qos = (bytes[0] >> 1) & 0b11;
    if qos == 0b11 {
        return Err(Violation);
    }
    let mut remaining = 0;
    let mut header = 1;
    loop {
        let Some(&byte) = bytes.get(header) else {
            return Ok(None);
        };
        remaining |= usize::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if header == 5 {
            return Err(Violation);
        }
    }
    let len = header + remaining;
    if qos == 0 {
        return Ok(Some(PublishHead { qos, packet_id: [0, 0], len }));
    }
    let Some(topic) = bytes.get(header..header + 2) else {
        return if remaining < 2 { Err(Violation) } else { Ok(None) };
    };
    let at = header + 2 + usize::from(u16::from_be_bytes([topic[0], topic[1]]));
    debug_assert!(at + 2 <= LONGEST_PUBLISH_HEAD, "the bound on what is kept of a PUBLISH");
    if at + 2 > len {
        return Err(Violation);
    }
    Ok(bytes.get(at..at + 2).map(|id| PublishHead { qos, packet_id: [id[0], id[1]], len }))
}

/// Answers anything but a PUBLISH. `version` is that of the CONNECT, once there was one.
pub(super) fn answer(
    packet: &Packet<'_>,
    version: Option<Version>,
    out: &mut Vec<u8>,
) -> Result<(), Violation> {
    let version = version.ok_or(Violation)?;
    let suback = |id: PacketId, reasons| SubAck::new(id, reasons);
    let encoded = match packet {
        Packet::Connect(_) => ConnAck::new(ReasonCode::Success).encode(version, out),
        Packet::PubRel(release) => PubAck::new(release.packet_id).encode_pubcomp(version, out),
        Packet::Subscribe(subscribe) => {
            let granted =
                subscribe.filters.iter().map(|filter| granted(filter.options.qos.as_u8())).collect();
            suback(subscribe.packet_id, granted).encode_suback(version, out)
        }
        Packet::Unsubscribe(unsubscribe) => {
            let done = vec![ReasonCode::Success; unsubscribe.filters.len()];
            suback(unsubscribe.packet_id, done).encode_unsuback(version, out)
        }
        Packet::PingReq => Packet::PingResp.encode(version, out),
        _ => Ok(()),
    };
    encoded.map_err(|_| Violation)
}

pub(super) fn granted(qos: u8) -> ReasonCode {
    match qos {
        0 => ReasonCode::Success,
        1 => ReasonCode::GrantedQos1,
        _ => ReasonCode::GrantedQos2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_codec::{Connect, Publish, QoS, Subscribe, SubscribeFilter, UserProperties};

    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    fn publish(qos: QoS, number: u16, payload: &[u8], version: Version) -> Vec<u8> {
        let packet_id = (qos != QoS::AtMostOnce).then(|| id(number));
        let mut out = Vec::new();
        Publish { qos, packet_id, topic: "a/b", payload, ..Publish::default() }
            .encode(version, &mut out)
            .unwrap();
        out
    }

    /// A conversation with everything in it, and its answers.
    fn conversation(version: Version) -> (Vec<u8>, Vec<u8>) {
        let mut sent = Vec::new();
        Connect::new(version, "c").encode(&mut sent).unwrap();
        let filters =
            vec![SubscribeFilter::new("a/#", QoS::AtLeastOnce), SubscribeFilter::new("b", QoS::AtMostOnce)];
        Subscribe {
            packet_id: id(9),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters,
        }
        .encode(version, &mut sent)
        .unwrap();
        sent.extend(publish(QoS::AtMostOnce, 0, &[1; 300], version));
        sent.extend(publish(QoS::AtLeastOnce, 258, &vec![2; 20_000], version));
        sent.extend(publish(QoS::ExactlyOnce, 3, b"", version));
        PubAck::new(id(3)).encode_pubrel(version, &mut sent).unwrap();
        sent.extend([0xC0, 0]);
        let answers = match version {
            Version::V5 => vec![
                0x20, 3, 0, 0, 0, 0x90, 5, 0, 9, 0, 1, 0, 0x40, 2, 1, 2, 0x50, 2, 0, 3, 0x70, 2, 0, 3, 0xD0,
                0,
            ],
            _ => {
                vec![0x20, 2, 0, 0, 0x90, 4, 0, 9, 1, 0, 0x40, 2, 1, 2, 0x50, 2, 0, 3, 0x70, 2, 0, 3, 0xD0, 0]
            }
        };
        (sent, answers)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn answers_do_not_depend_on_how_the_bytes_were_split(
            cuts in prop::collection::vec(0_usize..21_000, 0..12),
            early in prop::collection::vec(0_usize..80, 0..20),
            v5: bool,
        ) {
            let (sent, expected) = conversation(if v5 { Version::V5 } else { Version::V3_1_1 });
            let mut cuts: Vec<_> = cuts.into_iter().chain(early).map(|cut| cut.min(sent.len())).collect();
            cuts.sort_unstable();
            cuts.push(sent.len());
            let (mut scanner, mut out, mut received) = (Scanner::new(), Vec::new(), Received::default());
            let mut from = 0;
            for to in cuts {
                prop_assert_eq!(scanner.receive(&sent[from..to], &mut out, &mut received), Ok(Next::Read));
                from = to;
            }
            prop_assert_eq!(out, expected);
            prop_assert_eq!(received, Received { publishes: 3, bytes: sent.len() as u64 });
            prop_assert!(scanner.partial.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), connected: bool) {
            let (mut scanner, mut out, mut received) = (Scanner::new(), Vec::new(), Received::default());
            if connected {
                let (sent, _) = conversation(Version::V3_1_1);
                scanner.receive(&sent, &mut out, &mut received).unwrap();
            }
            let _ = scanner.receive(&bytes, &mut out, &mut received);
        }
    }

    #[test]
    fn a_payload_is_not_kept_until_it_is_complete() {
        let (mut scanner, mut out, mut received) = (Scanner::new(), Vec::new(), Received::default());
        let mut sent = Vec::new();
        Connect::new(Version::V3_1_1, "c").encode(&mut sent).unwrap();
        sent.extend(publish(QoS::AtLeastOnce, 1, &vec![0; 1 << 20], Version::V3_1_1));
        scanner.receive(&sent[..1000], &mut out, &mut received).unwrap();
        assert!(scanner.partial.is_empty());
        assert_eq!(out, [0x20, 2, 0, 0, 0x40, 2, 0, 1]);
    }

    #[test]
    fn who_does_not_speak_mqtt_is_refused() {
        for wrong in [&b"GET / HTTP/1.1\r\n"[..], &[0x30, 3, 0, 1, b'a'], &[0xC0, 0]] {
            let (mut out, mut received) = (Vec::new(), Received::default());
            assert_eq!(Scanner::new().receive(wrong, &mut out, &mut received), Err(Violation), "{wrong:?}");
        }
        let (mut scanner, mut out, mut received) = (Scanner::new(), Vec::new(), Received::default());
        let (sent, _) = conversation(Version::V3_1_1);
        scanner.receive(&sent, &mut out, &mut received).unwrap();
        // A topic that is longer than its packet.
        assert_eq!(scanner.receive(&[0x32, 4, 0, 9, 0, 0], &mut out, &mut received), Err(Violation));
    }

    #[test]
    fn a_disconnect_ends_the_conversation() {
        let (mut scanner, mut out, mut received) = (Scanner::new(), Vec::new(), Received::default());
        let (mut sent, _) = conversation(Version::V3_1_1);
        sent.extend([0xE0, 0]);
        assert_eq!(scanner.receive(&sent, &mut out, &mut received), Ok(Next::Close));
    }
}
