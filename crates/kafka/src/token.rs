//! Bearer tokens from a token endpoint: the client credentials grant (RFC 6749, section 4.4).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::connect::{Connect, PlainTcp};
use crate::sasl::{Secret, SecretError};

/// A token endpoint's answer is read up to this size.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Of what an endpoint says about an error, so much is shown.
const MAX_SHOWN_CHARS: usize = 200;

/// Fetches tokens, and keeps one for as long as it is good: until a tenth of its life is left.
pub struct TokenEndpoint {
    url: String,
    host: String,
    port: u16,
    path: String,
    client_id: String,
    client_secret: Secret,
    scope: Option<String>,
    connect: Arc<dyn Connect>,
    /// Held while one is fetched: whoever else needs it gets the same.
    kept: Mutex<Option<Token>>,
}

struct Token {
    text: String,
    renew_at: Instant,
    ends_at: Instant,
}

/// Why there is no token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The address of the endpoint is none.
    #[error("{url} is no address such as https://host/path")]
    Url {
        /// What was given.
        url: String,
    },
    /// The secret of the client can't be read.
    #[error("client_secret_file: {0}")]
    Secret(#[from] SecretError),
    /// The endpoint can't be reached.
    #[error("{url}: {source}")]
    Io {
        /// The endpoint.
        url: String,
        /// What the network says.
        source: io::Error,
    },
    /// The endpoint said no.
    #[error("{url}: {reason}")]
    Refused {
        /// The endpoint.
        url: String,
        /// The status, and what the endpoint says.
        reason: String,
    },
}

impl TokenEndpoint {
    /// An endpoint at `url`, which is asked as `client_id`. `tls` makes the connections for an address with https.
    ///
    /// # Errors
    /// [`TokenError::Url`] when `url` can't be understood.
    pub fn new(
        url: &str,
        client_id: String,
        client_secret: Secret,
        scope: Option<String>,
        tls: Arc<dyn Connect>,
    ) -> Result<Self, TokenError> {
        let wrong = || TokenError::Url { url: url.to_owned() };
        let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
        let (connect, default_port): (Arc<dyn Connect>, u16) = match uri.scheme_str() {
            Some("https") => (tls, 443),
            Some("http") => (Arc::new(PlainTcp), 80),
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        Ok(Self {
            url: url.to_owned(),
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(default_port),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
            client_id,
            client_secret,
            scope,
            connect,
            kept: Mutex::const_new(None),
        })
    }

    /// Its address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A token that is good for a while yet.
    pub(crate) async fn token(&self) -> Result<String, TokenError> {
        let mut kept = self.kept.lock().await;
        let now = Instant::now();
        if let Some(token) = kept.as_ref().filter(|token| token.renew_at > now) {
            return Ok(token.text.clone());
        }
        match (self.fetch().await, kept.as_ref()) {
            (Ok((text, life)), _) => {
                let token = Token { text, renew_at: now + life.mul_f32(0.9), ends_at: now + life };
                Ok(kept.insert(token).text.clone())
            }
            // It may do until the endpoint is back.
            (Err(_), Some(token)) if token.ends_at > now => Ok(token.text.clone()),
            (Err(error), _) => Err(error),
        }
    }

    pub(crate) async fn forget(&self) {
        *self.kept.lock().await = None;
    }

    /// Asks for a token; says how long it is good for.
    async fn fetch(&self) -> Result<(String, Duration), TokenError> {
        let io = |source: io::Error| TokenError::Io { url: self.url.clone(), source };
        let secret = self.client_secret.fetch().await?;
        let stream = self.connect.connect(&self.host, self.port).await.map_err(io)?;
        let other = |error: hyper::Error| io(io::Error::other(error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(other)?;
        let answer = async {
            let answer = sender.send_request(self.request(&secret)).await.map_err(other)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| io(io::Error::other(error.to_string())))?;
            Ok::<_, TokenError>((status, body.to_bytes()))
        };
        // The connection ends with the answer; one that breaks before is the answer's error too.
        let (status, body) = tokio::select! {
            answer = answer => answer?,
            Err(error) = connection => return Err(other(error)),
        };
        let refused = |reason: String| TokenError::Refused { url: self.url.clone(), reason };
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            let said: Vec<_> =
                ["error", "error_description"].iter().filter_map(|key| json[key].as_str()).collect();
            let said: String =
                said.join(": ").chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect();
            return Err(refused(format!("it answers {status} {said}").trim_end().to_owned()));
        }
        let token = json["access_token"].as_str().filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| refused("its answer has no access_token".to_owned()))?;
        // Without a lifetime it is used once.
        let life = json["expires_in"].as_f64().unwrap_or(0.0).clamp(0.0, MAX_LIFE.as_secs_f64());
        Ok((token.to_owned(), Duration::from_secs_f64(life)))
    }

    fn request(&self, secret: &str) -> Request<Full<Bytes>> {
        let login = format!("{}:{}", form(&self.client_id), form(secret));
        let mut body = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &self.scope {
            body.push_str("&scope=");
            body.push_str(&form(scope));
        }
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        Request::post(&self.path)
            .header(HOST, format!("{host}:{}", self.port))
            .header(AUTHORIZATION, format!("Basic {}", BASE64_STANDARD.encode(login)))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Full::from(body))
            .expect("path and host were parsed, and the rest is ASCII without control characters")
    }
}

/// Longer lives are cut to this.
const MAX_LIFE: Duration = Duration::from_hours(24);

impl fmt::Debug for TokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenEndpoint")
            .field("url", &self.url)
            .field("client_id", &self.client_id)
            .field("client_secret", &self.client_secret)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// `text` as a value of a form (application/x-www-form-urlencoded).
fn form(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(byte.into()),
            b' ' => out.push('+'),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)].into());
                out.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A token endpoint that gives its answers in turn, the last one for ever; and the requests that it got.
    async fn endpoint(answers: &[(&str, &str)]) -> (String, Arc<parking_lot::Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/oauth/token", listener.local_addr().unwrap());
        let answers: Vec<String> = answers
            .iter()
            .map(|(status, body)| {
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
            })
            .collect();
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (requests, count) = (Arc::clone(&seen), AtomicUsize::new(0));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let mut length = 0;
                while !String::from_utf8_lossy(&request[..length]).contains("grant_type") {
                    length += stream.read(&mut request[length..]).await.unwrap();
                }
                requests.lock().push(String::from_utf8_lossy(&request[..length]).into_owned());
                let place = count.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
                stream.write_all(answers[place].as_bytes()).await.unwrap();
            }
        });
        (url, seen)
    }

    fn client(url: &str) -> TokenEndpoint {
        let secret = Secret::Text("s/cret".to_owned());
        let scope = Some("kafka write".to_owned());
        TokenEndpoint::new(url, "ti de".to_owned(), secret, scope, Arc::new(PlainTcp)).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_the_grant_says_and_kept_for_nine_tenths_of_its_life() {
        let first = r#"{"access_token": "one", "token_type": "bearer", "expires_in": 1}"#;
        let second = r#"{"access_token": "two", "expires_in": 3600}"#;
        let (url, seen) = endpoint(&[("200 OK", first), ("200 OK", second)]).await;
        let client = client(&url);
        assert_eq!(client.token().await.unwrap(), "one");
        assert_eq!(client.token().await.unwrap(), "one");
        assert_eq!(seen.lock().len(), 1);
        let request = seen.lock()[0].clone();
        assert!(request.starts_with("POST /oauth/token HTTP/1.1\r\n"), "{request}");
        // ti+de:s%2Fcret
        assert!(request.contains("authorization: Basic dGkrZGU6cyUyRmNyZXQ=\r\n"), "{request}");
        assert!(request.ends_with("grant_type=client_credentials&scope=kafka+write"), "{request}");
        tokio::time::sleep(Duration::from_millis(950)).await;
        assert_eq!(client.token().await.unwrap(), "two");
        client.forget().await;
        assert_eq!(client.token().await.unwrap(), "two");
        assert_eq!(seen.lock().len(), 3, "what Kafka refused is not used again");
    }

    #[tokio::test]
    async fn an_endpoint_that_fails_is_named_with_what_it_says_and_never_the_secret() {
        let refused = r#"{"error": "invalid_client", "error_description": "no such client"}"#;
        for (status, body, expected) in [
            ("401 Unauthorized", refused, "invalid_client: no such client"),
            ("503 Service Unavailable", "<html>", "503"),
            ("200 OK", "{}", "no access_token"),
        ] {
            let (url, _) = endpoint(&[(status, body)]).await;
            let error = client(&url).token().await.unwrap_err().to_string();
            assert!(error.contains(&url) && error.contains(expected) && !error.contains("cret"), "{error}");
        }
        let gone = client("http://127.0.0.1:1/token").token().await.unwrap_err();
        assert!(matches!(&gone, TokenError::Io { .. }) && gone.to_string().contains("127.0.0.1:1"), "{gone}");
        let shown = format!("{:?}", client("http://127.0.0.1:1/token"));
        assert!(!shown.contains("s/cret"), "{shown}");
    }

    #[tokio::test]
    async fn a_token_lasts_to_its_end_while_the_endpoint_is_away() {
        let token = r#"{"access_token": "one", "expires_in": 2}"#;
        let (url, _) = endpoint(&[("200 OK", token), ("503 Service Unavailable", "")]).await;
        let client = client(&url);
        assert_eq!(client.token().await.unwrap(), "one");
        tokio::time::sleep(Duration::from_millis(1850)).await;
        assert_eq!(client.token().await.unwrap(), "one", "it is to be renewed, and still good");
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(client.token().await.is_err());
    }

    #[test]
    fn an_address_without_a_host_or_with_another_scheme_is_refused() {
        for url in ["", "kafka", "ftp://a/b", "http:///token", "https://"] {
            let secret = Secret::Text("s".to_owned());
            let endpoint = TokenEndpoint::new(url, "a".to_owned(), secret, None, Arc::new(PlainTcp));
            assert!(matches!(endpoint, Err(TokenError::Url { .. })), "{url}");
        }
    }
}
