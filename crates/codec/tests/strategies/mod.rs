//! Arbitrary packets, each of a kind that its version and direction allow.
//!
//! Packets borrow what they carry, so the generated strings and payloads are leaked: a few megabytes for a whole run.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use tidegate_codec::*;

pub(crate) fn version() -> impl Strategy<Value = Version> {
    select(vec![Version::V3_1, Version::V3_1_1, Version::V5])
}

/// A packet that travels in that version, and the side that decodes it.
pub(crate) fn packet(version: Version) -> BoxedStrategy<(Role, Packet<'static>)> {
    let v5 = version == Version::V5;
    let to_server = |packet: BoxedStrategy<Packet<'static>>| packet.prop_map(|p| (Role::Server, p)).boxed();
    let to_client = |packet: BoxedStrategy<Packet<'static>>| packet.prop_map(|p| (Role::Client, p)).boxed();
    let mut kinds = vec![
        to_server(connect(version).prop_map(|p| Packet::Connect(Box::new(p))).boxed()),
        to_client(connack(version).prop_map(|p| Packet::ConnAck(Box::new(p))).boxed()),
        to_server(publish(version, Role::Server).prop_map(Packet::Publish).boxed()),
        to_client(publish(version, Role::Client).prop_map(Packet::Publish).boxed()),
        to_server(puback(version, PacketType::PubAck).prop_map(Packet::PubAck).boxed()),
        to_client(puback(version, PacketType::PubRec).prop_map(Packet::PubRec).boxed()),
        to_server(puback(version, PacketType::PubRel).prop_map(Packet::PubRel).boxed()),
        to_client(puback(version, PacketType::PubComp).prop_map(Packet::PubComp).boxed()),
        to_server(subscribe(version).prop_map(|p| Packet::Subscribe(Box::new(p))).boxed()),
        to_client(suback(version).prop_map(|p| Packet::SubAck(Box::new(p))).boxed()),
        to_server(unsubscribe(version).prop_map(|p| Packet::Unsubscribe(Box::new(p))).boxed()),
        to_client(unsuback(version).prop_map(|p| Packet::UnsubAck(Box::new(p))).boxed()),
        to_server(Just(Packet::PingReq).boxed()),
        to_client(Just(Packet::PingResp).boxed()),
        to_server(disconnect(version, Role::Server).prop_map(Packet::Disconnect).boxed()),
    ];
    if v5 {
        kinds.push(to_client(disconnect(version, Role::Client).prop_map(Packet::Disconnect).boxed()));
        kinds.push(to_server(auth().prop_map(|p| Packet::Auth(Box::new(p))).boxed()));
    }
    proptest::strategy::Union::new(kinds).boxed()
}

fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        4 => "[^\u{0}]{0,12}",
        // On both sides of where the SIMD validation takes over.
        1 => "[^\u{0}]{50,80}",
    ]
    .prop_map(|text| &*text.leak())
}

fn topic() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => "[^\u{0}+#]{1,12}", 1 => "[a-z/]{60,70}"].prop_map(|topic| &*topic.leak())
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 100..300)]
        .prop_map(|bytes| &*bytes.leak())
}

fn qos() -> impl Strategy<Value = QoS> {
    select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    any::<NonZeroU16>().prop_map(PacketId)
}

fn user_properties() -> impl Strategy<Value = UserProperties<'static>> {
    prop_oneof![2 => Just(vec![]), 1 => vec((text(), text()), 1..4)]
        .prop_map(|pairs| UserProperties::from_pairs(pairs).unwrap())
}

fn subscription_identifier() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1..=200_u32, 1..=SubscriptionIdentifiers::MAX].prop_map(|n| NonZeroU32::new(n).unwrap())
}

fn reason(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let allowed: Vec<_> =
        (0..=u8::MAX).filter_map(ReasonCode::from_u8).filter(|reason| reason.is_allowed_in(packet)).collect();
    prop_oneof![Just(allowed[0]), select(allowed)]
}

/// The strategy in 5.0, the default before: what is not on the wire there.
fn in_v5<T: Default + std::fmt::Debug + Clone + 'static>(
    version: Version,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if version == Version::V5 { strategy.boxed() } else { Just(T::default()).boxed() }
}

fn connect(version: Version) -> impl Strategy<Value = Connect<'static>> {
    let bridge = if version == Version::V5 { Just(false).boxed() } else { any::<bool>().boxed() };
    let credentials = (of(text()), of(binary()));
    let properties = in_v5(version, connect_properties());
    (bridge, any::<bool>(), any::<u16>(), text(), of(will(version)), credentials, properties).prop_map(
        move |(bridge, clean_start, keep_alive, client_id, will, (username, password), properties)| Connect {
            version,
            bridge,
            clean_start,
            keep_alive,
            client_id,
            will,
            username,
            password: password.filter(|_| version == Version::V5 || username.is_some()),
            properties,
        },
    )
}

fn will(version: Version) -> impl Strategy<Value = Will<'static>> {
    let delay_interval = in_v5(version, prop_oneof![Just(0), any::<u32>()]);
    let properties = in_v5(version, message_properties());
    (topic(), binary(), qos(), any::<bool>(), delay_interval, properties).prop_map(
        |(topic, payload, qos, retain, delay_interval, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_interval,
            properties,
        },
    )
}

fn authentication() -> impl Strategy<Value = (Option<&'static str>, Option<&'static [u8]>)> {
    (of(text()), of(binary())).prop_map(|(method, data)| (method, data.filter(|_| method.is_some())))
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties<'static>> {
    (
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(any::<NonZeroU32>()),
        of(any::<u16>()),
        of(any::<bool>()),
        of(any::<bool>()),
        authentication(),
        user_properties(),
    )
        .prop_map(
            |(expiry, receive, size, aliases, response, problem, (method, data), user_properties)| {
                ConnectProperties {
                    session_expiry_interval: expiry,
                    receive_maximum: receive,
                    maximum_packet_size: size,
                    topic_alias_maximum: aliases,
                    request_response_information: response,
                    request_problem_information: problem,
                    authentication_method: method,
                    authentication_data: data,
                    user_properties,
                }
            },
        )
}

fn connack(version: Version) -> BoxedStrategy<ConnAck<'static>> {
    let reason = if version == Version::V5 {
        reason(PacketType::ConnAck).boxed()
    } else {
        select((0..=5).filter_map(ReasonCode::from_connect_return_code).collect::<Vec<_>>()).boxed()
    };
    (any::<bool>(), reason, in_v5(version, connack_properties()))
        .prop_map(move |(session_present, reason, properties)| ConnAck {
            session_present: session_present && reason == ReasonCode::Success && version != Version::V3_1,
            reason,
            properties,
        })
        .boxed()
}

fn connack_properties() -> impl Strategy<Value = ConnAckProperties<'static>> {
    let numbers = (
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(select(vec![QoS::AtMostOnce, QoS::AtLeastOnce])),
        of(any::<NonZeroU32>()),
        of(any::<u16>()),
        of(any::<u16>()),
    );
    let flags = (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let texts = (of(text()), of(text()), of(text()), of(text()), authentication(), user_properties());
    (numbers, flags, texts).prop_map(|(numbers, flags, texts)| ConnAckProperties {
        session_expiry_interval: numbers.0,
        receive_maximum: numbers.1,
        maximum_qos: numbers.2,
        maximum_packet_size: numbers.3,
        topic_alias_maximum: numbers.4,
        server_keep_alive: numbers.5,
        retain_available: flags.0,
        wildcard_subscription_available: flags.1,
        subscription_identifiers_available: flags.2,
        shared_subscription_available: flags.3,
        assigned_client_id: texts.0,
        reason_string: texts.1,
        response_information: texts.2,
        server_reference: texts.3,
        authentication_method: texts.4.0,
        authentication_data: texts.4.1,
        user_properties: texts.5,
    })
}

fn message_properties() -> impl Strategy<Value = PublishProperties<'static>> {
    (of(any::<bool>()), of(any::<u32>()), of(topic()), of(binary()), user_properties(), of(text())).prop_map(
        |(payload_is_utf8, expiry, response_topic, correlation_data, user_properties, content_type)| {
            PublishProperties {
                payload_is_utf8,
                message_expiry_interval: expiry,
                topic_alias: None,
                response_topic,
                correlation_data,
                user_properties,
                subscription_identifiers: SubscriptionIdentifiers::None,
                content_type,
            }
        },
    )
}

fn publish(version: Version, role: Role) -> impl Strategy<Value = Publish<'static>> {
    let properties = prop_oneof![Just(PublishProperties::default()), message_properties()];
    let identifiers = match role {
        Role::Server => Just(vec![]).boxed(),
        Role::Client => vec(subscription_identifier(), 0..4).boxed(),
    };
    let properties =
        (properties, of(any::<NonZeroU16>()), identifiers).prop_map(|(properties, topic_alias, list)| {
            PublishProperties {
                topic_alias,
                subscription_identifiers: match &*list.leak() {
                    [] => SubscriptionIdentifiers::None,
                    list => SubscriptionIdentifiers::List(list),
                },
                ..properties
            }
        });
    let properties = in_v5(version, properties);
    let payload =
        prop_oneof![8 => binary(), 1 => vec(any::<u8>(), 16_300..16_500).prop_map(|bytes| &*bytes.leak())];
    let flags = (any::<bool>(), qos(), any::<bool>(), any::<bool>());
    (flags, topic(), packet_id(), properties, payload).prop_map(
        |((dup, qos, retain, by_alias), topic, packet_id, properties, payload)| Publish {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: if by_alias && properties.topic_alias.is_some() { "" } else { topic },
            packet_id: (qos != QoS::AtMostOnce).then_some(packet_id),
            properties,
            payload,
        },
    )
}

fn puback(version: Version, packet: PacketType) -> impl Strategy<Value = PubAck<'static>> {
    let explained = (reason(packet), of(text()), user_properties());
    (packet_id(), in_v5(version, explained)).prop_map(
        |(packet_id, (reason, reason_string, user_properties))| PubAck {
            packet_id,
            reason,
            reason_string,
            user_properties,
        },
    )
}

fn subscribe(version: Version) -> impl Strategy<Value = Subscribe<'static>> {
    let handling = select(vec![RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]);
    let options = in_v5(version, (any::<bool>(), any::<bool>(), handling));
    let filter = (text(), qos(), options).prop_map(
        |(filter, qos, (no_local, retain_as_published, retain_handling))| SubscribeFilter {
            filter,
            options: SubscribeOptions { qos, no_local, retain_as_published, retain_handling },
        },
    );
    let properties = in_v5(version, (of(subscription_identifier()), user_properties()));
    (packet_id(), properties, vec(filter, 1..5)).prop_map(
        |(packet_id, (subscription_identifier, user_properties), filters)| Subscribe {
            packet_id,
            subscription_identifier,
            user_properties,
            filters,
        },
    )
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Unsubscribe<'static>> {
    (packet_id(), in_v5(version, user_properties()), vec(text(), 1..5))
        .prop_map(|(packet_id, user_properties, filters)| Unsubscribe { packet_id, user_properties, filters })
}

fn suback_with(
    version: Version,
    reasons: impl Strategy<Value = Vec<ReasonCode>>,
) -> impl Strategy<Value = SubAck<'static>> {
    (packet_id(), in_v5(version, (of(text()), user_properties())), reasons).prop_map(
        |(packet_id, (reason_string, user_properties), reasons)| SubAck {
            packet_id,
            reason_string,
            user_properties,
            reasons,
        },
    )
}

fn suback(version: Version) -> impl Strategy<Value = SubAck<'static>> {
    let reason = if version == Version::V5 {
        reason(PacketType::SubAck).boxed()
    } else {
        select((0..=u8::MAX).filter_map(ReasonCode::from_subscribe_return_code).collect::<Vec<_>>()).boxed()
    };
    suback_with(version, vec(reason, 1..5))
}

fn unsuback(version: Version) -> impl Strategy<Value = SubAck<'static>> {
    suback_with(version, in_v5(version, vec(reason(PacketType::UnsubAck), 1..5)))
}

fn disconnect(version: Version, role: Role) -> impl Strategy<Value = Disconnect<'static>> {
    let fields =
        (reason(PacketType::Disconnect), of(any::<u32>()), of(text()), of(text()), user_properties());
    in_v5(version, fields).prop_map(
        move |(reason, expiry, reason_string, server_reference, user_properties)| Disconnect {
            reason,
            session_expiry_interval: expiry.filter(|_| role == Role::Server),
            reason_string,
            server_reference,
            user_properties,
        },
    )
}

fn auth() -> impl Strategy<Value = Auth<'static>> {
    (reason(PacketType::Auth), authentication(), of(text()), user_properties()).prop_map(
        |(reason, (authentication_method, authentication_data), reason_string, user_properties)| Auth {
            reason,
            authentication_method,
            authentication_data,
            reason_string,
            user_properties,
        },
    )
}
