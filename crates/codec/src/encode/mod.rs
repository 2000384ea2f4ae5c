//! Packets to bytes: lengths by arithmetic, one reservation, one pass of writing.

mod acknowledge;
mod connect;
mod disconnect;
mod publish;
mod sink;
mod subscribe;

use sink::{Measure, Sink};

use crate::{EncodeError, Packet, PacketType, Version};

/// What the encoder needs to know of a packet.
trait Encode {
    /// Type and flags.
    fn first_byte(&self) -> u8;

    /// Refuses what no packet of that version can say. Lengths are not its matter.
    fn check(&self, version: Version) -> Result<(), EncodeError>;

    /// Names everything after the fixed header, in order: once to be measured, once to be written.
    fn body<S: Sink>(&self, version: Version, sink: &mut S);
}

/// The largest Remaining Length.
const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// Returns Remaining Length.
#[inline]
fn remaining_length(packet: &impl Encode, version: Version) -> Result<usize, EncodeError> {
    let mut measure = Measure::default();
    packet.body(version, &mut measure);
    let bytes = measure.finish()?;
    if bytes > MAX_REMAINING_LENGTH { Err(EncodeError::PacketTooLarge { bytes }) } else { Ok(bytes) }
}

#[inline]
fn encoded_len(packet: &impl Encode, version: Version) -> Result<usize, EncodeError> {
    packet.check(version)?;
    measured_len(packet, version)
}

/// Returns the length of the packet without a look at what it says.
#[inline]
fn measured_len(packet: &impl Encode, version: Version) -> Result<usize, EncodeError> {
    let remaining = remaining_length(packet, version)?;
    Ok(1 + sink::variable_byte_integer_bytes(remaining) + remaining)
}

#[inline]
fn encode(packet: &impl Encode, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    packet.check(version)?;
    let remaining = remaining_length(packet, version)?;
    out.reserve(1 + sink::variable_byte_integer_bytes(remaining) + remaining);
    out.push(packet.first_byte());
    out.variable_byte_integer(remaining as u32);
    packet.body(version, out);
    Ok(())
}

/// Gives a packet its public methods.
macro_rules! encode_methods {
    ($packet:ident) => {
        impl $packet<'_> {
            /// Appends the packet to `out`, which grows once; see [`Packet::encode`](crate::Packet::encode).
            ///
            /// # Errors
            /// [`EncodeError`]; nothing was appended then.
            #[inline]
            pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
                encode(self, version, out)
            }

            /// Returns how many bytes [`encode`](Self::encode) would append.
            ///
            /// # Errors
            /// Those of [`encode`](Self::encode).
            #[inline]
            pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
                encoded_len(self, version)
            }
        }
    };
}

use encode_methods;

impl Packet<'_> {
    /// Appends the packet to `out`, which grows once. What the version does not have is left out. A CONNECT is
    /// written for the version that it names itself.
    ///
    /// Strings are taken as they are: that a topic has no wildcard and no string U+0000 is the caller's to know.
    ///
    /// # Errors
    /// [`EncodeError`]; nothing was appended then.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match self {
            Self::Connect(packet) => packet.encode(out),
            Self::ConnAck(packet) => packet.encode(version, out),
            Self::Publish(packet) => packet.encode(version, out),
            Self::PubAck(packet) => packet.encode_puback(version, out),
            Self::PubRec(packet) => packet.encode_pubrec(version, out),
            Self::PubRel(packet) => packet.encode_pubrel(version, out),
            Self::PubComp(packet) => packet.encode_pubcomp(version, out),
            Self::Subscribe(packet) => packet.encode(version, out),
            Self::SubAck(packet) => packet.encode_suback(version, out),
            Self::Unsubscribe(packet) => packet.encode(version, out),
            Self::UnsubAck(packet) => packet.encode_unsuback(version, out),
            Self::PingReq => {
                out.extend_from_slice(&[PacketType::PingReq.first_byte(), 0]);
                Ok(())
            }
            Self::PingResp => {
                out.extend_from_slice(&[PacketType::PingResp.first_byte(), 0]);
                Ok(())
            }
            Self::Disconnect(packet) => packet.encode(version, out),
            Self::Auth(packet) => packet.encode(version, out),
        }
    }

    /// Returns how many bytes [`encode`](Self::encode) would append.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encoded_len(&self, version: Version) -> Result<usize, EncodeError> {
        match self {
            Self::Connect(packet) => packet.encoded_len(),
            Self::ConnAck(packet) => packet.encoded_len(version),
            Self::Publish(packet) => packet.encoded_len(version),
            Self::PubAck(packet) => packet.encoded_len_as(PacketType::PubAck, version),
            Self::PubRec(packet) => packet.encoded_len_as(PacketType::PubRec, version),
            Self::PubRel(packet) => packet.encoded_len_as(PacketType::PubRel, version),
            Self::PubComp(packet) => packet.encoded_len_as(PacketType::PubComp, version),
            Self::Subscribe(packet) => packet.encoded_len(version),
            Self::SubAck(packet) => packet.encoded_len_suback(version),
            Self::Unsubscribe(packet) => packet.encoded_len(version),
            Self::UnsubAck(packet) => packet.encoded_len_unsuback(version),
            Self::PingReq | Self::PingResp => Ok(2),
            Self::Disconnect(packet) => packet.encoded_len(version),
            Self::Auth(packet) => packet.encoded_len(version),
        }
    }
}
