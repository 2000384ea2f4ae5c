//! What the server's side of SCRAM-SHA-256 promises: the vector of RFC 7677, refusals, and that nobody learns who exists.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fmt::Write as _;
use std::sync::LazyLock;

use proptest::prelude::*;
use tidegate_scram::{
    Challenge, Credential, CredentialError, Credentials, CredentialsError, LineFault, MAX_MESSAGE_BYTES,
    NewCredential, ScramError, prepare_name,
};

/// The exchange of RFC 7677, section 3.
const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const ANSWER: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
    p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The salt of that exchange.
const SALT: [u8; 16] =
    [0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa, 0x81];

fn pencil(iterations: u32, salt: &[u8]) -> Credential {
    Credential::derive(&NewCredential { password: "pencil", salt, iterations }).unwrap()
}

fn file(users: &[(&str, Credential)]) -> String {
    let mut text = format!("# who may connect\n\n{}\n", Credentials::secret_line(&[9; 32]));
    for (name, credential) in users {
        writeln!(text, "{name}:{credential}").unwrap();
    }
    text
}

fn credentials(users: &[(&str, Credential)]) -> Credentials {
    Credentials::parse(&file(users)).unwrap()
}

fn user() -> Credentials {
    credentials(&[("user", pencil(4096, &SALT))])
}

/// Made once, because it takes a while.
static USER: LazyLock<Credentials> = LazyLock::new(user);

#[test]
fn the_exchange_of_rfc_7677_comes_out_as_it_is_written_there() {
    let credentials = user();
    let (challenge, answer) = Challenge::new(FIRST.as_bytes(), SERVER_NONCE, &credentials).unwrap();
    assert_eq!(answer, ANSWER);
    let verified = challenge.verify(FINAL.as_bytes()).unwrap();
    assert_eq!((&*verified.user, &*verified.server_final), ("user", SERVER_FINAL));
}

#[test]
fn a_client_that_thinks_that_the_server_has_no_channel_binding_and_one_that_names_itself_are_as_welcome() {
    let credentials = user();
    for (first, expected) in [
        ("y,,n=user,r=a", Ok(())),
        ("n,a=user,n=user,r=a", Ok(())),
        ("n,a=other,n=user,r=a", Err(ScramError::AuthorizationIdentity)),
        ("n,user,n=user,r=a", Err(ScramError::Malformed)),
        ("p=tls-exporter,,n=user,r=a", Err(ScramError::ChannelBinding)),
        ("n,,m=ext,n=user,r=a", Err(ScramError::Extension)),
        ("n,,n=user,r=", Err(ScramError::Malformed)),
        ("n,,n=,r=a", Err(ScramError::Malformed)),
        ("n,,n=us=2Der,r=a", Err(ScramError::Malformed)),
        ("n,,n=\u{7},r=a", Err(ScramError::Malformed)),
        ("n,,r=a", Err(ScramError::Malformed)),
        ("x,,n=user,r=a", Err(ScramError::Malformed)),
        ("n", Err(ScramError::Malformed)),
        ("", Err(ScramError::Malformed)),
    ] {
        let outcome = Challenge::new(first.as_bytes(), "nonce", &credentials).map(|_| ());
        assert_eq!(outcome, expected, "{first}");
    }
    let long = format!("n,,n={},r=a", "u".repeat(MAX_MESSAGE_BYTES));
    let outcome = Challenge::new(long.as_bytes(), "nonce", &credentials).map(|_| ());
    assert_eq!(outcome, Err(ScramError::Malformed));
}

#[test]
fn a_last_message_that_was_changed_on_its_way_is_no_proof() {
    let credentials = user();
    let verify = |last: &str| {
        let (challenge, _) = Challenge::new(FIRST.as_bytes(), SERVER_NONCE, &credentials).unwrap();
        challenge.verify(last.as_bytes()).map(|_| ())
    };
    assert_eq!(verify(FINAL), Ok(()));
    let wrong_proof = FINAL.replace("p=dHzb", "p=dHza");
    for (last, error) in [
        (wrong_proof, ScramError::Proof),
        (FINAL.replace("c=biws", "c=eSws"), ScramError::Malformed),
        (FINAL.replace("hNlF$k0", "hNlF$k1"), ScramError::Malformed),
        (FINAL.replace(",p=", ",x=1,p="), ScramError::Proof),
        (FINAL.replace("ndVQ=", ""), ScramError::Malformed),
        (String::new(), ScramError::Malformed),
    ] {
        assert_eq!(verify(&last), Err(error), "{last}");
    }
}

#[test]
fn a_user_that_does_not_exist_is_answered_like_one_that_does() {
    let known = credentials(&[("user", pencil(5000, &[3; 24])), ("twin", pencil(5000, &[4; 24]))]);
    let ask = |credentials: &Credentials, name: &str| {
        let first = format!("n,,n={name},r=rOprNGfwEbeRWgbNEkqO");
        let (challenge, answer) = Challenge::new(first.as_bytes(), SERVER_NONCE, credentials).unwrap();
        let salt = answer.split(",s=").nth(1).unwrap().split(',').next().unwrap().to_owned();
        (challenge, answer, salt)
    };
    let (_, answer, salt) = ask(&known, "user");
    let (challenge, disguised, disguise) = ask(&known, "nobody");
    assert_eq!(answer.len(), disguised.len());
    assert!(disguised.ends_with(",i=5000"), "{disguised}");
    assert_ne!(salt, disguise);
    // The same salt for the same name, now and after a restart with the same secret; another one for another name.
    assert_eq!(ask(&known, "nobody").2, disguise);
    assert_eq!(ask(&credentials(&[("user", pencil(5000, &[3; 24]))]), "nobody").2, disguise);
    assert_ne!(ask(&known, "somebody").2, disguise);
    let last = FINAL.to_owned();
    assert_eq!(challenge.verify(last.as_bytes()).map(|_| ()), Err(ScramError::Proof));
}

#[test]
fn names_and_passwords_are_compared_as_saslprep_has_them() {
    // U+00AA is an `a` and U+00AD is nothing.
    let wide = Credential::derive(&NewCredential { password: "p\u{ad}encil", salt: &SALT, iterations: 4096 });
    assert_eq!(wide.unwrap(), pencil(4096, &SALT));
    let credentials = credentials(&[("a,b=c", pencil(4096, &SALT))]);
    let (challenge, _) = Challenge::new("n,,n=\u{aa}=2Cb=3Dc,r=r".as_bytes(), "nonce", &credentials).unwrap();
    assert!(format!("{challenge:?}").contains("is_known: true"));
}

#[test]
fn what_is_printed_for_a_human_holds_no_key() {
    let credential = pencil(4096, &SALT);
    let line = credential.to_string();
    let key = line.rsplit(':').next().unwrap();
    assert_eq!(line.parse::<Credential>().unwrap(), credential);
    assert!(!format!("{credential:?}").contains(key));
    assert_eq!(format!("{:?}", user()), "Credentials { users: 1, .. }");
}

#[test]
fn a_file_that_is_wrong_says_in_which_line() {
    let good = pencil(4096, &SALT).to_string();
    let fault = |text: &str| match Credentials::parse(text) {
        Err(CredentialsError::Line { number, fault }) => (number, fault),
        other => panic!("{other:?}"),
    };
    let secret = Credentials::secret_line(&[1; 32]);
    assert_eq!(fault("user"), (1, LineFault::Form));
    assert_eq!(fault("secret=AAAA"), (1, LineFault::Secret));
    assert_eq!(fault(&format!("{secret}\n{secret}")), (2, LineFault::Secret));
    assert_eq!(fault(&format!("\n\u{aa}:{good}")), (2, LineFault::Name("\u{aa}".into())));
    assert_eq!(fault(&format!("a:{good}\nb:{good}\na:{good}")), (3, LineFault::Duplicate("a".into())));
    let weak = LineFault::Credential { user: "a".into(), error: CredentialError::Iterations(1000) };
    assert_eq!(fault(&format!("a:{}", good.replace("$4096:", "$1000:"))), (1, weak));
    let form = LineFault::Credential { user: "a".into(), error: CredentialError::Form };
    assert_eq!(fault(&format!("a:{}", &good[..good.len() - 4])), (1, form));
    assert_eq!(Credentials::parse(&format!("a:{good}")).unwrap_err(), CredentialsError::SecretMissing);
    assert_eq!(prepare_name("secret=1"), None);
    assert_eq!(prepare_name("#a"), None);
}

#[test]
fn no_credential_is_weaker_than_the_standard_allows() {
    let derive = |password, salt, iterations| {
        Credential::derive(&NewCredential { password, salt, iterations }).map(|_| ())
    };
    assert_eq!(derive("p", &[1; 16][..], 4095), Err(CredentialError::Iterations(4095)));
    assert_eq!(derive("p", &[1; 16], u32::MAX), Err(CredentialError::Iterations(u32::MAX)));
    assert_eq!(derive("p", &[], 4096), Err(CredentialError::Salt(0)));
    assert_eq!(derive("p", &[1; 33], 4096), Err(CredentialError::Salt(33)));
    assert_eq!(derive("", &[1; 16], 4096), Err(CredentialError::PasswordEmpty));
    assert_eq!(derive("a\nb", &[1; 16], 4096), Err(CredentialError::PasswordProhibited));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client says, nothing panics, and nobody gets in without the password.
    #[test]
    fn nobody_gets_in_by_chance(
        first in "(n|y|p=x),(a=u)?,(n=[a-z=,é]{0,6})?,?(r=[ -~]{0,8})?", last in "c=(biws|eSws)?,r=[ -~]{0,12},p=[A-Za-z0-9+/]{43}=",
    ) {
        if let Ok((challenge, _)) = Challenge::new(first.as_bytes(), "", &USER) {
            prop_assert!(challenge.verify(last.as_bytes()).is_err());
        }
        prop_assert!(Credentials::parse(&last).is_err());
    }
}
