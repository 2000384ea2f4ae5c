//! What a broker sees of a destination: a feed that takes records and settles their acknowledgements.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::task::{Context, Poll};

/// One record on its way to a destination, borrowed from whoever makes it. The feed copies what it keeps, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Destination topic, table, stream: whatever the sink calls it.
    pub topic: &'a str,
    /// Orders records: those with one key keep their order. `None` is no key, which differs from an empty one.
    pub key: Option<&'a [u8]>,
    /// `None` is null (a tombstone in Kafka), which differs from an empty value.
    pub value: Option<&'a [u8]>,
    /// In order; a name may repeat; a value may be null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// An explicit partition instead of the sink's partitioner.
    pub partition: Option<u32>,
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Safe at its destination, as safe as the sink's contract says.
    Delivered,
    /// The destination will never take it, and says so.
    Rejected(Rejection),
    /// Nobody knows, or it is known to be gone. Never acknowledge it.
    Lost,
}

/// Why a destination refused one record for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// Larger than the destination takes.
    TooLarge,
    /// Malformed in the destination's eyes.
    Invalid,
    /// The destination does not allow it, and waiting will not help.
    NotAllowed,
}

/// One settled acknowledgement: the token that the [`Ack`] was made with, and the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// What the receiver gave to [`Ack::new`].
    pub token: u64,
    /// How the record ended.
    pub outcome: Outcome,
}

/// Receives settled acknowledgements. Called from the sink's task, so it must be short and must not wait.
pub trait Settle: Send + Sync + 'static {
    /// Takes what was settled together, in the order in which the records were offered.
    fn settle(&self, settled: &[Settled]);
}

/// The promise that somebody is told how a record ended. It is resolved once; dropping it resolves it as
/// [`Outcome::Lost`], so no path can forget it.
pub struct Ack {
    target: Arc<dyn Settle>,
    token: u64,
}

/// What [`Feed::offer`] did with a record.
#[derive(Debug)]
#[must_use = "a record given back was not taken"]
pub enum Offer {
    /// Taken: the ack will be settled.
    Taken,
    /// No room: nothing was taken, and here is the ack again. Wait with [`Feed::poll_room`] and offer again.
    Full(Option<Ack>),
}

/// What a broker sees of a destination. Shared by all connections.
pub trait Feed: Send + Sync + 'static {
    /// Takes a record, copying it, or gives its ack back when the feed's memory budget is used up. `ack` is `None`
    /// where nobody waits (QoS 0). Never blocks. Records offered by one caller with one key keep their order.
    fn offer(&self, record: &Record<'_>, ack: Option<Ack>) -> Offer;

    /// Hands over what was offered since the last call. Called once after a turn of offers: what is taken is safe to
    /// sit until then, and a batch may be sealed by it.
    fn flush(&self);

    /// Ready when it is worth to offer again after [`Offer::Full`]. Registers the waker otherwise.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Ack {
    /// An ack which tells `target`, with `token`, how its record ended.
    pub fn new(target: Arc<dyn Settle>, token: u64) -> Self {
        Self { target, token }
    }

    /// Settles this ack alone. For a batch use [`settle_all`].
    pub fn settle(self, outcome: Outcome) {
        let this = ManuallyDrop::new(self);
        this.target.settle(&[Settled { token: this.token, outcome }]);
        let _ = this;
    }
}
