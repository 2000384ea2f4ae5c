//! Enhanced authentication (5.0, 4.12): which AUTH packet may come when. What the data in them means is the caller's.
//!
//! ```text
//! CONNECT with a method -> Running --CONNACK--> Done --AUTH 0x19--> Running --AUTH 0x00 from the server--> Done
//!                          Running --AUTH 0x18 from the server--> Running --AUTH 0x18 from the client--> Running
//! ```

use std::num::NonZeroU32;

use tidegate_codec::{Auth, Connect, Packet, ReasonCode, Version};

use crate::Violation;
use crate::link::{TooLarge, send_within};

/// The method that a conversation is authenticated with, and whether an exchange of AUTH packets is running.
///
/// Before CONNACK the caller has one of its own, made [of CONNECT](Self::of); afterwards the
/// [`Session`](crate::Session) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentication {
    method: Box<str>,
    is_running: bool,
    /// Bytes.
    max_packet_size: u32,
}

impl Authentication {
    /// Returns the exchange that a CONNECT begins; `None` if it names no method.
    pub fn of(connect: &Connect<'_>) -> Option<Self> {
        let properties = &connect.properties;
        properties.authentication_method.map(|method| Self {
            method: method.into(),
            is_running: true,
            max_packet_size: properties.maximum_packet_size.map_or(u32::MAX, NonZeroU32::get),
        })
    }

    /// Returns the method that CONNECT named.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Takes an AUTH of the client and returns whether it begins an exchange, which otherwise goes on.
    ///
    /// # Errors
    /// It names another method than CONNECT ([MQTT5-4.12.1-1]), or is not due ([MQTT5-4.12.0-3]).
    pub fn handle(&mut self, auth: &Auth<'_>) -> Result<bool, Violation> {
        let is_first = match (auth.reason, self.is_running) {
            (ReasonCode::ReAuthenticate, false) => true,
            (ReasonCode::ContinueAuthentication, true) => false,
            _ => return Err(Violation::AuthOutOfTurn),
        };
        match auth.authentication_method {
            Some(method) if method == &*self.method => {}
            Some(_) => return Err(Violation::AuthenticationMethodChanged),
            None => return Err(Violation::AuthenticationMethodMissing),
        }
        self.is_running = true;
        Ok(is_first)
    }

    /// Appends the AUTH that asks for more ([MQTT5-4.12.0-2]).
    ///
    /// # Errors
    /// The client accepts no packet as large; nothing is appended, and the connection can't go on.
    pub fn ask(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
        self.send(ReasonCode::ContinueAuthentication, data, out)
    }

    /// Appends the AUTH that ends a re-authentication with success.
    pub(crate) fn succeed(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
        self.send(ReasonCode::Success, data, out)?;
        self.is_running = false;
        Ok(())
    }

    /// The exchange has led to CONNACK.
    pub(crate) fn done(self) -> Self {
        Self { is_running: false, ..self }
    }

    /// Repeats the method ([MQTT5-4.12.0-5]), and says nothing that is for humans or that could make the packet too
    /// large ([MQTT5-3.15.2-2], [MQTT5-3.15.2-3]).
    fn send(&self, reason: ReasonCode, data: &[u8], out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let auth = Auth {
            authentication_method: Some(&self.method),
            authentication_data: Some(data).filter(|data| !data.is_empty()),
            ..Auth::new(reason)
        };
        send_within(self.max_packet_size, Version::V5, &Packet::Auth(Box::new(auth)), out)
    }
}
