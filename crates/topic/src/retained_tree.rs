//! From a topic filter to the values of the topics that it matches.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, ControlFlow};

use crate::text::Text;
use crate::{TopicFilter, TopicName};

/// What stands between levels in a stored topic, instead of `/`. No topic contains it [MQTT5-4.7.3-2] and no byte is
/// less, so that in the order of bytes a topic is followed by everything below it before its next sibling.
const SEPARATOR: u8 = 0;

/// Lookups of topics up to this length, in bytes, allocate nothing.
const STACK_BYTES: usize = 256;

/// One value for each topic, found by topic or by filter.
///
/// # Structure
///
/// An ordered map in which the topics below a level are neighbours. A filter is answered by running along the order
/// and leaping over what can't match: `plant/+/state` seeks `plant/`, and in every subtree its `state`. Because the
/// order does not depend on what is there, a [`Cursor`] is one topic: it remains valid whatever is inserted and
/// removed between two pages, and holds nothing of the tree.
///
/// # Costs
///
/// `get`, `insert` and `remove` compare O(log n) topics. A walk takes a *step* for each topic that it looks at:
/// one for each match, and one for each leap (a topic that does not match is looked at only where a leap lands). In the worst case,
/// a filter such as `+/+/x` where no topic ends so, every topic is a step; [`RetainedTree::page`] bounds the steps,
/// not the matches, so that a caller knows how long it keeps a lock.
pub struct RetainedTree<V> {
    topics: BTreeMap<Text, V>,
}

/// Where a walk in pages goes on. Starts at the beginning, and belongs to one filter or to one sweep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The stored form of the first topic not yet looked at, or of less.
    from: Vec<u8>,
    done: bool,
}

impl Cursor {
    /// Returns a cursor at the beginning.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Whether a walk in pages has more before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Call again with the same cursor.
    More,
    /// Every topic was looked at.
    Done,
}

/// Why a walk ended.
enum Walk<B> {
    Done,
    OutOfSteps,
    Broken(B),
}

impl<V> RetainedTree<V> {
    /// Returns an empty tree. Allocates nothing yet.
    pub const fn new() -> Self {
        Self { topics: BTreeMap::new() }
    }

    /// Stores `value` for `topic` and returns the one it replaces.
    pub fn insert(&mut self, topic: TopicName<'_>, value: V) -> Option<V> {
        let key = with_stored(topic, Text::new);
        self.topics.insert(key, value)
    }

    /// Takes the value of `topic` out.
    pub fn remove(&mut self, topic: TopicName<'_>) -> Option<V> {
        with_stored(topic, |key| self.topics.remove(key))
    }

    /// Returns the value of `topic`.
    pub fn get(&self, topic: TopicName<'_>) -> Option<&V> {
        with_stored(topic, |key| self.topics.get(key))
    }

    /// How many topics have a value.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no topic has a value.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Calls `visit` for each topic that matches `filter`, until it breaks. All at once: where there may be many
    /// topics and others wait, use [`RetainedTree::page`].
    pub fn for_each_match<B>(
        &self,
        filter: TopicFilter<'_>,
        visit: impl FnMut(TopicName<'_>, &V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self.walk(filter, &mut Cursor::new(), usize::MAX, visit) {
            Walk::Done | Walk::OutOfSteps => ControlFlow::Continue(()),
            Walk::Broken(value) => ControlFlow::Break(value),
        }
    }

    /// Calls `visit` for the next topics that match `filter`, in at most `max_steps` steps (0 counts as 1). If
    /// `visit` breaks, the page ends after the topic that it was given, and the next goes on behind it.
    ///
    /// A topic that has a value from the first page to the last is visited exactly once. One that is inserted or
    /// removed meanwhile is visited at most once.
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use tidegate_topic::{Cursor, Progress, RetainedTree, TopicFilter, TopicName};
    /// let mut tree = RetainedTree::new();
    /// for topic in ["a", "a/b", "a/c", "b"] {
    ///     tree.insert(TopicName::parse(topic)?, topic.len());
    /// }
    /// let filter = TopicFilter::parse("a/#")?;
    /// let mut cursor = Cursor::new();
    /// let mut seen = Vec::new();
    /// loop {
    ///     // Take the lock here.
    ///     let progress = tree.page(filter, &mut cursor, 2, |topic, _| {
    ///         seen.push(topic.to_string());
    ///         ControlFlow::Continue(())
    ///     });
    ///     // Release it, and send what was seen.
    ///     if progress == Progress::Done {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(seen, ["a", "a/b", "a/c"]);
    /// # Ok::<(), tidegate_topic::TopicError>(())
    /// ```
    pub fn page(
        &self,
        filter: TopicFilter<'_>,
        cursor: &mut Cursor,
        max_steps: usize,
        visit: impl FnMut(TopicName<'_>, &V) -> ControlFlow<()>,
    ) -> Progress {
        match self.walk(filter, cursor, max_steps.max(1), visit) {
            Walk::Done => Progress::Done,
            Walk::OutOfSteps | Walk::Broken(()) => Progress::More,
        }
    }

    /// Removes each topic for which `keep` returns false. All at once; [`RetainedTree::sweep`] is the bounded way.
    pub fn retain(&mut self, mut keep: impl FnMut(TopicName<'_>, &mut V) -> bool) {
        let mut scratch = Vec::new();
        self.topics.retain(|key, value| keep(restored(key, &mut scratch), value));
    }

    /// Looks at the next `max_topics` topics (0 counts as 1) and removes each for which `keep` returns false. After
    /// the last topic the cursor stands at the beginning again.
    pub fn sweep(
        &mut self,
        cursor: &mut Cursor,
        max_topics: usize,
        mut keep: impl FnMut(TopicName<'_>, &mut V) -> bool,
    ) -> Progress {
        let from = std::mem::take(cursor).from;
        let mut scratch = Vec::new();
        let mut drop_it = |key: &Text, value: &mut V| !keep(restored(key, &mut scratch), value);
        let end = self.topics.range::<[u8], _>(at_least(&from)).nth(max_topics.max(1));
        if let Some((end, _)) = end {
            let end = end.as_bytes().to_vec();
            let range = (Bound::Included(Text::new(&from)), Bound::Excluded(Text::new(&end)));
            self.topics.extract_if(range, &mut drop_it).for_each(drop);
            cursor.from = end;
            Progress::More
        } else {
            let range = (Bound::Included(Text::new(&from)), Bound::Unbounded);
            self.topics.extract_if(range, &mut drop_it).for_each(drop);
            Progress::Done
        }
    }

    fn walk<B>(
        &self,
        filter: TopicFilter<'_>,
        cursor: &mut Cursor,
        max_steps: usize,
        mut visit: impl FnMut(TopicName<'_>, &V) -> ControlFlow<B>,
    ) -> Walk<B> {
        if cursor.done {
            return Walk::Done;
        }
        let mut scratch = Vec::new();
        let mut seek = Vec::new();
        let mut steps = 0;
        let mut range = self.topics.range::<[u8], _>(at_least(&cursor.from));
        while let Some((key, value)) = range.next() {
            if steps == max_steps {
                cursor.from.clear();
                cursor.from.extend_from_slice(key.as_bytes());
                return Walk::OutOfSteps;
            }
            steps += 1;
            match compare(filter, key.as_bytes(), &mut seek) {
                Verdict::Match => {
                    if let ControlFlow::Break(value) = visit(restored(key, &mut scratch), value) {
                        cursor.from.clear();
                        cursor.from.extend_from_slice(key.as_bytes());
                        // The least that is greater.
                        cursor.from.push(SEPARATOR);
                        return Walk::Broken(value);
                    }
                }
                Verdict::Seek => {
                    // Often the goal is the neighbour, and a search from the root would be for nothing.
                    let neighbour = range.clone().next();
                    if neighbour.is_some_and(|(key, _)| key.as_bytes() < seek.as_slice()) {
                        range = self.topics.range::<[u8], _>(at_least(&seek));
                    }
                }
                Verdict::Nothing => break,
            }
        }
        cursor.done = true;
        Walk::Done
    }
}

impl<V> Default for RetainedTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The count, not the contents: topics belong to clients, and there may be millions.
impl<V> fmt::Debug for RetainedTree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetainedTree").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// What a stored topic is to a filter.
enum Verdict {
    /// The filter matches it.
    Match,
    /// Neither this one nor any other less than the goal matches. The goal is greater than this one.
    Seek,
    /// Neither this one nor any after it matches.
    Nothing,
}

/// Compares a stored topic with a filter, and writes the goal of [`Verdict::Seek`] to `seek`.
fn compare(filter: TopicFilter<'_>, key: &[u8], seek: &mut Vec<u8>) -> Verdict {
    seek.clear();
    if filter.begins_with_wildcard() && key.starts_with(b"$") {
        // [MQTT5-4.7.2-1]
        seek.push(b'$' + 1);
        return Verdict::Seek;
    }
    let mut begin = 0;
    // The end of the last level of `key` that a `+` matched.
    let mut plus_end = None;
    for wanted in filter.levels() {
        if wanted == "#" {
            return Verdict::Match;
        }
        let Some(rest) = key.get(begin..) else {
            // `key` ends before the filter does: on to what is below it.
            seek.extend_from_slice(key);
            seek.push(SEPARATOR);
            if wanted != "+" {
                seek.extend_from_slice(wanted.as_bytes());
            }
            return Verdict::Seek;
        };
        let level = &rest[..memchr::memchr(SEPARATOR, rest).unwrap_or(rest.len())];
        let end = begin + level.len();
        if wanted == "+" {
            plus_end = Some(end);
        } else if level < wanted.as_bytes() {
            seek.extend_from_slice(&key[..begin]);
            seek.extend_from_slice(wanted.as_bytes());
            return Verdict::Seek;
        } else if level > wanted.as_bytes() {
            return behind(key, plus_end, seek);
        }
        begin = end + 1;
    }
    if begin > key.len() { Verdict::Match } else { behind(key, plus_end, seek) }
}

/// Nothing more matches below the level of the last `+`: on to what is behind that level.
fn behind(key: &[u8], plus_end: Option<usize>, seek: &mut Vec<u8>) -> Verdict {
    let Some(end) = plus_end else { return Verdict::Nothing };
    seek.extend_from_slice(&key[..end]);
    seek.push(SEPARATOR + 1);
    Verdict::Seek
}

fn at_least(from: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(from), Bound::Unbounded)
}

/// Calls `then` with the stored form of `topic`.
fn with_stored<T>(topic: TopicName<'_>, then: impl FnOnce(&[u8]) -> T) -> T {
    let text = topic.as_str().as_bytes();
    let mut stack = [0; STACK_BYTES];
    let mut heap;
    let key = if let Some(short) = stack.get_mut(..text.len()) {
        short.copy_from_slice(text);
        short
    } else {
        heap = text.to_vec();
        &mut heap[..]
    };
    replace(key, b'/', SEPARATOR);
    then(key)
}

/// The topic of a stored form.
fn restored<'s>(key: &Text, scratch: &'s mut Vec<u8>) -> TopicName<'s> {
    scratch.clear();
    scratch.extend_from_slice(key.as_bytes());
    replace(scratch, SEPARATOR, b'/');
    TopicName::known_good(std::str::from_utf8(scratch).expect("one ASCII byte was exchanged for another"))
}

fn replace(bytes: &mut [u8], old: u8, new: u8) {
    for byte in bytes {
        if *byte == old {
            *byte = new;
        }
    }
}
