//! SUBSCRIBE and UNSUBSCRIBE: what is granted, and what a session's end does to its subscriptions.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Instant;

use tidegate_codec::{
    PacketId, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFilter, SubscribeOptions, Unsubscribe,
    UserProperties,
};
use tidegate_session::Session;

use crate::auto_subscribe::{as_requested, filters_for};
use crate::broker::{Core, now};
use crate::entry::Entry;
use crate::events::About;
use crate::fanout::Wanted;
use crate::listener::Peer;
use crate::place::{Kind, Place};
use crate::replay::Replay;

/// Who subscribes.
pub(crate) struct Client<'a> {
    pub(crate) entry: &'a Arc<Entry>,
    pub(crate) username: Option<&'a str>,
    pub(crate) peer: Peer,
    /// A bridge of 3.x: it gets none of its own messages back, and the retain flag as it was published.
    pub(crate) is_bridge: bool,
}

impl Core {
    /// Grants what can be granted and answers. What is retained follows through `replay` ([MQTT5-3.8.4-4]).
    pub(crate) fn subscribe(
        &self,
        client: &Client<'_>,
        session: &mut Session,
        request: &Subscribe<'_>,
        replay: &mut Replay,
        out: &mut Vec<u8>,
    ) {
        // With what is granted in place of what was asked for.
        let mut request = request.clone();
        let mut results = Vec::with_capacity(request.filters.len());
        let mut room = session.subscriptions_left();
        for asked in &mut request.filters {
            let is_new = session.subscription(asked.filter).is_none();
            let granted = if is_new && room == 0 {
                Err(ReasonCode::QuotaExceeded)
            } else {
                self.grant(client, asked, request.subscription_identifier, is_new, replay)
            };
            match granted {
                Ok(_) => room -= usize::from(is_new),
                Err(reason) => self.metrics.count_refused_subscription(reason),
            }
            results.push(granted);
        }
        session.subscribed(&request, &results, out);
        let about = About {
            client_id: &client.entry.client_id,
            username: client.username,
            peer: client.peer,
            mount: client.entry.mount.as_ref(),
        };
        self.tell_subscribed(&about, &request, &results);
    }

    /// Puts the subscriptions of a session that the store gave back where publishers find them.
    pub(crate) fn restore_subscriptions(&self, entry: &Arc<Entry>, session: &Session) {
        for (filter, subscription) in session.subscriptions() {
            let Ok(place) = Place::of(filter, entry, &self.config) else { continue };
            let wanted = Wanted { options: subscription.options, identifier: subscription.identifier };
            // An exclusive subscription that another has cannot be: both were granted before.
            let _ = self.fanout.subscribe(&place, entry, wanted, &self.metrics);
        }
    }

    /// Makes one subscription, unless something speaks against it. Changes what is asked for to what is granted.
    fn grant(
        &self,
        client: &Client<'_>,
        asked: &mut SubscribeFilter<'_>,
        identifier: Option<NonZeroU32>,
        is_new: bool,
        replay: &mut Replay,
    ) -> Result<QoS, ReasonCode> {
        let place = Place::of(asked.filter, client.entry, &self.config)?;
        place.check(&self.config)?;
        let options = &mut asked.options;
        options.qos = options.qos.min(self.config.limits.max_qos);
        if client.is_bridge {
            options.no_local = !matches!(place.kind, Kind::Shared(_));
            options.retain_as_published = true;
        }
        let wanted = Wanted { options: *options, identifier };
        self.fanout.subscribe(&place, client.entry, wanted, &self.metrics)?;
        if sends_retained(&place, *options, is_new) {
            replay.push(place.filter(), wanted);
        }
        Ok(options.qos)
    }

    /// Subscribes a client that has just connected to what every client gets.
    pub(crate) fn auto_subscribe(&self, client: &Client<'_>, session: &mut Session, replay: &mut Replay) {
        let filters = filters_for(&self.config.auto_subscriptions, &client.entry.client_id, client.username);
        if filters.is_empty() {
            return;
        }
        let request = Subscribe {
            packet_id: PacketId(NonZeroU16::MIN),
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: as_requested(&filters),
        };
        // Nobody asked, so nobody is answered.
        self.subscribe(client, session, &request, replay, &mut Vec::new());
    }

    pub(crate) fn unsubscribe(
        &self,
        entry: &Arc<Entry>,
        session: &mut Session,
        request: &Unsubscribe<'_>,
        replay: Option<&mut Replay>,
        out: &mut Vec<u8>,
    ) {
        let mut replay = replay;
        for filter in &request.filters {
            // Only what the client itself has subscribed to.
            if session.subscription(filter).is_none() {
                continue;
            }
            if let Ok(place) = Place::of(filter, entry, &self.config) {
                // What is queued or in flight still goes to this client ([MQTT5-3.10.4-3]), not to its group.
                drop(self.fanout.unsubscribe(&place, entry, false, &self.metrics));
                if let Some(replay) = &mut replay {
                    replay.cancel(place.filter());
                }
            }
        }
        session.unsubscribed(request, out);
    }

    /// Removes the subscriptions of a session that ends, and hands what it owes to its groups to other members.
    ///
    /// A QoS 1 message that was not acknowledged goes to another. A QoS 2 message must not once the client may have
    /// seen it ([MQTT5-4.8.2-5]): it does only if the session has nothing on its way to the client.
    pub(crate) fn drop_subscriptions(&self, entry: &Arc<Entry>, session: &Session) {
        let may_have_seen = session.in_flight() > 0;
        for (filter, _) in session.subscriptions() {
            let Ok(place) = Place::of(filter, entry, &self.config) else { continue };
            let owed = self.fanout.unsubscribe(&place, entry, may_have_seen, &self.metrics);
            if owed.abandoned > 0 {
                self.metrics.dropped.with_label_values(&["shared_qos2_begun"]).inc_by(owed.abandoned);
            }
            for message in &owed.messages {
                self.redispatch(&place, message, now());
            }
        }
    }

    fn redispatch(&self, place: &Place<'_>, message: &Arc<tidegate_session::Message>, now: Instant) {
        match self.fanout.redispatch(place, message, now) {
            Ok(()) => self.metrics.redispatched.inc(),
            Err(_no_member) => self.metrics.dropped.with_label_values(&["no_group_member"]).inc(),
        }
    }
}

fn sends_retained(place: &Place<'_>, options: SubscribeOptions, is_new: bool) -> bool {
    // [MQTT5-3.8.3-4] and section 4.8.2: nothing retained for a shared subscription.
    if matches!(place.kind, Kind::Shared(_)) {
        return false;
    }
    match options.retain_handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => is_new,
        RetainHandling::DoNotSend => false,
    }
}
