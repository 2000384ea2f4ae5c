//! Bytes to packets: the fixed header, and which packet may come at all.

mod acknowledge;
mod connect;
mod disconnect;
mod properties;
mod publish;
mod subscribe;

pub(crate) use connect::BRIDGE_BIT;

use crate::reader::{Reader, VariableByteInteger, variable_byte_integer};
use crate::{DecodeError, Fault, Packet, PacketType, PubAck, Version};

/// Which side of the connection decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Decodes what clients send.
    Server,
    /// Decodes what servers send.
    Client,
}

/// What a decoder accepts. Sizes are refused from the fixed header alone, before any byte of the body is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of a packet in bytes, with its fixed header, as Maximum Packet Size counts.
    pub max_packet_bytes: u32,
    /// Size of a CONNECT in bytes, with its fixed header: what somebody may send who has not said who they are.
    pub max_connect_bytes: u32,
    /// User properties in one property block.
    pub max_user_properties: u32,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub max_filters: u32,
}

impl Limits {
    /// Whatever the protocol can express. Meant for tools and tests, not for servers.
    pub const UNLIMITED: Self = Self {
        max_packet_bytes: u32::MAX,
        max_connect_bytes: u32::MAX,
        max_user_properties: u32::MAX,
        max_filters: u32::MAX,
    };
}

/// 1 MiB packets, 64 KiB CONNECTs, 100 user properties, 1000 filters.
impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_bytes: 1 << 20,
            max_connect_bytes: 64 << 10,
            max_user_properties: 100,
            max_filters: 1000,
        }
    }
}

/// Decodes the packets of one connection, one at a time, from the start of whatever bytes there are.
///
/// It keeps no bytes and no place: after [`Decoded::Incomplete`] call again with the same bytes and more behind them.
/// The result does not depend on how the bytes were split.
///
/// Where the specifications leave room: Remaining Length in 3.x may be longer than needed (the text does not forbid
/// it), in 5.0 not; 3.1 clients may set DUP on PUBREL, SUBSCRIBE and UNSUBSCRIBE and leave out a user name or
/// password that their flags announce, as the text of 3.1 says; client identifiers of any length pass in all versions.
#[derive(Debug, Clone)]
pub struct Decoder {
    role: Role,
    version: Option<Version>,
    limits: Limits,
}

/// What the bytes at the start of a buffer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole packet.
    Packet {
        /// The packet, which borrows from the buffer.
        packet: Packet<'a>,
        /// How many bytes of the buffer it took.
        len: usize,
    },
    /// The start of a packet.
    Incomplete {
        /// How many more bytes are needed at the least: exactly those that are missing once the fixed header is
        /// there.
        at_least: usize,
    },
}

impl Decoder {
    /// Returns the decoder of a server for a connection on which nothing was received yet: only CONNECT may come
    /// ([MQTT5-3.1.0-1]), until [`set_version`](Self::set_version).
    pub const fn new(limits: Limits) -> Self {
        Self { role: Role::Server, version: None, limits }
    }

    /// Returns the decoder of a client that sent, or will send, CONNECT with that version.
    pub const fn client(version: Version, limits: Limits) -> Self {
        Self { role: Role::Client, version: Some(version), limits }
    }

    /// Tells a server's decoder the version of the CONNECT that it decoded. From now on a CONNECT is refused
    /// ([MQTT5-3.1.0-2]).
    pub const fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Returns the version, as far as it is known.
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Returns whose decoder this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Returns the limits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the packet that `buf` starts with, or how many bytes are missing.
    ///
    /// # Errors
    /// [`DecodeError`] at the earliest byte that shows it: a wrong type or wrong flags from the first byte, a size
    /// above the limit from the fixed header.
    #[inline]
    pub fn decode<'a>(&self, buf: &'a [u8]) -> Result<Decoded<'a>, DecodeError> {
        let Some((&first, after_first)) = buf.split_first() else {
            return Ok(Decoded::Incomplete { at_least: 2 });
        };
        let packet_type = self.packet_type(first)?;
        let refuse = |fault| DecodeError::new(fault, Some(packet_type), self.version);

        let (remaining, length_bytes) = match variable_byte_integer(after_first).map_err(refuse)? {
            VariableByteInteger::Complete { value, bytes, minimal } => {
                if !minimal && self.version == Some(Version::V5) {
                    return Err(refuse(Fault::IntegerNotMinimal));
                }
                (value, bytes)
            }
            VariableByteInteger::Incomplete => return Ok(Decoded::Incomplete { at_least: 1 }),
        };
        let header_bytes = 1 + length_bytes;
        let len = header_bytes + remaining as usize;
        self.check_size(packet_type, remaining, len as u32).map_err(refuse)?;

        let Some(body) = buf.get(header_bytes..len) else {
            return Ok(Decoded::Incomplete { at_least: len - buf.len() });
        };
        let mut body = Reader::new(body);
        let Some(version) = self.version else {
            let packet = Self::connect(&mut body, &self.limits, header_bytes)?;
            return Ok(Decoded::Packet { packet, len });
        };
        // The packets of every message go straight into the result: a packet is 160 bytes, and each `?` on the way
        // would copy them.
        match packet_type {
            PacketType::Publish => {
                match publish::decode(&mut body, first, version, self.role, &self.limits) {
                    Ok(publish) => Ok(Decoded::Packet { packet: Packet::Publish(publish), len }),
                    Err(fault) => Err(refuse(fault)),
                }
            }
            PacketType::PubAck if remaining == 2 => {
                let packet = PubAck::new(body.packet_id().map_err(refuse)?);
                Ok(Decoded::Packet { packet: Packet::PubAck(packet), len })
            }
            _ => {
                let packet = self.body(packet_type, version, &mut body).map_err(refuse)?;
                Ok(Decoded::Packet { packet, len })
            }
        }
    }

    /// Reads the first byte: is this packet expected at all, and are its flags right?
    #[inline]
    fn packet_type(&self, first: u8) -> Result<PacketType, DecodeError> {
        let (number, flags) = (first >> 4, first & 0x0F);
        let packet_type = PacketType::from_u8(number);
        let refuse = |fault| Err(DecodeError::new(fault, packet_type, self.version));
        let Some(packet_type) = packet_type else {
            return refuse(Fault::ReservedPacketType { number });
        };
        let Some(version) = self.version else {
            return match packet_type {
                PacketType::Connect if flags == 0 => Ok(packet_type),
                PacketType::Connect => refuse(Fault::ReservedFlags { flags }),
                _ => refuse(Fault::FirstPacketNotConnect),
            };
        };
        if packet_type == PacketType::Publish {
            return match (flags >> 1) & 0b11 {
                0b11 => refuse(Fault::QoS3),
                0 if flags & 0b1000 != 0 => refuse(Fault::DupWithQoS0),
                _ => Ok(packet_type),
            };
        }
        if let Err(fault) = self.check_direction(packet_type, version) {
            return refuse(fault);
        }
        let required = packet_type.required_flags();
        // In 3.1 a repeated PUBREL, SUBSCRIBE or UNSUBSCRIBE carries DUP.
        let repeated = version == Version::V3_1 && required != 0 && flags == required | 0b1000;
        if flags != required && !repeated {
            return refuse(Fault::ReservedFlags { flags });
        }
        Ok(packet_type)
    }

    fn check_direction(&self, packet_type: PacketType, version: Version) -> Result<(), Fault> {
        use PacketType as P;
        let expected = match packet_type {
            P::Auth if version != Version::V5 => {
                return Err(Fault::ReservedPacketType { number: packet_type as u8 });
            }
            P::Connect if self.role == Role::Server => return Err(Fault::SecondConnect),
            P::Connect | P::Subscribe | P::Unsubscribe | P::PingReq => self.role == Role::Server,
            P::ConnAck | P::SubAck | P::UnsubAck | P::PingResp => self.role == Role::Client,
            P::Disconnect => self.role == Role::Server || version == Version::V5,
            P::Publish | P::PubAck | P::PubRec | P::PubRel | P::PubComp | P::Auth => true,
        };
        if expected { Ok(()) } else { Err(Fault::WrongDirection) }
    }

    /// What the fixed header alone can show: a packet above the limit, or of another size than its type has.
    #[inline]
    fn check_size(&self, packet_type: PacketType, remaining: u32, bytes: u32) -> Result<(), Fault> {
        use PacketType as P;
        let limit = if packet_type == P::Connect {
            self.limits.max_connect_bytes.min(self.limits.max_packet_bytes)
        } else {
            self.limits.max_packet_bytes
        };
        if bytes > limit {
            return Err(Fault::PacketTooLarge { bytes, limit });
        }
        let before_5 = self.version != Some(Version::V5);
        let fixed = match packet_type {
            P::PingReq | P::PingResp => 0,
            P::Disconnect if before_5 => 0,
            P::ConnAck | P::PubAck | P::PubRec | P::PubRel | P::PubComp | P::UnsubAck if before_5 => 2,
            _ => return Ok(()),
        };
        match remaining.checked_sub(fixed) {
            Some(0) => Ok(()),
            Some(bytes) => Err(Fault::TrailingBytes { bytes }),
            None => Err(Fault::Truncated),
        }
    }

    /// Reads everything behind the fixed header, to the last byte.
    fn body<'a>(
        &self,
        packet_type: PacketType,
        version: Version,
        body: &mut Reader<'a>,
    ) -> Result<Packet<'a>, Fault> {
        let limits = &self.limits;
        let packet = match packet_type {
            PacketType::PubAck => Packet::PubAck(acknowledge::decode(body, packet_type, version, limits)?),
            PacketType::PubRec => Packet::PubRec(acknowledge::decode(body, packet_type, version, limits)?),
            PacketType::PubRel => Packet::PubRel(acknowledge::decode(body, packet_type, version, limits)?),
            PacketType::PubComp => Packet::PubComp(acknowledge::decode(body, packet_type, version, limits)?),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Subscribe => Packet::Subscribe(Box::new(subscribe::decode(body, version, limits)?)),
            PacketType::SubAck => Packet::SubAck(Box::new(subscribe::decode_suback(body, version, limits)?)),
            PacketType::Unsubscribe => {
                Packet::Unsubscribe(Box::new(subscribe::decode_unsubscribe(body, version, limits)?))
            }
            PacketType::UnsubAck => {
                Packet::UnsubAck(Box::new(subscribe::decode_unsuback(body, version, limits)?))
            }
            PacketType::ConnAck => Packet::ConnAck(Box::new(connect::decode_connack(body, version, limits)?)),
            PacketType::Disconnect => {
                Packet::Disconnect(disconnect::decode(body, version, self.role, limits)?)
            }
            PacketType::Auth => Packet::Auth(Box::new(disconnect::decode_auth(body, limits)?)),
            // Both were taken care of before.
            PacketType::Publish | PacketType::Connect => return Err(Fault::SecondConnect),
        };
        body.finish()?;
        Ok(packet)
    }

    /// CONNECT, whose faults are answered in the version that it begins with.
    fn connect<'a>(
        body: &mut Reader<'a>,
        limits: &Limits,
        header_bytes: usize,
    ) -> Result<Packet<'a>, DecodeError> {
        let refuse = |version| move |fault| DecodeError::new(fault, Some(PacketType::Connect), version);
        let (version, bridge) = connect::protocol(body).map_err(refuse(None))?;
        let refuse = refuse(Some(version));
        if version == Version::V5 && header_bytes > shortest_header(body.len()) {
            return Err(refuse(Fault::IntegerNotMinimal));
        }
        let connect = connect::decode(body, version, bridge, limits).map_err(refuse)?;
        body.finish().map_err(refuse)?;
        Ok(Packet::Connect(Box::new(connect)))
    }
}

/// Bytes of the shortest fixed header before a body of that many bytes.
const fn shortest_header(body_bytes: usize) -> usize {
    match body_bytes {
        0..=0x7F => 2,
        0x80..=0x3FFF => 3,
        0x4000..=0x1F_FFFF => 4,
        _ => 5,
    }
}
