//! The command line over the configuration file that it names.
//!
//! What the file says is put in front of the arguments, where getopt's rule, that later ones override earlier ones,
//! does the rest.

use std::ffi::OsString;
use std::path::Path;

use super::Invocation;
use super::arguments::Arguments;
use super::rules::check_compression;
use super::values::Values;
use crate::edge::config::{ConfigFile, Entry};
use crate::edge::connstring::{self, ConnectionString, Pairs};
use crate::edge::overlay;
use crate::error::{Error, Result, printable};

/// Switches of which one takes the other back.
const CONTRARY: [(&str, &str); 2] = [("synchronous", "no-sync"), ("password", "no-password")];

/// The arguments of the command line and of the file.
pub(super) struct Layers {
    /// All of them.
    pub(super) arguments: Arguments,
    /// The same, one after the other.
    pub(super) line: Vec<OsString>,
    /// Those of the command line alone.
    pub(super) on_the_command_line: Arguments,
    pub(super) file: Option<ConfigFile>,
}

impl Layers {
    /// Reads the file that the arguments name, if they do; the first mistake in it is an error.
    pub(super) fn of(called: &Invocation, args: &[OsString], arguments: Arguments) -> Result<Layers> {
        let (layers, problems) = Layers::with_problems(called, args, arguments)?;
        let count = problems.len();
        match problems.into_iter().next() {
            None => Ok(layers),
            Some(first) if count == 1 || first.hint().is_some() => Err(first),
            Some(first) => Err(first.with_hint(format!(
                "There are {} more mistakes; \"{} config check --config=FILE\" shows all.",
                count - 1,
                called.program
            ))),
        }
    }

    /// The same, with everything that is wrong with the file. Fails if that cannot be read.
    pub(super) fn with_problems(
        called: &Invocation,
        args: &[OsString],
        arguments: Arguments,
    ) -> Result<(Layers, Vec<Error>)> {
        let Some(path) = &arguments.config else {
            let layers = Layers::read(called, args, arguments, None)?;
            return Ok((layers, Vec::new()));
        };
        let (file, mut problems) = ConfigFile::read(Path::new(path), &Arguments::kinds())?;
        for entry in &file.entries {
            if let Err(error) = check(entry) {
                problems.push(file.at_line(entry.line, error));
            }
        }
        let layers = Layers::read(called, args, arguments, Some(file))?;
        Ok((layers, problems))
    }

    fn read(
        called: &Invocation,
        args: &[OsString],
        on_the_command_line: Arguments,
        file: Option<ConfigFile>,
    ) -> Result<Layers> {
        let entries = file.iter().flat_map(|file| &file.entries);
        let below = entries.filter(|entry| !is_taken_back(entry, &on_the_command_line));
        let below = below.map(|entry| OsString::from(entry.argument()));
        let line: Vec<OsString> = below.chain(args.iter().cloned()).collect();
        Ok(Layers {
            arguments: Arguments::split(&line).map_err(|message| called.misuse(message))?,
            line,
            on_the_command_line,
            file,
        })
    }

    /// Whether anything could be made of the file.
    pub(super) fn says_anything(&self) -> bool {
        let file = self.file.as_ref();
        file.is_some_and(|file| !file.entries.is_empty() || !file.connection.is_empty())
    }

    /// Where the file sets an option.
    pub(super) fn place(&self, option: &str) -> String {
        let line = self.file.as_ref().and_then(|file| file.line_of(option));
        self.place_of_line(line)
    }

    /// Where the file sets a keyword of the connection.
    pub(super) fn place_of_setting(&self, keyword: &str) -> String {
        let settings = self.file.iter().flat_map(|file| &file.connection);
        let mut found =
            settings.filter(|(name, value, _)| overlay::is_named(name, keyword) && !value.is_empty());
        self.place_of_line(found.next_back().map(|(_, _, line)| *line))
    }

    fn place_of_line(&self, line: Option<usize>) -> String {
        let path = self.file.as_ref().map(|file| file.path().display().to_string());
        let path = printable(&path.unwrap_or_default());
        format!("{path}, line {}", line.unwrap_or_default())
    }

    /// What the file says of the connection, as far as the command line leaves it standing.
    pub(super) fn connection_pairs(&self) -> Pairs {
        let below = self.file.as_ref().map(ConfigFile::pairs).unwrap_or_default();
        overlay::left_below(below, &self.explicit_pairs())
    }

    /// The same as a connection string, if there is anything.
    pub(super) fn connection(&self) -> Option<ConnectionString> {
        let pairs = self.connection_pairs();
        (!pairs.is_empty()).then(|| overlay::written(&pairs))
    }

    /// What the command line says of the connection. A string that is wrong is refused when all is resolved.
    pub(super) fn explicit_pairs(&self) -> Pairs {
        let arguments = &self.arguments;
        let text = arguments.dbname.as_deref().unwrap_or_default();
        let mut pairs = connstring::parse(text).unwrap_or_default();
        let options = [
            ("host", &arguments.host),
            ("port", &arguments.port),
            ("user", &arguments.username),
        ];
        for (keyword, value) in options {
            pairs.extend(value.iter().map(|value| (keyword.to_owned(), value.clone())));
        }
        pairs
    }
}

/// Checks one option of the file by itself.
fn check(entry: &Entry) -> Result<()> {
    let alone = Arguments::split(&[entry.argument().into()]).map_err(Error::usage)?;
    Values::of(&alone)?;
    check_compression(&alone.compress)
}

/// Whether the command line has the contrary of a switch.
fn is_taken_back(entry: &Entry, arguments: &Arguments) -> bool {
    let given = |name: &str| match name {
        "synchronous" => arguments.synchronous,
        "no-sync" => arguments.no_sync,
        "password" => arguments.password,
        "no-password" => arguments.no_password,
        _ => false,
    };
    CONTRARY
        .iter()
        .any(|&(one, other)| (entry.name == one && given(other)) || (entry.name == other && given(one)))
}
