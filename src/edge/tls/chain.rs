//! The certificates that lead from ours to a root, where its file has none of them.

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::purpose;
use super::signature;
use super::trust::Trust;

/// A server gets so many at most.
const LONGEST: usize = 16;

/// Puts behind a certificate those that have signed it, the root's at the end, as far as the trusted have them.
///
/// OpenSSL does so for a certificate that comes alone. Its server may know no more than the root.
pub fn complete(chain: &mut Vec<CertificateDer<'static>>, trust: &Trust) {
    let known = known(trust);
    let last = chain.last().map(|der| Certificate::from_der(der));
    let Some(Ok(mut last)) = last else { return };
    while chain.len() < LONGEST {
        let Some((der, issuer)) = issuer(&last, chain, &known, trust) else {
            return;
        };
        chain.push((*der).clone());
        last = issuer.clone();
    }
}

fn known(trust: &Trust) -> Vec<(&CertificateDer<'static>, Certificate)> {
    let roots = trust
        .roots
        .iter()
        .map(|root| (&root.der, root.certificate.clone()));
    let others = trust
        .others
        .iter()
        .filter_map(|der| Some((der, Certificate::from_der(der).ok()?)));
    others.chain(roots).collect()
}

/// Who has signed the last of the chain: of several, one whose time it is, and the longest.
fn issuer<'a>(
    last: &Certificate,
    chain: &[CertificateDer<'_>],
    known: &'a [(&'a CertificateDer<'static>, Certificate)],
    trust: &Trust,
) -> Option<&'a (&'a CertificateDer<'static>, Certificate)> {
    let (name, der) = (last.tbs_certificate().issuer(), chain.last()?);
    let has_signed = |(candidate, certificate): &&(&CertificateDer<'static>, Certificate)| {
        certificate.tbs_certificate().subject() == name
            && !chain.contains(candidate)
            && signature::is_of(&trust.algorithms, certificate, last, der) != Some(false)
    };
    let now = UnixTime::now();
    known.iter().filter(has_signed).max_by_key(|(_, certificate)| {
        let validity = certificate.tbs_certificate().validity();
        let is_timely = purpose::check_dates(validity, now).is_ok();
        (is_timely, validity.not_after.to_unix_duration())
    })
}
