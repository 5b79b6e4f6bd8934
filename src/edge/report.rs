//! The server's errors and notices, made ours.
//!
//! Source of the fields: PostgreSQL doc protocol.sgml, "Error and Notice Message Fields".

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, printable};

/// So many notices are logged in each [`NOTICES_TIME`]; a server that sends more says nothing worth a full log.
const MOST_NOTICES: u32 = 100;

/// See [`MOST_NOTICES`].
const NOTICES_TIME: Duration = Duration::from_secs(60);

/// The fields of an ErrorResponse or NoticeResponse that walring uses.
#[derive(Default)]
struct Report {
    /// As the operator is to read it, perhaps translated.
    severity: String,
    /// In English; servers since 9.6 send it.
    plain_severity: String,
    sqlstate: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Report {
    /// Reads a message's body, as forgiving as can be: a report that breaks off is still a report.
    fn parse(body: &[u8]) -> Report {
        let mut report = Report::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else {
                break;
            };
            let text = printable(&String::from_utf8_lossy(text));
            match kind {
                b'S' => report.severity = text,
                b'V' => report.plain_severity = text,
                b'C' => report.sqlstate = text,
                b'M' => report.message = text,
                b'D' => report.detail = Some(text),
                b'H' => report.hint = Some(text),
                _ => {}
            }
        }
        report
    }

    /// As libpq shows it, with two blanks. Without a text it is no PostgreSQL's, and still to be told.
    fn line(&self) -> String {
        let or = |text: &str, other: &str| {
            if text.is_empty() {
                other.to_owned()
            } else {
                text.to_owned()
            }
        };
        let severity = or(&self.severity, "ERROR");
        format!("{severity}:  {}", or(&self.message, "the server gave no reason"))
    }
}

/// The error that the body of an ErrorResponse (what follows its length) tells of, worded as libpq
/// does: `FATAL:  the text`, detail and hint apart.
pub fn parse_error_response(body: &[u8]) -> Error {
    let report = Report::parse(body);
    let mut error = Error::server(report.line(), report.sqlstate);
    if let Some(detail) = report.detail {
        error = error.with_detail(detail);
    }
    if let Some(hint) = report.hint {
        error = error.with_hint(hint);
    }
    error
}

/// Logs the body of a NoticeResponse: a warning as one, anything less as information. Of very many only some.
pub fn log_notice(body: &[u8]) {
    static LOGGED: Mutex<Notices> = Mutex::new(Notices::NONE);
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let left_out = logged.admit(Instant::now());
    drop(logged);
    match left_out {
        None => return,
        Some(0) => {}
        Some(count) => tracing::warn!("{count} notices of the server were not logged"),
    }
    let report = Report::parse(body);
    match report.plain_severity.as_str() {
        "WARNING" => tracing::warn!("server: {}", report.line()),
        _ => tracing::info!("server: {}", report.line()),
    }
}

/// The notices of a while.
struct Notices {
    since: Option<Instant>,
    logged: u32,
    left_out: u64,
}

impl Notices {
    const NONE: Notices = Notices {
        since: None,
        logged: 0,
        left_out: 0,
    };

    /// Whether one more is to be logged: then how many were left out before it.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let mut left_out = 0;
        if now.saturating_duration_since(since) >= NOTICES_TIME {
            left_out = self.left_out;
            *self = Notices {
                since: Some(now),
                ..Notices::NONE
            };
        }
        if self.logged == MOST_NOTICES {
            self.left_out += 1;
            return None;
        }
        self.logged += 1;
        Some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_notices_only_some_are_logged() {
        let (mut notices, now) = (Notices::NONE, Instant::now());
        let admitted = (0..250).filter_map(|_| notices.admit(now)).collect::<Vec<_>>();
        assert_eq!(admitted, [0; 100]);
        assert_eq!(notices.admit(now + NOTICES_TIME), Some(150));
        assert_eq!(notices.admit(now + NOTICES_TIME), Some(0));
    }

    #[test]
    fn an_error_reads_as_libpq_shows_it() {
        let body = b"SFATAL\0VFATAL\0C28P01\0Mpassword authentication failed\0Dwhy\0Hwhat\0Fauth.c\0\0";
        let error = parse_error_response(body);
        assert_eq!(error.to_string(), "FATAL:  password authentication failed");
        assert_eq!(error.sqlstate(), Some("28P01"));
        assert_eq!((error.detail(), error.hint()), (Some("why"), Some("what")));
    }

    #[test]
    fn a_report_that_breaks_off_is_still_reported() {
        let error = parse_error_response(b"SERROR\0Mhalf a mess");
        assert_eq!(error.to_string(), "ERROR:  half a mess");
        assert_eq!(
            parse_error_response(b"").to_string(),
            "ERROR:  the server gave no reason"
        );
        assert_eq!(parse_error_response(b"SE\0M\xff\0\0").to_string(), "E:  \u{fffd}");
    }
}
