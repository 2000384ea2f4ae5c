//! CRC-32C of a batch whose records are summed while they are in the cache, before the header in front of them is known.

/// Castagnoli's polynomial, its lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1 in that order.
const ONE: u32 = 1 << 31;
/// `POWERS[n]` is x to the power of 2^n.
const POWERS: [u32; 32] = powers();

/// The checksum of bytes with the checksum `first`, followed by `second_bytes` bytes with the checksum `second`. Takes half a
/// microsecond; that of the crc32c crate makes its matrices anew in each call, which takes thirty.
pub(crate) fn combine(first: u32, second: u32, second_bytes: usize) -> u32 {
    // Bytes that follow multiply what stands before them by x to the power of their bits.
    let mut shifted = first;
    let mut bits = second_bytes as u64 * 8;
    while bits > 0 {
        shifted = multiply(POWERS[bits.trailing_zeros() as usize % POWERS.len()], shifted);
        bits &= bits - 1;
    }
    shifted ^ second
}

/// The product of two polynomials, modulo ours.
const fn multiply(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a & ONE != 0 {
            product ^= b;
        }
        a <<= 1;
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
}

const fn powers() -> [u32; 32] {
    let mut powers = [ONE >> 1; 32];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_have_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|n| (n.wrapping_mul(n) >> 5) as u8).collect();
        for second_bytes in (0..200).chain([255, 256, 4095, 4096, 65_535, 65_536, 69_999, 70_000]) {
            let (first, second) = bytes.split_at(bytes.len() - second_bytes);
            let combined = combine(crc32c::crc32c(first), crc32c::crc32c(second), second_bytes);
            assert_eq!(combined, crc32c::crc32c(&bytes), "{second_bytes} bytes");
        }
    }
}
