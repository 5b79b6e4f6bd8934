//! The installed versions of PostgreSQL (see `tests/postgres.sh`).

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// The programs of one PostgreSQL version.
#[derive(Debug, Clone)]
pub struct Installation {
    bin: PathBuf,
}

impl Installation {
    /// The distribution's own PostgreSQL: the one most tests run on, and the only one sure to have every program.
    pub fn standard() -> Installation {
        let named = std::env::var_os("WALRING_PG").map(PathBuf::from);
        let bin = named
            .or_else(newest_of_distribution)
            .expect("PostgreSQL is missing: use tests/run.sh");
        Installation { bin }
    }

    /// Another version; `None`, and reported as skipped, where it is not installed.
    pub fn version(major: u32) -> Option<Installation> {
        let Some(bin) = std::env::var_os(format!("WALRING_PG_{major}")).map(PathBuf::from) else {
            super::skip::skip(&format!("everything on PostgreSQL {major}: it is not installed"));
            return None;
        };
        Some(Installation { bin })
    }

    /// The versions that a pg_receivewal is there for: the distribution's, the oldest and the newest tested.
    pub fn all() -> Vec<Installation> {
        [
            Some(Installation::standard()),
            Installation::version(13),
            Installation::version(18),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Every version whose WAL is looked at.
    pub fn with_wal() -> Vec<Installation> {
        let mut all = Installation::all();
        all.extend(Installation::version(17));
        all
    }

    /// A name for directories: the versions do not share templates.
    pub fn id(&self) -> String {
        self.bin.display().to_string().replace('/', "-")
    }

    /// A program of this version, or the distribution's where this version lacks it (13 has no clients).
    pub fn path(&self, program: &str) -> PathBuf {
        let own = self.bin.join(program);
        if own.exists() {
            own
        } else {
            Installation::standard().bin.join(program)
        }
    }

    /// Whether this version has the program itself, for those that read or speak one version only.
    pub fn has(&self, program: &str) -> bool {
        self.bin.join(program).exists()
    }

    /// A program of this version, without the environment's `PG…` variables and in English.
    pub fn command(&self, program: &str) -> Command {
        clean(Command::new(self.path(program)))
    }

    /// A program that runs as the servers' user: a server refuses to run as root.
    pub fn server_command(&self, program: &str) -> Command {
        let mut command = self.command(program);
        if let Some((uid, gid)) = server_user() {
            command.uid(uid).gid(gid);
        }
        command.current_dir("/");
        command
    }
}

/// The user and group servers run as when the tests run as root: that of Debian's package.
pub fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("read /etc/passwd");
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("there is no user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((
        fields[2].parse().expect("a user id"),
        fields[3].parse().expect("a group id"),
    ))
}

/// Removes what would change the meaning of a command line or of a message.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C");
    command
}

fn newest_of_distribution() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let majors = installed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Some(PathBuf::from(format!(
        "/usr/lib/postgresql/{}/bin",
        majors.max()?
    )))
}
