//! Shared subscriptions: each message that matches is for one member of the group.
//!
//! A member that takes a message of QoS 1 or 2 owes it to the group until it acknowledges it. What a member owes when
//! its session ends goes to another. The group does not count acknowledgements for that: it keeps a weak reference to
//! each message, of which the member's session holds the only strong one and drops it with PUBACK, PUBREC, or a full
//! queue.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Instant;

use ahash::RandomState;
use parking_lot::Mutex;
use tidegate_codec::QoS;
use tidegate_session::{Delivery, Identifiers, Message};
use tidegate_store::Commit;

use crate::entry::{Entry, Posted, Reach};
use crate::fanout::Wanted;

/// Members that are asked whether they are online before one that is not gets a message: the bound of what a group
/// whose members are all away can cost a publisher.
const MAX_PROBES: usize = 64;

/// References that a member may have before those to acknowledged messages are looked for.
const MIN_PRUNE: usize = 64;

/// Which member of a group gets a message. Members that are online come first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SharedStrategy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The same, as long as it is there.
    Sticky,
    /// The same for all messages of a publisher, as long as the group is the same.
    HashClientId,
    /// The same for all messages of a topic, as long as the group is the same.
    HashTopic,
}

/// The members of one share name and filter.
pub(crate) struct Group {
    strategy: SharedStrategy,
    hasher: RandomState,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    list: Vec<Member>,
    /// Messages so far, or for [`SharedStrategy::Sticky`] the place of the chosen member.
    turn: usize,
}

struct Member {
    entry: Arc<Entry>,
    wanted: Wanted,
    /// Messages of QoS 1 and 2 that the member got, those among them that it has acknowledged as dead references.
    /// Bounded by what its session may hold, and as many dead ones.
    owed: VecDeque<Weak<Message>>,
    prune_at: usize,
}

/// A message for a group, in a copy that nobody else holds.
pub(crate) struct Share<'a> {
    pub(crate) message: &'a Arc<Message>,
    /// Who published it.
    pub(crate) client_id: &'a str,
    /// The retain flag of the PUBLISH.
    pub(crate) retain: bool,
    /// Whether a member had it before: then its topic is without mountpoint already.
    pub(crate) is_inside: bool,
}

/// What a member that left owes.
#[derive(Default)]
pub(crate) struct Owed {
    /// Messages for other members, in their order.
    pub(crate) messages: Vec<Arc<Message>>,
    /// QoS 2 messages that the member may have seen: they are for nobody else ([MQTT5-4.8.2-5]).
    pub(crate) abandoned: u64,
}

impl Group {
    pub(crate) fn new(strategy: SharedStrategy) -> Self {
        Self { strategy, hasher: RandomState::new(), members: Mutex::default() }
    }

    /// Adds a member, or changes what it wants. Returns whether it is new.
    pub(crate) fn join(&self, entry: &Arc<Entry>, wanted: Wanted) -> bool {
        let mut members = self.members.lock();
        if let Some(member) = members.list.iter_mut().find(|member| Arc::ptr_eq(&member.entry, entry)) {
            member.wanted = wanted;
            return false;
        }
        let owed = VecDeque::new();
        members.list.push(Member { entry: Arc::clone(entry), wanted, owed, prune_at: MIN_PRUNE });
        true
    }

    /// Removes a member, and returns what it owes if it was one.
    ///
    /// `may_have_seen` says that the member has QoS 2 messages on their way, which must not go to another.
    pub(crate) fn leave(&self, entry: &Arc<Entry>, may_have_seen: bool) -> Option<Owed> {
        let member = {
            let mut members = self.members.lock();
            let at = members.list.iter().position(|member| Arc::ptr_eq(&member.entry, entry))?;
            let member = members.list.remove(at);
            // Whoever was next still is; a sticky choice stays with the member that it fell on.
            if self.strategy == SharedStrategy::Sticky && at < members.turn {
                members.turn -= 1;
            }
            member
        };
        let mut owed = Owed::default();
        for message in member.owed.iter().filter_map(Weak::upgrade) {
            let qos = message.qos().min(member.wanted.options.qos);
            if qos == QoS::ExactlyOnce && may_have_seen {
                owed.abandoned += 1;
            } else {
                owed.messages.push(message);
            }
        }
        Some(owed)
    }

    /// Visits the members, as many as a message may ask whether they are online.
    pub(crate) fn for_each_member(&self, mut visit: impl FnMut(&Arc<Entry>, &Wanted)) {
        let members = self.members.lock();
        members.list.iter().take(MAX_PROBES).for_each(|member| visit(&member.entry, &member.wanted));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.lock().list.is_empty()
    }

    /// Hands a message to one member. Returns when it is safe there, or `None` if nobody took it.
    pub(crate) fn deliver(&self, share: &Share<'_>, now: Instant) -> Option<Commit> {
        let mut members = self.members.lock();
        let count = members.list.len();
        if count == 0 {
            return None;
        }
        // All members have one mountpoint, because the filter has.
        let message = if share.is_inside {
            Arc::clone(share.message)
        } else {
            members.list[0].entry.as_seen_inside(share.message)?
        };
        let first = self.choose(&mut members, share) % count;
        let mut try_all = |reach: Reach, probes: usize| {
            (0..probes).map(|offset| (first + offset) % count).find_map(|at| {
                let commit = members.list[at].post(&message, share.retain, reach, now)?;
                if self.strategy == SharedStrategy::Sticky {
                    members.turn = at;
                }
                Some(commit)
            })
        };
        // A member that is online may be too far behind; one that is away queues, as long as its session does.
        try_all(Reach::Online, count.min(MAX_PROBES))
            .or_else(|| try_all(Reach::Anywhere, count.min(MAX_PROBES)))
    }

    fn choose(&self, members: &mut Members, share: &Share<'_>) -> usize {
        match self.strategy {
            SharedStrategy::Sticky => return members.turn,
            SharedStrategy::HashClientId => return self.hasher.hash_one(share.client_id) as usize,
            SharedStrategy::HashTopic => return self.hasher.hash_one(share.message.topic()) as usize,
            SharedStrategy::RoundRobin | SharedStrategy::Random => {}
        }
        let turn = members.turn;
        members.turn = turn.wrapping_add(1);
        match self.strategy {
            // Keyed at random: nobody outside can tell where the next falls.
            SharedStrategy::Random => self.hasher.hash_one(turn) as usize,
            _ => turn,
        }
    }
}

impl Member {
    fn post(&mut self, message: &Arc<Message>, retain: bool, reach: Reach, now: Instant) -> Option<Commit> {
        let options = self.wanted.options;
        let delivery = Delivery {
            message: Arc::clone(message),
            qos: options.qos,
            retain: retain && options.retain_as_published,
            subscription_identifiers: self.wanted.identifier.map_or(Identifiers::None, Identifiers::One),
        };
        let Posted::Taken(commit) = self.entry.deliver(delivery, reach, now) else { return None };
        if message.qos().min(options.qos) > QoS::AtMostOnce {
            self.owe(message);
        }
        Some(commit)
    }

    fn owe(&mut self, message: &Arc<Message>) {
        while self.owed.front().is_some_and(|oldest| oldest.strong_count() == 0) {
            self.owed.pop_front();
        }
        if self.owed.len() >= self.prune_at {
            self.owed.retain(|message| message.strong_count() > 0);
            self.prune_at = MIN_PRUNE.max(2 * self.owed.len());
        }
        self.owed.push_back(Arc::downgrade(message));
    }
}

#[cfg(test)]
mod tests {
    use tidegate_codec::SubscribeOptions;
    use tidegate_store::Volatile;

    use super::*;
    use crate::entry::Mailbox;

    fn member(id: &str) -> Arc<Entry> {
        Arc::new(Entry::online(
            id,
            None,
            Mailbox { messages: 1000, bytes: 1 << 20 },
            Arc::new(Volatile::default()),
        ))
    }

    fn wanted() -> Wanted {
        let options = SubscribeOptions { qos: QoS::ExactlyOnce, ..SubscribeOptions::default() };
        Wanted { options, identifier: None }
    }

    fn deliver(group: &Group, client_id: &str, topic: &str, qos: QoS) {
        let message = Arc::new(Message::new(topic, b"x", qos, false));
        let share = Share { message: &message, client_id, retain: false, is_inside: false };
        assert!(group.deliver(&share, crate::broker::now()).is_some());
    }

    fn counts(members: &[Arc<Entry>]) -> Vec<usize> {
        members.iter().map(|entry| entry.mailbox_len()).collect()
    }

    fn run(strategy: SharedStrategy, messages: impl Iterator<Item = (String, String)>) -> Vec<usize> {
        let group = Group::new(strategy);
        let members = [member("a"), member("b"), member("c")];
        for member in &members {
            assert!(group.join(member, wanted()));
        }
        for (client_id, topic) in messages {
            deliver(&group, &client_id, &topic, QoS::AtMostOnce);
        }
        counts(&members)
    }

    #[test]
    fn each_strategy_chooses_as_it_says() {
        let many = || (0..90).map(|number| (format!("client{number}"), format!("topic{number}")));
        let one_client = || (0..90).map(|number| ("client".to_owned(), format!("topic{number}")));
        let one_topic = || (0..90).map(|number| (format!("client{number}"), "topic".to_owned()));
        assert_eq!(run(SharedStrategy::RoundRobin, many()), [30, 30, 30]);
        assert!(run(SharedStrategy::Random, many()).iter().all(|&count| count > 5));
        assert_eq!(run(SharedStrategy::Sticky, many()), [90, 0, 0]);
        assert!(run(SharedStrategy::HashClientId, one_client()).contains(&90));
        assert!(run(SharedStrategy::HashClientId, many()).iter().all(|&count| count > 5));
        assert!(run(SharedStrategy::HashTopic, one_topic()).contains(&90));
        assert!(run(SharedStrategy::HashTopic, many()).iter().all(|&count| count > 5));
    }

    #[test]
    fn a_sticky_choice_survives_others_that_leave_and_moves_when_its_member_does() {
        let group = Group::new(SharedStrategy::Sticky);
        let members = [member("a"), member("b"), member("c")];
        for member in &members {
            group.join(member, wanted());
        }
        group.leave(&members[0], false).unwrap();
        deliver(&group, "p", "t", QoS::AtMostOnce);
        group.leave(&members[1], false).unwrap();
        deliver(&group, "p", "t", QoS::AtMostOnce);
        assert_eq!(counts(&members), [0, 1, 1]);
        assert!(group.leave(&members[1], false).is_none());
    }

    #[test]
    fn what_a_member_owes_is_what_its_session_still_holds() {
        let group = Group::new(SharedStrategy::RoundRobin);
        let one = member("a");
        group.join(&one, wanted());
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce] {
            deliver(&group, "p", "t", qos);
        }
        one.drop_from_mailbox(1);
        let owed = group.leave(&one, true).unwrap();
        assert_eq!(
            (owed.messages.len(), owed.abandoned),
            (1, 1),
            "one QoS 1 is acknowledged, QoS 2 seen perhaps"
        );
        group.join(&one, wanted());
        deliver(&group, "p", "t", QoS::ExactlyOnce);
        let owed = group.leave(&one, false).unwrap();
        assert_eq!((owed.messages.len(), owed.abandoned), (1, 0));
    }

    #[test]
    fn references_to_acknowledged_messages_do_not_pile_up() {
        let group = Group::new(SharedStrategy::RoundRobin);
        let one = member("a");
        group.join(&one, wanted());
        // The first stays, so that the dead ones stand behind a living one.
        deliver(&group, "p", "t", QoS::AtLeastOnce);
        for _ in 0..1000 {
            deliver(&group, "p", "t", QoS::AtLeastOnce);
            one.drop_from_mailbox(1);
        }
        assert!(group.members.lock().list[0].owed.len() <= MIN_PRUNE);
    }
}
