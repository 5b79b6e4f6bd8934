//! What can go wrong, sorted by what the caller must do about it.

use std::fmt;
use std::io;

/// An error with one clear line for the operator, and the decision whether trying again can help.
pub struct Error {
    kind: Kind,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
    sqlstate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The command line, the connection string or an environment variable is wrong.
    Usage,
    /// The server cannot be reached, or the connection broke.
    Connection,
    /// The server does not have what is stored, and may come to have it; another one may have it already.
    Lacking,
    /// The server answered with an error.
    Server,
    /// The server sent what the protocol does not allow.
    Protocol,
    /// The target directory holds something that must not be touched.
    Directory,
    /// A read, write, sync, create or rename in the target directory failed, and may succeed later.
    Disk,
    /// There is no room in the target directory, or a quota allows no more.
    DiskFull,
    /// A write or sync failed in a way after which the file cannot be trusted.
    DiskBroken,
    /// This machine lacks what walring needs, or a setting demands what walring does not do.
    Unsupported,
    /// The operator wants the end.
    Interrupted,
}

impl Error {
    /// A wrong option, connection string or environment variable.
    pub fn usage(message: impl Into<String>) -> Error {
        Error::new(Kind::Usage, message)
    }

    /// The server cannot be reached, or the connection broke.
    pub fn connection(message: impl Into<String>) -> Error {
        Error::new(Kind::Connection, message)
    }

    /// The server does not have what is stored. It may come to have it, and another one may have it already.
    pub fn lacking(message: impl Into<String>) -> Error {
        Error::new(Kind::Lacking, message)
    }

    /// The server answered with an error; `sqlstate` is its five-character code.
    pub fn server(message: impl Into<String>, sqlstate: impl Into<String>) -> Error {
        Error {
            sqlstate: Some(sqlstate.into()),
            ..Error::new(Kind::Server, message)
        }
    }

    /// The server sent what the protocol does not allow here. The message may quote it as it came.
    pub fn protocol(message: impl Into<String>) -> Error {
        Error::new(Kind::Protocol, printable(&message.into()))
    }

    /// The target directory holds something that must not be touched, or is in use.
    pub fn directory(message: impl Into<String>) -> Error {
        Error::new(Kind::Directory, message)
    }

    /// An operation in the target directory failed, and may succeed later.
    pub fn disk(message: impl Into<String>) -> Error {
        Error::new(Kind::Disk, message)
    }

    /// An operation in the target directory failed with `cause`, which tells whether to wait for room, to try
    /// again, or to end.
    pub fn of_disk(message: impl Into<String>, cause: &io::Error) -> Error {
        match cause.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Error::new(Kind::DiskFull, message),
            Some(libc::ENOMEM) => Error::disk(message),
            Some(libc::EMFILE | libc::ENFILE) => Error::disk(message).with_hint(
                "Raise the limit of open files: ulimit -n, systemd's LimitNOFILE, sysctl fs.file-max.",
            ),
            Some(libc::EFBIG) => Error::disk_broken(message).with_hint(
                "Raise the limit of a file's size to that of a segment: ulimit -f, systemd's LimitFSIZE.",
            ),
            Some(libc::EROFS) => Error::disk_broken(message).with_hint(
                "The file system is read-only; after an error of the disk the kernel makes it so: see dmesg.",
            ),
            _ => Error::disk_broken(message),
        }
    }

    /// A write or sync in the target directory failed: what the file holds is not known any more.
    pub fn disk_broken(message: impl Into<String>) -> Error {
        Error::new(Kind::DiskBroken, message)
    }

    /// This machine lacks what walring needs, or a setting demands what walring does not do.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(Kind::Unsupported, message)
    }

    /// The operator's signal ended what was going on.
    pub fn interrupted() -> Error {
        Error::new(Kind::Interrupted, "interrupted by a signal")
    }

    fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            detail: None,
            hint: None,
            sqlstate: None,
        }
    }

    /// The same error, its message preceded by what was being done.
    pub fn in_context(self, context: &str) -> Error {
        let message = format!("{context}: {self}");
        self.reworded(message)
    }

    /// The same error with another message.
    pub fn reworded(self, message: String) -> Error {
        Error { message, ..self }
    }

    /// Adds what is known beyond the message.
    pub fn with_detail(mut self, detail: impl Into<String>) -> Error {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what the operator can do.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The server's SQLSTATE, if it was the server that refused.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// What is known beyond the message, if anything.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// What the operator can do, if it is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether it was the operator who ended it.
    pub fn is_interruption(&self) -> bool {
        self.kind == Kind::Interrupted
    }

    /// Whether it was an operation in the target directory that failed.
    pub fn is_of_disk(&self) -> bool {
        matches!(self.kind, Kind::Disk | Kind::DiskFull | Kind::DiskBroken)
    }

    /// Whether room in the target directory is all that was missing.
    pub fn is_disk_full(&self) -> bool {
        self.kind == Kind::DiskFull
    }

    /// Whether the server lacks what is stored, so that another one is to be tried before it.
    pub fn is_of_lacking_server(&self) -> bool {
        self.kind == Kind::Lacking
    }

    /// Whether connecting once more may succeed without anybody's help here.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            Kind::Connection | Kind::Lacking | Kind::Server | Kind::Protocol | Kind::Disk | Kind::DiskFull
        )
    }
}

/// More of a text than that is not shown, in characters.
const LONGEST_SHOWN: usize = 4000;

/// What somebody else said, fit to be shown: it must neither begin a line of its own, which would read as ours, nor
/// steer a terminal, nor fill a log.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(LONGEST_SHOWN));
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST_SHOWN {
            shown.push_str("...");
            break;
        }
        match character {
            c if c.is_control() || reorders(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

/// Whether it ends a line or changes the direction of what follows.
fn reorders(character: char) -> bool {
    matches!(character, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// The system's words for an error without the number that Rust adds, as PostgreSQL prints it.
pub fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The message alone; detail and hint are separate lines of the log.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let parts = [
            ("DETAIL", &self.detail),
            ("HINT", &self.hint),
            ("SQLSTATE", &self.sqlstate),
        ];
        parts
            .iter()
            .filter_map(|(name, part)| Some((name, part.as_ref()?)))
            .try_for_each(|(name, text)| write!(f, "; {name}: {text}"))
    }
}

impl std::error::Error for Error {}

/// The result of everything that can fail.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_has_no_number() {
        let error = io::Error::from_raw_os_error(32);
        assert_eq!(system_text(&error), "Broken pipe");
        assert_eq!(system_text(&io::Error::other("x")), "x");
    }

    #[test]
    fn what_others_say_stays_in_its_line_and_steers_nothing() {
        assert_eq!(printable("größer als 5 \"x\""), "größer als 5 \"x\"");
        assert_eq!(printable("a\nb\r\t\0"), "a\\nb\\r\\t\\u{0}");
        assert_eq!(printable("\u{1b}[2J\u{9b}\u{202e}"), "\\u{1b}[2J\\u{9b}\\u{202e}");
        assert_eq!(printable(&"x".repeat(5000)).len(), LONGEST_SHOWN + 3);
        assert_eq!(Error::protocol("\u{7}").to_string(), "\\u{7}");
    }

    #[test]
    fn context_keeps_everything_else() {
        let error = Error::server("ERROR:  x", "42710")
            .with_detail("d")
            .with_hint("h");
        let error = error.in_context("could not");
        assert_eq!(error.to_string(), "could not: ERROR:  x");
        assert_eq!(error.sqlstate(), Some("42710"));
        assert_eq!((error.detail(), error.hint()), (Some("d"), Some("h")));
        assert!(!Error::unsupported("x").in_context("c").is_retryable());
    }

    #[test]
    fn the_cause_of_a_disk_error_tells_what_can_be_done_about_it() {
        let of = |errno| Error::of_disk("x", &io::Error::from_raw_os_error(errno));
        for errno in [libc::ENOSPC, libc::EDQUOT] {
            assert!(of(errno).is_disk_full() && of(errno).is_retryable());
        }
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM] {
            assert!(of(errno).is_retryable() && !of(errno).is_disk_full());
        }
        for errno in [libc::EIO, libc::EROFS, libc::EFBIG, libc::ENOENT, libc::EACCES] {
            assert!(of(errno).is_of_disk() && !of(errno).is_retryable());
        }
    }
}
