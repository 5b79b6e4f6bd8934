//! The private key of our certificate: its file's rights, its formats, its password.
//!
//! What OpenSSL reads is read: PKCS #8, PKCS #1 and SEC 1, in PEM or DER, in plain or encrypted; in PEM also as OpenSSL
//! encrypted keys before 3.0 (`DEK-Info`), whose key derivation is its own.
//!
//! Source: libpq for the rules and messages; RFC 1421, section 4.6, and OpenSSL's EVP_BytesToKey(3) for the old format.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::edge::passfile::is_credential;
use crate::edge::password::Password;
use crate::error::{Error, Result, system_text};

/// Reads the key of a certificate, decrypting it if need be.
///
/// Fails, in libpq's words, for a file that is missing, that others may read or that holds no key.
pub fn load(path: &Path, password: Option<&Password>) -> Result<PrivateKeyDer<'static>> {
    let shown = path.display();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::connection(format!(
            "certificate present, but not private key file \"{shown}\""
        )),
        _ => Error::connection(format!(
            "could not stat private key file \"{shown}\": {}",
            system_text(&error)
        )),
    })?;
    if !metadata.is_file() {
        let message = format!("private key file \"{shown}\" is not a regular file");
        return Err(Error::connection(message));
    }
    if is_open_to_others(path, &metadata) {
        return Err(Error::connection(format!(
            "private key file \"{shown}\" has group or world access; file must have permissions u=rw (0600) or less if owned by the current user, or permissions u=rw,g=r (0640) or less if owned by root"
        )));
    }
    let bytes = fs::read(path).map_err(|error| unreadable(path, &system_text(&error)))?;
    parse(&bytes, password).map_err(|problem| match problem {
        Problem::NoPassword => unreadable(path, "it is encrypted, and there is no password")
            .with_hint("Give its password as sslpassword."),
        Problem::Other(reason) => unreadable(path, &reason),
    })
}

/// A key of root's may be readable for a group, and so may a credential of systemd's.
fn is_open_to_others(path: &Path, metadata: &Metadata) -> bool {
    let may_have_group = metadata.uid() == 0 || is_credential(path);
    let forbidden = if may_have_group { 0o037 } else { 0o077 };
    metadata.permissions().mode() & forbidden != 0
}

fn unreadable(path: &Path, reason: &str) -> Error {
    Error::connection(format!(
        "could not load private key file \"{}\": {reason}",
        path.display()
    ))
}

#[derive(Debug)]
enum Problem {
    NoPassword,
    Other(String),
}

impl Problem {
    fn wrong_password() -> Problem {
        Problem::Other("the password is wrong, or the file is damaged".to_owned())
    }
}

fn parse(bytes: &[u8], password: Option<&Password>) -> std::result::Result<PrivateKeyDer<'static>, Problem> {
    let password = || password.map(Password::bytes).ok_or(Problem::NoPassword);
    let Some(text) = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.contains("-----BEGIN "))
    else {
        return match EncryptedPrivateKeyInfoRef::try_from(bytes) {
            Ok(encrypted) => decrypted(&encrypted, password()?),
            Err(_) => in_der(bytes.to_vec()),
        };
    };
    if let Some(section) = section(text, "ENCRYPTED PRIVATE KEY") {
        let (_, document) = SecretDocument::from_pem(section).map_err(|error| other(&error))?;
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes());
        return decrypted(&encrypted.map_err(|error| other(&error))?, password()?);
    }
    let traditional = ["RSA PRIVATE KEY", "EC PRIVATE KEY"]
        .iter()
        .find_map(|label| section(text, label))
        .filter(|section| section.contains("Proc-Type: 4,ENCRYPTED"));
    match traditional {
        Some(section) => in_der(traditionally_decrypted(section, password()?)?),
        None => PrivateKeyDer::from_pem_slice(bytes).map_err(|error| other(&error)),
    }
}

fn other(error: &impl ToString) -> Problem {
    Problem::Other(error.to_string())
}

/// The first part of the text with that label, from `-----BEGIN` to the end of the line of `-----END`.
fn section<'a>(text: &'a str, label: &str) -> Option<&'a str> {
    let (begin, end) = (
        format!("-----BEGIN {label}-----"),
        format!("-----END {label}-----"),
    );
    let start = text.find(&begin)?;
    let length = text[start..].find(&end)? + end.len();
    Some(&text[start..start + length])
}

fn in_der(bytes: Vec<u8>) -> std::result::Result<PrivateKeyDer<'static>, Problem> {
    PrivateKeyDer::try_from(bytes).map_err(|reason| Problem::Other(reason.to_owned()))
}

fn decrypted(
    encrypted: &EncryptedPrivateKeyInfoRef<'_>,
    password: &[u8],
) -> std::result::Result<PrivateKeyDer<'static>, Problem> {
    let document = encrypted
        .decrypt(password)
        .map_err(|_| Problem::wrong_password())?;
    in_der(document.as_bytes().to_vec())
}

/// Decrypts a section with the headers `Proc-Type` and `DEK-Info`, as OpenSSL made them before 3.0.
fn traditionally_decrypted(section: &str, password: &[u8]) -> std::result::Result<Vec<u8>, Problem> {
    let (head, body) = section.replace('\r', "").split_once("\n\n").map_or_else(
        || (String::new(), String::new()),
        |(head, body)| (head.to_owned(), body.to_owned()),
    );
    let information = head.lines().find_map(|line| line.strip_prefix("DEK-Info: "));
    let (cipher, iv) = information
        .and_then(|text| text.trim().split_once(','))
        .ok_or_else(|| Problem::Other("its header DEK-Info is missing".to_owned()))?;
    let iv = bytes_of(iv).ok_or_else(|| Problem::Other("its header DEK-Info is damaged".to_owned()))?;
    let body: String = body.lines().take_while(|line| !line.starts_with('-')).collect();
    let mut body = STANDARD.decode(body).map_err(|error| other(&error))?;
    let plain = match cipher {
        "AES-128-CBC" => decrypt::<cbc::Decryptor<aes::Aes128>, 16>(password, &iv, &mut body),
        "AES-192-CBC" => decrypt::<cbc::Decryptor<aes::Aes192>, 24>(password, &iv, &mut body),
        "AES-256-CBC" => decrypt::<cbc::Decryptor<aes::Aes256>, 32>(password, &iv, &mut body),
        "DES-EDE3-CBC" => decrypt::<cbc::Decryptor<des::TdesEde3>, 24>(password, &iv, &mut body),
        _ => {
            return Err(Problem::Other(format!(
                "it is encrypted with {cipher}, which is not supported"
            )));
        }
    };
    plain.ok_or_else(Problem::wrong_password)
}

fn decrypt<C: KeyIvInit + BlockModeDecrypt, const KEY: usize>(
    password: &[u8],
    iv: &[u8],
    body: &mut [u8],
) -> Option<Vec<u8>> {
    let cipher = C::new_from_slices(&derived_key::<KEY>(password, iv.get(..8)?), iv).ok()?;
    let plain = cipher.decrypt_padded::<Pkcs7>(body).ok()?;
    Some(plain.to_vec())
}

/// MD5 over what came before, the password and the salt, as often as it takes to fill the key.
fn derived_key<const KEY: usize>(password: &[u8], salt: &[u8]) -> [u8; KEY] {
    let mut key = [0; KEY];
    let mut previous: Vec<u8> = Vec::new();
    for part in key.chunks_mut(16) {
        let digest = Md5::new().chain_update(&previous).chain_update(password);
        previous = digest.chain_update(salt).finalize().to_vec();
        part.copy_from_slice(&previous[..part.len()]);
    }
    key
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    let digits = hexadecimal.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(byte).collect()
}
