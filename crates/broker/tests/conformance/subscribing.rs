//! SUBSCRIBE to UNSUBACK, and what filters match: chapters 3.8 to 3.11 and 4.7.

use tidegate_codec::{
    Packet, Publish, QoS, ReasonCode, SubscribeFilter, Unsubscribe, UserProperties, Version,
};

use crate::world::{ALL_QOS, BOTH, Client, Script, World, codes_of, id, publish};

async fn unsubscribe(client: &mut Client, number: u16, filters: &[&str]) -> Vec<ReasonCode> {
    let unsubscribe = Unsubscribe {
        packet_id: id(number),
        user_properties: UserProperties::default(),
        filters: filters.to_vec(),
    };
    client.send(&Packet::Unsubscribe(Box::new(unsubscribe))).await.unwrap();
    match client.receive().await.unwrap() {
        Packet::UnsubAck(unsuback) => {
            assert_eq!(unsuback.packet_id, id(number));
            codes_of(&unsuback)
        }
        packet => panic!("{packet:?}"),
    }
}

/// [MQTT5-2.2.1-6] [MQTT311-2.3.1-7] [MQTT5-3.8.4-1] [MQTT311-3.8.4-1] [MQTT5-3.8.4-2] [MQTT311-3.8.4-2]
/// [MQTT5-3.10.4-4] [MQTT5-3.10.4-5] [MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT5-2.2.2-1]: an UNSUBACK of 3.1.1 has no
/// payload, and one of 5.0 says that it has no properties.
#[tokio::test(start_paused = true)]
async fn suback_and_unsuback_repeat_the_identifier_of_their_request() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        for number in [1, 256, 65_535] {
            client.subscribe(number, "a", QoS::AtMostOnce).await.unwrap();
            client.unsubscribe(number, "a").await.unwrap();
            client.unsubscribe(number, "never subscribed").await.unwrap();
        }
        let [high, low] = 1_u16.to_be_bytes();
        let mut stream = client.into_stream();
        let request: &[u8] =
            if version == Version::V5 { b"\xa2\x06\0\x01\0\0\x01a" } else { b"\xa2\x05\0\x01\0\x01a" };
        let answer: &[u8] =
            if version == Version::V5 { &[0xb0, 4, high, low, 0, 0x11] } else { &[0xb0, 2, high, low] };
        tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
        let mut read = vec![0; answer.len()];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut read).await.unwrap();
        assert_eq!(read, answer);
    }
}

/// [MQTT5-3.8.4-5] [MQTT311-3.8.4-4] [MQTT5-3.8.4-6] [MQTT5-3.8.4-7] [MQTT311-3.8.4-5] [MQTT5-3.9.3-1] [MQTT311-3.9.3-1]
/// [MQTT5-3.9.3-2] [MQTT311-3.9.3-2] [MQTT5-4.7.1-1] [MQTT5-4.7.1-2] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3]
/// [MQTT5-4.7.3-1] [MQTT311-4.7.3-1]
#[tokio::test(start_paused = true)]
async fn suback_has_one_code_for_each_filter_in_their_order() {
    for version in BOTH {
        let world = World::with_limits(|limits| limits.max_subscriptions = 6);
        let mut client = world.join(version, "client").await;
        let invalid = if version == Version::V5 {
            ReasonCode::TopicFilterInvalid
        } else {
            ReasonCode::UnspecifiedError
        };
        let asked = [
            ("a", QoS::ExactlyOnce, ReasonCode::GrantedQos2),
            ("a/#/b", QoS::AtMostOnce, invalid),
            ("b", QoS::AtMostOnce, ReasonCode::GRANTED_QOS_0),
            ("c#", QoS::AtMostOnce, invalid),
            ("c+/d", QoS::AtMostOnce, invalid),
            ("", QoS::AtMostOnce, invalid),
            ("+/#", QoS::AtLeastOnce, ReasonCode::GrantedQos1),
            ("a", QoS::AtLeastOnce, ReasonCode::GrantedQos1),
            ("/", QoS::AtMostOnce, ReasonCode::GRANTED_QOS_0),
            ("//+", QoS::AtMostOnce, ReasonCode::GRANTED_QOS_0),
        ];
        let filters: Vec<_> =
            asked.iter().map(|(filter, qos, _)| SubscribeFilter::new(filter, *qos)).collect();
        let codes = client.ask(&filters, None).await;
        let expected: Vec<_> = asked.iter().map(|(_, _, code)| *code).collect();
        assert_eq!(codes, expected, "{version:?}");
        // As if each had come alone: the refused ones do nothing, the others hold, the later of two wins.
        client.say_ignoring(&["a", "b", "x/y", "//z"]).await;
        let got: Vec<_> = client.all().await.into_iter().map(|got| got.topic).collect();
        assert_eq!(got, ["a", "b", "x/y", "//z"]);
        unsubscribe(&mut client, 3, &["+/#"]).await;
        client.say_ignoring(&["x/y", "c", "b"]).await;
        assert_eq!(client.all().await.len(), 1);
    }
}

trait SayIgnoring {
    /// Publishes to each topic at QoS 0 without waiting.
    async fn say_ignoring(&mut self, topics: &[&str]);
}

impl SayIgnoring for Client {
    async fn say_ignoring(&mut self, topics: &[&str]) {
        for topic in topics {
            self.send(&Packet::Publish(publish(QoS::AtMostOnce, 0, topic, b"x"))).await.unwrap();
        }
    }
}

/// [MQTT5-3.10.4-6] [MQTT311-3.10.4-6] [MQTT5-3.11.3-1] [MQTT5-3.11.3-2] [MQTT5-3.10.4-5]
#[tokio::test(start_paused = true)]
async fn unsuback_has_one_code_for_each_filter_in_their_order() {
    use ReasonCode::{NoSubscriptionExisted, Success};

    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        for filter in ["a", "b/+", "c/#"] {
            client.subscribe(1, filter, QoS::AtMostOnce).await.unwrap();
        }
        let codes = unsubscribe(&mut client, 2, &["c/#", "never", "a", "a", "b/#/", "b/+"]).await;
        let expected: &[ReasonCode] = match version {
            Version::V5 => &[
                Success,
                NoSubscriptionExisted,
                Success,
                NoSubscriptionExisted,
                NoSubscriptionExisted,
                Success,
            ],
            _ => &[],
        };
        assert_eq!(codes, expected);
        client.say_ignoring(&["a", "b/1", "c"]).await;
        assert_eq!(client.all().await, []);
    }
}

/// [MQTT5-3.8.4-3] [MQTT311-3.8.4-3]
#[tokio::test(start_paused = true)]
async fn the_same_filter_again_replaces_the_subscription() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut client = world.join(version, "client").await;
        for granted in [QoS::ExactlyOnce, QoS::AtMostOnce, QoS::AtLeastOnce] {
            client.subscribe(1, "a/+", granted).await.unwrap();
            publisher.say(QoS::ExactlyOnce, "a/b", "x").await;
            let got = client.all().await;
            assert_eq!(got.len(), 1, "{version:?}");
            assert_eq!(got[0].qos, granted);
        }
        client.unsubscribe(1, "a/+").await.unwrap();
        publisher.say(QoS::ExactlyOnce, "a/b", "x").await;
        assert_eq!(client.all().await, []);
    }
}

/// [MQTT5-3.10.4-1] [MQTT311-3.10.4-1]
#[tokio::test(start_paused = true)]
async fn unsubscribe_takes_only_the_filter_with_the_same_characters() {
    for version in BOTH {
        let world = World::new();
        let mut client = world.join(version, "client").await;
        client.subscribe(1, "a/b", QoS::AtMostOnce).await.unwrap();
        unsubscribe(&mut client, 2, &["a/+", "a/#", "#", "a/B", "a/b/", "/a/b", "a"]).await;
        client.say_ignoring(&["a/b"]).await;
        assert_eq!(client.all().await.len(), 1);
        unsubscribe(&mut client, 3, &["a/b"]).await;
        client.say_ignoring(&["a/b"]).await;
        assert_eq!(client.all().await, []);
    }
}

/// [MQTT5-3.10.4-2] [MQTT311-3.10.4-2] [MQTT5-3.10.4-3] [MQTT311-3.10.4-3]
#[tokio::test(start_paused = true)]
async fn after_unsubscribe_nothing_new_comes_and_what_was_begun_is_finished() {
    for version in BOTH {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let world = World::new();
            let mut publisher = world.join(version, "publisher").await;
            let (mut client, _) = world.resume(version, "client").await;
            client.subscribe(1, "a", qos).await.unwrap();
            publisher.say(qos, "a", "begun").await;
            let begun = client.got().await;
            client.unsubscribe(2, "a").await.unwrap();
            publisher.say(qos, "a", "new").await;
            assert_eq!(client.all().await, []);
            drop(client);
            let (mut client, _) = world.resume(version, "client").await;
            let again = client.all().await;
            assert_eq!(again.len(), 1, "{version:?} {qos:?}");
            assert_eq!((again[0].packet_id, again[0].text()), (begun.packet_id, "begun"));
            client.finish(&again[0]).await;
            client.ping().await.unwrap();
        }
    }
}

/// [MQTT5-3.8.1-1] [MQTT311-3.8.1-1] [MQTT5-3.10.1-1] [MQTT311-3.10.1-1]
#[tokio::test(start_paused = true)]
async fn subscribe_and_unsubscribe_with_other_flags_close() {
    let world = World::new();
    for first in [0x80, 0xa0] {
        for flags in (0..16).filter(|flags| *flags != 2) {
            let bytes = [first | flags, 2, 0, 1];
            assert_eq!(world.answer_of(Version::V5, &bytes).await, b"\xe0\x01\x81");
            assert_eq!(world.answer_of(Version::V3_1_1, &bytes).await, b"");
        }
    }
}

/// [MQTT5-3.8.3-1] [MQTT311-3.8.3-1] [MQTT5-3.8.3-2] [MQTT311-3.8.3-3] [MQTT5-3.8.3-4] [MQTT5-3.8.3-5] [MQTT311-3-8.3-4]
/// [MQTT5-3.10.3-1] [MQTT311-3.10.3-1] [MQTT5-3.10.3-2] [MQTT311-3.10.3-2] [MQTT5-4.7.3-2] [MQTT311-4.7.3-2]
#[tokio::test(start_paused = true)]
async fn attack_16_a_subscribe_or_unsubscribe_that_must_not_be_ends_the_connection() {
    use ReasonCode::{MalformedPacket, ProtocolError};

    let world = World::new();
    let five: &[(&str, &[u8], ReasonCode)] = &[
        ("no filter", b"\x82\x03\0\x01\0", ProtocolError),
        ("no options behind the filter", b"\x82\x06\0\x01\0\0\x01a", MalformedPacket),
        ("a filter that is not UTF-8", b"\x82\x07\0\x01\0\0\x01\xff\0", MalformedPacket),
        ("U+0000 in the filter", b"\x82\x07\0\x01\0\0\x01\0\0", MalformedPacket),
        ("QoS 3", b"\x82\x07\0\x01\0\0\x01a\x03", ProtocolError),
        ("retain handling 3", b"\x82\x07\0\x01\0\0\x01a\x30", ProtocolError),
        ("reserved option bits", b"\x82\x07\0\x01\0\0\x01a\x40", MalformedPacket),
        ("No Local on a shared subscription", b"\x82\x10\0\x01\0\0\x0a$share/g/t\x04", ProtocolError),
        ("identifier 0", b"\x82\x07\0\0\0\0\x01a\0", ProtocolError),
        ("UNSUBSCRIBE without filter", b"\xa2\x03\0\x01\0", ProtocolError),
        ("UNSUBSCRIBE from what is not UTF-8", b"\xa2\x06\0\x01\0\0\x01\xff", MalformedPacket),
        ("UNSUBSCRIBE with identifier 0", b"\xa2\x06\0\0\0\0\x01a", ProtocolError),
    ];
    for (what, bytes, reason) in five {
        assert_eq!(world.answer_of(Version::V5, bytes).await, [0xe0, 1, reason.as_u8()], "{what}");
    }
    let three: &[(&str, &[u8])] = &[
        ("no filter", b"\x82\x02\0\x01"),
        ("no QoS behind the filter", b"\x82\x05\0\x01\0\x01a"),
        ("a filter that is not UTF-8", b"\x82\x06\0\x01\0\x01\xff\0"),
        ("U+0000 in the filter", b"\x82\x06\0\x01\0\x01\0\0"),
        ("QoS 3", b"\x82\x06\0\x01\0\x01a\x03"),
        ("reserved bits", b"\x82\x06\0\x01\0\x01a\x04"),
        ("UNSUBSCRIBE without filter", b"\xa2\x02\0\x01"),
        ("UNSUBSCRIBE from what is not UTF-8", b"\xa2\x05\0\x01\0\x01\xff"),
    ];
    for (what, bytes) in three {
        assert_eq!(world.answer_of(Version::V3_1_1, bytes).await, b"", "{what}");
    }
}

/// [MQTT5-4.7.2-1] [MQTT311-4.7.2-1] [MQTT5-4.7.3-3] [MQTT311-4.7.3-3] [MQTT5-4.7.3-4] [MQTT311-4.7.3-4] [MQTT311-4.7.1-1]
#[tokio::test(start_paused = true)]
async fn filters_match_by_level_and_character_and_wildcards_do_not_reach_dollar_topics() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let longest = "x".repeat(65_535);
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("#", &["a", "/", "a/$b"], &["$internal", "$internal/a"]),
            ("+/a", &["/a", "b/a", " /a"], &["$internal/a", "a", "b/a/"]),
            ("$internal/#", &["$internal", "$internal/a"], &["internal/a"]),
            ("+", &["a"], &["/a", "a/"]),
            ("a/+/b", &["a//b", "a/ /b"], &["a/b", "a/c/d/b"]),
            (
                "Grü\u{df}e/\u{e9}",
                &["Grü\u{df}e/\u{e9}"],
                &["Grüsse/\u{e9}", "Grü\u{df}e/e\u{301}", "grü\u{df}e/\u{e9}"],
            ),
            ("a b", &["a b"], &["a  b", "a%20b", "a b ", "A b"]),
            (&longest, &[&longest], &["x"]),
        ];
        for (filter, matching, others) in cases {
            let mut subscriber = world.join(version, "subscriber").await;
            subscriber.subscribe(1, filter, QoS::AtMostOnce).await.unwrap();
            for topic in matching.iter().chain(*others) {
                publisher.say(QoS::AtLeastOnce, topic, "x").await;
            }
            let topics: Vec<_> = subscriber.all().await.into_iter().map(|got| got.topic).collect();
            assert_eq!(&topics, matching, "{version:?} {}", &filter[..filter.len().min(20)]);
        }
    }
}

/// [MQTT5-3.8.4-4]: a subscription that is replaced while messages come misses none and doubles none.
#[tokio::test(start_paused = true)]
async fn replacing_a_subscription_loses_no_message() {
    for version in BOTH {
        let world = World::new();
        let mut publisher = world.join(version, "publisher").await;
        let mut client = world.join(version, "client").await;
        client.subscribe(1, "a", QoS::AtMostOnce).await.unwrap();
        let mut received = Vec::new();
        for number in 0..200_u32 {
            let payload = number.to_string();
            publisher
                .send(&Packet::Publish(publish(QoS::AtMostOnce, 0, "a", payload.as_bytes())))
                .await
                .unwrap();
            let qos = ALL_QOS[number as usize % 3];
            client.send_subscribe(qos).await;
            tokio::task::yield_now().await;
        }
        publisher.ping().await.unwrap();
        client.send(&Packet::PingReq).await.unwrap();
        loop {
            match client.receive().await.unwrap() {
                Packet::PingResp => break,
                Packet::SubAck(_) => {}
                Packet::Publish(Publish { payload, .. }) => {
                    received.push(std::str::from_utf8(payload).unwrap().parse::<u32>().unwrap());
                }
                packet => panic!("{packet:?}"),
            }
        }
        assert!(received.iter().copied().eq(0..200), "{received:?}");
    }
}

trait SendSubscribe {
    async fn send_subscribe(&mut self, qos: QoS);
}

impl SendSubscribe for Client {
    async fn send_subscribe(&mut self, qos: QoS) {
        let subscribe = tidegate_codec::Subscribe {
            packet_id: id(2),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: vec![SubscribeFilter::new("a", qos)],
        };
        self.send(&Packet::Subscribe(Box::new(subscribe))).await.unwrap();
    }
}
