//! The primary dies and its standby is promoted: walring follows to it, by the hosts it was given, and no commit that was
//! acknowledged to a client is lost.
mod common;

use std::sync::Arc;
use std::time::Instant;

use common::clients::Clients;
use common::process::Stopped;
use common::receiver::walring_at;
use common::restore::restore;
use common::server::RECEIVER_NAME;
use common::wait::until;
use common::{Archive, Installation, Process, Server, ServerOptions, Session, stored};
use rustix::process::Pid;

/// While a server is dead, somebody else may get its port; its socket stays its own.
const NO_PORT: &str = "listen_addresses = ''\n";

const FAILOVERS: u32 = 10;

const CLIENTS: usize = 3;

/// Acknowledged commits that are awaited between two events.
const COMMITS: usize = 30;

/// Is said where the new primary did not have all that was received.
const LACKS: &str = "warning: the server went on with timeline ";

#[test]
fn ten_failovers_under_load_lose_no_acknowledged_commit() {
    let started = Instant::now();
    let mut cluster = Cluster::start();
    let backup = cluster.primary.base_backup(&["-X", "none"]);
    backup.append_config(NO_PORT);
    for failover in 1..=FAILOVERS {
        cluster.wait_for_commits();
        cluster.add_standby();
        cluster.wait_for_commits();
        cluster.fail_over(failover % 3 == 0);
    }
    cluster.wait_for_commits();
    let Cluster {
        mut clients,
        primary,
        walring,
        archive,
        ..
    } = cluster;
    clients.stop();
    primary.kill_all();
    let lacking = walring
        .stderr()
        .iter()
        .filter(|line| line.contains(LACKS))
        .count();
    walring.kill();
    assert_holds_all(&archive, &primary, FAILOVERS + 1);
    stored::verify(&archive, &["--quiet"]).assert_success();
    restore(&backup, &archive);
    clients.assert_all_are_in(&backup);
    assert!(lacking >= 3, "{lacking}");
    eprintln!(
        "{} commits acknowledged; {lacking} of {FAILOVERS} standbys lacked WAL that was received; {:?}",
        clients.ledger().rows.len(),
        started.elapsed()
    );
}

#[test]
fn an_old_primary_that_comes_back_is_left_for_the_host_that_has_what_is_stored() {
    let (old, archive) = (socket_server(), Archive::new());
    let new = standby_of(&old);
    let receiver = receive(&archive, &[&old, &new], "any", &["--synchronous"]);
    old.wait_flushed(old.write_wal(100));
    old.kill_all();
    new.promote();
    let end = new.write_wal(2500);
    new.wait_flushed(end);
    receiver.wait_for_line("connected to host");
    // It goes on where it was, and so would whoever took the first host of the list.
    old.start_again();
    old.write_wal(4000);
    new.stop_fast();
    let lacks = receiver.wait_for_line("starting timeline 2 is not present in the server");
    assert!(lacks.contains("error: "), "{lacks}");
    new.start_again();
    let end = new.write_wal(100);
    new.wait_flushed(end);
    assert_eq!(
        old.receiver_column("flush_lsn"),
        None,
        "the old primary heard of a flush"
    );
    receiver.stop();
    assert_holds_all(&archive, &new, 2);
    // Nor does a new start follow it.
    let receiver = receive(&archive, &[&old, &new], "any", &["--synchronous"]);
    let end = new.write_wal(100);
    new.wait_flushed(end);
    receiver.stop();
    let exit = receive(&archive, &[&old], "any", &["-n"]).finish();
    assert!(
        exit.has_line_with(&["error: starting timeline 2 is not present in the server"]),
        "{exit:#?}"
    );
    assert_holds_all(&archive, &new, 2);
    stored::verify(&archive, &["--quiet"]).assert_success();
}

/// What is stored of the old timeline reaches further than what is stored of the new one.
#[test]
fn an_old_primary_is_not_followed_although_its_segments_are_the_newest() {
    let (old, archive) = (socket_server(), Archive::new());
    let new = standby_of(&old);
    new.sql("alter system set primary_conninfo = ''");
    new.restart();
    let receiver = receive(&archive, &[&old, &new], "primary", &["--synchronous"]);
    old.wait_flushed(old.write_wal(4000));
    old.kill_all();
    new.promote();
    new.wait_flushed(new.write_wal(100));
    let exit = receiver.stop();
    let warnings = exit.stderr.iter().filter(|line| line.contains(LACKS));
    assert_eq!(warnings.count(), 1, "{exit:#?}");
    old.start_again();
    old.write_wal(2000);
    let held = archive.contents();
    let exit = receive(&archive, &[&old], "any", &["-n"]).finish();
    assert!(
        exit.has_line_with(&["error: starting timeline 2 is not present in the server"]),
        "{exit:#?}"
    );
    assert!(archive.contents() == held, "files were touched");
    // The program that walring replaces looks at the highest segment only.
    let exit = common::pg_receivewal(&new, &archive, &["-n"]).finish();
    assert!(
        exit.has_line_with(&["error: ", "is not in this server's history"]),
        "{exit:#?}"
    );
    let receiver = receive(&archive, &[&new], "primary", &["--synchronous"]);
    let end = new.write_wal(100);
    new.wait_flushed(end);
    let exit = receiver.stop();
    assert!(!exit.has_line_with(&["warning: "]), "{exit:#?}");
    assert_holds_all(&archive, &old, 1);
    assert_holds_all(&archive, &new, 2);
    stored::verify(&archive, &["--quiet"]).assert_success();
}

#[test]
fn another_cluster_among_the_hosts_is_refused() {
    let (server, archive) = (socket_server(), Archive::new());
    let other = ServerOptions::default().another_cluster().config(NO_PORT).start();
    let receiver = receive(&archive, &[&server, &other], "primary", &["--synchronous"]);
    server.wait_flushed(server.write_wal(1500));
    let held = archive.names();
    server.kill_all();
    let exit = receiver.finish();
    assert_eq!(exit.code, Some(1), "{exit:#?}");
    let identifier = other.sql("select system_identifier from pg_control_system()");
    let words = [
        "error: the server is another one: its system identifier is ",
        &identifier,
    ];
    assert!(exit.has_line_with(&words), "{exit:#?}");
    let host = other.socket_directory().to_str().unwrap();
    assert!(exit.has_line_with(&["connected to host ", host]), "{exit:#?}");
    assert_eq!(archive.names(), held);
}

/// A primary, perhaps a standby, walring, and clients who write to whichever is the primary.
struct Cluster {
    primary: Arc<Server>,
    /// Stopped, or the standby.
    other: Arc<Server>,
    walring: Process,
    archive: Archive,
    clients: Clients,
    timeline: u32,
}

impl Cluster {
    /// With walring alone for which commits wait.
    fn start() -> Cluster {
        let primary = socket_server();
        Clients::create_table(&primary);
        let other = primary.base_backup(&["-R"]);
        other.append_config(NO_PORT);
        primary.sql(&format!(
            "alter system set synchronous_standby_names = '{RECEIVER_NAME}'"
        ));
        primary.sql("select pg_reload_conf()");
        let archive = Archive::new();
        let walring = receive(&archive, &[&primary, &other], "read-write", &["--synchronous"]);
        until("walring streams", || {
            primary
                .receiver_column("state")
                .filter(|state| state == "streaming")
        });
        let database = format!(
            "{} dbname=postgres target_session_attrs=read-write",
            conninfo(&[&primary, &other])
        );
        let clients = Clients::start(CLIENTS, move || {
            Session::of(Installation::standard().command("psql"), &database)
        });
        Cluster {
            primary: Arc::new(primary),
            other: Arc::new(other),
            walring,
            archive,
            clients,
            timeline: 1,
        }
    }

    fn wait_for_commits(&self) {
        let before = self.clients.ledger().rows.len();
        until("commits are acknowledged", || {
            (self.clients.ledger().rows.len() >= before + COMMITS).then_some(())
        });
    }

    /// At the place of the server that died; commits wait for it, too, from now on.
    fn add_standby(&self) {
        self.other.become_copy_of(&self.primary, &["-R"]);
        self.other.start_again();
        self.primary.sql(&format!(
            "alter system set synchronous_standby_names = 'FIRST 2 (walreceiver, {RECEIVER_NAME})'"
        ));
        self.primary.sql("select pg_reload_conf()");
        let query = "select string_agg(application_name || ' ' || sync_priority, ', ' order by sync_priority) \
                     from pg_stat_replication where state = 'streaming'";
        let both = format!("walreceiver 1, {RECEIVER_NAME} 2");
        until("commits wait for both", || {
            (self.primary.sql(query) == both).then_some(())
        });
    }

    /// Kills the primary, promotes the standby, and looks at what walring has of the timeline that ended.
    fn fail_over(&mut self, standby_lags: bool) {
        let lagging = standby_lags.then(|| self.hold_standby_back());
        self.primary.kill_all();
        drop(lagging);
        self.other.promote();
        std::mem::swap(&mut self.primary, &mut self.other);
        // What it has of the old timeline is all it will get once there is a segment of the new one.
        let next = format!("{:08X}0", self.timeline + 1);
        until("walring has followed", || {
            let names = self.archive.names();
            names.iter().any(|name| name.starts_with(&next)).then_some(())
        });
        assert_holds_all(&self.archive, &self.other, self.timeline);
        self.timeline += 1;
    }

    /// Stops the standby's receiver, and gets walring ahead of it by segments.
    fn hold_standby_back(&self) -> Stopped {
        let pid = self.other.sql("select pid from pg_stat_wal_receiver");
        let pid = pid.parse().ok().and_then(Pid::from_raw).expect("a process id");
        let stopped = Stopped::processes(&[pid]);
        // Without a transaction, so that nobody waits for the standby.
        let text = "repeat(md5(random()::text), 32)";
        self.primary.sql(&format!(
            "select count(pg_logical_emit_message(false, 'load', {text})) from generate_series(1, 3500)"
        ));
        self.primary
            .wait_flushed(self.primary.lsn("pg_current_wal_insert_lsn()"));
        stopped
    }
}

fn socket_server() -> Server {
    ServerOptions::default().config(NO_PORT).start()
}

fn standby_of(server: &Server) -> Server {
    let standby = server.base_backup(&["-R"]);
    standby.append_config(NO_PORT);
    standby.start_again();
    standby
}

/// Where these servers are, for libpq and for walring.
fn conninfo(servers: &[&Server]) -> String {
    let hosts: Vec<_> = servers
        .iter()
        .map(|server| server.socket_directory().display().to_string())
        .collect();
    let ports: Vec<_> = servers.iter().map(|server| server.port().to_string()).collect();
    format!("host={} port={} user=postgres", hosts.join(","), ports.join(","))
}

fn receive(archive: &Archive, servers: &[&Server], attrs: &str, arguments: &[&str]) -> Process {
    let string = format!("{} target_session_attrs={attrs}", conninfo(servers));
    walring_at(&string, archive, arguments)
}

/// Asserts that every segment of the timeline, which nobody receives any more, holds what the server has there, and that
/// none is missing in between.
#[track_caller]
fn assert_holds_all(archive: &Archive, server: &Server, timeline: u32) {
    let of_timeline = format!("{timeline:08X}0");
    let names = archive
        .names()
        .into_iter()
        .filter(|name| name.starts_with(&of_timeline));
    let mut segments = Vec::new();
    for name in names {
        match name.strip_suffix(".partial") {
            Some(segment) => {
                archive.assert_partial_is_no_other(server, segment);
                segments.push(segment.to_owned());
            }
            None => {
                common::archive::assert_same(&name, &archive.read(&name), &server.wal_file(&name));
                segments.push(name);
            }
        }
    }
    assert!(
        !segments.is_empty(),
        "nothing of timeline {timeline}: {:?}",
        archive.names()
    );
    common::archive::assert_without_gap(&segments, server.segment_bytes());
}
