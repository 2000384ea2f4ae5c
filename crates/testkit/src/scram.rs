//! The client's side of SCRAM-SHA-256, for tests of the server's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// A client in the middle of an exchange.
#[derive(Debug)]
pub struct ScramClient {
    password: String,
    first_bare: String,
    server_signature: Option<String>,
}

impl ScramClient {
    /// Returns a client that claims to be `user`, and its first message.
    pub fn new(user: &str, password: &str) -> (Self, String) {
        let first_bare = format!("n={user},r=clientnonce");
        let first = format!("n,,{first_bare}");
        (Self { password: password.to_owned(), first_bare, server_signature: None }, first)
    }

    /// Returns the last message: the proof for what the server said.
    ///
    /// # Panics
    /// When that is not the first message of a server.
    pub fn prove(&mut self, server_first: &str) -> String {
        let mut attributes = server_first.split(',');
        let mut next = |name: &str| {
            attributes.next().and_then(|attribute| attribute.strip_prefix(name)).expect("an attribute")
        };
        let (nonce, salt, iterations) = (next("r="), next("s="), next("i="));
        let salt = BASE64.decode(salt).expect("base64");
        let iterations = iterations.parse().expect("a number");
        let mut salted = [0; 32];
        pbkdf2::pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, iterations, &mut salted);
        let unproven = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{unproven}", self.first_bare);
        let client_key = sign(&salted, "Client Key");
        let signature = sign(&Sha256::digest(client_key), &signed);
        let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, byte)| key ^ byte).collect();
        let server_key = sign(&salted, "Server Key");
        self.server_signature = Some(BASE64.encode(sign(&server_key, &signed)));
        format!("{unproven},p={}", BASE64.encode(proof))
    }

    /// Tells whether the server's last message shows that it knows the user.
    pub fn believes(&self, server_final: &str) -> bool {
        server_final.strip_prefix("v=") == self.server_signature.as_deref()
    }
}

fn sign(key: &[u8], message: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().into()
}
