//! The server's errors and notices, made ours.
//!
//! Source of the fields: PostgreSQL doc protocol.sgml, "Error and Notice Message Fields".

use crate::error::Error;

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
            let text = String::from_utf8_lossy(text).into_owned();
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

    /// As libpq shows it, with two blanks.
    fn line(&self) -> String {
        format!("{}:  {}", self.severity, self.message)
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

/// Logs the body of a NoticeResponse: a warning as one, anything less as information.
pub fn log_notice(body: &[u8]) {
    let report = Report::parse(body);
    match report.plain_severity.as_str() {
        "WARNING" => tracing::warn!("server: {}", report.line()),
        _ => tracing::info!("server: {}", report.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(parse_error_response(b"").to_string(), ":  ");
        assert_eq!(parse_error_response(b"SE\0M\xff\0\0").to_string(), "E:  \u{fffd}");
    }
}
