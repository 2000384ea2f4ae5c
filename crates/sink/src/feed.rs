//! What a broker sees of a destination: a feed that takes records and settles their acknowledgements.

use std::task::{Context, Poll};

use crate::{Ack, Outcome, Record, Rejection};

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

    /// Takes a record that its maker could not make whole, such as one whose topic can't be rendered, so that it ends like
    /// one that the destination refuses: rejected, or kept among its dead letters. Otherwise as [`Feed::offer`].
    fn refuse(&self, record: &Record<'_>, ack: Option<Ack>, reason: Rejection) -> Offer {
        let _ = record;
        if let Some(ack) = ack {
            ack.settle(Outcome::Rejected(reason));
        }
        Offer::Taken
    }

    /// Hands over what was offered since the last call. Called once after a turn of offers: what is taken is safe to
    /// sit until then, and a batch may be sealed by it.
    fn flush(&self);

    /// Ready when it is worth to offer again after [`Offer::Full`]. Registers the waker otherwise; whoever waited
    /// longest is woken first.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;
}
