//! Whom to trust: certificates that signed themselves, those that lead to them, and what was withdrawn.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::revocation_list::RevocationList;
use super::signature;

/// A certificate that signed itself.
pub struct Root {
    pub der: CertificateDer<'static>,
    pub certificate: Certificate,
    /// What webpki needs of it; `None`: it can have signed nothing, as there is something in it that nobody understands.
    pub anchor: Option<TrustAnchor<'static>>,
}

/// Whom to trust, and what was withdrawn.
pub struct Trust {
    pub roots: Vec<Root>,
    pub anchors: Vec<TrustAnchor<'static>>,
    /// The others of the file: they lead to a root, and are none (as for OpenSSL).
    pub others: Vec<CertificateDer<'static>>,
    /// `None`: nobody asks.
    pub lists: Option<Vec<RevocationList>>,
    pub algorithms: WebPkiSupportedAlgorithms,
}

impl Trust {
    /// Sorts certificates.
    pub fn new(
        certificates: Vec<CertificateDer<'static>>,
        lists: Option<Vec<RevocationList>>,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Trust {
        let (mut roots, mut others) = (Vec::new(), Vec::new());
        for der in certificates {
            match root(&der, &algorithms) {
                Some(root) => roots.push(root),
                None => others.push(der),
            }
        }
        Trust {
            anchors: roots.iter().filter_map(|root| root.anchor.clone()).collect(),
            roots,
            others,
            lists,
            algorithms,
        }
    }

    /// The roots with this name and key: one may have been renewed.
    pub fn roots_of<'a>(&'a self, anchor: &'a TrustAnchor<'_>) -> impl Iterator<Item = &'a Root> {
        self.roots.iter().filter(|root| {
            root.anchor.as_ref().is_some_and(|own| {
                own.subject == anchor.subject && own.subject_public_key_info == anchor.subject_public_key_info
            })
        })
    }

    /// Whether a certificate is a root itself.
    pub fn has(&self, der: &CertificateDer<'_>) -> bool {
        self.roots.iter().any(|root| root.der == *der)
    }
}

/// The certificate as a root, if it is one: its issuer is its subject, and its key has signed it. OpenSSL does not check
/// signatures of roots at all; those by algorithms that are too old for anything else are taken as they are here, too.
fn root(der: &CertificateDer<'static>, algorithms: &WebPkiSupportedAlgorithms) -> Option<Root> {
    let certificate = Certificate::from_der(der).ok()?;
    let tbs = certificate.tbs_certificate();
    let is_root = tbs.issuer() == tbs.subject()
        && signature::is_of(algorithms, &certificate, &certificate, der) != Some(false);
    let anchor = webpki::anchor_from_trusted_cert(der).ok();
    is_root.then(|| Root {
        der: der.clone(),
        anchor: anchor.map(|anchor| anchor.to_owned()),
        certificate,
    })
}
