//! What a server keeps of a password: enough to check it, not enough to use it.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use crate::{MECHANISM, hmac};

/// How often a password may be hashed: fewer makes guessing cheap (RFC 7677 asks for 4096 at least), and the client does
/// the work, which a larger number would make an attack of.
pub const ITERATIONS: RangeInclusive<u32> = 4096..=2_000_000;

/// The longest salt, in bytes.
pub const MAX_SALT_BYTES: usize = 32;

/// The credential of one user: salt, iterations, and the two keys that the server needs.
///
/// Its text is the one that PostgreSQL has for it, `SCRAM-SHA-256$iterations:salt$stored key:server key`, the last three
/// in base64. `Debug` leaves the keys out.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub(crate) iterations: u32,
    pub(crate) salt: Box<[u8]>,
    pub(crate) stored_key: [u8; 32],
    pub(crate) server_key: [u8; 32],
}

/// What a credential is derived from.
#[derive(Clone, Copy)]
pub struct NewCredential<'a> {
    /// The password; it is prepared with SASLprep as clients do it.
    pub password: &'a str,
    /// Random bytes, at least 1 and at most [`MAX_SALT_BYTES`]; 16 are usual.
    pub salt: &'a [u8],
    /// How often the password is hashed, within [`ITERATIONS`].
    pub iterations: u32,
}

/// A credential cannot be derived, or its text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The password is empty.
    #[error("the password is empty")]
    PasswordEmpty,
    /// The password has characters that SASLprep (RFC 4013) prohibits.
    #[error("the password has characters that no password may have (RFC 4013): control characters, for one")]
    PasswordProhibited,
    /// Too few iterations, or too many.
    #[error("{0} iterations: from {min} to {max} are allowed", min = ITERATIONS.start(), max = ITERATIONS.end())]
    Iterations(u32),
    /// No salt, or too long a one.
    #[error("a salt of {0} bytes: from 1 to {MAX_SALT_BYTES} are allowed")]
    Salt(usize),
    /// The text is not `SCRAM-SHA-256$iterations:salt$stored key:server key`.
    #[error("it is not `SCRAM-SHA-256$iterations:salt$stored key:server key`, the last three in base64")]
    Form,
}

impl Credential {
    /// Returns the credential of a password. Takes as long as the iterations ask for: a quarter of a second for 600,000.
    ///
    /// # Errors
    /// What no credential can be made of.
    pub fn derive(new: &NewCredential<'_>) -> Result<Self, CredentialError> {
        check(new.iterations, new.salt)?;
        let password = stringprep::saslprep(new.password).map_err(|_| CredentialError::PasswordProhibited)?;
        if password.is_empty() {
            return Err(CredentialError::PasswordEmpty);
        }
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), new.salt, new.iterations, &mut salted);
        let client_key = hmac(&salted, &[b"Client Key"]);
        Ok(Self {
            iterations: new.iterations,
            salt: new.salt.into(),
            stored_key: Sha256::digest(client_key).into(),
            server_key: hmac(&salted, &[b"Server Key"]),
        })
    }
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { iterations, salt, stored_key, server_key } = self;
        let [salt, stored_key, server_key] =
            [&salt[..], stored_key, server_key].map(|bytes| BASE64.encode(bytes));
        write!(f, "{MECHANISM}${iterations}:{salt}${stored_key}:{server_key}")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl fmt::Debug for NewCredential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCredential").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl FromStr for Credential {
    type Err = CredentialError;

    fn from_str(text: &str) -> Result<Self, CredentialError> {
        let parts = || {
            let rest = text.strip_prefix(MECHANISM)?.strip_prefix('$')?;
            let (strength, keys) = rest.split_once('$')?;
            let (iterations, salt) = strength.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
            Some(Self {
                iterations: iterations.parse().ok()?,
                salt: BASE64.decode(salt).ok()?.into(),
                stored_key: key(stored_key)?,
                server_key: key(server_key)?,
            })
        };
        let credential = parts().ok_or(CredentialError::Form)?;
        check(credential.iterations, &credential.salt)?;
        Ok(credential)
    }
}

fn check(iterations: u32, salt: &[u8]) -> Result<(), CredentialError> {
    if !ITERATIONS.contains(&iterations) {
        return Err(CredentialError::Iterations(iterations));
    }
    if !(1..=MAX_SALT_BYTES).contains(&salt.len()) {
        return Err(CredentialError::Salt(salt.len()));
    }
    Ok(())
}
