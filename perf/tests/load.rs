//! The load and the floor against a server of their own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use walring_perf::load::{Load, Pace, Timed};
use walring_perf::observe::usage;
use walring_perf::results::Metric;

use common::postgres::clean;
use common::process::Process;
use common::server::{RECEIVER_NAME, Server};
use common::wait::until;

/// The parts of the receiver's tests that need no receiver.
#[allow(dead_code)]
#[path = "../../tests/common"]
mod common {
    pub mod lsn;
    pub mod postgres;
    pub mod process;
    pub mod scratch;
    pub mod server;
    pub mod skip;
    pub mod wait;
}

const INSERT: &str = "insert into t values ($1)";

/// Long enough to be told from everything else that holds up a commit.
const STALL: Duration = Duration::from_millis(700);

/// A server with a table `t`; `None`, and reported as skipped, without PostgreSQL.
fn server() -> Option<Server> {
    let named = std::env::var_os("WALRING_PG").map(PathBuf::from);
    if named.is_none() && !PathBuf::from("/usr/lib/postgresql").is_dir() {
        common::skip::skip("the load and the floor: PostgreSQL is not installed");
        return None;
    }
    let server = Server::start();
    server.sql("create table t (client int)");
    Some(server)
}

fn connect(server: &Server, clients: u32) -> Load {
    Load::connect(&config(server), clients, INSERT).expect("connect the load")
}

fn config(server: &Server) -> String {
    let directory = server.socket_directory().display();
    format!(
        "host={directory} port={} user=postgres dbname=postgres",
        server.port()
    )
}

/// The floor as the only synchronous standby, which has acknowledged something.
fn synchronous_floor(server: &Server) -> Process {
    server.sql("alter user postgres password 'secret'");
    server.set_hba("local all all trust\nhost replication all 127.0.0.1/32 scram-sha-256\n");
    let floor = start_floor(server, &[]);
    server.append_config(&format!("synchronous_standby_names = '{RECEIVER_NAME}'\n"));
    server.sql("select pg_reload_conf()");
    until("the floor is synchronous", || {
        server
            .receiver_column("sync_state")
            .filter(|state| state == "sync")
    });
    floor
}

fn start_floor(server: &Server, arguments: &[&str]) -> Process {
    let mut command = clean(Command::new(env!("CARGO_BIN_EXE_walring-perf")));
    let port = server.port();
    command.args(["floor", "--dbname"]).arg(format!(
        "host=127.0.0.1 port={port} user=postgres password=secret application_name={RECEIVER_NAME}"
    ));
    command.args(arguments);
    Process::spawn(command)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn every_commit_that_is_counted_is_in_the_table() {
    let Some(server) = server() else { return };
    let mut load = connect(&server, 4);
    let mut total = 0;
    for pace in [Pace::Closed, Pace::Open { per_second: 200.0 }] {
        let timed = load.run(pace, seconds(0.5)).expect("run the load");
        assert_eq!(timed.latencies.len(), timed.samples.len() as u64);
        assert!(timed.samples.is_sorted_by_key(|sample| sample.at));
        assert!(timed.elapsed >= timed.samples.last().expect("a commit").at);
        total += timed.samples.len();
    }
    assert_eq!(server.sql("select count(*) from t"), total.to_string());
    assert_eq!(
        server.sql("select string_agg(distinct client::text, '' order by client::text) from t"),
        "0123"
    );
}

#[test]
fn an_open_loop_keeps_its_rate_and_its_moments() {
    let Some(server) = server() else { return };
    let mut load = connect(&server, 8);
    let mut moments = || {
        let timed = load.run(Pace::Open { per_second: 200.0 }, seconds(1.5));
        let samples = timed.expect("run the load").samples;
        samples.iter().map(|sample| sample.at).collect::<Vec<_>>()
    };
    let first = moments();
    assert!((240..360).contains(&first.len()), "{}", first.len());
    assert_eq!(first, moments());
    let error = load
        .run(Pace::Open { per_second: 0.0 }, seconds(1.0))
        .unwrap_err();
    assert_eq!(error.to_string(), "a rate of 0 commits a second cannot be kept");
}

/// Runs the load while the receiver that its commits wait for stands still for a while.
fn stalled(server: &Server, floor: &Process, pace: Pace) -> Timed {
    let mut load = connect(server, 1);
    load.run(pace, seconds(0.3)).expect("warm up");
    let pid = floor.pid();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(seconds(0.5));
        kill_process(pid, Signal::STOP).expect("stop the floor");
        std::thread::sleep(STALL);
        kill_process(pid, Signal::CONT).expect("let the floor go on");
    });
    let timed = load.run(pace, seconds(4.0)).expect("run the load");
    stopper.join().expect("stop the floor");
    timed
}

#[test]
fn a_stall_is_seen_by_the_open_loop_and_by_the_correction_only() {
    let Some(server) = server() else { return };
    let floor = synchronous_floor(&server);
    let half = STALL.as_secs_f64() * 1e3 / 2.0;

    let closed = stalled(&server, &floor, Pace::Closed).measures();
    assert!(closed[&Metric::MaxMs] > half, "{closed:?}");
    assert!(closed[&Metric::P99Ms] < half, "{closed:?}");
    assert!(closed[&Metric::CorrectedP99Ms] > half, "{closed:?}");

    let open = stalled(&server, &floor, Pace::Open { per_second: 100.0 }).measures();
    assert!(open[&Metric::P99Ms] > half, "{open:?}");
    assert_eq!(open[&Metric::P99Ms], open[&Metric::CorrectedP99Ms]);
}

#[test]
fn the_floor_acknowledges_everything_and_ends_when_it_is_told_to() {
    let Some(server) = server() else { return };
    let floor = synchronous_floor(&server);
    let before =
        usage(u32::try_from(floor.pid().as_raw_nonzero().get()).expect("a process id")).expect("it runs");
    server.sql("set synchronous_commit = remote_apply; insert into t values (1)");
    let end = server.write_wal(3000);
    server.wait_flushed(end);
    server.wait_reported("replay_lsn", end);
    let after =
        usage(u32::try_from(floor.pid().as_raw_nonzero().get()).expect("a process id")).expect("it runs");
    assert!(after.since(&before).cpu > Duration::ZERO);
    let exit = floor.end_by(Signal::TERM);
    exit.assert_success();
    assert_eq!((exit.stdout.as_str(), exit.stderr.len()), ("", 0), "{exit:?}");
}

#[test]
fn the_floor_serves_a_server_that_shuts_down() {
    let Some(server) = server() else { return };
    let floor = synchronous_floor(&server);
    server.stop_fast();
    floor.finish().assert_success();
}

#[test]
fn the_floor_catches_up_to_an_end() {
    let Some(server) = server() else { return };
    synchronous_floor(&server).end_by(Signal::INT).assert_success();
    let mut start = server.flush_lsn().to_string();
    server.sql("set synchronous_commit = local; insert into t select 1 from generate_series(1, 100000)");
    for _ in 0..2 {
        let end = server.flush_lsn().to_string();
        let floor = start_floor(&server, &["--startpos", &start, "--endpos", &end]);
        floor.finish().assert_success();
        start = end;
    }
    let floor = start_floor(&server, &["--startpos", "FF/0"]);
    let exit = floor.finish();
    assert_eq!(exit.code, Some(1));
    assert!(
        exit.has_line_with(&["walring-perf: error: ", "FF/0 is ahead"]),
        "{exit:?}"
    );
}

#[test]
fn commits_that_hang_fail_the_run_and_are_withdrawn() {
    let Some(server) = server() else { return };
    let mut load = connect(&server, 2).giving_up_after(seconds(0.5));
    server.append_config("synchronous_standby_names = 'nobody'\n");
    server.sql("select pg_reload_conf()");
    until("commits wait", || {
        (server.sql("show synchronous_standby_names") == "nobody").then_some(())
    });
    let error = load.run(Pace::Closed, seconds(2.0)).unwrap_err().to_string();
    assert!(
        error.starts_with("commits of 2 of 2 clients did not end within 0.5 s: "),
        "{error}"
    );
    until("nothing waits any more", || {
        let waiting = server.sql("select count(*) from pg_stat_activity where wait_event = 'SyncRep'");
        (waiting == "0").then_some(())
    });
    let error = load.run(Pace::Closed, seconds(0.2)).unwrap_err().to_string();
    assert!(error.contains("connect again"), "{error}");
}

#[test]
fn what_cannot_be_run_is_refused_with_the_reason() {
    let Some(server) = server() else { return };
    let refused = |config: &str, statement: &str| match Load::connect(config, 1, statement) {
        Ok(_) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    };
    let config = config(&server);
    let unknown = refused(&config, "insert into nowhere values (1)");
    assert!(
        unknown.contains("ERROR: relation \"nowhere\" does not exist"),
        "{unknown}"
    );
    let parameter = refused(&config, "select $1::text");
    assert!(
        parameter.contains("may have no parameter but the client's number"),
        "{parameter}"
    );
    let nowhere = refused("host=/nonexistent user=postgres", INSERT);
    assert!(
        nowhere.starts_with("could not connect client 0 of the load: "),
        "{nowhere}"
    );
}
