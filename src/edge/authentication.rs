//! Answers to the server's authentication requests.
//!
//! Source: PostgreSQL doc protocol.sgml, "SASL Authentication", and libpq for the messages.

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::edge::password::Password;
use crate::edge::require_auth::{Method, RequireAuth};
use crate::edge::wire::{Incoming, Wire};
use crate::error::{Error, Result};

/// What there is to prove an identity with.
pub struct Credentials<'a> {
    /// The role.
    pub user: &'a str,
    /// Its password, if one is known.
    pub password: Option<&'a Password>,
    /// Which ways the operator allows.
    pub require: &'a RequireAuth,
}

/// How the server's questions ended, short of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server let us in.
    Accepted,
    /// The server wants a password, and none is known; this connection is of no more use.
    PasswordNeeded,
}

/// Answers until the server is content.
///
/// Fails if the server rejects the answer, if it asks for something the operator does not allow or
/// walring does not do, and if it does not prove in SCRAM that it knows the password too.
pub async fn authenticate(wire: &mut Wire, credentials: &Credentials<'_>) -> Result<Outcome> {
    let mut answered = false;
    loop {
        let message = match wire.receive().await? {
            Incoming::Other(message) => message,
            Incoming::Error(error) => return Err(error),
            Incoming::CopyBoth => return Err(unexpected()),
        };
        if let Message::AuthenticationOk = message {
            if !answered {
                let reason = "server did not complete authentication";
                credentials.require.check(Method::None, reason)?;
            }
            return Ok(Outcome::Accepted);
        }
        // One exchange is all an honest server needs; a second could fish for the plain password.
        if answered {
            return Err(unexpected());
        }
        let method = requested_method(&message, credentials.require)?;
        let Some(password) = credentials.password else {
            return Ok(Outcome::PasswordNeeded);
        };
        answer(wire, &message, method, credentials.user, password).await?;
        answered = true;
    }
}

/// The method the server asks for, if the operator allows it and walring does it.
fn requested_method(message: &Message, require: &RequireAuth) -> Result<Method> {
    let (method, reason) = match message {
        Message::AuthenticationCleartextPassword => {
            (Method::Password, "server requested a cleartext password")
        }
        Message::AuthenticationMd5Password(_) => (Method::Md5, "server requested a hashed password"),
        Message::AuthenticationGss => (Method::Gss, "server requested GSSAPI authentication"),
        Message::AuthenticationSspi => (Method::Sspi, "server requested SSPI authentication"),
        Message::AuthenticationSasl(body) => (sasl_method(body)?, "server requested SASL authentication"),
        Message::AuthenticationKerberosV5 => return Err(not_supported("Kerberos 5")),
        Message::AuthenticationScmCredential => return Err(not_supported("SCM credential")),
        _ => return Err(unexpected()),
    };
    require.check(method, reason)?;
    match method {
        Method::Gss => Err(not_supported("GSSAPI")),
        Method::Sspi => Err(not_supported("SSPI")),
        Method::Oauth => Err(not_supported("OAuth")),
        Method::Password | Method::Md5 | Method::ScramSha256 | Method::None => Ok(method),
    }
}

/// SCRAM if it is offered, with or without channel binding beside it.
fn sasl_method(body: &AuthenticationSaslBody) -> Result<Method> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(malformed)?;
    if offered.contains(&SCRAM_SHA_256) {
        Ok(Method::ScramSha256)
    } else if offered.contains(&"OAUTHBEARER") {
        Ok(Method::Oauth)
    } else {
        Err(Error::unsupported(format!(
            "none of the server's SASL authentication mechanisms are supported: {}",
            offered.join(", ")
        )))
    }
}

async fn answer(
    wire: &mut Wire,
    request: &Message,
    method: Method,
    user: &str,
    password: &Password,
) -> Result<()> {
    if method == Method::ScramSha256 {
        return prove_by_scram(wire, password).await;
    }
    let mut reply = BytesMut::new();
    let encoded = match request {
        Message::AuthenticationMd5Password(body) => {
            let hash = md5_hash(user.as_bytes(), password.bytes(), body.salt());
            frontend::password_message(hash.as_bytes(), &mut reply)
        }
        _ => frontend::password_message(password.bytes(), &mut reply),
    };
    encoded.map_err(unsendable)?;
    wire.send(&reply).await
}

async fn prove_by_scram(wire: &mut Wire, password: &Password) -> Result<()> {
    // There is no TLS to bind to: "n", the client does not support it, and not "y", which would
    // have the server suspect that somebody hid its offer.
    let mut scram = ScramSha256::new(password.bytes(), ChannelBinding::unsupported());
    let mut reply = BytesMut::new();
    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut reply).map_err(unsendable)?;
    wire.send(&reply).await?;

    match wire.receive().await? {
        Incoming::Other(Message::AuthenticationSaslContinue(body)) => scram.update(body.data()),
        Incoming::Error(error) => return Err(error),
        _ => return Err(unexpected()),
    }
    .map_err(malformed)?;
    reply.clear();
    frontend::sasl_response(scram.message(), &mut reply).map_err(unsendable)?;
    wire.send(&reply).await?;

    match wire.receive().await? {
        Incoming::Other(Message::AuthenticationSaslFinal(body)) => scram.finish(body.data()),
        Incoming::Error(error) => return Err(error),
        _ => return Err(unexpected()),
    }
    .map_err(|error| Error::unsupported(format!("incorrect server signature: {error}")))
}

fn not_supported(method: &str) -> Error {
    Error::unsupported(format!("{method} authentication is not supported"))
}

fn unexpected() -> Error {
    Error::protocol("expected authentication request from server, but received something else")
}

fn malformed(error: io::Error) -> Error {
    Error::protocol(format!("malformed authentication request: {error}"))
}

fn unsendable(error: io::Error) -> Error {
    Error::usage(format!("the password cannot be sent: {error}"))
}
