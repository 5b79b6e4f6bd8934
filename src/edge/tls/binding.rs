//! What a password's proof is bound to: a hash of the server's certificate (`tls-server-end-point`).
//!
//! Source: RFC 5929, section 4.1.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::ContextSpecific;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5912 as oid;
use x509_cert::der::{Any, Decode, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// ECDSA with SHA-1 (RFC 5758, section 3.2), which lists of today leave out.
const ECDSA_WITH_SHA_1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");

/// The certificate's hash, by the function of its signature, or SHA-256 where that is weaker. `None`: it names no
/// hash, or one that is not known here.
pub(super) fn end_point(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
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
