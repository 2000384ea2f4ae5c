//! Mountpoint and client id to session entry, in shards with short locks.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use crate::entry::Entry;
use crate::mount::Mountpoint;

/// Shards of the registry: enough that 32 cores seldom meet at one.
const SHARDS: usize = 64;

/// All sessions of a broker, online or at rest.
pub(crate) struct Registry {
    hasher: RandomState,
    shards: Box<[Mutex<HashTable<Arc<Entry>>>]>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::new(HashTable::new())).collect(),
        }
    }

    /// The entry of `client_id` in that mountpoint, or the one that `make` returns, now registered. The bool says which: `true` is new.
    pub(crate) fn get_or_insert(
        &self,
        client_id: &str,
        mount: Option<&Mountpoint>,
        make: impl FnOnce() -> Arc<Entry>,
    ) -> (Arc<Entry>, bool) {
        let hash = self.hash(client_id, mount);
        let mut shard = self.shard(hash).lock();
        let is_meant = |entry: &Arc<Entry>| *entry.client_id == *client_id && entry.mount.as_ref() == mount;
        if let Some(entry) = shard.find(hash, is_meant) {
            return (Arc::clone(entry), false);
        }
        let entry = make();
        shard.insert_unique(hash, Arc::clone(&entry), |entry| self.hash_of(entry));
        (entry, true)
    }

    /// Puts `new` in the place of `old`, which has the same client id.
    pub(crate) fn replace(&self, old: &Arc<Entry>, new: &Arc<Entry>) {
        let hash = self.hash_of(old);
        let mut shard = self.shard(hash).lock();
        match shard.find_mut(hash, |entry| Arc::ptr_eq(entry, old)) {
            Some(entry) => *entry = Arc::clone(new),
            None => {
                shard.insert_unique(hash, Arc::clone(new), |entry| self.hash_of(entry));
            }
        }
    }

    /// Removes `entry` unless another has taken its place. Returns whether it was there.
    pub(crate) fn remove(&self, entry: &Arc<Entry>) -> bool {
        let hash = self.hash_of(entry);
        let mut shard = self.shard(hash).lock();
        match shard.find_entry(hash, |known| Arc::ptr_eq(known, entry)) {
            Ok(found) => {
                found.remove();
                true
            }
            Err(_) => false,
        }
    }

    /// Visits every entry, one shard's lock at a time.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<Entry>)) {
        for shard in &self.shards {
            shard.lock().iter().for_each(&mut visit);
        }
    }

    /// How many sessions there are.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn hash_of(&self, entry: &Entry) -> u64 {
        self.hash(&entry.client_id, entry.mount.as_ref())
    }

    fn hash(&self, client_id: &str, mount: Option<&Mountpoint>) -> u64 {
        self.hasher.hash_one((client_id, mount.map(Mountpoint::as_str)))
    }

    fn shard(&self, hash: u64) -> &Mutex<HashTable<Arc<Entry>>> {
        // The table itself uses the low bits of the hash for its buckets.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }
}
