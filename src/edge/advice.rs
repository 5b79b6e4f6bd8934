//! What to do about the server's refusals, where the server does not say it itself.
//!
//! All of them are tried again: each can be mended on the server, or by another host of the connection
//! string, while walring waits. Messages may be in any language, so their SQLSTATE decides.

use crate::error::Error;

/// The way out of a missing replication slot.
pub const MISSING_SLOT: &str = "Create it with --create-slot, or have it created with --slot-mode=create; what the server removed meanwhile will \
     not come any more.";

/// SQLSTATE undefined_file: a segment, or a timeline's history.
const UNDEFINED_FILE: &str = "58P01";

/// How an error begins that ended a stream.
pub const STREAM_ENDED: &str = "unexpected termination of replication stream";

/// Whether the server lacks a file that somebody may bring.
pub fn is_missing_file(error: &Error) -> bool {
    error.sqlstate() == Some(UNDEFINED_FILE)
}

/// The same error, with a hint if there is none yet.
pub fn advise(error: Error) -> Error {
    let hint = match error.hint() {
        Some(_) => None,
        None => error.sqlstate().and_then(|state| hint(state, &error.to_string())),
    };
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn hint(sqlstate: &str, message: &str) -> Option<&'static str> {
    Some(match sqlstate {
        // undefined_object
        "42704" => MISSING_SLOT,
        // object_in_use
        "55006" => {
            "Another receiver uses the slot, or the server has not noticed yet that a connection is gone \
             (wal_sender_timeout)."
        }
        // object_not_in_prerequisite_state
        "55000" => {
            "Look into pg_replication_slots: a slot that has lost its WAL, or a logical one, must be dropped and created \
             again with --create-slot."
        }
        // Within a stream that is a segment.
        UNDEFINED_FILE if message.starts_with(STREAM_ENDED) => {
            "Copy the missing segments into the directory, from an archive or another server: streaming goes on behind \
             them. A replication slot keeps WAL on the server, up to max_slot_wal_keep_size."
        }
        // too_many_connections
        "53300" => "End another receiver, or raise max_wal_senders or max_connections on the server.",
        // configuration_limit_exceeded
        "53400" => "Drop a replication slot that nobody needs, or raise max_replication_slots on the server.",
        // insufficient_privilege
        "42501" => "Give the role the attribute REPLICATION.",
        // invalid_authorization_specification
        "28000" => {
            "The role must exist, and a line of pg_hba.conf must let it in, with \"replication\" for the database."
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_goes_by_the_sqlstate_and_never_over_the_servers_own() {
        let error = advise(Error::server("FEHLER:  x", "55006"));
        assert!(error.hint().unwrap().starts_with("Another receiver"));
        let error = advise(Error::server("FEHLER:  x", "55006").with_hint("y"));
        assert_eq!(error.hint(), Some("y"));
        assert_eq!(advise(Error::server("FEHLER:  x", "XX000")).hint(), None);
        assert_eq!(advise(Error::connection("x")).hint(), None);
    }

    #[test]
    fn a_missing_file_is_a_segment_only_within_a_stream() {
        let missing = || Error::server("ERROR:  x", "58P01");
        assert!(advise(missing().in_context(STREAM_ENDED)).hint().is_some());
        assert_eq!(advise(missing().in_context("TIMELINE_HISTORY")).hint(), None);
    }
}
