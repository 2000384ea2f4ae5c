//! Counts loss, phantoms, duplicates and order: what publishers were promised against what a log holds.
//!
//! A publisher numbers its messages, and notes in a [`Ledger`] what it sent and, when the acknowledgement arrives, what it
//! was promised. Afterwards a [`Verifier`] takes every record that was found, and its [`Report`] names the difference.
//! A [`file`](mod@file) carries a ledger from the process that published to the one that verifies.
//!
//! It reads no log and knows no payload: whoever uses it does both, and says who sent which number.
//!
//! ```
//! use tidegate_ledger::{Found, Ledger, Verifier};
//!
//! let mut ledger = Ledger::new();
//! for seq in 0..3 {
//!     ledger.sent("device-1", seq);
//!     ledger.acknowledged("device-1", seq);
//! }
//! let mut verifier: Verifier<String> = Verifier::new(&ledger);
//! for (offset, seq) in [(0, 0), (1, 1), (2, 1)] {
//!     let message = Some(("device-1".to_owned(), seq));
//!     verifier.record(Found { partition: 0, offset, key: None, message });
//! }
//! let report = verifier.finish();
//! assert_eq!((report.loss, report.duplicates), (1, 1));
//! assert_eq!(report.examples, ["duplicate: device-1 1", "lost: device-1 2"]);
//! ```
//!
//! The main types are [`Ledger`], [`Verifier`] with its [`Report`], [`Numbers`] and [`file::Writer`]. There are no
//! features.

pub mod file;
mod numbers;
mod verifier;

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

pub use numbers::Numbers;
pub use verifier::{Found, Report, Verifier};

/// What publishers sent and what was acknowledged to them. `P` names a publisher.
#[derive(Debug, Clone)]
pub struct Ledger<P> {
    publishers: HashMap<P, Entries>,
}

/// What one publisher sent and was promised.
#[derive(Debug, Default, Clone)]
struct Entries {
    sent: Numbers,
    acknowledged: Numbers,
}

impl<P> Default for Ledger<P> {
    fn default() -> Self {
        Self { publishers: HashMap::new() }
    }
}

impl<P: Eq + Hash> Ledger<P> {
    /// Returns an empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a message is about to be sent: before its first byte leaves.
    pub fn sent<Q>(&mut self, publisher: &Q, seq: u64)
    where
        P: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = P> + ?Sized,
    {
        self.entries(publisher).sent.insert(seq);
    }

    /// Notes that the receiver took responsibility for a message: PUBACK, PUBREC or PUBCOMP with success.
    pub fn acknowledged<Q>(&mut self, publisher: &Q, seq: u64)
    where
        P: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = P> + ?Sized,
    {
        self.entries(publisher).acknowledged.insert(seq);
    }

    /// As [`sent`](Self::sent), for many numbers.
    pub fn sent_all<Q>(&mut self, publisher: &Q, numbers: Range<u64>)
    where
        P: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = P> + ?Sized,
    {
        self.entries(publisher).sent.insert_all(numbers);
    }

    /// As [`acknowledged`](Self::acknowledged), for many numbers.
    pub fn acknowledged_all<Q>(&mut self, publisher: &Q, numbers: Range<u64>)
    where
        P: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = P> + ?Sized,
    {
        self.entries(publisher).acknowledged.insert_all(numbers);
    }

    /// How many different messages were sent.
    pub fn sent_count(&self) -> u64 {
        self.publishers.values().map(|entries| entries.sent.len()).sum()
    }

    /// How many different messages were acknowledged.
    pub fn acknowledged_count(&self) -> u64 {
        self.publishers.values().map(|entries| entries.acknowledged.len()).sum()
    }

    /// Takes in another ledger, unless both name the same publisher: returns whether it did.
    pub fn join(&mut self, other: Self) -> bool {
        let distinct = !other.publishers.keys().any(|publisher| self.publishers.contains_key(publisher));
        if distinct {
            self.publishers.extend(other.publishers);
        }
        distinct
    }

    /// How many publishers have sent something or were promised something.
    pub fn publishers(&self) -> usize {
        self.publishers.len()
    }

    fn entries<Q>(&mut self, publisher: &Q) -> &mut Entries
    where
        P: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = P> + ?Sized,
    {
        // Looked up twice for a new publisher only, so that the usual note allocates nothing.
        if !self.publishers.contains_key(publisher) {
            self.publishers.insert(publisher.to_owned(), Entries::default());
        }
        self.publishers.get_mut(publisher).expect("inserted above")
    }
}
