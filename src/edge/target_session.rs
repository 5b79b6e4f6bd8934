//! `target_session_attrs`: which of the servers in a list of hosts will do.
//!
//! Servers from 14 on tell by themselves whether they are in recovery, and whether transactions are read-only. Older ones
//! are asked. On a replication connection only SHOW can ask; libpq asks with a SELECT there whether the server is in
//! recovery, which a walsender refuses, so that no old server ever is a primary or a standby to pg_receivewal. Here it is.
//! Source of the rules and words: CONNECTION_CHECK_TARGET in PQconnectPoll of PostgreSQL's libpq (18).

use crate::edge::connection::Connection;
use crate::edge::settings::Settings;
use crate::error::{Error, Result};

/// The option's name.
const KEYWORD: &str = "target_session_attrs";

/// What a server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    /// Whatever it is.
    Any,
    /// It lets its sessions write.
    ReadWrite,
    /// It does not.
    ReadOnly,
    /// It is not in recovery.
    Primary,
    /// It is in recovery.
    Standby,
    /// It is in recovery; if no server is, any will do.
    PreferStandby,
}

impl TargetSession {
    /// What the settings demand. Fails with libpq's message for a value that is none.
    pub fn of(settings: &Settings) -> Result<TargetSession> {
        Ok(match settings.given(KEYWORD) {
            None | Some("any") => TargetSession::Any,
            Some("read-write") => TargetSession::ReadWrite,
            Some("read-only") => TargetSession::ReadOnly,
            Some("primary") => TargetSession::Primary,
            Some("standby") => TargetSession::Standby,
            Some("prefer-standby") => TargetSession::PreferStandby,
            Some(other) => return Err(Error::usage(format!("invalid {KEYWORD} value: \"{other}\""))),
        })
    }

    /// What to look for, one search of all hosts after the other.
    pub fn passes(self) -> Vec<TargetSession> {
        match self {
            TargetSession::PreferStandby => vec![TargetSession::Standby, TargetSession::Any],
            other => vec![other],
        }
    }

    /// Fails, in libpq's words, if the server at the other end is not what is looked for.
    pub async fn check(self, connection: &mut Connection) -> Result<()> {
        let complaint = match self {
            TargetSession::Any | TargetSession::PreferStandby => return Ok(()),
            TargetSession::ReadWrite if is_read_only(connection).await? => "session is read-only",
            TargetSession::ReadOnly if !is_read_only(connection).await? => "session is not read-only",
            TargetSession::Primary if is_in_recovery(connection).await? => "server is in hot standby mode",
            TargetSession::Standby if !is_in_recovery(connection).await? => {
                "server is not in hot standby mode"
            }
            _ => return Ok(()),
        };
        Err(Error::connection(complaint))
    }
}

/// Whether a transaction of this session could not write.
async fn is_read_only(connection: &mut Connection) -> Result<bool> {
    let reported = ["default_transaction_read_only", "in_hot_standby"]
        .map(|name| connection.parameter(name).map(|value| value == "on"));
    match reported {
        [Some(by_default), Some(in_recovery)] => Ok(by_default || in_recovery),
        _ => is_on(connection, "transaction_read_only").await,
    }
}

/// Whether the server is in recovery: it follows another one, or replays its own log.
pub async fn is_in_recovery(connection: &mut Connection) -> Result<bool> {
    if let Some(value) = connection.parameter("in_hot_standby") {
        return Ok(value == "on");
    }
    // In recovery every transaction is read-only, otherwise only one of a session that wants it so.
    if !is_on(connection, "transaction_read_only").await? {
        return Ok(false);
    }
    match is_on(connection, "default_transaction_read_only").await? {
        false => Ok(true),
        true => Err(Error::connection(
            "could not find out whether the server is in hot standby mode: before version 14 that cannot be told \
             while default_transaction_read_only is on",
        )
        .with_hint(
            "Switch it off for this role: ALTER ROLE ... SET default_transaction_read_only = off, which \
             replicates to the standbys.",
        )),
    }
}

async fn is_on(connection: &mut Connection, setting: &str) -> Result<bool> {
    let command = format!("SHOW {setting}");
    let rows = connection.query(&command).await?;
    match rows.as_slice() {
        [row] => Ok(matches!(row.first(), Some(Some(value)) if value.as_ref() == b"on")),
        _ => Err(Error::protocol(format!("\"{command}\" failed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Result<TargetSession> {
        let mut settings = Settings::default();
        settings.set(KEYWORD, value).unwrap();
        TargetSession::of(&settings)
    }

    #[test]
    fn the_six_values_are_known_and_no_other() {
        assert_eq!(
            TargetSession::of(&Settings::default()).unwrap(),
            TargetSession::Any
        );
        assert_eq!(of("any").unwrap(), TargetSession::Any);
        assert_eq!(of("read-write").unwrap(), TargetSession::ReadWrite);
        assert_eq!(of("read-only").unwrap(), TargetSession::ReadOnly);
        assert_eq!(of("primary").unwrap(), TargetSession::Primary);
        assert_eq!(of("standby").unwrap(), TargetSession::Standby);
        assert_eq!(of("prefer-standby").unwrap(), TargetSession::PreferStandby);
        for bad in ["Primary", "master", "read_write", " any"] {
            let message = format!("invalid target_session_attrs value: \"{bad}\"");
            assert_eq!(of(bad).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_standby_is_preferred_by_looking_twice() {
        assert_eq!(
            TargetSession::PreferStandby.passes(),
            [TargetSession::Standby, TargetSession::Any]
        );
        assert_eq!(TargetSession::Primary.passes(), [TargetSession::Primary]);
    }
}
