//! What the specification says of topics, its own examples first.

use tidegate_topic::{
    MAX_BYTES, MAX_LEVELS, QUEUE_GROUP, RetainedTree, SubscriptionFilter, SubscriptionTree, TopicError,
    TopicFilter, TopicName,
};

/// Statement or section, filter, topic, whether they match.
const MATCHES: &[(&str, &str, &str, bool)] = &[
    ("MQTT5-4.7.1.2 example", "sport/tennis/player1/#", "sport/tennis/player1", true),
    ("MQTT5-4.7.1.2 example", "sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
    ("MQTT5-4.7.1.2 example", "sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
    ("MQTT5-4.7.1.2 example", "sport/tennis/player1/#", "sport/tennis/player11", false),
    ("MQTT5-4.7.1.2 example", "sport/#", "sport", true),
    ("MQTT5-4.7.1.2 example", "sport/#", "sport/", true),
    ("MQTT5-4.7.1.2 example", "#", "sport", true),
    ("MQTT5-4.7.1.2 example", "#", "/", true),
    ("MQTT5-4.7.1.2 example", "sport/tennis/#", "sport/tennis", true),
    ("MQTT5-4.7.1.3 example", "sport/tennis/+", "sport/tennis/player1", true),
    ("MQTT5-4.7.1.3 example", "sport/tennis/+", "sport/tennis/player2", true),
    ("MQTT5-4.7.1.3 example", "sport/tennis/+", "sport/tennis/player1/ranking", false),
    ("MQTT5-4.7.1.3 example", "sport/+", "sport", false),
    ("MQTT5-4.7.1.3 example", "sport/+", "sport/", true),
    ("MQTT5-4.7.1.3 example", "+", "sport", true),
    ("MQTT5-4.7.1.3 example", "+/tennis/#", "sport/tennis/player1", true),
    ("MQTT5-4.7.1.3 example", "sport/+/player1", "sport/tennis/player1", true),
    ("MQTT5-4.7.1.3 example", "+/+", "/finance", true),
    ("MQTT5-4.7.1.3 example", "/+", "/finance", true),
    ("MQTT5-4.7.1.3 example", "+", "/finance", false),
    ("MQTT5-4.7.2-1", "#", "$SYS/monitor/Clients", false),
    ("MQTT5-4.7.2-1", "+/monitor/Clients", "$SYS/monitor/Clients", false),
    ("MQTT5-4.7.2-1", "+", "$SYS", false),
    ("MQTT5-4.7.2-1", "+/#", "$SYS/x", false),
    ("MQTT5-4.7.2-1 example", "$SYS/#", "$SYS/monitor/Clients", true),
    ("MQTT5-4.7.2-1 example", "$SYS/monitor/+", "$SYS/monitor/Clients", true),
    ("MQTT5-4.7.2-1", "$SYS/#", "$SYS", true),
    ("MQTT5-4.7.2-1", "#", "a/$SYS", true),
    ("MQTT5-4.7.2-1", "a/+", "a/$SYS", true),
    ("MQTT5-4.7.2-1", "a/#", "a/$SYS", true),
    ("MQTT5-4.7.3 case", "ACCOUNTS", "Accounts", false),
    ("MQTT5-4.7.3 space", "Accounts payable", "Accounts payable", true),
    ("MQTT5-4.7.3 space", "Accounts payable", "Accounts  payable", false),
    ("MQTT5-4.7.3 leading /", "/finance", "finance", false),
    ("MQTT5-4.7.3 trailing /", "finance/", "finance", false),
    ("MQTT5-4.7.3 only /", "/", "/", true),
    ("MQTT5-4.7.3 empty levels", "a//b", "a/b", false),
    ("MQTT5-4.7.3 empty levels", "a/+/b", "a//b", true),
    ("MQTT5-4.7.3 empty levels", "+/+/+", "//", true),
    ("MQTT5-4.7.3 empty levels", "//#", "/", true),
    ("MQTT5-4.7.3 empty levels", "//#", "/a", false),
    // Both spell Å: U+00C5, and A with U+030A.
    ("MQTT5-4.7.3-4", "\u{c5}", "A\u{30a}", false),
    ("MQTT5-4.7.3-4", "\u{c5}", "\u{c5}", true),
];

#[test]
fn filters_match_as_the_specification_says_in_all_three_ways() {
    for &(statement, filter_text, topic, expected) in MATCHES {
        let filter = TopicFilter::parse(filter_text).unwrap();
        let name = TopicName::parse(topic).unwrap();
        let row = format!("[{statement}] {filter_text} {topic}");
        assert_eq!(filter.matches(name), expected, "naive: {row}");

        let mut subscriptions = SubscriptionTree::new();
        subscriptions.insert(filter, "client", ());
        assert_eq!(subscriptions.has_match(name), expected, "subscription tree: {row}");

        let mut retained = RetainedTree::new();
        retained.insert(name, ());
        let found = retained.for_each_match(filter, |_, ()| std::ops::ControlFlow::Break(()));
        assert_eq!(found.is_break(), expected, "retained tree: {row}");
    }
}

#[test]
fn names_are_refused_by_the_rule_that_they_break() {
    let long = "x".repeat(MAX_BYTES + 1);
    let rows = [
        ("", TopicError::Empty),
        (long.as_str(), TopicError::TooLong { bytes: MAX_BYTES + 1 }),
        ("a\0b", TopicError::Nul { at: 1 }),
        ("a/b+", TopicError::WildcardInName { at: 3 }),
        ("a/#", TopicError::WildcardInName { at: 2 }),
        ("é#", TopicError::WildcardInName { at: 2 }),
    ];
    for (text, error) in rows {
        assert_eq!(TopicName::parse(text), Err(error));
    }
    assert_eq!(TopicName::parse(&long[1..]).unwrap().as_str().len(), MAX_BYTES);
}

#[test]
fn filters_are_refused_by_the_rule_that_they_break() {
    let long = "x".repeat(MAX_BYTES + 1);
    let rows = [
        ("", TopicError::Empty),
        (long.as_str(), TopicError::TooLong { bytes: MAX_BYTES + 1 }),
        ("a\0", TopicError::Nul { at: 1 }),
        ("sport/tennis#", TopicError::MisplacedHash { at: 12 }),
        ("sport/tennis/#/ranking", TopicError::MisplacedHash { at: 13 }),
        ("##", TopicError::MisplacedHash { at: 0 }),
        ("#/", TopicError::MisplacedHash { at: 0 }),
        ("+#", TopicError::MisplacedPlus { at: 0 }),
        ("#+", TopicError::MisplacedHash { at: 0 }),
        ("sport+", TopicError::MisplacedPlus { at: 5 }),
        ("++", TopicError::MisplacedPlus { at: 0 }),
        ("+a", TopicError::MisplacedPlus { at: 0 }),
        ("a/+b/c", TopicError::MisplacedPlus { at: 2 }),
    ];
    for (text, error) in rows {
        assert_eq!(TopicFilter::parse(text), Err(error));
    }
}

#[test]
fn more_levels_than_the_limit_are_refused_and_no_limit_exceeds_the_greatest() {
    let slashes = "/".repeat(MAX_BYTES);
    let too_many = TopicError::TooManyLevels { at: MAX_LEVELS - 1, max: MAX_LEVELS };
    assert_eq!(TopicName::parse(&slashes), Err(too_many));
    assert_eq!(TopicName::parse_with(&slashes, usize::MAX), Err(too_many));
    assert_eq!(TopicFilter::parse_with(&slashes, usize::MAX), Err(too_many));
    assert_eq!(SubscriptionFilter::parse_with(&slashes, usize::MAX), Err(too_many));

    let deepest = &slashes[..MAX_LEVELS - 1];
    assert_eq!(TopicName::parse(deepest).unwrap().levels().count(), MAX_LEVELS);
    assert_eq!(TopicFilter::parse(deepest).unwrap().levels().count(), MAX_LEVELS);

    assert!(TopicName::parse_with("a/b", 2).is_ok());
    assert_eq!(TopicName::parse_with("a/b/c", 2), Err(TopicError::TooManyLevels { at: 3, max: 2 }));
    assert!(TopicName::parse_with("a", 0).is_ok());
}

#[test]
fn shared_subscriptions_are_taken_apart() {
    let rows = [
        ("$share/consumer1/sport/tennis/+", Some("consumer1"), "sport/tennis/+"),
        ("$share/consumer1//finance", Some("consumer1"), "/finance"),
        ("$share/g/#", Some("g"), "#"),
        ("$share/$queue/a", Some(QUEUE_GROUP), "a"),
        ("$queue/a", Some(QUEUE_GROUP), "a"),
        ("$share", None, "$share"),
        ("$shared/g/a", None, "$shared/g/a"),
        ("$queue", None, "$queue"),
        ("a/$share/g/b", None, "a/$share/g/b"),
    ];
    for (text, group, filter) in rows {
        let parsed = SubscriptionFilter::parse(text).unwrap();
        assert_eq!((parsed.group(), parsed.filter().as_str()), (group, filter), "{text}");
    }
}

#[test]
fn shared_subscriptions_are_refused_by_the_rule_that_they_break() {
    let rows = [
        ("$share/", TopicError::EmptyShareName { at: 7 }),
        ("$share//a", TopicError::EmptyShareName { at: 7 }),
        ("$share/g+/a", TopicError::WildcardInShareName { at: 8 }),
        ("$share/#", TopicError::WildcardInShareName { at: 7 }),
        ("$share/g", TopicError::ShareWithoutFilter { at: 8 }),
        ("$share/g/", TopicError::ShareWithoutFilter { at: 9 }),
        ("$queue/", TopicError::ShareWithoutFilter { at: 7 }),
        ("$share/g\0/a", TopicError::Nul { at: 8 }),
        ("$share/g/a#", TopicError::MisplacedHash { at: 10 }),
        ("$queue/a+", TopicError::MisplacedPlus { at: 8 }),
    ];
    for (text, error) in rows {
        assert_eq!(SubscriptionFilter::parse(text), Err(error), "{text:?}");
    }
    let filter = "$share/g/a/b/c";
    assert!(SubscriptionFilter::parse_with(filter, 3).is_ok(), "the prefix is no level of the filter");
    let too_many = TopicError::TooManyLevels { at: 12, max: 2 };
    assert_eq!(SubscriptionFilter::parse_with(filter, 2), Err(too_many));
}
