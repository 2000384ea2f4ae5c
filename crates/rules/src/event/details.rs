//! What only some kinds of events know.

use std::net::SocketAddr;

use super::column::Column;
use super::properties::Properties;
use crate::value::Value;

/// A client's connection, in the events that tell of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection<'a> {
    /// The address that the client connected to: column `sockname`.
    pub local: Option<SocketAddr>,
    /// Column `proto_name`, as `MQTT`.
    pub protocol: &'a str,
    /// Column `proto_ver`: 3, 4 or 5.
    pub version: u8,
    /// Column `keepalive`, in seconds.
    pub keep_alive_s: u16,
    /// Column `clean_start`.
    pub clean_start: bool,
    /// Column `expiry_interval`, in seconds.
    pub expiry_interval_s: u32,
    /// Column `receive_maximum`: how many QoS 1 and 2 messages the client takes at once.
    pub receive_maximum: u16,
    /// Column `is_bridge`.
    pub is_bridge: bool,
    /// Column `connected_at`, in milliseconds since 1970.
    pub connected_at_ms: i64,
}

/// What an event knows beside the fields of [`Event`](super::Event), by its kind.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default)]
pub enum Details<'a> {
    /// Nothing more: a published message, a subscription.
    #[default]
    None,
    /// Of `client.connected` and `client.ping`.
    Connection(Connection<'a>),
    /// Of `client.disconnected`.
    Disconnected {
        /// What ended.
        connection: Connection<'a>,
        /// Column `reason`.
        reason: &'a str,
        /// Column `disconnected_at`, in milliseconds since 1970.
        disconnected_at_ms: i64,
    },
    /// Of `client.connack`.
    Connack {
        /// What was to begin.
        connection: Connection<'a>,
        /// Column `reason_code`, as `success`.
        reason_code: &'a str,
    },
    /// Of `client.check_authn_complete`.
    Authenticated {
        /// Column `reason_code`, as `success`.
        reason_code: &'a str,
        /// Column `is_anonymous`.
        is_anonymous: bool,
        /// Column `is_superuser`.
        is_superuser: bool,
    },
    /// Of `client.check_authz_complete`.
    Authorized {
        /// Column `action`: `publish` or `subscribe`.
        action: &'a str,
        /// Column `result`: `allow` or `deny`.
        result: &'a str,
        /// Column `authz_source`.
        source: &'a str,
    },
    /// Of `message.delivered` and `message.acked`; the event's client is who gets the message.
    Delivery {
        /// Column `from_clientid`: who published it.
        from_client_id: &'a str,
        /// Column `from_username`.
        from_username: Option<&'a str>,
        /// Column `puback_props`: of the acknowledgement.
        ack_properties: Option<&'a dyn Properties>,
    },
    /// Of `message.dropped`.
    Dropped {
        /// Column `reason`, as `no_subscribers`.
        reason: &'a str,
    },
    /// Of `delivery.dropped`; the event's client is who does not get the message.
    DeliveryDropped {
        /// Column `from_clientid`: who published it.
        from_client_id: &'a str,
        /// Column `from_username`.
        from_username: Option<&'a str>,
        /// Column `reason`, as `queue_full`.
        reason: &'a str,
    },
    /// Of `message.transformation_failed` and `schema.validation_failed`.
    Failed {
        /// Column `transformation` or `validation`: what refused the message.
        by: &'a str,
    },
    /// Of `alarm.activated` and `alarm.deactivated`.
    Alarm {
        /// Column `name`.
        name: &'a str,
        /// Column `message`.
        message: &'a str,
        /// Column `details`: names and values.
        details: &'a [(&'a str, &'a str)],
        /// Column `activated_at`, in milliseconds since 1970.
        activated_at_ms: i64,
        /// Column `deactivated_at`, in milliseconds since 1970.
        deactivated_at_ms: Option<i64>,
    },
}

impl<'a> Details<'a> {
    /// The value of a column of the kinds that have these details.
    pub(super) fn column(&self, column: Column) -> Value<'a> {
        match (*self, column) {
            (
                Self::Connection(c)
                | Self::Disconnected { connection: c, .. }
                | Self::Connack { connection: c, .. },
                _,
            ) if let Some(value) = of_connection(&c, column) => value,
            (
                Self::Disconnected { reason, .. }
                | Self::Dropped { reason }
                | Self::DeliveryDropped { reason, .. },
                Column::Reason,
            ) => reason.into(),
            (Self::Disconnected { disconnected_at_ms, .. }, Column::DisconnectedAt) => {
                disconnected_at_ms.into()
            }
            (
                Self::Connack { reason_code, .. } | Self::Authenticated { reason_code, .. },
                Column::ReasonCode,
            ) => reason_code.into(),
            (Self::Authenticated { is_anonymous, .. }, Column::IsAnonymous) => is_anonymous.into(),
            (Self::Authenticated { is_superuser, .. }, Column::IsSuperuser) => is_superuser.into(),
            (Self::Authorized { action, .. }, Column::Action) => action.into(),
            (Self::Authorized { result, .. }, Column::Result) => result.into(),
            (Self::Authorized { source, .. }, Column::AuthzSource) => source.into(),
            (
                Self::Delivery { from_client_id, .. } | Self::DeliveryDropped { from_client_id, .. },
                Column::FromClientId,
            ) => from_client_id.into(),
            (
                Self::Delivery { from_username, .. } | Self::DeliveryDropped { from_username, .. },
                Column::FromUsername,
            ) => from_username.map_or(Value::Undefined, Value::from),
            (Self::Delivery { ack_properties: Some(properties), .. }, Column::PubackProps) => {
                super::properties::property_map(properties)
            }
            (Self::Failed { by }, Column::Transformation | Column::Validation) => by.into(),
            (Self::Alarm { name, .. }, Column::Name) => name.into(),
            (Self::Alarm { message, .. }, Column::Message) => message.into(),
            (Self::Alarm { details, .. }, Column::Details) => {
                Value::map(details.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
            }
            (Self::Alarm { activated_at_ms, .. }, Column::ActivatedAt) => activated_at_ms.into(),
            (Self::Alarm { deactivated_at_ms: Some(at), .. }, Column::DeactivatedAt) => at.into(),
            _ => Value::Undefined,
        }
    }
}

fn of_connection<'a>(connection: &Connection<'a>, column: Column) -> Option<Value<'a>> {
    Some(match column {
        Column::SockName => connection.local.map_or(Value::Undefined, |local| local.to_string().into()),
        Column::ProtoName => connection.protocol.into(),
        Column::ProtoVer => i64::from(connection.version).into(),
        Column::Keepalive => i64::from(connection.keep_alive_s).into(),
        Column::CleanStart => connection.clean_start.into(),
        Column::ExpiryInterval => i64::from(connection.expiry_interval_s).into(),
        Column::ReceiveMaximum => i64::from(connection.receive_maximum).into(),
        Column::IsBridge => connection.is_bridge.into(),
        Column::ConnectedAt => connection.connected_at_ms.into(),
        _ => return None,
    })
}
