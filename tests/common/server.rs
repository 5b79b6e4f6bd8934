//! A PostgreSQL server of its own for a test: on loopback and a private socket, with its data in memory if possible.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use super::lsn::Lsn;
use super::postgres::{Installation, server_user};
use super::process::Process;
use super::wait::{self, until};

/// The `application_name` under which receivers connect.
pub const RECEIVER_NAME: &str = "receiver";

/// What every server of the tests has in common.
const CONFIG: &str = "
fsync = off
autovacuum = off
checkpoint_timeout = 1h
wal_keep_size = 2GB
shared_buffers = 16MB
log_replication_commands = on
listen_addresses = '127.0.0.1'
";

/// What can be chosen about a server.
pub struct ServerOptions {
    installation: Installation,
    segment_mb: u32,
    cluster: &'static str,
    config: Vec<String>,
}

/// A server; stopped, and its files removed, when it goes out of scope.
pub struct Server {
    installation: Installation,
    segment_mb: u32,
    home: tempfile::TempDir,
    port: u16,
    postmaster: Mutex<Option<Child>>,
}

impl Default for ServerOptions {
    fn default() -> ServerOptions {
        ServerOptions {
            installation: Installation::standard(),
            segment_mb: 1,
            cluster: "usual",
            config: Vec::new(),
        }
    }
}

impl ServerOptions {
    /// Another version than the distribution's.
    pub fn version(mut self, installation: &Installation) -> ServerOptions {
        self.installation = installation.clone();
        self
    }

    /// Another size than 1 MB for the segments.
    pub fn segment_mb(mut self, segment_mb: u32) -> ServerOptions {
        self.segment_mb = segment_mb;
        self
    }

    /// A system identifier that no other server has.
    pub fn another_cluster(mut self) -> ServerOptions {
        self.cluster = "another";
        self
    }

    /// One more line for `postgresql.conf`.
    pub fn config(mut self, line: &str) -> ServerOptions {
        self.config.push(line.to_owned());
        self
    }

    /// Makes the server and starts it.
    pub fn start(self) -> Server {
        let server = self.create();
        server.start_again();
        server
    }

    /// Makes the server without starting it.
    pub fn create(self) -> Server {
        let home = tempfile::Builder::new()
            .prefix("server-")
            .tempdir_in(scratch())
            .expect("create a home");
        open_to_server_user(home.path());
        copy_tree(&self.template(), &home.path().join("data"));
        let server = Server {
            installation: self.installation,
            segment_mb: self.segment_mb,
            port: free_port(),
            home,
            postmaster: Mutex::new(None),
        };
        let own = format!(
            "port = {}\nunix_socket_directories = '{}'\n",
            server.port,
            server.home.path().display()
        );
        server.append_config(&[CONFIG, &own, &self.config.join("\n"), "\n"].concat());
        server
    }

    /// A fresh cluster to copy from: `initdb` takes longer than the copy. Test programs that run at the same time may
    /// both make it; the first rename wins.
    fn template(&self) -> PathBuf {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = rustix::process::geteuid().as_raw();
        let what = format!("{}-{}-{}", self.installation.id(), self.segment_mb, self.cluster);
        let finished = scratch().join(format!("walring-template-{uid}{what}"));
        if !finished.exists() {
            let work = tempfile::Builder::new()
                .prefix("template-")
                .tempdir_in(scratch())
                .expect("create a template");
            open_to_server_user(work.path());
            let mut initdb = self.installation.server_command("initdb");
            initdb.args(["-U", "postgres", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]);
            initdb
                .arg(format!("--wal-segsize={}", self.segment_mb))
                .arg("-D")
                .arg(work.path().join("data"));
            run(initdb);
            let _ = std::fs::rename(work.path().join("data"), &finished);
        }
        finished
    }
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

    /// The process id of the server's first process, if it runs.
    pub fn postmaster_pid(&self) -> Option<Pid> {
        self.postmaster().as_ref().map(Pid::from_child)
    }

    /// Also after a failure while it was locked: the server has to be stopped then, too.
    fn postmaster(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Runs a command to its end, which must be a success.
#[track_caller]
pub fn run(mut command: Command) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn is_ready(status: &str) -> bool {
    matches!(status.trim(), "ready" | "standby")
}

/// Where servers live: what `tests/run.sh` chose, or the system's place for temporary files.
pub fn scratch() -> PathBuf {
    let chosen = std::env::var_os("WALRING_TEST_DIR").map(PathBuf::from);
    chosen.unwrap_or_else(std::env::temp_dir)
}

fn copy_tree(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    run(copy);
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(path)
        .expect("open to append");
    file.write_all(text.as_bytes()).expect("append");
}

/// Lets the servers write into a directory, and everybody read it.
pub fn open_to_server_user(path: &Path) {
    give_to_server_user(path);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("open a directory");
}

/// Lets the servers write a file that a test has made.
pub fn give_to_server_user(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("give a file away");
    }
}

/// A port nobody listens on; the kernel does not soon give the same one again.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    listener.local_addr().expect("a bound port").port()
}
