//! Sessions and retained messages that survive a restart.

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
pub use store::{Commit, Failed, SessionKey, Status, Store, Volatile, Waiting};
