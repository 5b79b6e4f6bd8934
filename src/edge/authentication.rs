//! Answers to the server's authentication requests.
//!
//! Source: PostgreSQL doc protocol.sgml, "SASL Authentication", and libpq for the messages.

use std::io;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::edge::password::Password;
use crate::edge::require_auth::{Method, RequireAuth};
use crate::edge::scram::{Beginning, Binding};
use crate::edge::tls::handshake::Peer;
use crate::edge::tls::settings::{CertMode, ChannelBinding};
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
    /// Whether a proof has to be bound to the encrypted connection.
    pub binding: ChannelBinding,
    /// Whether the server has to ask for our certificate.
    pub cert_mode: CertMode,
    /// The encrypted connection's server; `None`: the connection is in plain.
    pub peer: Option<&'a Peer>,
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
    let (mut answered, mut bound) = (false, false);
    loop {
        let message = match wire.receive().await? {
            Incoming::Other(message) => message,
            Incoming::Error(error) => return Err(error),
            Incoming::CopyBoth => return Err(unexpected()),
        };
        if let Message::AuthenticationOk = message {
            check_acceptance(credentials, answered, bound)?;
            return Ok(Outcome::Accepted);
        }
        // One exchange is all an honest server needs; a second could fish for the plain password.
        if answered {
            return Err(unexpected());
        }
        let method = requested_method(&message, credentials.require)?;
        if credentials.binding == ChannelBinding::Require && method != Method::ScramSha256 {
            return Err(Error::connection(
                "channel binding required but not supported by server's authentication request",
            ));
        }
        let binding = match &message {
            Message::AuthenticationSasl(body) => Some(chosen_binding(body, credentials)?),
            _ => None,
        };
        let Some(password) = credentials.password else {
            return Ok(Outcome::PasswordNeeded);
        };
        match binding {
            Some((mechanism, binding)) => {
                prove_by_scram(wire, password, mechanism, binding).await?;
                bound = mechanism == SCRAM_SHA_256_PLUS;
            }
            None => answer(wire, &message, credentials.user, password).await?,
        }
        answered = true;
    }
}

/// Whether the server may let us in like this.
fn check_acceptance(credentials: &Credentials<'_>, answered: bool, bound: bool) -> Result<()> {
    if credentials.cert_mode == CertMode::Require {
        let peer = credentials.peer;
        if !peer.is_some_and(|peer| peer.asked_for_certificate) {
            return Err(Error::connection("server did not request an SSL certificate"));
        }
        if !peer.is_some_and(|peer| peer.got_certificate) {
            let message = "server accepted connection without a valid SSL certificate";
            return Err(Error::connection(message));
        }
    }
    if !answered {
        let reason = "server did not complete authentication";
        credentials.require.check(Method::None, reason)?;
    }
    if credentials.binding == ChannelBinding::Require && !bound {
        return Err(Error::connection(
            "channel binding required, but server authenticated client without channel binding",
        ));
    }
    Ok(())
}

/// The mechanism of SCRAM, and what its proof says about the channel.
fn chosen_binding(
    body: &AuthenticationSaslBody,
    credentials: &Credentials<'_>,
) -> Result<(&'static str, Binding)> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(malformed)?;
    let offers_binding = offered.contains(&SCRAM_SHA_256_PLUS);
    let required = credentials.binding == ChannelBinding::Require;
    let Some(peer) = credentials.peer else {
        return match (required, offers_binding) {
            (true, _) => Err(Error::connection("channel binding required, but SSL not in use")),
            // Offered in plain, it belongs to somebody else's encrypted connection.
            (_, true) => Err(Error::connection(
                "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
            )),
            _ => Ok((SCRAM_SHA_256, Binding::Unsupported)),
        };
    };
    let wanted = credentials.binding != ChannelBinding::Disable;
    match (&peer.end_point, offers_binding && wanted) {
        (Some(end_point), true) => Ok((SCRAM_SHA_256_PLUS, Binding::TlsServerEndPoint(end_point.clone()))),
        // "n" tells the server that we do not know of its offer: a server whose certificate was not checked could be anybody between it and us.
        (None, true) if required || !peer.is_verified => Err(Error::connection(
            "could not determine server certificate signature algorithm",
        )),
        _ if required => Err(Error::connection(
            "channel binding is required, but server did not offer an authentication method that supports channel binding",
        )),
        // Nothing is answered that was not offered.
        _ if !offered.contains(&SCRAM_SHA_256) => Err(no_mechanism(&offered)),
        // "y": the server will notice if somebody took its offer away on the way.
        (_, false) if wanted => Ok((SCRAM_SHA_256, Binding::Unrequested)),
        _ => Ok((SCRAM_SHA_256, Binding::Unsupported)),
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

/// SCRAM if it is offered, with or without channel binding.
fn sasl_method(body: &AuthenticationSaslBody) -> Result<Method> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(malformed)?;
    if offered.contains(&SCRAM_SHA_256) || offered.contains(&SCRAM_SHA_256_PLUS) {
        Ok(Method::ScramSha256)
    } else if offered.contains(&"OAUTHBEARER") {
        Ok(Method::Oauth)
    } else {
        Err(no_mechanism(&offered))
    }
}

fn no_mechanism(offered: &[&str]) -> Error {
    Error::connection(format!(
        "none of the server's SASL authentication mechanisms are supported: {}",
        printable(&offered.join(", "))
    ))
}

async fn answer(wire: &mut Wire, request: &Message, user: &str, password: &Password) -> Result<()> {
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

async fn prove_by_scram(
    wire: &mut Wire,
    password: &Password,
    mechanism: &str,
    binding: Binding,
) -> Result<()> {
    let beginning = Beginning::new(binding)?;
    let mut reply = BytesMut::new();
    frontend::sasl_initial_response(mechanism, beginning.message().as_bytes(), &mut reply)
        .map_err(unsendable)?;
    wire.send(&reply).await?;

    let challenge = match wire.receive().await? {
        Incoming::Other(Message::AuthenticationSaslContinue(body)) => beginning.challenged(body.data())?,
        Incoming::Error(error) => return Err(error),
        _ => return Err(unexpected()),
    };
    let proof = challenge.proven(password).await;
    reply.clear();
    frontend::sasl_response(proof.message().as_bytes(), &mut reply).map_err(unsendable)?;
    wire.send(&reply).await?;

    match wire.receive().await? {
        Incoming::Other(Message::AuthenticationSaslFinal(body)) => proof.check(body.data()),
        Incoming::Error(error) => Err(error),
        _ => Err(unexpected()),
    }
}

fn not_supported(method: &str) -> Error {
    Error::connection(format!("{method} authentication is not supported"))
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
            binding: ChannelBinding::Prefer,
            cert_mode: CertMode::Allow,
            peer: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(async {
            let socket = Socket::from_blocking(client.into(), Transport::Unix).unwrap();
            authenticate(&mut Wire::new(socket, None), &credentials).await
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
                server.write_all(&request(10, b"SCRAM-SHA-256\0\0")).unwrap();
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
                "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
            ),
            (
                request(10, b"SCRAM-SHA-1\0\0"),
                "none of the server's SASL authentication mechanisms are supported: SCRAM-SHA-1",
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
