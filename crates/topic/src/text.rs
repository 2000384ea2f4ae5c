//! Short byte strings without an allocation of their own.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// The longest text that is stored inline, in bytes: what makes [`Text`] as large as a `String` (24 bytes).
const INLINE_BYTES: usize = 22;

/// An immutable byte string. Most topic levels and many topics fit inline, which saves an allocation (32 bytes with
/// its header) and, when the tree is larger than the cache, the miss of following a pointer.
pub(crate) enum Text {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Heap(Box<[u8]>),
}

impl Text {
    pub(crate) fn new(text: &[u8]) -> Self {
        if text.len() > INLINE_BYTES {
            return Self::Heap(text.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        Self::Inline { len: text.len() as u8, bytes }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Heap(bytes) => bytes,
        }
    }
}

// Equality and order are those of the bytes, as `Borrow<[u8]>` demands.
impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_every_byte_on_both_sides_of_the_inline_limit() {
        for length in 0..2 * INLINE_BYTES {
            let bytes: Vec<u8> = (0..length).map(|byte| byte as u8).collect();
            let text = Text::new(&bytes);
            assert_eq!(text.as_bytes(), bytes);
            assert_eq!(matches!(text, Text::Inline { .. }), length <= INLINE_BYTES);
        }
    }

    #[test]
    fn a_text_takes_24_bytes_and_an_absent_one_as_well() {
        assert_eq!(size_of::<Text>(), 24);
        assert_eq!(size_of::<Option<Text>>(), 24);
    }
}
