//! Whether the server's certificate is good: signed by somebody trusted, valid today, not withdrawn, for this host.
//!
//! webpki builds and checks the path. It takes a root for good whatever the root's certificate says, looks at no key
//! usage, and compares no common name with what a constraint allows: OpenSSL does, and so it is done here
//! (`purpose.rs`), for every path that webpki finds. webpki refuses two kinds of certificate that OpenSSL accepts, and that
//! PostgreSQL's documentation tells how to make: one of version 1, and one that signed itself and is its own root. These
//! two are checked here, where one of the roots itself has signed them. So are revocation lists (`revocation.rs`), of
//! which webpki reads no version 1.
//!
//! Source: RFC 5280, sections 4.1, 4.2 and 6.1; libpq for the rules; the words are OpenSSL's.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity, VerifiedPath};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::{Decode, Encode};

use super::names;
use super::purpose::{self, Verdict};
use super::revocation;
use super::signature;
use super::trust::{Root, Trust};

/// Judges the server's certificate as the operator wants.
pub struct Verifier {
    /// `None`: any certificate will do.
    trust: Option<Trust>,
    /// The host it has to be for.
    host: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(_)")
    }
}

impl Verifier {
    /// A judge that trusts so, and wants a certificate for `host` if one is named.
    pub fn new(trust: Option<Trust>, host: Option<String>, provider: &CryptoProvider) -> Arc<Verifier> {
        Arc::new(Verifier {
            trust,
            host,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn judge(&self, der: &CertificateDer<'_>, sent: &[CertificateDer<'_>], now: UnixTime) -> Verdict {
        if let Some(trust) = &self.trust {
            let judged = judge_by_roots(trust, der, sent, now);
            judged.map_err(|reason| format!("SSL error: certificate verify failed: {reason}"))?;
        }
        match &self.host {
            Some(host) => names::check(&parse(der)?, host),
            None => Ok(()),
        }
    }
}

fn judge_by_roots(
    trust: &Trust,
    der: &CertificateDer<'_>,
    sent: &[CertificateDer<'_>],
    now: UnixTime,
) -> Verdict {
    let certificate = parse(der)?;
    let chain = match judge_path(trust, der, sent, now) {
        Ok(chain) => chain,
        // Another certificate that the server sent may be what is not supported.
        Err(Refusal::Unsupported(_)) if is_beyond_webpki(&certificate) => {
            judge_alone(trust, der, certificate, now)?
        }
        Err(Refusal::Unsupported(reason) | Refusal::Bad(reason)) => return Err(reason),
    };
    match &trust.lists {
        Some(lists) => revocation::check_chain(lists, &trust.algorithms, &chain, now),
        None => Ok(()),
    }
}

/// Whether it is one of those that webpki refuses, and OpenSSL does not.
fn is_beyond_webpki(certificate: &Certificate) -> bool {
    certificate.tbs_certificate().version() == Version::V1 || purpose::is_authority(certificate)
}

/// Why there is no path.
enum Refusal {
    Bad(String),
    /// There is a kind of certificate that webpki does not take.
    Unsupported(String),
}

/// The usual case. The certificates of the path, the root's is the last.
fn judge_path(
    trust: &Trust,
    der: &CertificateDer<'_>,
    sent: &[CertificateDer<'_>],
    now: UnixTime,
) -> std::result::Result<Vec<Certificate>, Refusal> {
    let between: Vec<_> = sent.iter().chain(&trust.others).cloned().collect();
    let checked = RefCell::new(Err(String::new()));
    // webpki goes on to another path if one is refused.
    let check = |path: &VerifiedPath<'_>| {
        let chain = check_path(trust, path, now);
        let is_good = chain.is_ok();
        *checked.borrow_mut() = chain;
        is_good.then_some(()).ok_or(webpki::Error::UnknownIssuer)
    };
    let usage = KeyUsage::server_auth();
    let (algorithms, anchors) = (trust.algorithms.all, &trust.anchors);
    let found = EndEntityCert::try_from(der).and_then(|certificate| {
        let path =
            certificate.verify_for_usage(algorithms, anchors, &between, now, usage, None, Some(&check));
        path.map(drop)
    });
    match (found, checked.into_inner()) {
        (Ok(()), chain) => chain.map_err(Refusal::Bad),
        (Err(_), Err(reason)) if !reason.is_empty() => Err(Refusal::Bad(reason)),
        (Err(error), _) => Err(match error {
            webpki::Error::UnsupportedCertVersion | webpki::Error::CaUsedAsEndEntity => {
                Refusal::Unsupported(in_words_of_openssl(&error))
            }
            _ => Refusal::Bad(in_words_of_openssl(&error)),
        }),
    }
}

/// What webpki has not checked of a path; its certificates.
fn check_path(
    trust: &Trust,
    path: &VerifiedPath<'_>,
    now: UnixTime,
) -> std::result::Result<Vec<Certificate>, String> {
    let der = path.end_entity().der();
    let certificate = parse(&der)?;
    purpose::check_server(&certificate)?;
    if trust.has(&der) {
        // It has signed nothing but itself: it need not be an authority's.
        return Ok(vec![certificate]);
    }
    let mut chain = vec![certificate];
    for between in path.intermediate_certificates() {
        chain.push(parse(&between.der())?);
    }
    let is_counted = |it: &&Certificate| it.tbs_certificate().issuer() != it.tbs_certificate().subject();
    let counted = chain[1..].iter().filter(is_counted).count();
    chain[1..]
        .iter()
        .try_for_each(purpose::check_signs_certificates)?;
    let root = good_one(trust.roots_of(path.anchor()), counted, now)?;
    chain.push(root.certificate.clone());
    if chain[1..].iter().any(purpose::constrains_names) && purpose::is_named_by_subject(&chain[0])? {
        return Err("permitted subtree violation".to_owned());
    }
    Ok(chain)
}

/// The first of the roots that may have signed, with so many certificates between.
fn good_one<'a>(
    roots: impl Iterator<Item = &'a Root>,
    between: usize,
    now: UnixTime,
) -> std::result::Result<&'a Root, String> {
    let mut reason = "unable to get local issuer certificate".to_owned();
    for root in roots {
        match purpose::check_root(&root.certificate, between, now) {
            Ok(()) => return Ok(root),
            Err(bad) => reason = bad,
        }
    }
    Err(reason)
}

/// A certificate that is one of the roots, or that one of them has signed; with the root, if that is another one.
fn judge_alone(
    trust: &Trust,
    der: &CertificateDer<'_>,
    certificate: Certificate,
    now: UnixTime,
) -> std::result::Result<Vec<Certificate>, String> {
    purpose::check_dates(certificate.tbs_certificate().validity(), now)?;
    purpose::check_critical(&certificate)?;
    purpose::check_server(&certificate)?;
    if trust.has(der) {
        return Ok(vec![certificate]);
    }
    let issuer = certificate.tbs_certificate().issuer();
    let has_signed = |root: &&Root| {
        root.anchor.is_some()
            && root.certificate.tbs_certificate().subject() == issuer
            // Nobody has compared its names with what the root allows.
            && !purpose::constrains_names(&root.certificate)
            && signature::is_of(&trust.algorithms, &root.certificate, &certificate, der) == Some(true)
    };
    let root = good_one(trust.roots.iter().filter(has_signed), 0, now)?;
    Ok(vec![certificate, root.certificate.clone()])
}

fn parse(der: &CertificateDer<'_>) -> std::result::Result<Certificate, String> {
    Certificate::from_der(der).map_err(|error| format!("could not read the server's certificate: {error}"))
}

fn in_words_of_openssl(error: &webpki::Error) -> String {
    let words = match error {
        webpki::Error::UnknownIssuer => "unable to get local issuer certificate",
        webpki::Error::CertExpired { .. } => "certificate has expired",
        webpki::Error::CertNotValidYet { .. } => "certificate is not yet valid",
        webpki::Error::InvalidSignatureForPublicKey => "certificate signature failure",
        webpki::Error::RequiredEkuNotFoundContext(_) => "unsuitable certificate purpose",
        other => return other.to_string(),
    };
    words.to_owned()
}

/// Why a certificate is not good, in whole.
#[derive(Debug)]
pub struct Distrust {
    reason: String,
    /// It cannot be read here. OpenSSL reads what no certificate should be.
    pub is_unreadable: bool,
}

impl std::fmt::Display for Distrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Distrust {}

fn distrust(reason: impl Into<String>) -> rustls::Error {
    in_whole(reason.into(), false)
}

fn unreadable(reason: String) -> rustls::Error {
    in_whole(reason, true)
}

fn in_whole(reason: String, is_unreadable: bool) -> rustls::Error {
    let distrust = Distrust {
        reason,
        is_unreadable,
    };
    CertificateError::Other(OtherError(Arc::new(distrust))).into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        parse(end_entity).map_err(unreadable)?;
        self.judge(end_entity, intermediates, now).map_err(distrust)?;
        Ok(ServerCertVerified::assertion())
    }

    /// Whoever the server is, it must have the key of its certificate.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let key = public_key(cert)?;
        let key = RawPublicKeyEntity::try_from(&key).map_err(|error| distrust(error.to_string()))?;
        let usable = self
            .algorithms
            .mapping
            .iter()
            .find(|(scheme, _)| *scheme == dss.scheme);
        let mut usable = usable.map_or(&[][..], |(_, algorithms)| *algorithms).iter();
        match usable.any(|algorithm| key.verify_signature(*algorithm, message, dss.signature()).is_ok()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(distrust("SSL error: bad signature")),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature_with_raw_key(message, &public_key(cert)?, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The public key of a certificate, of whichever version that is.
fn public_key(
    der: &CertificateDer<'_>,
) -> std::result::Result<SubjectPublicKeyInfoDer<'static>, rustls::Error> {
    let certificate = parse(der).map_err(distrust)?;
    let key = certificate.tbs_certificate().subject_public_key_info().to_der();
    key.map(SubjectPublicKeyInfoDer::from)
        .map_err(|error| distrust(error.to_string()))
}
