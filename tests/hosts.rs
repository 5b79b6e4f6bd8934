//! Several hosts: which of them is taken, and what is said of those that are not, is what libpq's own program does.
mod common;

use std::net::TcpListener;
use std::process::Command;

use common::process::{Exit, succeeds, wrap};
use common::receiver::{aim_at, walring_at};
use common::relay::Relay;
use common::scratch::free_port;
use common::wait::until;
use common::{Archive, Installation, Process, Server, ServerOptions, program, walring};

const SIX: [&str; 6] = [
    "any",
    "read-write",
    "read-only",
    "primary",
    "standby",
    "prefer-standby",
];

#[test]
fn the_server_is_the_one_that_libpq_takes() {
    let group = Group::of(&Installation::standard());
    let lists: &[&[&str]] = &[
        &["primary"],
        &["standby"],
        &["primary", "standby"],
        &["standby", "primary"],
        &["read-only primary", "standby", "primary"],
        &["dead", "standby", "dead", "primary"],
        &["dead", "read-only primary"],
    ];
    group.assert_takes_as(&Client::pg_receivewal(15), lists, &SIX);
}

#[test]
fn the_newest_libpq_takes_the_same_server() {
    let Some(newest) = Installation::version(18) else {
        return;
    };
    let group = Group::of(&newest);
    let lists: &[&[&str]] = &[
        &["primary"],
        &["standby"],
        &["dead", "standby", "read-only primary", "primary"],
    ];
    group.assert_takes_as(&Client::pg_receivewal(18), lists, &SIX);
}

/// A walsender refuses the question with which libpq finds out whether an old server is a standby.
#[test]
fn of_old_servers_primary_and_standby_are_told_apart_although_libpq_cannot() {
    let Some(old) = Installation::version(13) else {
        return;
    };
    let group = Group::of(&old);
    let lists: &[&[&str]] = &[
        &["primary", "standby"],
        &["standby", "primary"],
        &["standby", "read-only primary"],
    ];
    group.assert_takes_as(
        &Client::pg_receivewal(15),
        lists,
        &["any", "read-write", "read-only"],
    );
    for (attrs, server) in [
        ("primary", "primary"),
        ("standby", "standby"),
        ("prefer-standby", "standby"),
    ] {
        for list in [["primary", "standby"], ["standby", "primary"]] {
            let outcome = group.outcome(&Client::Walring, &list, attrs);
            assert_eq!(outcome, Outcome::Connected(server.to_owned()), "{list:?} {attrs}");
        }
    }
    let refused = group.outcome(&Client::Walring, &["read-only primary"], "primary");
    let Outcome::Refused(lines) = refused else {
        panic!("{refused:?}");
    };
    assert!(lines[0].contains("before version 14"), "{lines:#?}");
    let libpq = group.outcome(&Client::pg_receivewal(15), &["primary"], "primary");
    assert!(
        matches!(libpq, Outcome::Refused(_)),
        "libpq has learnt it: {libpq:?}"
    );
}

#[test]
fn a_server_that_lets_nobody_in_yet_leads_to_the_next_host_and_one_that_refuses_ends_the_list() {
    let group = Group::of(&Installation::standard());
    let starting = group.primary.standby();
    starting.stop_fast();
    starting.append_config("hot_standby = off\n");
    starting.start_in_recovery();
    let strict = ServerOptions::default().create();
    strict.set_hba("host all all all reject\n");
    strict.start_again();
    let (port, refusing) = (group.primary.port(), strict.port());
    // Two addresses of the one that is starting: the second is not tried.
    let strings = [
        format!("host=127.0.0.1,127.0.0.1 port={},{port}", starting.port()),
        format!("host=localhost port={}", starting.port()),
        format!("host=127.0.0.1,127.0.0.1 port={refusing},{port}"),
        format!("host=127.0.0.1,127.0.0.1 port={port},{refusing}"),
        format!("host=nowhere.invalid,127.0.0.1 port={port}"),
        format!("host=,127.0.0.1 hostaddr=127.0.0.1, port={},{port}", free_port()),
        format!("host=127.0.0.1,127.0.0.1,127.0.0.1 port={port},{port}"),
        format!("hostaddr=127.0.0.1,::1 host=a port={port}"),
        format!("host=/{} port={port}", "x".repeat(100)),
    ];
    for string in strings {
        let expected = group.outcome_of(&Client::pg_receivewal(15), &string);
        assert_eq!(group.outcome_of(&Client::Walring, &string), expected, "{string}");
    }
}

#[test]
fn the_next_address_of_a_host_is_tried_unless_the_server_has_answered() {
    let Some(names) = Names::probe() else {
        return common::skip::skip("a host with two addresses: no name can be made up here");
    };
    let group = Group::of(&Installation::standard());
    let both = "listen_addresses = '127.0.0.1,127.0.0.2'\n";
    let second = "listen_addresses = '127.0.0.2'\n";
    for (config, string, expected) in [
        (second, "", 0),
        (both, "target_session_attrs=primary", 1),
        ("listen_addresses = ''\n", "", 2),
    ] {
        group.standby.append_config(config);
        group.standby.restart();
        let string = format!("host=twofold port={} {string}", group.standby.port());
        assert_eq!(
            group.messages_of(&names, &string),
            expected,
            "{string} with {config}"
        );
    }
    group.standby.append_config(both);
    group.standby.stop_fast();
    group.standby.append_config("hot_standby = off\n");
    group.standby.start_in_recovery();
    let string = format!("host=twofold port={}", group.standby.port());
    let expected = names.run(&Client::pg_receivewal(15), &string).stderr;
    assert!(
        expected[0].contains("system is not accepting connections"),
        "{expected:#?}"
    );
    assert_eq!(group.messages_of(&names, &string), 1);
}

#[test]
fn an_address_without_what_is_stored_is_tried_after_the_other_one_of_its_host() {
    let Some(names) = Names::probe() else {
        return common::skip::skip("a host with two addresses: no name can be made up here");
    };
    let (primary, archive) = (Server::start(), Archive::new());
    let standby = primary.standby();
    standby.sql("alter system set primary_conninfo = ''");
    standby.restart();
    let receiver = walring(&primary, &archive, &["--synchronous"]);
    primary.wait_flushed(primary.write_wal(2500));
    receiver.stop();
    let first = Relay::plain_at("127.0.0.1:0", standby.port());
    let second = Relay::plain_at(&format!("127.0.0.2:{}", first.port()), primary.port());
    let string = format!("host=twofold port={} user=postgres", first.port());
    let arguments = ["--synchronous", "-w"];
    let command = aim_at(program::receive(), &string, archive.path(), &arguments);
    let receiver = Process::spawn(names.wrap(&command));
    receiver.wait_for_line("the server is behind what is stored");
    let end = primary.write_wal(100);
    primary.wait_flushed(end);
    assert!(second.connections() > 0);
    receiver.stop();
    archive.assert_holds(&primary, 1, end);
}

#[test]
fn a_silent_address_takes_the_connect_timeout_and_the_next_one_has_its_own() {
    let group = Group::of(&Installation::standard());
    let silent = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, two, three] = silent
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port());
    let hosts = "host=127.0.0.1,127.0.0.1,127.0.0.1";
    let to_primary = format!(
        "{hosts} port={one},{two},{} connect_timeout=2",
        group.primary.port()
    );
    let to_nobody = format!("{hosts} port={one},{two},{three} connect_timeout=2");
    for string in [to_primary, to_nobody] {
        let expected = group.outcome_of(&Client::pg_receivewal(15), &string);
        let outcome = group.outcome_of(&Client::Walring, &string);
        assert_eq!(
            timeouts(&outcome),
            timeouts(&expected),
            "{outcome:?} {expected:?}"
        );
    }
}

#[test]
fn hosts_are_taken_in_their_order_or_at_random() {
    let group = Group::of(&Installation::standard());
    let list = ["primary", "standby"];
    let connect = |load_balance: &str| {
        let string = format!("{} load_balance_hosts={load_balance}", group.hosts(&list));
        match group.outcome_of(&Client::Walring, &string) {
            Outcome::Connected(server) => server,
            other => panic!("{other:?}"),
        }
    };
    for _ in 0..10 {
        assert_eq!(connect("disable"), "primary");
    }
    let mut missing = list.to_vec();
    until("each was taken once", || {
        let server = connect("random");
        missing.retain(|name| *name != server);
        missing.is_empty().then_some(())
    });
    // The order has no say in what qualifies.
    for _ in 0..5 {
        let string = format!("{} load_balance_hosts=random", group.hosts(&list));
        let outcome = group.outcome_of(
            &Client::Walring,
            &format!("{string} target_session_attrs=standby"),
        );
        assert_eq!(outcome, Outcome::Connected("standby".to_owned()));
    }
}

#[test]
fn the_environment_says_which_server_too() {
    let group = Group::of(&Installation::standard());
    let mut command = Client::Walring.command(&group.hosts(&["primary", "standby"]));
    command.env("PGTARGETSESSIONATTRS", "standby");
    assert_eq!(group.run(command), Outcome::Connected("standby".to_owned()));
}

#[test]
fn values_that_are_none_are_refused_in_the_words_of_libpq() {
    let Some(newest) = Installation::version(18) else {
        return;
    };
    let group = Group::of(&newest);
    for wrong in [
        "target_session_attrs=master",
        "load_balance_hosts=round-robin",
        "port=1,2",
        "host=a,b hostaddr=::1",
        "port=70000",
        "port=x",
    ] {
        let string = format!("host=/nowhere {wrong}");
        let expected = group.outcome_of(&Client::pg_receivewal(18), &string);
        assert_eq!(group.outcome_of(&Client::Walring, &string), expected, "{wrong}");
    }
}

#[test]
fn until_a_host_qualifies_it_is_said_once_and_tried_again() {
    let group = Group::of(&Installation::standard());
    let archive = Archive::new();
    let string = format!(
        "{} target_session_attrs=primary user=postgres",
        group.hosts(&["standby", "dead"])
    );
    let receiver = walring_at(&string, &archive, &["--synchronous", "-v"]);
    receiver.wait_for_lines("failed: server is in hot standby mode", 4);
    group.standby.promote();
    until("it streams", || {
        let state = group.standby.sql("select state from pg_stat_replication");
        (state == "streaming").then_some(())
    });
    let end = group.standby.write_wal(10);
    let exit = receiver.stop();
    let complaints = exit
        .stderr
        .iter()
        .filter(|line| line.contains("error: connection to server"));
    assert_eq!(complaints.count(), 1, "{:#?}", exit.stderr);
    assert!(end.0 > 0);
}

/// How an attempt to connect ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// With this server.
    Connected(String),
    /// With these lines.
    Refused(Vec<String>),
}

/// Who was found silent; the words differ with the point where it was given up.
fn timeouts(outcome: &Outcome) -> Option<usize> {
    match outcome {
        Outcome::Connected(_) => None,
        Outcome::Refused(lines) => Some(
            lines
                .iter()
                .filter(|line| line.ends_with("timeout expired"))
                .count(),
        ),
    }
}

/// A primary, its standby, and another primary that lets its sessions only read.
struct Group {
    primary: Server,
    standby: Server,
    read_only: Server,
    dead: u16,
}

impl Group {
    fn of(installation: &Installation) -> Group {
        let with = |config: &str| {
            ServerOptions::default()
                .version(installation)
                .config(config)
                .start()
        };
        let primary = with("");
        let standby = primary.standby();
        Group {
            standby,
            primary,
            read_only: with("default_transaction_read_only = on"),
            dead: free_port(),
        }
    }

    /// The servers by their names.
    fn servers(&self) -> [(&'static str, &Server); 3] {
        [
            ("primary", &self.primary),
            ("standby", &self.standby),
            ("read-only primary", &self.read_only),
        ]
    }

    /// Hosts and ports of a connection string.
    fn hosts(&self, names: &[&str]) -> String {
        let port = |name: &&str| {
            let server = self.servers().into_iter().find(|(other, _)| other == name);
            server.map_or(self.dead, |(_, server)| server.port()).to_string()
        };
        let ports: Vec<String> = names.iter().map(port).collect();
        let hosts = vec!["127.0.0.1"; names.len()];
        format!("host={} port={}", hosts.join(","), ports.join(","))
    }

    /// Asserts that walring does with each of the lists what the other one does.
    fn assert_takes_as(&self, other: &Client, lists: &[&[&str]], values: &[&str]) {
        for list in lists {
            for attrs in values {
                let expected = self.outcome(other, list, attrs);
                let outcome = self.outcome(&Client::Walring, list, attrs);
                assert_eq!(outcome, expected, "{list:?} {attrs}");
            }
        }
    }

    fn outcome(&self, client: &Client, names: &[&str], attrs: &str) -> Outcome {
        self.outcome_of(
            client,
            &format!("{} target_session_attrs={attrs}", self.hosts(names)),
        )
    }

    fn outcome_of(&self, client: &Client, string: &str) -> Outcome {
        self.run(client.command(string))
    }

    /// How many addresses gave a reason, to walring and to libpq alike.
    fn messages_of(&self, names: &Names, string: &str) -> usize {
        let said = |client: Client| {
            let exit = names.run(&client, string);
            let said = exit
                .stderr
                .iter()
                .filter(|line| line.contains("connection to server at "))
                .count();
            assert_eq!(exit.code == Some(0), said == 0, "{exit:#?}");
            said
        };
        let expected = said(Client::pg_receivewal(15));
        assert_eq!(said(Client::Walring), expected, "{string}");
        expected
    }

    /// Has a slot made, and looks where it is.
    fn run(&self, mut command: Command) -> Outcome {
        command.args(["--create-slot", "--slot=here"]);
        let exit = Process::spawn(command).finish();
        if exit.code == Some(0) {
            let drop = "select count(pg_drop_replication_slot(slot_name)) from pg_replication_slots where slot_name = 'here'";
            let has_it = |(name, server): (&'static str, &Server)| (server.sql(drop) == "1").then_some(name);
            let found: Vec<_> = self.servers().into_iter().filter_map(has_it).collect();
            assert_eq!(found.len(), 1, "{found:?} {exit:#?}");
            return Outcome::Connected(found[0].to_owned());
        }
        // Details and hints are lines of another form.
        let is_message = |line: &&String| {
            ["DETAIL: ", ": detail: ", "Is the server running"]
                .iter()
                .all(|other| !line.contains(other))
        };
        let lines = exit.stderr.iter().filter(is_message);
        let without_name = |line: &String| {
            let line = line
                .split_once(": error: ")
                .map_or(line.as_str(), |(_, rest)| rest);
            line.to_owned()
        };
        Outcome::Refused(lines.map(without_name).collect())
    }
}

/// A namespace in which one name has two addresses.
struct Names {
    unshare: &'static [&'static str],
    file: tempfile::NamedTempFile,
}

impl Names {
    fn probe() -> Option<Names> {
        let file = tempfile::NamedTempFile::new().expect("create a file");
        std::fs::write(&file, "127.0.0.1 localhost twofold\n127.0.0.2 twofold\n").expect("write names");
        let ways: [&[&str]; 2] = [&["--mount"], &["--mount", "--user", "--map-root-user"]];
        let mut names = Names { unshare: &[], file };
        names.unshare = ways.into_iter().find(|way| {
            names.unshare = way;
            succeeds(&mut names.wrap(&Command::new("true")))
        })?;
        Some(names)
    }

    fn wrap(&self, inner: &Command) -> Command {
        let script = format!(
            "mount --bind {} /etc/hosts && exec \"$@\"",
            self.file.path().display()
        );
        let arguments = ["--propagation", "private", "sh", "-c", &script, "sh"];
        wrap(
            Command::new("unshare"),
            &[self.unshare, &arguments].concat(),
            inner,
        )
    }

    /// Asks for a slot that is there, so that all ends as soon as a server was found.
    fn run(&self, client: &Client, string: &str) -> Exit {
        let mut command = client.command(string);
        command.args(["--create-slot", "--slot=here", "--if-not-exists"]);
        Process::spawn(self.wrap(&command)).finish()
    }
}

/// Who connects.
enum Client {
    Walring,
    /// PostgreSQL's own program of one version.
    PgReceivewal(Installation),
}

impl Client {
    fn pg_receivewal(version: u32) -> Client {
        let installation = match version {
            18 => Installation::version(18),
            _ => None,
        };
        Client::PgReceivewal(installation.unwrap_or_else(Installation::standard))
    }

    fn command(&self, string: &str) -> Command {
        let mut command = match self {
            Client::Walring => program::receive(),
            Client::PgReceivewal(installation) => installation.command("pg_receivewal"),
        };
        command.args(["-w", "-n", "-d", &format!("{string} user=postgres")]);
        command
    }
}
