//! All rules of a broker, and which of them a topic concerns.

use std::collections::HashMap;

use tidegate_topic::{SubscriptionTree, TopicFilter, TopicName};

use crate::event::{EVENT_TOPICS, Event, EventKind};
use crate::rule::Rule;

/// Rules whose matches are collected in one walk of the tree; a larger set is walked once for each so many.
const RULES_A_WALK: usize = 1024;

/// Two rules of a set have one id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two rules have the id \"{id}\"")]
pub struct DuplicateRuleId {
    /// The id.
    pub id: String,
}

/// An immutable set of rules in a fixed order, with an index from topics to rules. Replace it whole to change it.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// The position of every rule under each of its filters.
    index: SubscriptionTree<usize, ()>,
    /// The positions of the rules that listen to each kind of event, by the kind's number.
    listeners: [Vec<usize>; EventKind::ALL.len()],
}

impl RuleSet {
    /// The set of these rules; their positions are those of the list.
    ///
    /// # Errors
    ///
    /// An id that occurs twice.
    pub fn new(rules: Vec<Rule>) -> Result<Self, DuplicateRuleId> {
        let mut index = SubscriptionTree::new();
        let mut listeners: [Vec<usize>; EventKind::ALL.len()] = Default::default();
        let mut seen = HashMap::with_capacity(rules.len());
        for (position, rule) in rules.iter().enumerate() {
            if seen.insert(rule.id(), position).is_some() {
                return Err(DuplicateRuleId { id: rule.id().to_owned() });
            }
            // A compiled rule's filters have been checked, so all of them parse.
            let topics = rule.filters().filter(|filter| !filter.starts_with(EVENT_TOPICS));
            for filter in topics.flat_map(TopicFilter::parse) {
                index.insert(filter, position, ());
            }
            for kind in rule.kinds() {
                listeners[*kind as usize].push(position);
            }
        }
        Ok(Self { rules, index, listeners })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules in their order.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    /// The rule at a position.
    pub fn get(&self, position: usize) -> Option<&Rule> {
        self.rules.get(position)
    }

    /// Whether any rule listens to events of a kind, so that nobody needs to make one otherwise. One look into a
    /// table.
    pub fn listens(&self, kind: EventKind) -> bool {
        self.listeners.get(kind as usize).is_some_and(|listeners| !listeners.is_empty())
    }

    /// Calls `visit` with the position of every rule that FROM makes a reader of the event and the rule, in their
    /// order, each once: of a message by its topic, of anything else by its kind. Allocates nothing.
    pub fn for_each_reader<'s>(&'s self, event: &Event<'_>, mut visit: impl FnMut(usize, &'s Rule)) {
        if event.kind == EventKind::MessagePublish {
            // A text that is no topic name concerns no rule.
            let Ok(topic) = TopicName::parse(event.topic) else { return };
            return self.for_each_match(topic, visit);
        }
        for &position in self.listeners.get(event.kind as usize).into_iter().flatten() {
            visit(position, &self.rules[position]);
        }
    }

    /// Calls `visit` with the position of every rule that reads messages of the topic and the rule, in their order,
    /// each once however many of its filters match. Allocates nothing.
    pub fn for_each_match<'s>(&'s self, topic: TopicName<'_>, mut visit: impl FnMut(usize, &'s Rule)) {
        match self.rules.len() {
            0 => {}
            1..=64 => self.visit_matches::<1>(topic, 0, &mut visit),
            rules => {
                for from in (0..rules).step_by(RULES_A_WALK) {
                    self.visit_matches::<{ RULES_A_WALK / 64 }>(topic, from, &mut visit);
                }
            }
        }
    }

    /// The same for as many rules as `WORDS` words have bits, from the one at `from` on.
    fn visit_matches<'s, const WORDS: usize>(
        &'s self,
        topic: TopicName<'_>,
        from: usize,
        visit: &mut impl FnMut(usize, &'s Rule),
    ) {
        let mut matched = [0_u64; WORDS];
        self.index.for_each_match(topic, |&position, ()| {
            if let Some(bit) = position.checked_sub(from).filter(|&bit| bit < 64 * WORDS) {
                matched[bit / 64] |= 1 << (bit % 64);
            }
        });
        for (word, mut bits) in matched.into_iter().enumerate() {
            while bits != 0 {
                let position = from + word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                visit(position, &self.rules[position]);
            }
        }
    }
}

impl<'s> IntoIterator for &'s RuleSet {
    type Item = &'s Rule;
    type IntoIter = std::slice::Iter<'s, Rule>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
