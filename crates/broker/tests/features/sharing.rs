//! Shared subscriptions.

use std::time::Duration;

use tidegate_broker::SharedStrategy;
use tidegate_codec::{
    Packet, PacketId, PacketType, PubAck, Publish, QoS, ReasonCode, SubscribeOptions, Version,
};

use crate::served::{A_WHILE, Client, Served, drain, publish, receive, subscribe_with};

const QOS1: SubscribeOptions = SubscribeOptions {
    qos: QoS::AtLeastOnce,
    no_local: false,
    retain_as_published: false,
    retain_handling: tidegate_codec::RetainHandling::Send,
};

async fn share(client: &mut Client, filter: &str) {
    assert_eq!(subscribe_with(client, filter, QOS1).await, ReasonCode::GrantedQos1);
}

#[tokio::test(start_paused = true)]
async fn each_message_is_for_one_member_in_turn_and_for_everyone_else_as_well() {
    let served = Served::start(|_| {});
    let mut members = Vec::new();
    for id in ["a", "b", "c"] {
        let mut member = served.join(Version::V5, id).await;
        share(&mut member, "$share/group/t/#").await;
        members.push(member);
    }
    let mut other_group = served.join(Version::V3_1_1, "d").await;
    share(&mut other_group, "$queue/t/+").await;
    let mut alone = served.join(Version::V5, "e").await;
    share(&mut alone, "t/1").await;
    let mut publisher = served.join(Version::V5, "publisher").await;
    for number in 0..30_u8 {
        assert_eq!(publish(&mut publisher, "t/1", &[number], false).await, ReasonCode::Success);
    }
    for (index, member) in members.iter_mut().enumerate() {
        let expected: Vec<Vec<u8>> = (0..10_u8).map(|turn| vec![3 * turn + index as u8]).collect();
        assert_eq!(drain(member).await, expected);
    }
    for everything in [&mut other_group, &mut alone] {
        assert_eq!(drain(everything).await.len(), 30);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_with_a_subscription_of_its_own_gets_both_copies() {
    let served = Served::start(|_| {});
    let mut member = served.join(Version::V5, "member").await;
    share(&mut member, "$share/group/t").await;
    share(&mut member, "t").await;
    let mut publisher = served.join(Version::V5, "publisher").await;
    publish(&mut publisher, "t", b"x", false).await;
    assert_eq!(drain(&mut member).await, [b"x", b"x"]);
    member.unsubscribe(1, "$share/group/t").await.unwrap();
    publish(&mut publisher, "t", b"y", false).await;
    assert_eq!(drain(&mut member).await, [b"y"]);
}

/// Section 4.8.2: a QoS 1 message that a member did not acknowledge goes to another when its session ends.
#[tokio::test(start_paused = true)]
async fn what_a_member_leaves_unacknowledged_goes_to_another_in_order() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut leaving = served.join(Version::V5, "leaving").await;
    share(&mut leaving, "$share/group/t").await;
    for number in 0..100_u8 {
        publish(&mut publisher, "t", &[number], false).await;
    }
    // More than its window: some are in flight, and the rest waits in its queue.
    for number in 0..3 {
        let id = leaving.expect_publish().await.unwrap().packet_id.unwrap();
        assert_eq!(id.0.get(), number + 1);
        leaving.puback(id).await.unwrap();
    }
    leaving.ping_over_publishes().await;
    let mut staying = served.join(Version::V5, "staying").await;
    share(&mut staying, "$share/group/t").await;
    drop(leaving);
    let expected: Vec<Vec<u8>> = (3..100_u8).map(|number| vec![number]).collect();
    assert_eq!(drain(&mut staying).await, expected);
    assert_eq!(served.count("tidegate_shared_redispatched_total", None), 97);
}

trait PingOverPublishes {
    async fn ping_over_publishes(&mut self);
}

impl PingOverPublishes for Client {
    /// Returns when everything that was sent before is handled.
    async fn ping_over_publishes(&mut self) {
        self.send(&Packet::PingReq).await.unwrap();
        while self.receive().await.unwrap() != Packet::PingResp {}
    }
}

/// [MQTT5-4.8.2-5]
#[tokio::test(start_paused = true)]
async fn mqtt5_4_8_2_5_a_qos_2_message_that_began_is_for_nobody_else() {
    let served = Served::start(|_| {});
    let qos2 = SubscribeOptions { qos: QoS::ExactlyOnce, ..SubscribeOptions::default() };
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut leaving = served.join(Version::V5, "leaving").await;
    subscribe_with(&mut leaving, "$share/group/t", qos2).await;
    let id = PacketId::new(1).unwrap();
    let message = Publish { qos: QoS::ExactlyOnce, topic: "t", packet_id: Some(id), ..Publish::default() };
    publisher.send(&Packet::Publish(message)).await.unwrap();
    publisher.expect_ack(PacketType::PubRec, 1).await.unwrap();
    assert_eq!(leaving.expect_publish().await.unwrap().qos, QoS::ExactlyOnce);
    let mut staying = served.join(Version::V5, "staying").await;
    subscribe_with(&mut staying, "$share/group/t", qos2).await;
    drop(leaving);
    staying.expect_silence(A_WHILE).await.unwrap();
    assert_eq!(served.count("tidegate_messages_dropped_total", Some("shared_qos2_begun")), 1);
}

/// [MQTT5-4.8.2-6]
#[tokio::test(start_paused = true)]
async fn mqtt5_4_8_2_6_a_message_that_a_member_refuses_is_for_nobody_else() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut leaving = served.join(Version::V5, "leaving").await;
    share(&mut leaving, "$share/group/t").await;
    publish(&mut publisher, "t", b"x", false).await;
    let id = leaving.expect_publish().await.unwrap().packet_id.unwrap();
    let refusal = PubAck::with_reason(id, ReasonCode::ImplementationSpecificError);
    leaving.send(&Packet::PubAck(refusal)).await.unwrap();
    leaving.ping().await.unwrap();
    let mut staying = served.join(Version::V5, "staying").await;
    share(&mut staying, "$share/group/t").await;
    drop(leaving);
    staying.expect_silence(A_WHILE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_away_gets_nothing_while_another_is_online_and_everything_while_none_is() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut away = served.stay("away", 60).await;
    share(&mut away, "$share/group/t").await;
    drop(away);
    served.settled(1).await;
    let mut online = served.join(Version::V5, "online").await;
    share(&mut online, "$share/group/t").await;
    for number in 0..4_u8 {
        publish(&mut publisher, "t", &[number], false).await;
    }
    assert_eq!(drain(&mut online).await.len(), 4);
    online.unsubscribe(1, "$share/group/t").await.unwrap();
    publish(&mut publisher, "t", b"queued", false).await;
    let mut back = served.stay("away", 60).await;
    assert_eq!(receive(&mut back).await.1, b"queued");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_member_that_never_returns_goes_to_another_when_its_session_expires() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut away = served.stay("away", 60).await;
    share(&mut away, "$share/group/t").await;
    drop(away);
    served.settled(1).await;
    publish(&mut publisher, "t", b"x", false).await;
    let mut online = served.join(Version::V5, "online").await;
    share(&mut online, "$share/group/t").await;
    online.set_patience(Duration::from_secs(100));
    online.expect_silence(Duration::from_secs(59)).await.unwrap();
    assert_eq!(receive(&mut online).await.1, b"x");
}

#[tokio::test(start_paused = true)]
async fn a_clean_start_of_a_member_hands_over_what_its_old_session_owed() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut member = served.stay("member", 60).await;
    share(&mut member, "$share/group/t").await;
    publish(&mut publisher, "t", b"x", false).await;
    assert_eq!(receive(&mut member).await.1, b"x");
    let mut other = served.join(Version::V5, "other").await;
    share(&mut other, "$share/group/t").await;
    let _again = served.join(Version::V5, "member").await;
    assert_eq!(drain(&mut other).await, [b"x"]);
}

/// Whether a member has acknowledged a message has nothing to do with who else holds it.
#[tokio::test(start_paused = true)]
async fn what_a_member_has_acknowledged_is_not_handed_over_because_others_still_hold_it() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    let mut holder = served.join(Version::V5, "holder").await;
    share(&mut holder, "t").await;
    share(&mut holder, "$share/other/t").await;
    let mut leaving = served.join(Version::V5, "leaving").await;
    share(&mut leaving, "$share/group/t").await;
    publish(&mut publisher, "t", b"x", true).await;
    assert_eq!(drain(&mut leaving).await, [b"x"]);
    let mut staying = served.join(Version::V5, "staying").await;
    share(&mut staying, "$share/group/t").await;
    drop(leaving);
    staying.expect_silence(A_WHILE).await.unwrap();
    assert_eq!(receive(&mut holder).await.1, b"x");
    assert_eq!(receive(&mut holder).await.1, b"x");
}

#[tokio::test(start_paused = true)]
async fn nothing_retained_comes_for_a_shared_subscription() {
    let served = Served::start(|_| {});
    let mut publisher = served.join(Version::V5, "publisher").await;
    publish(&mut publisher, "t", b"x", true).await;
    let mut member = served.join(Version::V5, "member").await;
    share(&mut member, "$share/group/t").await;
    member.expect_silence(A_WHILE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sticky_group_stays_with_one_member() {
    let served = Served::start(|config| config.shared = SharedStrategy::Sticky);
    let mut members = Vec::new();
    for id in ["a", "b"] {
        let mut member = served.join(Version::V5, id).await;
        share(&mut member, "$share/group/t").await;
        members.push(member);
    }
    let mut publisher = served.join(Version::V5, "publisher").await;
    for number in 0..10_u8 {
        publish(&mut publisher, "t", &[number], false).await;
    }
    assert_eq!(drain(&mut members[0]).await.len(), 10);
    members[1].expect_silence(A_WHILE).await.unwrap();
}
