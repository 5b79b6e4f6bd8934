//! What a receiver is told to do, by the command line and the configuration file together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::conninfo::Explicit;
use super::connstring::ConnectionString;
use super::durable_method::DurableMethod;
use super::full_disk::OnDiskFull;
use super::logging::LogFormat;
use super::password::PromptMode;
use crate::core::lsn::Lsn;
use crate::core::spin::SpinLimit;
use crate::core::wal::Verify;

/// How to receive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// An existing directory for the segment files.
    pub directory: PathBuf,
    /// Exit once WAL beyond this position is received.
    pub endpos: Option<Lsn>,
    /// Where to start if the directory holds no segment, not yet rounded to a segment.
    pub start_lsn: Option<Lsn>,
    /// Exit when the connection is lost.
    pub no_loop: bool,
    /// The longest time between two status messages; `None`: only when there is something to tell.
    pub status_interval: Option<Duration>,
    /// How long the server may be silent although pinged; `None`: for ever.
    pub receive_timeout: Option<Duration>,
    /// The replication slot to stream from.
    pub slot: Option<String>,
    /// What to do if there is no such slot.
    pub slot_mode: SlotMode,
    /// How to connect to ask about the slot: a connection string, or `same`.
    pub slot_watch: Option<ConnectionString>,
    /// Make WAL durable as soon as it arrives.
    pub synchronous: bool,
    /// Do not make files durable at all.
    pub no_sync: bool,
    /// Write through the page cache, not O_DIRECT.
    pub buffered: bool,
    /// What to do while there is no room in the directory.
    pub on_disk_full: OnDiskFull,
    /// Print a summary of latencies at exit.
    pub latency_report: bool,
    /// What of the received WAL is checked before it is acknowledged.
    pub verify: Verify,
    /// How WAL is made durable in live mode.
    pub durable_method: DurableMethod,
    /// Whether to wait for the next commit on the processor.
    pub spin: SpinLimit,
    /// A file to log histograms to.
    pub histogram_log: Option<PathBuf>,
    /// The histogram of the standard path that transactions are compared with.
    pub baseline: Option<PathBuf>,
    /// Where to serve metrics and health.
    pub listen: Option<SocketAddr>,
    /// How much and how to log.
    pub log: LogOptions,
    /// How to connect.
    pub connection: ConnectionOptions,
}

/// What to do if the replication slot does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotMode {
    /// It is an error: WAL may be missing that nobody knows of.
    Require,
    /// Create it, and say so.
    Create,
}

/// Which replication slot to create or drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotOptions {
    /// Its name.
    pub slot: String,
    /// A slot that exists already is no error when it is to be created.
    pub if_not_exists: bool,
    /// How much and how to log.
    pub log: LogOptions,
    /// How to connect.
    pub connection: ConnectionOptions,
}

/// How much and how to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Log each step, not only what needs attention.
    pub verbose: bool,
    /// Text or JSON.
    pub format: LogFormat,
}

/// What the command line says about the connection. Each option overrides the same keyword of `dbname`, as with
/// pg_receivewal (its documentation claims the reverse).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// What the configuration file says, as far as the rest does not replace it.
    pub file: Option<ConnectionString>,
    /// A connection string: keywords and values, or a URI.
    pub dbname: Option<ConnectionString>,
    /// Host name or socket directory.
    pub host: Option<String>,
    /// Port, not validated here.
    pub port: Option<String>,
    /// User name.
    pub username: Option<String>,
    /// Whether to ask for a password.
    pub password: PromptMode,
    /// The name this program was called by: the default `application_name`, which `synchronous_standby_names` may list.
    pub program_name: String,
}

impl ConnectionOptions {
    /// The same, for who resolves it.
    pub fn explicit(&self) -> Explicit {
        Explicit {
            file: self.file.clone(),
            dbname: self.dbname.clone(),
            host: self.host.clone(),
            port: self.port.clone(),
            username: self.username.clone(),
            program_name: self.program_name.clone(),
        }
    }
}
