//! Both trees against lists that are searched one by one.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use proptest::prelude::*;
use tidegate_topic::{Cursor, MAX_LEVELS, Progress, RetainedTree, SubscriptionTree, TopicFilter, TopicName};

/// Few, so that topics and filters meet. Among them what could be taken for something else: nothing, `$`, what sorts
/// below and above `/`, the least character, more than one byte, and more than is stored inline.
const LEVELS: &[&str] = &[
    "",
    "a",
    "b",
    "a!",
    "ab",
    "a\u{1}",
    "\u{1}",
    "$",
    "$a",
    "%",
    "é",
    "a level of more than twenty-two bytes",
];

fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(LEVELS)
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("empty", |t| !t.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 2 => Just("+")];
    (prop::collection::vec(level, 0..6), any::<bool>())
        .prop_map(|(mut levels, hash)| {
            levels.extend(hash.then_some("#"));
            levels.join("/")
        })
        .prop_filter("empty", |filter| !filter.is_empty())
}

fn name(text: &str) -> TopicName<'_> {
    TopicName::parse(text).expect("the test gives a name")
}

fn parse(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text).expect("the test gives a filter")
}

/// The rules of section 4.7, each level and each rule on its own.
fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    !text.is_empty()
        && !text.contains('\0')
        && levels.iter().all(|level| *level == "+" || !level.contains('+'))
        && levels.iter().all(|level| *level == "#" || !level.contains('#'))
        && levels[..levels.len() - 1].iter().all(|level| *level != "#")
}

fn levels_match(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) | ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => levels_match(filter, topic),
        ([wanted, filter @ ..], [level, topic @ ..]) => wanted == level && levels_match(filter, topic),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn text_is_a_filter_or_a_name_exactly_when_the_rules_say_so(text in "[+#/a$\0é]{0,7}") {
        prop_assert_eq!(TopicFilter::parse(&text).is_ok(), is_filter(&text));
        prop_assert_eq!(TopicName::parse(&text).is_ok(), is_filter(&text) && !text.contains(['+', '#']));
    }

    #[test]
    fn a_filter_matches_level_by_level(filter in filter(), topic in topic()) {
        let expected = levels_match(
            &filter.split('/').collect::<Vec<_>>(),
            &topic.split('/').collect::<Vec<_>>(),
        ) && !(topic.starts_with('$') && filter.starts_with(['+', '#']));
        prop_assert_eq!(parse(&filter).matches(name(&topic)), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_subscription_tree_finds_what_a_search_of_all_filters_finds_and_nothing_twice(
        steps in prop::collection::vec((0_u8..4, filter(), 0_u8..24, any::<u16>()), 1..120),
        topics in prop::collection::vec(topic(), 1..40),
    ) {
        let mut tree = SubscriptionTree::new();
        let mut list = HashMap::new();
        for (step, text, key, value) in &steps {
            let filter = parse(text);
            if *step == 0 {
                prop_assert_eq!(tree.remove(filter, key), list.remove(&(text.clone(), *key)));
            } else {
                prop_assert_eq!(tree.insert(filter, *key, *value), list.insert((text.clone(), *key), *value));
            }
            prop_assert_eq!(tree.get(filter, key), list.get(&(text.clone(), *key)));
            prop_assert_eq!(tree.len(), list.len());
        }
        let filters: std::collections::HashSet<_> = list.keys().map(|(filter, _)| filter).collect();
        prop_assert_eq!(tree.filters(), filters.len());

        for topic in &topics {
            let mut found = Vec::new();
            tree.for_each_match(name(topic), |key, value| found.push((*key, *value)));
            found.sort_unstable();
            let matching = list.iter().filter(|((filter, _), _)| parse(filter).matches(name(topic)));
            let mut expected: Vec<_> = matching.map(|((_, key), value)| (*key, *value)).collect();
            expected.sort_unstable();
            prop_assert_eq!(tree.has_match(name(topic)), !expected.is_empty());
            prop_assert_eq!(found, expected);
        }

        for ((filter, key), value) in list {
            prop_assert_eq!(tree.remove(parse(&filter), &key), Some(value));
        }
        prop_assert_eq!((tree.len(), tree.filters(), tree.nodes()), (0, 0, 0));
        prop_assert!(tree.is_empty());
    }

    #[test]
    fn the_retained_tree_finds_what_a_search_of_all_topics_finds_each_once(
        steps in prop::collection::vec((0_u8..4, topic(), any::<u16>()), 1..120),
        filters in prop::collection::vec(filter(), 1..40),
    ) {
        let mut tree = RetainedTree::new();
        let mut list = BTreeMap::new();
        for (step, topic, value) in &steps {
            if *step == 0 {
                prop_assert_eq!(tree.remove(name(topic)), list.remove(topic));
            } else {
                prop_assert_eq!(tree.insert(name(topic), *value), list.insert(topic.clone(), *value));
            }
            prop_assert_eq!(tree.get(name(topic)), list.get(topic));
            prop_assert_eq!(tree.len(), list.len());
        }
        for filter in &filters {
            let mut found = BTreeMap::new();
            let walked: ControlFlow<()> = tree.for_each_match(parse(filter), |topic, value| {
                assert_eq!(found.insert(topic.to_string(), *value), None, "{topic} twice");
                ControlFlow::Continue(())
            });
            prop_assert!(walked.is_continue());
            let mut expected = list.clone();
            expected.retain(|topic, _| parse(filter).matches(name(topic)));
            prop_assert_eq!(found, expected, "{}", filter);
        }
    }

    #[test]
    fn pages_show_once_what_stays_and_at_most_once_what_comes_or_goes(
        mut topics in prop::collection::btree_map(topic(), any::<u16>(), 0..60),
        changes in prop::collection::vec((any::<bool>(), topic()), 0..40),
        filter in filter(),
        max_steps in 0_usize..5,
        stop_at_each in any::<bool>(),
    ) {
        let mut tree = RetainedTree::new();
        for (topic, value) in &topics {
            tree.insert(name(topic), *value);
        }
        let mut seen = HashMap::new();
        let mut changes = changes.iter();
        let mut cursor = Cursor::new();
        loop {
            let most = if stop_at_each { 1 } else { max_steps.max(1) };
            let mut visits = 0;
            let progress = tree.page(parse(&filter), &mut cursor, max_steps, |topic, _| {
                visits += 1;
                *seen.entry(topic.to_string()).or_insert(0) += 1;
                if stop_at_each { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            prop_assert!(visits <= most);
            if progress == Progress::Done {
                break;
            }
            if let Some((insert, topic)) = changes.next() {
                // What came or went is no longer expected.
                topics.remove(topic);
                if *insert { tree.insert(name(topic), 0) } else { tree.remove(name(topic)) };
            }
        }
        prop_assert!(seen.values().all(|visits| *visits == 1));
        prop_assert!(seen.keys().all(|topic| parse(&filter).matches(name(topic))));
        for topic in topics.keys().filter(|topic| parse(&filter).matches(name(topic))) {
            prop_assert!(seen.contains_key(topic), "{} misses {}", filter, topic);
        }
    }

    #[test]
    fn a_sweep_looks_at_each_topic_once_and_begins_anew(
        topics in prop::collection::btree_map(topic(), any::<bool>(), 0..60),
        max_topics in 0_usize..9,
    ) {
        let mut tree = RetainedTree::new();
        for (topic, keep) in &topics {
            tree.insert(name(topic), *keep);
        }
        let mut cursor = Cursor::new();
        let mut looked = 0;
        loop {
            let before = looked;
            let progress = tree.sweep(&mut cursor, max_topics, |topic, keep| {
                assert_eq!(topics.get(topic.as_str()), Some(&*keep));
                looked += 1;
                *keep
            });
            prop_assert!(looked - before <= max_topics.max(1));
            if progress == Progress::Done {
                break;
            }
        }
        prop_assert_eq!(looked, topics.len());
        prop_assert_eq!(cursor, Cursor::new());
        prop_assert_eq!(tree.len(), topics.values().filter(|keep| **keep).count());
        tree.retain(|_, _| false);
        prop_assert!(tree.is_empty());
    }
}

#[test]
fn a_leap_passes_whole_subtrees() {
    let mut tree = RetainedTree::new();
    for device in 0..100 {
        for reading in ["a", "b", "c/d", "c/e", "state", "x", "y", "z"] {
            tree.insert(name(&format!("device/{device}/{reading}")), ());
        }
    }
    let mut cursor = Cursor::new();
    let (mut pages, mut found) = (0, 0);
    let mut count = |_: TopicName<'_>, (): &()| {
        found += 1;
        ControlFlow::Continue(())
    };
    while tree.page(parse("device/+/state"), &mut cursor, 1, &mut count) == Progress::More {
        pages += 1;
    }
    assert_eq!(found, 100);
    // Of eight topics a device: the first, the match, and the one behind it.
    assert!(pages <= 300, "{pages} steps for 800 topics");
}

#[test]
fn filters_that_cross_at_every_level_are_found_each_once() {
    const DEPTH: u32 = 12;
    let mut tree = SubscriptionTree::new();
    for crossing in 0_u32..1 << DEPTH {
        let levels: Vec<&str> =
            (0..DEPTH).map(|bit| if crossing >> bit & 1 == 0 { "+" } else { "a" }).collect();
        tree.insert(parse(&levels.join("/")), crossing, ());
    }
    let mut found = Vec::new();
    tree.for_each_match(name(&["a"; DEPTH as usize].join("/")), |crossing, ()| found.push(*crossing));
    found.sort_unstable();
    assert!(found.iter().copied().eq(0..1 << DEPTH));
}

#[test]
fn the_deepest_filters_cross_without_running_out_of_anything() {
    let mut tree = SubscriptionTree::new();
    let topic = ["a"; MAX_LEVELS].join("/");
    // At every depth both ways go on, so that one waits at every level.
    for depth in 0..MAX_LEVELS {
        let mut levels = ["a"; MAX_LEVELS];
        levels[depth] = "+";
        tree.insert(parse(&levels.join("/")), depth, ());
    }
    tree.insert(parse(&["+"; MAX_LEVELS].join("/")), MAX_LEVELS, ());
    let mut found = 0;
    tree.for_each_match(name(&topic), |_, ()| found += 1);
    assert_eq!(found, MAX_LEVELS + 1);

    let mut retained = RetainedTree::new();
    retained.insert(name(&topic), ());
    let every = ["+"; MAX_LEVELS].join("/");
    assert!(retained.for_each_match(parse(&every), |_, ()| ControlFlow::Break(())).is_break());
}

#[test]
fn fifty_thousand_of_each_kind_come_and_go() {
    let mut tree = SubscriptionTree::new();
    for client in 0..50_000 {
        tree.insert(parse(&format!("device/{client}/command")), client, ());
        tree.insert(parse(&format!("device/{client}/+/state")), client, ());
        tree.insert(parse("all/#"), client, ());
    }
    assert_eq!((tree.len(), tree.filters()), (150_000, 100_001));
    // `device`, `all`, and three levels for each client.
    assert_eq!(tree.nodes(), 2 + 150_000);
    let mut everyone = 0;
    tree.for_each_match(name("all/at/once"), |_, ()| everyone += 1);
    assert_eq!(everyone, 50_000);
    let mut found = Vec::new();
    tree.for_each_match(name("device/4711/command"), |client, ()| found.push(*client));
    tree.for_each_match(name("device/4712/door/state"), |client, ()| found.push(*client));
    assert_eq!(found, [4711, 4712]);
    for client in (0..50_000).rev() {
        assert!(tree.remove(parse(&format!("device/{client}/command")), &client).is_some());
        assert!(tree.remove(parse(&format!("device/{client}/+/state")), &client).is_some());
        assert!(tree.remove(parse("all/#"), &client).is_some());
    }
    assert_eq!((tree.len(), tree.filters(), tree.nodes()), (0, 0, 0));
}
