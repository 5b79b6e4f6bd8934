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
use crate::edge::tls::failure::{Failure, Outcome};
use crate::error::{Error, Result, system_text};

/// Reads the key of a certificate, decrypting it if need be.
///
/// Fails, in libpq's words, for a file that is missing, that others may read or that holds no key.
pub fn load(path: &Path, password: Option<&Password>) -> Outcome<PrivateKeyDer<'static>> {
    let bytes = guarded(path)?;
    parse(&bytes, password).map_err(|problem| match problem {
        // OpenSSL would ask on the terminal.
        Problem::NoPassword => Failure::of_ours_alone(
            unreadable(path, "it is encrypted, and there is no password")
                .with_hint("Give its password as sslpassword."),
        ),
        Problem::Unsupported(reason) => Failure::of_ours_alone(unreadable(path, &reason)),
        Problem::Other(reason) => unreadable(path, &reason).into(),
    })
}

/// What is in a file that others may not read.
fn guarded(path: &Path) -> Result<Vec<u8>> {
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
    fs::read(path).map_err(|error| unreadable(path, &system_text(&error)))
}

/// A key of root's may be readable for a group, and so may a credential of systemd's.
fn is_open_to_others(path: &Path, metadata: &Metadata) -> bool {
    let may_have_group = metadata.uid() == 0 || is_credential(path);
    let forbidden = if may_have_group { 0o037 } else { 0o077 };
    metadata.permissions().mode() & forbidden != 0
}

/// A key in a file cannot be used.
pub(super) fn unreadable(path: &Path, reason: &str) -> Error {
    Error::connection(format!(
        "could not load private key file \"{}\": {reason}",
        path.display()
    ))
}

#[derive(Debug)]
enum Problem {
    NoPassword,
    /// OpenSSL would decrypt it.
    Unsupported(String),
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
            return Err(Problem::Unsupported(format!(
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

#[cfg(test)]
mod tests {
    use super::*;

    /// One key on the curve P-256, as OpenSSL 3.0 writes it in SEC 1 ("secret" is the password of all that follow).
    const PLAIN: &str = "-----BEGIN EC PRIVATE KEY-----\n\
MHcCAQEEILHM5Bfu+MIg2f27OW3nQlARZvnA7VXvmHvEl9v0YC//oAoGCCqGSM49\n\
AwEHoUQDQgAEajIaFwBR2SCqC0fZFAuBE8LwZUKIiJIWlPfrrvCSrKVb0qfCjFtA\n\
F9d1YouSsjjKKBF3cn1pdVHFCJwNzCq3Gw==\n\
-----END EC PRIVATE KEY-----\n";

    /// The same key, encrypted by `openssl ec -aes128` and so on, and by `openssl pkcs8 -topk8`.
    const ENCRYPTED: [&str; 7] = [
        "-----BEGIN EC PRIVATE KEY-----\n\
Proc-Type: 4,ENCRYPTED\n\
DEK-Info: AES-128-CBC,4E7CAB2DDD42A3D1613E94F514C775C6\n\
\n\
k/V3kIYbJmBoUMvOsg6ll1jh1CacOIswVzVEZTKQ9IPl6X9MYKoBnSUo+FHfInXc\n\
55GKUJsnvL/P2PgIN9/rLv3Eui+CQeBE3i68E3MnGgZQBDTdsewZPEL4GjWmRSDv\n\
a/Jzgv7y9UmS8Koc88YCox5tYb0sLNfvv5E/sPxUqqw=\n\
-----END EC PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\n\
Proc-Type: 4,ENCRYPTED\n\
DEK-Info: AES-192-CBC,63D41DCCEF6DADBECED58CA085C06493\n\
\n\
TI5BoMXWThJAjXzjrMk1dBzgz6buzU24bGOV/AKCjnnciX21qs1+s5ge380ECLNW\n\
fe1LvoNxHFQvV3LFqurwoCtEm6gDlY6yZIUgLVzCrlBs2zpkN64tEI1fvob6WU9u\n\
9K8dJ079UJTD0OuUyGuQFa//Vd0/6cGyxFC1Uvg6IdI=\n\
-----END EC PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\n\
Proc-Type: 4,ENCRYPTED\n\
DEK-Info: AES-256-CBC,E6FB27CC6565A8BECB68724854DFB3F5\n\
\n\
1L+esvDE3RIGx6qBSd4Iy9S8Tw1eZXSkmMi94b6QYtxskLJ4fHVtyS18FaLnYMkl\n\
+lQOoi96An35f2z6QDFaPQ+0sx5zRzSqa9by0JRE0va074Ja15xKQOzGgXmA4xQS\n\
UDNhlNxvR8fGXZ6yTADXqq7pMOib5trKDCEZBVBeGDg=\n\
-----END EC PRIVATE KEY-----\n",
        "-----BEGIN EC PRIVATE KEY-----\n\
Proc-Type: 4,ENCRYPTED\n\
DEK-Info: DES-EDE3-CBC,4F36EA35BF4F4FBC\n\
\n\
BUJ1ywmEWeG2UeM7ohhC8cv2fEywcedKBoq9wPRZzcAfJlU8syzpBeEQfdmNJC/4\n\
ggLot+Xx6jDOIMQWVazwpL9+1QQoRw98qhFkKH/AqItUDjIFIWaRnHzyxOAW2MFr\n\
axQF9IdoSoqx5+BuL82dRBIBVzsmBDPV1anZGOT0RAg=\n\
-----END EC PRIVATE KEY-----\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgyfI07QHhNewICCAAw\n\
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEKS7wkyvYup9UKzbX5tHvuUEgZAA\n\
h+cjSALK5Ore7vuso0YRIJoF1bartWL6jJwHF5Jeu3/fp2KQ72wGkJM78Zzha4Sx\n\
qZ1eN6aIa/s6RszNn1J6j7UTaeLh3ZH+u/u/7JVk928bl/swbg+QSEFRKYdsBFyb\n\
9og2v7OXH8tMiiDH2E/BCBpCebEK1KEGs4C7Bmr+Rqh1vPZ+NRJBNJYgVDpR1h0=\n\
-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
MIHjME4GCSqGSIb3DQEFDTBBMCkGCSqGSIb3DQEFDDAcBAgWAw4VRbFy6wICCAAw\n\
DAYIKoZIhvcNAgkFADAUBggqhkiG9w0DBwQITGNtdV46lKUEgZCGeHUUaDZnCxCM\n\
4Ne3pa9bBvo8mLFHLaHpZmKinzD+uSig30SHLpXbEKx+/5k0ZB+wZ+ZMPxF6d610\n\
oeVcTrDj3r89WnGVcC6dgcSxbbaj9LMYEdVbLQoI4KsJuMW+kKJsiMt0tcOVLiWA\n\
e2kQEWY6xFmTDsTYrfii6QkGtYBdgAp/SBPAp3vo+DtmRGyhKlg=\n\
-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n\
MIHkME8GCSqGSIb3DQEFDTBCMCEGCSsGAQQB2kcECzAUBAg32WdC0X8UKQICQAAC\n\
AQgCAQEwHQYJYIZIAWUDBAEqBBD6PxDolBV348ITzLrrrqIMBIGQnkk7kkierhIT\n\
B9OpTC71YWNnzwol6sK0o+PYlZX42o2TN1IFu3M0yxABncugFrMlzuR5QEdzlUwB\n\
8v/O2f3TLFJn1VeeYbVwFX97MmhccohGk4sWX5kwU73ED2ix+9czgLq4BY/d7L/g\n\
s1yf4FiAVYDHvjlyf+Ruq3UKxb5OUDKh9FUX1RBmU2KoBxGWH6Ev\n\
-----END ENCRYPTED PRIVATE KEY-----\n",
    ];

    fn key(bytes: &[u8]) -> Vec<u8> {
        let password = Password::new("secret").unwrap();
        let plain = parse(bytes, Some(&password)).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let loaded = provider.key_provider.load_private_key(plain).unwrap();
        loaded.public_key().unwrap().to_vec()
    }

    #[test]
    fn every_format_holds_the_same_key() {
        let expected = key(PLAIN.as_bytes());
        for text in ENCRYPTED {
            assert!(key(text.as_bytes()) == expected, "{text}");
            let (windows, around) = (text.replace('\n', "\r\n"), format!("Bag Attributes\n{text}\n"));
            assert!(
                key(windows.as_bytes()) == expected && key(around.as_bytes()) == expected,
                "{text}"
            );
        }
        let der = PrivateKeyDer::from_pem_slice(PLAIN.as_bytes()).unwrap();
        assert!(key(der.secret_der()) == expected);
        let (_, encrypted) = SecretDocument::from_pem(ENCRYPTED[4]).unwrap();
        assert!(key(encrypted.as_bytes()) == expected);
    }

    #[test]
    fn a_wrong_password_or_none_is_told() {
        for text in ENCRYPTED {
            assert!(matches!(parse(text.as_bytes(), None), Err(Problem::NoPassword)));
            let wrong = Password::new("wrong").unwrap();
            let opened = parse(text.as_bytes(), Some(&wrong));
            // One in 256 wrong keys of the old format ends with good padding, and is no key then.
            assert!(matches!(opened, Err(Problem::Other(_))), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_is_told() {
        for bytes in [
            &b""[..],
            b"\xff\x00",
            b"-----BEGIN EC PRIVATE KEY-----\n",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: RC2-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,xy\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
            b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            let password = Password::new("secret").unwrap();
            let parsed = parse(bytes, Some(&password));
            let is_told = matches!(parsed, Err(Problem::Other(_) | Problem::Unsupported(_)));
            assert!(is_told, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        use std::fs::Permissions;
        use std::os::unix::fs::chown;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let open = |mode: u32| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            load(&path, None)
                .map(drop)
                .map_err(|failure| failure.error.to_string())
        };
        fs::write(&path, PLAIN).unwrap();
        let is_root = fs::metadata(&path).unwrap().uid() == 0;
        for (mode, of_root, of_others) in [
            (0o600, true, true),
            (0o640, true, false),
            (0o660, false, false),
            (0o604, false, false),
        ] {
            let refused = open(mode).is_err_and(|error| error.contains("has group or world access"));
            assert_eq!(!refused, if is_root { of_root } else { of_others }, "{mode:o}");
            if is_root {
                chown(&path, Some(1), None).unwrap();
                assert_eq!(open(mode).is_ok(), of_others, "{mode:o}");
                chown(&path, Some(0), None).unwrap();
            }
        }
        let reason = |path: &Path| load(path, None).unwrap_err().error.to_string();
        let missing = reason(&directory.path().join("none"));
        assert!(
            missing.starts_with("certificate present, but not private key file"),
            "{missing}"
        );
        let special = reason(directory.path());
        assert!(special.ends_with("is not a regular file"), "{special}");
    }
}
