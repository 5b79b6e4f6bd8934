//! Passwords are nowhere to be seen: not in what is printed, served or logged, not in the list of processes, and in
//! memory no longer than they are needed.
mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::prelude::{BASE64_STANDARD, Engine};
use common::login::server_asking_for;
use common::process::Exit;
use common::receiver::wait_for_streaming;
use common::server::RECEIVER_NAME;
use common::skip::skip;
use common::{Archive, Http, Process, Server, program};
use postgres_protocol::password::md5;

/// Long enough that a piece of it is found where its beginning was overwritten.
const PASSWORD: &str = "Drossel-Amsel-Kiebitz-Pirol-Wiedehopf-Zaunkoenig";

const USERS: [&str; 3] = ["clear", "md5", "scram"];

/// How a test gives the password.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Given {
    String,
    Uri,
    Environment,
    File,
    Service,
}

const WAYS: [Given; 5] = [
    Given::String,
    Given::Uri,
    Given::Environment,
    Given::File,
    Given::Service,
];

// ---- what is said ----

#[test]
fn nothing_that_is_said_or_served_contains_the_password() {
    let server = server_asking_for(PASSWORD);
    for (user, given, format) in [
        ("clear", Given::String, "text"),
        ("md5", Given::Uri, "json"),
        ("scram", Given::Environment, "json"),
        ("scram", Given::File, "text"),
        ("scram", Given::Service, "text"),
    ] {
        let (archive, other) = (Archive::new(), Archive::new());
        let log = other.file("times.hlog");
        let mut command = receive(&server, &archive, &other, user, given);
        command.args([
            "-v",
            "--latency-report",
            "--listen=127.0.0.1:0",
            "--log-format",
            format,
        ]);
        command.arg("--histogram-log").arg(&log).env("RUST_LOG", "trace");
        let receiver = Process::spawn(command);
        let http = Http::of(&receiver);
        wait_for_streaming(&server);
        server.wait_flushed(server.write_wal(10));
        let served = ["/", "/metrics", "/healthz", "/v1/status"].map(|path| http.get(path).body);
        let exit = receiver.stop();
        assert!(exit.stderr.len() > 5, "{exit:#?}");
        assert_silent(&exit, user);
        let mut written = fs::read(log).expect("read the histogram log");
        written.extend(served.concat().bytes());
        assert_no_secret(&written, user);
    }
}

#[test]
fn a_refused_login_does_not_repeat_the_password() {
    let server = server_asking_for("another");
    for (user, given) in USERS.into_iter().zip(WAYS) {
        let (archive, other) = (Archive::new(), Archive::new());
        let mut command = receive(&server, &archive, &other, user, given);
        command.args(["-n", "-v"]);
        let exit = Process::spawn(command).finish();
        assert!(
            exit.has_line_with(&["password authentication failed"]),
            "{exit:#?}"
        );
        assert_silent(&exit, user);
    }
}

#[test]
fn an_error_in_the_connection_string_does_not_repeat_the_password() {
    let archive = Archive::new();
    for string in [
        format!("host=127.0.0.1 password=a {PASSWORD}"),
        format!("password=a {PASSWORD}=b"),
        format!("password='{PASSWORD}"),
        format!("password={PASSWORD} hots=b"),
        format!("password={PASSWORD} port=b"),
        format!("password={PASSWORD} sslmode=require"),
        format!("postgresql://u:{PASSWORD}@[::1"),
        format!("postgresql://u:{PASSWORD}%@h"),
        format!("postgresql://u:a/{PASSWORD}@h"),
        format!("postgresql://u:{PASSWORD}/a@h"),
        format!("postgresql://u:a@{PASSWORD}@h"),
        format!("postgresql://h?password=a&{PASSWORD}"),
        format!("postgresql://h?password={PASSWORD}=a"),
        format!("u:{PASSWORD}@h/?sslmode=disable"),
    ] {
        let mut command = program::receive();
        command
            .args(["-n", "-v", "-d", &string, "-D"])
            .arg(archive.path());
        let exit = Process::spawn(command).finish();
        assert_eq!(exit.code, Some(1), "{string}: {exit:#?}");
        assert_silent(&exit, "u");
    }
}

// ---- what others see of the process ----

#[test]
fn neither_the_list_of_processes_nor_the_environment_shows_a_password() {
    let server = server_asking_for(PASSWORD);
    for given in WAYS {
        let (archive, other) = (Archive::new(), Archive::new());
        let receiver = Process::spawn(receive(&server, &archive, &other, "scram", given));
        wait_for_streaming(&server);
        let of = |name: &str| fs::read(proc_path(&receiver, name)).expect("read what is shown");
        let shown = [of("cmdline"), of("environ"), of("comm"), of("stat")].concat();
        assert_no_secret(&shown, "scram");
        assert!(String::from_utf8_lossy(&shown).contains(&archive.path().display().to_string()));
        receiver.stop();
    }
}

#[test]
fn a_password_is_used_again_although_it_was_hidden() {
    let server = server_asking_for(PASSWORD);
    for given in WAYS {
        let (archive, other) = (Archive::new(), Archive::new());
        let receiver = Process::spawn(receive(&server, &archive, &other, "scram", given));
        wait_for_streaming(&server);
        server.restart();
        server.wait_flushed(server.write_wal(10));
        receiver.stop();
    }
}

// ---- memory, which is what a core dump shows ----

#[test]
fn memory_holds_a_password_only_where_the_next_login_needs_it() {
    let server = server_asking_for(PASSWORD);
    for (user, given, most) in [
        // The file is read again.
        ("clear", Given::File, 0),
        ("md5", Given::File, 0),
        ("scram", Given::File, 0),
        // For the next login.
        ("scram", Given::Environment, 1),
        ("scram", Given::Service, 1),
        // That, and the options.
        ("scram", Given::String, 2),
    ] {
        let (archive, other) = (Archive::new(), Archive::new());
        let receiver = Process::spawn(receive(&server, &archive, &other, user, given));
        wait_for_streaming(&server);
        server.wait_flushed(server.write_wal(10));
        let Some(found) = copies_in_memory(&receiver) else {
            return skip("passwords in memory: that of another process cannot be read here");
        };
        // None at all for the others would mean that nothing can be found.
        let right = (most.min(1)..=most).contains(&found.len());
        assert!(right, "{user}, {given:?}: {found:?}");
        receiver.stop();
    }
}

/// The places, by the kernel's names for them, where a process has the last third of the password.
fn copies_in_memory(process: &Process) -> Option<Vec<String>> {
    let memory = File::open(proc_path(process, "mem")).ok()?;
    let maps = fs::read_to_string(proc_path(process, "maps")).ok()?;
    let tail = &PASSWORD.as_bytes()[PASSWORD.len() * 2 / 3..];
    let mut found = Vec::new();
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (
            u64::from_str_radix(start, 16).ok()?,
            u64::from_str_radix(end, 16).ok()?,
        );
        let mut bytes = vec![0; (end - start) as usize];
        // Some cannot be read: those of the kernel's own.
        if !rest.starts_with('r') || memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        let count = memchr::memmem::find_iter(&bytes, tail).count();
        found.extend(std::iter::repeat_n(line.to_owned(), count));
    }
    Some(found)
}

// ---- the password file ----

#[test]
fn a_credential_of_systemd_is_read_although_its_group_seems_to_be_able_to() {
    let server = server_asking_for(PASSWORD);
    let (archive, other) = (Archive::new(), Archive::new());
    let path = password_file(&other);
    fs::set_permissions(&path, Permissions::from_mode(0o440)).expect("change a mode");
    let attempt = |credentials: Option<&Path>| {
        let mut command = aimed(&server, &archive);
        command
            .args(["-n", "-w", "-U", "scram", "--endpos=0/1"])
            .env("PGPASSFILE", &path);
        command.envs(credentials.map(|path| ("CREDENTIALS_DIRECTORY", path)));
        Process::spawn(command).finish()
    };
    let refused = attempt(None);
    assert!(
        refused.has_line_with(&["has group or world access"]),
        "{refused:#?}"
    );
    assert_eq!(refused.code, Some(1));
    attempt(Some(other.path())).assert_success();
    fs::set_permissions(&path, Permissions::from_mode(0o444)).expect("change a mode");
    assert_eq!(attempt(Some(other.path())).code, Some(1), "all can read it");
}

// ---- commands and what they must not say ----

fn aimed(server: &Server, archive: &Archive) -> Command {
    let mut command = program::receive();
    command.arg("-D").arg(archive.path());
    command.args([
        "--synchronous",
        "-h",
        "127.0.0.1",
        "-p",
        &server.port().to_string(),
    ]);
    command.env("PGAPPNAME", RECEIVER_NAME);
    command
}

/// Receives as this user; `other` is a directory for the password file.
fn receive(server: &Server, archive: &Archive, other: &Archive, user: &str, given: Given) -> Command {
    let mut command = aimed(server, archive);
    command.args(["-w", "-U", user]);
    match given {
        Given::String => command.arg(format!("--dbname=user={user} password={PASSWORD}")),
        Given::Uri => command.args(["-d", &format!("postgresql://{user}:{PASSWORD}@127.0.0.1/")]),
        Given::Environment => command.env("PGPASSWORD", PASSWORD),
        Given::File => command.env("PGPASSFILE", password_file(other)),
        Given::Service => {
            other.write("services", format!("[s]\npassword={PASSWORD}\n").as_bytes());
            command
                .env("PGSERVICE", "s")
                .env("PGSERVICEFILE", other.file("services"))
        }
    };
    command
}

fn password_file(directory: &Archive) -> PathBuf {
    directory.write("pgpass", format!("*:*:*:*:{PASSWORD}\n").as_bytes());
    let path = directory.file("pgpass");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("change a mode");
    path
}

fn proc_path(process: &Process, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{name}", process.pid().as_raw_nonzero()))
}

#[track_caller]
fn assert_silent(exit: &Exit, user: &str) {
    assert_no_secret(exit.stdout.as_bytes(), user);
    assert_no_secret(exit.stderr.join("\n").as_bytes(), user);
}

/// The password as it is, in base64 (wherever it begins in what is encoded), in hexadecimal, and as PostgreSQL
/// stores it for MD5.
#[track_caller]
fn assert_no_secret(text: &[u8], user: &str) {
    let base64 =
        |skip: usize| BASE64_STANDARD.encode(&PASSWORD.as_bytes()[skip..PASSWORD.len() / 3 * 3 - 3 + skip]);
    let hexadecimal: String = PASSWORD.bytes().map(|byte| format!("{byte:02x}")).collect();
    let stored = md5(PASSWORD.as_bytes(), user);
    let forms = [
        PASSWORD.to_owned(),
        hexadecimal,
        base64(0),
        base64(1),
        base64(2),
        stored,
    ];
    for form in forms {
        let is_there = text.windows(form.len()).any(|window| window == form.as_bytes());
        assert!(!is_there, "{form} is in {}", String::from_utf8_lossy(text));
    }
}
