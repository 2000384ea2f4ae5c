//! One simulated device's conversation, without I/O: bytes of the broker in, bytes for the broker out.
//!
//! Times are [`Duration`]s since the start of the run.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::Duration;

use thiserror::Error;
use tidegate_codec::{
    Decoded, Decoder, Disconnect, EncodeError, Limits, Packet, PacketId, PacketType, PubAck, Publish, QoS,
    ReasonCode, Version,
};

use super::payload::Stamp;
use super::plan::{FIRST_PACKET_ID, Part, Plan, Press, Role};
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
    #[error("subscription refused with {0:?}")]
    NotSubscribed(ReasonCode),
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
    /// SUBSCRIBE is sent.
    Subscribing,
    Online,
    Gone,
}

/// One moment, by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Since the start of the run.
    pub(super) now: Duration,
    /// Nanoseconds since 1970, which payloads carry.
    pub(super) wall_clock_ns: u64,
}

/// A message without its last acknowledgement.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    packet_id: PacketId,
    sequence: u64,
    sent_at: Duration,
    /// PUBACK at QoS 1; PUBREC and then PUBCOMP at QoS 2.
    awaits: PacketType,
}

/// A device.
#[derive(Debug)]
pub(super) struct Device {
    number: u32,
    part: Part,
    stage: Stage,
    /// When a storm cut its connection; `None` once it is back.
    cut_at: Option<Duration>,
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

impl Device {
    /// Returns the device at that place of the plan, counted from 0.
    pub(super) fn new(place: u32, plan: &Plan, window: u16) -> Self {
        Self {
            number: plan.first_id + place,
            part: plan.part(place),
            stage: Stage::Waiting,
            cut_at: None,
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

    pub(super) fn is_publisher(&self) -> bool {
        self.part.role == Role::Publisher
    }

    /// How many subscribers each of its messages goes to.
    pub(super) fn hearers(&self) -> u32 {
        self.part.hearers
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
        Moment { now, wall_clock_ns }: Moment,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let packet_id = self.next_packet_id;
        let stamp = Stamp { publisher: self.number, sequence: self.sequence, sent_ns: wall_clock_ns };
        if let Some(notes) = &mut tally.notes {
            notes.sent(self.number, self.sequence);
        }
        press.publish(stamp, self.part.topic, packet_id, out)?;
        let sequence = self.sequence;
        self.sequence += 1;
        self.last_sent_at = now;
        tally.counters.sent += 1;
        tally.counters.expected += u64::from(self.part.hearers);
        let awaits = match press.publishing().qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(PacketType::PubAck),
            QoS::ExactlyOnce => Some(PacketType::PubRec),
        };
        if let Some(awaits) = awaits {
            // With a window below 65,535 an identifier is free again long before its turn comes, unless the broker
            // forgets single messages; it would see the same identifier twice then, and we count it as unacknowledged.
            self.next_packet_id = PacketId::new(packet_id.get().wrapping_add(1)).unwrap_or(FIRST_PACKET_ID);
            self.in_flight.push_back(InFlight { packet_id, sequence, sent_at: now, awaits });
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

    /// A storm takes its connection. It may [`begin`](Self::begin) again.
    pub(super) fn cut(&mut self, now: Duration, tally: &mut Tally) {
        self.abandon(tally);
        self.ping_waits = false;
        self.cut_at = Some(now);
        tally.counters.cut += 1;
    }

    /// Takes what was read, and appends what must be answered.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        plan: &Plan,
        moment: Moment,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let decoder = Decoder::client(self.version, Limits::UNLIMITED);
        if self.partial.is_empty() {
            let taken = self.take_packets(&decoder, bytes, plan, moment, tally, out)?;
            self.partial.extend_from_slice(&bytes[taken..]);
            return Ok(());
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let taken = self.take_packets(&decoder, &joined, plan, moment, tally, out)?;
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
        plan: &Plan,
        moment: Moment,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<usize, Trouble> {
        let mut at = 0;
        while let Decoded::Packet { packet, len } =
            decoder.decode(&bytes[at..]).map_err(|_| Trouble::Malformed)?
        {
            self.handle(&packet, plan, moment, tally, out)?;
            at += len;
        }
        Ok(at)
    }

    fn handle(
        &mut self,
        packet: &Packet<'_>,
        plan: &Plan,
        moment: Moment,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        let now = moment.now;
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
                let took = now.saturating_sub(since);
                if let Some(cut_at) = self.cut_at.take() {
                    tally.counters.back += 1;
                    tally.reconnect.record(took);
                    tally.back.record(now.saturating_sub(cut_at));
                    self.stage = Stage::Online;
                    return Ok(());
                }
                tally.connect.record(took);
                if self.part.role == Role::Subscriber {
                    plan.encode_subscribe(self.part.topic, out)?;
                    self.stage = Stage::Subscribing;
                    return Ok(());
                }
                self.go_online(tally);
                Ok(())
            }
            (Stage::Subscribing, Packet::SubAck(suback)) => match suback.reasons.first() {
                Some(reason) if reason.is_error() => Err(Trouble::NotSubscribed(*reason)),
                _ => {
                    self.go_online(tally);
                    Ok(())
                }
            },
            // A retained message may come before the SUBACK, and is none of ours.
            (Stage::Online | Stage::Subscribing, Packet::Publish(publish)) => {
                self.take_delivery(publish, moment, tally, out)
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

    fn go_online(&mut self, tally: &mut Tally) {
        self.stage = Stage::Online;
        tally.counters.connected += 1;
    }

    /// Counts a message that a subscriber got, and acknowledges it. A retained one was sent before the run.
    fn take_delivery(
        &mut self,
        publish: &Publish<'_>,
        Moment { now, wall_clock_ns }: Moment,
        tally: &mut Tally,
        out: &mut Vec<u8>,
    ) -> Result<(), Trouble> {
        if self.part.role != Role::Subscriber {
            return Err(Trouble::Unexpected(PacketType::Publish));
        }
        if !publish.retain {
            tally.counters.delivered += 1;
            match Stamp::read(publish.payload) {
                Some(stamp) => {
                    tally.deliver.record(Duration::from_nanos(wall_clock_ns.saturating_sub(stamp.sent_ns)));
                }
                None => tally.counters.corrupt += 1,
            }
        }
        match publish.packet_id {
            Some(packet_id) if publish.qos == QoS::AtLeastOnce => {
                self.last_sent_at = now;
                Ok(PubAck::new(packet_id).encode_puback(self.version, out)?)
            }
            // We never subscribe at QoS 2.
            Some(_) => Err(Trouble::Unexpected(PacketType::Publish)),
            None => Ok(()),
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
            if let Some(notes) = &mut tally.notes {
                notes.acknowledged(self.number, waiting.sequence);
            }
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
