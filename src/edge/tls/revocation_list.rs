//! A certificate revocation list as it is written: of version 2, or of version 1, which `openssl ca` makes unless it is
//! told otherwise, and which has no version in it. (The library's own type wants one.)
//!
//! Source: RFC 5280, section 5.1.

use der::Sequence;
use der::asn1::BitString;
use x509_cert::certificate::Version;
use x509_cert::crl::RevokedCert;
use x509_cert::ext::Extensions;
use x509_cert::name::Name;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::Time;

/// What was withdrawn, and its issuer's signature.
#[derive(Sequence)]
pub struct RevocationList {
    /// What is signed.
    pub tbs_cert_list: Signed,
    pub signature_algorithm: AlgorithmIdentifierOwned,
    pub signature: BitString,
}

/// What the issuer says.
#[derive(Sequence)]
pub struct Signed {
    /// Absent in version 1.
    pub version: Option<Version>,
    pub signature: AlgorithmIdentifierOwned,
    pub issuer: Name,
    pub this_update: Time,
    pub next_update: Option<Time>,
    pub revoked_certificates: Option<Vec<RevokedCert>>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    pub crl_extensions: Option<Extensions>,
}
