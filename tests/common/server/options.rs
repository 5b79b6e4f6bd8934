//! What can be chosen about a server, and the fresh clusters that servers are copies of.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::super::postgres::Installation;
use super::super::process::run;
use super::super::scratch::{copy_tree, free_port, open_to_server_user, scratch};
use super::Server;

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

    /// No more WAL than the slots need, and the last two segments.
    pub fn keeping_little_wal(self) -> ServerOptions {
        self.config("wal_keep_size = 0").config("min_wal_size = 2MB")
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
