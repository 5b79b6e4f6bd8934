//! A connection to a server that stays open: `psql`, asked one query after the other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::server::Server;
use super::wait::HANG;

/// Printed when a query has succeeded: behind its rows, after its commit.
const DONE: &str = "--done--";

/// A running `psql`; killed when it goes out of scope.
pub struct Session {
    psql: Child,
    queries: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    /// Starts `psql`; whether it reaches the server shows with the first query.
    pub fn open(server: &Server) -> Session {
        Session::of(server.client("psql"), "postgres")
    }

    /// The same with a `psql` that is aimed by the name of a database, or a connection string.
    pub fn of(mut command: Command, database: &str) -> Session {
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut psql = command.spawn().expect("start psql");
        let (queries, answers) = (psql.stdin.take().unwrap(), psql.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            // Ends with psql, or when nobody listens any more.
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Session { psql, queries, lines }
    }

    /// The answer as `psql` prints it, in lines; `None` when the query failed or the server is gone, and then for good.
    pub fn ask(&mut self, query: &str) -> Option<String> {
        let limit = Instant::now() + HANG;
        self.ask_unless(query, || {
            assert!(Instant::now() < limit, "no answer in {HANG:?}: {query}");
            false
        })
    }

    /// The same, given up without an answer once the condition holds: a commit may wait for ever.
    pub fn ask_unless(&mut self, query: &str, is_pointless: impl Fn() -> bool) -> Option<String> {
        writeln!(self.queries, "{query};\n\\echo {DONE}").ok()?;
        let mut answer = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) if line == DONE => return Some(answer.join("\n")),
                Ok(line) => answer.push(line),
                Err(RecvTimeoutError::Timeout) if is_pointless() => return None,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.psql.kill();
        let _ = self.psql.wait();
    }
}
