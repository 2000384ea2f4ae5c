//! Keeps sessions and retained messages on disk before anything is promised because of them, and gives them back after
//! a restart. Sessions tell their [`Change`](tidegate_session::Change)s, connections wait for a [`Commit`], and one
//! thread writes whatever gathered meanwhile with one sync.
//!
//! It is not a database: nothing is looked up in it, because all that it keeps is in memory anyway, with the sessions.
//! It does not keep messages on their way to Kafka, and it does not know what a connection is.
//!
//! ```
//! use std::sync::Arc;
//! use tidegate_codec::{Connect, Version};
//! use tidegate_session::{Limits, Session, SessionState, Welcome};
//! use tidegate_store::{Journal, Options, Store};
//!
//! let directory = std::env::temp_dir().join(format!("tidegate-store-example-{}", std::process::id()));
//! let limits = Arc::new(Limits { record_changes: true, ..Limits::default() });
//!
//! let (store, _) = Journal::open(Options::new(&directory))?;
//! let mut connect = Connect::new(Version::V3_1_1, "pump-7");
//! connect.clean_start = false;
//! let mut session = Session::new("pump-7", Arc::clone(&limits));
//! let (key, mut changes, mut out) = (store.new_session(), Vec::new(), Vec::new());
//! let welcome = Welcome::new(SessionState::New);
//! session.connect(&connect, welcome, std::time::Instant::now(), &mut out);
//! session.take_changes(&mut changes);
//! let commit = store.append(key, &mut changes);
//! // A connection would send `out`, the CONNACK, when `store.poll_committed(commit, ..)` is ready.
//! assert!(commit > store.committed() || store.committed() >= commit);
//! store.close()?;
//!
//! let (_store, recovered) = Journal::open(Options::new(&directory))?;
//! let (_key, stored) = recovered.sessions.into_iter().next().expect("it was kept");
//! let (session, _farewell) = Session::restore(stored, limits);
//! assert_eq!(session.client_id(), "pump-7");
//! # std::fs::remove_dir_all(directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The main types:
//!
//! - [`Store`] is what a broker holds: [`Journal`] keeps, [`Volatile`] does not;
//! - [`SessionKey`] names a session, [`Commit`] a batch, [`Waiting`] a task that waits for one;
//! - [`Options`] are the operator's, [`Recovered`] is what a start finds, [`Repair`] what was wrong with it;
//! - [`Disk`] and [`Clock`] are the world, for tests that take it away.
//!
//! There are no cargo features.
//!
//! # The contract
//!
//! What is committed survives SIGKILL at any moment, and with [`Durability::Fsync`] the loss of power. A batch is kept
//! as a whole or not at all, and batches in their order. After a failed sync nothing is committed any more, because
//! nobody knows what a second one would mean; a full disk holds everything up, and it goes on when there is room.
//!
//! When the power goes in the middle of a write, its beginning is cut off at the next start. Bytes that are not what
//! was written are found by their checksum wherever they are, told in [`Repair`], and set aside or refused as
//! [`OnDamage`] says. A newer format is refused, and so is a second process.
//!
//! What is not promised: a QoS 2 message that reached subscribers but was not yet acknowledged when the process ended
//! is repeated by its client, is a new one, and reaches them again.
//!
//! # Why a log of our own
//!
//! Weighed were fjall 3.1 (a log-structured merge tree), redb 4.5 (copy-on-write B-trees), and a log. Both are well
//! kept, and both are the right answer where data is larger than memory. Here nothing is read back before a restart,
//! and then everything is, so what an engine is for would be paid and not used.
//!
//! - **What is lost without a word.** An engine has to tell a torn tail from damage in the middle: the first was never
//!   promised, the second was. fjall's recovery takes both for the end of the journal and drops what follows (a strict
//!   mode is an open wish in its tracker), and until the summer of 2026 a failed write of its journal could be followed
//!   by a commit that succeeded and was gone after a restart. redb verifies its checksums when it repairs a file after
//!   a crash, and opens it as a whole or not at all.
//! - **Failing disks can be tested.** Here the file layer is two traits with ten short methods, and the tests take the
//!   power away between any two calls.
//! - **Cost.** Measured side by side on the machine of the table below; see there.
//!
//! What speaks for an engine is that others find its bugs. So this one is small: a frame, a reader that skips what it
//! can't trust, and one way to write, which cleaning uses as well.
//!
//! # How it works
//!
//! Segments of frames with a checksum, one frame for each batch (`frame.rs`). A frame holds records (`record.rs`):
//! changes of sessions, and messages under numbers, so that a message for a thousand sessions stands there once and is
//! over with its last reference. The writer applies each record to a mirror (`mirror.rs`) of all that is still needed;
//! when the files hold more than twice as much, batches carry along what is needed of the oldest segment until it can
//! be removed (`log.rs`). The start reads everything (`recovery.rs`). The mirror shares the messages with the sessions;
//! beside them it takes about 60 bytes for each message that waits, and 250 and the filters for each session.
//!
//! # What it costs
//!
//! Messages of 1 KiB, each sent to a session and acknowledged by it, so many at a time and then a sync; two cores of a
//! shared virtual machine with ext4, whose sync took between 0.5 and 6 ms while this was measured, in the same minutes
//! for all three. fjall and redb did an insert and a removal in place of the two changes.
//!
//! | at a time | this log | fjall | redb |
//! |---|---|---|---|
//! | 100 | 9,800 messages a second | 8,000 | 10,400 |
//! | 1,000 | 59,000 | 25,000-51,000 | 26,000-46,000 |
//! | 10,000 | 119,000 | 53,000-72,000 | 41,000 |
//! | CPU for a change, at 1,000 | 1.2 us | 2.9 us | 3.1-3.5 us |
//! | bytes written for a byte of payload | 1.04 | 1.1-1.2 | 2.0-2.2 |
//!
//! A start with 100,000 sessions takes 0.6-0.8 s, with 1,000,000 messages of 200 bytes that wait for them 4 s.
//! `cargo run --release -p tidegate-store --example measure` measures the first column and the starts.

mod clock;
mod disk;
mod fields;
mod frame;
mod journal;
mod kept;
mod log;
mod messages;
mod mirror;
mod options;
mod record;
mod recovery;
mod store;

pub use clock::{Clock, SystemClock};
pub use disk::{Disk, DiskFile};
pub use journal::Journal;
pub use options::{Damage, Durability, OnDamage, OpenError, Options, Repair};
pub use recovery::Recovered;
pub use store::{Commit, Failed, SessionKey, Status, Store, Together, Volatile, Waiting};
