//! A name space of topics for the clients of one listener.

use std::sync::Arc;

use crate::setting::InvalidSetting;

/// What is put in front of every topic and filter of a listener's clients, and taken off again on the way to them.
///
/// Clients with one client id in two mountpoints are two clients: neither takes over the session of the other. As a
/// topic inside never begins with the mountpoint's `$`, topics that begin with `$` cannot be published there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mountpoint(Arc<str>);

impl Mountpoint {
    /// Returns the mountpoint in `text`, such as `plant-7/`.
    ///
    /// # Errors
    /// [`InvalidSetting::Mountpoint`] when it does not end with `/`, begins with `$` or `/`, or contains a wildcard.
    pub fn parse(text: &str) -> Result<Self, InvalidSetting> {
        let is_valid =
            text.ends_with('/') && !text.starts_with(['$', '/']) && !text.contains(['+', '#', '\0']);
        if !is_valid {
            return Err(InvalidSetting::Mountpoint { mountpoint: text.to_owned() });
        }
        Ok(Self(text.into()))
    }

    /// The text in front of each topic.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `topic` as everyone else sees it.
    pub(crate) fn outside(&self, topic: &str) -> String {
        [&*self.0, topic].concat()
    }

    /// A client id of this mountpoint as the store knows it: neither part can contain what stands between them.
    pub(crate) fn stored(&self, client_id: &str) -> Box<str> {
        [&*self.0, "\0", client_id].concat().into()
    }

    /// Takes apart what [`stored`](Self::stored) made, or a plain client id.
    pub(crate) fn from_stored(stored: &str) -> (Option<Self>, &str) {
        match stored.split_once('\0') {
            Some((mount, client_id)) => (Some(Self(mount.into())), client_id),
            None => (None, stored),
        }
    }

    /// `topic` as the clients of the listener see it; `None` if it is none of theirs.
    pub(crate) fn inside<'a>(&self, topic: &'a str) -> Option<&'a str> {
        topic.strip_prefix(&*self.0).filter(|topic| !topic.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_is_a_whole_beginning_of_a_topic() {
        for wrong in ["", "a", "a/+/", "#/", "$SYS/", "/", "a\0/"] {
            assert!(Mountpoint::parse(wrong).is_err(), "{wrong:?}");
        }
        let mount = Mountpoint::parse("plant/7/").unwrap();
        assert_eq!(mount.outside("a/b"), "plant/7/a/b");
        assert_eq!(mount.inside("plant/7/a/b"), Some("a/b"));
        assert_eq!(mount.inside("plant/70/a"), None);
    }
}
