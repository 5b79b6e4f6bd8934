//! Certificates and revocation lists, read from where the operator or libpq's defaults say.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{InconsistentKeys, pki_types};
use x509_cert::der::Decode;

use crate::edge::tls::chain;
use crate::edge::tls::failure::{Failure, Outcome};
use crate::edge::tls::key;
use crate::edge::tls::key_kind;
use crate::edge::tls::revocation_list::RevocationList;
use crate::edge::tls::settings::{CertMode, Named, Roots, SslMode, TlsSettings};
use crate::edge::tls::trust::Trust;
use crate::error::{Error, Result, system_text};

/// Whom to trust, with these lists; `None`: nobody is named, and the server is not checked.
///
/// Fails if certificates have to be checked and there are no roots, and if what is there cannot be read.
pub fn trust(
    tls: &TlsSettings,
    lists: Option<Vec<RevocationList>>,
    provider: &CryptoProvider,
) -> Result<Option<Trust>> {
    let certificates = match &tls.roots {
        Roots::System => Some(roots_of_system()?),
        Roots::File(named) => roots_in_file(named.as_ref(), tls.mode)?,
    };
    let algorithms = provider.signature_verification_algorithms;
    Ok(certificates.map(|certificates| Trust::new(certificates, lists, algorithms)))
}

/// Whether all that a handshake needs can be read.
pub fn check(tls: &TlsSettings) -> Result<()> {
    let provider = ring::default_provider();
    let trust = trust(tls, revocation_lists(tls)?, &provider)?;
    let identity = identity(tls, trust.as_ref(), &provider);
    identity.map(drop).map_err(|failure| failure.error)
}

fn roots_of_system() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let reason = found
            .errors
            .first()
            .map_or("none are there".to_owned(), ToString::to_string);
        let message = format!("could not load system root certificates: {reason}");
        return Err(Error::connection(message)
            .with_hint("Install the system's certificates (ca-certificates), or set SSL_CERT_FILE."));
    }
    Ok(found.certs)
}

fn roots_in_file(named: Option<&Named>, mode: SslMode) -> Result<Option<Vec<CertificateDer<'static>>>> {
    const ADVICE: &str = "Either provide the file, use the system's trusted roots with sslrootcert=system, or change sslmode to disable server certificate verification.";
    let Some(path) = named.map(Named::path) else {
        let message = "could not get home directory to locate root certificate file";
        return match mode < SslMode::VerifyCa {
            true => Ok(None),
            false => Err(Error::connection(message).with_hint(ADVICE)),
        };
    };
    let shown = path.display();
    if fs::metadata(path).is_err() {
        let message = format!("root certificate file \"{shown}\" does not exist");
        return match mode < SslMode::VerifyCa {
            true => Ok(None),
            false => Err(Error::connection(message).with_hint(ADVICE)),
        };
    }
    let certificates = certificates(path).map_err(|reason| {
        Error::connection(format!(
            "could not read root certificate file \"{shown}\": {reason}"
        ))
    })?;
    Ok(Some(certificates))
}

/// All certificates of a PEM file, of which there has to be one.
fn certificates(path: &Path) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let bytes = fs::read(path).map_err(|error| system_text(&error))?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate or crl found".to_owned()),
        found => found.map_err(|error: pki_types::pem::Error| error.to_string()),
    }
}

/// The lists of certificates that were withdrawn; `None`: nobody wants them checked, or the server is not checked at all.
///
/// Fails for a list that is wanted and cannot be read. libpq goes on without.
pub fn revocation_lists(tls: &TlsSettings) -> Result<Option<Vec<RevocationList>>> {
    let roots = match &tls.roots {
        Roots::System => None,
        Roots::File(Some(named)) if fs::metadata(named.path()).is_ok() => Some(named.path()),
        Roots::File(_) => return Ok(None),
    };
    let mut lists = None;
    if let Some(named) = &tls.crl {
        match (fs::read(named.path()), named) {
            (Ok(bytes), named) => {
                let found = lists_in(named.path(), &bytes)?;
                if found.is_empty() && !matches!(named, Named::ByDefault(_)) {
                    return Err(unreadable_list(named.path(), "no certificate or crl found"));
                }
                lists = Some(found).filter(|found| !found.is_empty());
            }
            (Err(error), Named::ByDefault(_)) if is_missing(&error) => {}
            (Err(error), _) => return Err(unreadable_list(named.path(), &system_text(&error))),
        }
    }
    if let Some(directory) = &tls.crl_directory {
        add_directory(lists.get_or_insert_default(), directory)?;
    }
    // One beside the root certificates counts where lists are wanted.
    if let (Some(lists), Some(path)) = (&mut lists, roots) {
        // If it cannot be read, nor can the roots.
        let bytes = fs::read(path).unwrap_or_default();
        lists.extend(lists_in(path, &bytes)?);
    }
    Ok(lists)
}

fn add_directory(lists: &mut Vec<RevocationList>, directory: &Path) -> Result<()> {
    let unreadable = |error: io::Error| unreadable_list(directory, &system_text(&error));
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.is_file() {
            let bytes = fs::read(&path).map_err(|error| unreadable_list(&path, &system_text(&error)))?;
            lists.extend(lists_in(&path, &bytes)?);
        }
    }
    Ok(())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn lists_in(path: &Path, bytes: &[u8]) -> Result<Vec<RevocationList>> {
    let lists = CertificateRevocationListDer::pem_slice_iter(bytes).map(|list| {
        let list = list.map_err(|error| unreadable_list(path, &error.to_string()))?;
        RevocationList::from_der(&list).map_err(|error| unreadable_list(path, &error.to_string()))
    });
    lists.collect()
}

fn unreadable_list(path: &Path, reason: &str) -> Error {
    Error::connection(format!(
        "could not read certificate revocation list \"{}\": {reason}",
        path.display()
    ))
}

/// Our certificate with its key, and what leads from it to the trusted; `None`: there is none, or the server is not to see it.
pub fn identity(
    tls: &TlsSettings,
    trust: Option<&Trust>,
    provider: &CryptoProvider,
) -> Outcome<Option<Arc<CertifiedKey>>> {
    let path = tls.certificate.as_ref().map(Named::path);
    let Some(path) = path.filter(|_| tls.cert_mode != CertMode::Disable) else {
        return Ok(None);
    };
    let Some(mut chain) = own_certificates(path)? else {
        return Ok(None);
    };
    if let (Some(trust), 1) = (trust, chain.len()) {
        chain::complete(&mut chain, trust);
    }
    let Some(path) = tls.key.as_ref().map(Named::path) else {
        return Ok(None);
    };
    let identity = CertifiedKey::new(chain, signing_key(path, tls, provider)?);
    if let Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = identity.keys_match() {
        let shown = path.display();
        let message = format!("certificate does not match private key file \"{shown}\": key values mismatch");
        return Err(Error::connection(message).into());
    }
    Ok(Some(Arc::new(identity)))
}

fn own_certificates(path: &Path) -> Result<Option<Vec<CertificateDer<'static>>>> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(_) => {}
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => {
            let reason = system_text(&error);
            let message = format!("could not open certificate file \"{shown}\": {reason}");
            return Err(Error::connection(message));
        }
    }
    let chain = certificates(path).map_err(|reason| {
        Error::connection(format!("could not read certificate file \"{shown}\": {reason}"))
    })?;
    Ok(Some(chain))
}

fn signing_key(path: &Path, tls: &TlsSettings, provider: &CryptoProvider) -> Outcome<Arc<dyn SigningKey>> {
    let shown = path.display();
    if path.to_str().is_some_and(|path| path.contains(':')) {
        let message = format!("sslkey value \"{shown}\" is not supported: keys in OpenSSL engines");
        return Err(Error::unsupported(message).into());
    }
    let key = key::load(path, tls.key_password.as_ref())?;
    let beyond_use = key_kind::beyond_use(&key);
    let loaded = provider.key_provider.load_private_key(key);
    loaded.map_err(|error| match beyond_use {
        Some(reason) => Failure::of_ours_alone(key::unreadable(path, &reason).with_hint(key_kind::USABLE)),
        None => key::unreadable(path, &error.to_string()).into(),
    })
}
