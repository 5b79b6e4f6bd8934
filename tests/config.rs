//! The configuration file: it says what the command line can, under it and over the environment; mistakes are told.
mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::login::server_asking_for;
use common::postgres::clean;
use common::process::Exit;
use common::receiver::wait_for_streaming;
use common::wait::until;
use common::{Archive, Process, Server};

/// What is nowhere to be seen.
const PASSWORD: &str = "Drossel-Amsel-Kiebitz";

/// A file in a directory of its own, for its owner alone.
struct Config {
    directory: tempfile::TempDir,
}

impl Config {
    fn new(text: &str) -> Config {
        let directory = tempfile::tempdir().expect("create a directory");
        let config = Config { directory };
        fs::write(config.path(), text).expect("write the configuration");
        config.allow(0o600);
        config
    }

    fn allow(&self, mode: u32) {
        fs::set_permissions(self.path(), Permissions::from_mode(mode)).expect("set permissions");
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("walring.toml")
    }

    fn option(&self) -> String {
        format!("--config={}", self.path().display())
    }

    /// What is added behind a value from this line.
    fn line(&self, number: usize) -> String {
        format!("  # {}, line {number}", self.path().display())
    }

    /// `walring config check` of it.
    fn check(&self, arguments: &[&str]) -> Exit {
        self.check_with(arguments, &[])
    }

    fn check_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Exit {
        let mut command = walring(&["config", "check", &self.option()]);
        command.args(arguments).envs(environment.iter().copied());
        Process::spawn(command).finish()
    }
}

fn walring(arguments: &[&str]) -> Command {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_walring")));
    command.args(arguments);
    command
}

/// The effective configuration, without where it comes from.
fn effective(exit: &Exit) -> String {
    exit.assert_success();
    let lines = exit.stdout.lines().filter(|line| !line.starts_with('#'));
    let values = lines.map(|line| line.split("  # ").next().unwrap_or_default());
    values.collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn assert_has(exit: &Exit, line: &str) {
    exit.assert_success();
    assert!(
        exit.stdout.lines().any(|told| told == line),
        "no {line:?}: {}",
        exit.stdout
    );
}

// ---- what can be said ----

/// Options with another place in the file, or none.
const ELSEWHERE: [&str; 9] = [
    "config",
    "create-slot",
    "dbname",
    "drop-slot",
    "help",
    "host",
    "port",
    "username",
    "version",
];

/// Values for options that take not any.
const VALUES: [(&str, &str); 12] = [
    ("compress", "\"none\""),
    ("durable-method", "\"dsync\""),
    ("endpos", "\"1/2\""),
    ("listen", "\"127.0.0.1:7070\""),
    ("log-format", "\"json\""),
    ("on-disk-full", "\"exit\""),
    ("slot", "\"other\""),
    ("slot-mode", "\"create\""),
    ("slot-watch", "\"same\""),
    ("start-lsn", "\"0/3\""),
    ("verify", "\"pages\""),
    ("spin-us", "\"auto\""),
];

/// The long options that the help names, each with whether it takes a value.
fn options_of_the_help() -> Vec<(String, bool)> {
    let help = Process::spawn(walring(&["receive", "--help"])).finish().stdout;
    let options = help.split("\nExample").next().expect("the options");
    let lines = options
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    let named = lines.filter_map(|line| line.split("--").nth(1));
    let found = named.map(|rest| {
        let end = rest
            .find(|c: char| !c.is_ascii_lowercase() && c != '-')
            .unwrap_or(rest.len());
        (rest[..end].to_owned(), rest[end..].starts_with('='))
    });
    let found: Vec<_> = found.filter(|(name, _)| !name.is_empty()).collect();
    assert!(found.len() > 30, "{found:?}");
    found
}

#[test]
fn every_option_can_be_set_in_the_file() {
    let archive = Archive::new();
    let file_of_nothing = archive.file("baseline.hlog");
    let mut probe = walring(&["probe", "--seconds=0.1", "--baseline-out"]);
    probe.arg(&file_of_nothing).arg(archive.path());
    Process::spawn(probe).finish().assert_success();
    for (name, takes_value) in options_of_the_help() {
        if ELSEWHERE.contains(&name.as_str()) {
            continue;
        }
        let known = VALUES.iter().find(|(option, _)| *option == name);
        let value = match (takes_value, known) {
            (false, _) => "true".to_owned(),
            (true, Some((_, value))) => (*value).to_owned(),
            (true, None) if name == "directory" => format!("\"{}\"", archive.path().display()),
            (true, None) if name == "baseline" => format!("\"{}\"", file_of_nothing.display()),
            (true, None) => "7".to_owned(),
        };
        let config = Config::new(&format!("{name} = {value}\n"));
        let mut others = Vec::new();
        let directory = format!("--directory={}", archive.path().display());
        if name != "directory" {
            others.push(directory.as_str());
        }
        if name != "slot" {
            others.push("--slot=s");
        }
        let exit = config.check(&others);
        assert_has(&exit, &format!("{name} = {value}{}", config.line(1)));
    }
}

#[test]
fn what_has_its_place_elsewhere_is_sent_there() {
    for name in ELSEWHERE {
        let exit = Config::new(&format!("{name} = \"x\"\n")).check(&["-D", "/"]);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let told = exit.has_line_with(&["line 1: ", name, "can only be given on the command line"])
            || exit.has_line_with(&["line 1: ", name, "belongs into the table [connection]"]);
        assert!(told, "{exit:#?}");
    }
}

#[test]
fn the_example_is_right_and_the_unit_uses_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(root.join("perf/walring.toml")).expect("read the example");
    let archive = Archive::new();
    let directory = format!("--directory={}", archive.path().display());
    let exit = Config::new(&example).check(&[&directory]);
    assert!(effective(&exit).contains("\nhost = \"db1\"\n"), "{}", exit.stdout);
    let unit = fs::read_to_string(root.join("perf/walring.service")).expect("read the unit");
    assert!(unit.contains("\nExecStart=/usr/local/bin/walring receive --config=/etc/walring.toml\n"));
}

// ---- what counts ----

#[test]
fn the_command_line_beats_the_file_and_the_file_the_environment() {
    let (server, archive) = (Server::start(), Archive::new());
    let socket = server.socket_directory().display();
    let port = server.port();
    let text = format!(
        "directory = \"{}\"\nsynchronous = true\n[connection]\nhost = \"{socket}\"\nport = {port}\nuser = \"postgres\"\n",
        archive.path().display()
    );
    let named = |name: &str| Config::new(&format!("{text}application_name = \"{name}\"\n"));
    let environment = [
        ("PGAPPNAME", "environment"),
        ("PGPORT", "1"),
        ("PGHOST", "/nonexistent"),
    ];
    for (config, arguments, expected) in [
        (Config::new(&text), vec![], "environment"),
        (named("file"), vec![], "file"),
        (named("file"), vec!["-d", "application_name=line"], "line"),
    ] {
        let mut command = walring(&["receive", &config.option()]);
        command.args(&arguments).envs(environment);
        let receiver = Process::spawn(command);
        until("it streams under its name", || {
            let query = "select application_name from pg_stat_replication where state = 'streaming'";
            (server.sql(query) == expected).then_some(())
        });
        receiver.stop();
        let exit = config.check_with(&arguments, &environment);
        let source = match expected {
            "environment" => "  # environment PGAPPNAME".to_owned(),
            "file" => config.line(7),
            _ => "  # command line".to_owned(),
        };
        assert_has(&exit, &format!("application_name = \"{expected}\"{source}"));
        assert_has(&exit, &format!("port = {port}{}", config.line(5)));
    }
}

#[test]
fn a_host_on_the_command_line_replaces_the_address_in_the_file() {
    let config = Config::new(
        "directory = \"/tmp\"\n[connection]\nhost = \"a,b\"\nhostaddr = \"::1,::1\"\nport = \"1,2\"\n",
    );
    assert!(effective(&config.check(&[])).contains("hostaddr"));
    let exit = config.check(&["-h", "c"]);
    assert_has(&exit, "host = \"c\"  # command line");
    assert_has(&exit, "port = 5432  # default");
    assert!(!effective(&exit).contains("hostaddr"), "{}", exit.stdout);
}

#[test]
fn a_switch_of_the_command_line_takes_the_contrary_one_back() {
    let config = Config::new("directory = \"/tmp\"\nsynchronous = true\nno-password = true\n");
    let exit = config.check(&["--no-sync", "-W"]);
    for line in ["no-sync = true", "password = true"] {
        assert_has(&exit, &format!("{line}  # command line"));
    }
    for line in ["synchronous = false", "no-password = false"] {
        assert_has(&exit, &format!("{line}  # default"));
    }
    let both = Config::new("directory = \"/tmp\"\nsynchronous = true\nno-sync = true\n").check(&[]);
    assert!(
        both.has_line_with(&["cannot use --synchronous together with --no-sync"]),
        "{both:#?}"
    );
}

#[test]
fn what_is_printed_says_the_same_as_a_file() {
    let text = "directory = \"/tmp\"\nslot = \"it's \\\"a\\\" \\\\ slot\"\nspin-us = \"auto\"\nendpos = \"1/0\"\n\
        [connection]\nconninfo = \"host=a user='u v' application_name=x\"\nkeepalives_idle = 3\n";
    let environment = [
        ("PGPASSWORD", PASSWORD),
        ("PGTARGETSESSIONATTRS", "any"),
        ("PGPASSFILE", "/a # b"),
    ];
    let first = Config::new(text).check_with(&["--no-loop", "-p", "7", "--slot-watch=same"], &environment);
    assert!(
        effective(&first).contains("\nuser = \"u v\"\n"),
        "{}",
        first.stdout
    );
    let second = Config::new(&first.stdout).check_with(&[], &environment);
    assert_eq!(effective(&first), effective(&second));
    // All of it comes from the file now.
    for line in second.stdout.lines().filter(|line| line.contains(" = ")) {
        assert!(
            line.contains("walring.toml, line ") || line.contains("= false  # default"),
            "{line}"
        );
    }
}

#[test]
fn an_action_of_the_command_line_takes_its_slot_and_server_from_the_file() {
    let server = Server::start();
    let config = Config::new(&format!(
        "slot = \"s1\"\n[connection]\nconninfo = \"host={} port={} user=postgres\"\n",
        server.socket_directory().display(),
        server.port()
    ));
    let create = walring(&["receive", &config.option(), "--create-slot"]);
    Process::spawn(create).finish().assert_success();
    assert_eq!(server.sql("select slot_name from pg_replication_slots"), "s1");
}

#[test]
fn under_the_name_of_pg_receivewal_abbreviations_mean_what_they_did() {
    let directory = tempfile::tempdir().expect("create a directory");
    let link = directory.path().join("pg_receivewal");
    symlink(env!("CARGO_BIN_EXE_walring"), &link).expect("link the program");
    for (argument, line) in [
        ("--co=foo", "unrecognized compression algorithm: \"foo\""),
        ("--com=foo", "unrecognized compression algorithm: \"foo\""),
        (
            "--c=foo",
            "option '--c' is ambiguous; possibilities: '--compress' '--create-slot' '--config'",
        ),
        (
            "--config=/nonexistent",
            "could not read configuration file \"/nonexistent\": No such file or directory",
        ),
    ] {
        let mut command = clean(Command::new(&link));
        command.args(["-D", "/tmp", argument]);
        let exit = Process::spawn(command).finish();
        exit.assert_error(&format!("pg_receivewal: error: {line}"));
    }
}

// ---- secrets ----

#[test]
fn a_password_in_the_file_logs_in_and_is_shown_nowhere() {
    let (server, archive) = (server_asking_for(PASSWORD), Archive::new());
    let text = format!(
        "directory = \"{}\"\nno-password = true\nverbose = true\n[connection]\nhost = \"127.0.0.1\"\nport = {}\n\
         user = \"scram\"\npassword = \"{PASSWORD}\"\napplication_name = \"receiver\"\n",
        archive.path().display(),
        server.port()
    );
    let config = Config::new(&text);
    let receiver = Process::spawn(walring(&["receive", &config.option()]));
    wait_for_streaming(&server);
    let exit = receiver.stop();
    assert!(!format!("{exit:?}").contains(PASSWORD), "{exit:#?}");
    assert_has(
        &config.check(&[]),
        &format!("# password: set, and not shown{}", config.line(8)),
    );
}

#[test]
fn what_is_checked_and_printed_holds_no_secret() {
    let string = format!("-dpassword={PASSWORD} sslpassword={PASSWORD}");
    let watch = format!("--slot-watch=password={PASSWORD}");
    let environment = [("PGPASSWORD", PASSWORD)];
    let base = "directory = \"/tmp\"\nslot = \"s\"\n";
    for (text, arguments) in [
        (format!("{base}[connection]\npassword = \"{PASSWORD}\"\n"), vec![]),
        (
            format!("{base}[connection]\nconninfo = \"postgresql://a:{PASSWORD}@b\"\n"),
            vec![],
        ),
        (format!("{base}slot-watch = \"password={PASSWORD}\"\n"), vec![]),
        (base.to_owned(), vec![string.as_str(), watch.as_str()]),
        (format!("password = \"{PASSWORD}\"\n"), vec![]),
        (format!("{base}[connection]\npassword = {PASSWORD}\n"), vec![]),
        (
            format!("{base}[connection]\nconninfo = \"password={PASSWORD} {PASSWORD}\"\n"),
            vec![],
        ),
    ] {
        let exit = Config::new(&text).check_with(&arguments, &environment);
        assert!(!format!("{exit:?}").contains(PASSWORD), "{exit:#?}");
        assert!(
            exit.code == Some(1) || exit.stdout.contains("set, and not shown"),
            "{exit:#?}"
        );
    }
}

#[test]
fn a_file_with_a_password_that_others_may_read_is_refused() {
    let config = Config::new(&format!(
        "directory = \"/tmp\"\n[connection]\npassword = \"{PASSWORD}\"\n"
    ));
    let refused = |exit: Exit| {
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        let words = ["error: ", "holds a password and has group or world access"];
        assert!(exit.has_line_with(&words), "{exit:#?}");
    };
    for mode in [0o640, 0o604] {
        config.allow(mode);
        refused(config.check(&[]));
        refused(Process::spawn(walring(&["receive", &config.option()])).finish());
    }
    // systemd lets the service's user in by an access control list, which looks so.
    config.allow(0o440);
    refused(config.check(&[]));
    let credentials = config.directory.path().to_str().expect("a path");
    let as_credential = [("CREDENTIALS_DIRECTORY", credentials)];
    config.check_with(&[], &as_credential).assert_success();
    config.allow(0o444);
    refused(config.check_with(&[], &as_credential));
    let without = Config::new("directory = \"/tmp\"\n[connection]\npassfile = \"/a\"\n");
    without.allow(0o644);
    without.check(&[]).assert_success();
}

// ---- mistakes ----

#[test]
fn every_mistake_is_told_in_a_line_of_its_own() {
    let config = Config::new(
        "slto = \"a\"\nverify = \"x\"\nstatus-interval = true\nsslmode = \"require\"\ndirectory = \"/nonexistent\"\n\
         [connection]\nprot = 1\nsynchronous = true\nport = \"abc\"\n",
    );
    let exit = config.check(&["--spin-us=x"]);
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert_eq!(exit.stdout, "");
    let at = |line: usize| format!("walring: error: \"{}\", line {line}: ", config.path().display());
    let expected = [
        at(1) + "unknown key \"slto\"; did you mean \"slot\"?",
        at(3) + "\"status-interval\" must be a text or a whole number",
        at(4) + "unknown key \"sslmode\": it belongs into the table [connection]",
        at(7) + "unknown key \"prot\"; did you mean \"port\"?",
        at(8) + "\"synchronous\" is no setting of a connection: it belongs above the line [connection]",
        at(2)
            + "invalid value \"x\" for option --verify (Valid values are \"records\", \"pages\" and \"off\")",
        "walring: error: invalid value \"x\" for option --spin-us (Give microseconds, or \"auto\")"
            .to_owned(),
        "walring: error: could not open directory \"/nonexistent\": No such file or directory".to_owned(),
        "walring: error: invalid integer value \"abc\" for connection option \"port\"".to_owned(),
    ];
    assert_eq!(exit.stderr, expected);
}

#[test]
fn certificates_and_keys_that_cannot_be_read_are_mistakes() {
    for (connection, problem) in [
        (
            "sslmode = \"verify-full\"\nsslrootcert = \"/nowhere/root.crt\"",
            "root certificate file \"/nowhere/root.crt\" does not exist",
        ),
        (
            "sslrootcert = \"/dev/null\"",
            "could not read root certificate file \"/dev/null\": no certificate or crl found",
        ),
        (
            "sslcert = \"/dev/null\"",
            "could not read certificate file \"/dev/null\": no certificate or crl found",
        ),
    ] {
        let config = Config::new(&format!(
            "directory = \"/tmp\"\n[connection]\nhost = \"db1\"\n{connection}\n"
        ));
        let exit = config.check(&[]);
        assert_eq!(exit.code, Some(1), "{exit:#?}");
        assert!(exit.has_line_with(&["error: ", problem]), "{exit:#?}");
        // On a Unix socket nothing is encrypted.
        let socket = config.check(&["--host=/tmp"]);
        assert_eq!(socket.code, Some(0), "{socket:#?}");
    }
}

#[test]
fn a_receiver_does_not_start_with_a_mistake_in_its_file() {
    let config = Config::new("directory = \"/tmp\"\nslot-mode = \"x\"\n");
    // Not even where the command line overrides it.
    let exit = Process::spawn(walring(&["receive", &config.option(), "--slot-mode=require"])).finish();
    exit.assert_error(&format!(
        "walring: error: \"{}\", line 2: invalid value \"x\" for option --slot-mode",
        config.path().display()
    ));
    let missing = Process::spawn(walring(&["config", "check", "--config=/nonexistent"])).finish();
    missing.assert_error(
        "walring: error: could not read configuration file \"/nonexistent\": No such file or directory",
    );
    let broken = Config::new("directory = \"/tmp\nslot = \"a\"\n").check(&[]);
    assert_eq!(broken.code, Some(1));
    assert!(broken.has_line_with(&["walring.toml\", line 1: "]), "{broken:#?}");
}

#[test]
fn a_directory_that_cannot_be_written_is_a_mistake_and_no_file_is_none() {
    let user = common::postgres::server_user();
    let archive = Archive::new();
    let directory = format!("--directory={}", archive.path().display());
    Process::spawn(walring(&["config", "check", &directory]))
        .finish()
        .assert_success();
    let Some((uid, gid)) = user else { return };
    let mut command = walring(&["config", "check", "--directory=/usr"]);
    std::os::unix::process::CommandExt::uid(&mut command, uid);
    std::os::unix::process::CommandExt::gid(&mut command, gid);
    let exit = Process::spawn(command).finish();
    exit.assert_error("walring: error: could not write to directory \"/usr\": Permission denied");
}
