//! The configuration file: TOML, a key for each option of `receive`, and a table for the connection.
//!
//! A key is the long option's name without its dashes in front. A value goes through the command line's own checks,
//! so that nothing means one thing here and another there; what is checked here is the shape of the file, and that
//! secrets in it are for its owner alone.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::connstring::{self, ConnectionString, Pairs};
use super::{passfile, settings};
use crate::error::{Error, Result, printable, system_text};

/// The table for the connection.
const CONNECTION: &str = "connection";

/// In that table, a whole connection string; the keywords beside it override it.
const CONNINFO: &str = "conninfo";

/// An option whose value is a connection string, too.
const SLOT_WATCH: &str = "slot-watch";

/// An option of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionKind {
    /// Its long name.
    pub name: String,
    /// It is given or not, and takes no value.
    pub is_switch: bool,
}

/// An option as the file has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The option's long name.
    pub name: String,
    /// Its value; `None` for a switch.
    pub value: Option<String>,
    /// The line it is on.
    pub line: usize,
}

/// What a configuration file says. Has no `Debug`: a password may be in it.
pub struct ConfigFile {
    path: PathBuf,
    /// The options, but for switches that are off.
    pub entries: Vec<Entry>,
    /// The connection's settings, each with its line, in the order in which later ones win.
    pub connection: Vec<(String, String, usize)>,
}

impl Entry {
    /// The same on the command line.
    pub fn argument(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }

    /// Whether a password is in it.
    fn holds_secret(&self) -> bool {
        let text = self.value.clone().filter(|_| self.name == SLOT_WATCH);
        text.is_some_and(|text| ConnectionString::from(text).holds_secret())
    }
}

impl ConfigFile {
    /// Reads a file, and tells all that is wrong with it. `options` are those of the command line.
    ///
    /// Fails if it cannot be read.
    pub fn read(path: &Path, options: &[OptionKind]) -> Result<(ConfigFile, Vec<Error>)> {
        let failed = |error: std::io::Error| {
            let reason = system_text(&error);
            Error::usage(format!(
                "could not read configuration file \"{}\": {reason}",
                path.display()
            ))
        };
        let mut file = File::open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|_| {
            let message = "it is not valid UTF-8".to_owned();
            failed(std::io::Error::other(message))
        })?;
        let (read, mut problems) = ConfigFile::parse(path, &text, options);
        // Asked of the open file, so that what is checked is what is read.
        let metadata = file.metadata().map_err(failed)?;
        if read.holds_secret() && passfile::is_open_to_others(path, &metadata) {
            problems.push(open_to_others(path));
        }
        Ok((read, problems))
    }

    fn parse(path: &Path, text: &str, options: &[OptionKind]) -> (ConfigFile, Vec<Error>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader {
            text,
            options,
            file: ConfigFile {
                path: path.to_owned(),
                entries: Vec::new(),
                connection: Vec::new(),
            },
            problems: Vec::new(),
        };
        for error in errors {
            // Its own rendering quotes the line, which may hold a password.
            let at = error.span().unwrap_or(0..0);
            reader.complain(&at, error.message().to_owned());
        }
        if reader.problems.is_empty() {
            reader.read(root.get_ref());
        }
        reader.file.entries.sort_by_key(|entry| entry.line);
        reader.problems.sort_by_key(|(line, _)| *line);
        let problems = reader.problems.into_iter().map(|(_, problem)| problem);
        (reader.file, problems.collect())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about what is on a line of the file.
    pub fn at_line(&self, line: usize, error: Error) -> Error {
        error.in_context(&format!("\"{}\", line {line}", self.path.display()))
    }

    /// The connection's settings.
    pub fn pairs(&self) -> Pairs {
        let pair = |(keyword, value, _): &(String, String, usize)| (keyword.clone(), value.clone());
        self.connection.iter().map(pair).collect()
    }

    /// The line of an option.
    pub fn line_of(&self, option: &str) -> Option<usize> {
        let found = self.entries.iter().find(|entry| entry.name == option);
        found.map(|entry| entry.line)
    }

    fn holds_secret(&self) -> bool {
        let is_secret =
            |(keyword, value, _): &(String, String, usize)| settings::is_secret(keyword) && !value.is_empty();
        self.connection.iter().any(is_secret) || self.entries.iter().any(Entry::holds_secret)
    }
}

fn open_to_others(path: &Path) -> Error {
    let path = path.display();
    let message = format!("configuration file \"{path}\" holds a password and has group or world access");
    Error::usage(message).with_hint(format!(
        "Run \"chmod 600 {path}\", or put the password into a password file (\"passfile\")."
    ))
}

/// Why an option cannot be set in the file; `None` if it can.
fn not_settable(option: &str) -> Option<&'static str> {
    Some(match option {
        "help" | "version" | "config" | "create-slot" | "drop-slot" => {
            "can only be given on the command line"
        }
        "dbname" => "belongs into the table [connection], as \"conninfo\"",
        "host" | "port" => "belongs into the table [connection]",
        "username" => "belongs into the table [connection], as \"user\"",
        _ => return None,
    })
}

/// Whether the file may set an option of the command line.
pub fn is_settable(option: &str) -> bool {
    not_settable(option).is_none()
}

/// What is being read of a file.
struct Reader<'a> {
    text: &'a str,
    options: &'a [OptionKind],
    file: ConfigFile,
    /// Each with its line.
    problems: Vec<(usize, Error)>,
}

impl Reader<'_> {
    fn line(&self, at: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(at.start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    fn complain(&mut self, at: &Range<usize>, message: String) {
        let error = Error::usage(printable(&message));
        self.complain_of(self.line(at), error);
    }

    fn complain_of(&mut self, line: usize, error: Error) {
        self.problems.push((line, self.file.at_line(line, error)));
    }

    fn read(&mut self, root: &DeTable<'_>) {
        for (key, value) in root {
            let name: &str = key.get_ref();
            let at = key.span();
            match (name, value.get_ref()) {
                (CONNECTION, DeValue::Table(table)) => self.read_connection(table),
                (CONNECTION, _) => self.complain(&at, format!("\"{name}\" must be a table: [{name}]")),
                _ => self.read_option(name, value, &at),
            }
        }
    }

    fn read_option(&mut self, name: &str, value: &Spanned<DeValue<'_>>, at: &Range<usize>) {
        if let Some(reason) = not_settable(name) {
            return self.complain(at, format!("\"{name}\" {reason}"));
        }
        let Some(option) = self.options.iter().find(|option| option.name == name) else {
            return self.complain(at, self.unknown_option(name));
        };
        let value = match (option.is_switch, value.get_ref()) {
            (true, DeValue::Boolean(true)) => None,
            (true, DeValue::Boolean(false)) => return,
            (true, _) if name == "password" => {
                let message = "\"password\" is a switch, true or false: a prompt; a password belongs into a password file \
                     or the table [connection]";
                return self.complain(at, message.to_owned());
            }
            (true, _) => return self.complain(at, format!("\"{name}\" must be true or false")),
            (false, value) => match as_text(value) {
                Some(text) => Some(text),
                None => return self.complain(at, format!("\"{name}\" must be a text or a whole number")),
            },
        };
        let line = self.line(at);
        self.file.entries.push(Entry {
            name: name.to_owned(),
            value,
            line,
        });
    }

    fn unknown_option(&self, name: &str) -> String {
        if settings::is_known(name) || name == CONNINFO {
            return format!("unknown key \"{name}\": it belongs into the table [{CONNECTION}]");
        }
        let settable = self.options.iter().map(|option| option.name.as_str());
        let settable = settable.filter(|option| not_settable(option).is_none());
        unknown_key(name, settable.chain([CONNECTION]))
    }

    fn read_connection(&mut self, table: &DeTable<'_>) {
        let line_of = |key: &Spanned<_>| self.line(&Spanned::span(key));
        let mut settings: Vec<_> = table.iter().collect();
        // The connection string first, so that the keywords override it.
        settings.sort_by_key(|(key, _)| (key.get_ref() != CONNINFO, line_of(key)));
        for (key, value) in settings {
            let (name, at): (&str, _) = (key.get_ref(), key.span());
            if name != CONNINFO && !settings::is_known(name) {
                self.complain(&at, self.unknown_keyword(name));
                continue;
            }
            match as_text(value.get_ref()) {
                Some(text) if name == CONNINFO => self.read_conninfo(&text, &at),
                Some(text) => {
                    let line = self.line(&at);
                    self.file.connection.push((name.to_owned(), text, line));
                }
                None => self.complain(&at, format!("\"{name}\" must be a text or a whole number")),
            }
        }
    }

    fn read_conninfo(&mut self, text: &str, at: &Range<usize>) {
        let line = self.line(at);
        match connstring::parse(text) {
            Ok(pairs) => {
                let settings = pairs.into_iter().map(|(keyword, value)| (keyword, value, line));
                self.file.connection.extend(settings);
            }
            Err(error) => self.complain_of(line, error),
        }
    }

    fn unknown_keyword(&self, name: &str) -> String {
        if self.options.iter().any(|option| option.name == name) {
            return match not_settable(name) {
                None => format!(
                    "\"{name}\" is no setting of a connection: it belongs above the line [{CONNECTION}]"
                ),
                Some(_) => unknown_key(name, [CONNINFO, "user"].into_iter()),
            };
        }
        unknown_key(name, settings::keywords().chain([CONNINFO]))
    }
}

/// The value as the command line has it.
fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
            number.map(|number| number.to_string())
        }
        _ => None,
    }
}

/// An unknown key, with the one that was perhaps meant.
fn unknown_key<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    const ALIKE: f64 = 0.8;
    let wanted = name.replace('_', "-").to_lowercase();
    let likeness = |key: &str| strsim::jaro_winkler(&wanted, &key.replace('_', "-"));
    let nearest = known.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match nearest.filter(|key| likeness(key) >= ALIKE) {
        Some(key) => format!("unknown key \"{name}\"; did you mean \"{key}\"?"),
        None => format!("unknown key \"{name}\""),
    }
}

#[cfg(test)]
mod tests;
