//! Service files: options under a name, in `~/.pg_service.conf` or `pg_service.conf` of the system's directory.
//!
//! The first section of the service's name counts, of the first file that has one; of an option named twice in it,
//! the first value. Source: PostgreSQL doc libpq.sgml, "The Connection Service File"; `parseServiceInfo` of libpq's
//! fe-connect.c. Messages name the file and the line, and show nothing of the line: it may be a password.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::edge::conninfo::home_directory;
use crate::edge::connstring::Pairs;
use crate::edge::settings::{self, Settings};
use crate::error::{Error, Result, system_text};

/// Where packagers have libpq look for `pg_service.conf`: Debian, Red Hat. `PGSYSCONFDIR` says otherwise.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

const FILE_NAME: &str = "pg_service.conf";

/// A line has at most so many bytes, its newline among them.
const LONGEST_LINE: usize = 1022;

/// No service file is as large as that, in bytes.
const LARGEST_FILE: u64 = 16 << 20;

/// Fills what is not set yet from the service that the settings or the environment name, if they name one.
///
/// Fails for a service that no file defines, and for what is wrong in the definition.
pub fn fill(settings: &mut Settings, env: &dyn Fn(&str) -> Option<String>) -> Result<()> {
    let Some(service) = settings.given("service").map(str::to_owned).or(env("PGSERVICE")) else {
        return Ok(());
    };
    for path in files(settings, env) {
        if let Some(pairs) = definition(&read(&path)?, &service, &path)? {
            for (keyword, value) in pairs {
                settings.fill(&keyword, &value);
            }
            return Ok(());
        }
    }
    Err(Error::usage(format!(
        "definition of service \"{service}\" not found"
    )))
}

/// The files to look into, in that order: the operator's, which has to be there, or the user's, and the system's.
fn files(settings: &Settings, env: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = settings.given("servicefile").map(str::to_owned);
    let first = match named.or(env("PGSERVICEFILE")) {
        Some(path) => Some(PathBuf::from(path)),
        None => home_directory(env)
            .map(|home| home.join(".pg_service.conf"))
            .filter(|path| path.exists()),
    };
    let of_system = match env("PGSYSCONFDIR") {
        // An empty one is the root directory, as with libpq.
        Some(directory) => vec![PathBuf::from(format!("{directory}/{FILE_NAME}"))],
        None => SYSTEM_DIRECTORIES
            .map(|directory| Path::new(directory).join(FILE_NAME))
            .into(),
    };
    let of_system = of_system.into_iter().find(|path| path.exists());
    first.into_iter().chain(of_system).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(path);
    match file.and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut text)) {
        Ok(_) if text.len() as u64 > LARGEST_FILE => Err(Error::usage(format!(
            "service file \"{}\" is too large",
            path.display()
        ))),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::usage(format!(
            "service file \"{}\" not found",
            path.display()
        ))),
        Err(error) => Err(Error::usage(format!(
            "could not read service file \"{}\": {}",
            path.display(),
            system_text(&error)
        ))),
    }
}

/// What the text of the file `path` says about a service, in the order of its lines; none if it does not name it.
///
/// Fails for a wrong line of the service's section, and for one that is too long in or before it.
pub fn definition(text: &[u8], service: &str, path: &Path) -> Result<Option<Pairs>> {
    let mut found: Option<Pairs> = None;
    for (line, number) in text.split_inclusive(|byte| *byte == b'\n').zip(1..) {
        let place = Place { path, number };
        if line.len() > LONGEST_LINE {
            return Err(place.too_long());
        }
        let line = trimmed(line);
        match (&mut found, line.first()) {
            (_, None | Some(b'#')) => (),
            (None, Some(b'[')) if opens(line, service) => found = Some(Pairs::new()),
            (Some(_), Some(b'[')) => break,
            (Some(pairs), _) => pairs.push(setting(line, &place)?),
            (None, _) => (),
        }
    }
    Ok(found)
}

/// A line without what C's isspace() accepts at its ends.
fn trimmed(line: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';
    let begin = line.iter().take_while(|byte| is_blank(byte)).count();
    let blanks = line[begin..]
        .iter()
        .rev()
        .take_while(|byte| is_blank(byte))
        .count();
    &line[begin..line.len() - blanks]
}

/// Whether a line begins the section of a service; what stands behind the bracket does not matter.
fn opens(line: &[u8], service: &str) -> bool {
    let name = line
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_prefix(service.as_bytes()));
    name.is_some_and(|rest| rest.starts_with(b"]"))
}

/// Parses `keyword=value`; blanks within belong to the value.
fn setting(line: &[u8], place: &Place<'_>) -> Result<(String, String)> {
    if line.starts_with(b"ldap") {
        return Err(Error::unsupported(format!(
            "LDAP lookup of connection parameters is not supported in {place}"
        )));
    }
    if line.contains(&0) {
        return Err(place.syntax_error());
    }
    let line = std::str::from_utf8(line).map_err(|_| Error::usage(format!("invalid UTF-8 in {place}")))?;
    let (keyword, value) = line.split_once('=').ok_or_else(|| place.syntax_error())?;
    if ["service", "servicefile"].contains(&keyword) {
        return Err(Error::usage(format!(
            "nested {keyword} specifications not supported in {place}"
        )));
    }
    if !settings::is_option(keyword) {
        return Err(place.syntax_error());
    }
    Ok((keyword.to_owned(), value.to_owned()))
}

/// A line of a file, for messages.
struct Place<'a> {
    path: &'a Path,
    number: usize,
}

impl Place<'_> {
    fn syntax_error(&self) -> Error {
        Error::usage(format!("syntax error in {self}")).with_hint(
            "A line is an option that libpq knows, \"=\" and the value, without blanks around the \"=\".",
        )
    }

    fn too_long(&self) -> Error {
        let Place { path, number } = self;
        Error::usage(format!(
            "line {number} too long in service file \"{}\"",
            path.display()
        ))
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "service file \"{}\", line {}",
            self.path.display(),
            self.number
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn defined(text: &str, service: &str) -> String {
        let show = |(keyword, value): &(String, String)| format!("{keyword}={value}");
        match definition(text.as_bytes(), service, Path::new("f")) {
            Ok(None) => "none".to_owned(),
            Ok(Some(pairs)) => pairs.iter().map(show).collect::<Vec<_>>().join("|"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_section_is_read_as_libpq_reads_it() {
        for (text, expected) in [
            ("", "none"),
            ("[b]\nhost=h\n", "none"),
            ("[ a]\nhost=h\n", "none"),
            ("[a]", ""),
            (
                "x\n[a] # behind\n  host=h \t\r\n\n # no\nuser=a b\n[b]\nuser=c",
                "host=h|user=a b",
            ),
            ("[a]\nhost=\nhost=b\n[a]\nport=1", "host=|host=b"),
            ("[a]\npassword= 'x' = y", "password= 'x' = y"),
            ("[a]\n\nhost", "syntax error in service file \"f\", line 3"),
            ("[a]\nhost =h", "syntax error in service file \"f\", line 2"),
            ("[a]\nrequiressl=1", "syntax error in service file \"f\", line 2"),
            ("[a]\nhots=h", "syntax error in service file \"f\", line 2"),
            ("[a]\nhost=a\0b", "syntax error in service file \"f\", line 2"),
            (
                "[a]\nservice=b",
                "nested service specifications not supported in service file \"f\", line 2",
            ),
            (
                "[a]\nservicefile=b",
                "nested servicefile specifications not supported in service file \"f\", line 2",
            ),
            (
                "[a]\nldap://h/b?c?one?d=secret",
                "LDAP lookup of connection parameters is not supported in service file \"f\", line 2",
            ),
        ] {
            assert_eq!(defined(text, "a"), expected, "{text:?}");
        }
        assert_eq!(defined("[a]b]\nhost=h", "a]b"), "host=h");
        assert_eq!(defined("[]\nhost=h", ""), "host=h");
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_until_the_section_has_ended() {
        let long = format!("#{}\n", "x".repeat(1020));
        assert_eq!(defined(&format!("{long}[a]\nhost=h"), "a"), "host=h");
        let longer = format!("#x{}", &long[1..]);
        let message = "line 1 too long in service file \"f\"";
        assert_eq!(defined(&format!("{longer}[a]\nhost=h"), "a"), message);
        assert_eq!(defined(&format!("[a]\nhost=h\n[b]\n{longer}"), "a"), "host=h");
    }

    #[test]
    fn what_is_not_text_is_refused_in_the_section_only() {
        let of = |text: &[u8]| definition(text, "a", Path::new("f"));
        assert_eq!(of(b"\xff\n[a]\n#\xff\n").unwrap(), Some(Pairs::new()));
        let error = of(b"[a]\npassword=\xff").unwrap_err();
        assert_eq!(error.to_string(), "invalid UTF-8 in service file \"f\", line 2");
    }

    struct Home {
        directory: tempfile::TempDir,
        variables: Vec<(&'static str, String)>,
    }

    impl Home {
        fn new() -> Home {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().to_str().unwrap().to_owned();
            let variables = vec![("HOME", path.clone()), ("PGSYSCONFDIR", path)];
            Home { directory, variables }
        }

        fn write(&self, name: &str, text: &str) -> String {
            let path = self.directory.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        }

        /// The host, or what is wrong.
        fn host(&self, given: &[(&str, &str)]) -> String {
            let mut settings = Settings::default();
            for (keyword, value) in given {
                settings.set(keyword, value).unwrap();
            }
            let found = |name: &str| {
                self.variables
                    .iter()
                    .rev()
                    .find(|(variable, _)| *variable == name)
            };
            let filled = fill(&mut settings, &|name| found(name).map(|(_, value)| value.clone()));
            let host = settings.given("host").unwrap_or("none").to_owned();
            filled.map_or_else(|error| error.to_string(), |()| host)
        }
    }

    #[test]
    fn the_first_file_that_defines_the_service_counts() {
        let mut home = Home::new();
        let a = [("service", "a")];
        assert_eq!(home.host(&[]), "none");
        assert_eq!(home.host(&a), "definition of service \"a\" not found");
        home.write("pg_service.conf", "[a]\nhost=system");
        assert_eq!(home.host(&a), "system");
        home.write(".pg_service.conf", "[b]\nhost=user");
        assert_eq!(
            (home.host(&a), home.host(&[("service", "b")])),
            ("system".into(), "user".into())
        );
        home.write(".pg_service.conf", "[a]\nhost=user");
        assert_eq!(home.host(&a), "user");
        assert_eq!(home.host(&[("service", "a"), ("host", "h")]), "h");
        let named = home.write("named", "[a]\nhost=named");
        home.variables.push(("PGSERVICEFILE", named));
        assert_eq!(home.host(&a), "named");
        let other = home.write("other", "[a]\nhost=other");
        assert_eq!(home.host(&[("service", "a"), ("servicefile", &other)]), "other");
        home.variables.push(("PGSERVICE", "b".into()));
        assert_eq!(home.host(&a), "named");
        assert_eq!(home.host(&[]), "definition of service \"b\" not found");
        home.variables.push(("PGSERVICE", String::new()));
        assert_eq!(home.host(&[]), "definition of service \"\" not found");
    }

    #[test]
    fn a_file_that_is_named_has_to_be_there_and_readable() {
        let home = Home::new();
        let gone = home.directory.path().join("gone").to_str().unwrap().to_owned();
        let host = |file: &str| home.host(&[("service", "a"), ("servicefile", file)]);
        assert_eq!(host(&gone), format!("service file \"{gone}\" not found"));
        let directory = home.directory.path().to_str().unwrap();
        let message = format!("could not read service file \"{directory}\": Is a directory");
        assert_eq!(host(directory), message);
        let endless = host("/dev/zero");
        assert_eq!(endless, "service file \"/dev/zero\" is too large");
    }
}
