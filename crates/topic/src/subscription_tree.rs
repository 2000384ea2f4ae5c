//! From a topic name to the subscribers whose filters match it.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::ops::ControlFlow;

use ahash::RandomState;
use arrayvec::ArrayVec;

use crate::index::Index;
use crate::slab::Slab;
use crate::subscribers::Subscribers;
use crate::text::Text;
use crate::{MAX_LEVELS, TopicFilter, TopicName};

/// The address of nothing.
const NONE: u32 = u32::MAX;

/// Subscriptions, found by the topic name of a message.
///
/// `K` names a subscriber and `V` is what its subscription carries (options, identifiers). One subscriber may hold
/// any number of filters; inserting the same filter again replaces the value [MQTT5-3.8.4-3].
///
/// # Structure
///
/// Filters without wildcards, the many, are in one hash table by their whole text. Filters with wildcards form a
/// tree with a node for each level. A node links to its only child, or else its edges are in one hash table for the
/// whole tree: a node costs the same whether its parent has two children or a million, and nothing is allocated to
/// hold a node's children. Hashing is keyed with random keys,
/// as it is devices that choose the strings. What is removed is freed.
///
/// # Costs
///
/// A match allocates nothing, does not recurse, and looks once into the table of whole texts. In the tree it visits
/// only nodes whose path matches the beginning of the topic, and each at most once. With `n` nodes, a topic of `l`
/// levels and at most `p` levels of `+` in any one filter, those are at most
///
/// ```text
/// min(n, (l + 1) * sum of (l choose i) for i in 0..=p)
/// ```
///
/// nodes; the visits to subscribers come on top. So each level of each subscribed filter can cost a publisher one
/// visit (some tens of nanoseconds) and no more, however the filters cross: a server bounds the product of
/// subscriptions and levels. The second bound says how much less it becomes where a server also caps
/// [`TopicFilter::plus_levels`]. Filters that differ in their last level can't share what is above it, so no tree
/// does better in the worst case.
///
/// Insertion and removal cost a constant for each level, and now and then the growth of a table: eight bytes copied
/// for each filter or edge, some 20 ms at a million. The exception is a filter with very many subscribers, whose
/// keys all are hashed again when their table grows. Nothing else that is stored ever moves.
pub struct SubscriptionTree<K, V> {
    hasher: RandomState,
    /// Where the filters without wildcards are, by the hash of their text.
    exact_index: Index,
    exact: Slab<Exact<K, V>>,
    root: Node,
    /// Where the nodes are that are neither `+` nor their parent's [`Node::only`], by parent and level.
    edges: Index,
    nodes: Slab<Node>,
    /// The subscribers of the filters with wildcards.
    sets: Slab<Subscribers<K, V>>,
    subscriptions: usize,
}

struct Exact<K, V> {
    filter: Text,
    subscribers: Subscribers<K, V>,
}

/// A level of filters with wildcards. A last `#` is no node of its own but belongs to its parent level, which it
/// matches too.
struct Node {
    level: Text,
    parent: u32,
    /// How many children are neither `+` nor `#`.
    literals: u32,
    /// The first of those, until there is a second: then both are in the table of edges, and stay there. So where
    /// paths do not branch, a match neither hashes nor searches.
    only: u32,
    /// The child for `+`.
    plus: u32,
    /// The subscribers of the filter that ends here.
    here: u32,
    /// The subscribers of the filter that ends here with `/#`.
    below: u32,
}

/// The root's address: it is never stored in the slab.
const ROOT: u32 = NONE - 1;

impl<K: Eq + Hash, V> SubscriptionTree<K, V> {
    /// Returns an empty tree with random hash keys. Allocates nothing yet.
    pub fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            exact_index: Index::new(),
            exact: Slab::new(),
            root: Node::new(&[], NONE),
            edges: Index::new(),
            nodes: Slab::new(),
            sets: Slab::new(),
            subscriptions: 0,
        }
    }

    /// Subscribes `key` to `filter` and returns the value that this replaces, if it was subscribed.
    pub fn insert(&mut self, filter: TopicFilter<'_>, key: K, value: V) -> Option<V> {
        let old = if filter.has_wildcard() {
            self.insert_wildcard(filter, key, value)
        } else {
            self.insert_exact(filter.as_str().as_bytes(), key, value)
        };
        self.subscriptions += usize::from(old.is_none());
        old
    }

    /// Unsubscribes `key` from `filter` and returns the value, if it was subscribed.
    pub fn remove(&mut self, filter: TopicFilter<'_>, key: &K) -> Option<V> {
        let old = if filter.has_wildcard() {
            self.remove_wildcard(filter, key)
        } else {
            self.remove_exact(filter.as_str().as_bytes(), key)
        };
        self.subscriptions -= usize::from(old.is_some());
        old
    }

    /// Returns the value of the subscription of `key` to exactly `filter`.
    pub fn get(&self, filter: TopicFilter<'_>, key: &K) -> Option<&V> {
        let subscribers = if filter.has_wildcard() {
            let (node, below) = self.find_node(filter)?;
            let node = self.node(node);
            self.sets.get(if below { node.below } else { node.here })?
        } else {
            let address = self.find_exact(filter.as_str().as_bytes())?;
            &self.exact.get(address)?.subscribers
        };
        subscribers.get(key, &self.hasher)
    }

    /// Calls `visit` for each subscription that matches `topic`, in no particular order.
    ///
    /// A subscriber is visited once for each of its filters that match.
    pub fn for_each_match<'t>(&'t self, topic: TopicName<'_>, mut visit: impl FnMut(&'t K, &'t V)) {
        let _: ControlFlow<()> = self.walk(topic, |subscribers| {
            subscribers.for_each(&mut visit);
            ControlFlow::Continue(())
        });
    }

    /// Whether any subscription matches `topic`: stops at the first.
    pub fn has_match(&self, topic: TopicName<'_>) -> bool {
        self.walk(topic, |_| ControlFlow::Break(())).is_break()
    }

    fn insert_exact(&mut self, filter: &[u8], key: K, value: V) -> Option<V> {
        if let Some(exact) = self.find_exact(filter).and_then(|address| self.exact.get_mut(address)) {
            return exact.subscribers.insert(key, value, &self.hasher);
        }
        let subscribers = Subscribers::One(key, value);
        let hash = self.hash_filter(filter);
        let address = self.exact.insert(Exact { filter: Text::new(filter), subscribers });
        self.exact_index.insert(hash, address);
        None
    }

    fn remove_exact(&mut self, filter: &[u8], key: &K) -> Option<V> {
        let address = self.find_exact(filter)?;
        let subscribers = &mut self.exact.get_mut(address)?.subscribers;
        let old = subscribers.remove(key, &self.hasher)?;
        if subscribers.is_empty() {
            self.exact.remove(address);
            let hash = self.hash_filter(filter);
            self.exact_index.remove(hash, address);
        }
        Some(old)
    }

    fn insert_wildcard(&mut self, filter: TopicFilter<'_>, key: K, value: V) -> Option<V> {
        let mut at = ROOT;
        let mut below = false;
        for level in filter.levels() {
            match level {
                "#" => below = true,
                level => at = self.child_or_new(at, level.as_bytes()),
            }
        }
        let node = self.node(at);
        let set = if below { node.below } else { node.here };
        if let Some(subscribers) = self.sets.get_mut(set) {
            return subscribers.insert(key, value, &self.hasher);
        }
        let set = self.sets.insert(Subscribers::One(key, value));
        let node = self.node_mut(at);
        *(if below { &mut node.below } else { &mut node.here }) = set;
        None
    }

    fn remove_wildcard(&mut self, filter: TopicFilter<'_>, key: &K) -> Option<V> {
        let (at, below) = self.find_node(filter)?;
        let node = self.node(at);
        let set = if below { node.below } else { node.here };
        let subscribers = self.sets.get_mut(set)?;
        let old = subscribers.remove(key, &self.hasher)?;
        if subscribers.is_empty() {
            self.sets.remove(set);
            let node = self.node_mut(at);
            *(if below { &mut node.below } else { &mut node.here }) = NONE;
            self.prune(at);
        }
        Some(old)
    }

    /// Removes the node at `at` if nothing needs it, and then its parent, and so on.
    fn prune(&mut self, mut at: u32) {
        while at != ROOT && self.node(at).is_idle() {
            let Some(node) = self.nodes.remove(at) else { return };
            let parent = self.node_mut(node.parent);
            if parent.plus == at {
                parent.plus = NONE;
            } else {
                parent.literals -= 1;
                if parent.only == at {
                    parent.only = NONE;
                } else {
                    let hash = self.hash_edge(node.parent, node.level.as_bytes());
                    self.edges.remove(hash, at);
                }
            }
            at = node.parent;
        }
    }

    fn child_or_new(&mut self, parent: u32, level: &[u8]) -> u32 {
        if let Some(child) = self.child(parent, level) {
            return child;
        }
        let child = self.nodes.insert(Node::new(level, parent));
        let node = self.node_mut(parent);
        if level == b"+" {
            node.plus = child;
            return child;
        }
        node.literals += 1;
        if node.literals == 1 {
            node.only = child;
            return child;
        }
        let first = std::mem::replace(&mut node.only, NONE);
        if first != NONE {
            let hash = self.hash_edge(parent, self.node(first).level.as_bytes());
            self.edges.insert(hash, first);
        }
        let hash = self.hash_edge(parent, level);
        self.edges.insert(hash, child);
        child
    }

    /// The node at which `filter`, one with wildcards, ends, and whether it ends with `#`.
    fn find_node(&self, filter: TopicFilter<'_>) -> Option<(u32, bool)> {
        let mut at = ROOT;
        for level in filter.levels() {
            match level {
                "#" => return Some((at, true)),
                level => at = self.child(at, level.as_bytes())?,
            }
        }
        Some((at, false))
    }

    fn child(&self, parent: u32, level: &[u8]) -> Option<u32> {
        match level {
            b"+" => Some(self.node(parent).plus).filter(|&plus| plus != NONE),
            level => self.literal_child(parent, self.node(parent), level),
        }
    }
}

impl<K, V> SubscriptionTree<K, V> {
    /// How many subscriptions there are: pairs of a filter and a subscriber.
    pub fn len(&self) -> usize {
        self.subscriptions
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    /// How many different filters are subscribed to.
    pub fn filters(&self) -> usize {
        self.exact.len() + self.sets.len()
    }

    /// How many nodes the filters with wildcards take: the bound of what a match can visit.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Visits the subscribers of each filter that matches `topic`, until `visit` breaks.
    fn walk<'t, B>(
        &'t self,
        topic: TopicName<'_>,
        mut visit: impl FnMut(&'t Subscribers<K, V>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let text = topic.as_str().as_bytes();
        if let Some(exact) = self.find_exact(text).and_then(|address| self.exact.get(address)) {
            visit(&exact.subscribers)?;
        }
        if self.sets.len() == 0 {
            return ControlFlow::Continue(());
        }
        // Depth first. Of the two ways on from a node, one is pushed for later and the other is taken at once, so
        // there is at most one entry for each level.
        let mut later = ArrayVec::<(u32, u32), MAX_LEVELS>::new();
        let mut next = Some((ROOT, 0_u32));
        while let Some((address, begin)) = next.take() {
            let node = self.node(address);
            // [MQTT5-4.7.2-1]: a wildcard in the first level does not match what begins with `$`.
            let wildcards = address != ROOT || !topic.is_reserved();
            if wildcards && let Some(subscribers) = self.sets.get(node.below) {
                visit(subscribers)?;
            }
            match text.get(begin as usize..) {
                // The last level lies behind us: `begin` is beyond the separator that is not there.
                None => {
                    if let Some(subscribers) = self.sets.get(node.here) {
                        visit(subscribers)?;
                    }
                }
                Some(_) if node.literals == 0 && node.plus == NONE => {}
                Some(rest) => {
                    let length = memchr::memchr(b'/', rest).unwrap_or(rest.len());
                    let after = begin + length as u32 + 1;
                    next = self.literal_child(address, node, &rest[..length]).map(|child| (child, after));
                    if wildcards && node.plus != NONE {
                        if next.is_none() {
                            next = Some((node.plus, after));
                        } else {
                            later.push((node.plus, after));
                        }
                    }
                }
            }
            next = next.or_else(|| later.pop());
        }
        ControlFlow::Continue(())
    }

    fn find_exact(&self, filter: &[u8]) -> Option<u32> {
        if self.exact.len() == 0 {
            return None;
        }
        self.exact_index.find(self.hash_filter(filter), |address| {
            self.exact.get(address).is_some_and(|exact| exact.filter.as_bytes() == filter)
        })
    }

    fn literal_child(&self, parent: u32, node: &Node, level: &[u8]) -> Option<u32> {
        if node.literals == 0 {
            return None;
        }
        if node.only != NONE {
            return Some(node.only).filter(|&only| self.node(only).level.as_bytes() == level);
        }
        self.edges.find(self.hash_edge(parent, level), |address| {
            let child = self.node(address);
            child.parent == parent && child.level.as_bytes() == level
        })
    }

    fn node(&self, address: u32) -> &Node {
        match address {
            ROOT => &self.root,
            address => self.nodes.get(address).expect("a node outlives every link to it"),
        }
    }

    fn node_mut(&mut self, address: u32) -> &mut Node {
        match address {
            ROOT => &mut self.root,
            address => self.nodes.get_mut(address).expect("a node outlives every link to it"),
        }
    }

    fn hash_filter(&self, filter: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(filter);
        fold(hasher.finish())
    }

    /// The hash of the edge from the node at `parent` to its child for `level`.
    fn hash_edge(&self, parent: u32, level: &[u8]) -> u32 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(parent);
        hasher.write(level);
        fold(hasher.finish())
    }
}

impl<K: Eq + Hash, V> Default for SubscriptionTree<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts, not contents: filters and keys belong to clients, and there may be millions.
impl<K, V> fmt::Debug for SubscriptionTree<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionTree")
            .field("subscriptions", &self.subscriptions)
            .field("filters", &self.filters())
            .field("nodes", &self.nodes())
            .finish_non_exhaustive()
    }
}

impl Node {
    fn new(level: &[u8], parent: u32) -> Self {
        Self { level: Text::new(level), parent, literals: 0, only: NONE, plus: NONE, here: NONE, below: NONE }
    }

    fn is_idle(&self) -> bool {
        self.literals == 0 && self.plus == NONE && self.here == NONE && self.below == NONE
    }
}

fn fold(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_freed() {
        let texts: Vec<String> =
            (0..20_000).map(|id| format!("device/{}/{id}", ["+", "x"][id % 2])).collect();
        let filters = || texts.iter().map(|text| TopicFilter::parse(text).unwrap());
        let mut tree = SubscriptionTree::new();
        for filter in filters() {
            tree.insert(filter, 1, ());
        }
        let (exact, edges) = (tree.exact_index.capacity(), tree.edges.capacity());
        for filter in filters().skip(20) {
            tree.remove(filter, &1);
        }
        // `device`, its `+`, and ten below: only those have siblings.
        assert_eq!((tree.exact_index.len(), tree.edges.len(), tree.nodes.len()), (10, 10, 12));
        assert!(tree.exact_index.capacity() < exact / 8 && tree.edges.capacity() < edges / 8);
        for filter in filters() {
            tree.remove(filter, &1);
        }
        assert_eq!((tree.exact_index.len(), tree.edges.len(), tree.nodes.len()), (0, 0, 0));
        assert_eq!((tree.exact_index.capacity(), tree.edges.capacity()), (0, 0));
        assert!(tree.root.is_idle());
    }

    /// Hashes are kept with 32 bits, so among a million edges some do collide.
    #[test]
    fn a_hash_that_collides_is_no_match() {
        let mut tree = SubscriptionTree::new();
        for text in ["+/a/x", "+/a/y", "+/b/y", "+/b/z", "exact"] {
            tree.insert(TopicFilter::parse(text).unwrap(), 1, ());
        }
        let plus = tree.root.plus;
        let (a, b) = (tree.child(plus, b"a").unwrap(), tree.child(plus, b"b").unwrap());
        let (x, exact) = (tree.child(a, b"x").unwrap(), tree.find_exact(b"exact").unwrap());
        for (parent, level) in [(b, &b"x"[..]), (a, b"z")] {
            let hash = tree.hash_edge(parent, level);
            tree.edges.insert(hash, x);
        }
        let hash = tree.hash_filter(b"other");
        tree.exact_index.insert(hash, exact);

        for (topic, expected) in [("q/a/x", true), ("q/b/x", false), ("q/a/z", false), ("other", false)] {
            assert_eq!(tree.has_match(TopicName::parse(topic).unwrap()), expected, "{topic}");
        }
    }
}
