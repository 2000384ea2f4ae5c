//! The columns that events have by themselves.

macro_rules! columns {
    ($($variant:ident => $name:literal,)*) => {
        /// A column that some kind of event has by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Column {
            $($variant,)*
        }

        impl Column {
            /// In the order of `SELECT *`.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub(crate) fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

columns! {
    Id => "id",
    Event => "event",
    ClientId => "clientid",
    Username => "username",
    FromClientId => "from_clientid",
    FromUsername => "from_username",
    Payload => "payload",
    PeerHost => "peerhost",
    PeerName => "peername",
    SockName => "sockname",
    ProtoName => "proto_name",
    ProtoVer => "proto_ver",
    Keepalive => "keepalive",
    CleanStart => "clean_start",
    ExpiryInterval => "expiry_interval",
    ReceiveMaximum => "receive_maximum",
    IsBridge => "is_bridge",
    Mountpoint => "mountpoint",
    Topic => "topic",
    Qos => "qos",
    Flags => "flags",
    PubProps => "pub_props",
    PubackProps => "puback_props",
    ConnProps => "conn_props",
    DisconnProps => "disconn_props",
    SubProps => "sub_props",
    UnsubProps => "unsub_props",
    Reason => "reason",
    ReasonCode => "reason_code",
    Action => "action",
    Result => "result",
    AuthzSource => "authz_source",
    IsAnonymous => "is_anonymous",
    IsSuperuser => "is_superuser",
    ConnectedAt => "connected_at",
    DisconnectedAt => "disconnected_at",
    Name => "name",
    Message => "message",
    Details => "details",
    ActivatedAt => "activated_at",
    DeactivatedAt => "deactivated_at",
    Transformation => "transformation",
    Validation => "validation",
    ClientAttrs => "client_attrs",
    PublishReceivedAt => "publish_received_at",
    Timestamp => "timestamp",
    Node => "node",
}
