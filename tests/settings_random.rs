//! Connection settings that chance makes mean what they mean to libpq, which is asked; nothing is connected to.
//!
//! `SEED=n` makes others, `COUNT=n` more of them.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::libpq::{Libpq, Resolved};
use fastrand::Rng;
use walring::edge::conninfo::{self, Conninfo, Explicit};
use walring::edge::service;
use walring::edge::settings::Settings;
use walring::error::{Error, printable};

const COUNT: u64 = 3_000;

#[test]
fn every_option_gets_the_value_that_libpq_gives_it() {
    for mut libpq in Libpq::all() {
        let (mut resolved, mut refused, mut passwords) = (0, 0, 0);
        for seed in seeds(COUNT) {
            let case = Case::new(&mut Rng::with_seed(seed), &libpq);
            let theirs = libpq.resolve(&case.string, &case.options, &case.environment);
            let ours = conninfo::gather(&case.explicit(), &|name| case.environment.get(name).cloned());
            if let Err(reason) = agree(&case, &ours, &theirs, &libpq) {
                panic!("SEED={seed}, libpq {}: {case:#?}\n{reason}", libpq.version());
            }
            match theirs {
                Ok(theirs) => {
                    resolved += 1;
                    passwords += u32::from(theirs.password.is_some());
                }
                Err(_) => refused += 1,
            }
        }
        // Otherwise nothing was compared that matters.
        assert!(
            resolved > refused && refused > resolved / 20,
            "{resolved} {refused}"
        );
        assert!(passwords > resolved / 10, "{resolved} {passwords}");
    }
}

#[test]
fn a_service_file_of_any_bytes_is_refused_or_read_without_panic() {
    let words: [&[u8]; 16] = [
        b"[a]",
        b"[",
        b"]",
        b"\n",
        b"\n",
        b"\r\n",
        b"=",
        b"host",
        b"password=",
        b"service",
        b"ldap",
        b"#",
        b"\0",
        b"\xff",
        b" \t",
        b"\x0b",
    ];
    for seed in seeds(200_000) {
        let mut rng = Rng::with_seed(seed);
        let mut text = if rng.bool() { b"[a]\n".to_vec() } else { Vec::new() };
        for _ in 0..rng.usize(0..20) {
            match rng.u8(0..8) {
                0 => text.push(rng.u8(..)),
                1 => text.extend(vec![rng.u8(..); rng.usize(0..1100)]),
                _ => text.extend(words[rng.usize(0..words.len())]),
            }
        }
        let panicked = std::panic::catch_unwind(|| service::definition(&text, "a", Path::new("f")).is_ok());
        assert!(panicked.is_ok(), "SEED={seed}: {text:?}");
    }
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("SEED").unwrap_or(0);
    first..first + number("COUNT").unwrap_or(count)
}

// ---- what is compared ----

/// Where walring says something else than libpq, it is for one of the reasons here.
fn agree(
    case: &Case,
    ours: &Result<Settings, Error>,
    theirs: &Result<Resolved, String>,
    libpq: &Libpq,
) -> Result<(), String> {
    match (ours, theirs) {
        (Err(ours), Err(theirs)) if ours.to_string() == printable(theirs) => Ok(()),
        // To libpq every file that cannot be opened is not there, and one that cannot be read is empty.
        (Err(ours), _) if ours.to_string().starts_with("could not read service file") => Ok(()),
        (Ok(ours), Ok(theirs)) => {
            for keyword in libpq.keywords() {
                same_value(keyword, ours, theirs, libpq)?;
            }
            same_password(case, theirs, libpq)
        }
        (ours, theirs) => {
            let ours = ours.as_ref().map(|_| "settings");
            Err(format!("ours:    {ours:?}\nlibpq's: {theirs:?}"))
        }
    }
}

fn same_value(keyword: &str, ours: &Settings, theirs: &Resolved, libpq: &Libpq) -> Result<(), String> {
    // libpq does not tell of the one, and is stopped by the other.
    if ["service", "servicefile", "target_session_attrs"].contains(&keyword) {
        return Ok(());
    }
    let (ours, theirs) = (
        ours.given(keyword),
        theirs.values.get(keyword).map(String::as_str),
    );
    // An empty one of these is filled in later, as one that is not given.
    let is_found_later = ["passfile", "user"].contains(&keyword) && ours.unwrap_or("").is_empty();
    // libpq resolves that before it is compared.
    let is_default = ours.is_none() && theirs == libpq.default(keyword)
        || ours.is_none() && ["channel_binding", "sslcertmode", "sslmode"].contains(&keyword);
    if ours == theirs || is_found_later || is_default {
        return Ok(());
    }
    Err(format!("{keyword}\nours:    {ours:?}\nlibpq's: {theirs:?}"))
}

/// The first host's, which is the one that libpq tells.
fn same_password(case: &Case, theirs: &Resolved, libpq: &Libpq) -> Result<(), String> {
    let resolved = Conninfo::resolve(&case.explicit(), &|name| case.environment.get(name).cloned());
    let Ok(resolved) = resolved else {
        // What walring refuses is the subject of other tests.
        return Ok(());
    };
    let host = resolved.hosts[0].name.as_str();
    let directories = [libpq.socket_directory(), &default_socket_directory()];
    if directories[0] != directories[1] && directories.contains(&host) {
        // It is "localhost" in a password file to one of the two only.
        return Ok(());
    }
    let ours = resolved
        .password_for(&resolved.hosts[0])
        .map(|(password, _)| password);
    let ours = ours.map(|password| String::from_utf8_lossy(password.bytes()).into_owned());
    match ours == theirs.password {
        true => Ok(()),
        false => Err(format!(
            "password\nours:    {ours:?}\nlibpq's: {:?}",
            theirs.password
        )),
    }
}

fn default_socket_directory() -> String {
    let resolved = Conninfo::resolve(&Explicit::default(), &|_| None).expect("a connection");
    resolved.hosts[0].name.clone()
}

// ---- settings that chance makes ----

/// Settings of every kind, with the files they are in.
#[derive(Debug)]
struct Case {
    string: String,
    options: BTreeMap<&'static str, String>,
    environment: BTreeMap<String, String>,
    directory: tempfile::TempDir,
    /// What is in the files, to be shown.
    files: Vec<(PathBuf, String)>,
}

const SERVICES: [&str; 4] = ["a", "b", "a]b", "é"];

impl Case {
    fn new(rng: &mut Rng, libpq: &Libpq) -> Case {
        let directory = tempfile::tempdir().expect("a directory");
        let home = directory.path().to_str().expect("a name").to_owned();
        let mut case = Case {
            string: String::new(),
            options: BTreeMap::new(),
            environment: BTreeMap::from([("HOME".to_owned(), home.clone())]),
            directory,
            files: Vec::new(),
        };
        let system = format!("{home}/etc");
        fs::create_dir(&system).expect("create a directory");
        case.environment.insert("PGSYSCONFDIR".to_owned(), system);
        for name in [".pg_service.conf", "etc/pg_service.conf", "named"] {
            if rng.bool() {
                case.write(name, &service_file(rng, libpq));
            }
        }
        if rng.u8(0..4) > 0 {
            case.write(".pgpass", &password_file(rng));
        }
        case.string = string(rng, libpq);
        for keyword in ["host", "port", "user"] {
            if rng.u8(0..4) == 0 {
                case.options.insert(keyword, value(rng, keyword).to_owned());
            }
        }
        case.set_variables(rng, libpq, &format!("{home}/named"));
        case
    }

    fn set_variables(&mut self, rng: &mut Rng, libpq: &Libpq, named: &str) {
        for _ in 0..rng.usize(0..5) {
            let variables = libpq.variables();
            let variable = variables[rng.usize(0..variables.len())];
            if variable != "PGSERVICE" {
                let keyword = variable.trim_start_matches("PG").to_lowercase();
                let value = value(rng, &keyword).to_owned();
                self.environment.insert(variable.to_owned(), value);
            }
        }
        for (variable, value) in [
            ("PGSERVICE", SERVICES[rng.usize(0..SERVICES.len())]),
            ("PGSERVICEFILE", named),
            ("PGREQUIRESSL", ["1", "0", "", "10"][rng.usize(0..4)]),
        ] {
            if rng.u8(0..4) == 0 {
                self.environment.insert(variable.to_owned(), value.to_owned());
            }
        }
    }

    fn write(&mut self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).expect("write a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("close a file to others");
        self.files.push((path, text.to_owned()));
    }

    fn explicit(&self) -> Explicit {
        Explicit {
            file: None,
            dbname: Some(self.string.clone().into()),
            host: self.options.get("host").cloned(),
            port: self.options.get("port").cloned(),
            username: self.options.get("user").cloned(),
            program_name: "walring".to_owned(),
        }
    }
}

fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(0..of.len())]
}

/// Often what is valid, so that a whole connection is resolved.
fn value(rng: &mut Rng, keyword: &str) -> &'static str {
    match keyword {
        "host" => one(rng, &["h", "h", "/tmp", "/var/run/postgresql", "", "h:1", "::1"]),
        "hostaddr" => one(rng, &["127.0.0.1", "::1", ""]),
        "port" => one(rng, &["5432", "1", "1", ""]),
        "user" => one(rng, &["u", "u", "u:", ""]),
        "dbname" | "database" => one(rng, &["d", "replication", ""]),
        "password" => one(rng, &["p", ""]),
        "sslmode" => one(rng, &["disable", "prefer", "allow"]),
        "client_encoding" | "clientencoding" => "UTF8",
        _ => one(rng, &["x", "0", "1", "", "disable", "a b"]),
    }
}

fn keyword(rng: &mut Rng, libpq: &Libpq) -> String {
    if rng.bool() {
        return one(rng, &["host", "port", "user", "password", "dbname", "hostaddr"]).to_owned();
    }
    let keywords = libpq.keywords();
    keywords[rng.usize(0..keywords.len())].to_owned()
}

fn string(rng: &mut Rng, libpq: &Libpq) -> String {
    let mut pairs = Vec::new();
    for _ in 0..rng.usize(0..4) {
        let keyword = keyword(rng, libpq);
        pairs.push(format!("{keyword}='{}'", value(rng, &keyword)));
    }
    if rng.bool() {
        pairs.push(format!("service='{}'", one(rng, &SERVICES)));
    }
    if rng.u8(0..20) == 0 {
        pairs.push("service=".to_owned());
    }
    pairs.join(" ")
}

fn service_file(rng: &mut Rng, libpq: &Libpq) -> String {
    let mut text = String::new();
    for _ in 0..rng.usize(0..4) {
        text += &format!("[{}]{}\n", one(rng, &SERVICES), one(rng, &["", "", " ", "x"]));
        for _ in 0..rng.usize(0..5) {
            let keyword = keyword(rng, libpq);
            let blank = |rng: &mut Rng| one(rng, &["", "", "", " ", "\t", "\u{b}"]);
            let line = match rng.u8(0..40) {
                0 => "service=a".to_owned(),
                1 => "nonsense".to_owned(),
                2 => format!("{keyword} ={}", value(rng, &keyword)),
                3 => "#".repeat(rng.usize(1018..1026)),
                4 => "# host=comment".to_owned(),
                5 => String::new(),
                6 => "requiressl=1".to_owned(),
                _ if keyword == "service" => "port=1".to_owned(),
                _ => format!("{keyword}={}", value(rng, &keyword)),
            };
            text += &[blank(rng), &line, blank(rng), one(rng, &["\n", "\n", "\r\n"])].concat();
        }
    }
    if rng.u8(0..4) == 0 {
        text.truncate(text.trim_end().len());
    }
    text
}

fn password_file(rng: &mut Rng) -> String {
    let mut text = String::new();
    for _ in 0..rng.usize(0..6) {
        let fields = [
            one(
                rng,
                &[
                    "*",
                    "h",
                    "localhost",
                    "/tmp",
                    "127.0.0.1",
                    "\\:\\:1",
                    "h\\:1",
                    "\\h",
                    "",
                    "**",
                ],
            ),
            one(rng, &["*", "*", "5432", "1", "\\1"]),
            one(rng, &["*", "replication", "d", "*\\"]),
            one(rng, &["*", "u", "root", "u\\:", "\\*"]),
            one(rng, &["x", "a\\:b", "a:b", "", "a\\\\", "a\\", "é", "#", " "]),
        ];
        text += one(rng, &["", "", "", "#", " "]);
        text += &fields[..if rng.u8(0..10) == 0 { 4 } else { 5 }].join(":");
        text += one(rng, &["\n", "\n", "\r\n", "\r\r\n", "\n\n"]);
    }
    if rng.u8(0..4) == 0 {
        text.truncate(text.trim_end().len());
    }
    text
}
