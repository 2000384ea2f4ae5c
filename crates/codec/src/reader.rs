//! A cursor over the bytes of one packet which refuses instead of running past their end.

use memchr::{memchr, memchr3};

use crate::{Fault, PacketId};

/// Strings below this many bytes go to std at once: simdutf8 hands them there as well, after an indirect call.
const SIMD_BYTES: usize = 64;

/// The four bytes that a variable byte integer has at most.
pub(crate) const VARIABLE_BYTE_INTEGER_BYTES: usize = 4;

#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.position == self.bytes.len()
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Takes the next byte if it is 0: a length of nothing.
    #[inline]
    pub(crate) fn take_zero(&mut self) -> bool {
        let is_zero = self.bytes.get(self.position) == Some(&0);
        self.position += usize::from(is_zero);
        is_zero
    }

    /// Refuses bytes that nothing has read.
    pub(crate) const fn finish(&self) -> Result<(), Fault> {
        match self.remaining() {
            0 => Ok(()),
            bytes => Err(Fault::TrailingBytes { bytes: bytes as u32 }),
        }
    }

    /// Bytes of the whole packet body, read and unread.
    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) const fn position(&self) -> usize {
        self.position
    }

    /// What was read between two positions; empty where they are none.
    pub(crate) fn between(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let (taken, _) = rest.split_at_checked(count).ok_or(Fault::Truncated)?;
        self.position += count;
        Ok(taken)
    }

    pub(crate) fn take_rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        self.position = self.bytes.len();
        rest
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let array = rest.first_chunk::<N>().ok_or(Fault::Truncated)?;
        self.position += N;
        Ok(*array)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer in its shortest form ([MQTT5-1.5.5-1]).
    #[inline]
    pub(crate) fn variable_byte_integer(&mut self) -> Result<u32, Fault> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        match variable_byte_integer(rest)? {
            VariableByteInteger::Complete { minimal: false, .. } => Err(Fault::IntegerNotMinimal),
            VariableByteInteger::Complete { value, bytes, .. } => {
                self.position += bytes;
                Ok(value)
            }
            VariableByteInteger::Incomplete => Err(Fault::Truncated),
        }
    }

    /// A packet identifier, which is not 0 ([MQTT5-2.2.1-3], [MQTT311-2.3.1-1]).
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Fault> {
        PacketId::new(self.u16()?).ok_or(Fault::ZeroPacketId)
    }

    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A string: well-formed UTF-8 without U+0000 ([MQTT5-1.5.4-1], [MQTT5-1.5.4-2]). A byte order mark is a
    /// character like any other ([MQTT5-1.5.4-3]).
    #[inline]
    pub(crate) fn string(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let string = utf8(bytes)?;
        if memchr(0, bytes).is_some() {
            return Err(Fault::NulInString);
        }
        Ok(string)
    }

    /// A string that is a topic name: without wildcards ([MQTT5-3.3.2-2]). It may be empty here.
    #[inline]
    pub(crate) fn topic_name(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let string = utf8(bytes)?;
        match memchr3(0, b'+', b'#', bytes) {
            None => Ok(string),
            // U+0000 is the graver fault, wherever it stands.
            Some(_) if memchr(0, bytes).is_some() => Err(Fault::NulInString),
            Some(_) => Err(Fault::WildcardInTopic),
        }
    }
}

#[inline]
fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.len() < SIMD_BYTES {
        std::str::from_utf8(bytes).map_err(|_| Fault::InvalidUtf8)
    } else {
        simdutf8::basic::from_utf8(bytes).map_err(|_| Fault::InvalidUtf8)
    }
}

/// What the bytes at the place of a variable byte integer hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VariableByteInteger {
    /// The value, how many bytes it took, and whether these were the fewest possible.
    Complete { value: u32, bytes: usize, minimal: bool },
    /// At least one more byte is needed.
    Incomplete,
}

/// Reads a variable byte integer of up to four bytes. The fourth byte with its continuation bit set is refused: a
/// fifth is not waited for.
#[inline]
pub(crate) fn variable_byte_integer(bytes: &[u8]) -> Result<VariableByteInteger, Fault> {
    let mut value = 0_u32;
    for (index, &byte) in bytes.iter().take(VARIABLE_BYTE_INTEGER_BYTES).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            let minimal = byte != 0 || index == 0;
            return Ok(VariableByteInteger::Complete { value, bytes: index + 1, minimal });
        }
    }
    if bytes.len() < VARIABLE_BYTE_INTEGER_BYTES {
        Ok(VariableByteInteger::Incomplete)
    } else {
        Err(Fault::IntegerTooLong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_are_read_at_their_borders() {
        let complete = |value, bytes| Ok(VariableByteInteger::Complete { value, bytes, minimal: true });
        for (bytes, expected) in [
            (&[0x00][..], complete(0, 1)),
            (&[0x7F], complete(127, 1)),
            (&[0x80, 0x01], complete(128, 2)),
            (&[0xFF, 0x7F], complete(16_383, 2)),
            (&[0x80, 0x80, 0x01], complete(16_384, 3)),
            (&[0xFF, 0xFF, 0x7F], complete(2_097_151, 3)),
            (&[0x80, 0x80, 0x80, 0x01], complete(2_097_152, 4)),
            (&[0xFF, 0xFF, 0xFF, 0x7F], complete(268_435_455, 4)),
            (&[], Ok(VariableByteInteger::Incomplete)),
            (&[0xFF, 0xFF, 0xFF], Ok(VariableByteInteger::Incomplete)),
            (&[0xFF, 0xFF, 0xFF, 0xFF], Err(Fault::IntegerTooLong)),
            (&[0x80, 0x80, 0x80, 0x80], Err(Fault::IntegerTooLong)),
            (&[0x80, 0x00], Ok(VariableByteInteger::Complete { value: 0, bytes: 2, minimal: false })),
        ] {
            assert_eq!(variable_byte_integer(bytes), expected, "{bytes:02x?}");
        }
    }
}
