//! Which connections to one address `sslmode` allows, with encryption or without, and how each begins.
//!
//! Source: PQconnectPoll and init_allowed_encryption_methods of PostgreSQL's libpq.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use crate::edge::complaints::Complaints;
use crate::edge::hosts::Host;
use crate::edge::socket::{Address, Socket};
use crate::edge::tls::files;
use crate::edge::tls::handshake::{self, Answer, Peer};
use crate::edge::tls::settings::{SslMode, TlsSettings};
use crate::error::{Error, Result};
use crate::ring::tls::Session;

/// The records of an encrypted connection, and what is known of its server.
pub(super) type Encrypted = (Box<Session>, Peer);

/// How the way into an encrypted connection ended.
pub(super) enum Begun {
    /// As it was to.
    As(Option<Encrypted>),
    /// Not at all; another way may be tried.
    Refused(Error),
}

/// A connection with encryption or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Plain,
    /// In plain if the server has no TLS.
    IfOffered,
    /// The server is asked, and has to have it.
    Demanded,
    /// The server is not asked.
    Direct,
}

impl Encryption {
    /// What `sslmode` allows, in the order to try. Nobody listens on a Unix socket: there it is never encrypted.
    pub(super) fn allowed(tls: &TlsSettings, address: &Address) -> Vec<Encryption> {
        match (tls.mode, address) {
            (SslMode::Disable, _) | (_, Address::Unix(_)) => vec![Encryption::Plain],
            (SslMode::Allow, _) => vec![Encryption::Plain, Encryption::Demanded],
            (SslMode::Prefer, _) => vec![Encryption::IfOffered, Encryption::Plain],
            _ if tls.direct => vec![Encryption::Direct],
            _ => vec![Encryption::Demanded],
        }
    }

    /// Encrypts the connection, if it is to be. An error is one after which nothing else is to be tried.
    pub(super) async fn begin(self, socket: &mut Socket, tls: &TlsSettings, host: &Host) -> Result<Begun> {
        if self == Encryption::Plain {
            return Ok(Begun::As(None));
        }
        let asks = self != Encryption::Direct;
        if asks && handshake::request(socket).await? == Answer::Unwilling {
            return Ok(match self {
                Encryption::IfOffered => Begun::As(None),
                _ => Begun::Refused(Error::connection(
                    "server does not support SSL, but SSL was required",
                )),
            });
        }
        // libpq would go on without such a list: that walring does not must not lead to plain text.
        let lists = files::revocation_lists(tls)?;
        match handshake::shake_hands(socket, tls, host, lists).await {
            Ok(encrypted) => Ok(Begun::As(Some(encrypted))),
            // Nor must what walring alone does not do.
            Err(failure) if failure.is_ours_alone => Err(self.explained(failure.error)),
            Err(failure) => Ok(Begun::Refused(failure.error)),
        }
    }

    /// With what there is to do about it where libpq's way would have been plain text.
    fn explained(self, error: Error) -> Error {
        match self {
            Encryption::IfOffered => error.with_detail(
                "sslmode=prefer does not lead to plain text here, as libpq would probably have an encrypted connection. sslmode=disable does.",
            ),
            _ => error,
        }
    }
}

/// Says that a connection with this error under TLS is open without, which an operator may not expect: not with each
/// connection that is made.
pub(super) fn tell_of_plain_text(error: &Error) {
    static SAID: LazyLock<Mutex<Complaints>> = LazyLock::new(Mutex::default);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.is_news(error, Instant::now()) {
        tracing::warn!(
            detail = error.detail(),
            hint = "sslmode=prefer allows that, sslmode=require does not. sslmode=disable does not try TLS.",
            "going on without encryption, for with it: {error}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::settings::Settings;
    use std::net::SocketAddr;

    fn allowed(pairs: &[(&str, &str)], address: &Address) -> Vec<Encryption> {
        let mut settings = Settings::default();
        for (keyword, value) in pairs {
            settings.set(keyword, value).unwrap();
        }
        Encryption::allowed(&TlsSettings::of(&settings, None).unwrap(), address)
    }

    #[test]
    fn the_mode_says_what_is_tried_in_which_order() {
        use Encryption::{Demanded, Direct, IfOffered, Plain};
        let remote = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 5432)));
        for (mode, expected) in [
            ("disable", vec![Plain]),
            ("allow", vec![Plain, Demanded]),
            ("prefer", vec![IfOffered, Plain]),
            ("require", vec![Demanded]),
            ("verify-ca", vec![Demanded]),
            ("verify-full", vec![Demanded]),
        ] {
            assert_eq!(allowed(&[("sslmode", mode)], &remote), expected, "{mode}");
            let socket = Address::Unix("/tmp/.s.PGSQL.5432".to_owned());
            assert_eq!(allowed(&[("sslmode", mode)], &socket), [Plain], "{mode}");
        }
        let direct = [("sslmode", "require"), ("sslnegotiation", "direct")];
        assert_eq!(allowed(&direct, &remote), [Direct]);
    }
}
