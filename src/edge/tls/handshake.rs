//! The way into TLS: the request for it, and the handshake.
//!
//! Source: PostgreSQL doc protocol.sgml, "SSL Session Encryption"; libpq for the messages.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientConnectionData, ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, OtherError, PeerIncompatible, SignatureScheme,
    SupportedProtocolVersion, version,
};

use super::binding::end_point;
use super::failure::{Failure, Outcome};
use super::files;
use super::revocation_list::RevocationList;
use super::settings::{SslMode, TlsSettings, Version};
use super::verifier::{Distrust, Verifier};
use crate::edge::hosts::Host;
use crate::edge::socket::Socket;
use crate::error::{Error, Result, printable, system_text};
use crate::ring::tls::{self, Session};

/// A request for TLS: its length, and a version that no protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What is spoken inside, as the server is to confirm where it was not asked before.
const ALPN: &[u8] = b"postgresql";

/// The longest that a server may send in a handshake without a pause in which we answer, in bytes.
const LONGEST_FLIGHT: usize = 128 << 10;

/// What a failure right behind our first words is likely to come from.
const NOTHING_IN_COMMON: &str = "The server and walring seem to have no cipher, group or signature algorithm in common. walring knows AES-GCM and ChaCha20-Poly1305 with ephemeral keys in the groups X25519, P-256 and P-384 (ssl_ecdh_curve, ssl_groups), and server certificates with keys of RSA (2048 bits and more), ECDSA on P-256 and P-384, and Ed25519.";

/// What to do about a server that knows nothing newer than what the operator allows.
const TOO_OLD: &str = "walring speaks TLS 1.2 and 1.3.";

/// How much room is made for a read, in bytes.
const READ_SIZE: usize = 16 << 10;

/// What an encrypted connection knows of its server, for the login.
#[derive(Debug, Default)]
pub struct Peer {
    /// What the password's proof is bound to: a hash of the server's certificate (RFC 5929, tls-server-end-point).
    /// `None`: its signature names no hash.
    pub end_point: Option<Vec<u8>>,
    /// Whether its certificate is known to be of somebody who is trusted.
    pub is_verified: bool,
    /// Whether the server asked for a certificate of ours.
    pub asked_for_certificate: bool,
    /// Whether it got one.
    pub got_certificate: bool,
}

/// How the server answers a request for TLS.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The handshake may begin.
    Willing,
    /// It has no TLS; the connection can go on without.
    Unwilling,
}

/// Asks for TLS.
///
/// Fails, in libpq's words, for any other answer. An error that the server reports is not shown: nobody knows yet who
/// says it (CVE-2024-10977).
pub async fn request(socket: &mut Socket) -> Result<Answer> {
    let sent = socket.write_all(&SSL_REQUEST).await;
    sent.map_err(|error| {
        let reason = system_text(&error);
        Error::connection(format!("could not send SSL negotiation packet: {reason}"))
    })?;
    let mut answer = [0; 64];
    let count = socket
        .read(&mut answer)
        .await
        .or_else(at_reset)
        .map_err(unreceived)?;
    match &answer[..count] {
        [] => Err(crate::edge::wire::hung_up()),
        b"S" => Ok(Answer::Willing),
        // Somebody on the way could have put there what would be taken for the server's own, encrypted, words (CVE-2021-23222).
        [b'S', ..] => Err(Error::protocol("received unencrypted data after SSL response")),
        [b'N'] => Ok(Answer::Unwilling),
        [b'N', ..] => Err(Error::protocol("received unexpected data after SSL response")),
        [b'E', ..] => Err(Error::connection(
            "server sent an error response during SSL exchange",
        )),
        [other, ..] => {
            let shown = char::from(*other);
            Err(Error::protocol(format!(
                "received invalid response to SSL negotiation: {shown}"
            )))
        }
    }
}

fn at_reset(error: io::Error) -> io::Result<usize> {
    match error.kind() {
        io::ErrorKind::ConnectionReset => Ok(0),
        _ => Err(error),
    }
}

fn unreceived(error: io::Error) -> Error {
    Error::connection(format!(
        "could not receive data from server: {}",
        system_text(&error)
    ))
}

/// Goes through the handshake.
///
/// Fails if files cannot be read, if the server is not the right one, or if the two have no version or cipher in common.
pub async fn shake_hands(
    socket: &mut Socket,
    tls: &TlsSettings,
    host: &Host,
    lists: Option<Vec<RevocationList>>,
) -> Outcome<(Box<Session>, Peer)> {
    let provider = Arc::new(ring::default_provider());
    let name = name_of(host);
    let host_to_verify = match (tls.mode, name) {
        (SslMode::VerifyFull, None) => {
            let message = "host name must be specified for a verified SSL connection";
            return Err(Error::connection(message).into());
        }
        (SslMode::VerifyFull, Some(name)) => Some(name.to_owned()),
        _ => None,
    };
    let trust = files::trust(tls, lists, &provider)?;
    let is_verified = trust.is_some();
    let identity = files::identity(tls, trust.as_ref(), &provider)?;
    let identity = Arc::new(Identity::new(identity));
    let verifier = Verifier::new(trust, host_to_verify, &provider);
    let server_name = indicated_name(tls, name);
    let config = config(
        tls,
        provider,
        verifier,
        Arc::clone(&identity),
        server_name.is_some(),
    )?;
    let unnamed = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
    let connection = UnbufferedClientConnection::new(Arc::new(config), server_name.unwrap_or(unnamed))
        .map_err(|error| failed(&error))?;
    let (connection, unread) = Handshake::begin(connection, tls.versions.0).run(socket).await?;
    check_alpn(&connection, tls)?;
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    let peer = Peer {
        end_point: certificate.and_then(end_point),
        is_verified,
        asked_for_certificate: identity.asked.load(Ordering::Relaxed),
        got_certificate: identity.forget_key() && identity.asked.load(Ordering::Relaxed),
    };
    Ok((Session::new(connection, &unread)?, peer))
}

/// What the operator calls the host, if it was called anything.
fn name_of(host: &Host) -> Option<&str> {
    host.is_named.then_some(host.name.as_str())
}

/// The name that the server hears before it shows a certificate, unless it is an address (RFC 6066, section 3).
fn indicated_name(tls: &TlsSettings, name: Option<&str>) -> Option<ServerName<'static>> {
    let is_address =
        |name: &str| name.contains(':') || name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let name = name.filter(|name| tls.sni && !is_address(name))?;
    ServerName::try_from(name.to_owned()).ok()
}

fn config(
    tls: &TlsSettings,
    provider: Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    identity: Arc<Identity>,
    indicates_name: bool,
) -> Result<ClientConfig> {
    let spoken = |version: Version| tls.versions.0 <= version && version <= tls.versions.1;
    let mut versions: Vec<&'static SupportedProtocolVersion> = Vec::new();
    if spoken(Version::V1_3) {
        versions.push(&version::TLS13);
    }
    if spoken(Version::V1_2) {
        versions.push(&version::TLS12);
    }
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
    let mut config = builder
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = indicates_name;
    // The records behind the handshake are ours ([`tls`]).
    config.enable_secret_extraction = true;
    // Every connection is new: so is the check of its certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Where the server was not asked whether it speaks TLS, it has to say that it speaks PostgreSQL in it.
fn check_alpn(connection: &UnbufferedClientConnection, tls: &TlsSettings) -> Result<()> {
    match connection.alpn_protocol() {
        Some(ALPN) => Ok(()),
        Some(_) => Err(Error::connection(
            "SSL connection was established with unexpected ALPN protocol",
        )),
        None if tls.direct => Err(Error::connection(
            "direct SSL connection was established without ALPN protocol negotiation extension",
        )),
        None => Ok(()),
    }
}

/// What is said of an error of rustls.
fn failed(error: &rustls::Error) -> Error {
    match error {
        // The verifier's own words.
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(distrust))) => {
            Error::connection(printable(&distrust.to_string()))
        }
        rustls::Error::General(message) => Error::connection(printable(message)),
        rustls::Error::AlertReceived(alert) => tls::alerted(*alert),
        other => Error::connection(printable(&format!("SSL error: {other}"))),
    }
}

/// Whether OpenSSL would do what rustls does not, as far as the versions allow that are spoken.
fn is_ours_alone(lack: &PeerIncompatible, oldest: Version) -> bool {
    match lack {
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => false,
        PeerIncompatible::ServerDoesNotSupportTls12Or13 => oldest < Version::V1_2,
        _ => true,
    }
}

/// A handshake under way.
struct Handshake {
    connection: UnbufferedClientConnection,
    /// The oldest version that the operator allows.
    oldest: Version,
    /// Read and not used.
    incoming: Vec<u8>,
    /// Made and not sent.
    outgoing: Vec<u8>,
}

/// What the handshake needs next.
enum Step {
    Send,
    Read,
    Done,
    /// It goes on by itself.
    Next,
}

impl Handshake {
    fn begin(connection: UnbufferedClientConnection, oldest: Version) -> Handshake {
        Handshake {
            connection,
            oldest,
            incoming: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// Until its end; what the server sent behind it.
    async fn run(mut self, socket: &mut Socket) -> Outcome<(UnbufferedClientConnection, Vec<u8>)> {
        loop {
            match self.step() {
                Ok(Step::Next) => {}
                Ok(Step::Done) => return Ok((self.connection, self.incoming)),
                Ok(Step::Send) => self.send(socket).await?,
                Ok(Step::Read) => self.read(socket).await?,
                Err(error) => {
                    self.say_why(socket).await;
                    return Err(self.failed(&error));
                }
            }
        }
    }

    fn step(&mut self) -> std::result::Result<Step, rustls::Error> {
        let UnbufferedStatus { discard, state, .. } = self.connection.process_tls_records(&mut self.incoming);
        let step = match state? {
            ConnectionState::EncodeTlsData(data) => {
                encode(data, &mut self.outgoing);
                Step::Next
            }
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Step::Send
            }
            ConnectionState::BlockedHandshake => Step::Read,
            ConnectionState::WriteTraffic(_) => Step::Done,
            // Nobody has asked for anything yet.
            _ => return Err(rustls::Error::General("SSL error: unexpected message".to_owned())),
        };
        self.incoming.drain(..discard.min(self.incoming.len()));
        Ok(step)
    }

    async fn send(&mut self, socket: &mut Socket) -> Result<()> {
        let sent = socket.write_all(&self.outgoing).await;
        self.outgoing.clear();
        sent.map_err(|error| Error::connection(format!("SSL SYSCALL error: {}", system_text(&error))))
    }

    async fn read(&mut self, socket: &mut Socket) -> Result<()> {
        let start = self.incoming.len();
        if start > LONGEST_FLIGHT {
            return Err(Error::connection("SSL error: excessive message size"));
        }
        self.incoming.resize(start + READ_SIZE, 0);
        let read = socket.read(&mut self.incoming[start..]).await.or_else(at_reset);
        self.incoming.truncate(start + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(Error::connection("SSL SYSCALL error: EOF detected")),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::connection(format!(
                "SSL SYSCALL error: {}",
                system_text(&error)
            ))),
        }
    }

    /// What is said of an error, and of a server that ends before it has shown a certificate.
    fn failed(&self, error: &rustls::Error) -> Failure {
        let is_first = self.connection.peer_certificates().is_none();
        match error {
            // The server finds nothing that it could use in our hello; in OpenSSL's there is all that, and more.
            rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) if is_first => {
                Failure::of_ours_alone(failed(error).with_hint(NOTHING_IN_COMMON))
            }
            // The same for a version that only OpenSSL speaks.
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
                if is_first && self.oldest < Version::V1_2 =>
            {
                Failure::of_ours_alone(failed(error).with_hint(TOO_OLD))
            }
            rustls::Error::PeerIncompatible(lack) if is_ours_alone(lack, self.oldest) => {
                Failure::of_ours_alone(failed(error))
            }
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(distrust)))
                if distrust
                    .downcast_ref::<Distrust>()
                    .is_some_and(|it| it.is_unreadable) =>
            {
                Failure::of_ours_alone(failed(error))
            }
            _ => failed(error).into(),
        }
    }

    /// Tells the server what was wrong with it, if it still listens.
    ///
    /// After an error rustls still holds places in what was read, and panics where it looks for them in vain. It gives
    /// away what it has to send before it looks at anything: it is asked for that, and for no more.
    async fn say_why(&mut self, socket: &mut Socket) {
        while self.connection.wants_write() {
            match self.connection.process_tls_records(&mut []).state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, &mut self.outgoing),
                _ => break,
            }
        }
        let _ = self.send(socket).await;
    }
}

/// Puts a record behind those that are to be sent.
fn encode(mut data: EncodeTlsData<'_, ClientConnectionData>, outgoing: &mut Vec<u8>) {
    let start = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(start + room, 0);
        match data.encode(&mut outgoing[start..]) {
            Ok(count) => return outgoing.truncate(start + count),
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => return outgoing.truncate(start),
        }
    }
}

/// Our certificate, and whether the server wanted to see it.
#[derive(Debug)]
struct Identity {
    key: Mutex<Option<Arc<CertifiedKey>>>,
    asked: AtomicBool,
}

impl Identity {
    fn new(key: Option<Arc<CertifiedKey>>) -> Identity {
        Identity {
            key: Mutex::new(key),
            asked: AtomicBool::new(false),
        }
    }

    fn key(&self) -> MutexGuard<'_, Option<Arc<CertifiedKey>>> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session keeps the configuration for what it does not use; the key need not be in memory as long. True if there was one.
    fn forget_key(&self) -> bool {
        self.key().take().is_some()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key().clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_nobody_speaks_is_no_affair_of_ours_alone() {
        use PeerIncompatible as Lack;
        for (lack, oldest, expected) in [
            (Lack::ServerDoesNotSupportTls12Or13, Version::V1_2, false),
            (Lack::ServerDoesNotSupportTls12Or13, Version::V1_1, true),
            (Lack::ServerTlsVersionIsDisabledByOurConfig, Version::V1, false),
            (
                Lack::NoCertificateRequestSignatureSchemesInCommon,
                Version::V1_2,
                true,
            ),
        ] {
            assert_eq!(is_ours_alone(&lack, oldest), expected, "{lack:?} {oldest:?}");
        }
    }
}
