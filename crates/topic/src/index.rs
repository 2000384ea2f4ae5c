//! From a hash to the addresses that have it.

use hashbrown::HashTable;

/// Finds the addresses of values by the values' hashes.
///
/// The hash stands beside each address: a lookup touches only values that match in 32 bits, and growth copies eight
/// bytes for each entry without reading the values, which lie all over the memory.
pub(crate) struct Index {
    table: HashTable<Slot>,
}

struct Slot {
    hash: u32,
    address: u32,
}

impl Index {
    pub(crate) const fn new() -> Self {
        Self { table: HashTable::new() }
    }

    /// Returns the address with this hash for which `is_it` holds: different values may have one hash.
    pub(crate) fn find(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let slot = self.table.find(spread(hash), |slot| slot.hash == hash && is_it(slot.address));
        slot.map(|slot| slot.address)
    }

    /// Adds `address`, which is not there yet.
    pub(crate) fn insert(&mut self, hash: u32, address: u32) {
        self.table.insert_unique(spread(hash), Slot { hash, address }, |slot| spread(slot.hash));
    }

    pub(crate) fn remove(&mut self, hash: u32, address: u32) {
        if let Ok(slot) = self.table.find_entry(spread(hash), |slot| slot.address == address) {
            slot.remove();
        }
        if self.table.len() < self.table.capacity() / 8 {
            self.table.shrink_to(2 * self.table.len(), |slot| spread(slot.hash));
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.table.capacity()
    }
}

/// What the table takes for a hash: it picks a bucket by the low bits and pre-selects by the highest seven.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_hashes_keep_their_addresses_apart_and_removal_gives_memory_back() {
        let mut index = Index::new();
        let hash = |address: u32| (address / 3).wrapping_mul(0x9E37_79B9);
        for address in 0..30_000 {
            index.insert(hash(address), address);
        }
        for address in (0..30_000).filter(|address| address % 3 != 1) {
            index.remove(hash(address), address);
        }
        assert_eq!(index.len(), 10_000);
        for address in 0..30_000 {
            let expected = (address % 3 == 1).then_some(address);
            assert_eq!(index.find(hash(address), |found| found == address), expected);
        }
        for address in (0..30_000).filter(|address| address % 3 == 1) {
            index.remove(hash(address), address);
        }
        assert_eq!((index.len(), index.capacity()), (0, 0));
    }
}
