//! SCRAM-SHA-256 as a method of enhanced authentication.

use std::future::ready;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate_scram::{Challenge, Credentials, MECHANISM};

use crate::authentication::{Accepted, AuthenticatingClient, AuthenticationMethod, Exchange, Step, Stepping};

/// SCRAM-SHA-256 with a set of credentials that can be replaced while clients connect.
#[derive(Debug)]
pub struct ScramSha256 {
    credentials: ArcSwap<Credentials>,
}

impl ScramSha256 {
    /// The method for the users of `credentials`.
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials: ArcSwap::from_pointee(credentials) }
    }

    /// Replaces all credentials at once. Who is connected stays, and is held to the new ones when it authenticates
    /// itself again.
    pub fn replace(&self, credentials: Credentials) {
        self.credentials.store(Arc::new(credentials));
    }
}

impl AuthenticationMethod for ScramSha256 {
    fn name(&self) -> &str {
        MECHANISM
    }

    fn begin(&self, _client: &AuthenticatingClient<'_>) -> Box<dyn Exchange> {
        Box::new(First(self.credentials.load_full()))
    }
}

/// Waits for the client's first message.
struct First(Arc<Credentials>);

/// Waits for its last.
struct Last(Challenge);

impl Exchange for First {
    fn step(self: Box<Self>, data: Vec<u8>) -> Stepping {
        // 122 random bits, as text that may stand there.
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let step = match Challenge::new(&data, &nonce, &self.0) {
            Ok((challenge, answer)) => {
                Step::Ask { data: answer.into_bytes(), next: Box::new(Last(challenge)) }
            }
            Err(_) => Step::Reject,
        };
        Box::pin(ready(step))
    }
}

impl Exchange for Last {
    fn step(self: Box<Self>, data: Vec<u8>) -> Stepping {
        let step = match self.0.verify(&data) {
            Ok(verified) => {
                Step::Accept(Accepted { identity: verified.user, data: verified.server_final.into_bytes() })
            }
            Err(_) => Step::Reject,
        };
        Box::pin(ready(step))
    }
}
