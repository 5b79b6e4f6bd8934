//! Whether a key has signed something, with the algorithms that rustls knows.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;
use x509_cert::Certificate;
use x509_cert::der::asn1::AnyRef;
use x509_cert::der::{Decode, Encode, Reader, SliceReader};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// A key's signature on a message; `None`: the algorithm is none that can be checked here.
pub fn is_right(
    algorithms: &WebPkiSupportedAlgorithms,
    key: &[u8],
    by: &AlgorithmIdentifierOwned,
    message: &[u8],
    signature: &[u8],
) -> Option<bool> {
    // As a verification algorithm names it: without tag and length.
    let name = by.to_der().ok()?.get(2..)?.to_vec();
    let key = SubjectPublicKeyInfoDer::from(key);
    let key = RawPublicKeyEntity::try_from(&key).ok()?;
    let usable = algorithms
        .all
        .iter()
        .filter(|algorithm| algorithm.signature_alg_id().as_ref() == name);
    let mut found = None;
    for algorithm in usable {
        match key.verify_signature(*algorithm, message, signature) {
            Ok(()) => return Some(true),
            // For another kind of key: a signature's name says nothing of the curve.
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => found = Some(false),
        }
    }
    found
}

/// The same for a certificate's signature.
pub fn is_of(
    algorithms: &WebPkiSupportedAlgorithms,
    issuer: &Certificate,
    certificate: &Certificate,
    der: &[u8],
) -> Option<bool> {
    let key = issuer.tbs_certificate().subject_public_key_info().to_der().ok()?;
    let signature = certificate.signature().as_bytes()?;
    let by = certificate.signature_algorithm();
    is_right(algorithms, &key, by, signed_part(der)?, signature)
}

/// What of a certificate is signed, as it is written: the first part of the sequence.
fn signed_part(der: &[u8]) -> Option<&[u8]> {
    let parts = AnyRef::from_der(der).ok()?.value();
    SliceReader::new(parts).ok()?.tlv_bytes().ok()
}
