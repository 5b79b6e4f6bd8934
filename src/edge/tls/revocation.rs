//! Whether a certificate was withdrawn, by the lists of those who have signed it.
//!
//! Source: RFC 5280, section 5; OpenSSL's `check_revocation` for which list counts, and its words.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::UnixTime;
use x509_cert::Certificate;
use x509_cert::der::Encode;
use x509_cert::der::oid::db::rfc5280::{ID_CE_DELTA_CRL_INDICATOR, ID_CE_ISSUING_DISTRIBUTION_POINT};
use x509_cert::ext::Extension;

use super::purpose::{Verdict, check_signs_lists, has_come};
use super::revocation_list::RevocationList;
use super::signature;

/// Whether none of a chain was withdrawn: the server's certificate, those that have signed it, and the root.
pub fn check_chain(
    lists: &[RevocationList],
    algorithms: &WebPkiSupportedAlgorithms,
    chain: &[Certificate],
    now: UnixTime,
) -> Verdict {
    let issuers = chain.iter().skip(1).chain(chain.last());
    let mut pairs = chain.iter().zip(issuers);
    pairs.try_for_each(|(certificate, issuer)| check(lists, algorithms, certificate, issuer, now))
}

/// Whether the newest list of a certificate's issuer has it. As with OpenSSL, every issuer has to have a list.
fn check(
    lists: &[RevocationList],
    algorithms: &WebPkiSupportedAlgorithms,
    certificate: &Certificate,
    issuer: &Certificate,
    now: UnixTime,
) -> Verdict {
    let tbs = certificate.tbs_certificate();
    let mut verdict = Err("unable to get certificate CRL".to_owned());
    let mut valid = Vec::new();
    for list in lists
        .iter()
        .filter(|list| list.tbs_cert_list.issuer == *tbs.issuer())
    {
        match check_list(list, algorithms, issuer, now) {
            Ok(()) => valid.push(&list.tbs_cert_list),
            Err(reason) => verdict = Err(reason),
        }
    }
    let made = valid.iter().map(|list| list.this_update.to_unix_duration());
    let Some(newest) = made.max() else {
        return verdict;
    };
    // Of two that are as new, neither is left out.
    let newest = valid
        .iter()
        .filter(|list| list.this_update.to_unix_duration() == newest);
    let mut revoked = newest.flat_map(|list| list.revoked_certificates.iter().flatten());
    match revoked.any(|entry| entry.serial_number == *tbs.serial_number()) {
        true => Err("certificate revoked".to_owned()),
        false => Ok(()),
    }
}

/// Whether a list is its issuer's, of today, and of the kind that names all that was withdrawn.
fn check_list(
    list: &RevocationList,
    algorithms: &WebPkiSupportedAlgorithms,
    issuer: &Certificate,
    now: UnixTime,
) -> Verdict {
    check_signs_lists(issuer)?;
    let (tbs, signature) = (&list.tbs_cert_list, list.signature.as_bytes().unwrap_or_default());
    let message = tbs.to_der().map_err(|error| error.to_string())?;
    let key = issuer.tbs_certificate().subject_public_key_info().to_der();
    let key = key.map_err(|error| error.to_string())?;
    let by = &list.signature_algorithm;
    if signature::is_right(algorithms, &key, by, &message, signature) != Some(true) {
        return Err("CRL signature failure".to_owned());
    }
    if !has_come(tbs.this_update, now) {
        return Err("CRL is not yet valid".to_owned());
    }
    if tbs.next_update.is_some_and(|next| has_come(next, now)) {
        return Err("CRL has expired".to_owned());
    }
    check_scope(list)
}

/// A list of a part, or of what is new, says less than it seems to; nor must it hold anything that is not understood.
fn check_scope(list: &RevocationList) -> Verdict {
    let partial = [ID_CE_ISSUING_DISTRIBUTION_POINT, ID_CE_DELTA_CRL_INDICATOR];
    let own = || list.tbs_cert_list.crl_extensions.iter().flatten();
    if own().any(|extension| partial.contains(&extension.extn_id)) {
        return Err("unable to get certificate CRL: it is for a part of the certificates".to_owned());
    }
    let entries = list.tbs_cert_list.revoked_certificates.iter().flatten();
    let of_entries = entries.flat_map(|entry| entry.crl_entry_extensions.iter().flatten());
    let is_critical = |extension: &Extension| extension.critical;
    match own().chain(of_entries).any(is_critical) {
        true => Err("unhandled critical CRL extension".to_owned()),
        false => Ok(()),
    }
}
