//! What the connection options say about TLS, by libpq's rules and in its words.
//!
//! Source: PostgreSQL doc libpq.sgml, "SSL Support" and "Parameter Key Words" (18).

use std::path::{Path, PathBuf};

use crate::edge::password::Password;
use crate::edge::settings::Settings;
use crate::error::{Error, Result};

/// `sslmode`: how much TLS the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// None.
    Disable,
    /// Where the server insists.
    Allow,
    /// Where the server can.
    Prefer,
    /// Always; whose server it is does not matter, unless a root certificate file is there.
    Require,
    /// Always, and with a certificate that a trusted authority has signed.
    VerifyCa,
    /// As that, and the certificate is for this host.
    VerifyFull,
}

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// `sslcertmode`: whether the server may see our certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertMode {
    /// It gets none.
    Disable,
    /// It gets it if it asks.
    Allow,
    /// It has to ask.
    Require,
}

const CERT_MODES: [(&str, CertMode); 3] = [
    ("disable", CertMode::Disable),
    ("allow", CertMode::Allow),
    ("require", CertMode::Require),
];

/// `channel_binding`: whether the password's proof is bound to the server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always.
    Require,
}

const CHANNEL_BINDINGS: [(&str, ChannelBinding); 3] = [
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];

const NEGOTIATIONS: [(&str, bool); 2] = [("postgres", false), ("direct", true)];

/// A version of TLS, in order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.0, which is not spoken here.
    V1,
    /// 1.1, likewise.
    V1_1,
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

const VERSIONS: [(&str, Version); 4] = [
    ("TLSv1", Version::V1),
    ("TLSv1.1", Version::V1_1),
    ("TLSv1.2", Version::V1_2),
    ("TLSv1.3", Version::V1_3),
];

/// A file that is named, or looked for where libpq looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// By the operator: it has to be there, or its absence is judged.
    Explicitly(PathBuf),
    /// `~/.postgresql/...`, which may be absent.
    ByDefault(PathBuf),
}

impl Named {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Named::Explicitly(path) | Named::ByDefault(path) => path,
        }
    }
}

/// Whose signature makes a server's certificate a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those that the system trusts.
    System,
    /// Those in a file; without it nothing is checked where that is allowed. `None`: there is no home to look in.
    File(Option<Named>),
}

/// All about TLS. `Debug` does not show the key's password.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// How much TLS.
    pub mode: SslMode,
    /// Whether TLS begins at once, without asking the server (`sslnegotiation=direct`).
    pub direct: bool,
    /// Whether the server may see our certificate.
    pub cert_mode: CertMode,
    /// Whether the password's proof is bound to the certificate.
    pub channel_binding: ChannelBinding,
    /// Whom to trust.
    pub roots: Roots,
    /// A file of revocation lists.
    pub crl: Option<Named>,
    /// A directory of them.
    pub crl_directory: Option<PathBuf>,
    /// Our certificate, and those that lead from it to an authority.
    pub certificate: Option<Named>,
    /// Its key.
    pub key: Option<Named>,
    /// The key's password.
    pub key_password: Option<Password>,
    /// Whether the server is told which host is meant.
    pub sni: bool,
    /// The oldest and the newest version.
    pub versions: (Version, Version),
}

impl TlsSettings {
    /// Reads the options; `home` is where `.postgresql` lies.
    pub fn of(settings: &Settings, home: Option<&Path>) -> Result<TlsSettings> {
        let roots_of_system = settings.value("sslrootcert") == Some("system");
        // Whoever names the system's roots trusts every public authority: without the host's name that is worth nothing.
        let default = if roots_of_system { "verify-full" } else { "prefer" };
        let mode_name = settings.given("sslmode").unwrap_or(default);
        let mode = choice("sslmode", mode_name, &SSL_MODES)?;
        if roots_of_system && mode != SslMode::VerifyFull {
            return Err(weak(mode_name, "sslrootcert=system", "\"verify-full\""));
        }
        let direct = chosen(settings, "sslnegotiation", "postgres", &NEGOTIATIONS)?;
        if direct && mode < SslMode::Require {
            let better = "\"require\", \"verify-ca\", or \"verify-full\"";
            return Err(weak(mode_name, "sslnegotiation=direct", better));
        }
        let named = |keyword: &str, default: &str| match settings.value(keyword) {
            Some(path) => Some(Named::Explicitly(PathBuf::from(path))),
            None => Some(Named::ByDefault(home?.join(".postgresql").join(default))),
        };
        let crl_directory = settings.value("sslcrldir").map(PathBuf::from);
        let crl = settings.value("sslcrl").is_some() || crl_directory.is_none();
        Ok(TlsSettings {
            mode,
            direct,
            cert_mode: chosen(settings, "sslcertmode", "allow", &CERT_MODES)?,
            channel_binding: chosen(settings, "channel_binding", "prefer", &CHANNEL_BINDINGS)?,
            roots: match roots_of_system {
                true => Roots::System,
                false => Roots::File(named("sslrootcert", "root.crt")),
            },
            crl: named("sslcrl", "root.crl").filter(|_| crl && !roots_of_system),
            crl_directory: crl_directory.filter(|_| !roots_of_system),
            certificate: named("sslcert", "postgresql.crt"),
            key: named("sslkey", "postgresql.key"),
            key_password: settings.value("sslpassword").and_then(Password::new),
            sni: settings
                .value("sslsni")
                .is_none_or(|value| value.starts_with('1')),
            versions: versions(settings)?,
        })
    }
}

fn chosen<T: Copy>(settings: &Settings, keyword: &str, default: &str, choices: &[(&str, T)]) -> Result<T> {
    choice(keyword, settings.given(keyword).unwrap_or(default), choices)
}

fn choice<T: Copy>(keyword: &str, value: &str, choices: &[(&str, T)]) -> Result<T> {
    let found = choices.iter().find(|(word, _)| *word == value);
    found
        .map(|&(_, chosen)| chosen)
        .ok_or_else(|| Error::usage(format!("invalid {keyword} value: \"{value}\"")))
}

fn weak(mode: &str, with: &str, better: &str) -> Error {
    Error::usage(format!(
        "weak sslmode \"{mode}\" may not be used with {with} (use {better})"
    ))
}

fn versions(settings: &Settings) -> Result<(Version, Version)> {
    let version = |keyword: &str, default: Version| {
        let Some(value) = settings.value(keyword) else {
            return Ok(default);
        };
        let found = VERSIONS.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
        found
            .map(|&(_, version)| version)
            .ok_or_else(|| Error::usage(format!("invalid \"{keyword}\" value: \"{value}\"")))
    };
    let oldest = version("ssl_min_protocol_version", Version::V1_2)?;
    let newest = version("ssl_max_protocol_version", Version::V1_3)?;
    // Without an oldest one libpq compares nothing: it would only find out while it connects.
    if oldest > newest && newest >= Version::V1_2 {
        return Err(Error::usage("invalid SSL protocol version range"));
    }
    if newest < Version::V1_2 {
        let value = settings.value("ssl_max_protocol_version").unwrap_or_default();
        let message = format!(
            "ssl_max_protocol_version value \"{value}\" is not supported: TLS older than 1.2 is not secure"
        );
        return Err(Error::unsupported(message));
    }
    Ok((oldest, newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<TlsSettings> {
        let mut settings = Settings::default();
        for (keyword, value) in pairs {
            settings.set(keyword, value).unwrap();
        }
        TlsSettings::of(&settings, Some(Path::new("/home/u")))
    }

    #[test]
    fn the_defaults_are_those_of_libpq() {
        let tls = of(&[]).unwrap();
        assert_eq!((tls.mode, tls.direct, tls.sni), (SslMode::Prefer, false, true));
        assert_eq!(tls.cert_mode, CertMode::Allow);
        assert_eq!(tls.versions, (Version::V1_2, Version::V1_3));
        let default = |name: &str| Named::ByDefault(Path::new("/home/u/.postgresql").join(name));
        assert_eq!(tls.roots, Roots::File(Some(default("root.crt"))));
        assert_eq!(tls.crl, Some(default("root.crl")));
        assert_eq!(tls.certificate, Some(default("postgresql.crt")));
        assert_eq!(tls.key, Some(default("postgresql.key")));
    }

    #[test]
    fn the_systems_roots_are_good_for_verify_full_only() {
        let tls = of(&[("sslrootcert", "system")]).unwrap();
        assert_eq!((tls.mode, tls.roots), (SslMode::VerifyFull, Roots::System));
        assert_eq!((tls.crl, tls.crl_directory), (None, None));
    }

    #[test]
    fn a_directory_of_revocation_lists_replaces_the_default_file_only() {
        let tls = of(&[("sslcrldir", "/crls")]).unwrap();
        assert_eq!((tls.crl, tls.crl_directory), (None, Some("/crls".into())));
        let tls = of(&[("sslcrldir", "/crls"), ("sslcrl", "/crl")]).unwrap();
        assert_eq!(tls.crl, Some(Named::Explicitly("/crl".into())));
    }

    #[test]
    fn what_is_wrong_gets_the_words_of_libpq() {
        for (pairs, message) in [
            (vec![("sslmode", "Require")], "invalid sslmode value: \"Require\""),
            (vec![("sslcertmode", "x")], "invalid sslcertmode value: \"x\""),
            (
                vec![("sslnegotiation", "x")],
                "invalid sslnegotiation value: \"x\"",
            ),
            (
                vec![("channel_binding", "x")],
                "invalid channel_binding value: \"x\"",
            ),
            (
                vec![("sslrootcert", "system"), ("sslmode", "verify-ca")],
                "weak sslmode \"verify-ca\" may not be used with sslrootcert=system (use \"verify-full\")",
            ),
            (
                vec![("sslnegotiation", "direct")],
                "weak sslmode \"prefer\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")",
            ),
            (
                vec![("ssl_min_protocol_version", "TLSv1.4")],
                "invalid \"ssl_min_protocol_version\" value: \"TLSv1.4\"",
            ),
            (
                vec![
                    ("ssl_min_protocol_version", "tlsv1.3"),
                    ("ssl_max_protocol_version", "TLSv1.2"),
                ],
                "invalid SSL protocol version range",
            ),
            (
                vec![("ssl_max_protocol_version", "TLSv1.1")],
                "ssl_max_protocol_version value \"TLSv1.1\" is not supported: TLS older than 1.2 is not secure",
            ),
        ] {
            assert_eq!(of(&pairs).unwrap_err().to_string(), message);
        }
    }
}
