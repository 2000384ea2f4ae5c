//! The exchange: two messages of the client, two of the server (RFC 5802, section 5).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{Credential, Credentials, hmac};

/// The longest message of a client, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// An exchange whose client has said who it is, and has yet to show that it knows the password.
#[derive(Debug)]
pub struct Challenge {
    user: Box<str>,
    credential: Credential,
    /// `false` for a user that does not exist: then no proof is good enough.
    is_known: bool,
    /// `n,,` or `y,,`, or with an authorisation identity; the client repeats it, so that nobody changed it on the way.
    header: Box<str>,
    /// The client's nonce and the server's.
    nonce: Box<str>,
    /// The client's first message without its header, a comma, and the server's answer: what both sign.
    signed: Vec<u8>,
}

/// An exchange that is done: the client knows the password of `user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The user, prepared with SASLprep.
    pub user: Box<str>,
    /// The server's last message, with which it shows that it knows the user.
    pub server_final: String,
}

/// Why an exchange fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScramError {
    /// The message is not the one that is due, or too long.
    #[error("the message is not the one that is due")]
    Malformed,
    /// The client insists on channel binding.
    #[error("channel binding is not supported")]
    ChannelBinding,
    /// The client insists on an extension.
    #[error("a mandatory extension is not supported")]
    Extension,
    /// The client wants to act for somebody else.
    #[error("an authorisation identity other than the user is not supported")]
    AuthorizationIdentity,
    /// The proof is wrong, or there is no such user: which of the two is not told.
    #[error("the proof does not hold")]
    Proof,
}

impl Challenge {
    /// Takes the client's first message, and returns the exchange with the server's answer. It looks the same for users
    /// that do not exist.
    ///
    /// `server_nonce` is fresh random text for each exchange, of printable characters without comma.
    ///
    /// # Errors
    /// What no answer can be given to. Only [`ScramError::Proof`] depends on who exists, and it comes later.
    pub fn new(
        client_first: &[u8],
        server_nonce: &str,
        credentials: &Credentials,
    ) -> Result<(Self, String), ScramError> {
        let message = text(client_first)?;
        let (header, bare) = split_header(message)?;
        let mut attributes = bare.split(',');
        let first = attributes.next().unwrap_or_default();
        if first.starts_with("m=") {
            return Err(ScramError::Extension);
        }
        let user = unescape(first.strip_prefix("n=").ok_or(ScramError::Malformed)?)?;
        let client_nonce = attribute(attributes.next(), "r=")?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed);
        }
        let user = stringprep::saslprep(&user).map_err(|_| ScramError::Malformed)?;
        if user.is_empty() {
            return Err(ScramError::Malformed);
        }
        check_identity(header, &user)?;
        let (credential, is_known) = credentials.find(&user);
        let nonce = format!("{client_nonce}{server_nonce}");
        let answer = format!("r={nonce},s={},i={}", BASE64.encode(&credential.salt), credential.iterations);
        let challenge = Self {
            user: user.into(),
            credential: credential.into_owned(),
            is_known,
            header: header.into(),
            nonce: nonce.into(),
            signed: format!("{bare},{answer}").into_bytes(),
        };
        Ok((challenge, answer))
    }

    /// Takes the client's last message, and tells who it is if its proof holds.
    ///
    /// # Errors
    /// [`ScramError::Proof`], or what is wrong with the message.
    pub fn verify(self, client_final: &[u8]) -> Result<Verified, ScramError> {
        let message = text(client_final)?;
        let (unproven, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let proof: [u8; 32] =
            BASE64.decode(proof).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(ScramError::Malformed)?;
        let mut attributes = unproven.split(',');
        let header = attribute(attributes.next(), "c=")?;
        let nonce = attribute(attributes.next(), "r=")?;
        if header != BASE64.encode(&*self.header) || nonce != &*self.nonce {
            return Err(ScramError::Malformed);
        }
        let signed: [&[u8]; 3] = [&self.signed, b",", unproven.as_bytes()];
        let mut client_key = hmac(&self.credential.stored_key, &signed);
        for (byte, proven) in client_key.iter_mut().zip(proof) {
            *byte ^= proven;
        }
        let is_proven = Sha256::digest(client_key)[..].ct_eq(&self.credential.stored_key);
        let signature = hmac(&self.credential.server_key, &signed);
        if !(bool::from(is_proven) & self.is_known) {
            return Err(ScramError::Proof);
        }
        Ok(Verified { user: self.user, server_final: format!("v={}", BASE64.encode(signature)) })
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(ScramError::Malformed);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

/// Splits the first message behind the second comma: `n,,` or `y,a=name,` and what follows.
fn split_header(message: &str) -> Result<(&str, &str), ScramError> {
    if message.starts_with("p=") {
        return Err(ScramError::ChannelBinding);
    }
    if !message.starts_with("n,") && !message.starts_with("y,") {
        return Err(ScramError::Malformed);
    }
    let identity = message[2..].find(',').ok_or(ScramError::Malformed)?;
    Ok(message.split_at(2 + identity + 1))
}

/// A client may name whom it acts for if that is itself.
fn check_identity(header: &str, user: &str) -> Result<(), ScramError> {
    let identity = header[2..].trim_end_matches(',');
    if identity.is_empty() {
        return Ok(());
    }
    let identity = unescape(identity.strip_prefix("a=").ok_or(ScramError::Malformed)?)?;
    match stringprep::saslprep(&identity) {
        Ok(identity) if identity == user => Ok(()),
        _ => Err(ScramError::AuthorizationIdentity),
    }
}

fn attribute<'a>(attribute: Option<&'a str>, name: &str) -> Result<&'a str, ScramError> {
    attribute.and_then(|attribute| attribute.strip_prefix(name)).ok_or(ScramError::Malformed)
}

/// A name as it was before `,` and `=` were written as `=2C` and `=3D`.
fn unescape(name: &str) -> Result<String, ScramError> {
    let mut plain = String::with_capacity(name.len());
    let mut parts = name.split('=');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (escaped, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            (None, None) => return Err(ScramError::Malformed),
        };
        plain.push(escaped);
        plain.push_str(rest);
    }
    Ok(plain)
}
