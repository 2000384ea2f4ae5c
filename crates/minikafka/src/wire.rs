//! The primitives of Kafka's protocol: integers, strings, arrays and tagged fields, in the old and the flexible encoding.
//!
//! Nothing is ever reserved because a peer announced a size: a length is compared with the bytes at hand first.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The peer's bytes are not what the protocol says; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed request: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

type Result<T> = std::result::Result<T, Malformed>;

/// Takes values off the front of a request. `flexible` chooses the compact encodings of KIP-482.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    buf: Bytes,
    flexible: bool,
}

impl Reader {
    pub(crate) fn new(buf: Bytes, flexible: bool) -> Self {
        Self { buf, flexible }
    }

    /// The same bytes, read with the other rule from here on (the header and the body of one request can differ).
    pub(crate) fn with_flexible(mut self, flexible: bool) -> Self {
        self.flexible = flexible;
        self
    }

    pub(crate) fn remaining(&self) -> usize {
        self.buf.len()
    }

    fn need(&self, bytes: usize) -> Result<()> {
        if self.buf.len() < bytes { Err(Malformed("it ends too early")) } else { Ok(()) }
    }

    pub(crate) fn i8(&mut self) -> Result<i8> {
        self.need(1)?;
        Ok(self.buf.get_i8())
    }

    pub(crate) fn bool(&mut self) -> Result<bool> {
        Ok(self.i8()? != 0)
    }

    pub(crate) fn i16(&mut self) -> Result<i16> {
        self.need(2)?;
        Ok(self.buf.get_i16())
    }

    pub(crate) fn i32(&mut self) -> Result<i32> {
        self.need(4)?;
        Ok(self.buf.get_i32())
    }

    pub(crate) fn i64(&mut self) -> Result<i64> {
        self.need(8)?;
        Ok(self.buf.get_i64())
    }

    /// An unsigned varint of at most 32 bits.
    fn unsigned_varint(&mut self) -> Result<u32> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            self.need(1)?;
            let byte = self.buf.get_u8();
            if shift == 28 && byte > 0x0f {
                return Err(Malformed("a varint is longer than 32 bits"));
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a varint is longer than 32 bits"))
    }

    /// A zigzag varint of at most 64 bits, as records use them.
    pub(crate) fn varlong(&mut self) -> Result<i64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            self.need(1)?;
            let byte = self.buf.get_u8();
            if shift == 63 && byte > 1 {
                return Err(Malformed("a varlong is longer than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
            }
        }
        Err(Malformed("a varlong is longer than 64 bits"))
    }

    /// A zigzag varint of at most 32 bits.
    pub(crate) fn varint(&mut self) -> Result<i32> {
        i32::try_from(self.varlong()?).map_err(|_| Malformed("a varint is longer than 32 bits"))
    }

    /// The next `len` bytes, shared with the request.
    pub(crate) fn take(&mut self, len: usize) -> Result<Bytes> {
        self.need(len)?;
        Ok(self.buf.split_to(len))
    }

    /// A length in the encoding at hand, `None` for null, with `fixed` reading the old form.
    fn length(&mut self, fixed: fn(&mut Self) -> Result<i32>) -> Result<Option<usize>> {
        let len =
            if self.flexible { i64::from(self.unsigned_varint()?) - 1 } else { i64::from(fixed(self)?) };
        match len {
            -1 => Ok(None),
            len => usize::try_from(len).map(Some).map_err(|_| Malformed("a length is negative")),
        }
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<String>> {
        let Some(len) = self.length(|r| r.i16().map(i32::from))? else { return Ok(None) };
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Malformed("a string is not UTF-8"))?;
        Ok(Some(text.to_owned()))
    }

    pub(crate) fn string(&mut self) -> Result<String> {
        self.nullable_string()?.ok_or(Malformed("a string is null"))
    }

    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<Bytes>> {
        match self.length(Self::i32)? {
            Some(len) => self.take(len).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes> {
        self.nullable_bytes()?.ok_or(Malformed("a byte string is null"))
    }

    /// Reads an array with `element`; `None` for a null array. It grows as elements arrive, and an element takes at
    /// least a byte, so a false count costs nothing.
    pub(crate) fn nullable_array<T>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(len) = self.length(Self::i32)? else { return Ok(None) };
        self.need(len)?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(element(self)?);
        }
        Ok(Some(items))
    }

    /// As [`Self::nullable_array`], null being an empty one.
    pub(crate) fn array<T>(&mut self, element: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        Ok(self.nullable_array(element)?.unwrap_or_default())
    }

    /// Skips the tagged fields that end every structure of a flexible version. We know none that we need.
    pub(crate) fn tags(&mut self) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let len = self.unsigned_varint()? as usize;
            self.take(len)?;
        }
        Ok(())
    }
}

/// Writes an answer. `flexible` chooses the compact encodings of KIP-482.
#[derive(Debug)]
pub(crate) struct Writer {
    buf: BytesMut,
    flexible: bool,
}

impl Writer {
    pub(crate) fn new(flexible: bool) -> Self {
        Self { buf: BytesMut::with_capacity(128), flexible }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.buf.freeze()
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.buf.put_i8(value);
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.buf.put_i8(i8::from(value));
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.buf.put_i16(value);
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.buf.put_i32(value);
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.buf.put_i64(value);
    }

    pub(crate) fn error(&mut self, code: crate::ErrorCode) {
        self.i16(code.0);
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buf.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.buf.put_u8(value as u8);
    }

    fn compact_length(&mut self, len: Option<usize>) {
        self.unsigned_varint(len.map_or(0, |len| len as u32 + 1));
    }

    pub(crate) fn nullable_string(&mut self, text: Option<&str>) {
        if self.flexible {
            self.compact_length(text.map(str::len));
            self.buf.put_slice(text.unwrap_or_default().as_bytes());
            return;
        }
        // The old form has 15 bits for the length. Every string that we answer with came from a request or is ours.
        let len = text.map_or(-1, |text| i16::try_from(text.len()).unwrap_or(i16::MAX));
        self.i16(len);
        let bytes = text.unwrap_or_default().as_bytes();
        self.buf.put_slice(&bytes[..bytes.len().min(i16::MAX as usize)]);
    }

    pub(crate) fn string(&mut self, text: &str) {
        self.nullable_string(Some(text));
    }

    pub(crate) fn nullable_bytes(&mut self, bytes: Option<&[u8]>) {
        if self.flexible {
            self.compact_length(bytes.map(<[u8]>::len));
        } else {
            self.i32(bytes.map_or(-1, |bytes| length(bytes.len())));
        }
        self.buf.put_slice(bytes.unwrap_or_default());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.nullable_bytes(Some(bytes));
    }

    /// Writes the count of an array; its elements follow.
    pub(crate) fn array_len(&mut self, len: usize) {
        if self.flexible { self.compact_length(Some(len)) } else { self.i32(length(len)) }
    }

    pub(crate) fn null_array(&mut self) {
        if self.flexible { self.compact_length(None) } else { self.i32(-1) }
    }

    /// Writes an array, each element with `element`.
    pub(crate) fn array<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut element: impl FnMut(&mut Self, T),
    ) {
        self.array_len(items.len());
        for item in items {
            element(self, item);
        }
    }

    /// Ends a structure: no tagged fields.
    pub(crate) fn tags(&mut self) {
        if self.flexible {
            self.buf.put_u8(0);
        }
    }
}

/// A length on the wire. Nothing here comes near the limit: an answer is bounded by a few requests' worth of bytes.
pub(crate) fn length(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_read_back_what_was_written() {
        for flexible in [false, true] {
            let mut w = Writer::new(flexible);
            w.string("topic");
            w.nullable_string(None);
            w.bytes(&[7; 300]);
            w.array([1_i32, 2, 3].into_iter(), Writer::i32);
            w.null_array();
            w.tags();
            let mut r = Reader::new(w.into_bytes(), flexible);
            assert_eq!(r.string().unwrap(), "topic");
            assert_eq!(r.nullable_string().unwrap(), None);
            assert_eq!(r.bytes().unwrap(), vec![7; 300]);
            assert_eq!(r.array(Reader::i32).unwrap(), [1, 2, 3]);
            assert_eq!(r.nullable_array(Reader::i32).unwrap(), None);
            r.tags().unwrap();
            assert_eq!(r.remaining(), 0);
        }
    }

    #[test]
    fn an_announced_count_beyond_the_request_is_refused_before_anything_is_reserved() {
        let mut r = Reader::new(Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 1]), false);
        assert!(r.array(Reader::i8).is_err());
        let mut r = Reader::new(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1]), true);
        assert!(r.bytes().is_err());
    }

    #[test]
    fn varlongs_are_zigzag_and_bounded() {
        for (bytes, value) in [(&[0_u8][..], 0_i64), (&[1], -1), (&[2], 1), (&[0xfe, 0x01], 127)] {
            assert_eq!(Reader::new(Bytes::copy_from_slice(bytes), true).varlong().unwrap(), value);
        }
        assert!(Reader::new(Bytes::from_static(&[0xff; 11]), true).varlong().is_err());
    }
}
