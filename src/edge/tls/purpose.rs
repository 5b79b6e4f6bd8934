//! What a certificate may be used for, and when, by its own words, as OpenSSL reads them.
//!
//! Source: RFC 5280, section 4.2; OpenSSL's `X509_verify_cert` for what has to be there, and its words.

use std::time::Duration;

use rustls::pki_types::UnixTime;
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::asn1::BitStringRef;
use x509_cert::der::oid::db::rfc5280::ID_KP_SERVER_AUTH;
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::{self, Decode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, NameConstraints, SubjectAltName};
use x509_cert::time::{Time, Validity};

/// A reason not to trust a certificate.
pub type Verdict = std::result::Result<(), String>;

/// What Netscape had before there was an extended key usage.
const NETSCAPE_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113730.1.1");

/// The bit of that for the server of a TLS connection.
const NETSCAPE_SERVER: u8 = 0x40;

pub fn has_come(time: Time, now: UnixTime) -> bool {
    time.to_unix_duration() <= Duration::from_secs(now.as_secs())
}

pub fn check_dates(validity: &Validity, now: UnixTime) -> Verdict {
    if !has_come(validity.not_before, now) {
        return Err("certificate is not yet valid".to_owned());
    }
    match has_come(validity.not_after, now) {
        true => Err("certificate has expired".to_owned()),
        false => Ok(()),
    }
}

/// Whether a server may have the certificate: one that says what it is for has to be for a server.
pub fn check_server(certificate: &Certificate) -> Verdict {
    check_extended_usage(certificate)?;
    let usage = extension::<KeyUsage>(certificate)?;
    let serves = |it: &KeyUsage| it.digital_signature() || it.key_encipherment() || it.key_agreement();
    if usage.is_some_and(|usage| !serves(&usage)) || !netscape_allows(certificate)? {
        return Err("unsuitable certificate purpose".to_owned());
    }
    Ok(())
}

fn netscape_allows(certificate: &Certificate) -> std::result::Result<bool, String> {
    let mut extensions = certificate.tbs_certificate().extensions().into_iter().flatten();
    let Some(found) = extensions.find(|extension| extension.extn_id == NETSCAPE_TYPE) else {
        return Ok(true);
    };
    let bits = BitStringRef::from_der(found.extn_value.as_bytes()).map_err(|error| unreadable(&error))?;
    let first = bits.raw_bytes().first();
    Ok(first.is_some_and(|byte| byte & NETSCAPE_SERVER != 0))
}

/// A certificate must say nothing that is necessary to know and not understood here.
pub fn check_critical(certificate: &Certificate) -> Verdict {
    let known = [
        BasicConstraints::OID,
        KeyUsage::OID,
        ExtendedKeyUsage::OID,
        SubjectAltName::OID,
    ];
    let not_understood = |extension: &Extension| extension.critical && !known.contains(&extension.extn_id);
    let extensions = certificate.tbs_certificate().extensions();
    match extensions.is_some_and(|all| all.iter().any(not_understood)) {
        true => Err("unhandled critical extension".to_owned()),
        false => Ok(()),
    }
}

fn check_extended_usage(certificate: &Certificate) -> Verdict {
    match extension::<ExtendedKeyUsage>(certificate)? {
        Some(usage) if !usage.0.contains(&ID_KP_SERVER_AUTH) => {
            Err("unsuitable certificate purpose".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether the key may sign certificates, if it says what it is for.
pub fn check_signs_certificates(issuer: &Certificate) -> Verdict {
    match extension::<KeyUsage>(issuer)? {
        Some(usage) if !usage.key_cert_sign() => {
            Err("key usage does not include certificate signing".to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether the key may sign revocation lists, if it says what it is for.
pub fn check_signs_lists(issuer: &Certificate) -> Verdict {
    match extension::<KeyUsage>(issuer)? {
        Some(usage) if !usage.crl_sign() => Err("key usage does not include CRL signing".to_owned()),
        _ => Ok(()),
    }
}

/// Whether a root may have signed certificates for servers, with so many others between it and the server's.
pub fn check_root(root: &Certificate, between: usize, now: UnixTime) -> Verdict {
    check_dates(root.tbs_certificate().validity(), now)?;
    check_signs_certificates(root)?;
    let basic = extension::<BasicConstraints>(root)?;
    let is_authority = match &basic {
        Some(basic) => basic.ca,
        // The first version has no extensions. Others have to name the use that was checked above.
        None => root.tbs_certificate().version() == Version::V1 || extension::<KeyUsage>(root)?.is_some(),
    };
    if !is_authority {
        return Err("invalid CA certificate".to_owned());
    }
    let longest = basic.and_then(|basic| basic.path_len_constraint);
    if longest.is_some_and(|longest| between > usize::from(longest)) {
        return Err("path length constraint exceeded".to_owned());
    }
    check_extended_usage(root)
}

/// Whether it is an authority's by its own words.
pub fn is_authority(certificate: &Certificate) -> bool {
    matches!(extension::<BasicConstraints>(certificate), Ok(Some(basic)) if basic.ca)
}

/// Whether it says which names those certificates may have that it signs. What cannot be read may well be that.
pub fn constrains_names(certificate: &Certificate) -> bool {
    !matches!(extension::<NameConstraints>(certificate), Ok(None))
}

/// Whether its common name would be taken for that of a host.
pub fn is_named_by_subject(certificate: &Certificate) -> std::result::Result<bool, String> {
    let names = extension::<SubjectAltName>(certificate)?;
    let mut names = names.iter().flat_map(|names| &names.0);
    let has_host = names.any(|name| matches!(name, GeneralName::DnsName(_)));
    let subject = certificate.tbs_certificate().subject();
    Ok(!has_host && !matches!(subject.common_name(), Ok(None)))
}

fn extension<'a, T>(certificate: &'a Certificate) -> std::result::Result<Option<T>, String>
where
    T: Decode<'a, Error = der::Error> + AssociatedOid,
{
    let found = certificate.tbs_certificate().get_extension::<T>();
    Ok(found.map_err(|error| unreadable(&error))?.map(|(_, found)| found))
}

fn unreadable(error: &der::Error) -> String {
    format!("could not read an extension: {error}")
}
