//! Which kind of key a private key is, to tell one that cannot be used here from a damaged one.
//!
//! Source: RFC 5958 (PKCS #8), RFC 8017, appendix A.1 (PKCS #1), RFC 5915 (SEC 1).

use pkcs8::PrivateKeyInfoRef;
use rustls::pki_types::PrivateKeyDer;
use x509_cert::der::asn1::{AnyRef, ContextSpecific, ObjectIdentifier, OctetStringRef, UintRef};
use x509_cert::der::oid::db::rfc5912::{
    ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1,
};
use x509_cert::der::oid::db::rfc8410::ID_ED_25519;
use x509_cert::der::{Decode, SliceReader, TagNumber};

/// What walring can sign with, for whoever has something else.
pub const USABLE: &str =
    "walring can use keys of RSA (2048 to 4096 bits), ECDSA on P-256 and P-384, and Ed25519.";

/// What is said of a key that OpenSSL knows and walring cannot use; `None`: it is of a kind that can be used, or none at all.
pub fn beyond_use(key: &PrivateKeyDer<'_>) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => ecdsa(curve(key.secret_sec1_der())?),
        PrivateKeyDer::Pkcs8(key) => {
            let key = PrivateKeyInfoRef::try_from(key.secret_pkcs8_der()).ok()?;
            match key.algorithm.oid {
                RSA_ENCRYPTION => rsa(key.private_key.as_bytes()),
                ID_EC_PUBLIC_KEY => ecdsa(key.algorithm.parameters_oid().ok()?),
                ID_ED_25519 => None,
                other => Some(format!("keys of its kind ({other}) are not supported")),
            }
        }
        _ => None,
    }
}

fn rsa(der: &[u8]) -> Option<String> {
    let mut fields = SliceReader::new(AnyRef::from_der(der).ok()?.value()).ok()?;
    let _version = u8::decode(&mut fields).ok()?;
    let modulus = UintRef::decode(&mut fields).ok()?.as_bytes();
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    let is_usable = (2048..=4096).contains(&bits);
    (!is_usable).then(|| format!("RSA keys of {bits} bits are not supported"))
}

fn ecdsa(curve: ObjectIdentifier) -> Option<String> {
    match curve {
        SECP_256_R_1 | SECP_384_R_1 => None,
        SECP_521_R_1 => Some("ECDSA keys on P-521 are not supported".to_owned()),
        other => Some(format!("ECDSA keys on its curve ({other}) are not supported")),
    }
}

fn curve(der: &[u8]) -> Option<ObjectIdentifier> {
    let mut fields = SliceReader::new(AnyRef::from_der(der).ok()?.value()).ok()?;
    let _version = u8::decode(&mut fields).ok()?;
    let _key = <&OctetStringRef>::decode(&mut fields).ok()?;
    let curve = ContextSpecific::decode_explicit(&mut fields, TagNumber(0)).ok()??;
    Some(curve.value)
}
