//! The password file, `~/.pgpass`: lines of `host:port:database:user:password`.
//!
//! Source: PostgreSQL doc libpq.sgml, "The Password File"; `passwordFromFile` of libpq's fe-connect.c. The file is read
//! as bytes, for a password may have any encoding.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::edge::password::Password;
use crate::error::system_text;

/// What a line of the file must match.
pub struct Wanted<'a> {
    /// The host as the operator named it; `localhost` for the default socket directory.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The database; `replication` unless another was given.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
}

/// The password of the first line that matches; an empty one is none.
///
/// A file that is missing says nothing. One that others may read, or that is no plain file, is left
/// alone with a warning, as libpq does; a credential of systemd's may be readable by its group.
pub fn look_up(path: &Path, wanted: &Wanted<'_>) -> Option<Password> {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(
                "could not open password file \"{}\": {}",
                path.display(),
                system_text(&error)
            );
            return None;
        }
    };
    // Asked of the open file, so that what is checked is what is read.
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() {
        tracing::warn!("password file \"{}\" is not a plain file", path.display());
        return None;
    }
    if is_open_to_others(path, &metadata) {
        tracing::warn!(
            "password file \"{}\" has group or world access; permissions should be u=rw (0600) or less",
            path.display()
        );
        return None;
    }
    let mut text = Vec::new();
    if let Err(error) = file.read_to_end(&mut text) {
        tracing::warn!(
            "could not read password file \"{}\": {}",
            path.display(),
            system_text(&error)
        );
        return None;
    }
    find(&text, wanted)
}

/// Whether others may read a file that holds a password.
pub fn is_open_to_others(path: &Path, metadata: &Metadata) -> bool {
    let forbidden = if is_credential(path) { 0o037 } else { 0o077 };
    metadata.permissions().mode() & forbidden != 0
}

/// Opens the file; a pipe without a writer must not hold up anything.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Whether systemd has put the file there (`LoadCredential=`): those look as if their group could read them, because
/// the service's user is let in by an access control list. Their directory is closed to everybody else.
pub fn is_credential(path: &Path) -> bool {
    std::env::var_os("CREDENTIALS_DIRECTORY")
        .is_some_and(|directory| path.parent() == Some(Path::new(&directory)))
}

fn find(text: &[u8], wanted: &Wanted<'_>) -> Option<Password> {
    let port = wanted.port.to_string();
    let expected = [wanted.host, &port, wanted.database, wanted.user];
    let password = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .map(without_returns)
        .find_map(|line| {
            expected.iter().try_fold(line, |rest, field| {
                let (pattern, rest) = split_field(rest)?;
                (pattern == b"*" || unescaped(pattern) == field.as_bytes()).then_some(rest)
            })
        })?;
    let password = split_field(password).map_or(password, |(password, _)| password);
    Password::new(unescaped(password))
}

/// A line without what editors of other systems leave at its end.
fn without_returns(mut line: &[u8]) -> &[u8] {
    while let Some(shorter) = line.strip_suffix(b"\r") {
        line = shorter;
    }
    line
}

/// Splits at the first colon that has no backslash before it.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b':' => return Some((&line[..at], &line[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = field.iter();
    let mut plain = Vec::with_capacity(field.len());
    while let Some(&byte) = bytes.next() {
        let escaped = (byte == b'\\').then(|| bytes.next()).flatten();
        plain.push(*escaped.unwrap_or(&byte));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const WANTED: Wanted<'_> = Wanted {
        host: "db:1",
        port: 5432,
        database: "replication",
        user: "walring",
    };

    fn found(text: &str) -> Option<String> {
        let password = find(text.as_bytes(), &WANTED)?;
        Some(String::from_utf8(password.bytes().to_vec()).unwrap())
    }

    #[test]
    fn the_first_line_that_matches_gives_the_password() {
        for (text, expected) in [
            ("db\\:1:5432:replication:walring:one\n*:*:*:*:two", Some("one")),
            ("# *:*:*:*:no\nother:*:*:*:one\n*:*:*:*:two\r\n", Some("two")),
            ("*:*:*:*:a\\:b\\\\c", Some("a:b\\c")),
            ("*:*:*:*:a:b", Some("a")),
            ("*:5433:*:*:a", None),
            ("*:*:postgres:*:a", None),
            ("*:*:*:walrin:a", None),
            ("*:*:*:*", None),
            ("*:*:*:*:", None),
            ("*:*:*:*:\n*:*:*:*:two", None),
            ("*:*:*:*:one\r\r\n", Some("one")),
            ("*:*:*:*:one\\", Some("one\\")),
            ("\u{feff}*:*:*:*:one", None),
            ("", None),
        ] {
            assert_eq!(found(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        assert!(look_up(&path, &WANTED).is_none());
        fs::write(&path, "*:*:*:*:secret").unwrap();
        for (mode, expected) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(look_up(&path, &WANTED).is_some(), expected, "{mode:o}");
        }
        assert!(look_up(directory.path(), &WANTED).is_none());
    }

    #[test]
    fn a_pipe_is_no_password_file_and_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(look_up(&path, &WANTED).is_none());
    }
}
