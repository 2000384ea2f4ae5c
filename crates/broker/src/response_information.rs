//! What clients are told to build their response topics on (MQTT 5.0, 3.2.2.3.15).

use tidegate_topic::TopicName;

use crate::setting::InvalidSetting;

/// What stands for the client id.
const CLIENT_ID: &str = "%c";

/// The beginning of a client's response topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseInformation {
    template: Box<str>,
}

impl ResponseInformation {
    /// Returns the one that has `%c` for the client id: `responses/%c/`, say.
    ///
    /// A client whose id has `/`, `+` or `#` in it is told nothing where the template asks for it: it would mean other
    /// topics.
    ///
    /// # Errors
    /// When it is not the beginning of a topic.
    pub fn new(template: &str) -> Result<Self, InvalidSetting> {
        match TopicName::parse(template) {
            Ok(_) => Ok(Self { template: template.into() }),
            Err(_) => Err(InvalidSetting::ResponseInformation { template: template.to_owned() }),
        }
    }

    pub(crate) fn for_client(&self, client_id: &str) -> Option<String> {
        if !self.template.contains(CLIENT_ID) {
            return Some(self.template.to_string());
        }
        (!client_id.contains(['/', '+', '#'])).then(|| self.template.replace(CLIENT_ID, client_id))
    }
}
