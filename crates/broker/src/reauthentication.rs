//! A client that is connected and shows again who it is (MQTT 5.0, 4.12.1).

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tidegate_codec::ReasonCode;
use tokio::time::Sleep;

use crate::authentication::{
    Accepted, AuthenticatingClient, AuthenticationMethod, Exchange, MAX_ROUNDS, Step, Stepping,
};

/// An exchange on a connection. While it decides, nothing more is read; while it waits for the client, everything goes
/// on.
pub(crate) struct Reauthentication {
    state: State,
    rounds: usize,
    /// Until when it has to be done.
    deadline: Pin<Box<Sleep>>,
}

enum State {
    Deciding(Stepping),
    Waiting(Box<dyn Exchange>),
    /// Only while a packet is taken in, and when it is over.
    Over,
}

/// What the client is told.
pub(crate) enum Decision {
    Ask(Vec<u8>),
    Accept(Accepted),
    Refuse(ReasonCode),
}

impl Reauthentication {
    pub(crate) fn new(
        method: &dyn AuthenticationMethod,
        client: &AuthenticatingClient<'_>,
        data: &[u8],
        timeout: Duration,
    ) -> Self {
        let state = State::Deciding(method.begin(client).step(data.to_vec()));
        Self { state, rounds: 1, deadline: Box::pin(tokio::time::sleep(timeout)) }
    }

    /// Takes what the client answered. The session has seen that an answer is due.
    pub(crate) fn answer(&mut self, data: &[u8]) {
        self.rounds += 1;
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Waiting(exchange) if self.rounds <= MAX_ROUNDS => {
                State::Deciding(exchange.step(data.to_vec()))
            }
            _ => State::Over,
        };
    }

    /// Whether nothing more may be read for now.
    pub(crate) fn is_deciding(&self) -> bool {
        !matches!(self.state, State::Waiting(_))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Decision> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Decision::Refuse(ReasonCode::NotAuthorized));
        }
        let step = match &mut self.state {
            State::Waiting(_) => return Poll::Pending,
            State::Over => Step::Reject,
            State::Deciding(step) => match step.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(step) => step,
            },
        };
        self.state = State::Over;
        Poll::Ready(match step {
            Step::Ask { data, next } => {
                self.state = State::Waiting(next);
                Decision::Ask(data)
            }
            Step::Accept(accepted) => Decision::Accept(accepted),
            Step::Reject => Decision::Refuse(ReasonCode::NotAuthorized),
            Step::Unavailable => Decision::Refuse(ReasonCode::ServerBusy),
        })
    }
}
