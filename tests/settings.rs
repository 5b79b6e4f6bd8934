//! Where connection settings come from: command line, connection string, service file, environment, password file,
//! prompt. walring and `pg_receivewal` get the same, reach the same server, and say the same.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use common::login::server_asking_for;
use common::process::wrap;
use common::server::ServerOptions;
use common::skip::skip;
use common::terminal::Terminal;
use common::wait::until;
use common::{Archive, Process, Server, program};

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
fn an_address_in_any_form_is_what_it_is_to_pg_receivewal() {
    let server = ServerOptions::default()
        .config("listen_addresses = '127.0.0.1, ::1'")
        .start();
    server.set_hba(
        "local all all trust\nhost replication all 127.0.0.1/32 trust\nhost replication all ::1/128 trust\n",
    );
    let place = Place::new(server);
    let port = place.server.port();
    let with_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let own = link_local().map(|address| (address, "Connection refused"));
    let addresses = [
        ("127.1", LOGGED_IN),
        ("2130706433", LOGGED_IN),
        ("0x7f.0.0.1", LOGGED_IN),
        ("0:0:0:0:0:0:0:1", LOGGED_IN),
        ("::1%lo", ""),
        ("::1%1", ""),
        ("fe80::1%lo", ""),
        ("fe80::1%gone", "could not parse network address"),
        ("fe80::1%", "could not parse network address"),
        ("256.1", "could not parse network address"),
        ("localhost", "could not parse network address"),
    ];
    let addresses = addresses.into_iter().map(|(text, said)| (text.to_owned(), said));
    for (address, expected) in addresses.chain(own) {
        if address.contains(':') && !with_ipv6 {
            skip("addresses of IPv6: there is no ::1");
            continue;
        }
        // Nobody listens on the addresses of other interfaces.
        let string = format!("hostaddr={address} port={port} user=postgres connect_timeout=5");
        place.compare(&["-d", &string], &[], expected);
        place.compare(&["-d", &format!("{string} host=name")], &[], expected);
        place.compare(&["-d", &format!("{string} port=1")], &[], "");
    }
}

/// An address of this machine that needs a zone, if it has one.
fn link_local() -> Option<String> {
    let all = fs::read_to_string("/proc/net/if_inet6").ok()?;
    all.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [digits, _, _, "20", _, interface] = fields[..] else {
            return None;
        };
        let ip = std::net::Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
        Some(format!("{ip}%{interface}"))
    })
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
fn a_signal_at_the_prompt_ends_it_and_gives_the_echo_back() {
    let place = Place::new(server_asking_for(PASSWORD));
    let port = place.server.port().to_string();
    let aim = ["-h", "127.0.0.1", "-p", &port, "-U", "scram"];
    let archive = Archive::new();
    let directory = format!("--directory={}", archive.path().display());
    let creates = ["--create-slot", "--slot=s1", "-W"];
    for (arguments, expected) in [
        (&["-W", &directory][..], 0),
        (&["-v", &directory], 0),
        (&creates, 1),
    ] {
        for signal in [None, Some(Signal::INT), Some(Signal::TERM)] {
            let terminal = Terminal::open();
            let mut command = program::receive();
            command.args(aim).args(arguments);
            // The terminal is the one that the process has.
            let mut command = wrap(Command::new("setsid"), &["--ctty"], &command);
            command.stdin(terminal.device()).stdout(terminal.device());
            let mut child = command.stderr(terminal.device()).spawn().expect("start setsid");
            terminal.wait_for("Password: ");
            assert!(!terminal.echoes());
            match signal {
                None => terminal.press(b"half\x03"),
                Some(signal) => kill_process(Pid::from_child(&child), signal).expect("send a signal"),
            }
            let code = until("it ends", || child.try_wait().expect("wait for a program"));
            assert_eq!(code.code(), Some(expected), "{}", terminal.text());
            assert!(terminal.echoes());
            // Of what is drawn the last comes a moment later.
            until("the line is over", || {
                terminal.text().ends_with("\r\n").then_some(())
            });
            let said = terminal.text();
            let errors = said.matches("error").count();
            let told = said.matches("error: interrupted by a signal\r\n").count();
            assert_eq!([errors, told], [expected as usize; 2], "{said}");
        }
    }
}

#[test]
fn a_cluster_that_debians_wrapper_would_choose_is_refused() {
    let archive = Archive::new();
    let mut command = program::receive();
    command.args(["-n", "-D"]).arg(archive.path());
    command.env("PGCLUSTER", "15/main");
    let exit = Process::spawn(command).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(exit.has_line_with(&["error: ", "PGCLUSTER"]), "{exit:#?}");
    assert!(exit.has_line_with(&["hint: ", "pg_lsclusters"]), "{exit:#?}");
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
