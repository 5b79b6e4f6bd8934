//! Whether the server's certificate is good: signed by somebody trusted, valid today, not withdrawn, for this host.
//!
//! webpki builds and checks the path. It refuses two kinds of certificate that OpenSSL accepts, and that PostgreSQL's
//! documentation tells how to make: one of version 1, and one that signed itself and is its own root. These two are
//! checked here, where one of the roots itself has signed them. So are revocation lists, of which webpki reads no version 1.
//!
//! Source: RFC 5280, sections 4.1, 4.2, 5.1 and 6.1; libpq for the rules; the words are OpenSSL's.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity, VerifiedPath};
use x509_cert::Certificate;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage as CertificateKeyUsage, SubjectAltName,
};
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

use super::names;
use super::revocation_list::RevocationList;
use crate::error::{Error, Result};

/// A reason not to trust a certificate.
type Verdict = std::result::Result<(), String>;

/// Whom to trust, and what was withdrawn.
pub struct Trust {
    /// Certificates that signed themselves.
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// The others of the file: they lead to a root, and are none (as for OpenSSL).
    others: Vec<CertificateDer<'static>>,
    /// `None`: nobody asks.
    lists: Option<Vec<RevocationList>>,
}

impl Trust {
    /// Sorts certificates, and reads revocation lists. Fails for a list that is none.
    pub fn new(
        certificates: Vec<CertificateDer<'static>>,
        lists: Option<Vec<CertificateRevocationListDer<'static>>>,
    ) -> Result<Trust> {
        let (roots, others): (Vec<_>, Vec<_>) = certificates.into_iter().partition(|der| {
            let parsed = Certificate::from_der(der);
            // What cannot be read here may be of use for webpki.
            parsed.map_or(true, |it| {
                it.tbs_certificate().issuer() == it.tbs_certificate().subject()
            })
        });
        let anchor = |der: &CertificateDer<'static>| {
            let anchor = webpki::anchor_from_trusted_cert(der).ok()?;
            Some(anchor.to_owned())
        };
        let parsed = lists.map(|lists| lists.iter().map(|list| RevocationList::from_der(list)).collect());
        let parsed: Option<std::result::Result<Vec<_>, _>> = parsed;
        let lists = parsed.transpose().map_err(|error: x509_cert::der::Error| {
            Error::connection(format!("could not read a certificate revocation list: {error}"))
        })?;
        Ok(Trust {
            anchors: roots.iter().filter_map(anchor).collect(),
            roots,
            others,
            lists,
        })
    }
}

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
            let judged = match self.judge_path(trust, der, sent, now) {
                Err(webpki::Error::UnsupportedCertVersion | webpki::Error::CaUsedAsEndEntity) => {
                    self.judge_alone(trust, der, now)
                }
                Err(error) => Err(in_words_of_openssl(&error)),
                Ok(path) => path,
            };
            judged.map_err(|reason| format!("SSL error: certificate verify failed: {reason}"))?;
        }
        match &self.host {
            Some(host) => names::check(&parse(der)?, host),
            None => Ok(()),
        }
    }

    /// The usual case. The inner result is that of the revocation lists.
    fn judge_path(
        &self,
        trust: &Trust,
        der: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> std::result::Result<Verdict, webpki::Error> {
        let between: Vec<_> = sent.iter().chain(&trust.others).cloned().collect();
        let certificate = EndEntityCert::try_from(der)?;
        let usage = KeyUsage::server_auth();
        let path = certificate.verify_for_usage(
            self.algorithms.all,
            &trust.anchors,
            &between,
            now,
            usage,
            None,
            None,
        )?;
        Ok(self.check_path_against_lists(trust, &path, now))
    }

    /// A certificate that is one of the roots, or that one of them has signed.
    fn judge_alone(&self, trust: &Trust, der: &CertificateDer<'_>, now: UnixTime) -> Verdict {
        let certificate = parse(der)?;
        check_dates(certificate.tbs_certificate().validity(), now)?;
        check_purpose(&certificate)?;
        let signed_by = |root: &&CertificateDer<'static>| {
            let root = Certificate::from_der(root).ok()?;
            let (root, tbs) = (root.tbs_certificate().clone(), certificate.tbs_certificate());
            check_dates(root.validity(), now).ok()?;
            let key = root.subject_public_key_info().to_der().ok()?;
            let signature = certificate.signature().as_bytes()?;
            let signed = root.subject() == tbs.issuer()
                && self.is_signed(
                    &key,
                    certificate.signature_algorithm(),
                    &tbs.to_der().ok()?,
                    signature,
                );
            signed.then_some(key)
        };
        let is_root = trust.roots.iter().any(|root| root == der);
        let key = match is_root {
            true => certificate
                .tbs_certificate()
                .subject_public_key_info()
                .to_der()
                .ok(),
            false => trust.roots.iter().find_map(|root| signed_by(&root)),
        };
        let Some(key) = key else {
            return Err("unable to get local issuer certificate".to_owned());
        };
        self.check_against_lists(trust, &certificate, &key, now)
    }

    fn is_signed(&self, key: &[u8], by: &AlgorithmIdentifierOwned, message: &[u8], signature: &[u8]) -> bool {
        let key = SubjectPublicKeyInfoDer::from(key);
        let Ok(key) = RawPublicKeyEntity::try_from(&key) else {
            return false;
        };
        // As a verification algorithm names it: without tag and length.
        let Some(name) = by.to_der().ok().and_then(|der| Some(der.get(2..)?.to_vec())) else {
            return false;
        };
        let usable = self
            .algorithms
            .all
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == name);
        usable
            .into_iter()
            .any(|algorithm| key.verify_signature(*algorithm, message, signature).is_ok())
    }

    fn check_path_against_lists(&self, trust: &Trust, path: &VerifiedPath<'_>, now: UnixTime) -> Verdict {
        if trust.lists.is_none() {
            return Ok(());
        }
        let end = path.end_entity();
        let between: Vec<_> = path.intermediate_certificates().collect();
        let mut keys: Vec<_> = between
            .iter()
            .map(|it| it.subject_public_key_info().to_vec())
            .collect();
        keys.push(webpki::spki_for_anchor(path.anchor()).to_vec());
        let certificates = std::iter::once(end.der()).chain(between.iter().map(|it| it.der()));
        certificates
            .zip(keys)
            .try_for_each(|(der, issuer)| self.check_against_lists(trust, &parse(&der)?, &issuer, now))
    }

    /// Whether the list of a certificate's issuer has it. As with OpenSSL, every issuer has to have a list.
    fn check_against_lists(
        &self,
        trust: &Trust,
        certificate: &Certificate,
        issuer: &[u8],
        now: UnixTime,
    ) -> Verdict {
        let Some(lists) = &trust.lists else {
            return Ok(());
        };
        let tbs = certificate.tbs_certificate();
        let mut verdict = Err("unable to get certificate CRL".to_owned());
        for list in lists
            .iter()
            .filter(|list| list.tbs_cert_list.issuer == *tbs.issuer())
        {
            verdict = self.check_list(list, issuer, now);
            if verdict.is_ok() {
                let mut revoked = list.tbs_cert_list.revoked_certificates.iter().flatten();
                return match revoked.any(|entry| entry.serial_number == *tbs.serial_number()) {
                    true => Err("certificate revoked".to_owned()),
                    false => Ok(()),
                };
            }
        }
        verdict
    }

    /// Whether a list is its issuer's, of today, and of the kind that names all that was withdrawn.
    fn check_list(&self, list: &RevocationList, issuer: &[u8], now: UnixTime) -> Verdict {
        let (tbs, signature) = (&list.tbs_cert_list, list.signature.as_bytes().unwrap_or_default());
        let message = tbs.to_der().map_err(|error| error.to_string())?;
        if !self.is_signed(issuer, &list.signature_algorithm, &message, signature) {
            return Err("CRL signature failure".to_owned());
        }
        if !has_come(tbs.this_update, now) {
            return Err("CRL is not yet valid".to_owned());
        }
        if tbs.next_update.is_some_and(|next| has_come(next, now)) {
            return Err("CRL has expired".to_owned());
        }
        let mut extensions = tbs.crl_extensions.iter().flatten();
        match extensions.any(|extension| extension.critical) {
            true => Err("unhandled critical CRL extension".to_owned()),
            false => Ok(()),
        }
    }
}

fn parse(der: &CertificateDer<'_>) -> std::result::Result<Certificate, String> {
    Certificate::from_der(der).map_err(|error| format!("could not read the server's certificate: {error}"))
}

fn has_come(time: Time, now: UnixTime) -> bool {
    time.to_unix_duration() <= Duration::from_secs(now.as_secs())
}

fn check_dates(validity: &x509_cert::time::Validity, now: UnixTime) -> Verdict {
    if !has_come(validity.not_before, now) {
        return Err("certificate is not yet valid".to_owned());
    }
    match has_come(validity.not_after, now) {
        true => Err("certificate has expired".to_owned()),
        false => Ok(()),
    }
}

/// A certificate that says what it is for has to be for a server, and must say nothing that is not understood here.
fn check_purpose(certificate: &Certificate) -> Verdict {
    let known = [
        BasicConstraints::OID,
        CertificateKeyUsage::OID,
        ExtendedKeyUsage::OID,
        SubjectAltName::OID,
    ];
    let extensions = certificate.tbs_certificate().extensions();
    let not_understood = |extension: &Extension| extension.critical && !known.contains(&extension.extn_id);
    if extensions.is_some_and(|all| all.iter().any(not_understood)) {
        return Err("unhandled critical extension".to_owned());
    }
    match certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>() {
        Ok(Some((_, usage))) if !usage.0.contains(&ID_KP_SERVER_AUTH) => {
            Err("unsuitable certificate purpose".to_owned())
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
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
pub struct Distrust(String);

impl std::fmt::Display for Distrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Distrust {}

fn distrust(reason: impl Into<String>) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Distrust(reason.into())))).into()
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
