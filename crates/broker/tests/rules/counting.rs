//! What is counted of each rule, and that a rule which fails costs the others nothing.

use std::sync::Arc;

use tidegate_codec::ReasonCode;
use tidegate_rules::EvalLimits;

use crate::bench::{Hand, Served, into, publish, rule};

#[tokio::test]
async fn matched_is_the_sum_of_passed_no_match_and_failed_and_a_where_that_is_false_is_no_failure() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![into(
        &hand,
        rule("warm", r#"SELECT payload.t AS t FROM "t" WHERE payload.t > 20"#),
    )]);
    let mut client = served.join("c").await;
    for payload in [&b"{\"t\": 21}"[..], b"{\"t\": 3}", b"{\"t\": 4}", b"no json"] {
        client.publish(0, "t", payload).await.unwrap();
    }
    assert_eq!(hand.value().await, "{\"t\":21}");
    assert_eq!(publish(&mut client, 1, "elsewhere", b"").await, ReasonCode::NoMatchingSubscribers);
    let count = |name: &str| served.count(name, &["warm"]);
    assert_eq!(count("tidegate_rule_matched_total"), 4);
    assert_eq!(count("tidegate_rule_passed_total"), 1);
    assert_eq!(count("tidegate_rule_no_match_total"), 2);
    assert_eq!(served.count("tidegate_rule_failed_total", &["warm", "not_json"]), 1);
    assert_eq!(count("tidegate_rule_failed_total"), 1);
}

#[tokio::test]
async fn one_evaluation_of_64_is_measured() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![into(&hand, rule("all", r#"SELECT * FROM "t""#))]);
    let mut client = served.join("c").await;
    for _ in 0..640 {
        client.publish(0, "t", b"x").await.unwrap();
    }
    for _ in 0..640 {
        hand.value().await;
    }
    assert_eq!(served.count("tidegate_rule_evaluation_seconds", &["all"]), 10);
}

/// Counted in evaluations and not in time: whatever the poison does, every other rule gets every message.
#[tokio::test]
async fn f30_a_poison_rule_fails_at_its_limit_and_the_others_get_every_message() {
    let hand = Arc::new(Hand::default());
    // Doubles a text until the limits of one evaluation stop it.
    let doubled = "a || a";
    let poison =
        (0..7).fold("payload.text".to_owned(), |inner, _| doubled.replace('a', &format!("({inner})")));
    let poison = format!(r#"SELECT {poison} AS boom FROM "t""#);
    let served = Served::with(
        |config| config.rules.evaluation = EvalLimits { steps: 2000, bytes: 64 * 1024 },
        vec![
            into(&hand, rule("poison", &poison)),
            into(&hand, rule("broken", r#"SELECT 1 div payload.zero AS x FROM "t""#)),
            into(&hand, rule("healthy", r#"SELECT payload.text AS text FROM "t""#)),
        ],
    );
    let mut client = served.join("c").await;
    let payload = format!(r#"{{"text": "{}", "zero": 0}}"#, "x".repeat(1000));
    for _ in 0..200 {
        client.publish(0, "t", payload.as_bytes()).await.unwrap();
    }
    for _ in 0..200 {
        assert!(hand.value().await.starts_with("{\"text\":\"xxx"));
    }
    assert_eq!(hand.len(), 0, "no other rule made anything");
    assert_eq!(served.count("tidegate_rule_passed_total", &["healthy"]), 200);
    assert_eq!(served.count("tidegate_rule_failed_total", &["poison"]), 200);
    assert_eq!(served.count("tidegate_rule_failed_total", &["broken", "division_by_zero"]), 200);
}

#[tokio::test]
async fn the_store_of_the_node_is_one_for_all_rules_and_connections() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![
        into(&hand, rule("put", r#"SELECT kv_store_put(payload.k, payload.v) AS put FROM "put""#)),
        into(&hand, rule("get", r#"SELECT kv_store_get(payload.k, 'none') AS got FROM "get""#)),
        into(&hand, rule("del", r#"SELECT kv_store_del(payload.k) AS gone FROM "del""#)),
    ]);
    let (mut one, mut other) = (served.join("one").await, served.join("other").await);
    one.publish(0, "put", br#"{"k": "a", "v": {"n": 1}}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"put\":true}");
    other.publish(0, "get", br#"{"k": "a"}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"got\":{\"n\":1}}");
    one.publish(0, "del", br#"{"k": "a"}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"gone\":true}");
    other.publish(0, "get", br#"{"k": "a"}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"got\":\"none\"}");
    // Another broker in this process has a store of its own.
    let beside = Arc::new(Hand::default());
    let second = Served::start(vec![into(
        &beside,
        rule("get", r#"SELECT kv_store_get('b', 'none') AS got FROM "get""#),
    )]);
    one.publish(0, "put", br#"{"k": "b", "v": 1}"#).await.unwrap();
    assert_eq!(hand.value().await, "{\"put\":true}");
    second.join("c").await.publish(0, "get", b"").await.unwrap();
    assert_eq!(beside.value().await, "{\"got\":\"none\"}");
}
