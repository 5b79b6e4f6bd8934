//! The PostgreSQL whose WAL is received: a throw-away one, on loopback and a private socket.
//!
//! Its data are in memory where there is room, so that the receiver's disk is measured and not the primary's.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::interrupt;

/// The `application_name` of every receiver; the primary's commits wait for it.
pub const RECEIVER_NAME: &str = "receiver";

/// Memory that must be free for the primary's data to be put there.
const NEEDED_BYTES: u64 = 6 << 30;

/// A server is given so long to recover and accept connections: only one that hangs takes as long.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// The PostgreSQL programs.
#[derive(Debug, Clone)]
pub struct Installation {
    bin: PathBuf,
    server_user: Option<(u32, u32)>,
}

impl Installation {
    /// The programs in `$PG_BIN`, or the newest of the distribution.
    pub fn find() -> Result<Installation> {
        let named = std::env::var_os("PG_BIN").map(PathBuf::from);
        let bin = named
            .or_else(newest_of_distribution)
            .context("no PostgreSQL in /usr/lib/postgresql: install it, or set PG_BIN to the directory of its programs")?;
        for program in ["initdb", "postgres", "pg_receivewal", "pg_basebackup"] {
            if !bin.join(program).exists() {
                bail!("no {program} in {}: set PG_BIN", bin.display());
            }
        }
        Ok(Installation {
            bin,
            server_user: server_user()?,
        })
    }

    /// Where a program is.
    pub fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// A program that runs as the server's user, which is not root.
    pub fn as_server(&self, program: &str) -> Command {
        let mut command = clean_command(&self.path(program));
        if let Some((uid, gid)) = self.server_user {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/");
        command
    }

    /// Gives a file or directory to the server's user.
    pub fn give(&self, path: &Path) -> Result<()> {
        let Some((uid, gid)) = self.server_user else {
            return Ok(());
        };
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .with_context(|| format!("chown {}", path.display()))
    }

    /// Whether the server's user can use a directory below `path`.
    pub fn can_reach(&self, path: &Path) -> bool {
        let mut test = clean_command(Path::new("test"));
        if let Some((uid, gid)) = self.server_user {
            test.uid(uid).gid(gid);
        }
        test.arg("-x")
            .arg(path)
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// A command without the caller's `PG…` variables, in English, which a Ctrl-C in the terminal does not reach.
pub fn clean_command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").process_group(0).stdin(Stdio::null());
    command
}

fn newest_of_distribution() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|version| Path::new(&format!("/usr/lib/postgresql/{version}/bin/postgres")).exists())
        .max()?;
    Some(PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin")))
}

/// PostgreSQL refuses to run as root: there it runs as the user its package made.
fn server_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let user = nix::unistd::User::from_name("postgres")
        .context("look up the user postgres")?
        .context("a server does not run as root, and there is no user postgres: run this as another user")?;
    Ok(Some((user.uid.as_raw(), user.gid.as_raw())))
}

/// The primary. Stopped, and its files removed, when it goes out of scope.
pub struct Primary {
    control: Option<Client>,
    postmaster: Child,
    port: u16,
    password: String,
    segment_bytes: u64,
    home: TempDir,
}

impl Primary {
    /// Makes a primary with segments of so many MiB, and starts it.
    pub fn start(installation: &Installation, segment_mib: u32) -> Result<Primary> {
        Primary::start_with(installation, segment_mib, "")
    }

    /// The same, with more lines for its `postgresql.conf`.
    pub fn start_with(installation: &Installation, segment_mib: u32, settings: &str) -> Result<Primary> {
        let home = new_home(installation)?;
        let password = format!("{:032x}", fastrand::u128(..));
        let password_file = home.path().join("password");
        File::create(&password_file)?.write_all(password.as_bytes())?;
        std::fs::set_permissions(&password_file, std::fs::Permissions::from_mode(0o600))?;
        installation.give(&password_file)?;
        create_cluster(installation, home.path(), segment_mib)?;
        let segment_bytes = u64::from(segment_mib) << 20;
        let mut primary = Primary::open(installation, home, password, segment_bytes, settings)?;
        primary.keep_wal()?;
        Ok(primary)
    }

    /// Starts a server on what is in `data` below `home`, which may be a backup: it recovers first.
    pub fn open(
        installation: &Installation,
        home: TempDir,
        password: String,
        segment_bytes: u64,
        settings: &str,
    ) -> Result<Primary> {
        let port = free_port()?;
        configure(home.path(), port, settings)?;
        let mut primary = Primary {
            postmaster: launch(installation, home.path())?,
            control: None,
            port,
            password,
            segment_bytes,
            home,
        };
        primary.wait_until_ready()?;
        Ok(primary)
    }

    /// Ends the server with a signal (SIGINT is a fast shutdown, SIGQUIT an immediate one) and starts it again.
    pub fn restart(&mut self, installation: &Installation, signal: Signal) -> Result<()> {
        self.control = None;
        stop(&mut self.postmaster, signal);
        let end = Instant::now() + READY_LIMIT;
        let log = self.home.path().join("log");
        loop {
            let old = std::fs::metadata(&log).map_or(0, |log| log.len());
            self.postmaster = launch(installation, self.home.path())?;
            let ready = self.wait_until_ready();
            // What a killed server leaves behind holds its memory for a moment.
            let said = std::fs::read(&log).unwrap_or_default().split_off(old as usize);
            let in_use = String::from_utf8_lossy(&said).contains("is still in use");
            if ready.is_ok() || !in_use || Instant::now() > end {
                return ready;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where it listens on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process, whose children are all its others.
    pub fn postmaster(&self) -> u32 {
        self.postmaster.id()
    }

    /// Where the load generator connects: the private socket, as a superuser.
    pub fn load_config(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.home.path().display(),
            self.port
        )
    }

    /// Where receivers connect: TCP on the loopback interface. The password goes by [`Primary::password`].
    pub fn receiver_conninfo(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres application_name={RECEIVER_NAME}",
            self.port
        )
    }

    /// For the environment variable `PGPASSWORD`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The size of a segment, bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// Where its segments are.
    pub fn pg_wal(&self) -> PathBuf {
        self.home.path().join("data/pg_wal")
    }

    /// Where its files are.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// What it said last.
    pub fn log_tail(&self) -> String {
        tail(&self.home.path().join("log"))
    }

    /// Runs statements that wait for no receiver.
    pub fn execute(&mut self, sql: &str) -> Result<()> {
        self.control()?
            .batch_execute(sql)
            .map_err(|error| describe(error, sql))
    }

    /// The single value that a query gives, waiting for no receiver.
    pub fn value<T: for<'a> postgres::types::FromSql<'a>>(&mut self, sql: &str) -> Result<T> {
        let row = self
            .control()?
            .query_one(sql, &[])
            .map_err(|error| describe(error, sql))?;
        row.try_get(0).map_err(|error| describe(error, sql))
    }

    /// A position in the WAL, bytes, by the expression that gives it.
    pub fn position(&mut self, expression: &str) -> Result<u64> {
        let position: i64 = self.value(&format!("SELECT ({expression} - '0/0')::int8"))?;
        Ok(position.unsigned_abs())
    }

    /// Where the WAL is flushed to.
    pub fn flushed(&mut self) -> Result<u64> {
        self.position("pg_current_wal_flush_lsn()")
    }

    /// A connection of its own, whose commits wait for the receiver.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(&self.load_config(), NoTls).context("connect to the primary")
    }

    /// A slot that nobody reads holds the WAL from here on, for the comparison afterwards.
    pub fn keep_wal(&mut self) -> Result<()> {
        self.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'keep'",
        )?;
        self.execute("CHECKPOINT")?;
        self.execute("SELECT pg_create_physical_replication_slot('keep', true)")
    }

    /// Begins a new segment: what was written so far is in finished ones. Returns where it begins.
    pub fn switch_segment(&mut self) -> Result<u64> {
        self.execute("SELECT pg_switch_wal()")?;
        let position = self.position("pg_current_wal_insert_lsn()")?;
        Ok(position / self.segment_bytes * self.segment_bytes)
    }

    /// Whether a receiver is connected and commits wait for it.
    pub fn has_synchronous_receiver(&mut self) -> Result<bool> {
        self.value(
            "SELECT coalesce(bool_or(state = 'streaming' AND sync_state = 'sync'), false) FROM pg_stat_replication",
        )
    }

    /// Whether no receiver is connected any more.
    pub fn is_alone(&mut self) -> Result<bool> {
        self.value("SELECT count(*) = 0 FROM pg_stat_replication")
    }

    /// What the receiver has acknowledged as flushed, once that is all there is.
    pub fn acknowledged(&mut self) -> Result<u64> {
        let all = "SELECT coalesce(bool_and(flush_lsn >= pg_current_wal_flush_lsn()), false) FROM pg_stat_replication";
        self.wait_until(
            Duration::from_secs(60),
            "the receiver acknowledges the end of the WAL",
            |primary| primary.value(all),
        )?;
        self.position("(SELECT flush_lsn FROM pg_stat_replication)")
    }

    /// Waits until something is so. The error says what was waited for.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut is_so: impl FnMut(&mut Primary) -> Result<bool>,
    ) -> Result<()> {
        let end = Instant::now() + limit;
        while !is_so(self)? {
            interrupt::check()?;
            if Instant::now() > end {
                bail!("not within {} s: {what}", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn control(&mut self) -> Result<&mut Client> {
        self.control.as_mut().context("the primary is not ready")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let config = format!("{} options='-c synchronous_commit=local'", self.load_config());
        self.wait_until(READY_LIMIT, "the primary accepts connections", |primary| {
            if let Some(status) = primary.postmaster.try_wait()? {
                bail!("the primary did not start ({status}): {}", primary.log_tail());
            }
            primary.control = Client::connect(&config, NoTls).ok();
            Ok(primary.control.is_some())
        })
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.control = None;
        // As after a crash: nothing of it is wanted any more.
        stop(&mut self.postmaster, Signal::QUIT);
    }
}

/// Ends a child with a signal, and if it does not heed that, kills it.
pub fn stop(child: &mut Child, signal: Signal) {
    let Some(pid) = Pid::from_raw(child.id().cast_signed()) else {
        return;
    };
    if child.try_wait().is_ok_and(|status| status.is_none()) {
        let _ = kill_process(pid, signal);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while child.try_wait().is_ok_and(|status| status.is_none()) {
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The last lines of a log, for an error.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(6)..];
    if last.is_empty() {
        "nothing".to_owned()
    } else {
        last.join(" | ")
    }
}

/// Runs a command to its end; the error has what it said.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn describe(error: postgres::Error, sql: &str) -> anyhow::Error {
    let reason = error
        .as_db_error()
        .map_or_else(|| error.to_string(), ToString::to_string);
    anyhow::anyhow!("the primary: {reason} (in: {sql})")
}

/// Memory where there is room, or the directory of temporary files.
fn data_parent() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let room = rustix::fs::statvfs(&memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    if room >= NEEDED_BYTES {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// An empty directory for a server, which its user owns.
pub fn new_home(installation: &Installation) -> Result<TempDir> {
    let home = tempfile::Builder::new()
        .prefix("walring-perf-")
        .tempdir_in(data_parent())?;
    installation.give(home.path())?;
    Ok(home)
}

/// Checksums of data pages are off, as they are by default: the primary's work is not what is measured.
fn create_cluster(installation: &Installation, home: &Path, segment_mib: u32) -> Result<()> {
    let mut initdb = installation.as_server("initdb");
    initdb.args([
        "--username=postgres",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--no-sync",
    ]);
    initdb.args(["--encoding=UTF8", "--no-locale"]);
    initdb.arg(format!("--wal-segsize={segment_mib}"));
    initdb.arg("--pwfile").arg(home.join("password"));
    initdb.arg("--pgdata").arg(home.join("data"));
    run(&mut initdb)
}

fn configure(home: &Path, port: u16, settings: &str) -> Result<()> {
    let lines = format!(
        "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
         max_connections = 200\nautovacuum = off\ncheckpoint_timeout = 1h\nmax_wal_size = 1TB\n\
         synchronous_standby_names = '{RECEIVER_NAME}'\n{settings}",
        home.display()
    );
    let mut file = File::options()
        .append(true)
        .open(home.join("data/postgresql.conf"))?;
    Ok(file.write_all(lines.as_bytes())?)
}

fn launch(installation: &Installation, home: &Path) -> Result<Child> {
    let log = File::options().append(true).create(true).open(home.join("log"))?;
    let mut server = installation.as_server("postgres");
    server
        .arg("-D")
        .arg(home.join("data"))
        .stdout(log.try_clone()?)
        .stderr(log);
    server.spawn().context("start the primary")
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}
