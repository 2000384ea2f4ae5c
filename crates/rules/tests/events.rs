//! Events other than messages: who listens to them, and what they say.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use allocation_counter::measure;
use tidegate_rules::{Connection, Details, EvalScratch, Event, EventKind, Property, Rule, RuleSet};

fn set(froms: &[&str]) -> RuleSet {
    let rule = |(at, from): (usize, &&str)| {
        Rule::compile(&at.to_string(), &format!("SELECT * FROM {from}")).unwrap()
    };
    RuleSet::new(froms.iter().enumerate().map(rule).collect()).unwrap()
}

/// The row of `SELECT *`, without what every event has.
fn row(event: &Event<'_>) -> String {
    let rule = Rule::compile("r", "SELECT * FROM \"$events/#\"").unwrap();
    let mut scratch = EvalScratch::default();
    let outcome = rule.evaluate(&mut scratch.start(event)).unwrap();
    let mut out = Vec::new();
    outcome.rows()[0].write_json(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_set_knows_which_events_anybody_listens_to() {
    let rules = set(&["\"t/#\"", "\"$events/client_connected\", \"t/a\"", "\"$events/client/+\""]);
    let listened: Vec<_> = EventKind::ALL.into_iter().filter(|kind| rules.listens(*kind)).collect();
    assert_eq!(
        listened,
        [
            EventKind::MessagePublish,
            EventKind::ClientConnected,
            EventKind::ClientDisconnected,
            EventKind::ClientConnack,
            EventKind::ClientPing
        ]
    );
    assert!(!RuleSet::default().listens(EventKind::MessagePublish));
    assert!(!rules.listens(EventKind::WindowClosed));
}

#[test]
fn every_listener_of_an_event_is_visited_once_and_no_other_rule() {
    let rules = set(&["\"#\"", "\"$events/#\", \"$events/client/+\"", "\"$events/message_acked\""]);
    let readers = |event: Event<'_>| {
        let mut positions = Vec::new();
        rules.for_each_reader(&event, |position, _| positions.push(position));
        positions
    };
    assert_eq!(readers(Event::publish("t", "c", b"")), [0]);
    assert_eq!(readers(Event::of(EventKind::ClientConnected, "c", Details::None)), [1]);
    assert_eq!(readers(Event::of(EventKind::MessageAcked, "c", Details::None)), [1, 2]);
    // A message can't pretend to be an event.
    assert!(readers(Event::publish("$events/client_connected", "c", b"")).is_empty());
}

#[test]
fn both_names_of_every_event_mean_the_same() {
    for kind in EventKind::ALL {
        let Some(topic) = kind.topic() else { continue };
        let legacy = match topic {
            "$events/auth/check_authn_complete" => "$events/client_check_authn_complete".to_owned(),
            "$events/auth/check_authz_complete" => "$events/client_check_authz_complete".to_owned(),
            "$events/message/delivery_dropped" => "$events/delivery_dropped".to_owned(),
            other => other.replace("sys/", "").replacen('/', "_", 2).replacen('_', "/", 1),
        };
        for name in [topic, &legacy] {
            let rule = Rule::compile("r", &format!("SELECT * FROM \"{name}\"")).unwrap();
            assert_eq!(rule.kinds(), [kind], "{name}");
        }
        assert_eq!(EventKind::named(kind.name()), Some(kind));
    }
}

#[test]
fn a_connection_tells_its_columns() {
    let connection = Connection {
        local: Some("10.0.0.1:1883".parse().unwrap()),
        protocol: "MQTT",
        version: 5,
        keep_alive_s: 60,
        clean_start: true,
        expiry_interval_s: 30,
        receive_maximum: 20,
        is_bridge: false,
        connected_at_ms: 1000,
    };
    let properties = [Property::User("k", "v")];
    let mut event = Event::of(EventKind::ClientConnected, "c", Details::Connection(connection));
    event.properties = Some(&properties);
    insta::assert_snapshot!(row(&event));
    let details = Details::Disconnected { connection, reason: "keepalive_timeout", disconnected_at_ms: 2000 };
    insta::assert_snapshot!(row(&Event::of(EventKind::ClientDisconnected, "c", details)));
    let details = Details::Connack { connection, reason_code: "not_authorized" };
    insta::assert_snapshot!(row(&Event::of(EventKind::ClientConnack, "c", details)));
}

#[test]
fn access_control_subscriptions_deliveries_and_alarms_tell_their_columns() {
    let rows: Vec<_> = [
        (
            EventKind::ClientCheckAuthnComplete,
            Details::Authenticated { reason_code: "success", is_anonymous: false, is_superuser: true },
        ),
        (
            EventKind::ClientCheckAuthzComplete,
            Details::Authorized { action: "publish", result: "deny", source: "file" },
        ),
        (EventKind::SessionSubscribed, Details::None),
        (
            EventKind::MessageDelivered,
            Details::Delivery { from_client_id: "p", from_username: Some("u"), ack_properties: None },
        ),
        (EventKind::MessageDropped, Details::Dropped { reason: "no_subscribers" }),
        (
            EventKind::DeliveryDropped,
            Details::DeliveryDropped { from_client_id: "p", from_username: None, reason: "queue_full" },
        ),
        (EventKind::SchemaValidationFailed, Details::Failed { by: "v1" }),
        (
            EventKind::AlarmDeactivated,
            Details::Alarm {
                name: "disk",
                message: "full",
                details: &[("disk", "a")],
                activated_at_ms: 1,
                deactivated_at_ms: Some(2),
            },
        ),
    ]
    .map(|(kind, details)| {
        let mut event = Event::of(kind, "c", details);
        event.topic = "t/a";
        event.qos = 1;
        event.payload = b"p";
        row(&event)
    })
    .into();
    insta::assert_snapshot!(rows.join("\n"));
}

#[test]
fn a_column_that_the_event_does_not_have_is_warned_about() {
    let warnings = |sql: &str| {
        let rule = Rule::compile("r", sql).unwrap();
        let found = rule.warnings().iter().map(|warning| warning.message.clone());
        found.collect::<Vec<_>>()
    };
    assert_eq!(
        warnings("SELECT payload.x AS x, reason FROM \"$events/client_connected\""),
        [
            "the event client.connected has no column `payload`: its value is always missing",
            "the event client.connected has no column `reason`: its value is always missing"
        ]
    );
    assert!(warnings("SELECT reason, payload FROM \"$events/client_disconnected\", \"t\"").is_empty());
}

#[test]
fn an_event_is_built_and_refused_without_an_allocation() {
    let rule = Rule::compile("r", "SELECT * FROM \"$events/#\" WHERE reason = 'x' OR sockname = 1 AND false");
    let rule = rule.unwrap();
    let mut scratch = EvalScratch::default();
    let mut run = || {
        let event = Event::of(EventKind::MessageDropped, "c", Details::Dropped { reason: "queue_full" });
        rule.evaluate(&mut scratch.start(&event)).unwrap().rows().len()
    };
    run();
    assert_eq!(measure(|| _ = run()).count_total, 0);
}
