//! What a server does to its receiver: it refuses, falls silent, dies, comes back. Each is said once, tried again, and
//! what is stored stays.
mod common;

use rustix::process::Pid;

use common::process::{Exit, Stopped};
use common::receiver::{streaming, wait_for_streaming};
use common::wait::until;
use common::{Archive, Installation, Process, Server, ServerOptions, program, walring};

/// A trouble that the server makes and that somebody can mend there.
struct Trouble<C, H> {
    /// What walring says of it, in part.
    line: &'static str,
    /// What its hint says, in part; empty: it has none.
    hint: &'static str,
    /// Options of the receiver.
    arguments: &'static [&'static str],
    /// Brings it about; what must live on for that is given back.
    cause: C,
    /// Mends it.
    cure: H,
}

impl<C, H, G> Trouble<C, H>
where
    C: Fn(&Server) -> G,
    H: Fn(&Server, G),
{
    /// A start into it is said with the way out, and with --no-loop the end; without, it goes on by itself once it
    /// is mended.
    fn meet_at_start(&self, server: &Server) {
        let (archive, guard) = self.meet_for_good(server);
        let receiver = self.receiver(server, &archive, &["-v"]);
        self.mend(server, &archive, receiver, guard);
    }

    /// A start into it with --no-loop.
    fn meet_for_good(&self, server: &Server) -> (Archive, G) {
        let archive = Archive::new();
        let end = server.write_wal(100);
        let receiver = self.receiver(server, &archive, &[]);
        server.wait_flushed(end);
        receiver.stop();
        until("its slot and its place are free", || {
            (server.sql("select count(*) from pg_stat_replication") == "0").then_some(())
        });
        let held = archive.contents();
        let guard = (self.cause)(server);
        let exit = self.receiver(server, &archive, &["-n"]).finish();
        assert_eq!(self.said(&exit.stderr), 1, "{exit:#?}");
        exit.assert_error(&program::error("disconnected"));
        let has_hint = exit.has_line_with(&["hint: ", self.hint]);
        assert_eq!(has_hint, !self.hint.is_empty(), "{exit:#?}");
        assert!(archive.contents() == held, "files were touched");
        (archive, guard)
    }

    /// It comes about, and then the stream ends.
    fn meet_while_streaming(&self, server: &Server) {
        let archive = Archive::new();
        let receiver = self.receiver(server, &archive, &["-v"]);
        server.wait_flushed(server.write_wal(1500));
        end_streams(server);
        let guard = (self.cause)(server);
        // One that has just been let in is not among those that can be ended yet.
        until("it meets the trouble", || {
            end_streams(server);
            receiver
                .stderr()
                .iter()
                .any(|line| line.contains(self.line))
                .then_some(())
        });
        self.mend(server, &archive, receiver, guard);
    }

    /// Waits until several attempts have met it, and mends it.
    fn mend(&self, server: &Server, archive: &Archive, receiver: Process, guard: G) {
        // With -v the repetitions are told, too, but not as errors.
        receiver.wait_for_lines(self.line, 3);
        let held = archive.contents();
        receiver.wait_for_lines(self.line, 4);
        assert!(archive.contents() == held, "files were touched");
        (self.cure)(server, guard);
        let end = server.write_wal(100);
        server.wait_flushed(end);
        let exit = receiver.stop();
        assert_eq!(self.said(&exit.stderr), 1, "{exit:#?}");
        archive.assert_holds(server, 1, end);
    }

    fn receiver(&self, server: &Server, archive: &Archive, more: &[&str]) -> Process {
        let arguments = [&["--synchronous"], self.arguments, more].concat();
        walring(server, archive, &arguments)
    }

    fn said(&self, stderr: &[String]) -> usize {
        let said = stderr.iter();
        said.filter(|line| line.contains("error: ") && line.contains(self.line))
            .count()
    }
}

const MAKE_SLOT: &str = "select pg_create_physical_replication_slot('s1', true)";
const DROP_SLOT: &str = "select pg_drop_replication_slot('s1')";

#[test]
fn a_slot_that_is_gone_is_waited_for() {
    let trouble = Trouble {
        line: "replication slot \"s1\" does not exist",
        hint: "--create-slot",
        arguments: &["--slot=s1"],
        cause: drop_slot,
        cure: |server: &Server, ()| drop(server.sql(MAKE_SLOT)),
    };
    let server = Server::start();
    server.sql(MAKE_SLOT);
    trouble.meet_at_start(&server);
    trouble.meet_while_streaming(&server);
}

#[test]
fn a_slot_that_another_receiver_uses_is_waited_for() {
    let other = Archive::new();
    let trouble = Trouble {
        line: "replication slot \"s1\" is active for PID ",
        hint: "wal_sender_timeout",
        arguments: &["--slot=s1"],
        cause: |server: &Server| {
            let archive = &other;
            let user = common::pg_receivewal(server, archive, &["--slot=s1", "--no-loop"]);
            until("the other one has it", || {
                let query = "select active_pid from pg_replication_slots where active";
                (!server.sql(query).is_empty()).then_some(())
            });
            user
        },
        cure: |_: &Server, user: Process| drop(user.stop()),
    };
    let server = Server::start();
    server.sql(MAKE_SLOT);
    trouble.meet_at_start(&server);
}

#[test]
fn a_logical_slot_is_refused_until_it_is_a_physical_one() {
    let trouble = Trouble {
        line: "cannot use a logical replication slot for physical replication",
        hint: "pg_replication_slots",
        arguments: &["--slot=s1"],
        cause: |server: &Server| {
            drop_slot(server);
            server.sql("select pg_create_logical_replication_slot('s1', 'test_decoding')");
        },
        cure: |server: &Server, ()| {
            drop_slot(server);
            server.sql(MAKE_SLOT);
        },
    };
    let server = ServerOptions::default().config("wal_level = logical").start();
    server.sql(MAKE_SLOT);
    trouble.meet_at_start(&server);
    trouble.meet_while_streaming(&server);
}

#[test]
fn a_slot_that_has_lost_its_wal_is_waited_for() {
    // Up to 17 such a slot lets its user in, and the WAL is missing.
    let removed = ("has already been removed", "max_slot_wal_keep_size");
    let lost = (
        "can no longer access replication slot \"s1\"",
        "pg_replication_slots",
    );
    let versions = [
        (Some(Installation::standard()), removed),
        (Installation::version(13), removed),
        (Installation::version(18), lost),
    ];
    for (version, (line, hint)) in versions {
        let Some(version) = version else { continue };
        let trouble = Trouble {
            line,
            hint,
            arguments: &["--slot=s1"],
            cause: invalidate_slot,
            cure: |_: &Server, ()| {},
        };
        let server = ServerOptions::default()
            .version(&version)
            .config("max_slot_wal_keep_size = 2MB")
            .config("min_wal_size = 2MB")
            .start();
        server.sql(MAKE_SLOT);
        trouble.meet_for_good(&server);
    }
}

#[test]
fn a_slot_that_was_idle_for_too_long_is_named() {
    let Some(version) = Installation::version(18) else {
        return;
    };
    let trouble = Trouble {
        line: "can no longer access replication slot \"s1\"",
        hint: "pg_replication_slots",
        arguments: &["--slot=s1"],
        cause: |server: &Server| {
            server.sql("alter system set idle_replication_slot_timeout = '1s'");
            server.sql("select pg_reload_conf()");
            until("the slot is invalidated", || {
                server.sql("checkpoint");
                let reason = server.sql("select invalidation_reason from pg_replication_slots");
                (reason == "idle_timeout").then_some(())
            });
        },
        cure: |server: &Server, ()| {
            server.sql("alter system reset idle_replication_slot_timeout");
            server.sql("select pg_reload_conf()");
            drop_slot(server);
            server.sql(MAKE_SLOT);
        },
    };
    let server = ServerOptions::default().version(&version).start();
    server.sql(MAKE_SLOT);
    trouble.meet_at_start(&server);
}

#[test]
fn wal_that_the_server_has_removed_is_asked_for_until_somebody_brings_it() {
    let server = ServerOptions::default()
        .config("wal_keep_size = 0")
        .config("min_wal_size = 2MB")
        .start();
    let archive = Archive::new();
    let receiver = walring(&server, &archive, &["-v", "--synchronous"]);
    server.wait_flushed(server.write_wal(100));
    let needed = archive.partials()[0].replace(".partial", "");
    server.set_hba("local all all trust\n");
    end_streams(&server);
    let kept = remove_wal(&server, &needed);
    let held = archive.contents();
    server.set_hba("local all all trust\nlocal replication all trust\n");
    let line = "has already been removed";
    receiver.wait_for_lines(line, 4);
    assert!(archive.contents() == held, "files were touched");
    for (name, content) in &kept {
        archive.write(name, content);
    }
    let end = server.write_wal(10);
    server.wait_flushed(end);
    let exit = receiver.stop();
    assert_eq!(errors(&exit, line), 1, "{exit:#?}");
    assert!(
        exit.has_line_with(&["hint: ", "Copy the missing segments"]),
        "{exit:#?}"
    );
    let still_there = archive.contents();
    assert!(held.iter().chain(&kept).all(|file| still_there.contains(file)));
    archive.assert_partial_holds(&server, 1, end);
}

#[test]
fn a_server_without_room_for_a_receiver_is_asked_again() {
    let other = Archive::new();
    let trouble = Trouble {
        line: "number of requested standby connections exceeds max_wal_senders",
        hint: "max_wal_senders",
        arguments: &[],
        cause: |server: &Server| {
            let user = common::pg_receivewal(server, &other, &["-n"]);
            until("the only place is taken", || {
                (server.sql("select count(*) from pg_stat_replication") == "1").then_some(())
            });
            user
        },
        cure: |_: &Server, user: Process| drop(user.stop()),
    };
    let server = ServerOptions::default().config("max_wal_senders = 1").start();
    trouble.meet_at_start(&server);
}

#[test]
fn a_role_that_lost_its_right_is_refused_until_it_has_it_back() {
    let trouble = Trouble {
        line: "FATAL:  must be superuser or replication role to start walsender",
        hint: "REPLICATION",
        arguments: &["-U", "archivist"],
        cause: |server: &Server| drop(server.sql("alter role archivist noreplication")),
        cure: |server: &Server, ()| drop(server.sql("alter role archivist replication")),
    };
    let server = Server::start();
    server.sql("create role archivist login replication");
    trouble.meet_at_start(&server);
    trouble.meet_while_streaming(&server);
}

#[test]
fn rules_that_let_nobody_in_are_refused_until_they_do() {
    let trouble = Trouble {
        line: "FATAL:  no pg_hba.conf entry for replication connection",
        hint: "pg_hba.conf",
        arguments: &[],
        cause: |server: &Server| server.set_hba("local all all trust\n"),
        cure: |server: &Server, ()| {
            server.set_hba("local all all trust\nlocal replication all trust\n");
        },
    };
    let server = Server::start();
    trouble.meet_at_start(&server);
    trouble.meet_while_streaming(&server);
}

#[test]
fn a_server_that_is_starting_up_is_waited_for() {
    // Without hot_standby it never lets anybody in while it is a standby.
    let trouble = Trouble {
        line: "FATAL:  the database system is not accepting connections",
        hint: "",
        arguments: &[],
        cause: |server: &Server| {
            server.append_config("hot_standby = off\nmax_wal_senders = 5\n");
            let signal = server.data().join("standby.signal");
            std::fs::write(&signal, "").unwrap();
            common::scratch::give_to_server_user(&signal);
            server.stop_fast();
            server.start_in_recovery();
        },
        cure: |server: &Server, ()| {
            server.stop_fast();
            std::fs::remove_file(server.data().join("standby.signal")).unwrap();
            server.append_config("hot_standby = on\n");
            server.start_again();
        },
    };
    let server = Server::start();
    trouble.meet_at_start(&server);
    let archive = Archive::new();
    let receiver = streaming_verbose(&server, &archive);
    server.wait_flushed(server.write_wal(1500));
    (trouble.cause)(&server);
    trouble.mend(&server, &archive, receiver, ());
}

#[test]
fn the_database_of_the_connection_string_does_not_matter() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = walring(&server, &archive, &["--synchronous", "-d", "dbname=gone"]);
    let end = server.write_wal(10);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_stopped_server_is_noticed_and_gone_on_with() {
    for arguments in [&[][..], &["-n"]] {
        let (server, archive) = (Server::start(), Archive::new());
        let arguments = [&["--synchronous", "--receive-timeout=2"], arguments].concat();
        let receiver = walring(&server, &archive, &arguments);
        server.wait_flushed(server.write_wal(100));
        let walsender = server
            .receiver_column("pid")
            .expect("it streams")
            .parse()
            .unwrap();
        let stopped = [
            server.postmaster_pid().unwrap(),
            Pid::from_raw(walsender).unwrap(),
        ];
        let stopped = Stopped::processes(&stopped);
        receiver.wait_for_line("the server has sent nothing within the receive timeout of 2 seconds");
        let held = archive.contents();
        if arguments.contains(&"-n") {
            receiver.finish().assert_error(&program::error("disconnected"));
            assert!(archive.contents() == held, "files were touched");
            continue;
        }
        drop(stopped);
        let end = server.write_wal(100);
        server.wait_flushed(end);
        let exit = receiver.stop();
        assert_eq!(errors(&exit, "receive timeout"), 1, "{exit:#?}");
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn a_server_that_crashes_is_gone_on_with() {
    for end_of in [Server::stop_immediate, Server::kill] {
        let (server, archive) = (Server::start(), Archive::new());
        let receiver = streaming(&server, &archive);
        for _ in 0..2 {
            server.wait_flushed(server.write_wal(1500));
            end_of(&server);
            receiver.wait_for_line("disconnected");
            server.start_again();
        }
        let end = server.write_wal(100);
        server.wait_flushed(end);
        receiver.stop();
        archive.assert_holds(&server, 1, end);
    }
}

#[test]
fn a_server_that_is_away_for_long_is_complained_about_once() {
    let (server, archive) = (Server::start(), Archive::new());
    let receiver = streaming_verbose(&server, &archive);
    server.wait_flushed(server.write_wal(100));
    server.stop_fast();
    let line = "No such file or directory";
    receiver.wait_for_lines(line, 4);
    server.start_again();
    let end = server.write_wal(100);
    server.wait_flushed(end);
    let exit = receiver.stop();
    assert_eq!(errors(&exit, line), 1, "{exit:#?}");
    archive.assert_holds(&server, 1, end);
}

#[test]
fn a_server_that_soon_loses_patience_has_no_reason_to() {
    let server = ServerOptions::default().config("wal_sender_timeout = 3s").start();
    let archive = Archive::new();
    // It speaks only when spoken to.
    let receiver = walring(&server, &archive, &["--synchronous", "-s", "0"]);
    wait_for_streaming(&server);
    let walsender = server.receiver_column("pid");
    let since = server.sql("select now()");
    let patient = format!("reply_time > '{since}'::timestamptz + interval '10 s'");
    until("it has answered for some timeouts without news", || {
        (server.receiver_column(&patient)? == "t").then_some(())
    });
    let since = server.sql("select now()");
    let patient = format!("reply_time > '{since}'::timestamptz + interval '9 s'");
    until("it has answered for some timeouts with much to do", || {
        server.write_wal(500);
        (server.receiver_column(&patient)? == "t").then_some(())
    });
    assert_eq!(
        server.receiver_column("pid"),
        walsender,
        "{:#?}",
        receiver.stderr()
    );
    let end = server.write_wal(10);
    server.wait_flushed(end);
    receiver.stop();
    archive.assert_holds(&server, 1, end);
}

fn streaming_verbose(server: &Server, archive: &Archive) -> Process {
    let receiver = walring(server, archive, &["-v", "--synchronous"]);
    wait_for_streaming(server);
    receiver
}

/// Ends every stream, as an administrator does.
fn end_streams(server: &Server) {
    server.sql("select pg_terminate_backend(pid) from pg_stat_replication");
}

/// Drops the slot, whoever uses it.
fn drop_slot(server: &Server) {
    until("the slot is dropped", || {
        server.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where active");
        server.try_sql(DROP_SLOT).ok()
    });
}

/// Writes until the slot keeps its WAL no more.
fn invalidate_slot(server: &Server) {
    server.sql("alter system set wal_keep_size = 0");
    server.sql("select pg_reload_conf()");
    until("the slot has lost its WAL", || {
        server.write_wal(1500);
        server.sql("checkpoint");
        let status = server.sql("select wal_status from pg_replication_slots");
        (status == "lost").then_some(())
    });
}

/// Writes until the server has removed this segment; every segment from it on that has gone, too.
fn remove_wal(server: &Server, first: &str) -> Vec<(String, Vec<u8>)> {
    let mut kept: Vec<(String, Vec<u8>)> = Vec::new();
    until("the server removes WAL", || {
        let name = server.sql("select pg_walfile_name(pg_current_wal_lsn())");
        server.switch_wal();
        kept.push((name.clone(), server.wal_file(&name)));
        server.sql("checkpoint");
        let oldest = server.sql("select min(name) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$'");
        (*oldest > *first).then_some(())
    });
    let is_there = |name: &String| server.data().join("pg_wal").join(name).exists();
    kept.retain(|(name, _)| **name >= *first && !is_there(name));
    kept
}

fn errors(exit: &Exit, text: &str) -> usize {
    let said = exit.stderr.iter();
    said.filter(|line| line.contains("error: ") && line.contains(text))
        .count()
}
