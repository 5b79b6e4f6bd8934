//! What a server is asked and told by its clients, and what is awaited of it.

use std::process::Command;

use super::super::lsn::Lsn;
use super::super::process::Process;
use super::super::wait::{self, until};
use super::{RECEIVER_NAME, Server};

impl Server {
    /// The answer to a query, as `psql` prints it without decoration.
    #[track_caller]
    pub fn sql(&self, query: &str) -> String {
        self.try_sql(query)
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// The answer to a query, or what went wrong.
    pub fn try_sql(&self, query: &str) -> Result<String, String> {
        let exit = self.start_sql(query).finish();
        if exit.code == Some(0) {
            Ok(exit.stdout.trim_end().to_owned())
        } else {
            Err(exit.stderr.join("\n"))
        }
    }

    /// A query that runs in the background; the test decides whether it may or must end.
    pub fn start_sql(&self, query: &str) -> Process {
        let mut command = self.client("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", query]);
        Process::spawn(command)
    }

    /// A position the server answers with.
    #[track_caller]
    pub fn lsn(&self, expression: &str) -> Lsn {
        self.sql(&format!("select {expression}")).parse().expect("an LSN")
    }

    /// How far the server's own WAL is durable.
    #[track_caller]
    pub fn flush_lsn(&self) -> Lsn {
        self.lsn("pg_current_wal_flush_lsn()")
    }

    /// Writes about this much WAL, committed.
    #[track_caller]
    pub fn write_wal(&self, kilobytes: u32) -> Lsn {
        let text = "repeat(md5(random()::text), 32)";
        self.sql(&format!(
            "select count(pg_logical_emit_message(true, 'load', {text})) from generate_series(1, {kilobytes})"
        ));
        self.flush_lsn()
    }

    /// Ends the current segment: the position is exactly at the beginning of the next.
    #[track_caller]
    pub fn switch_wal(&self) -> Lsn {
        self.write_wal(1);
        let end = self.lsn("pg_switch_wal()");
        let segment_bytes = self.segment_bytes();
        Lsn(end.0.div_ceil(segment_bytes) * segment_bytes)
    }

    /// Writes until the server has removed the segment of this name, and all before it.
    #[track_caller]
    pub fn remove_wal_behind(&self, name: &str) {
        until("the server removes WAL", || {
            self.switch_wal();
            self.sql("checkpoint");
            let oldest = self.sql("select min(name) from pg_ls_waldir()");
            (*oldest > *name).then_some(())
        });
    }

    /// A column of `pg_stat_replication` about the receiver, if it is connected and the column has a value; of its
    /// latest connection, should the server not have noticed the end of one before.
    pub fn receiver_column(&self, column: &str) -> Option<String> {
        let query = format!(
            "select {column} from pg_stat_replication where application_name = '{RECEIVER_NAME}' and {column} is not null \
             order by backend_start desc limit 1"
        );
        self.try_sql(&query).ok().filter(|answer| !answer.is_empty())
    }

    /// Waits until the receiver has acknowledged the position as flushed.
    #[track_caller]
    pub fn wait_flushed(&self, position: Lsn) {
        self.wait_reported("flush_lsn", position);
    }

    /// Waits until the receiver has reported the position in this column of `pg_stat_replication`.
    #[track_caller]
    pub fn wait_reported(&self, column: &str, position: Lsn) {
        let reported = || {
            self.receiver_column(column)
                .and_then(|lsn| lsn.parse::<Lsn>().ok())
        };
        wait::within(wait::HANG, || reported().filter(|lsn| *lsn >= position))
            .unwrap_or_else(|| panic!("{column} is {:?}, not {position}", reported()));
    }

    /// Where a slot keeps WAL from, once it does.
    pub fn slot_restart_lsn(&self, slot: &str) -> Option<Lsn> {
        let query = format!("select restart_lsn from pg_replication_slots where slot_name = '{slot}'");
        self.sql(&query).parse().ok()
    }

    /// A file of the server's own `pg_wal`.
    #[track_caller]
    pub fn wal_file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.data().join("pg_wal").join(name))
            .unwrap_or_else(|e| panic!("read pg_wal/{name}: {e}"))
    }

    /// Fills the tables of `pgbench`: about 15 MB of WAL.
    #[track_caller]
    pub fn pgbench_init(&self) {
        self.start_pgbench(&["-i", "-q"]).finish().assert_success();
    }

    /// Runs `pgbench` in the background; it is stopped when the handle goes out of scope.
    pub fn start_pgbench(&self, arguments: &[&str]) -> Process {
        let mut command = self.client("pgbench");
        command.args(arguments).arg("postgres");
        Process::spawn(command)
    }

    /// A client program, aimed at this server.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.installation.command(program);
        command
            .arg("-h")
            .arg(self.socket_directory())
            .args(["-p", &self.port.to_string(), "-U", "postgres"]);
        command
    }
}
