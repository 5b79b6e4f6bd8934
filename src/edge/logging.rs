//! Log lines on standard error.
//!
//! Text is what PostgreSQL's programs print: `walring: message`, with `error: `, `warning: `, `detail: ` and `hint: `
//! where they apply, so messages must be complete sentences without their fields. JSON has one object a line, with the
//! time and every field.

use super::progress_line;
use crate::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people, as PostgreSQL's programs print them.
    #[default]
    Text,
    /// For programs, one JSON object a line.
    Json,
}

/// Sends this process's log to standard error, from INFO on, or from DEBUG on if `verbose`. Call it once.
pub fn init(program: &str, format: LogFormat, verbose: bool) {
    let subscriber = subscriber(program, format, verbose, StandardError);
    tracing::subscriber::set_global_default(subscriber).expect("logging is set up once");
}

/// Logs an error with its detail and hint.
pub fn report(error: &Error) {
    tracing::error!(
        detail = error.detail(),
        hint = error.hint(),
        sqlstate = error.sqlstate(),
        "{error}"
    );
}

fn subscriber<W>(
    program: &str,
    format: LogFormat,
    verbose: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let level = if verbose { Level::DEBUG } else { Level::INFO };
    // Told to, tracing reports a failed write by a macro that panics when that fails, too: a full disk behind standard
    // error would stop the receiver.
    let layer = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_writer(writer);
    let registry =
        tracing_subscriber::registry().with(Targets::new().with_target(env!("CARGO_PKG_NAME"), level));
    match format {
        LogFormat::Text => Box::new(registry.with(layer.event_format(ToolStyle::new(program)))),
        LogFormat::Json => Box::new(registry.with(layer.json().flatten_event(true).with_target(false))),
    }
}

/// The text format.
struct ToolStyle {
    program: String,
}

impl ToolStyle {
    fn new(program: &str) -> ToolStyle {
        ToolStyle {
            program: program.to_owned(),
        }
    }
}

impl<S, N> FormatEvent<S, N> for ToolStyle
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let word = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO | Level::DEBUG | Level::TRACE => "",
        };
        let program = &self.program;
        writeln!(line, "{program}: {word}{}", parts.message)?;
        for (word, text) in [("detail", parts.detail), ("hint", parts.hint)] {
            if !text.is_empty() {
                writeln!(line, "{program}: {word}: {text}")?;
            }
        }
        Ok(())
    }
}

/// What text shows of an event. Its other fields are there for JSON.
#[derive(Default)]
struct Parts {
    message: String,
    detail: String,
    hint: String,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let part = match field.name() {
            "message" => &mut self.message,
            "detail" => &mut self.detail,
            "hint" => &mut self.hint,
            _ => return,
        };
        let _ = write!(part, "{value:?}");
    }

    /// Without the quotes of `Debug`.
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Writes whole lines to standard error, each above an unfinished progress line.
#[derive(Clone, Copy)]
struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = StandardError;

    fn make_writer(&'a self) -> StandardError {
        StandardError
    }
}

impl Write for StandardError {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line)?;
        Ok(line.len())
    }

    /// tracing calls this once for each event.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let mut terminal = io::stderr().lock();
        progress_line::clear(&mut terminal)?;
        terminal.write_all(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What `events` log.
    fn logged(format: LogFormat, verbose: bool, events: impl FnOnce()) -> String {
        let output = Arc::new(Mutex::new(Vec::new()));
        let sink = output.clone();
        let writer = move || Sink(sink.clone());
        tracing::subscriber::with_default(subscriber("walring", format, verbose, writer), events);
        String::from_utf8(output.lock().unwrap().clone()).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn refusal() -> Error {
        Error::server("no \"slot\"", "42704")
            .with_detail("a detail")
            .with_hint("a hint")
    }

    #[test]
    fn text_lines_look_like_those_of_postgresql_programs() {
        let text = logged(LogFormat::Text, true, || {
            tracing::debug!(lsn = 5, "starting log streaming at 0/5");
            tracing::info!("not renaming \"F\", segment is not complete");
            tracing::warn!(hint = "look", "odd");
            report(&refusal());
            report(&Error::disk("full"));
        });
        let expected = "walring: starting log streaming at 0/5\n\
            walring: not renaming \"F\", segment is not complete\n\
            walring: warning: odd\nwalring: hint: look\n\
            walring: error: no \"slot\"\nwalring: detail: a detail\nwalring: hint: a hint\n\
            walring: error: full\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn debug_lines_and_those_of_other_crates_are_for_nobody_unless_asked_for() {
        let events = || {
            tracing::debug!("ours");
            tracing::error!(target: "tokio", "theirs");
        };
        assert_eq!(logged(LogFormat::Text, false, events), "");
        assert_eq!(logged(LogFormat::Text, true, events), "walring: ours\n");
    }

    #[test]
    fn a_json_line_has_time_level_message_and_fields() {
        let text = logged(LogFormat::Json, false, || report(&refusal()));
        let (time, rest) = text
            .strip_prefix("{\"timestamp\":\"")
            .unwrap()
            .split_once('"')
            .unwrap();
        assert!(
            time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T',
            "{time}"
        );
        assert_eq!(
            rest,
            ",\"level\":\"ERROR\",\"message\":\"no \\\"slot\\\"\",\"detail\":\"a detail\",\
             \"hint\":\"a hint\",\"sqlstate\":\"42704\"}\n"
        );
    }
}
