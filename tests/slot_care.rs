//! The slot is looked after: made where it is missing, if that is wanted, and watched before the server gives it up.
mod common;

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use common::process::wrap;
use common::receiver::{aim, at_port, wait_for_streaming, walring_at};
use common::relay::{Direction, Relay, Weather};
use common::wait::until;
use common::{Archive, Http, Installation, Lsn, Process, Server, ServerOptions, at_once, program, walring};
use walring::edge::status::Status;

const CREATE: [&str; 3] = ["--slot=s1", "--slot-mode=create", "--synchronous"];

/// A server that keeps no more WAL than its slots need, and for them no more than so much.
fn server_that_keeps(installation: &Installation, megabytes: u32) -> Server {
    ServerOptions::default()
        .version(installation)
        .keeping_little_wal()
        .config("max_wal_size = 2MB")
        .config(&format!("max_slot_wal_keep_size = {megabytes}MB"))
        .start()
}

/// A receiver that creates its slot, once it streams.
fn creating(server: &Server, archive: &Archive) -> Process {
    let receiver = walring(server, archive, &CREATE);
    wait_for_streaming(server);
    receiver
}

fn slots(server: &Server) -> String {
    server.sql("select slot_name, slot_type, restart_lsn is not null from pg_replication_slots")
}

/// Drops the slot, as soon as nobody uses it.
fn drop_slot(server: &Server) {
    until("the slot can be dropped", || {
        server.try_sql("select pg_drop_replication_slot('s1')").ok()
    });
}

// ---- a slot that is missing ----

#[test]
fn a_missing_slot_is_created_with_wal_reserved_where_that_is_wanted() {
    for installation in Installation::all() {
        let server = ServerOptions::default().version(&installation).start();
        let archive = Archive::new();
        let receiver = creating(&server, &archive);
        server.wait_flushed(server.write_wal(10));
        assert_eq!(slots(&server), "s1|physical|t");
        let said = receiver.stderr().join("\n");
        assert!(said.contains("created replication slot \"s1\" on "), "{said}");
        assert!(!said.contains("warning: "), "{said}");
        receiver.stop();
        // Once it is there nothing is said of it.
        let again = creating(&server, &archive);
        let exit = again.stop();
        assert!(!exit.has_line_with(&["slot"]), "{exit:#?}");
        archive.assert_holds(&server, 1, server.flush_lsn());
    }
}

#[test]
fn a_slot_lost_with_its_server_is_made_again_and_what_is_stored_goes_on() {
    for installation in Installation::all() {
        let server = ServerOptions::default().version(&installation).start();
        let archive = Archive::new();
        let receiver = creating(&server, &archive);
        server.wait_flushed(server.write_wal(1500));
        receiver.stop();
        drop_slot(&server);
        server.write_wal(1500);
        let receiver = walring(&server, &archive, &CREATE);
        let words = "warning: replication slot \"s1\" did not exist on ";
        receiver.wait_for_line(words);
        let end = server.write_wal(10);
        server.wait_flushed(end);
        assert_eq!(slots(&server), "s1|physical|t");
        let exit = receiver.stop();
        assert!(exit.has_line_with(&[words, "is not guaranteed"]), "{exit:#?}");
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn a_new_primary_without_the_slot_gets_one() {
    let (primary, archive) = (Server::start(), Archive::new());
    let standby = primary.standby();
    let receiver = creating(&primary, &archive);
    primary.wait_flushed(primary.write_wal(100));
    receiver.stop();
    let end = primary.flush_lsn();
    until("the standby has it all", || {
        (standby.lsn("pg_last_wal_replay_lsn()") >= end).then_some(())
    });
    primary.kill_all();
    standby.promote();
    let receiver = walring(&standby, &archive, &CREATE);
    receiver.wait_for_line("warning: replication slot \"s1\" did not exist on ");
    let end = standby.write_wal(1500);
    standby.wait_flushed(end);
    receiver.stop();
    assert_eq!(slots(&standby), "s1|physical|t");
    archive.assert_holds(&standby, 2, end);
}

#[test]
fn wal_that_went_while_there_was_no_slot_is_never_left_out() {
    let server = server_that_keeps(&Installation::standard(), 64);
    let archive = Archive::new();
    let receiver = creating(&server, &archive);
    server.wait_flushed(server.write_wal(10));
    receiver.stop();
    let before = archive.contents();
    drop_slot(&server);
    server.remove_wal_behind(archive.names().last().unwrap());
    let exit = walring(&server, &archive, &[&CREATE[..], &["-n"]].concat()).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["warning: ", "\"s1\" did not exist on "]),
        "{exit:#?}"
    );
    assert!(
        exit.has_line_with(&["error: ", "has already been removed"]),
        "{exit:#?}"
    );
    assert_eq!(archive.contents(), before);
}

#[test]
fn a_slot_that_another_uses_is_not_touched() {
    let (server, first, second) = (Server::start(), Archive::new(), Archive::new());
    let _user = creating(&server, &first);
    let exit = walring(&server, &second, &[&CREATE[..], &["-n"]].concat()).finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    assert!(
        exit.has_line_with(&["error: ", "\"s1\" is active for PID"]),
        "{exit:#?}"
    );
}

#[test]
fn no_room_for_a_slot_is_told_with_the_way_out() {
    let server = ServerOptions::default()
        .config("max_replication_slots = 1")
        .start();
    let archive = Archive::new();
    server.sql("select pg_create_physical_replication_slot('other')");
    let exit = walring(&server, &archive, &[&CREATE[..], &["-n"]].concat()).finish();
    assert!(
        exit.has_line_with(&["error: ", "all replication slots are in use"]),
        "{exit:#?}"
    );
    assert!(
        exit.has_line_with(&["hint: ", "max_replication_slots"]),
        "{exit:#?}"
    );
}

#[test]
fn without_the_option_a_missing_slot_stays_missing() {
    let (server, archive) = (Server::start(), Archive::new());
    for arguments in [
        &["--slot=s1", "-n"][..],
        &["--slot=s1", "--slot-mode=require", "-n"],
    ] {
        let exit = walring(&server, &archive, arguments).finish();
        exit.assert_error(&program::error("replication slot \"s1\" does not exist"));
        assert!(exit.has_line_with(&["hint: ", "--slot-mode=create"]), "{exit:#?}");
    }
    assert_eq!(slots(&server), "");
    let exit = walring(&server, &archive, &["--slot-mode=create"]).finish();
    exit.assert_error(&program::error(
        "--slot-mode=create needs a slot to be specified using --slot",
    ));
}

// ---- a slot that is watched ----

/// A receiver whose stream goes through a relay, and whose slot watch does not.
fn watched(server: &Server, relay: &Relay, archive: &Archive) -> (Process, Http) {
    server.sql("select pg_create_physical_replication_slot('s1', true)");
    let watch = format!(
        "--slot-watch=host={} port={} user=postgres",
        server.socket_directory().display(),
        server.port()
    );
    let arguments = ["--slot=s1", "--synchronous", "--listen=127.0.0.1:0", &watch];
    let receiver = walring_at(&at_port(relay.port()), archive, &arguments);
    let http = Http::of(&receiver);
    wait_for_streaming(server);
    (receiver, http)
}

/// Waits until the watch has asked twice more: what it had to say of the first answer is said then.
fn wait_for_another_look(server: &Server) {
    let asked = || {
        server.sql(
            "select query_start from pg_stat_activity where query like '%safe_wal_size%' and pid <> pg_backend_pid()",
        )
    };
    for _ in 0..2 {
        let before = asked();
        until("the watch asks again", || (asked() != before).then_some(()));
    }
}

/// Nothing is acknowledged from now on. WAL still comes through: a server that cannot send does not end the stream
/// when it wants the slot.
fn stall(relay: &Relay) {
    let weather = Weather {
        stalled: true,
        ..Weather::FAIR
    };
    relay.set(Direction::Up, weather);
}

/// Writes until the server keeps less than 2 MiB more for the slot.
fn leave_little(server: &Server) {
    until("little more is kept", || {
        server.switch_wal();
        let safe = server.sql("select safe_wal_size from pg_replication_slots");
        (safe.parse::<i64>().ok()? < 2 << 20).then_some(())
    });
}

fn status(http: &Http) -> walring::edge::status::SlotWatchStatus {
    let status: Status = serde_json::from_str(&http.get("/v1/status").body).expect("a status");
    status.slot_watch.expect("the slot is watched")
}

fn wal_status(server: &Server) -> String {
    server.sql("select wal_status from pg_replication_slots")
}

#[test]
fn a_slot_in_danger_is_told_of_before_it_is_lost_and_a_lost_one_too() {
    at_once(Installation::all(), |installation| {
        let server = server_that_keeps(&installation, 16);
        let (relay, archive) = (Relay::plain(server.port()), Archive::new());
        let (receiver, http) = watched(&server, &relay, &archive);
        server.wait_flushed(server.write_wal(10));
        http.wait_metric("walring_slot_wal_status", |code| code >= 2.0);
        assert!(
            !receiver.stderr().concat().contains("danger"),
            "{:?}",
            receiver.stderr()
        );
        stall(&relay);
        leave_little(&server);
        let line = receiver.wait_for_line("warning: replication slot \"s1\" is in danger: ");
        assert!(line.contains("max_slot_wal_keep_size is 16.0 MiB"), "{line}");
        assert_ne!(wal_status(&server), "lost", "it was told too late");
        assert!(
            !receiver.stderr().concat().contains("is lost"),
            "{:?}",
            receiver.stderr()
        );
        assert!(
            status(&http)
                .safe_wal_size_bytes
                .is_some_and(|bytes| bytes < 2 << 20)
        );
        until("the slot is lost", || {
            server.switch_wal();
            server.sql("checkpoint");
            (wal_status(&server) == "lost").then_some(())
        });
        receiver.wait_for_line("error: replication slot \"s1\" is lost");
        wait_for_another_look(&server);
        let metrics = http.metrics();
        assert_eq!(
            (
                metrics["walring_slot_wal_status"],
                metrics["walring_slot_watch_up"]
            ),
            (0.0, 1.0)
        );
        assert!(
            !metrics.contains_key("walring_slot_safe_wal_size_bytes"),
            "{metrics:#?}"
        );
        assert_eq!(status(&http).wal_status.as_deref(), Some("lost"));
        let said = receiver.stderr().join("\n");
        assert_eq!(said.matches("is lost").count(), 1, "{said}");
        assert_eq!(said.matches("more than is received").count(), 1, "{said}");
        assert!(said.contains("hint: Copy the missing segments"), "{said}");
    });
}

#[test]
fn a_danger_that_is_over_is_told_once() {
    let server = server_that_keeps(&Installation::standard(), 16);
    let (relay, archive) = (Relay::plain(server.port()), Archive::new());
    let (receiver, http) = watched(&server, &relay, &archive);
    stall(&relay);
    leave_little(&server);
    receiver.wait_for_line("warning: replication slot \"s1\" is in danger: ");
    relay.set(Direction::Up, Weather::FAIR);
    server.wait_flushed(server.flush_lsn());
    receiver.wait_for_line("replication slot \"s1\" is out of danger");
    let restart = |http: &Http| status(http).restart_lsn?.parse::<Lsn>().ok();
    until("what is told moves on", || {
        restart(&http).filter(|lsn| *lsn >= server.flush_lsn()).map(drop)
    });
    let exit = receiver.stop();
    let said = exit.stderr.join("\n");
    assert_eq!(said.matches("danger").count(), 2, "{said}");
    assert!(!said.contains("lost"), "{said}");
}

#[test]
fn a_watch_that_is_not_let_in_says_so_once_and_the_stream_goes_on() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("create role watch login replication");
    server.sql("select pg_create_physical_replication_slot('s1')");
    let rules = "local all postgres trust\nlocal replication watch trust\n";
    server.set_hba(rules);
    let mut command = aim(
        program::receive(),
        &server,
        archive.path(),
        &[
            "--slot=s1",
            "--synchronous",
            "--slot-watch=same",
            "--listen=127.0.0.1:0",
        ],
    );
    command.args(["-U", "watch"]);
    let receiver = Process::spawn(command);
    let http = Http::of(&receiver);
    let complaint = "warning: could not look after replication slot \"s1\": ";
    let line = receiver.wait_for_line(complaint);
    assert!(line.contains("no pg_hba.conf entry for host"), "{line}");
    assert_eq!(http.metric("walring_slot_watch_up"), 0.0);
    server.wait_flushed(server.write_wal(10));
    assert_eq!(http.get("/healthz").code, 200);
    // It tries again, and says nothing of that.
    let attempts = || server.log().matches("no pg_hba.conf entry").count();
    let before = attempts();
    until("it tries twice more", || (attempts() >= before + 2).then_some(()));
    server.set_hba(&format!("{rules}local postgres watch trust\n"));
    receiver.wait_for_line("replication slot \"s1\" is looked after again");
    http.wait_metric("walring_slot_watch_up", |up| up == 1.0);
    let exit = receiver.stop();
    let said = exit.stderr.join("\n");
    assert_eq!(said.matches("could not look after").count(), 1, "{said}");
}

#[test]
fn a_password_that_is_typed_in_for_the_stream_lets_the_watch_in_too() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("create role watch login replication password 'Drossel'");
    server.sql("select pg_create_physical_replication_slot('s1')");
    let typed = archive.file(".typed");
    fs::write(&typed, "Drossel\n").expect("write what is typed");
    server.set_hba("local all postgres trust\nlocal replication,postgres watch scram-sha-256\n");
    for (watch, is_let_in) in [
        ("same", true),
        ("password=Amsel", false),
        ("dbname=postgres", true),
    ] {
        let watch = format!("--slot-watch={watch}");
        let arguments = ["-W", "--slot=s1", "--synchronous", &watch, "--listen=127.0.0.1:0"];
        let mut command = aim(program::receive(), &server, archive.path(), &arguments);
        command.args(["-U", "watch"]);
        // Without a terminal the standard input is asked.
        let on_input = format!("exec setsid \"$0\" \"$@\" <{}", typed.display());
        let receiver = Process::spawn(wrap(Command::new("sh"), &["-c", &on_input], &command));
        if is_let_in {
            Http::of(&receiver).wait_metric("walring_slot_watch_up", |up| up == 1.0);
        } else {
            let complaint = receiver.wait_for_line("could not look after replication slot \"s1\": ");
            assert!(
                complaint.contains("password authentication failed"),
                "{complaint}"
            );
        }
        receiver.stop();
    }
}

#[test]
fn the_watch_asks_the_server_that_the_stream_comes_from() {
    let (gone, server, archive) = (Server::start(), Server::start(), Archive::new());
    gone.stop_fast();
    server.sql("select pg_create_physical_replication_slot('s1')");
    let hosts = format!(
        "host={},{} port={},{} user=postgres",
        gone.socket_directory().display(),
        server.socket_directory().display(),
        gone.port(),
        server.port()
    );
    let arguments = ["--slot=s1", "--slot-watch=same", "--listen=127.0.0.1:0"];
    let receiver = walring_at(&hosts, &archive, &arguments);
    let http = Http::of(&receiver);
    wait_for_streaming(&server);
    // Reachable again and first in the list, but without the slot.
    gone.start_again();
    http.wait_metric("walring_slot_watch_up", |up| up == 1.0);
    http.wait_metric("walring_slot_is_active", |active| active == 1.0);
    let asked = "select datname from pg_stat_activity where application_name = 'receiver' and backend_type = 'client backend'";
    assert_eq!(server.sql(asked), "postgres");
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
}

#[test]
fn the_watch_gets_past_a_host_that_says_nothing() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("select pg_create_physical_replication_slot('s1')");
    let silent = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let ports = format!(
        "{},{}",
        silent.local_addr().expect("a port").port(),
        server.port()
    );
    let watch = format!("--slot-watch=host=127.0.0.1,127.0.0.1 port={ports} user=postgres");
    let receiver = walring(&server, &archive, &["--slot=s1", &watch, "--listen=127.0.0.1:0"]);
    Http::of(&receiver).wait_metric("walring_slot_watch_up", |up| up == 1.0);
    receiver.stop();
}

#[test]
fn the_watch_stays_with_a_standby_that_is_promoted() {
    let primary = Server::start();
    let (standby, archive) = (primary.standby(), Archive::new());
    standby.sql("select pg_create_physical_replication_slot('s1')");
    let arguments = [
        "-d",
        "target_session_attrs=standby",
        "--slot=s1",
        "--slot-watch=same",
    ];
    let receiver = walring(&standby, &archive, &arguments);
    let watchers =
        "from pg_stat_activity where application_name = 'receiver' and backend_type = 'client backend'";
    let watcher = || standby.sql(&format!("select max(pid) {watchers}"));
    until("the slot is watched", || (!watcher().is_empty()).then_some(()));
    standby.promote();
    let before = watcher();
    standby.sql(&format!("select pg_terminate_backend(pid) {watchers}"));
    until("the slot is watched again", || {
        let now = watcher();
        (!now.is_empty() && now != before).then_some(())
    });
    receiver.stop();
}

/// One address, behind which another server stands after a failover; the old one lives on.
#[test]
fn the_watch_follows_the_stream_to_another_server_behind_the_same_address() {
    let (primary, archive) = (Server::start(), Archive::new());
    let standby = primary.standby();
    let relay = Relay::plain(primary.port());
    for server in [&primary, &standby] {
        server.sql("select pg_create_physical_replication_slot('s1')");
    }
    let arguments = ["--slot=s1", "--slot-watch=same"];
    let receiver = walring_at(&at_port(relay.port()), &archive, &arguments);
    let watchers = |server: &Server| {
        server.sql(
            "select count(*) from pg_stat_activity where application_name = 'receiver' and backend_type = 'client backend'",
        )
    };
    until("the slot is watched", || {
        (watchers(&primary) == "1").then_some(())
    });
    relay.turn_to(standby.port());
    standby.promote();
    primary.sql("select pg_terminate_backend(active_pid) from pg_replication_slots");
    wait_for_streaming(&standby);
    until("the slot is watched where the stream comes from", || {
        (watchers(&standby) == "1" && watchers(&primary) == "0").then_some(())
    });
    receiver.stop();
}

#[test]
fn a_password_of_the_watch_is_hidden_from_the_list_of_processes() {
    let (server, archive) = (Server::start(), Archive::new());
    server.sql("select pg_create_physical_replication_slot('s1')");
    let arguments = ["--slot=s1", "--slot-watch=password=Drossel"];
    let receiver = walring(&server, &archive, &arguments);
    wait_for_streaming(&server);
    let path = format!("/proc/{}/cmdline", receiver.pid().as_raw_nonzero());
    let shown = std::fs::read(path).expect("read the arguments");
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("--slot-watch=xxxx") && !shown.contains("Drossel"),
        "{shown}"
    );
    receiver.stop();
}
