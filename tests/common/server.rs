//! A PostgreSQL server of its own for a test: on loopback and a private socket, with its data in memory if possible.

mod options;
mod queries;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use super::postgres::Installation;
use super::process::run;
use super::scratch::{append, copy_tree, give_to_server_user};
use super::wait::until;

pub use options::ServerOptions;

/// The `application_name` under which receivers connect.
pub const RECEIVER_NAME: &str = "receiver";

/// A server; stopped, and its files removed, when it goes out of scope.
pub struct Server {
    installation: Installation,
    segment_mb: u32,
    home: tempfile::TempDir,
    port: u16,
    postmaster: Mutex<Option<Child>>,
}

impl Server {
    /// The distribution's version with segments of 1 MB.
    pub fn start() -> Server {
        ServerOptions::default().start()
    }

    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    pub fn segment_bytes(&self) -> u64 {
        u64::from(self.segment_mb) << 20
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_directory(&self) -> &Path {
        self.home.path()
    }

    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Adds lines to `postgresql.conf`; they count from the next start or reload.
    pub fn append_config(&self, lines: &str) {
        append(&self.data().join("postgresql.conf"), lines);
    }

    /// Replaces `pg_hba.conf`. If the server runs, connections made from now on meet what it says.
    pub fn set_hba(&self, lines: &str) {
        std::fs::write(self.data().join("pg_hba.conf"), lines).expect("write pg_hba.conf");
        if self.postmaster_pid().is_some() {
            self.reload();
        }
    }

    /// Reads the configuration again: connections made from now on meet what it says.
    pub fn reload(&self) {
        let reloads = || self.log().matches("reloading configuration files").count();
        let before = reloads();
        self.signal(Signal::HUP);
        until("the server is reloaded", || (reloads() > before).then_some(()));
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).expect("read the server's log")
    }

    /// Starts the server and waits until it accepts connections. A killed server's children may still hold its memory
    /// for a moment: then it ends at once, and is started once more.
    pub fn start_again(&self) {
        until("the server starts", || {
            self.launch();
            self.wait_until_ready().then_some(())
        });
    }

    /// Starts a server that lets nobody in: a standby without `hot_standby`.
    pub fn start_in_recovery(&self) {
        let lines = || self.log().matches("consistent recovery state reached").count();
        let before = lines();
        self.launch();
        until("the server is in recovery", || (lines() > before).then_some(()));
    }

    /// Stops the server as `pg_ctl stop -m fast` does: receivers are served to the end.
    pub fn stop_fast(&self) {
        self.end_by(Signal::INT);
    }

    /// Stops the server as `pg_ctl stop -m immediate` does: as a crash.
    pub fn stop_immediate(&self) {
        self.end_by(Signal::QUIT);
    }

    /// Kills the server's first process; the others notice and end.
    pub fn kill(&self) {
        self.end_by(Signal::KILL);
    }

    /// Kills all processes of the server together: none is left that finishes a commit or tells the receiver.
    pub fn kill_all(&self) {
        let first = self.postmaster_pid().expect("the server runs");
        // Stopped, it neither starts more nor buries its children, whose process ids stay theirs.
        self.signal(Signal::STOP);
        let pid = first.as_raw_nonzero();
        let list = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(list).expect("list the server's processes");
        for child in children.split_whitespace() {
            let child = child.parse().ok().and_then(Pid::from_raw).expect("a process id");
            kill_process(child, Signal::KILL).expect("kill a process of the server");
        }
        self.end_by(Signal::KILL);
    }

    /// Stops and starts.
    pub fn restart(&self) {
        self.stop_fast();
        self.start_again();
    }

    /// Sends a signal to the server's first process and waits for its end.
    pub fn end_by(&self, signal: Signal) {
        self.signal(signal);
        let mut postmaster = self.postmaster();
        let child = postmaster.as_mut().expect("the server runs");
        until("the server ends", || {
            child.try_wait().expect("wait for the server")
        });
        *postmaster = None;
    }

    /// Sends a signal to the server's first process.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.postmaster_pid().expect("the server runs"), signal).expect("signal the server");
    }

    /// Makes a running or stopped server a standby of nobody, ready to be promoted.
    pub fn restart_as_standby(&self) {
        if self.postmaster_pid().is_some() {
            self.stop_fast();
        }
        let signal_file = self.data().join("standby.signal");
        std::fs::write(&signal_file, "").expect("write standby.signal");
        give_to_server_user(&signal_file);
        self.start_again();
    }

    /// The stopped server's data as it is now, for [`Server::restore`].
    pub fn snapshot(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir_in(self.home.path()).expect("create a directory");
        copy_tree(&self.data(), &copy.path().join("data"));
        copy
    }

    /// Puts data of this server's past, or of another server, in the place of the stopped server's. Its
    /// configuration stays: it is at the same address.
    pub fn restore(&self, data: &Path) {
        let kept = ["postgresql.conf", "pg_hba.conf"];
        let kept = kept.map(|name| {
            (
                name,
                std::fs::read(self.data().join(name)).expect("read the configuration"),
            )
        });
        std::fs::remove_dir_all(self.data()).expect("make room for other data");
        copy_tree(data, &self.data());
        for (name, content) in kept {
            std::fs::write(self.data().join(name), content).expect("configure the server");
        }
    }

    /// Promotes a standby: a new timeline begins.
    pub fn promote(&self) {
        assert_eq!(self.sql("select pg_promote()"), "t", "promote");
    }

    /// A streaming standby of this server.
    pub fn standby(&self) -> Server {
        let standby = self.base_backup(&["-R"]);
        standby.start_again();
        standby
    }

    /// A copy of this server, not started yet.
    pub fn base_backup(&self, arguments: &[&str]) -> Server {
        let copy = ServerOptions::default()
            .version(&self.installation)
            .segment_mb(self.segment_mb)
            .create();
        copy.become_copy_of(self, arguments);
        copy
    }

    /// Puts a base backup in the place of the stopped server's data. Its configuration stays: it is at the same address.
    pub fn become_copy_of(&self, source: &Server, arguments: &[&str]) {
        let config = std::fs::read(self.data().join("postgresql.conf")).expect("read postgresql.conf");
        std::fs::remove_dir_all(self.data()).expect("make room for the base backup");
        let mut backup = source.installation.server_command("pg_basebackup");
        backup
            .args(["-U", "postgres", "-c", "fast", "-D"])
            .arg(self.data())
            .args(arguments);
        backup
            .arg("-h")
            .arg(source.socket_directory())
            .args(["-p", &source.port.to_string()]);
        run(backup);
        std::fs::write(self.data().join("postgresql.conf"), config).expect("configure the copy");
    }

    /// The process id of the server's first process, if it runs.
    pub fn postmaster_pid(&self) -> Option<Pid> {
        self.postmaster().as_ref().map(Pid::from_child)
    }

    /// Also after a failure while it was locked: the server has to be stopped then, too.
    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch(&self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("open the log");
        let mut command = self.installation.server_command("postgres");
        command.arg("-D").arg(self.data()).stdin(Stdio::null());
        command
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log);
        *self.postmaster() = Some(command.spawn().expect("start postgres"));
    }

    /// Whether the launched server became ready; `false` when it ended instead.
    fn wait_until_ready(&self) -> bool {
        let mut postmaster = self.postmaster();
        let child = postmaster.as_mut().expect("the server was launched");
        let pid = child.id().to_string();
        let outcome = until("the server is ready", || {
            let status = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let is_ready = status.lines().next() == Some(&pid) && status.lines().nth(7).is_some_and(is_ready);
            let ended = child.try_wait().expect("look after the server").is_some();
            (is_ready || ended).then_some(is_ready)
        });
        if !outcome {
            *postmaster = None;
        }
        outcome
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = self.postmaster_pid() {
            let _ = kill_process(pid, Signal::QUIT);
            let child = self.postmaster().take();
            let _ = child.map(|mut child| child.wait());
        }
        if std::thread::panicking() {
            // A copy that was never started has none.
            let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("the server's log ends: {tail:#?}");
        }
    }
}

fn is_ready(status: &str) -> bool {
    matches!(status.trim(), "ready" | "standby")
}
