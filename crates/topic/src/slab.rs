//! Values with small numbers for addresses, in blocks that are given back.

/// Slots of a block: as many as a `u64` has bits.
const BLOCK: usize = 64;

/// Owns values and gives each a `u32` for its address until it is removed.
///
/// Values live in blocks of [`BLOCK`] slots. So growing never copies what is there (a `Vec` of a million nodes would
/// copy tens of megabytes while its owner holds a lock), at most one block stands ready beyond the live ones
/// after insertions alone, and a block whose last value goes is freed.
pub(crate) struct Slab<T> {
    blocks: Vec<Block<T>>,
    /// Blocks that have a free slot, each once.
    open: Vec<u32>,
    len: usize,
}

struct Block<T> {
    /// Empty while the block holds nothing.
    slots: Box<[Option<T>]>,
    /// Bit i: slot i holds a value.
    used: u64,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { blocks: Vec::new(), open: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Stores `value` and returns its address.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let number = self.open.last().copied().unwrap_or_else(|| {
            let number = self.blocks.len() as u32;
            assert!(number < u32::MAX / BLOCK as u32, "four billion values do not fit in memory");
            self.blocks.push(Block { slots: Box::default(), used: 0 });
            self.open.push(number);
            number
        });
        let block = &mut self.blocks[number as usize];
        if block.used == 0 {
            block.slots = std::iter::repeat_with(|| None).take(BLOCK).collect();
        }
        let slot = block.used.trailing_ones();
        block.slots[slot as usize] = Some(value);
        block.used |= 1 << slot;
        if block.used == u64::MAX {
            self.open.pop();
        }
        self.len += 1;
        number * BLOCK as u32 + slot
    }

    /// Takes the value at `address` out.
    pub(crate) fn remove(&mut self, address: u32) -> Option<T> {
        let (number, slot) = split(address);
        let block = self.blocks.get_mut(number)?;
        let value = block.slots.get_mut(slot)?.take()?;
        if block.used == u64::MAX {
            self.open.push(number as u32);
        }
        block.used &= !(1 << slot);
        if block.used == 0 {
            block.slots = Box::default();
        }
        self.len -= 1;
        if self.len == 0 {
            *self = Self::new();
        }
        Some(value)
    }

    pub(crate) fn get(&self, address: u32) -> Option<&T> {
        let (number, slot) = split(address);
        self.blocks.get(number)?.slots.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, address: u32) -> Option<&mut T> {
        let (number, slot) = split(address);
        self.blocks.get_mut(number)?.slots.get_mut(slot)?.as_mut()
    }
}

fn split(address: u32) -> (usize, usize) {
    (address as usize / BLOCK, address as usize % BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_true_while_others_come_and_go() {
        let mut slab = Slab::new();
        let addresses: Vec<u32> = (0..1000).map(|value| slab.insert(value)).collect();
        for (value, &address) in addresses.iter().enumerate().filter(|(value, _)| value % 3 != 0) {
            assert_eq!(slab.remove(address), Some(value));
            assert_eq!(slab.remove(address), None);
        }
        let again: Vec<u32> = (1000..1600).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.blocks.len(), 1000_usize.div_ceil(BLOCK), "free slots are used before new blocks");
        for (value, &address) in addresses.iter().enumerate().filter(|(value, _)| value % 3 == 0) {
            assert_eq!(slab.get(address), Some(&value));
        }
        for (value, &address) in (1000..).zip(&again) {
            assert_eq!(slab.get_mut(address).copied(), Some(value));
        }
        assert_eq!(slab.len(), 334 + 600);
    }

    #[test]
    fn an_emptied_block_gives_its_memory_back() {
        let mut slab = Slab::new();
        let addresses: Vec<u32> = (0..10 * BLOCK).map(|value| slab.insert(value)).collect();
        for &address in &addresses[BLOCK..] {
            slab.remove(address);
        }
        assert_eq!(slab.blocks.iter().filter(|block| !block.slots.is_empty()).count(), 1);
        for &address in &addresses[..BLOCK] {
            slab.remove(address);
        }
        assert!(slab.blocks.is_empty());
    }
}
