//! The subscribers of one filter: usually one, sometimes a few, now and then a hundred thousand.

use std::hash::Hash;
use std::mem;

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Up to so many subscribers are compared one by one.
const FEW: usize = 16;

/// Fewer than so many go back from a table to a list. Below [`FEW`], so that one subscriber who comes and goes does
/// not rebuild the set each time.
const FEW_AGAIN: usize = FEW / 2;

/// A set of subscriber keys with a value each. Insertion and removal cost a constant whatever its size.
pub(crate) enum Subscribers<K, V> {
    One(K, V),
    /// At most [`FEW`]; empty only after the last one was removed.
    Few(Vec<(K, V)>),
    /// Boxed, so that the usual set of one does not pay for the table's header.
    Many(Box<HashTable<(K, V)>>),
}

impl<K: Eq + Hash, V> Subscribers<K, V> {
    /// Stores `value` for `key` and returns the one it replaces.
    pub(crate) fn insert(&mut self, key: K, value: V, hasher: &RandomState) -> Option<V> {
        if let Self::One(only, old) = self {
            if *only == key {
                return Some(mem::replace(old, value));
            }
            let first = mem::replace(self, Self::Few(Vec::new()));
            let mut few = Vec::with_capacity(2);
            if let Self::One(key, value) = first {
                few.push((key, value));
            }
            few.push((key, value));
            *self = Self::Few(few);
            return None;
        }
        if let Self::Few(few) = self {
            if let Some((_, old)) = few.iter_mut().find(|(other, _)| *other == key) {
                return Some(mem::replace(old, value));
            }
            if few.len() < FEW {
                few.push((key, value));
                return None;
            }
            let mut many = HashTable::with_capacity(2 * FEW);
            for member in few.drain(..) {
                many.insert_unique(hasher.hash_one(&member.0), member, |(key, _)| hasher.hash_one(key));
            }
            *self = Self::Many(Box::new(many));
        }
        let Self::Many(many) = self else { unreachable!("one and few have returned or become many") };
        match many.entry(
            hasher.hash_one(&key),
            |(other, _)| *other == key,
            |(other, _)| hasher.hash_one(other),
        ) {
            Entry::Occupied(mut member) => Some(mem::replace(&mut member.get_mut().1, value)),
            Entry::Vacant(place) => {
                place.insert((key, value));
                None
            }
        }
    }

    /// Takes `key` out. Ask [`Subscribers::is_empty`] afterwards: an empty set is to be dropped.
    pub(crate) fn remove(&mut self, key: &K, hasher: &RandomState) -> Option<V> {
        match self {
            Self::One(only, _) if only == key => match mem::replace(self, Self::Few(Vec::new())) {
                Self::One(_, value) => Some(value),
                Self::Few(_) | Self::Many(_) => None,
            },
            Self::One(..) => None,
            Self::Few(few) => {
                let at = few.iter().position(|(other, _)| other == key)?;
                let (_, value) = few.swap_remove(at);
                if few.len() == 1 {
                    let (key, value) = few.remove(0);
                    *self = Self::One(key, value);
                }
                Some(value)
            }
            Self::Many(many) => {
                let member = many.find_entry(hasher.hash_one(key), |(other, _)| other == key).ok()?;
                let ((_, value), _) = member.remove();
                if many.len() < FEW_AGAIN {
                    *self = Self::Few(many.drain().collect());
                } else if many.len() < many.capacity() / 8 {
                    // Iteration walks the whole table, so an emptied one would cost every match as well as memory.
                    many.shrink_to(2 * many.len(), |(other, _)| hasher.hash_one(other));
                }
                Some(value)
            }
        }
    }

    pub(crate) fn get(&self, key: &K, hasher: &RandomState) -> Option<&V> {
        match self {
            Self::One(only, value) => (only == key).then_some(value),
            Self::Few(few) => few.iter().find(|(other, _)| other == key).map(|(_, value)| value),
            Self::Many(many) => {
                many.find(hasher.hash_one(key), |(other, _)| other == key).map(|(_, value)| value)
            }
        }
    }
}

impl<K, V> Subscribers<K, V> {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::One(..) => false,
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    pub(crate) fn for_each<'t>(&'t self, mut visit: impl FnMut(&'t K, &'t V)) {
        match self {
            Self::One(key, value) => visit(key, value),
            Self::Few(few) => few.iter().for_each(|(key, value)| visit(key, value)),
            Self::Many(many) => many.iter().for_each(|(key, value)| visit(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_set_behaves_like_a_map_while_it_grows_and_shrinks(
            steps in prop::collection::vec((any::<bool>(), 0_u8..48, any::<u32>()), 1..300),
        ) {
            let hasher = RandomState::new();
            let mut set = Subscribers::One(0, 0);
            let mut model = HashMap::from([(0, 0)]);
            for (insert, key, value) in steps {
                if insert {
                    prop_assert_eq!(set.insert(key, value, &hasher), model.insert(key, value));
                } else {
                    prop_assert_eq!(set.remove(&key, &hasher), model.remove(&key));
                }
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert_eq!(set.get(&key, &hasher), model.get(&key));
                let mut seen = HashMap::new();
                set.for_each(|key, value| assert!(seen.insert(*key, *value).is_none()));
                prop_assert_eq!(&seen, &model);
            }
        }
    }

    #[test]
    fn a_set_that_was_large_gives_its_memory_back() {
        let hasher = RandomState::new();
        let mut set = Subscribers::One(0, ());
        for key in 1..100_000 {
            set.insert(key, (), &hasher);
        }
        for key in 100..100_000 {
            set.remove(&key, &hasher);
        }
        assert!(matches!(&set, Subscribers::Many(many) if many.capacity() < 1000));
        for key in 1..100 {
            set.remove(&key, &hasher);
        }
        assert!(matches!(set, Subscribers::One(0, ())));
    }
}
