//! The server's side of SCRAM-SHA-256 ([RFC 5802], [RFC 7677]): a client shows that it knows a password, the server that
//! it knows the client, and neither the wire nor the server's file holds anything that lets another log in as either.
//!
//! It is a computation: bytes in, bytes out. It opens no file, draws no random numbers (the nonce is handed in) and
//! knows nothing of MQTT. There is no channel binding: clients say `n` or `y`.
//!
//! # Example
//!
//! ```
//! use tidegate_scram::{Challenge, Credential, Credentials, NewCredential};
//!
//! // What `tidegate passwd` writes: a secret, and a line for each user.
//! let sensor7 = Credential::derive(&NewCredential { password: "pencil", salt: &[7; 16], iterations: 4096 })?;
//! let file = format!("{}\nsensor7:{sensor7}\n", Credentials::secret_line(&[1; 32]));
//! let credentials = Credentials::parse(&file)?;
//!
//! let first = b"n,,n=sensor7,r=fyko+d2lbbFgONRv9qkxdawL";
//! let (challenge, answer) = Challenge::new(first, "3rfcNHYJY1ZVvWVs7j", &credentials)?;
//! assert!(answer.starts_with("r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=BwcH"));
//! let proof = b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=AAAA";
//! assert!(challenge.verify(proof).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Main types
//!
//! - [`Challenge`] is an exchange whose client has said who it is and not yet shown it; [`Verified`] one that is done;
//! - [`Credential`] is what the server keeps of a password, [`Credentials`] those of all users;
//! - [`ScramError`] is what clients get wrong, [`CredentialsError`] and [`CredentialError`] what files and their
//!   makers do.
//!
//! There are no cargo features.
//!
//! [RFC 5802]: https://www.rfc-editor.org/rfc/rfc5802
//! [RFC 7677]: https://www.rfc-editor.org/rfc/rfc7677

mod challenge;
mod credential;
mod credentials;

pub use challenge::{Challenge, MAX_MESSAGE_BYTES, ScramError, Verified};
pub use credential::{Credential, CredentialError, ITERATIONS, MAX_SALT_BYTES, NewCredential};
pub use credentials::{Credentials, CredentialsError, LineFault, SECRET_BYTES, prepare_name};

/// The name of the mechanism, as it is registered.
pub const MECHANISM: &str = "SCRAM-SHA-256";

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// HMAC-SHA-256 over the concatenation of `parts`.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
