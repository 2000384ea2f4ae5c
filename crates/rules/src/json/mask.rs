//! Sixty-four bytes of JSON at once: which of them are quotes, backslashes, brackets or control characters.
//!
//! The one place of the crate with unsafe code: a single call, which promises that the processor has SSE2. It is
//! compiled only where it always does. With the portable form, which every other processor takes and the tests hold it
//! to, a condition on one field of a 1 KiB message takes 1.7 times as long.

/// A bit for each byte of a block, the lowest for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) quotes: u64,
    pub(super) backslashes: u64,
    /// `{` and `[`
    pub(super) opens: u64,
    /// `}` and `]`
    pub(super) closes: u64,
    /// Below the space.
    pub(super) controls: u64,
}

pub(super) const BLOCK_BYTES: usize = 64;

#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[expect(unsafe_code, reason = "the call promises SSE2, and this is compiled only for targets that have it")]
pub(super) fn masks(block: &[u8; BLOCK_BYTES]) -> Masks {
    // SAFETY: the function's only requirement is SSE2, which `cfg(target_feature)` above makes sure of at compile time.
    unsafe { sse2(block) }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
pub(super) fn masks(block: &[u8; BLOCK_BYTES]) -> Masks {
    portable(block)
}

/// The four quarters of a block, each with one comparison for a class of bytes. Loading through two integers needs no
/// pointer; the compiler makes one load of it.
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
#[target_feature(enable = "sse2")]
fn sse2(block: &[u8; BLOCK_BYTES]) -> Masks {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let splat = |byte: u8| _mm_set1_epi8(byte.cast_signed());
    let (quote, backslash, case, open, close, control) =
        (splat(b'"'), splat(b'\\'), splat(0x20), splat(b'{'), splat(b'}'), splat(0x1F));
    let bits = |equal: __m128i| u64::from(_mm_movemask_epi8(equal).cast_unsigned());
    let mut masks = Masks { quotes: 0, backslashes: 0, opens: 0, closes: 0, controls: 0 };
    for (quarter, bytes) in block.as_chunks::<16>().0.iter().enumerate() {
        let (low, high) = bytes.split_at(8);
        let half = |half: &[u8]| i64::from_le_bytes(half.try_into().expect("it is half of 16 bytes"));
        let bytes = _mm_set_epi64x(half(high), half(low));
        // The square brackets differ from the curly ones in this bit alone.
        let folded = _mm_or_si128(bytes, case);
        let at = quarter * 16;
        masks.quotes |= bits(_mm_cmpeq_epi8(bytes, quote)) << at;
        masks.backslashes |= bits(_mm_cmpeq_epi8(bytes, backslash)) << at;
        masks.opens |= bits(_mm_cmpeq_epi8(folded, open)) << at;
        masks.closes |= bits(_mm_cmpeq_epi8(folded, close)) << at;
        masks.controls |= bits(_mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes)) << at;
    }
    masks
}

/// The same, eight bytes at a time.
#[cfg(any(test, not(all(target_arch = "x86_64", target_feature = "sse2"))))]
fn portable(block: &[u8; BLOCK_BYTES]) -> Masks {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const LOWS: u64 = ONES * 0x7F;
    // The highest bit of each byte that is zero, and of no other.
    let zeros = |word: u64| !(((word & LOWS) + LOWS) | word | LOWS);
    // Those bits side by side.
    let bits = |highest: u64| (highest >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let equal = |word: u64, byte: u8| bits(zeros(word ^ (ONES * u64::from(byte))));
    let mut masks = Masks { quotes: 0, backslashes: 0, opens: 0, closes: 0, controls: 0 };
    for (eighth, bytes) in block.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        let folded = word | (ONES * 0x20);
        let at = eighth * 8;
        masks.quotes |= equal(word, b'"') << at;
        masks.backslashes |= equal(word, b'\\') << at;
        masks.opens |= equal(folded, b'{') << at;
        masks.closes |= equal(folded, b'}') << at;
        masks.controls |= equal(word & (ONES * 0xE0), 0) << at;
    }
    masks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BLOCK_BYTES, Masks, masks, portable};

    fn one_by_one(block: &[u8; BLOCK_BYTES]) -> Masks {
        let of = |wanted: fn(u8) -> bool| {
            block.iter().enumerate().fold(0, |bits, (at, byte)| bits | u64::from(wanted(*byte)) << at)
        };
        Masks {
            quotes: of(|b| b == b'"'),
            backslashes: of(|b| b == b'\\'),
            opens: of(|b| b == b'{' || b == b'['),
            closes: of(|b| b == b'}' || b == b']'),
            controls: of(|b| b < b' '),
        }
    }

    #[test]
    fn every_byte_is_classified_at_every_place() {
        for byte in 0..=u8::MAX {
            for at in 0..BLOCK_BYTES {
                for around in [b' ', 0, b'"', 0xFF] {
                    let mut block = [around; BLOCK_BYTES];
                    block[at] = byte;
                    assert_eq!(masks(&block), one_by_one(&block), "{byte} at {at} among {around}");
                    assert_eq!(portable(&block), one_by_one(&block), "{byte} at {at} among {around}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn blocks_of_any_bytes_are_classified_as_one_by_one(block in prop::array::uniform32(any::<[u8; 2]>())) {
            let block: [u8; BLOCK_BYTES] = block.concat().try_into().expect("there are 64 bytes");
            prop_assert_eq!(masks(&block), one_by_one(&block));
            prop_assert_eq!(portable(&block), one_by_one(&block));
        }
    }
}
