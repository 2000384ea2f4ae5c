//! Events: what happens beside messages, and what rules are told of it.

use std::sync::Arc;

use tidegate_broker::{Config, DenyList, Republish, RuleBinding};
use tidegate_codec::{
    Connect, ConnectProperties, Packet, PacketId, PacketType, Publish, QoS, ReasonCode, Subscribe,
    SubscribeFilter, UserProperties, Version,
};

use crate::bench::{Hand, Served, header_of, into, is_silent, publish, rule, template, value_of};

/// The rule that passes on these columns of an event.
fn listen(hand: &Arc<Hand>, event: &str, columns: &str) -> RuleBinding {
    into(hand, rule("events", &format!(r#"SELECT {columns} FROM "{event}""#)))
}

#[tokio::test]
async fn a_client_that_comes_is_checked_answered_connected_and_told_of_when_it_goes() {
    let hand = Arc::new(Hand::default());
    let columns = "event, clientid, username, peerhost, proto_ver, keepalive, clean_start, expiry_interval, \
                   reason_code, is_anonymous, conn_props.'User-Property'.k AS k";
    let served = Served::start(vec![listen(
        &hand,
        r#"$events/client/connected", "$events/client_connack", "$events/client_check_authn_complete"#,
        columns,
    )]);
    let properties = ConnectProperties {
        session_expiry_interval: Some(7),
        user_properties: UserProperties::from_pairs([("k", "v")]).unwrap(),
        ..ConnectProperties::default()
    };
    let connect =
        Connect { username: Some("u"), keep_alive: 30, properties, ..Connect::new(Version::V5, "c1") };
    let _client = served.connect(connect).await;
    let common = r#""clientid":"c1","username":"u","peerhost":"192.0.2.7""#;
    let conversation = r#""proto_ver":5,"keepalive":30,"clean_start":true,"expiry_interval":7"#;
    for expected in [
        format!(
            r#"{{"event":"client.check_authn_complete",{common},"reason_code":"success","is_anonymous":true}}"#
        ),
        format!(r#"{{"event":"client.connack",{common},{conversation},"reason_code":"success","k":"v"}}"#),
        format!(r#"{{"event":"client.connected",{common},{conversation},"k":"v"}}"#),
    ] {
        assert_eq!(hand.value().await, expected);
    }
}

#[tokio::test]
async fn a_client_that_goes_or_is_thrown_out_is_told_with_the_reason() {
    let hand = Arc::new(Hand::default());
    let columns = "event, clientid, reason, proto_name, disconnected_at >= connected_at AS in_order, \
                   disconn_props.'User-Property'.why AS why";
    let served = Served::start(vec![listen(&hand, "$events/client_disconnected", columns)]);
    let mut polite = served.join("polite").await;
    let goodbye = tidegate_codec::Disconnect {
        reason: ReasonCode::NORMAL_DISCONNECTION,
        session_expiry_interval: None,
        reason_string: None,
        server_reference: None,
        user_properties: UserProperties::from_pairs([("why", "night")]).unwrap(),
    };
    polite.send(&Packet::Disconnect(goodbye)).await.unwrap();
    let (record, ack) = hand.next().await;
    assert!(ack.is_none(), "nobody waits");
    assert_eq!(header_of(&record, "mqtt.event").as_deref(), Some("client.disconnected"));
    let expected = r#"{"event":"client.disconnected","clientid":"polite","reason":"client","proto_name":"MQTT","in_order":true,"why":"night"}"#;
    assert_eq!(value_of(&record), expected);
    drop(served.join("twice").await);
    assert!(hand.value().await.contains(r#""reason":"connection_lost""#));
    let _first = served.join("twice").await;
    let _second = served.join("twice").await;
    assert!(hand.value().await.contains(r#""reason":"taken_over""#));
}

#[tokio::test]
async fn pings_subscriptions_and_checks_of_access_are_told_each_to_who_asks() {
    let hand = Arc::new(Hand::default());
    let columns = "event, topic, qos, action, result, keepalive";
    let deny = |config: &mut Config| {
        config.denied = DenyList::new(&["secret/#".to_owned()], &["secret/#".to_owned()]).unwrap();
    };
    let events = r#"$events/client/ping", "$events/session/#", "$events/auth/check_authz_complete"#;
    let served = Served::with(deny, vec![listen(&hand, events, columns)]);
    let mut client = served.join("c").await;
    client.subscribe(1, "a/+", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(
        hand.value().await,
        r#"{"event":"client.check_authz_complete","topic":"a/+","action":"subscribe","result":"allow"}"#
    );
    assert_eq!(hand.value().await, r#"{"event":"session.subscribed","topic":"a/+","qos":1}"#);
    client.subscribe(2, "secret/a", QoS::AtMostOnce).await.unwrap();
    assert_eq!(
        hand.value().await,
        r#"{"event":"client.check_authz_complete","topic":"secret/a","action":"subscribe","result":"deny"}"#
    );
    client.unsubscribe(3, "a/+").await.unwrap();
    assert_eq!(hand.value().await, r#"{"event":"session.unsubscribed","topic":"a/+","qos":1}"#);
    client.unsubscribe(4, "never").await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(
        hand.value().await,
        r#"{"event":"client.ping","keepalive":0}"#,
        "and nothing of what never was"
    );
    assert_eq!(publish(&mut client, 5, "secret/b", b"").await, ReasonCode::NotAuthorized);
    assert_eq!(
        hand.value().await,
        r#"{"event":"client.check_authz_complete","topic":"secret/b","action":"publish","result":"deny"}"#
    );
}

#[tokio::test]
async fn a_message_is_delivered_and_acked_or_dropped_and_both_clients_are_named() {
    let hand = Arc::new(Hand::default());
    let columns = "event, clientid, from_clientid, topic, payload, qos, reason, length(split(id, '')) > 0 AS has_id, \
                   puback_props.'User-Property'.took AS took";
    let events = r#"$events/message_delivered", "$events/message/acked", "$events/message_dropped"#;
    let mut listening = listen(&hand, events, columns);
    listening.outputs[0].value = Some(template("${.}"));
    let served = Served::start(vec![listening]);
    let mut reader = served.join("reader").await;
    reader.subscribe(1, "t", QoS::AtLeastOnce).await.unwrap();
    let mut writer = served.join("writer").await;
    assert_eq!(publish(&mut writer, 1, "t", b"x").await, ReasonCode::Success);
    let both = r#""clientid":"reader","from_clientid":"writer","topic":"t","payload":"x","qos":1"#;
    assert_eq!(hand.value().await, format!(r#"{{"event":"message.delivered",{both},"has_id":true}}"#));
    let id = reader.expect_publish().await.unwrap().packet_id.unwrap();
    reader.puback(id).await.unwrap();
    assert_eq!(hand.value().await, format!(r#"{{"event":"message.acked",{both},"has_id":true}}"#));
    assert_eq!(publish(&mut writer, 2, "nobody", b"y").await, ReasonCode::NoMatchingSubscribers);
    let dropped = r#"{"event":"message.dropped","clientid":"writer","topic":"nobody","payload":"y","qos":1,"reason":"no_subscribers","has_id":true}"#;
    assert_eq!(hand.value().await, dropped);
}

#[tokio::test]
async fn an_event_that_its_own_message_would_cause_again_is_told_once() {
    let hand = Arc::new(Hand::default());
    for event in ["$events/message_delivered", "$events/message_dropped", "$events/message_acked"] {
        let mut echo = into(&hand, rule("echo", &format!(r#"SELECT event FROM "{event}""#)));
        echo.republishes.push(Republish { qos: Some(QoS::AtLeastOnce), ..Republish::to(template("echo")) });
        let served = Served::start(vec![echo]);
        let mut client = served.join("c").await;
        if event != "$events/message_dropped" {
            client.subscribe(1, "#", QoS::AtLeastOnce).await.unwrap();
        }
        client.publish(7, "t", b"x").await.unwrap();
        let mut echoes = 0;
        while let Ok(packet) = tokio::time::timeout(crate::bench::A_WHILE, client.receive()).await {
            let Packet::Publish(publish) = packet.unwrap() else { continue };
            echoes += usize::from(publish.topic == "echo");
            let id = publish.packet_id;
            if let Some(id) = id {
                client.puback(id).await.unwrap();
            }
        }
        let expected = usize::from(event != "$events/message_dropped");
        assert_eq!(echoes, expected, "{event}");
        assert_eq!(served.count("tidegate_rule_matched_total", &["echo"]), 1, "{event}");
        hand.value().await;
        assert_eq!(hand.len(), 0);
    }
}

#[tokio::test]
async fn a_destination_without_room_drops_events_and_holds_up_nobody() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![listen(&hand, "$events/client_ping", "event")]);
    let mut client = served.join("c").await;
    hand.set_full(true);
    for _ in 0..3 {
        client.ping().await.unwrap();
    }
    assert_eq!(served.count("tidegate_event_records_dropped_total", &[]), 3);
    hand.set_full(false);
    client.ping().await.unwrap();
    assert_eq!(hand.value().await, r#"{"event":"client.ping"}"#);
    assert!(is_silent(&mut client).await);
}

#[tokio::test]
async fn an_embedder_raises_events_of_its_own_such_as_alarms() {
    use tidegate_rules::{Details, Event, EventKind};
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![listen(
        &hand,
        "$events/sys/alarm_activated",
        "event, name, message, details.sink AS sink, activated_at, node",
    )]);
    let details = Details::Alarm {
        name: "kafka_down",
        message: "no broker answers",
        details: &[("sink", "main")],
        activated_at_ms: 5,
        deactivated_at_ms: None,
    };
    served.broker.raise(&Event::of(EventKind::AlarmActivated, "", details));
    served.broker.raise(&Event::of(EventKind::AlarmDeactivated, "", details));
    let expected = r#"{"event":"alarm.activated","name":"kafka_down","message":"no broker answers","sink":"main","activated_at":5,"node":"tidegate"}"#;
    assert_eq!(hand.value().await, expected);
    assert_eq!(hand.len(), 0, "nobody asked for the other");
    let mut client = served.join("c").await;
    client.publish(9, "t", b"").await.unwrap();
    client.expect_ack(PacketType::PubAck, PacketId::new(9).unwrap().get()).await.unwrap();
}

/// The rule that passes on why deliveries are dropped.
fn drops(hand: &Arc<Hand>) -> RuleBinding {
    let columns = "clientid, from_clientid, payload, reason";
    let mut listening = listen(hand, "$events/message/delivery_dropped", columns);
    listening.outputs[0].value = Some(template("${.}"));
    listening
}

fn drop_of(payload: &str, client: &str, reason: &str) -> String {
    format!(r#"{{"clientid":"{client}","from_clientid":"writer","payload":"{payload}","reason":"{reason}"}}"#)
}

#[tokio::test]
async fn what_a_client_that_is_away_loses_is_told_with_the_reason() {
    let hand = Arc::new(Hand::default());
    let served =
        Served::with(|config| Arc::make_mut(&mut config.limits).max_queued_messages = 1, vec![drops(&hand)]);
    let properties = ConnectProperties { session_expiry_interval: Some(60), ..ConnectProperties::default() };
    let mut reader = served.connect(Connect { properties, ..Connect::new(Version::V5, "reader") }).await;
    reader.subscribe(1, "t", QoS::AtLeastOnce).await.unwrap();
    reader.ping().await.unwrap();
    drop(reader);
    let mut writer = served.join("writer").await;
    served.online(1).await;
    for (id, payload) in [(1, b"a"), (2, b"b")] {
        assert_eq!(publish(&mut writer, id, "t", payload).await, ReasonCode::Success);
    }
    assert_eq!(hand.value().await, drop_of("a", "reader", "queue_full"), "the oldest goes");
    let none = Publish { topic: "t", payload: b"c", ..Publish::default() };
    writer.send(&Packet::Publish(none)).await.unwrap();
    assert_eq!(hand.value().await, drop_of("c", "reader", "qos0_msg"));
}

#[tokio::test]
async fn a_publisher_that_wants_none_of_its_own_is_told_of_what_it_does_not_get() {
    let hand = Arc::new(Hand::default());
    let served = Served::start(vec![drops(&hand)]);
    let mut writer = served.join("writer").await;
    let mut filter = SubscribeFilter::new("t", QoS::AtLeastOnce);
    filter.options.no_local = true;
    let subscribe = Subscribe {
        packet_id: PacketId::new(1).unwrap(),
        subscription_identifier: None,
        user_properties: UserProperties::default(),
        filters: vec![filter],
    };
    writer.send(&Packet::Subscribe(Box::new(subscribe))).await.unwrap();
    assert!(matches!(writer.receive().await.unwrap(), Packet::SubAck(_)));
    writer.publish(2, "t", b"x").await.unwrap();
    assert_eq!(hand.value().await, drop_of("x", "writer", "no_local"));
    assert_eq!(hand.len(), 0);
}

#[tokio::test]
async fn a_connection_is_told_with_both_its_addresses_and_what_it_takes_at_once() {
    let hand = Arc::new(Hand::default());
    let served =
        Served::start(vec![listen(&hand, "$events/client_connected", "peername, sockname, receive_maximum")]);
    let properties =
        ConnectProperties { receive_maximum: std::num::NonZeroU16::new(7), ..ConnectProperties::default() };
    let _client = served.connect(Connect { properties, ..Connect::new(Version::V5, "c") }).await;
    let expected = r#"{"peername":"192.0.2.7:1234","sockname":"198.51.100.1:1883","receive_maximum":7}"#;
    assert_eq!(hand.value().await, expected);
}
