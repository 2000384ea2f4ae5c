//! The credentials of all users, and the answer for those that are none.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::{Credential, CredentialError, MECHANISM, hmac};

/// Bytes of the secret that answers for unknown users are made of.
pub const SECRET_BYTES: usize = 32;

/// In front of the secret.
const SECRET: &str = "secret=";

/// The strength that an unknown user is shown where there is no known one to resemble: iterations and bytes of salt.
const DEFAULT_STRENGTH: (u32, usize) = (4096, 16);

/// The credentials of all users.
///
/// Whoever asks for a user that does not exist is answered with a salt and iterations all the same, always the same ones
/// for that name, so that nobody learns who exists. They are made of a secret that is kept with the credentials, because
/// answers that changed with a restart would tell.
pub struct Credentials {
    secret: [u8; SECRET_BYTES],
    /// Sorted by name. Names are prepared with SASLprep.
    users: Vec<(Box<str>, Credential)>,
}

/// A file of credentials cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// A line is wrong.
    #[error("line {number}: {fault}")]
    Line {
        /// Its number, from 1.
        number: usize,
        /// What is wrong.
        fault: LineFault,
    },
    /// No line begins with `secret=`.
    #[error("there is no line `secret=`, of which the answers for unknown users are made")]
    SecretMissing,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// Neither a secret nor a user with a credential.
    #[error("it is neither `secret=...` nor `user:{MECHANISM}$...`")]
    Form,
    /// The secret is not 32 bytes in base64, or comes twice.
    #[error("the secret is not {SECRET_BYTES} bytes in base64, or not the only one")]
    Secret,
    /// The user's credential is none.
    #[error("the credential of `{user}`: {error}")]
    Credential {
        /// The user.
        user: String,
        /// What is wrong.
        error: CredentialError,
    },
    /// The user's name cannot be one, or is not written as clients will send it.
    #[error("`{0}` is no user name, or not in the form that SASLprep (RFC 4013) gives it")]
    Name(String),
    /// The user has a line already.
    #[error("`{0}` has a line already")]
    Duplicate(String),
}

impl Credentials {
    /// Reads a file: a line `secret=BASE64`, and a line `user:SCRAM-SHA-256$...` for each user. Empty lines and lines
    /// that begin with `#` say nothing.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let mut secret = None;
        let mut users: Vec<(Box<str>, Credential)> = Vec::new();
        let mut numbers = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let at = |fault| CredentialsError::Line { number: index + 1, fault };
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(encoded) = line.strip_prefix(SECRET) {
                let decoded = BASE64.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok());
                match decoded {
                    Some(bytes) if secret.is_none() => secret = Some(bytes),
                    _ => return Err(at(LineFault::Secret)),
                }
                continue;
            }
            let (name, credential) = user_line(line).map_err(at)?;
            users.push((name, credential));
            numbers.push(index + 1);
        }
        let mut order: Vec<usize> = (0..users.len()).collect();
        order.sort_by(|&a, &b| users[a].0.cmp(&users[b].0).then(a.cmp(&b)));
        if let Some(pair) = order.windows(2).find(|pair| users[pair[0]].0 == users[pair[1]].0) {
            let fault = LineFault::Duplicate(users[pair[1]].0.to_string());
            return Err(CredentialsError::Line { number: numbers[pair[1]], fault });
        }
        users.sort_by(|(a, _), (b, _)| a.cmp(b));
        let secret = secret.ok_or(CredentialsError::SecretMissing)?;
        Ok(Self { secret, users })
    }

    /// Returns the line that a file needs for its secret, which is random bytes.
    pub fn secret_line(secret: &[u8; SECRET_BYTES]) -> String {
        format!("{SECRET}{}", BASE64.encode(secret))
    }

    /// Returns how many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Tells whether there are none, so that nobody can log in.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The credential of a user, and whether there is such a user. What is computed does not depend on it.
    pub(crate) fn find(&self, name: &str) -> (Cow<'_, Credential>, bool) {
        let disguise = self.disguise(name);
        match self.users.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(index) => (Cow::Borrowed(&self.users[index].1), true),
            Err(_) => (Cow::Owned(disguise), false),
        }
    }

    /// A credential that no password has. It looks like one of the real ones, so that neither the number of iterations
    /// nor the length of the salt tells.
    fn disguise(&self, name: &str) -> Credential {
        let [salt, stored_key, server_key, choice] = [&b"salt"[..], b"stored key", b"server key", b"choice"]
            .map(|purpose| hmac(&self.secret, &[purpose, b"\0", name.as_bytes()]));
        let choice = u64::from_be_bytes(choice[..8].try_into().expect("eight bytes are eight bytes"));
        let (iterations, salt_bytes) = match self.users.len() as u64 {
            0 => DEFAULT_STRENGTH,
            count => {
                let (_, twin) = &self.users[(choice % count) as usize];
                (twin.iterations, twin.salt.len())
            }
        };
        Credential { iterations, salt: salt[..salt_bytes].into(), stored_key, server_key }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

/// Returns a user's name as SASLprep (RFC 4013) has it, which is the form that files of credentials hold; `None` for
/// what can be no name there.
pub fn prepare_name(name: &str) -> Option<Cow<'_, str>> {
    let prepared = stringprep::saslprep(name).ok()?;
    // SASLprep leaves no control characters, so a name has no line break.
    let is_taken = prepared.is_empty() || prepared.starts_with(['#']) || prepared.starts_with(SECRET);
    (!is_taken).then_some(prepared)
}

fn user_line(line: &str) -> Result<(Box<str>, Credential), LineFault> {
    // A name may have a colon, but not what follows it here.
    let at = line.find(&format!(":{MECHANISM}$")).ok_or(LineFault::Form)?;
    let (name, credential) = (&line[..at], &line[at + 1..]);
    if prepare_name(name).as_deref() != Some(name) {
        return Err(LineFault::Name(name.to_owned()));
    }
    match credential.parse() {
        Ok(credential) => Ok((name.into(), credential)),
        Err(error) => Err(LineFault::Credential { user: name.to_owned(), error }),
    }
}
