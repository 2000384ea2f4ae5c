//! One simulated device's conversation, without I/O: bytes of the broker in, bytes for the broker out.
//!
//! Times are [`Duration`]s since the start of the run.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use thiserror::Error;
use tidegate_codec::{
    Decoded, Decoder, Disconnect, EncodeError, Limits, Packet, PacketId, PacketType, PubAck, QoS, ReasonCode,
    Version,
};

use super::payload::Stamp;
use super::plan::{Plan, Press};
use super::tally::Tally;

/// Why a connection did not come about, or ended.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Socket(ErrorKind),
    #[error("no CONNACK in time")]
    Timeout,
    #[error("refused with {0:?}")]
    Refused(ReasonCode),
    #[error("closed by the broker")]
    Closed,
    #[error("DISCONNECT with {0:?}")]
    Disconnected(ReasonCode),
    #[error("malformed packet")]
    Malformed,
    #[error("unexpected {0:?}")]
    Unexpected(PacketType),
    #[error("no PINGRESP within the keep-alive")]
    Silent,
    #[error("cannot encode: {0}")]
    Encode(#[from] EncodeError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its turn to connect has not come.
    Waiting,
    /// TCP is not there yet; since when.
    Connecting(Duration),
    /// CONNECT is sent; since when the connection was begun.
    Greeting(Duration),
    Online,
    Gone,
}

/// A message without its last acknowledgement.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    packet_id: PacketId,
    sent_at: Duration,
    /// PUBACK at QoS 1; PUBREC and then PUBCOMP at QoS 2.
    awaits: PacketType,
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    number: u32,
    stage: Stage,
    version: Version,
    /// Of this side, lowered to the broker's Receive Maximum.
    window: u16,
    next_packet_id: PacketId,
    sequence: u64,
    in_flight: VecDeque<InFlight>,
    /// The start of a packet whose end was not read yet.
    partial: Vec<u8>,
    last_sent_at: Duration,
    /// Zero when there is none.
    keep_alive: Duration,
    ping_waits: bool,
}

/// The first packet identifier, and the one after the last.
const FIRST_PACKET_ID: PacketId = PacketId(std::num::NonZeroU16::MIN);

impl Device {
    pub(super) fn new(number: u32, plan: &Plan, window: u16) -> Self {
        Self {
            number,
            stage: Stage::Waiting,
            version: plan.version,
            window,
            next_packet_id: FIRST_PACKET_ID,
            sequence: 0,
            in_flight: VecDeque::new(),
            partial: Vec::new(),
            last_sent_at: Duration::ZERO,
            keep_alive: Duration::from_secs(u64::from(plan.keep_alive)),
            ping_waits: false,
        }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn is_online(&self) -> bool {
        self.stage == Stage::Online
    }

    /// How many messages it has sent.
    pub(super) fn sent(&self) -> u64 {
        self.sequence
    }

    /// How many more messages its window takes now.
    pub(super) fn room(&self) -> usize {
        usize::from(self.window).saturating_sub(self.in_flight.len())
    }

    /// When the next PINGREQ is due if nothing is sent before; `None` without a keep-alive. A quarter before the end of
    /// the keep-alive, so that a busy machine doesn't break [MQTT311-3.1.2-23].
    pub(super) fn ping_due(&self) -> Option<Duration> {
        (!self.keep_alive.is_zero()).then(|| self.last_sent_at + self.keep_alive * 3 / 4)
    }

    /// TCP is being connected.
    pub(super) fn begin(&mut self, now: Duration) {
        self.stage = Stage::Connecting(now);
    }

    /// TCP is there: appends CONNECT.
    pub(super) fn greet(&mut self, plan: &Plan, now: Duration, out: &mut Vec<u8>) -> Result<(), Trouble> {
        if let Stage::Connecting(since) = self.stage {
            plan.encode_connect(self.number, out)?;
            self.stage = Stage::Greeting(since);
            self.last_sent_at = now;
        }
        Ok(())
    }

    /// Appends the next message. The caller has looked at [`room`](Self::room).
    pub(super) fn publish(
        &mut self,
        press: &mut Press,
        now: Duration,
        wall_clock_ns: u64,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let packet_id = self.next_packet_id;
        let stamp = Stamp { publisher: self.number, sequence: self.sequence, sent_ns: wall_clock_ns };
        press.publish(stamp, packet_id, out)?;
        self.sequence += 1;
        self.last_sent_at = now;
        tally.counters.sent += 1;
        let awaits = match press.publishing().qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(PacketType::PubAck),
            QoS::ExactlyOnce => Some(PacketType::PubRec),
        };
        if let Some(awaits) = awaits {
            // With a window below 65,535 an identifier is free again long before its turn comes, unless the broker
            // forgets single messages; it would see the same identifier twice then, and we count it as unacknowledged.
            self.next_packet_id = PacketId::new(packet_id.get().wrapping_add(1)).unwrap_or(FIRST_PACKET_ID);
            self.in_flight.push_back(InFlight { packet_id, sent_at: now, awaits });
            tally.counters.in_flight += 1;
        }
        Ok(())
    }

    /// Appends a PINGREQ if it is due.
    pub(super) fn ping(
        &mut self,
        now: Duration,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        if self.ping_due().is_none_or(|due| due > now) {
            return Ok(());
        }
        if std::mem::replace(&mut self.ping_waits, true) {
            return Err(Trouble::Silent);
        }
        Packet::PingReq.encode(self.version, out)?;
        self.last_sent_at = now;
        tally.counters.pings += 1;
        Ok(())
    }

    /// Appends DISCONNECT. What is in flight stays unacknowledged.
    pub(super) fn leave(&mut self, tally: &mut Tally, out: &mut Vec<u8>) -> Result<(), Trouble> {
        self.abandon(tally);
        Ok(Disconnect::new(ReasonCode::Success).encode(self.version, out)?)
    }

    /// The connection is gone: nothing in flight will be acknowledged.
    pub(super) fn abandon(&mut self, tally: &mut Tally) {
        let waiting = self.in_flight.len() as u64;
        tally.counters.in_flight -= waiting;
        tally.counters.unacked += waiting;
        self.in_flight = VecDeque::new();
        self.partial = Vec::new();
        self.stage = Stage::Gone;
    }

    /// Takes what was read, and appends what must be answered.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        now: Duration,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let decoder = Decoder::client(self.version, Limits::UNLIMITED);
        if self.partial.is_empty() {
            let taken = self.take_packets(&decoder, bytes, now, tally, out)?;
            self.partial.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let taken = self.take_packets(&decoder, &joined, now, tally, out)?;
        joined.drain(..taken);
        // A device without half a packet keeps no memory for one.
        if !joined.is_empty() {
            self.partial = joined;
        }
        Ok(())
    }

    /// Handles all whole packets, and returns how many bytes they were.
    fn take_packets(
        &mut self,
        decoder: &Decoder,
        bytes: &[u8],
        now: Duration,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<usize, Trouble> {
        let mut at = 0;
        while let Decoded::Packet { packet, len } =
            decoder.decode(&bytes[at..]).map_err(|_| Trouble::Malformed)?
        {
            self.handle(&packet, now, tally, out)?;
            at += len;
        }
        Ok(at)
    }

    fn handle(
        &mut self,
        packet: &Packet<'_>,
        now: Duration,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        match (self.stage, packet) {
            (Stage::Greeting(since), Packet::ConnAck(connack)) => {
                if connack.reason != ReasonCode::Success {
                    return Err(Trouble::Refused(connack.reason));
                }
                if let Some(maximum) = connack.properties.receive_maximum {
                    self.window = self.window.min(maximum.get());
                }
                if let Some(seconds) = connack.properties.server_keep_alive {
                    self.keep_alive = Duration::from_secs(u64::from(seconds));
                }
                self.stage = Stage::Online;
                tally.counters.connected += 1;
                tally.connect.record(now.saturating_sub(since));
                Ok(())
            }
            (Stage::Online, Packet::PubAck(ack)) => self.settle(ack, PacketType::PubAck, now, tally),
            (Stage::Online, Packet::PubComp(ack)) => self.settle(ack, PacketType::PubComp, now, tally),
            (Stage::Online, Packet::PubRec(ack)) if ack.reason.is_error() => {
                self.settle(ack, PacketType::PubRec, now, tally)
            }
            (Stage::Online, Packet::PubRec(ack)) => {
                let place = self.place(ack.packet_id, PacketType::PubRec)?;
                self.in_flight[place].awaits = PacketType::PubComp;
                self.last_sent_at = now;
                Ok(PubAck::new(ack.packet_id).encode_pubrel(self.version, out)?)
            }
            (Stage::Online, Packet::PingResp) => {
                self.ping_waits = false;
                Ok(())
            }
            (_, Packet::Disconnect(disconnect)) => Err(Trouble::Disconnected(disconnect.reason)),
            (_, packet) => Err(Trouble::Unexpected(packet.packet_type())),
        }
    }

    /// Takes a message out of flight.
    fn settle(
        &mut self,
        ack: &PubAck<'_>,
        packet_type: PacketType,
        now: Duration,
        tally: &mut Tally,
    ) -> Result<(), Trouble> {
        let place = self.place(ack.packet_id, packet_type)?;
        let waiting = self.in_flight.remove(place).expect("the place was found above");
        tally.counters.in_flight -= 1;
        if ack.reason.is_error() {
            tally.counters.rejected += 1;
            tally.count_trouble(format!("message rejected with {:?}", ack.reason));
        } else {
            tally.counters.acked += 1;
            tally.acknowledge.record(now.saturating_sub(waiting.sent_at));
        }
        Ok(())
    }

    /// Returns where the message stands that awaits that acknowledgement. Brokers acknowledge in order
    /// ([MQTT5-4.6.0-2]), so it is nearly always the first; where one doesn't, it is searched for, not punished.
    fn place(&self, packet_id: PacketId, awaits: PacketType) -> Result<usize, Trouble> {
        self.in_flight
            .iter()
            .position(|waiting| waiting.packet_id == packet_id && waiting.awaits == awaits)
            .ok_or(Trouble::Unexpected(awaits))
    }
}
