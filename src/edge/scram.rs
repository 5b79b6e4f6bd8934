//! The client's side of SCRAM-SHA-256: a proof of knowing the password that tells nothing of it, and the server's own.
//!
//! Three steps, each of which can only be made from the one before: [`Beginning`], [`Challenge`], [`Proof`]. Source: RFC
//! 5802 and 7677, RFC 5929 for what a channel is bound by, and libpq for the messages.
//!
//! The server says how much work the proof is, up to two thousand million rounds; libpq does them all, and so does this.
//! An impostor may ask for as much, so that the work can be given up like any other wait.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio::task::yield_now;
use zeroize::Zeroizing;

use crate::edge::password::Password;
use crate::error::{Error, Result, printable};

/// As long as libpq's before it is encoded, in bytes.
const NONCE_BYTES: usize = 18;

/// So many rounds take less than a millisecond.
const ROUNDS_AT_ONCE: u32 = 1000;

/// What SHA-256 gives.
type Hash = [u8; 32];

/// What the proof says of the channel that it goes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Binding {
    /// It is not to be bound.
    Unsupported,
    /// It could be bound, but the server has not offered that. It will notice if somebody took its offer away.
    Unrequested,
    /// It is bound by this hash of the server's certificate.
    TlsServerEndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Binding::Unsupported => "n,,",
            Binding::Unrequested => "y,,",
            Binding::TlsServerEndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    /// All that is said of it, as the last message has it.
    fn encoded(&self) -> String {
        let data: &[u8] = match self {
            Binding::Unsupported | Binding::Unrequested => &[],
            Binding::TlsServerEndPoint(hash) => hash,
        };
        BASE64_STANDARD.encode([self.header().as_bytes(), data].concat())
    }
}

/// The client has said that it will prove itself.
#[derive(Debug)]
pub struct Beginning {
    binding: Binding,
    nonce: String,
    /// The first message without the part about the channel.
    bare: String,
}

impl Beginning {
    /// With a nonce that nobody can foresee. Fails if the system has none to give.
    pub fn new(binding: Binding) -> Result<Beginning> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| Error::connection(format!("could not generate nonce: {error}")))?;
        // The server knows the user from the startup message.
        Ok(Beginning::of("", BASE64_STANDARD.encode(nonce), binding))
    }

    fn of(user: &str, nonce: String, binding: Binding) -> Beginning {
        Beginning {
            bare: format!("n={user},r={nonce}"),
            binding,
            nonce,
        }
    }

    /// What is to be sent.
    pub fn message(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare)
    }

    /// What the server asks for in answer.
    ///
    /// Fails if that is malformed, or not the answer to this.
    pub fn challenged(self, answer: &[u8]) -> Result<Challenge> {
        let answer = text(answer)?;
        let (nonce, rest) = attribute(answer, 'r')?;
        if !nonce.starts_with(&self.nonce) {
            return Err(Error::protocol("invalid SCRAM response (nonce mismatch)"));
        }
        let (salt, rest) = attribute(rest, 's')?;
        let salt = BASE64_STANDARD
            .decode(salt)
            .map_err(|_| malformed("invalid salt"))?;
        // What may follow are extensions; who does not know them passes over them.
        let (iterations, _) = attribute(rest, 'i')?;
        let iterations = iterations.parse::<i32>().ok();
        let iterations = iterations.and_then(|number| u32::try_from(number).ok());
        let iterations = iterations
            .filter(|number| *number > 0)
            .ok_or_else(|| malformed("invalid iteration count"))?;
        let unproven = format!("c={},r={nonce}", self.binding.encoded());
        Ok(Challenge {
            salt,
            iterations,
            signed: format!("{},{answer},{unproven}", self.bare),
            unproven,
        })
    }
}

/// The server has asked for the proof.
#[derive(Debug)]
pub struct Challenge {
    salt: Vec<u8>,
    iterations: u32,
    /// The last message up to the proof.
    unproven: String,
    /// All that was said, which both sides sign.
    signed: String,
}

impl Challenge {
    /// Works out the proof. Dropped, it stops working: whoever waits for a signal or a timeout is heard meanwhile.
    pub async fn proven(self, password: &Password) -> Proof {
        let password = prepared(password.bytes());
        let salted = salted(&password, &self.salt, self.iterations).await;
        drop(password);
        let client_key = Zeroizing::new(signature(&*salted, b"Client Key"));
        let stored_key: Hash = Sha256::digest(*client_key).into();
        let mut proof = signature(&stored_key, self.signed.as_bytes());
        add(&mut proof, &client_key);
        let server_key = Zeroizing::new(signature(&*salted, b"Server Key"));
        Proof {
            message: format!("{},p={}", self.unproven, BASE64_STANDARD.encode(proof)),
            expected: keyed(&*server_key).chain_update(self.signed),
        }
    }
}

/// The client has proven itself.
pub struct Proof {
    message: String,
    /// What the server has to sign, and with what.
    expected: Hmac<Sha256>,
}

impl Proof {
    /// What is to be sent.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Fails if the server does not prove to know the password, too.
    pub fn check(self, answer: &[u8]) -> Result<()> {
        let answer = text(answer)?;
        if answer.starts_with('e') {
            let (reason, _) = attribute(answer, 'e')?;
            return Err(Error::connection(printable(&format!(
                "error received from server in SCRAM exchange: {reason}"
            ))));
        }
        let (signature, _) = attribute(answer, 'v')?;
        let signature = BASE64_STANDARD.decode(signature).ok();
        let signature = signature.filter(|signature| signature.len() == size_of::<Hash>());
        let signature = signature.ok_or_else(|| malformed("invalid server signature"))?;
        // In the same time, wherever they differ.
        let checked = self.expected.verify_slice(&signature);
        checked.map_err(|_| Error::connection("incorrect server signature"))
    }
}

/// The password as both sides take it. PostgreSQL demands neither an encoding of it nor that it can be prepared: what
/// cannot is taken as it is, and so is what nothing would be left of.
fn prepared(password: &[u8]) -> Cow<'_, [u8]> {
    let text = std::str::from_utf8(password).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(Cow::Owned(text)) if !text.is_empty() => Cow::Owned(text.into_bytes()),
        _ => Cow::Borrowed(password),
    }
}

/// PBKDF2 with HMAC, as long as one hash. The crate of that name cannot be interrupted.
async fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<Hash> {
    let keyed = keyed(password);
    let first = keyed.clone().chain_update(salt).chain_update([0, 0, 0, 1]);
    let mut last = Zeroizing::new(Hash::from(first.finalize().into_bytes()));
    let mut sum = last.clone();
    for round in 1..iterations {
        if round % ROUNDS_AT_ONCE == 0 {
            yield_now().await;
        }
        *last = keyed.clone().chain_update(*last).finalize().into_bytes().into();
        add(&mut sum, &last);
    }
    sum
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn signature(key: &[u8], text: &[u8]) -> Hash {
    keyed(key).chain_update(text).finalize().into_bytes().into()
}

/// Exclusive or.
fn add(sum: &mut Hash, hash: &Hash) {
    sum.iter_mut().zip(hash).for_each(|(sum, hash)| *sum ^= hash);
}

fn text(message: &[u8]) -> Result<&str> {
    if message.is_empty() {
        return Err(malformed("empty message"));
    }
    if message.contains(&0) {
        return Err(malformed("length mismatch"));
    }
    std::str::from_utf8(message).map_err(|_| malformed("not valid UTF-8"))
}

/// The value of the attribute that a message begins with, and what is behind it.
fn attribute(message: &str, name: char) -> Result<(&str, &str)> {
    let Some(value) = message.strip_prefix(name) else {
        return Err(malformed(&format!("attribute \"{name}\" expected")));
    };
    let Some(value) = value.strip_prefix('=') else {
        let reason = format!("expected character \"=\" for attribute \"{name}\"");
        return Err(malformed(&reason));
    };
    Ok(value.split_once(',').unwrap_or((value, "")))
}

fn malformed(reason: &str) -> Error {
    Error::protocol(format!("malformed SCRAM message ({reason})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(work)
    }

    fn password(text: &str) -> Password {
        Password::new(text).unwrap()
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard_is_answered_as_it_says() {
        let proof = || {
            let nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
            let beginning = Beginning::of("user", nonce, Binding::Unsupported);
            assert_eq!(beginning.message(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
            let challenge =
                b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
            finished(
                beginning
                    .challenged(challenge)
                    .unwrap()
                    .proven(&password("pencil")),
            )
        };
        assert_eq!(
            proof().message(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let right = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        proof().check(right.as_bytes()).unwrap();
        proof().check(format!("{right},x=y").as_bytes()).unwrap();
        for (answer, message) in [
            (right.replace('6', "7").as_str(), "incorrect server signature"),
            (
                "e=invalid-proof,x",
                "error received from server in SCRAM exchange: invalid-proof",
            ),
            ("v=AAAA", "malformed SCRAM message (invalid server signature)"),
            ("v=", "malformed SCRAM message (invalid server signature)"),
            (
                "v",
                "malformed SCRAM message (expected character \"=\" for attribute \"v\")",
            ),
            ("", "malformed SCRAM message (empty message)"),
            ("v=\0", "malformed SCRAM message (length mismatch)"),
        ] {
            let error = proof().check(answer.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message, "{answer:?}");
        }
    }

    #[test]
    fn a_challenge_is_read_as_libpq_reads_it() {
        for (challenge, message) in [
            ("r=abcd,s=c2FsdA==,i=1", None),
            ("r=abc,s=,i=2147483647", None),
            (
                "r=ab,s=c2FsdA==,i=1",
                Some("invalid SCRAM response (nonce mismatch)"),
            ),
            (
                "r=abc,s=c2FsdA,i=1",
                Some("malformed SCRAM message (invalid salt)"),
            ),
            (
                "r=abc,i=1",
                Some("malformed SCRAM message (attribute \"s\" expected)"),
            ),
            (
                "r=abc,s=c2FsdA==,i=0",
                Some("malformed SCRAM message (invalid iteration count)"),
            ),
            (
                "r=abc,s=c2FsdA==,i=-1",
                Some("malformed SCRAM message (invalid iteration count)"),
            ),
            (
                "r=abc,s=c2FsdA==,i=2147483648",
                Some("malformed SCRAM message (invalid iteration count)"),
            ),
            (
                "r=abc,s=c2FsdA==,i=1x",
                Some("malformed SCRAM message (invalid iteration count)"),
            ),
            ("r=abc,s=c2FsdA==,i=1,x=y", None),
        ] {
            let beginning = Beginning::of("", "abc".to_owned(), Binding::Unsupported);
            let error = beginning.challenged(challenge.as_bytes()).err();
            assert_eq!(
                error.map(|error| error.to_string()).as_deref(),
                message,
                "{challenge}"
            );
        }
    }

    #[test]
    fn a_proof_says_what_its_channel_is_bound_by() {
        let bound = "p=tls-server-end-point,,";
        for (binding, header, encoded) in [
            (Binding::Unsupported, "n,,", "biws"),
            (Binding::Unrequested, "y,,", "eSws"),
            (
                Binding::TlsServerEndPoint(b"hash".to_vec()),
                bound,
                &BASE64_STANDARD.encode(format!("{bound}hash")),
            ),
        ] {
            let beginning = Beginning::new(binding).unwrap();
            let nonce = beginning.nonce.clone();
            assert_eq!(beginning.message(), format!("{header}n=,r={nonce}"));
            let challenge = format!("r={nonce}x,s=,i=1");
            let challenge = beginning.challenged(challenge.as_bytes()).unwrap();
            let proof = finished(challenge.proven(&password("x")));
            let expected = format!("c={encoded},r={nonce}x,p=");
            assert!(proof.message().starts_with(&expected), "{}", proof.message());
        }
    }

    #[test]
    fn no_nonce_is_used_twice() {
        let nonces = [(); 2].map(|()| Beginning::new(Binding::Unsupported).unwrap().nonce);
        assert_ne!(nonces[0], nonces[1]);
        assert_eq!(nonces[0].len(), 24);
    }

    #[test]
    fn a_password_is_prepared_if_it_can_be() {
        for (given, expected) in [
            ("a b~", "a b~"),
            ("I\u{ad}X", "IX"),
            ("\u{2168}", "IX"),
            ("a\u{a0}b", "a b"),
            // Nothing would be left, a character is prohibited or unknown, or directions are mixed.
            ("\u{ad}", "\u{ad}"),
            ("\u{7}", "\u{7}"),
            ("\u{aa}\u{e000}", "\u{aa}\u{e000}"),
            ("\u{aa}\u{1f600}", "\u{aa}\u{1f600}"),
            ("\u{627}1", "\u{627}1"),
        ] {
            assert_eq!(*prepared(given.as_bytes()), *expected.as_bytes(), "{given:?}");
        }
        assert_eq!(*prepared(b"\xc2\xaa\xff"), *b"\xc2\xaa\xff");
    }
}
