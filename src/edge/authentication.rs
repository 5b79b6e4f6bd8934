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
use crate::error::{Error, Result, printable};

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
            printable(&offered.join(", "))
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
    .map_err(|error| Error::unsupported(printable(&format!("incorrect server signature: {error}"))))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::socket::{Socket, Transport};
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::thread;

    /// An authentication request with its code and data.
    fn request(code: u32, data: &[u8]) -> Vec<u8> {
        let mut message = vec![b'R'];
        message.extend((data.len() as u32 + 8).to_be_bytes());
        message.extend(code.to_be_bytes());
        message.extend(data);
        message
    }

    /// Plays `server` on the other end and shows how authentication went.
    fn played(server: impl FnOnce(UnixStream) + Send + 'static, require: &str) -> String {
        let (other_end, client) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || server(other_end));
        let password = Password::new("secret").unwrap();
        let require = match require {
            "" => RequireAuth::default(),
            text => RequireAuth::parse(text).unwrap(),
        };
        let credentials = Credentials {
            user: "u",
            password: Some(&password),
            require: &require,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(async {
            let socket = Socket::from_blocking(client.into(), Transport::Unix).unwrap();
            authenticate(&mut Wire::new(socket), &credentials).await
        });
        server.join().unwrap();
        result.map_or_else(|error| error.to_string(), |outcome| format!("{outcome:?}"))
    }

    fn answer_to(requests: Vec<Vec<u8>>) -> String {
        let server = move |mut server: UnixStream| {
            server.write_all(&requests.concat()).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            // Stays until the client is gone, which may have left something unread.
            let _ = server.read_to_end(&mut Vec::new());
        };
        played(server, "")
    }

    /// Begins SCRAM as a server that does not know the password, then sends `last`.
    fn scram_without_password(last: Vec<u8>) -> String {
        played(
            move |mut server| {
                server
                    .write_all(&request(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"))
                    .unwrap();
                let mut buffer = [0; 256];
                let count = server.read(&mut buffer).unwrap();
                let first = String::from_utf8_lossy(&buffer[..count]).into_owned();
                assert!(
                    first.contains("SCRAM-SHA-256\0") && first.contains("n,,n=,r="),
                    "{first:?}"
                );
                let nonce = first.rsplit("r=").next().unwrap();
                let challenge = format!("r={nonce}more,s=c2FsdA==,i=4096");
                server.write_all(&request(11, challenge.as_bytes())).unwrap();
                assert_ne!(server.read(&mut buffer).unwrap(), 0);
                server.write_all(&last).unwrap();
            },
            "",
        )
    }

    #[test]
    fn a_server_that_cannot_prove_to_know_the_password_is_not_believed() {
        let ok = request(0, b"");
        let wrong = request(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let signed_wrong = scram_without_password([wrong, ok.clone()].concat());
        assert!(
            signed_wrong.starts_with("incorrect server signature"),
            "{signed_wrong}"
        );
        let unsigned = scram_without_password(ok);
        assert!(
            unsigned.starts_with("expected authentication request"),
            "{unsigned}"
        );
    }

    #[test]
    fn a_second_question_is_not_answered() {
        let (md5, cleartext, ok) = (request(5, b"salt"), request(3, b""), request(0, b""));
        assert_eq!(answer_to(vec![md5.clone(), ok]), "Accepted");
        let fished = answer_to(vec![md5, cleartext]);
        assert!(fished.starts_with("expected authentication request"), "{fished}");
    }

    #[test]
    fn what_walring_does_not_do_is_refused_by_name() {
        for (asked, message) in [
            (request(2, b""), "Kerberos 5 authentication is not supported"),
            (request(7, b""), "GSSAPI authentication is not supported"),
            (request(9, b""), "SSPI authentication is not supported"),
            (
                request(10, b"OAUTHBEARER\0\0"),
                "OAuth authentication is not supported",
            ),
            (
                request(10, b"SCRAM-SHA-256-PLUS\0\0"),
                "none of the server's SASL authentication mechanisms are supported: SCRAM-SHA-256-PLUS",
            ),
            (
                request(99, b""),
                "could not understand server: unknown authentication tag `99`",
            ),
        ] {
            assert_eq!(answer_to(vec![asked]), message);
        }
    }

    #[test]
    fn a_requirement_comes_before_the_question_whether_it_can_be_done() {
        let gss = |mut server: UnixStream| server.write_all(&request(7, b"")).unwrap();
        assert_eq!(
            played(gss, "md5"),
            "authentication method requirement \"md5\" failed: server requested GSSAPI authentication"
        );
    }
}
