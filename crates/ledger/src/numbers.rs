//! A set of numbers.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers that costs a bit each where they are dense.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Numbers {
    words: BTreeMap<u64, u64>,
    len: u64,
}

impl Numbers {
    /// Adds a number, and returns whether it was new.
    pub fn insert(&mut self, number: u64) -> bool {
        self.insert_bits(number / 64, 1 << (number % 64)) != 0
    }

    /// Adds all numbers of a range.
    pub fn insert_all(&mut self, numbers: Range<u64>) {
        let mut next = numbers.start;
        while next < numbers.end {
            let word = next / 64;
            let first = next % 64;
            // Of this word: up to its last bit, or up to the range's last number.
            let last = (numbers.end - 1).min(word * 64 + 63) % 64;
            self.insert_bits(word, (u64::MAX << first) & (u64::MAX >> (63 - last)));
            let Some(following) = (word + 1).checked_mul(64) else { return };
            next = following;
        }
    }

    /// Returns whether the number is in the set.
    pub fn contains(&self, number: u64) -> bool {
        self.words.get(&(number / 64)).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// How many numbers there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All numbers, rising.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.words.iter().flat_map(|(&word, &bits)| {
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * 64 + bit)
        })
    }

    /// Returns those of the bits that were new.
    fn insert_bits(&mut self, word: u64, bits: u64) -> u64 {
        let word = self.words.entry(word).or_default();
        let new = bits & !*word;
        *word |= bits;
        self.len += u64::from(new.count_ones());
        new
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_is_the_same_as_its_numbers_one_by_one(
            ranges in prop::collection::vec((0_u64..300, 0_u64..200), 0..8),
            single in prop::collection::vec(0_u64..600, 0..20),
        ) {
            let (mut numbers, mut expected) = (Numbers::default(), BTreeSet::new());
            for (start, len) in ranges {
                numbers.insert_all(start..start + len);
                expected.extend(start..start + len);
            }
            for number in single {
                prop_assert_eq!(numbers.insert(number), expected.insert(number));
            }
            prop_assert_eq!(numbers.iter().collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(numbers.len(), expected.len() as u64);
            prop_assert!((0..700).all(|number| numbers.contains(number) == expected.contains(&number)));
        }
    }

    #[test]
    fn the_largest_numbers_are_numbers_too() {
        let mut numbers = Numbers::default();
        numbers.insert_all(u64::MAX - 70..u64::MAX);
        assert!(numbers.insert(u64::MAX));
        assert_eq!((numbers.len(), numbers.iter().last()), (71, Some(u64::MAX)));
    }
}
