//! The way into TLS: the request for it, and the handshake.
//!
//! Source: PostgreSQL doc protocol.sgml, "SSL Session Encryption"; libpq for the messages.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    CertificateError, ClientConfig, OtherError, SignatureScheme, SupportedProtocolVersion, version,
};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ContextSpecific;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912 as oid;
use x509_cert::der::{Any, Decode, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::files;
use super::revocation_list::RevocationList;
use super::settings::{SslMode, TlsSettings, Version};
use super::verifier::Verifier;
use crate::edge::hosts::Host;
use crate::edge::socket::Socket;
use crate::error::{Error, Result, printable, system_text};
use crate::ring::tls::{self, Session};

/// A request for TLS: its length, and a version that no protocol has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// What is spoken inside, as the server is to confirm where it was not asked before.
const ALPN: &[u8] = b"postgresql";

/// ECDSA with SHA-1 (RFC 5758, section 3.2), which lists of today leave out.
const ECDSA_WITH_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");

/// The longest that a server may send in a handshake without a pause in which we answer, in bytes.
const LONGEST_FLIGHT: usize = 128 << 10;

/// What a failure right behind our first words is likely to come from.
const NOTHING_IN_COMMON: &str = "The server and walring seem to have no cipher or signature algorithm in common. walring knows AES-GCM and ChaCha20-Poly1305 with ephemeral keys, and server certificates with keys of RSA (2048 bits and more), ECDSA on P-256 and P-384, and Ed25519.";

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
) -> Result<(Box<Session>, Peer)> {
    let provider = Arc::new(ring::default_provider());
    let name = name_of(host);
    let host_to_verify = match (tls.mode, name) {
        (SslMode::VerifyFull, None) => {
            let message = "host name must be specified for a verified SSL connection";
            return Err(Error::connection(message));
        }
        (SslMode::VerifyFull, Some(name)) => Some(name.to_owned()),
        _ => None,
    };
    let trust = files::trust(tls, lists, &provider)?;
    let is_verified = trust.is_some();
    let verifier = Verifier::new(trust, host_to_verify, &provider);
    let identity = Arc::new(Identity::new(files::identity(tls, &provider)?));
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
    let (connection, unread) = Handshake::begin(connection).run(socket).await?;
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

/// A handshake under way.
struct Handshake {
    connection: UnbufferedClientConnection,
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
    fn begin(connection: UnbufferedClientConnection) -> Handshake {
        Handshake {
            connection,
            incoming: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    /// Until its end; what the server sent behind it.
    async fn run(mut self, socket: &mut Socket) -> Result<(UnbufferedClientConnection, Vec<u8>)> {
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
            ConnectionState::EncodeTlsData(mut data) => {
                let start = self.outgoing.len();
                let mut room = 0;
                loop {
                    self.outgoing.resize(start + room, 0);
                    match data.encode(&mut self.outgoing[start..]) {
                        Ok(count) => {
                            self.outgoing.truncate(start + count);
                            break Step::Next;
                        }
                        Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
                        Err(EncodeError::AlreadyEncoded) => break Step::Next,
                    }
                }
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
        self.incoming.drain(..discard);
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
    fn failed(&self, error: &rustls::Error) -> Error {
        let is_without_choice = matches!(
            error,
            rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure)
        );
        match is_without_choice && self.connection.peer_certificates().is_none() {
            true => failed(error).with_hint(NOTHING_IN_COMMON),
            false => failed(error),
        }
    }

    /// Tells the server what was wrong with it, if it still listens.
    async fn say_why(&mut self, socket: &mut Socket) {
        self.incoming.clear();
        while let UnbufferedStatus {
            state: Ok(ConnectionState::EncodeTlsData(mut data)),
            ..
        } = self.connection.process_tls_records(&mut [])
        {
            let mut alert = [0; 256];
            if let Ok(count) = data.encode(&mut alert) {
                let _ = socket.write_all(&alert[..count]).await;
            }
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

/// The certificate's hash, by the function of its signature, or SHA-256 where that is weaker (RFC 5929, section 4.1).
fn end_point(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(match hash_of_signature(certificate.signature_algorithm())? {
        Hash::Sha224 => Sha224::digest(der).to_vec(),
        Hash::Sha256 => Sha256::digest(der).to_vec(),
        Hash::Sha384 => Sha384::digest(der).to_vec(),
        Hash::Sha512 => Sha512::digest(der).to_vec(),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// `None` for a signature that names no hash, or one that is not known here.
fn hash_of_signature(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    Some(match algorithm.oid {
        oid::ID_RSASSA_PSS => return pss_hash(algorithm.parameters.as_ref()?),
        oid::MD_5_WITH_RSA_ENCRYPTION | oid::SHA_1_WITH_RSA_ENCRYPTION | oid::SHA_256_WITH_RSA_ENCRYPTION => {
            Hash::Sha256
        }
        ECDSA_WITH_SHA_1 | oid::ECDSA_WITH_SHA_256 => Hash::Sha256,
        oid::SHA_224_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_224 => Hash::Sha224,
        oid::SHA_384_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_384 => Hash::Sha384,
        oid::SHA_512_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_512 => Hash::Sha512,
        _ => return None,
    })
}

/// The hash in the parameters of RSASSA-PSS (RFC 4055, section 3.1): their first field. Without, it is SHA-1.
fn pss_hash(parameters: &Any) -> Option<Hash> {
    let mut fields = SliceReader::new(parameters.value()).ok()?;
    let hash =
        ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut fields, TagNumber(0)).ok()?;
    Some(match hash.map(|hash| hash.value.oid) {
        None | Some(oid::ID_SHA_1 | oid::ID_SHA_256) => Hash::Sha256,
        Some(oid::ID_SHA_224) => Hash::Sha224,
        Some(oid::ID_SHA_384) => Hash::Sha384,
        Some(oid::ID_SHA_512) => Hash::Sha512,
        Some(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(id: ObjectIdentifier, parameters: Option<&[u8]>) -> Option<Hash> {
        hash_of_signature(&AlgorithmIdentifierOwned {
            oid: id,
            parameters: parameters.map(|der| Any::from_der(der).unwrap()),
        })
    }

    #[test]
    fn a_channel_is_bound_by_the_hash_of_the_signature() {
        for (id, expected) in [
            (oid::MD_5_WITH_RSA_ENCRYPTION, Some(Hash::Sha256)),
            (oid::SHA_1_WITH_RSA_ENCRYPTION, Some(Hash::Sha256)),
            (ECDSA_WITH_SHA_1, Some(Hash::Sha256)),
            (oid::ECDSA_WITH_SHA_224, Some(Hash::Sha224)),
            (oid::ECDSA_WITH_SHA_256, Some(Hash::Sha256)),
            (oid::SHA_384_WITH_RSA_ENCRYPTION, Some(Hash::Sha384)),
            (oid::SHA_512_WITH_RSA_ENCRYPTION, Some(Hash::Sha512)),
            (oid::MD_2_WITH_RSA_ENCRYPTION, None),
            // Ed25519, ECDSA with SHA3-256.
            (ObjectIdentifier::new_unwrap("1.3.101.112"), None),
            (ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3.10"), None),
        ] {
            assert_eq!(hash(id, None), expected, "{id}");
        }
    }

    #[test]
    fn the_hash_of_pss_is_in_its_parameters() {
        let with = |last| {
            let id = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, last];
            [&[0x30, 15, 0xa0, 13, 0x30, 11, 6, 9][..], &id].concat()
        };
        for (parameters, expected) in [
            (vec![0x30, 0], Some(Hash::Sha256)),
            // The length of the salt alone.
            (vec![0x30, 5, 0xa2, 3, 2, 1, 32], Some(Hash::Sha256)),
            (with(1), Some(Hash::Sha256)),
            (with(2), Some(Hash::Sha384)),
            (with(3), Some(Hash::Sha512)),
            (with(4), Some(Hash::Sha224)),
            // SHA3-256.
            (with(8), None),
        ] {
            assert_eq!(
                hash(oid::ID_RSASSA_PSS, Some(&parameters)),
                expected,
                "{parameters:?}"
            );
        }
        assert_eq!(hash(oid::ID_RSASSA_PSS, None), None);
    }
}
