//! Where connection settings come from: command line, connection string, service file, environment, password file.
//!
//! libpq itself is asked what it would use, with settings that chance makes; `SEED=n` makes others, `COUNT=n` more of
//! them. Servers are asked, too, with `pg_receivewal` and walring given the same.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::libpq::{Libpq, Resolved};
use common::login::server_asking_for;
use common::process::wrap;
use common::server::ServerOptions;
use common::skip::skip;
use common::{Archive, Process, Server, program};
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

// ---- servers, by walring and by pg_receivewal ----

#[test]
fn a_service_leads_where_it_leads_pg_receivewal() {
    let place = Place::with_services();
    let port = place.server.port().to_string();
    let elsewhere = "service=elsewhere user=scram";
    place.compare(&["-d", "service=right"], &[], LOGGED_IN);
    place.compare(&["-d", "postgresql://?service=right"], &[], LOGGED_IN);
    place.compare(&[], &[("PGSERVICE", "right")], LOGGED_IN);
    let less = [("PGSERVICE", "of_system"), ("PGPORT", "1"), ("PGUSER", "nobody")];
    place.compare(&[], &less, LOGGED_IN);
    let less = [("PGSERVICE", "gone"), ("PGPASSWORD", "wrong")];
    place.compare(&["-d", "service=right"], &less, LOGGED_IN);
    place.compare(&["-d", elsewhere, "-p", &port], &[], LOGGED_IN);
    let more = [
        "-d",
        "service=elsewhere host=nowhere",
        "-p",
        &port,
        "-h",
        "127.0.0.1",
        "-U",
        "scram",
    ];
    place.compare(&more, &[], LOGGED_IN);
    place.compare(&["-d", elsewhere], &[], "Connection refused");
    let wrong = ["-d", "service=right password=wrong"];
    place.compare(&wrong, &[], "password authentication failed");
}

#[test]
fn a_service_that_is_wrong_or_missing_gets_the_words_of_pg_receivewal() {
    let place = Place::with_services();
    let right = ["-d", "service=right"];
    place.compare(
        &["-d", "service=gone"],
        &[],
        "definition of service \"gone\" not found",
    );
    let empty = [("PGSERVICE", "")];
    place.compare(
        &["-d", "service="],
        &empty,
        "definition of service \"\" not found",
    );
    place.compare(&["-d", "service=wrong"], &[], "syntax error in service file");
    let missing = [("PGSERVICEFILE", "/nowhere/f")];
    place.compare(&right, &missing, "service file \"/nowhere/f\" not found");
    let missing = [("PGSERVICEFILE", "pg_service.conf")];
    place.compare(&right, &missing, "service file \"pg_service.conf\" not found");
}

#[test]
fn a_uri_leads_where_it_leads_pg_receivewal() {
    let place = Place::new(server_asking_for("p@ss/w?rd%"));
    let port = place.server.port();
    let socket = place.server.socket_directory().display().to_string();
    let encoded = socket.replace('/', "%2F");
    let password = "p%40ss%2Fw%3Frd%25";
    for (uri, expected) in [
        (
            format!("postgresql://scram:{password}@127.0.0.1:{port}"),
            LOGGED_IN,
        ),
        (
            format!("postgres://scram@127.0.0.1:{port}/?password={password}&"),
            LOGGED_IN,
        ),
        (
            format!("postgresql://127.0.0.1:1,127.0.0.1:{port}/any?user=scram&password={password}"),
            LOGGED_IN,
        ),
        (
            format!("postgresql://a?host=127.0.0.1&port={port}&user=s%63ram&password={password}"),
            LOGGED_IN,
        ),
        (format!("postgresql://postgres@{encoded}:{port}/"), BY_SOCKET),
        (
            format!("postgresql:///?host={socket}&port={port}&user=postgres"),
            BY_SOCKET,
        ),
        (
            format!("postgresql://scram:wrong@127.0.0.1:{port}"),
            "password authentication failed",
        ),
        (
            format!("postgresql://127.0.0.1:{port}?hots=1"),
            "invalid URI query parameter: \"hots\"",
        ),
        (
            format!("postgresql://127.0.0.1:{port}?user"),
            "missing key/value separator",
        ),
        ("postgresql://[::1/".to_owned(), "end of string reached"),
        (
            "postgresql://127.0.0.1:x/".to_owned(),
            "invalid integer value \"x\" for connection option \"port\"",
        ),
    ] {
        place.compare(&["-d", &uri], &[], expected);
    }
}

#[test]
fn an_address_of_ipv6_is_reached_by_uri_and_by_hostaddr() {
    let Ok(_) = std::net::TcpListener::bind("[::1]:0") else {
        return skip("connections by IPv6: there is no ::1");
    };
    let server = ServerOptions::default()
        .config("listen_addresses = '::1'")
        .start();
    server.set_hba("local all all trust\nhost replication all ::1/128 trust\n");
    server.restart();
    let place = Place::new(server);
    let port = place.server.port();
    for string in [
        format!("postgresql://postgres@[::1]:{port}"),
        format!("postgresql://postgres@[%3a%3A1]:{port}/?application_name=x"),
        format!("hostaddr=::1 port={port} user=postgres"),
    ] {
        place.compare(&["-d", &string], &[], LOGGED_IN);
    }
}

#[test]
fn a_password_file_lets_in_whom_it_lets_in_with_pg_receivewal() {
    let place = Place::new(server_asking_for(PASSWORD));
    let port = place.server.port();
    place.home.write(
        "passwords",
        format!(
            "#127.0.0.1:*:*:*:wrong\r\n127.0.0.1:1:*:*:wrong\r\n127.0.0.1:{port}:replication:sc\\ram:{PASSWORD}\r\n\
             localhost:{port}:*:clear:{PASSWORD}\nname:*:*:md5:{PASSWORD}:behind\n*:*:*:*:\n*:*:*:*:{PASSWORD}\n"
        )
        .as_bytes(),
    );
    let file = place.home.file("passwords");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("change a mode");
    let file = file.to_str().expect("a name");
    for (string, expected) in [
        ("host=127.0.0.1 user=scram", LOGGED_IN),
        ("hostaddr=127.0.0.1 user=scram", LOGGED_IN),
        ("host=localhost hostaddr=127.0.0.1 user=clear", LOGGED_IN),
        ("host=name hostaddr=127.0.0.1 user=md5", LOGGED_IN),
        ("host=127.0.0.1 user=md5", "no password supplied"),
        ("host=127.0.0.1,127.0.0.1 user=scram", LOGGED_IN),
    ] {
        let string = format!("{string} port={port}");
        place.compare(&["-d", &string], &[("PGPASSFILE", file)], expected);
        place.compare(
            &["-d", &format!("{string} passfile={file}")],
            &[("PGPASSFILE", "/nowhere")],
            expected,
        );
    }
}

#[test]
fn a_password_that_is_typed_in_counts_as_with_pg_receivewal() {
    let place = Place::new(server_asking_for(PASSWORD));
    let port = place.server.port();
    let string = format!("host=127.0.0.1 port={port} user=scram");
    let with_another = format!("{string} password=wrong");
    let line = format!("{PASSWORD}\n");
    for (string, asks, variable, typed, expected) in [
        (&string, "-W", "wrong", line.as_str(), LOGGED_IN),
        (&with_another, "-W", "", &line, LOGGED_IN),
        (
            &string,
            "-W",
            PASSWORD,
            "wrong\n",
            "password authentication failed",
        ),
        (&string, "-W", PASSWORD, "\n", LOGGED_IN),
        (&string, "-v", "", &line, LOGGED_IN),
        (&string, "-v", "wrong", &line, "password authentication failed"),
        (&string, "-w", "", &line, "no password supplied"),
    ] {
        let arguments = [asks, "-d", string];
        let environment = [("PGPASSWORD", variable)];
        let [ours, theirs] = place
            .commands(&arguments, &environment)
            .map(|command| typing(command, typed));
        assert_eq!(ours, theirs, "{arguments:?} {environment:?}");
        assert!(
            ours.iter().any(|line| line.contains(expected)),
            "{arguments:?} {environment:?}: {ours:?}"
        );
    }
}

/// What a command says that has no terminal, so that its standard input is asked.
fn typing(command: Command, text: &str) -> Vec<String> {
    let mut command = wrap(Command::new("setsid"), &["--wait"], &command);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("start setsid");
    let mut input = child.stdin.take().expect("a pipe");
    // One that does not ask may be gone.
    let _ = input.write_all(text.as_bytes());
    let output = child.wait_with_output().expect("wait for the command");
    errors(String::from_utf8_lossy(&output.stderr).lines())
}

fn errors<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let errors = lines.filter_map(|line| line.split_once(": error: "));
    errors.map(|(_, message)| message.to_owned()).collect()
}

#[test]
fn a_variable_that_is_not_text_is_refused_by_name() {
    use std::os::unix::ffi::OsStrExt;
    let archive = Archive::new();
    let mut command = program::receive();
    command.args(["-n", "-D"]).arg(archive.path());
    command.env("PGSSLMODE", std::ffi::OsStr::from_bytes(b"requir\xe9"));
    let exit = Process::spawn(command).finish();
    exit.assert_error(&program::error(
        "environment variable \"PGSSLMODE\" is not valid UTF-8",
    ));
}

const PASSWORD: &str = "Rotkehlchen";

/// What a server says about a slot that is not there: it has let us in.
const LOGGED_IN: &str = "replication slot \"none\" does not exist";

/// What it says to whom it was not told to let in by its socket.
const BY_SOCKET: &str = "no pg_hba.conf entry for replication connection from host \"[local]\"";

/// A server, and a home for the files.
struct Place {
    server: Server,
    home: Archive,
}

impl Place {
    fn new(server: Server) -> Place {
        Place {
            server,
            home: Archive::new(),
        }
    }

    /// With services in the user's file and in the system's.
    fn with_services() -> Place {
        let place = Place::new(server_asking_for(PASSWORD));
        let port = place.server.port();
        let right = format!("host=127.0.0.1\nport={port}\nuser=scram\npassword={PASSWORD}\n");
        let elsewhere =
            format!("host=127.0.0.1\nport=1\nuser=nobody\npassword={PASSWORD}\ndbname=elsewhere\n");
        let of_user = format!("# ours\n[right]\n{right}\n[elsewhere]\n{elsewhere}[wrong]\nuser = scram\n");
        place.home.write(".pg_service.conf", of_user.as_bytes());
        let of_system = format!("[of_system]\n{right}");
        place.home.write("pg_service.conf", of_system.as_bytes());
        place
    }

    /// walring and pg_receivewal, to drop a slot that is not there.
    fn commands(&self, arguments: &[&str], environment: &[(&str, &str)]) -> [Command; 2] {
        let theirs = self.server.installation().command("pg_receivewal");
        [program::receive(), theirs].map(|mut command| {
            command.args(["--drop-slot", "-S", "none"]).args(arguments);
            command
                .env("HOME", self.home.path())
                .env("PGSYSCONFDIR", self.home.path());
            command.envs(environment.iter().copied());
            command
        })
    }

    /// Both programs get the same, and say the same.
    fn compare(&self, arguments: &[&str], environment: &[(&str, &str)], expected: &str) {
        let commands = self.commands(arguments, environment).map(|mut command| {
            command.arg("-w");
            let exit = Process::spawn(command).finish();
            errors(exit.stderr.iter().map(String::as_str))
        });
        let [ours, theirs] = commands;
        assert_eq!(ours, theirs, "{arguments:?} {environment:?}");
        assert!(
            ours.iter().any(|line| line.contains(expected)),
            "{arguments:?} {environment:?}: {ours:?}"
        );
    }
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
