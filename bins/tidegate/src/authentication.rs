//! Who may connect: the files behind `[authentication]`.

use std::sync::Arc;

use tidegate_broker::{AuthenticationMethod, AuthenticationMethods, ScramSha256};
use tidegate_scram::Credentials;

use crate::config::{ListenerSettings, Settings};

/// The methods of enhanced authentication that are configured.
pub(crate) struct Methods(Vec<Arc<dyn AuthenticationMethod>>);

impl Methods {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with one of them, for a terminal.
    pub(crate) fn load(settings: &Settings) -> Result<Self, String> {
        let Some(scram) = &settings.authentication.scram else { return Ok(Self(Vec::new())) };
        let file = scram.file.display();
        let text = std::fs::read_to_string(&scram.file).map_err(|error| {
            format!(
                "error: authentication.scram.file: {file} cannot be read: {error}; make it with \
                 `tidegate passwd --scram {file} USER`"
            )
        })?;
        let credentials = Credentials::parse(&text)
            .map_err(|error| format!("error: authentication.scram.file: {file}: {error}"))?;
        Ok(Self(vec![Arc::new(ScramSha256::new(credentials))]))
    }

    /// What holds for the clients of a listener: they must use a method where there is one, unless everyone may come in.
    pub(crate) fn of(&self, listener: &ListenerSettings) -> AuthenticationMethods {
        let methods = self.0.clone();
        if methods.is_empty() || listener.allow_anonymous {
            AuthenticationMethods::offered(methods)
        } else {
            AuthenticationMethods::required(methods)
        }
    }
}
